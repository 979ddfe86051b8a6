//! Medians, ratios and how they are shown.

use serde::Serialize;

use super::{
    Comparison, Environment, Sample,
    rows::{Group, Row, RowOp},
};
use crate::bench::{
    output::{self, grouped},
    stats::median,
};

/// Index of etcd's samples in [`Line::sides`].
const ETCD: usize = 0;
/// Index of the candidate's.
const CANDIDATE: usize = 1;

/// The outcome of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub environment: Environment,
    /// Rounds asked for.
    pub rounds: usize,
    /// Seconds measured per load row.
    pub seconds: f64,
    /// One line per row.
    pub rows: Vec<Line>,
}

/// One row with all its samples.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Which row.
    #[serde(flatten)]
    pub row: Row,
    /// Unit of the values.
    pub unit: &'static str,
    /// Whether a larger value is better.
    pub more_is_better: bool,
    /// etcd, candidate.
    pub sides: [SideFigures; 2],
    /// Median, smallest and largest of candidate / etcd within rounds.
    pub ratio: Option<[f64; 3]>,
}

/// One side of a row.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SideFigures {
    /// Median of the values.
    pub median: Option<f64>,
    /// Median of the median latencies, in microseconds.
    pub p50_us: Option<f64>,
    /// Median of the 99th percentiles, in microseconds.
    pub p99_us: Option<f64>,
    /// Median CPU of the servers per request, in microseconds.
    pub server_cpu_us: Option<f64>,
    /// Median CPU of the generator per request, in microseconds.
    pub client_cpu_us: Option<f64>,
    /// Medians of further figures, by name.
    pub more: Vec<(&'static str, f64)>,
    /// Samples with a fault.
    pub faulty: usize,
    /// Every measurement.
    pub samples: Vec<Sample>,
}

impl SideFigures {
    fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
        let of = |value: &dyn Fn(&Sample) -> Option<f64>| {
            median(&self.samples.iter().filter_map(value).collect::<Vec<_>>())
        };
        self.median = of(&|s| Some(s.value));
        self.p50_us = of(&|s| s.p50_us);
        self.p99_us = of(&|s| s.p99_us);
        self.server_cpu_us = of(&|s| s.server_cpu_us);
        self.client_cpu_us = of(&|s| s.client_cpu_us);
        let names: Vec<&'static str> =
            self.samples.first().map(|s| s.more.iter().map(|m| m.0).collect()).unwrap_or_default();
        let named = |s: &Sample, name| s.more.iter().find(|m| m.0 == name).map(|m| m.1);
        self.more =
            names.into_iter().filter_map(|name| Some((name, of(&|s| named(s, name))?))).collect();
        self.faulty = self.samples.iter().filter(|s| !s.faults.is_empty()).count();
    }
}

impl Report {
    pub(super) fn new(environment: Environment, comparison: &Comparison, groups: &[Group]) -> Self {
        let line = |row: &Row| {
            let (unit, more_is_better) = row.op.unit();
            Line { row: row.clone(), unit, more_is_better, sides: Default::default(), ratio: None }
        };
        Self {
            environment,
            rounds: comparison.rounds,
            seconds: comparison.seconds.as_secs_f64(),
            rows: groups.iter().flat_map(|group| &group.rows).map(line).collect(),
        }
    }

    pub(super) fn add(&mut self, row: &Row, side: usize, sample: Sample) {
        let Some(line) = self.rows.iter_mut().find(|line| line.row == *row) else { return };
        line.sides[side].add(sample);
        line.ratio = ratio(&line.sides[ETCD].samples, &line.sides[CANDIDATE].samples);
    }

    /// Faults of all samples, one line each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = vec![];
        for line in &self.rows {
            for (side, name) in line.sides.iter().zip(["etcd", "candidate"]) {
                for sample in &side.samples {
                    faults.extend(sample.faults.iter().map(|fault| {
                        format!("{}: {name}, round {}: {fault}", title(&line.row), sample.round + 1)
                    }));
                }
            }
        }
        faults
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let environment = &self.environment;
        let mut text = format!(
            "{}: {} cores ({}), kernel {}, {}, fdatasync {} us, load average {}\n",
            environment.date,
            environment.cores,
            environment.cpu,
            environment.kernel,
            environment.disk,
            number(environment.fdatasync_us, 0),
            number(environment.load_average, 2),
        );
        for (side, version) in &environment.versions {
            text.push_str(&format!("{side}: {version}\n"));
        }
        text.push_str(&format!(
            "{} round(s) of {} s, medians; ratio = candidate / etcd, median (smallest-largest)\n\
             command: {}\n",
            self.rounds, self.seconds, environment.command
        ));
        if environment.volatile_disk() {
            text.push_str("WARNING: the data is in memory, so that syncing costs nothing\n");
        }
        for part in [self.loads(), self.memory(), self.watches()].into_iter().flatten() {
            text.push('\n');
            text.push_str(&part);
            text.push('\n');
        }
        let faults = self.faults();
        if !faults.is_empty() {
            text.push_str(&format!(
                "\nFAULTS: these figures are not clean\n{}\n",
                faults.join("\n")
            ));
        }
        text.pop();
        text
    }

    fn lines(&self, wanted: impl Fn(RowOp) -> bool) -> Vec<&Line> {
        self.rows.iter().filter(|line| wanted(line.row.op)).collect()
    }

    fn loads(&self) -> Option<String> {
        let lines = self.lines(|op| op.load().is_some());
        let head = [
            "members",
            "clients",
            "protocol",
            "op",
            "etcd/s",
            "candidate/s",
            "ratio",
            "",
            "p50 ms etcd",
            "cand.",
            "p99 ms etcd",
            "cand.",
            "server us etcd",
            "cand.",
            "client us etcd",
            "cand.",
            "faults",
        ];
        let row = |line: &&Line| {
            let [etcd, candidate] = &line.sides;
            let ms = |us: Option<f64>| number(us.map(|us| us / 1e3), 2);
            vec![
                line.row.members.to_string(),
                line.row.clients.to_string(),
                word(line.row.protocol),
                word(line.row.op),
                etcd.median.map_or("-".into(), grouped),
                candidate.median.map_or("-".into(), grouped),
                number(line.ratio.map(|r| r[0]), 2),
                spread(line.ratio),
                ms(etcd.p50_us),
                ms(candidate.p50_us),
                ms(etcd.p99_us),
                ms(candidate.p99_us),
                number(etcd.server_cpu_us, 1),
                number(candidate.server_cpu_us, 1),
                number(etcd.client_cpu_us, 1),
                number(candidate.client_cpu_us, 1),
                (etcd.faulty + candidate.faulty).to_string(),
            ]
        };
        (!lines.is_empty())
            .then(|| output::table(&head, &lines.iter().map(row).collect::<Vec<_>>()))
    }

    fn memory(&self) -> Option<String> {
        let lines = self.lines(|op| op == RowOp::Memory);
        let head = ["memory after the writes", "etcd", "candidate", "ratio", ""];
        let mb = |bytes: Option<f64>| number(bytes.map(|b| b / 1e6), 1);
        let mut rows = vec![];
        for line in &lines {
            rows.push(vec![
                "resident MB".into(),
                mb(line.sides[ETCD].median),
                mb(line.sides[CANDIDATE].median),
                number(line.ratio.map(|r| r[0]), 2),
                spread(line.ratio),
            ]);
            rows.extend(more_rows(
                line,
                &[
                    ("anonymous_bytes", "of it anonymous MB", 1e6, 1),
                    ("peak_bytes", "peak MB", 1e6, 1),
                    ("puts_per_second", "puts per second", 1.0, 0),
                ],
            ));
        }
        (!lines.is_empty()).then(|| output::table(&head, &rows))
    }

    fn watches(&self) -> Option<String> {
        let lines = self.lines(|op| op == RowOp::Watch);
        let head = ["watch fan-out", "etcd", "candidate", "ratio", ""];
        let mut rows = vec![];
        for line in &lines {
            rows.push(vec![
                "delivery CPU us per event".into(),
                number(line.sides[ETCD].median, 2),
                number(line.sides[CANDIDATE].median, 2),
                number(line.ratio.map(|r| r[0]), 2),
                spread(line.ratio),
            ]);
            rows.extend(more_rows(
                line,
                &[
                    ("watchers", "watchers", 1.0, 0),
                    ("streams", "streams", 1.0, 0),
                    ("keys", "keys, one put each second", 1.0, 0),
                    ("delivered_per_second", "events per second", 1.0, 0),
                    ("server_cpu_percent", "server CPU % of a core", 1.0, 1),
                    ("server_cpu_percent_without_watchers", "the same without watchers", 1.0, 1),
                ],
            ));
            let ms = |us: Option<f64>| number(us.map(|us| us / 1e3), 2);
            for (name, of) in [
                ("delivery p50 ms", (|s| s.p50_us) as fn(&SideFigures) -> Option<f64>),
                ("delivery p99 ms", |s| s.p99_us),
            ] {
                let [etcd, candidate] = &line.sides;
                rows.push(vec![
                    name.into(),
                    ms(of(etcd)),
                    ms(of(candidate)),
                    String::new(),
                    String::new(),
                ]);
            }
        }
        (!lines.is_empty()).then(|| output::table(&head, &rows))
    }
}

fn more_rows(line: &Line, names: &[(&str, &str, f64, usize)]) -> Vec<Vec<String>> {
    let of = |side: usize, name: &str| {
        line.sides[side].more.iter().find(|more| more.0 == name).map(|more| more.1)
    };
    names
        .iter()
        .map(|&(name, title, scale, digits)| {
            let shown = |side| number(of(side, name).map(|value| value / scale), digits);
            vec![title.into(), shown(ETCD), shown(CANDIDATE), String::new(), String::new()]
        })
        .collect()
}

/// Ratios within rounds: median, smallest, largest.
fn ratio(etcd: &[Sample], candidate: &[Sample]) -> Option<[f64; 3]> {
    let ratios: Vec<f64> = etcd
        .iter()
        .filter_map(|e| candidate.iter().find(|c| c.round == e.round).map(|c| c.value / e.value))
        .filter(|ratio| ratio.is_finite())
        .collect();
    let smallest = ratios.iter().copied().reduce(f64::min)?;
    let largest = ratios.iter().copied().reduce(f64::max)?;
    Some([median(&ratios)?, smallest, largest])
}

fn spread(ratio: Option<[f64; 3]>) -> String {
    ratio.map_or(String::new(), |[_, low, high]| format!("({low:.2}-{high:.2})"))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.filter(|v| v.is_finite()).map_or("-".into(), |v| format!("{v:.digits$}"))
}

fn word(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

fn title(row: &Row) -> String {
    format!(
        "members={},clients={},op={},protocol={}",
        row.members,
        row.clients,
        word(row.op),
        word(row.protocol)
    )
}

/// A sample as a line of progress.
pub(super) fn one_line(row: &Row, sample: &Sample) -> String {
    let (unit, _) = row.op.unit();
    let fault = sample.faults.first().map(|fault| format!(" FAULT {fault}")).unwrap_or_default();
    format!("{} {}: {:.1} {unit}{fault}", word(row.protocol), word(row.op), sample.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: usize, value: f64) -> Sample {
        Sample { round, value, ..Sample::default() }
    }

    #[test]
    fn ratios_pair_samples_of_one_round() {
        let etcd = [sample(0, 100.0), sample(1, 50.0), sample(2, 10.0)];
        let candidate = [sample(2, 40.0), sample(0, 200.0), sample(1, 150.0)];
        assert_eq!(ratio(&etcd, &candidate), Some([3.0, 2.0, 4.0]));
        assert_eq!(ratio(&etcd, &[]), None);
        assert_eq!(ratio(&[sample(0, 0.0)], &[sample(0, 1.0)]), None);
    }

    #[test]
    fn medians_are_kept_up_and_faults_counted() {
        let mut figures = SideFigures::default();
        for (round, value) in [30.0, 10.0, 20.0].into_iter().enumerate() {
            let more = vec![("peak_bytes", value * 2.0)];
            let faults = if round == 1 { vec!["x".to_owned()] } else { vec![] };
            figures.add(Sample { p50_us: Some(value), more, faults, ..sample(round, value) });
        }
        assert_eq!(
            (figures.median, figures.p50_us, figures.p99_us),
            (Some(20.0), Some(20.0), None)
        );
        assert_eq!((figures.more, figures.faulty), (vec![("peak_bytes", 40.0)], 1));
    }
}
