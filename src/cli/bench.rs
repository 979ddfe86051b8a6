//! `tripod bench`: flags of the load generator and of the comparison.

use std::time::Duration;

use anyhow::{Context, bail};

use crate::bench::{
    self, Failed, Observer, Op, Plan, Progress, Protocol, Stop, Summary, load,
    output::{self, grouped},
    plan, verify,
};

/// Measure requests per second of an etcd endpoint
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(flatten)]
    load: LoadArgs,
}

/// Flags of one run.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// Endpoints; connections are spread over them
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379",
        value_name = "URLS"
    )]
    endpoints: Vec<String>,
    /// What each request does
    #[arg(long, value_enum, default_value_t = Op::Put)]
    op: Op,
    /// How requests travel: gRPC, or JSON over HTTP/1.1 with one connection per client
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    protocol: Protocol,
    /// Clients; each has one request in flight
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// gRPC connections the clients share [default: one for ten clients]
    #[arg(long)]
    conns: Option<usize>,
    /// Threads that make load, 1 or 2
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Stop after this many measured requests
    #[arg(long, conflicts_with = "duration")]
    total: Option<u64>,
    /// Stop after measuring for this many seconds
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    duration: f64,
    /// Seconds before measuring starts
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    warmup: f64,
    /// Number of keys
    #[arg(long, default_value_t = 10_000)]
    key_space: u64,
    /// Size of a value in bytes
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    value_size: usize,
    /// Take keys in turn instead of at random
    #[arg(long)]
    sequential: bool,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of reads in a mixed workload, in percent
    #[arg(long, default_value_t = 50, value_name = "PERCENT")]
    read_percent: u8,
    /// Requests per second of all clients together [default: as fast as answers come]
    #[arg(long)]
    rate: Option<f64>,
    /// Send everything to the member that leads
    #[arg(long)]
    target_leader: bool,
    /// Do not write all keys before reading
    #[arg(long)]
    no_fill: bool,
    /// Do not read back what was written
    #[arg(long)]
    no_verify: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl LoadArgs {
    fn plan(&self) -> anyhow::Result<Plan> {
        let endpoints =
            self.endpoints.iter().map(|e| plan::authority(e)).collect::<Result<_, _>>()?;
        let plan = Plan {
            endpoints,
            clients: self.clients,
            connections: self.conns,
            threads: self.threads,
            warmup: seconds("warmup", self.warmup)?,
            stop: match self.total {
                Some(total) => Stop::Total(total),
                None => Stop::After(seconds("duration", self.duration)?),
            },
            op: self.op,
            read_percent: self.read_percent,
            protocol: self.protocol,
            key_space: self.key_space,
            value_bytes: self.value_size,
            sequential: self.sequential,
            seed: self.seed,
            rate: self.rate,
        };
        plan.validate()?;
        Ok(plan)
    }
}

fn seconds(name: &str, value: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("--{name} {value}"))
}

/// Runs the command. Blocks the calling thread; the load runs on threads of its own.
///
/// # Errors
/// Flags that make no sense, endpoints that cannot be reached, and figures that are not clean:
/// failed requests or values that differ when read back.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    run_load(&args.load)
}

fn run_load(args: &LoadArgs) -> anyhow::Result<()> {
    let mut plan = args.plan()?;
    if args.target_leader {
        let leader = verify::leader(&plan.endpoints)?;
        plan.endpoints = vec![leader.context("no endpoint says that it leads")?];
    }
    if plan.op.reads() && !args.no_fill {
        let mut shown = Shown::new(&plan, Stop::Total(plan.key_space), "writing keys");
        let filled = load::fill(&plan, &mut shown)?.summary;
        shown.progress.finish();
        if !filled.clean() {
            bail!("writing the keys failed: {}", reasons(&filled));
        }
    }
    let mut shown = Shown::new(&plan, plan.stop, "requests");
    let finished = bench::run(&plan, &mut shown)?;
    shown.progress.finish();
    let mut summary = finished.summary;
    if plan.op.writes() && !args.no_verify {
        summary.verification = Some(verify::run(&plan, &finished.witnesses)?);
    }
    if args.json {
        output::line(&serde_json::to_string_pretty(&summary)?);
    } else {
        output::line(&table(&summary));
    }
    if summary.clean() { Ok(()) } else { bail!("not clean: {}", reasons(&summary)) }
}

/// Shows the course of a run on standard error.
struct Shown {
    progress: Progress,
    stop: Stop,
    warmup: Duration,
    what: &'static str,
}

impl Shown {
    fn new(plan: &Plan, stop: Stop, what: &'static str) -> Self {
        let progress = Progress::new(1);
        progress.note(&format!(
            "{what}: {} clients, {} connections, {}",
            plan.clients,
            plan.connection_count(),
            plan.endpoints.join(" ")
        ));
        Self { progress, stop, warmup: plan.warmup, what }
    }
}

impl Observer for Shown {
    fn tick(&mut self, completed: u64, elapsed: Duration) {
        let (position, length) = match self.stop {
            Stop::Total(total) => (completed.min(total), total),
            Stop::After(time) => {
                let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                (ms(elapsed), ms(self.warmup + time))
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "shown to a person")]
        let rate = completed as f64 / elapsed.as_secs_f64().max(0.001);
        let what = self.what;
        self.progress.set(position, length, || format!("{what}, {}/s", grouped(rate)));
    }
}

fn reasons(summary: &Summary) -> String {
    let mut reasons: Vec<String> = summary
        .failures
        .iter()
        .map(|Failed { kind, count, example }| format!("{count} x {kind} ({example})"))
        .collect();
    if summary.short_reads > 0 {
        reasons.push(format!("{} reads found no value", summary.short_reads));
    }
    if summary.connections_lost > 0 {
        reasons.push(format!("{} connections lost", summary.connections_lost));
    }
    if let Some(verified) = summary.verification.as_ref().filter(|v| v.mismatches > 0) {
        let example = verified.example.as_deref().unwrap_or_default();
        reasons.push(format!("{} wrong values read back ({example})", verified.mismatches));
    }
    reasons.join("; ")
}

fn table(summary: &Summary) -> String {
    let latency = summary.latency_us;
    let ms = |us: f64| format!("{:.3}", us / 1e3);
    let name = |value: &dyn clap_name::Name| value.name();
    let mut rows = vec![
        vec!["op".into(), name(&summary.op)],
        vec!["protocol".into(), name(&summary.protocol)],
        vec!["endpoints".into(), summary.endpoints.join(" ")],
        vec![
            "clients / connections".into(),
            format!("{} / {}", summary.clients, summary.connections),
        ],
        vec![
            "measured".into(),
            format!("{} requests in {:.2} s", summary.requests, summary.seconds),
        ],
        vec!["requests per second".into(), grouped(summary.per_second)],
        vec![
            "latency ms p50 p90 p99 p99.9 max".into(),
            [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max].map(ms).join("  "),
        ],
        vec!["failed".into(), summary.failed.to_string()],
        vec![
            "client CPU us per request".into(),
            summary.client_cpu_us_per_request.map_or("-".into(), |us| format!("{us:.2}")),
        ],
    ];
    if let Some(verified) = &summary.verification {
        let text = format!("{} keys, {} mismatches", verified.checked, verified.mismatches);
        rows.push(vec!["read back".into(), text]);
    }
    output::table(&["result", ""], &rows)
}

/// Names of flag values as they are typed.
mod clap_name {
    use clap::ValueEnum;

    pub(super) trait Name {
        fn name(&self) -> String;
    }

    impl<T: ValueEnum> Name for T {
        fn name(&self) -> String {
            self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan_of(line: &str) -> anyhow::Result<Plan> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Line::try_parse_from(words)?.bench.load.plan()
    }

    #[test]
    fn flags_become_a_plan() {
        let plan = plan_of(
            "--endpoints http://127.0.0.1:1,127.0.0.1:2 --clients 1000 --op serializable \
             --protocol http --total 5 --key-space 7 --value-size 100 --seed 9 --rate 50",
        )
        .unwrap();
        assert_eq!(plan.endpoints, ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!((plan.clients, plan.connection_count()), (1000, 1000));
        assert_eq!((plan.op, plan.stop), (Op::Serializable, Stop::Total(5)));
        assert_eq!((plan.key_space, plan.value_bytes, plan.seed), (7, 100, 9));
        assert_eq!(plan.rate, Some(50.0));
    }

    #[test]
    fn flags_that_make_no_sense_are_refused() {
        for line in [
            "--clients 0",
            "--clients 4 --conns 5",
            "--op sideways",
            "--protocol ftp",
            "--endpoints https://127.0.0.1:1",
            "--duration -1",
            "--total 5 --duration 3",
            "--threads 3",
            "--rate 0",
        ] {
            assert!(plan_of(line).is_err(), "{line}");
        }
    }
}
