//! openraft's log storage over the write-ahead log.
//!
//! Invariants:
//! - `IOFlushed` is called only after one `Wal::sync` that covers the entries;
//! - votes are synced before `save_vote` returns;
//! - a row leaves the log only when the engine's synced state covers it ([`Durable`]), whatever
//!   openraft asks for;
//! - any storage error is reported as fatal and nothing is acknowledged after it.
//!
//! Everything runs on the consensus thread. In a cluster the sync is deferred: append writes to the
//! file and returns; a leader's replication tasks put the entries on the wire, a follower applies and
//! answers what the same message committed; then [`LogStore::run_deferred_sync`] does one sync for
//! all that was written and calls every waiting callback (group commit without another thread). A
//! member alone syncs inside `append`, which saves two task switches.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tripod_storage::{
    codec,
    log::{Wal, WalOptions},
};

use crate::{
    fatal::Fatal,
    measures::LogMeasures,
    row,
    state_machine::AppliedState,
    types::{Entry, LogId, Membership, NodeId, Peer, TypeConfig, Vote, log_id},
};

/// Meta record: the vote.
const META_VOTE: u8 = 1;
/// Meta record: the committed log id. Not synced by itself: it only shortens recovery.
const META_COMMITTED: u8 = 2;

/// Meta record: cluster and member the log belongs to.
const META_OWNER: u8 = 3;

/// Most bytes of entries in one answer of `limited_get_log_entries` (one AppendEntries).
pub(crate) const REPLICATION_BYTES_MAX: usize = 2 << 20;

/// Bytes of rows read from disk at a time when the cache does not reach back.
const READ_BYTES: usize = 4 << 20;

/// Upper end of the log that the engine's synced state covers; set by the write-behind thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable(Arc<AtomicU64>);

impl Durable {
    /// Marks every index below `next` as durable in the engine.
    pub(crate) fn advance(&self, next: u64) {
        self.0.fetch_max(next, Ordering::SeqCst);
    }

    /// First index that is not durable in the engine.
    pub(crate) fn next(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The log of one member. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Sync after what else is ready has run, instead of inside `append`.
    deferred: AtomicBool,
    wake: Notify,
    durable: Durable,
    fatal: Fatal,
    syncs: AtomicU64,
    measures: LogMeasures,
}

struct Inner {
    /// `None` once closed: handles that outlive the member must not hold its files.
    wal: Option<Wal>,
    cache: Cache,
    vote: Option<Vote>,
    committed: Option<LogId>,
    last: Option<LogId>,
    purged: Option<LogId>,
    /// Callbacks of entries written but not synced.
    waiting: Vec<IOFlushed<TypeConfig>>,
}

impl Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("last", &self.last).finish_non_exhaustive()
    }
}

/// The newest entries, contiguous, bounded by bytes.
#[derive(Debug, Default)]
struct Cache {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.log_id.index)
    }

    fn push(&mut self, entry: Entry, bytes: usize) {
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    fn truncate_after(&mut self, index: Option<u64>) {
        while self.entries.back().is_some_and(|(entry, _)| Some(entry.log_id.index) > index) {
            let (_, bytes) = self.entries.pop_back().expect("just seen");
            self.bytes -= bytes;
        }
    }

    fn purge_to(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    fn get(&self, index: u64) -> Option<&(Entry, usize)> {
        let at = index.checked_sub(self.first()?)?;
        self.entries.get(usize::try_from(at).ok()?)
    }
}

impl LogStore {
    /// Opens the log in `dir`.
    pub(crate) fn open(
        dir: &Path,
        options: WalOptions,
        cache_bytes: usize,
        durable: Durable,
        fatal: Fatal,
    ) -> Result<Self, tripod_storage::Error> {
        let wal = Wal::open(dir, options)?;
        let corrupt = |what: &str, detail: String| tripod_storage::Error::Corrupt {
            what: what.to_string(),
            detail,
        };
        let vote = match wal.meta(META_VOTE) {
            None => None,
            Some(bytes) => {
                Some(codec::decode(&bytes).map_err(|error| corrupt("vote", error.to_string()))?)
            }
        };
        let committed = match wal.meta(META_COMMITTED) {
            None => None,
            Some(bytes) => {
                Some(row::log_id_of(&bytes).map_err(|error| corrupt("commit", error.to_string()))?)
            }
        };
        let purged = match wal.purged() {
            None => None,
            Some((_, bytes)) => Some(
                row::log_id_of(&bytes).map_err(|error| corrupt("purge mark", error.to_string()))?,
            ),
        };
        let last = match wal.bounds() {
            None => purged,
            Some((_, last)) => {
                let rows = wal.read(last, last + 1, 1)?;
                let row = rows.first().ok_or_else(|| corrupt("log", format!("no row {last}")))?;
                Some(
                    row::log_id_of(&row.payload)
                        .map_err(|error| corrupt("log row", error.to_string()))?,
                )
            }
        };
        let cache = Cache { bytes_max: cache_bytes, ..Cache::default() };
        let inner =
            Inner { wal: Some(wal), cache, vote, committed, last, purged, waiting: Vec::new() };
        let shared = Shared {
            inner: Mutex::new(inner),
            deferred: AtomicBool::new(false),
            wake: Notify::new(),
            durable,
            fatal,
            syncs: AtomicU64::new(0),
            measures: LogMeasures::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Chooses when entries are synced: inside `append`, or after what else is ready.
    /// The latter needs [`LogStore::run_deferred_sync`] running.
    pub(crate) fn set_deferred(&self, deferred: bool) {
        self.shared.deferred.store(deferred, Ordering::Relaxed);
        self.shared.wake.notify_one();
    }

    /// Syncs and acknowledges what deferred appends wrote. Runs until dropped.
    pub(crate) async fn run_deferred_sync(self) {
        loop {
            self.shared.wake.notified().await;
            // Everything that is ready runs before this task again: replication tasks send, the
            // network is polled, further appends join this sync.
            tokio::task::yield_now().await;
            if self.sync_now().is_err() {
                return;
            }
        }
    }

    /// One sync for all that was written, then every waiting callback.
    pub(crate) fn sync_now(&self) -> io::Result<()> {
        let (result, waiting) = {
            let mut inner = self.shared.inner.lock();
            let began = Instant::now();
            let result = inner.wal().and_then(Wal::sync);
            self.shared.measures.sync.observe_time(began.elapsed());
            (result, std::mem::take(&mut inner.waiting))
        };
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        let result = result.map_err(|error| self.shared.fatal.report(&error));
        for callback in waiting {
            callback.io_completed(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
        result
    }

    /// Lets go of the files. Nothing works after.
    pub(crate) fn close(&self) {
        let mut inner = self.shared.inner.lock();
        inner.wal = None;
        inner.waiting.clear();
    }

    /// Syncs done since the start.
    pub(crate) fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    /// What was measured since the start.
    pub(crate) fn measures(&self) -> &LogMeasures {
        &self.shared.measures
    }

    /// First index that is not durable in the engine.
    pub(crate) fn durable_next(&self) -> u64 {
        self.shared.durable.next()
    }

    /// Bytes of the log on disk.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.shared.inner.lock().wal.as_ref().map_or(0, Wal::size_bytes)
    }

    /// Marks a fresh log as belonging to this member, and refuses that of another.
    pub(crate) fn claim(&self, cluster_id: u64, node_id: NodeId) -> Result<(), crate::Error> {
        let mut inner = self.shared.inner.lock();
        let owner = codec::encode(&(cluster_id, node_id));
        match inner.wal()?.meta(META_OWNER) {
            Some(found) if found == owner => Ok(()),
            Some(found) => Err(crate::Error::Bootstrap(format!(
                "the log belongs to {:x?} (cluster, member), not to {:x?}",
                codec::decode::<(u64, NodeId)>(&found).ok(),
                (cluster_id, node_id),
            ))),
            None => {
                inner.wal()?.set_meta(META_OWNER, &owner)?;
                inner.wal()?.sync()?;
                Ok(())
            }
        }
    }

    /// Nothing was ever stored here.
    pub(crate) fn is_pristine(&self) -> bool {
        let inner = self.shared.inner.lock();
        inner.vote.is_none() && inner.last.is_none()
    }

    /// Makes a fresh log one that was cut behind `founding`: whoever lacks what came before needs
    /// the whole state. Durable.
    pub(crate) fn begin_behind(&self, founding: LogId) -> Result<(), crate::Error> {
        let mut inner = self.shared.inner.lock();
        if inner.last.is_some() {
            return Err(crate::Error::Bootstrap("the log is not empty".into()));
        }
        inner.wal()?.purge_to(founding.index, &log_id_record(founding))?;
        inner.wal()?.sync()?;
        (inner.purged, inner.last) = (Some(founding), Some(founding));
        Ok(())
    }

    /// Ends the log with a membership of `node_id` alone, in a term of its own. What was not
    /// committed before it is committed with it: nobody is left who could know better.
    pub(crate) fn force_alone(
        &self,
        node_id: NodeId,
        applied: &AppliedState,
    ) -> Result<(), crate::Error> {
        let refuse = |text: &str| Err(crate::Error::Bootstrap(text.into()));
        let mut inner = self.shared.inner.lock();
        let Some(last) = inner.last else { return refuse("the log holds no entry") };
        let membership = inner.last_membership(applied).map_err(|error| {
            crate::Error::Bootstrap(format!("cannot read the log's memberships: {error}"))
        })?;
        let Some(peer) = membership.get_node(&node_id).cloned() else {
            return refuse("this member is not one of the cluster its log knows");
        };
        let mut voters = membership.voter_ids();
        if !voters.any(|id| id == node_id) {
            return refuse("a learner may lack acknowledged data: force a voter's data instead");
        }
        if membership.nodes().count() == 1 {
            return Ok(());
        }
        let term = last.leader_id.term.max(inner.vote.map_or(0, |vote| vote.leader_id.term)) + 1;
        let nodes = BTreeMap::from([(node_id, Peer { promote: false, ..peer })]);
        let alone = Membership::new(vec![[node_id].into()], nodes)
            .map_err(|error| crate::Error::Bootstrap(error.to_string()))?;
        let entry =
            Entry::new(log_id(term, last.index + 1), crate::types::Payload::Membership(alone));
        let vote = Vote::new(term, node_id);
        inner.wal()?.set_meta(META_VOTE, &codec::encode(&vote))?;
        inner.append([entry])?;
        inner.wal()?.sync()?;
        inner.vote = Some(vote);
        tracing::warn!(node_id, term, "went on as the only member; all others are removed");
        Ok(())
    }

    fn fatal(&self, error: &(dyn std::error::Error + 'static)) -> io::Error {
        self.shared.fatal.report(error)
    }
}

/// The error of a log that was closed.
fn closed() -> tripod_storage::Error {
    let source = io::Error::other("this member has stopped");
    tripod_storage::Error::Io { action: "use the log".into(), source }
}

impl Inner {
    fn wal(&mut self) -> Result<&mut Wal, tripod_storage::Error> {
        self.wal.as_mut().ok_or_else(closed)
    }

    /// The newest membership of the log, or the applied one.
    fn last_membership(&self, applied: &AppliedState) -> Result<Membership, ReadFault> {
        let mut newest = applied.membership.membership().clone();
        let next = applied.log_id.map_or(0, |log_id| log_id.index + 1);
        let (mut at, end) = (next, self.last.map_or(0, |last| last.index + 1));
        while at < end {
            let entries = self.entries(at, end, READ_BYTES)?;
            let Some(last) = entries.last() else { break };
            at = last.log_id.index + 1;
            for entry in entries {
                if let crate::types::Payload::Membership(membership) = entry.payload {
                    newest = membership;
                }
            }
        }
        Ok(newest)
    }

    /// Entries `from..to` that the log holds, up to about `bytes_max` (at least one).
    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, ReadFault> {
        let wal = self.wal.as_ref().ok_or_else(closed)?;
        let Some((first, last)) = wal.bounds() else { return Ok(Vec::new()) };
        let (mut at, to) = (from.max(first), to.min(last + 1));
        let mut entries = Vec::new();
        let mut bytes = 0;
        while at < to && (bytes < bytes_max || entries.is_empty()) {
            if let Some((entry, len)) = self.cache.get(at) {
                bytes += len;
                entries.push(entry.clone());
                at += 1;
                continue;
            }
            let until = self.cache.first().map_or(to, |first| first.max(at + 1).min(to));
            let rows = wal.read(at, until, READ_BYTES.min(bytes_max - bytes).max(1))?;
            if rows.is_empty() {
                return Err(ReadFault::Hole(at));
            }
            for row in rows {
                bytes += row.payload.len();
                let entry = row::decode(row.payload)?;
                if entry.log_id.index != at || row.index != at {
                    return Err(ReadFault::Hole(at));
                }
                entries.push(entry);
                at += 1;
            }
        }
        Ok(entries)
    }
}

/// Why entries cannot be read; always fatal.
#[derive(Debug, thiserror::Error)]
enum ReadFault {
    #[error(transparent)]
    Storage(#[from] tripod_storage::Error),
    #[error(transparent)]
    Row(#[from] row::MalformedRow),
    #[error("log has no entry {0} where it must")]
    Hole(u64),
}

/// Start and exclusive end of a range of indexes.
fn limits(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&at) => at,
        Bound::Excluded(&at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&at) => at.saturating_add(1),
        Bound::Excluded(&at) => at,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = limits(&range);
        let result = self.shared.inner.lock().entries(from, to, usize::MAX);
        result.map_err(|error| self.fatal(&error))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.inner.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let result = self.shared.inner.lock().entries(start, end, REPLICATION_BYTES_MAX);
        result.map_err(|error| self.fatal(&error))
    }
}

/// A log id as the small record that `row::log_id_of` reads.
fn log_id_record(log_id: LogId) -> Bytes {
    let entry = Entry::new(log_id, crate::types::Payload::Blank);
    Bytes::copy_from_slice(&row::encode(&entry).header)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let inner = self.shared.inner.lock();
        Ok(LogState { last_purged_log_id: inner.purged, last_log_id: inner.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        {
            let mut inner = self.shared.inner.lock();
            let result = inner.wal().and_then(|wal| wal.set_meta(META_VOTE, &codec::encode(vote)));
            if let Err(error) = result {
                drop(inner);
                return Err(self.fatal(&error));
            }
            inner.vote = Some(*vote);
        }
        self.sync_now()
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        let mut inner = self.shared.inner.lock();
        inner.committed = Some(committed);
        let record = log_id_record(committed);
        let result = inner.wal().and_then(|wal| wal.set_meta(META_COMMITTED, &record));
        drop(inner);
        result.map_err(|error| self.fatal(&error))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.inner.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        if self.shared.fatal.tripped() {
            return Err(io::Error::other("this member must stop"));
        }
        let written = self.shared.inner.lock().append(entries);
        match written {
            Ok(bytes) => self.shared.measures.bytes.fetch_add(bytes, Ordering::Relaxed),
            Err(error) => return Err(self.fatal(&error)),
        };
        self.shared.inner.lock().waiting.push(callback);
        if self.shared.deferred.load(Ordering::Relaxed) {
            self.shared.wake.notify_one();
            Ok(())
        } else {
            self.sync_now()
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let mut inner = self.shared.inner.lock();
        let index = last_log_id.map(|log_id| log_id.index);
        let result = inner.wal().and_then(|wal| wal.truncate_after(index));
        inner.cache.truncate_after(index);
        inner.last = inner.last.min(last_log_id).max(inner.purged);
        drop(inner);
        result.map_err(|error| self.fatal(&error))
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let durable_next = self.shared.durable.next();
        let result = self.shared.inner.lock().purge(log_id, durable_next);
        result.map_err(|error| self.fatal(&error))
    }
}

impl Inner {
    /// Writes entries to the file (not synced) and the cache; the bytes of their rows.
    fn append(
        &mut self,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<u64, tripod_storage::Error> {
        let mut bytes = 0;
        for entry in entries {
            let row = row::encode(&entry);
            bytes += row.len() as u64;
            self.wal()?.append(entry.log_id.index, &[&row.header, &row.payload])?;
            self.last = Some(entry.log_id);
            self.cache.push(entry, row.len());
        }
        self.wal()?.write()?;
        Ok(bytes)
    }

    /// Drops rows up to `log_id`, but none that the engine has not synced.
    fn purge(&mut self, log_id: LogId, durable_next: u64) -> Result<(), ReadFault> {
        let mut upto = log_id;
        if upto.index >= durable_next {
            // Normally openraft asks only for what a durable mark allows.
            let Some(index) = durable_next.checked_sub(1) else { return Ok(()) };
            let Some(entry) = self.entries(index, index + 1, 1)?.pop() else { return Ok(()) };
            tracing::warn!(asked = %log_id, kept_from = durable_next, "log is cut less than asked");
            upto = entry.log_id;
        }
        if self.purged >= Some(upto) {
            return Ok(());
        }
        self.wal()?.purge_to(upto.index, &log_id_record(upto))?;
        self.cache.purge_to(upto.index);
        self.purged = Some(upto);
        self.last = self.last.max(Some(upto));
        Ok(())
    }
}
