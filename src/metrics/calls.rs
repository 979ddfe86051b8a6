//! gRPC calls by method and outcome, counted for each front-end thread and summed when asked.
//!
//! Invariants:
//! - a counter has one writer, the thread it belongs to ([`ThreadCalls`] cannot leave it), so
//!   counting is a load and a store without a lock or a shared cache line;
//! - every call that began ends in exactly one outcome: one that is dropped was canceled, or
//!   ran out of its time.

use std::{
    collections::HashMap,
    marker::PhantomData,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::api::{
    descriptors::{Descriptors, Method},
    service::{Code, Status},
};

/// Names of gRPC's status codes, by number.
pub(super) const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Upper bounds of the latency buckets in milliseconds, those of gRPC's usual middleware.
pub(super) const LATENCY_BOUNDS_MS: [u64; 11] =
    [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// Methods looked up first, as most calls are theirs.
const FREQUENT: [&str; 4] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/DeleteRange",
];

/// A counter with one writer.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    /// For counters that may have many writers, and never [`Count::add`].
    fn add_shared(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One method on one thread.
#[derive(Debug, Default)]
struct Counts {
    started: Count,
    handled: [Count; CODES.len()],
    messages_received: Count,
    messages_sent: Count,
    bytes_received: Count,
    bytes_sent: Count,
    latencies: [Count; LATENCY_BOUNDS_MS.len() + 1],
    latency_sum_ns: Count,
}

/// All methods of all services, frequent ones first.
#[derive(Debug)]
struct Table {
    methods: Vec<Method>,
    rest: HashMap<String, usize>,
}

/// The calls of a member.
#[derive(Debug)]
pub struct Calls {
    table: Arc<Table>,
    is_timed: bool,
    threads: Mutex<Vec<Arc<[Counts]>>>,
}

impl Calls {
    /// Counters of all compiled methods; `is_timed` also measures how long calls take.
    #[must_use]
    pub fn new(is_timed: bool) -> Arc<Self> {
        let mut methods = Descriptors::compiled().methods().to_vec();
        let rank = |path: &str| FREQUENT.iter().position(|known| *known == path);
        methods.sort_by_key(|method| rank(&method.path).unwrap_or(FREQUENT.len()));
        let numbered = methods.iter().enumerate().skip(FREQUENT.len());
        let rest = numbered.map(|(number, method)| (method.path.clone(), number)).collect();
        let table = Arc::new(Table { methods, rest });
        Arc::new(Self { table, is_timed, threads: Mutex::default() })
    }

    /// Counters for the calling thread.
    #[must_use]
    pub fn thread(&self) -> ThreadCalls {
        let counts: Arc<[Counts]> = self.table.methods.iter().map(|_| Counts::default()).collect();
        self.threads.lock().push(Arc::clone(&counts));
        let (table, is_timed) = (Arc::clone(&self.table), self.is_timed);
        ThreadCalls { table, counts, is_timed, _stays: PhantomData }
    }

    /// Whether calls are timed.
    pub(super) fn is_timed(&self) -> bool {
        self.is_timed
    }

    /// All methods with the sums over the threads.
    pub(super) fn read(&self) -> Vec<(&Method, Totals)> {
        let threads = self.threads.lock();
        let total = |(number, method)| {
            let mut sum = Totals::default();
            for counts in threads.iter().filter_map(|counts| counts.get(number)) {
                sum.add(counts);
            }
            (method, sum)
        };
        self.table.methods.iter().enumerate().map(total).collect()
    }
}

/// What was counted of a method.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) started: u64,
    /// By status code.
    pub(super) handled: [u64; CODES.len()],
    pub(super) messages_received: u64,
    pub(super) messages_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    /// By bucket, the last one without a bound.
    pub(super) latencies: [u64; LATENCY_BOUNDS_MS.len() + 1],
    pub(super) latency_sum_ns: u64,
}

impl Totals {
    fn add(&mut self, counts: &Counts) {
        self.started += counts.started.get();
        self.messages_received += counts.messages_received.get();
        self.messages_sent += counts.messages_sent.get();
        self.bytes_received += counts.bytes_received.get();
        self.bytes_sent += counts.bytes_sent.get();
        self.latency_sum_ns += counts.latency_sum_ns.get();
        let by_code = self.handled.iter_mut().zip(&counts.handled);
        let by_bucket = self.latencies.iter_mut().zip(&counts.latencies);
        for (sum, count) in by_code.chain(by_bucket) {
            *sum += count.get();
        }
    }
}

/// The counters of one thread, for that thread.
#[derive(Clone, Debug)]
pub struct ThreadCalls {
    table: Arc<Table>,
    counts: Arc<[Counts]>,
    is_timed: bool,
    /// Neither `Send` nor `Sync`: one writer.
    _stays: PhantomData<Rc<()>>,
}

impl ThreadCalls {
    /// The number of a method.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<usize> {
        let frequent = self.table.methods.iter().take(FREQUENT.len());
        frequent
            .enumerate()
            .find_map(|(number, method)| (method.path == path).then_some(number))
            .or_else(|| self.table.rest.get(path).copied())
    }

    /// Counts the beginning of a call, and its end when the returned value is told or dropped.
    #[must_use]
    pub fn begin(
        &self,
        method: Option<usize>,
        timeout: Option<Duration>,
        began: Instant,
    ) -> Running<'_> {
        let counts = method.and_then(|number| self.counts.get(number));
        if let Some(counts) = counts {
            counts.started.add(1);
        }
        Running { counts, began, timeout, is_timed: self.is_timed }
    }

    /// Counts messages of a streaming call; `None` for an unknown method.
    #[must_use]
    pub fn traffic(&self, path: &str) -> Option<Traffic> {
        Some(Traffic { method: self.find(path)?, counts: Arc::clone(&self.counts) })
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Running<'a> {
    /// `None` once its end is counted.
    counts: Option<&'a Counts>,
    began: Instant,
    timeout: Option<Duration>,
    is_timed: bool,
}

impl Running<'_> {
    /// Counts the request of a unary call.
    pub fn received(&self, bytes: usize) {
        if let Some(counts) = self.counts {
            counts.messages_received.add(1);
            counts.bytes_received.add(bytes as u64);
        }
    }

    /// Counts the end of a unary call that took so long, and its answer.
    pub fn answered(mut self, result: &Result<Bytes, Status>, took: Duration) {
        if let (Ok(answer), Some(counts)) = (result, self.counts) {
            counts.messages_sent.add(1);
            counts.bytes_sent.add(answer.len() as u64);
        }
        self.count(result.as_ref().map_or_else(|status| status.code, |_| Code::Ok), took);
    }

    /// Counts the end of a streaming call.
    pub fn ended(mut self, result: &Result<(), Status>) {
        let took = self.began.elapsed();
        self.count(result.as_ref().map_or_else(|status| status.code, |()| Code::Ok), took);
    }

    fn count(&mut self, code: Code, took: Duration) {
        let Some(counts) = self.counts.take() else { return };
        counts.handled[code as usize].add(1);
        if self.is_timed {
            let bucket = LATENCY_BOUNDS_MS.partition_point(|ms| Duration::from_millis(*ms) < took);
            counts.latencies[bucket].add(1);
            counts.latency_sum_ns.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.counts.is_none() {
            return; // ended: no look at the clock
        }
        let took = self.began.elapsed();
        let is_late = self.timeout.is_some_and(|timeout| took >= timeout);
        self.count(if is_late { Code::DeadlineExceeded } else { Code::Cancelled }, took);
    }
}

/// Counts the messages of one streaming call where the transport moves them. An answer's body
/// may do so from another thread, so these counters, which unary calls never touch for the same
/// method, are shared.
#[derive(Clone, Debug)]
pub struct Traffic {
    counts: Arc<[Counts]>,
    method: usize,
}

impl Traffic {
    /// A request of so many bytes came.
    pub fn received(&self, bytes: usize) {
        if let Some(counts) = self.counts.get(self.method) {
            counts.messages_received.add_shared(1);
            counts.bytes_received.add_shared(bytes as u64);
        }
    }

    /// A response of so many bytes went.
    pub fn sent(&self, bytes: usize) {
        if let Some(counts) = self.counts.get(self.method) {
            counts.messages_sent.add_shared(1);
            counts.bytes_sent.add_shared(bytes as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: &str = "/etcdserverpb.KV/Put";
    const WATCH: &str = "/etcdserverpb.Watch/Watch";

    fn totals(calls: &Calls, path: &str) -> Totals {
        calls.read().into_iter().find(|(method, _)| method.path == path).unwrap().1
    }

    #[test]
    fn every_method_is_found_under_its_own_number() {
        let calls = Calls::new(false);
        let thread = calls.thread();
        for (number, method) in calls.table.methods.iter().enumerate() {
            assert_eq!(thread.find(&method.path), Some(number), "{}", method.path);
        }
        assert_eq!(thread.find("/etcdserverpb.KV/Nope"), None);
        for path in FREQUENT {
            assert!(thread.find(path) < Some(FREQUENT.len()), "{path}");
        }
    }

    #[test]
    fn threads_are_summed_and_every_call_has_one_outcome() {
        let calls = Calls::new(true);
        let count = |thread: &ThreadCalls, result: Option<Result<Bytes, Status>>| {
            let running = thread.begin(thread.find(PUT), None, Instant::now());
            running.received(10);
            if let Some(result) = result {
                running.answered(&result, Duration::from_millis(1));
            }
        };
        let one = calls.thread();
        count(&one, Some(Ok("1234".into())));
        count(&one, Some(Err(Status::new(Code::Unavailable, "no leader"))));
        std::thread::scope(|scope| {
            scope.spawn(|| count(&calls.thread(), None));
        });
        let put = totals(&calls, PUT);
        assert_eq!((put.started, put.handled.iter().sum::<u64>()), (3, 3));
        let of = |code: Code| put.handled[code as usize];
        assert_eq!((of(Code::Ok), of(Code::Unavailable), of(Code::Cancelled)), (1, 1, 1));
        assert_eq!((put.bytes_received, put.bytes_sent, put.messages_sent), (30, 4, 1));
        assert_eq!(put.latencies.iter().sum::<u64>(), 3);
    }

    #[test]
    fn a_call_dropped_after_its_time_is_late_and_one_before_was_canceled() {
        let calls = Calls::new(false);
        let thread = calls.thread();
        for timeout in [Duration::ZERO, Duration::from_secs(60)] {
            drop(thread.begin(thread.find(WATCH), Some(timeout), Instant::now()));
        }
        let watch = totals(&calls, WATCH);
        assert_eq!(watch.handled[Code::DeadlineExceeded as usize], 1);
        assert_eq!(watch.handled[Code::Cancelled as usize], 1);
        assert_eq!(watch.latencies.iter().sum::<u64>(), 0, "not timed");
    }
}
