//! The real etcd against a candidate, in alternation on the same machine.
//!
//! Each round starts either side afresh: new data directory, new ports, the same flags, fsync on.
//! Which side goes first changes from round to round. A row's figure is the median of its rounds, and its
//! ratio the median of the ratios within rounds, so that slow drift of the machine cancels out.
//!
//! Invariants:
//! - the sides never run at the same time;
//! - every process started is ended: at the end of its round, on an error or panic, and on Ctrl-C or
//!   SIGTERM;
//! - a run with failed requests or wrong values is marked, never shown as a clean figure.

mod certificates;
mod environment;
mod etcd;
mod report;
mod rows;
mod server;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    load::{self, LoadError, Observer},
    plan::{Encryption, Op, Plan, PlanError, Stop},
    process::{self, Memory},
    progress::Progress,
    verify::{self, RpcError},
    watch::{self, WatchPlan},
};
use certificates::Certificates;
pub use environment::Environment;
pub use etcd::{EtcdError, find as find_etcd};
pub use report::Report;
use rows::Group;
pub use rows::{Filter, FilterError, Row, RowOp};
use server::{Cluster, Supervisor};
pub use server::{Side, StartError};

/// Clients that write the keys before reads, whatever the row measures.
const FILL_CLIENTS: usize = 64;
/// Clients that write in the memory row.
const MEMORY_CLIENTS: usize = 256;
/// Keys of the memory row.
const MEMORY_KEYS: u64 = 100_000;
/// Value size of the memory row in bytes.
const MEMORY_VALUE_BYTES: usize = 256;
/// Rest after the writes of the memory row, so that background work counts as little as possible.
const MEMORY_REST: Duration = Duration::from_secs(5);
/// Rest after a start, so that the start itself is not measured.
const START_REST: Duration = Duration::from_millis(500);

/// What a comparison does.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Binary of the real etcd.
    pub etcd: PathBuf,
    /// Words of the candidate's command, with `{flags}` where etcd's flags go if not at the end.
    pub candidate: Vec<String>,
    /// Times each row is measured on either side.
    pub rounds: usize,
    /// Which rows.
    pub filter: Filter,
    /// Measured time of a load row.
    pub seconds: Duration,
    /// Time before measuring starts.
    pub warmup: Duration,
    /// Keys of load rows.
    pub key_space: u64,
    /// Value size of load rows in bytes.
    pub value_bytes: usize,
    /// Seed of keys and values.
    pub seed: u64,
    /// Threads that make load.
    pub threads: usize,
    /// Writes of the memory row.
    pub memory_puts: u64,
    /// The watch row.
    pub watch: WatchPlan,
    /// Folder in which data directories are made.
    pub dir: PathBuf,
    /// Time a cluster may take to get healthy.
    pub start_deadline: Duration,
    /// Encrypt clients and peers.
    pub tls: bool,
}

/// Why a comparison could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The real etcd is not to be had.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// A server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Load could not be made.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An endpoint failed outside of load.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// A plan makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The certificates of the run cannot be made.
    #[error(transparent)]
    Tls(#[from] crate::tls::Error),
    /// Nothing to measure.
    #[error("no row matches the selection")]
    NoRow,
}

/// One measurement of one row on one side.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Sample {
    /// Round, from 0.
    pub round: usize,
    /// What the row measures: requests per second, bytes, or microseconds of CPU.
    pub value: f64,
    /// Median latency in microseconds.
    pub p50_us: Option<f64>,
    /// 99th percentile of latency in microseconds.
    pub p99_us: Option<f64>,
    /// CPU of all servers per request in microseconds.
    pub server_cpu_us: Option<f64>,
    /// CPU of the generator per request in microseconds.
    pub client_cpu_us: Option<f64>,
    /// Further figures by name.
    pub more: Vec<(&'static str, f64)>,
    /// What makes the figure doubtful.
    pub faults: Vec<String>,
}

/// Runs the comparison.
///
/// # Errors
/// What keeps either side from being measured at all. Failed requests are faults of samples.
pub fn run(comparison: &Comparison, progress: &mut Progress) -> Result<Report, CompareError> {
    etcd::check(&comparison.etcd)?;
    let groups = rows::groups(&comparison.filter);
    if groups.is_empty() {
        return Err(CompareError::NoRow);
    }
    let supervisor = Supervisor::new()?;
    let certificates = comparison.tls.then(|| Certificates::make(&comparison.dir)).transpose()?;
    let sides = [Side::etcd(&comparison.etcd), Side::candidate(&comparison.candidate)?];
    let environment = Environment::read(&comparison.dir, &sides, comparison.seed);
    let mut report = Report::new(environment, comparison, &groups);
    let steps = comparison.rounds * groups.len() * sides.len();
    let mut step = 0;
    for round in 0..comparison.rounds {
        for group in &groups {
            for turn in 0..sides.len() {
                let index = (turn + round) % sides.len();
                let side = &sides[index];
                let text =
                    format!("round {} of {}, {}, {group}", round + 1, comparison.rounds, side.name);
                progress.set(as_u64(step), as_u64(steps), || text.clone());
                let mut bench = Bench {
                    comparison,
                    supervisor: &supervisor,
                    certificates: certificates.as_ref(),
                    side,
                    round,
                    progress,
                };
                for (row, sample) in bench.group(group)? {
                    bench.progress.note(&format!("{text}: {}", report::one_line(&row, &sample)));
                    report.add(&row, index, sample);
                }
                step += 1;
            }
        }
    }
    progress.finish();
    Ok(report)
}

fn as_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// One side in one round.
struct Bench<'a> {
    comparison: &'a Comparison,
    supervisor: &'a Supervisor,
    certificates: Option<&'a Certificates>,
    side: &'a Side,
    round: usize,
    progress: &'a mut Progress,
}

impl Bench<'_> {
    fn group(&mut self, group: &Group) -> Result<Vec<(Row, Sample)>, CompareError> {
        let cluster = Cluster::start(
            self.supervisor,
            self.side,
            group.members,
            self.certificates,
            &self.comparison.dir,
            self.comparison.start_deadline,
        )?;
        std::thread::sleep(START_REST);
        match group.rows.first().map(|row| row.op) {
            Some(RowOp::Memory) => self.memory(group, &cluster),
            Some(RowOp::Watch) => self.watch(group, &cluster),
            _ => self.loads(group, &cluster),
        }
    }

    fn encryption(&self) -> Option<Encryption> {
        self.certificates.map(|certificates| certificates.encryption.clone())
    }

    fn plan(&self, cluster: &Cluster, row: &Row, op: Op) -> Plan {
        Plan {
            endpoints: cluster.endpoints().to_vec(),
            tls: self.encryption(),
            clients: row.clients,
            threads: self.comparison.threads,
            warmup: self.comparison.warmup,
            stop: Stop::After(self.comparison.seconds),
            op,
            protocol: row.protocol,
            key_space: self.comparison.key_space,
            value_bytes: self.comparison.value_bytes,
            seed: self.comparison.seed,
            ..Plan::default()
        }
    }

    fn loads(&self, group: &Group, cluster: &Cluster) -> Result<Vec<(Row, Sample)>, CompareError> {
        let mut samples = vec![];
        let mut faults = vec![];
        if group.rows.iter().any(|row| row.op.load().is_some_and(Op::reads)) {
            let plan = Plan {
                clients: FILL_CLIENTS,
                endpoints: cluster.endpoints().to_vec(),
                tls: self.encryption(),
                key_space: self.comparison.key_space,
                value_bytes: self.comparison.value_bytes,
                seed: self.comparison.seed,
                ..Plan::default()
            };
            faults = load::fill(&plan, &mut ())?.summary.reasons();
        }
        for row in &group.rows {
            let Some(op) = row.op.load() else { continue };
            let mut sample = self.load(cluster, &self.plan(cluster, row, op))?;
            sample.faults.extend(faults.iter().cloned());
            samples.push((row.clone(), sample));
        }
        Ok(samples)
    }

    fn load(&self, cluster: &Cluster, plan: &Plan) -> Result<Sample, CompareError> {
        let mut meter = Meter { pids: cluster.pids(), opened: None, closed: None };
        let finished = load::run(plan, &mut meter)?;
        let mut summary = finished.summary;
        if plan.op.writes() {
            summary.verification = Some(verify::run(plan, &finished.witnesses)?);
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let requests = summary.requests as f64;
        Ok(Sample {
            round: self.round,
            value: summary.per_second,
            p50_us: Some(summary.latency_us.p50),
            p99_us: Some(summary.latency_us.p99),
            server_cpu_us: meter.used().map(|used| used.as_secs_f64() * 1e6 / requests),
            client_cpu_us: summary.client_cpu_us_per_request,
            more: vec![],
            faults: summary.reasons(),
        })
    }

    fn memory(&self, group: &Group, cluster: &Cluster) -> Result<Vec<(Row, Sample)>, CompareError> {
        let Some(row) = group.rows.first() else { return Ok(vec![]) };
        let plan = Plan {
            clients: MEMORY_CLIENTS,
            warmup: Duration::ZERO,
            stop: Stop::Total(self.comparison.memory_puts),
            key_space: MEMORY_KEYS,
            value_bytes: MEMORY_VALUE_BYTES,
            sequential: true,
            ..self.plan(cluster, row, Op::Put)
        };
        let mut sample = self.load(cluster, &plan)?;
        std::thread::sleep(MEMORY_REST);
        let memory: Vec<Memory> =
            cluster.pids().into_iter().filter_map(process::memory_of).collect();
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^52")]
        let total = |of: fn(&Memory) -> u64| memory.iter().map(of).sum::<u64>() as f64;
        if memory.is_empty() {
            sample.faults.push("memory cannot be read".into());
        }
        sample.more = vec![
            ("puts_per_second", sample.value),
            ("anonymous_bytes", total(|m| m.anonymous_bytes)),
            ("peak_bytes", total(|m| m.peak_bytes)),
        ];
        sample.value = total(|m| m.resident_bytes);
        Ok(vec![(row.clone(), sample)])
    }

    fn watch(&self, group: &Group, cluster: &Cluster) -> Result<Vec<(Row, Sample)>, CompareError> {
        let Some(row) = group.rows.first() else { return Ok(vec![]) };
        let plan = WatchPlan {
            endpoints: cluster.endpoints().to_vec(),
            tls: self.encryption(),
            ..self.comparison.watch.clone()
        };
        let pids = cluster.pids();
        let summary = watch::run(&plan, &|| cpu_of_all(&pids))?;
        let sample = Sample {
            round: self.round,
            value: summary.server_cpu_us_per_delivery.unwrap_or(f64::NAN),
            p50_us: Some(summary.latency_us.p50),
            p99_us: Some(summary.latency_us.p99),
            server_cpu_us: None,
            client_cpu_us: None,
            more: summary.figures(),
            faults: summary.faults(),
        };
        Ok(vec![(row.clone(), sample)])
    }
}

fn cpu_of_all(pids: &[u32]) -> Option<Duration> {
    pids.iter().map(|&pid| process::cpu_of(pid)).sum()
}

/// Measures the servers' CPU in the measured window.
struct Meter {
    pids: Vec<u32>,
    opened: Option<Duration>,
    closed: Option<Duration>,
}

impl Meter {
    fn used(&self) -> Option<Duration> {
        self.closed?.checked_sub(self.opened?)
    }
}

impl Observer for Meter {
    fn opened(&mut self) {
        self.opened = cpu_of_all(&self.pids);
    }

    fn closed(&mut self) {
        self.closed = cpu_of_all(&self.pids);
    }
}

/// The folder for data directories if none is named: beside the build, on the disk of the sources.
pub fn default_dir() -> PathBuf {
    Path::new("target").join("bench-data")
}
