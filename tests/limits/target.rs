//! Members under load, what they use, and an innocent client beside the load.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::{runtime::Runtime, task::JoinHandle};
use tripod::api::proto::etcdserverpb::{self as pb, RequestOp, request_op::Request as Operation};

use crate::support::{
    client::Client,
    cluster::{Cluster, Options},
    http::Http,
};

/// Longest time an innocent client may wait for one answer, whatever goes on beside it: a debug
/// build on two cores that others use too.
pub(crate) const INNOCENT_MAX: Duration = Duration::from_secs(10);
/// The same for 99 of 100 answers.
pub(crate) const INNOCENT_P99_MAX: Duration = Duration::from_secs(3);
/// Pause between two requests of the innocent client.
const INNOCENT_PAUSE: Duration = Duration::from_millis(10);
/// Puts of one transaction when many keys are written.
const FILL_BATCH: usize = 128;
/// Transactions under way at once then.
const FILL_CONCURRENCY: usize = 8;

/// The CI figure, or the full one with `TRIPOD_LIMITS=full`.
pub(crate) fn size(ci: usize, full: usize) -> usize {
    if std::env::var("TRIPOD_LIMITS").is_ok_and(|value| value == "full") { full } else { ci }
}

/// Megabytes, for printing.
pub(crate) fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Members and a runtime to talk to them.
pub(crate) struct Target {
    pub(crate) runtime: Runtime,
    pub(crate) cluster: Cluster,
}

impl Target {
    /// One member with these flags.
    pub(crate) fn one(flags: &[&str]) -> Result<Self> {
        let options = Options::candidate(1)?;
        Self::start(flags.iter().fold(options, |options, flag| options.flag(*flag)))
    }

    pub(crate) fn start(options: Options) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let cluster = runtime.block_on(Cluster::start(options))?;
        Ok(Self { runtime, cluster })
    }

    pub(crate) fn client(&self) -> Client {
        self.client_of(0, Duration::from_secs(60))
    }

    /// A client of one member, whose calls end after `limit`.
    pub(crate) fn client_of(&self, index: usize, limit: Duration) -> Client {
        // A client starts a task for its connection.
        let _inside = self.runtime.enter();
        Client::with_limit(&self.cluster.members[index].client_url(), limit)
    }

    pub(crate) fn http(&self) -> Http {
        self.cluster.members[0].http().timeout(Duration::from_secs(60))
    }

    pub(crate) fn port(&self) -> u16 {
        self.cluster.members[0].client_port()
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(work)
    }

    /// Resident bytes of the first member.
    pub(crate) fn resident(&self) -> Result<u64> {
        resident_bytes(self.cluster.members[0].pid()?)
    }

    /// Open files of the first member.
    pub(crate) fn files(&self) -> Result<usize> {
        let pid = self.cluster.members[0].pid()?;
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    pub(crate) fn revision(&self) -> Result<i64> {
        self.run(self.client().revision())
    }

    /// A client on a connection of its own that writes and reads until it is finished.
    pub(crate) fn innocent(&self) -> Innocent {
        let client = self.client_of(0, INNOCENT_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = self.runtime.spawn(async move {
            let mut waits = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let value = Bytes::from(waits.len().to_string());
                let start = Instant::now();
                client.put("innocent", value.clone()).await.context("innocent put")?;
                waits.push(start.elapsed());
                let start = Instant::now();
                let read = client.get("innocent").await.context("innocent get")?;
                waits.push(start.elapsed());
                ensure!(read.kvs.first().is_some_and(|kv| kv.value == value), "{read:?}");
                tokio::time::sleep(INNOCENT_PAUSE).await;
            }
            Ok(waits)
        });
        Innocent { stop, task }
    }

    /// Ends the innocent client and judges what it saw.
    pub(crate) fn judge(&self, innocent: Innocent, beside: &str) -> Result<()> {
        innocent.stop.store(true, Ordering::Relaxed);
        let waits = self.runtime.block_on(innocent.task)?;
        let mut waits = waits.with_context(|| format!("beside {beside}"))?;
        waits.sort_unstable();
        let (count, max) = (waits.len(), waits.last().copied().unwrap_or_default());
        let p99 = waits[(count * 99 / 100).min(count - 1)];
        eprintln!("limits: {beside}: innocent client {count} calls, p99 {p99:.1?}, max {max:.1?}");
        ensure!(max < INNOCENT_MAX && p99 < INNOCENT_P99_MAX, "{beside}: p99 {p99:?}, max {max:?}");
        Ok(())
    }

    /// Writes `count` keys `PREFIX/000000000` of the same value, under a lease if it is not 0.
    pub(crate) fn fill(&self, prefix: &str, count: usize, value: &[u8], lease: i64) -> Result<()> {
        let client = self.client();
        let value = Bytes::copy_from_slice(value);
        let batches = (0..count).step_by(FILL_BATCH).map(|first| {
            let puts = (first..count.min(first + FILL_BATCH))
                .map(|number| put_op(format!("{prefix}/{number:09}"), value.clone(), lease));
            let request = pb::TxnRequest { success: puts.collect(), ..Default::default() };
            let mut kv = client.kv();
            async move { kv.txn(request).await.map(drop) }
        });
        let done = futures::stream::iter(batches)
            .buffer_unordered(FILL_CONCURRENCY)
            .try_collect::<Vec<()>>();
        self.run(async {
            done.await?;
            Ok(())
        })
    }

    /// How many keys start with `prefix/`.
    pub(crate) fn count(&self, prefix: &str) -> Result<i64> {
        let request = pb::RangeRequest {
            key: format!("{prefix}/").into(),
            range_end: format!("{prefix}0").into(),
            count_only: true,
            ..Default::default()
        };
        self.run(async { Ok(self.client().kv().range(request).await?.into_inner().count) })
    }

    /// All members run, and a new client writes and reads.
    pub(crate) fn finish(self) -> Result<()> {
        self.run(async {
            let client = self.client();
            client.put("last", "1").await?;
            let read = client.get("last").await?;
            ensure!(read.kvs.len() == 1, "{read:?}");
            Ok(())
        })?;
        self.cluster.close()
    }
}

/// A put as an operation of a transaction.
pub(crate) fn put_op(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: i64) -> RequestOp {
    let put = pb::PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
    RequestOp { request: Some(Operation::RequestPut(put)) }
}

/// Resident bytes of a process.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * 4096)
}

/// See [`Target::innocent`].
pub(crate) struct Innocent {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<Duration>>>,
}

/// Looks at a process's memory until it is stopped; the most it saw.
pub(crate) struct Peak {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Peak {
    pub(crate) fn watch(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = peak.max(resident_bytes(pid).unwrap_or_default());
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        Self { stop, thread }
    }

    pub(crate) fn bytes(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(u64::MAX)
    }
}
