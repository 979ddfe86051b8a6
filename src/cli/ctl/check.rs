//! check perf, check datascale: how a cluster does under etcd's standard loads.
//!
//! Loads, verdicts and their texts are etcdctl's. The bar goes to standard error.
//! Source: etcdctl 3.5.1, observed.

mod load;
mod memory;

use std::time::Duration;

use clap::{Args, Subcommand};

use self::load::Outcome;
use super::{
    Session,
    args::Global,
    client::{Client, Effect},
    exit::{BAD_FEATURE, Exit, FAILED, INVALID_INPUT},
};
use crate::api::proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, DeleteRangeRequest, RangeRequest, kv_client::KvClient,
    maintenance_client::MaintenanceClient,
};

/// Bytes of a megabyte, as etcdctl counts.
const MEGABYTE: f64 = 1024.0 * 1024.0;
/// Slowest put that passes, in seconds.
const SLOWEST_MAX_S: f64 = 0.5;
/// Spread of the latencies that passes, in seconds.
const SPREAD_MAX_S: f64 = 0.1;
/// Part of the asked rate that does not pass yet.
const RATE_PART: f64 = 0.9;

#[derive(Debug, Subcommand)]
pub(super) enum CheckCommand {
    /// Whether the cluster takes writes fast enough
    Perf {
        #[command(flatten)]
        args: CheckArgs,
        /// Prefix of the keys written
        #[arg(long, default_value = "/etcdctl-check-perf/")]
        prefix: String,
        /// Seconds of load
        #[arg(long, default_value_t = 60, hide = true, value_name = "SECONDS")]
        seconds: u64,
    },
    /// How much memory keys take at the first server
    Datascale {
        #[command(flatten)]
        args: CheckArgs,
        /// Prefix of the keys written
        #[arg(long, default_value = "/etcdctl-check-datascale/")]
        prefix: String,
        /// Keys instead of those of the load
        #[arg(long, hide = true, value_name = "N")]
        keys: Option<u64>,
    },
}

/// What both checks take.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// s(small), m(medium), l(large) or xl(xLarge)
    #[arg(long, default_value = "s")]
    load: String,
    /// Compact to the last revision afterwards
    #[arg(long)]
    auto_compact: bool,
    /// Defragment the servers afterwards
    #[arg(long)]
    auto_defrag: bool,
}

impl CheckArgs {
    /// The one of four sizes that the load names.
    fn choose<T: Copy>(&self, sizes: [T; 4]) -> Result<T, Exit> {
        let at = match self.load.as_str() {
            "s" | "small" => 0,
            "m" | "medium" => 1,
            "l" | "large" => 2,
            "xl" | "xLarge" => 3,
            other => return Err(Exit::new(BAD_FEATURE, format!("unknown load option {other}"))),
        };
        Ok(sizes[at])
    }
}

/// Runs one of the checks.
pub(super) async fn run(
    session: &Session,
    global: &Global,
    secure: bool,
    command: CheckCommand,
) -> Result<(), Exit> {
    match command {
        CheckCommand::Perf { args, prefix, seconds } => {
            let (rate, clients) =
                args.choose([(150, 50), (1000, 200), (8000, 500), (15_000, 1000)])?;
            if !is_empty(&session.client, &prefix).await? {
                let text = format!(
                    "prefix {prefix:?} has keys. Delete with 'etcdctl del --prefix {prefix}' first"
                );
                return Err(Exit::new(INVALID_INPUT, text));
            }
            let load = load::Load {
                prefix: &prefix,
                clients,
                key_bytes: 256,
                value_bytes: 1024,
                pace: load::Pace::Rate { per_s: rate, time: Duration::from_secs(seconds) },
            };
            let outcome = load::put(session, global, &load).await?;
            clean_up(session, global, &args, &prefix).await?;
            let (text, passed) = performance(&outcome, f64::from(rate));
            super::write(text.as_bytes())?;
            if passed { Ok(()) } else { Err(Exit::silent(FAILED)) }
        }
        CheckCommand::Datascale { args, prefix, keys } => {
            let sizes = [(10_000, 50), (100_000, 200), (1_000_000, 500), (3_000_000, 1000)];
            let (of_load, clients) = args.choose(sizes)?;
            let count = keys.unwrap_or(of_load);
            if !is_empty(&session.client, &prefix).await? {
                let text = format!(
                    "prefix {prefix:?} has keys. Delete with etcdctl del --prefix {prefix} first"
                );
                return Err(Exit::new(INVALID_INPUT, text));
            }
            let unreadable = |when: &str| {
                let text = format!(
                    "FAIL: Could not read process_resident_memory_bytes {when} the put operations.\n"
                );
                super::write(text.as_bytes()).and(Err(Exit::silent(FAILED)))
            };
            let endpoint = global.endpoints.first().map_or("", String::as_str);
            let Some(before) = memory::resident_bytes(global, secure, endpoint).await? else {
                return unreadable("before");
            };
            let text = format!(
                "Start data scale check for work load [{count} key-value pairs, 1024 bytes per \
                 key-value, {clients} concurrent clients].\n"
            );
            super::write(text.as_bytes())?;
            let load = load::Load {
                prefix: &prefix,
                clients,
                key_bytes: 512,
                value_bytes: 512,
                pace: load::Pace::Count(count),
            };
            let outcome = load::put(session, global, &load).await?;
            let after = memory::resident_bytes(global, secure, endpoint).await?;
            clean_up(session, global, &args, &prefix).await?;
            let Some(after) = after else { return unreadable("after") };
            let (text, passed) = scale(&outcome, (after - before) / MEGABYTE);
            super::write(text.as_bytes())?;
            if passed { Ok(()) } else { Err(Exit::silent(FAILED)) }
        }
    }
}

/// The errors of a load, if there were any.
fn errors(outcome: &Outcome) -> Option<String> {
    if outcome.errors.is_empty() {
        return None;
    }
    let lines = outcome.errors.iter().map(|(error, n)| format!("FAIL: ERROR({error}) -> {n}\n"));
    Some(format!("FAIL: too many errors\n{}", lines.collect::<String>()))
}

/// etcdctl's verdict on a load of `rate` puts a second, and whether it is good.
fn performance(outcome: &Outcome, rate: f64) -> (String, bool) {
    let failed = errors(outcome);
    let throughput = outcome.per_s();
    let (slowest, spread) = (outcome.slowest_s(), outcome.spread_s());
    // The whole number above, as etcdctl prints it.
    let shown = throughput.floor() + 1.0;
    let checks = [
        if throughput / rate <= RATE_PART {
            Err(format!("FAIL: Throughput too low: {shown} writes/s\n"))
        } else {
            Ok(format!("PASS: Throughput is {shown} writes/s\n"))
        },
        if slowest > SLOWEST_MAX_S {
            Err(format!("Slowest request took too long: {slowest:.6}s\n"))
        } else {
            Ok(format!("PASS: Slowest request took {slowest:.6}s\n"))
        },
        if spread > SPREAD_MAX_S {
            Err(format!("Stddev too high: {spread:.6}s\n"))
        } else {
            Ok(format!("PASS: Stddev is {spread:.6}s\n"))
        },
    ];
    let passed = failed.is_none() && checks.iter().all(Result::is_ok);
    let mut text = failed.unwrap_or_default();
    for Ok(line) | Err(line) in checks {
        text.push_str(&line);
    }
    text.push_str(if passed { "PASS\n" } else { "FAIL\n" });
    (text, passed)
}

/// etcdctl's verdict on the memory that keys took.
fn scale(outcome: &Outcome, megabytes: f64) -> (String, bool) {
    match errors(outcome) {
        Some(text) => (text, false),
        None => (format!("PASS: Approximate system memory used : {megabytes:.2} MB.\n"), true),
    }
}

/// Whether there is no key under a prefix.
async fn is_empty(client: &Client, prefix: &str) -> Result<bool, Exit> {
    let request = RangeRequest {
        key: prefix.to_owned().into(),
        range_end: end_of(prefix).into(),
        limit: 1,
        ..RangeRequest::default()
    };
    let found = client
        .call(Effect::Reads, async |connection| {
            KvClient::new(connection).range(request.clone()).await
        })
        .await?;
    Ok(found.count == 0)
}

/// Deletes what a load wrote, and frees its space if that is asked for.
async fn clean_up(
    session: &Session,
    global: &Global,
    args: &CheckArgs,
    prefix: &str,
) -> Result<(), Exit> {
    let request = DeleteRangeRequest {
        key: prefix.to_owned().into(),
        range_end: end_of(prefix).into(),
        prev_kv: false,
    };
    let deleted = session
        .client
        .call(Effect::Writes, async |connection| {
            KvClient::new(connection).delete_range(request.clone()).await
        })
        .await?;
    let revision = deleted.header.map_or(0, |header| header.revision);
    if args.auto_compact {
        super::write(format!("Compacting with revision {revision}\n").as_bytes())?;
        let request = CompactionRequest { revision, physical: true };
        session
            .client
            .call(Effect::Writes, async |connection| {
                KvClient::new(connection).compact(request).await
            })
            .await?;
        super::write(format!("Compacted with revision {revision}\n").as_bytes())?;
    }
    if args.auto_defrag {
        for endpoint in &global.endpoints {
            super::write(format!("Defragmenting {endpoint:?}\n").as_bytes())?;
            let client = session.client.single(global, endpoint)?;
            client
                .call(Effect::Writes, async |connection| {
                    MaintenanceClient::new(connection).defragment(DefragmentRequest {}).await
                })
                .await?;
            super::write(format!("Defragmented {endpoint:?}\n").as_bytes())?;
        }
    }
    Ok(())
}

/// The first key behind all keys of a prefix; that of everything where there is none.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(millis: &[u64], seconds: u64, errors: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        for &took in millis {
            outcome.add(Duration::from_millis(took), None);
        }
        for error in errors {
            outcome.add(Duration::ZERO, Some((*error).to_owned()));
        }
        outcome.elapsed = Duration::from_secs(seconds);
        outcome
    }

    #[test]
    fn the_verdict_is_etcdctls() {
        let good = outcome(&[10; 150], 1, &[]);
        let want = "PASS: Throughput is 151 writes/s\nPASS: Slowest request took 0.010000s\n\
                    PASS: Stddev is 0.000000s\nPASS\n";
        assert_eq!(performance(&good, 150.0), (want.to_owned(), true));
        let slow = outcome(&[1, 900], 1, &["boom", "boom"]);
        let want = "FAIL: too many errors\nFAIL: ERROR(boom) -> 2\n\
                    FAIL: Throughput too low: 3 writes/s\n\
                    Slowest request took too long: 0.900000s\nStddev too high: 0.449500s\nFAIL\n";
        assert_eq!(performance(&slow, 150.0), (want.to_owned(), false));
        let memory = "PASS: Approximate system memory used : 48.67 MB.\n";
        assert_eq!(scale(&good, 48.671), (memory.to_owned(), true));
        assert!(!scale(&slow, 1.0).1);
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        let cases: [(&str, &[u8]); 3] = [("/a/", b"/a0"), ("a", b"b"), ("", &[0])];
        for (prefix, want) in cases {
            assert_eq!(end_of(prefix), want, "{prefix}");
        }
    }
}
