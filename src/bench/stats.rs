//! Counting: latencies, failures, and what a run comes to.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    plan::{Op, Plan, Protocol},
    verify::Verified,
    wire::{Failure, Outcome},
};

/// Longest latency told apart, in nanoseconds; longer ones count as this.
const LATENCY_NS_MAX: u64 = 120_000_000_000;
/// Decimal digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;
/// Kinds of failure told apart; the rest is counted together.
const KINDS_MAX: usize = 32;

/// What one thread counted.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Nanoseconds of successful measured requests.
    latency: Histogram<u64>,
    /// Measured requests that succeeded.
    pub(crate) succeeded: u64,
    /// Requests that failed at any time, by kind: count and an example.
    failures: BTreeMap<String, (u64, String)>,
    /// Reads whose answer is too short to hold a value.
    pub(crate) short_reads: u64,
    /// Connections that broke.
    pub(crate) connections_lost: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, LATENCY_DIGITS)
            .expect("constant bounds in the order the histogram wants");
        Self {
            latency,
            succeeded: 0,
            failures: BTreeMap::new(),
            short_reads: 0,
            connections_lost: 0,
        }
    }
}

impl Tally {
    /// Counts a measured success.
    pub(crate) fn succeed(&mut self, latency: Duration) {
        self.succeeded += 1;
        self.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX));
    }

    /// Counts an outcome if it is a failure.
    pub(crate) fn outcome(&mut self, outcome: &Outcome) {
        if let Err(failure) = outcome {
            let kind = match failure.as_ref() {
                Failure::Grpc(code, _) => format!("grpc-status {code}"),
                Failure::Http(status, _) => format!("HTTP status {status}"),
                Failure::Reset(code) => format!("stream reset {code}"),
                Failure::Unfinished => "no status".into(),
            };
            self.fail(kind, 1, failure);
        }
    }

    /// Counts failures of a kind.
    pub(crate) fn fail(&mut self, kind: String, count: u64, example: &impl ToString) {
        let full = self.failures.len() >= KINDS_MAX && !self.failures.contains_key(&kind);
        let kind = if full { "other".into() } else { kind };
        let entry = self.failures.entry(kind).or_insert_with(|| (0, example.to_string()));
        entry.0 += count;
    }

    /// Adds what another thread counted.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.succeeded += other.succeeded;
        self.short_reads += other.short_reads;
        self.connections_lost += other.connections_lost;
        for (kind, (count, example)) in other.failures {
            self.fail(kind, count, &example);
        }
    }

    fn failed(&self) -> Vec<Failed> {
        self.failures
            .iter()
            .map(|(kind, (count, example))| Failed {
                kind: kind.clone(),
                count: *count,
                example: example.clone(),
            })
            .collect()
    }

    /// Percentiles of the successes.
    pub(crate) fn latencies(&self) -> Latency {
        let us = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e6;
        let at = |quantile| us(self.latency.value_at_quantile(quantile));
        Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: us(self.latency.max()),
            mean: self.latency.mean() / 1e3,
        }
    }
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// What went wrong.
    pub kind: String,
    /// How often.
    pub count: u64,
    /// The first one's text.
    pub example: String,
}

/// Latencies of successful requests in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "named by what they are")]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
    pub mean: f64,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What requests did.
    pub op: Op,
    /// How they travelled.
    pub protocol: Protocol,
    /// Where they went.
    pub endpoints: Vec<String>,
    /// Clients with one request in flight each.
    pub clients: usize,
    /// Connections they shared.
    pub connections: usize,
    /// Threads that made the load.
    pub threads: usize,
    /// Number of keys.
    pub key_space: u64,
    /// Size of a value in bytes.
    pub value_bytes: usize,
    /// Whether keys came in turn.
    pub sequential: bool,
    /// Seed of keys and values.
    pub seed: u64,
    /// Length of the measured window in seconds.
    pub seconds: f64,
    /// Requests that succeeded in the window.
    pub requests: u64,
    /// Successful requests per second.
    pub per_second: f64,
    /// Latencies of those, in microseconds.
    pub latency_us: Latency,
    /// Requests that failed, warm-up included.
    pub failed: u64,
    /// The same by kind.
    pub failures: Vec<Failed>,
    /// Reads whose answer was too short to hold a value.
    pub short_reads: u64,
    /// Connections that broke.
    pub connections_lost: u64,
    /// CPU time of the load threads per request in microseconds; `None` where the system does not tell.
    pub client_cpu_us_per_request: Option<f64>,
    /// Read-back of what was written.
    pub verification: Option<Verified>,
}

impl Summary {
    /// Puts together what the threads counted.
    pub(crate) fn new(plan: &Plan, tally: &Tally, window: Duration, cpu: Option<Duration>) -> Self {
        let seconds = window.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let requests = tally.succeeded as f64;
        let failures = tally.failed();
        Self {
            op: plan.op,
            protocol: plan.protocol,
            endpoints: plan.endpoints.clone(),
            clients: plan.clients,
            connections: plan.connection_count(),
            threads: plan.thread_count(),
            key_space: plan.key_space,
            value_bytes: plan.value_bytes,
            sequential: plan.sequential,
            seed: plan.seed,
            seconds,
            requests: tally.succeeded,
            per_second: if seconds > 0.0 { requests / seconds } else { 0.0 },
            latency_us: tally.latencies(),
            failed: failures.iter().map(|f| f.count).sum(),
            failures,
            short_reads: tally.short_reads,
            connections_lost: tally.connections_lost,
            client_cpu_us_per_request: cpu
                .filter(|_| tally.succeeded > 0)
                .map(|cpu| cpu.as_secs_f64() * 1e6 / requests),
            verification: None,
        }
    }

    /// Whether anything went wrong that makes the figures doubtful.
    pub fn clean(&self) -> bool {
        self.failed == 0
            && self.short_reads == 0
            && self.connections_lost == 0
            && self.verification.as_ref().is_none_or(|v| v.mismatches == 0)
    }

    /// What keeps the run from being [clean](Self::clean), one text each.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .failures
            .iter()
            .map(|Failed { kind, count, example }| format!("{count} x {kind} ({example})"))
            .collect();
        if self.short_reads > 0 {
            reasons.push(format!("{} reads found no value", self.short_reads));
        }
        if self.connections_lost > 0 {
            reasons.push(format!("{} connections lost", self.connections_lost));
        }
        if let Some(verified) = self.verification.as_ref().filter(|v| v.mismatches > 0) {
            let example = verified.example.as_deref().unwrap_or_default();
            reasons.push(format!("{} wrong values read back ({example})", verified.mismatches));
        }
        reasons
    }
}

/// The middle of `values`; the mean of the two middle ones if their number is even.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_no_values() {
        let cases: [(&[f64], Option<f64>); 5] = [
            (&[], None),
            (&[3.0], Some(3.0)),
            (&[9.0, 1.0, 5.0], Some(5.0)),
            (&[4.0, 1.0, 2.0, 100.0], Some(3.0)),
            (&[f64::NAN, 2.0], Some(2.0)),
        ];
        for (values, want) in cases {
            assert_eq!(median(values), want, "{values:?}");
        }
    }

    #[test]
    fn percentiles_are_those_of_successes_and_merge_adds() {
        let (mut a, mut b) = (Tally::default(), Tally::default());
        for ms in 1..=500 {
            a.succeed(Duration::from_millis(ms));
            b.succeed(Duration::from_millis(500 + ms));
        }
        b.outcome(&Err(Box::new(Failure::Grpc(14, "first".into()))));
        a.outcome(&Err(Box::new(Failure::Grpc(14, "second".into()))));
        a.outcome(&Err(Box::new(Failure::Reset(7))));
        a.outcome(&Ok(()));
        a.merge(b);
        let summary = Summary::new(
            &Plan::default(),
            &a,
            Duration::from_secs(2),
            Some(Duration::from_millis(5)),
        );
        let close =
            |got: f64, want: f64| assert!((got - want).abs() < want * 0.002, "{got} {want}");
        close(summary.latency_us.p50, 500_000.0);
        close(summary.latency_us.p90, 900_000.0);
        close(summary.latency_us.p99_9, 999_000.0);
        close(summary.latency_us.max, 1_000_000.0);
        close(summary.per_second, 500.0);
        close(summary.client_cpu_us_per_request.unwrap(), 5.0);
        assert_eq!(summary.failed, 3);
        assert_eq!(
            (summary.failures[0].count, summary.failures[0].kind.as_str()),
            (2, "grpc-status 14")
        );
        assert!(!summary.clean());
    }

    #[test]
    fn kinds_of_failure_are_bounded() {
        let mut tally = Tally::default();
        for code in 0..1000 {
            tally.outcome(&Err(Box::new(Failure::Reset(code))));
        }
        let failed = tally.failed();
        assert!(failed.len() <= KINDS_MAX + 1);
        assert_eq!(failed.iter().map(|f| f.count).sum::<u64>(), 1000);
    }
}
