//! `tripod bench`: flags of the load generator and of the comparison.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};

use crate::bench::{
    self, Observer, Op, Plan, Progress, Protocol, Stop, Summary,
    compare::{self, Comparison, Filter},
    load,
    output::{self, grouped},
    plan::{self, Encryption, TlsFiles},
    verify,
    watch::WatchPlan,
};

/// Measure requests per second of an etcd endpoint
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    /// Compare with the real etcd, both started afresh in alternation
    Compare(Box<CompareArgs>),
}

/// Flags of the comparison.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The real etcd's binary [default: the one scripts/install-etcd.sh made here, else on PATH]
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,
    /// The program compared with it, run as `PATH serve` [default: this program]
    #[arg(long, value_name = "PATH")]
    tripod: Option<PathBuf>,
    /// Command of the candidate instead; words split at blanks, `{flags}` where etcd's flags go
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "tripod")]
    candidate_cmd: Option<String>,
    /// Times each row is measured on either side
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rows: members=, clients=, op= (put get serializable txn mixed memory watch), protocol=;
    /// a name given twice means either
    #[arg(long, value_name = "NAME=VALUE,...", default_value = "")]
    only: Vec<String>,
    /// Seconds measured per row
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
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
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that make load, 1 or 2
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Writes before memory is measured
    #[arg(long, default_value_t = 1_000_000)]
    memory_puts: u64,
    /// Watchers of the watch row
    #[arg(long, default_value_t = 10_000)]
    watchers: usize,
    /// Keys of the watch row, each put once a second
    #[arg(long, default_value_t = 100)]
    watch_keys: u64,
    /// Seconds of the watch row, without and with watchers each
    #[arg(long, default_value_t = 5)]
    watch_seconds: u32,
    /// Folder for data directories; choose the disk you mean to measure
    #[arg(long, value_name = "FOLDER", default_value_os_t = compare::default_dir())]
    dir: PathBuf,
    /// Seconds a cluster may take to get healthy
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    start_deadline: f64,
    /// Encrypt clients and peers of both sides, with the same certificates
    #[arg(long)]
    tls: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Also write JSON into this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Most rounds of a comparison.
const ROUNDS_MAX: usize = 1_000;
/// Most watchers, keys and seconds of the watch row.
const WATCHERS_MAX: usize = 1_000_000;
const WATCH_KEYS_MAX: u64 = 10_000;
const WATCH_SECONDS_MAX: u32 = 3_600;

impl CompareArgs {
    fn comparison(&self) -> anyhow::Result<Comparison> {
        if !(1..=ROUNDS_MAX).contains(&self.rounds) {
            bail!("--rounds {}: between 1 and {ROUNDS_MAX}", self.rounds);
        }
        if !(1..=WATCHERS_MAX).contains(&self.watchers)
            || !(1..=WATCH_KEYS_MAX).contains(&self.watch_keys)
            || !(1..=WATCH_SECONDS_MAX).contains(&self.watch_seconds)
        {
            bail!(
                "the watch row takes 1-{WATCHERS_MAX} watchers, 1-{WATCH_KEYS_MAX} keys, 1-{WATCH_SECONDS_MAX} s"
            );
        }
        let serve = |path: &Path| vec![path.display().to_string(), "serve".into()];
        let candidate = match (&self.candidate_cmd, &self.tripod) {
            (Some(template), _) => template.split_whitespace().map(str::to_owned).collect(),
            (None, Some(path)) => serve(path),
            (None, None) => serve(&std::env::current_exe()?),
        };
        Ok(Comparison {
            etcd: compare::find_etcd(self.etcd.as_deref())?,
            candidate,
            rounds: self.rounds,
            filter: self.only.join(",").parse::<Filter>()?,
            seconds: seconds("duration", self.duration)?,
            warmup: seconds("warmup", self.warmup)?,
            key_space: self.key_space,
            value_bytes: self.value_size,
            seed: self.seed,
            threads: self.threads,
            memory_puts: self.memory_puts,
            watch: WatchPlan {
                watchers: self.watchers,
                keys: self.watch_keys,
                seconds: self.watch_seconds,
                value_bytes: self.value_size.max(WATCH_VALUE_BYTES_MIN),
                seed: self.seed,
                ..WatchPlan::default()
            },
            dir: self.dir.clone(),
            start_deadline: seconds("start-deadline", self.start_deadline)?,
            tls: self.tls,
        })
    }
}

/// Watch events tell their order in their values, which takes this room.
const WATCH_VALUE_BYTES_MIN: usize = 24;

fn run_compare(args: &CompareArgs) -> anyhow::Result<()> {
    let comparison = args.comparison()?;
    let mut progress = Progress::new(1);
    let report = compare::run(&comparison, &mut progress)?;
    let json = serde_json::to_string_pretty(&report)?;
    if let Some(path) = &args.out {
        fs::write(path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    output::line(&if args.json { json } else { report.text() });
    let faults = report.faults();
    if faults.is_empty() { Ok(()) } else { bail!("{} figures are not clean", faults.len()) }
}

/// Certificates for https endpoints.
#[derive(Debug, Default, clap::Args)]
pub struct TlsArgs {
    /// Authorities of the servers' certificates [default: the system's]
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Client certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Do not verify the servers' certificates
    #[arg(long)]
    insecure_skip_tls_verify: bool,
}

impl TlsArgs {
    /// How to encrypt connections to `endpoints`.
    fn encryption(&self, endpoints: &[String]) -> anyhow::Result<Option<Encryption>> {
        let secure = endpoints.iter().filter(|url| url.starts_with("https://")).count();
        if secure == 0 {
            return Ok(None);
        }
        if secure != endpoints.len() {
            bail!("--endpoints: give all of them with https:// or none");
        }
        let files = TlsFiles {
            cacert: self.cacert.clone().unwrap_or_default(),
            cert: self.cert.clone().unwrap_or_default(),
            key: self.key.clone().unwrap_or_default(),
            skip_verify: self.insecure_skip_tls_verify,
        };
        Ok(Some(Encryption::new(&files)?))
    }
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
    #[command(flatten)]
    tls: TlsArgs,
}

impl LoadArgs {
    fn plan(&self) -> anyhow::Result<Plan> {
        let endpoints =
            self.endpoints.iter().map(|e| plan::authority(e)).collect::<Result<_, _>>()?;
        let plan = Plan {
            tls: self.tls.encryption(&self.endpoints)?,
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
    match &args.command {
        Some(BenchCommand::Compare(args)) => run_compare(args),
        None => run_load(&args.load),
    }
}

fn run_load(args: &LoadArgs) -> anyhow::Result<()> {
    let mut plan = args.plan()?;
    if args.target_leader {
        let leader = verify::leader(&plan)?;
        plan.endpoints = vec![leader.context("no endpoint says that it leads")?];
    }
    if plan.op.reads() && !args.no_fill {
        let mut shown = Shown::new(&plan, Stop::Total(plan.key_space), "writing keys");
        let filled = load::fill(&plan, &mut shown)?.summary;
        shown.progress.finish();
        if !filled.clean() {
            bail!("writing the keys failed: {}", filled.reasons().join("; "));
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
    if summary.clean() { Ok(()) } else { bail!("not clean: {}", summary.reasons().join("; ")) }
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
            "--endpoints https://127.0.0.1:1 --cacert missing.pem",
            "--endpoints https://127.0.0.1:1,http://127.0.0.1:2",
            "--duration -1",
            "--total 5 --duration 3",
            "--threads 3",
            "--rate 0",
        ] {
            assert!(plan_of(line).is_err(), "{line}");
        }
    }
}
