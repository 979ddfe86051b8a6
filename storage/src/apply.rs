//! The one door for changes, and the reads beside it.
//!
//! Contract stub: signatures are agreed, bodies are being written.
#![allow(unused_variables, clippy::todo, missing_docs)]

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Error, KeyValue, LeaseId, Rejected, Revision,
    command::{AlarmKind, Applied, Command, Event, Range, RangeResponse},
    engine::Engine,
    types::KeyRange,
};

#[derive(Clone, Debug)]
pub struct Options {
    /// Most bytes of values held in memory; older ones are read from the engine.
    pub cache_bytes: u64,
    /// Events kept in memory for watchers.
    pub events_max: usize,
    /// Bytes of those events at most.
    pub events_bytes_max: usize,
    /// Quota of the database in bytes; 0 and below: none.
    pub quota_bytes: i64,
}

/// How far the log is applied: an index and bytes that the raft crate encodes (log id and
/// membership). Stored in the same engine batch as the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub index: u64,
    pub payload: Bytes,
}

/// Changes on their way to the engine; made under the write lock, written without it.
#[derive(Debug)]
pub struct Flush {}
impl Flush {
    /// Writes the batch (without waiting for the disk). Call `engine.sync()` now and then:
    /// only then may the log be purged up to `index()`.
    pub fn write(&self, engine: &dyn Engine) -> Result<(), Error> {
        todo!()
    }
    pub fn index(&self) -> u64 {
        todo!()
    }
}

/// What a watcher behind the ring reads from history.
#[derive(Debug)]
pub struct HistoryPage {
    /// Whole revisions only, ascending.
    pub events: Vec<Event>,
    /// Next revision to ask for.
    pub next: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    pub id: LeaseId,
    pub ttl_s: i64,
    /// Checkpointed remainder, `ttl_s` where none.
    pub remaining_s: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAttributes {
    pub name: String,
    pub client_urls: Vec<String>,
}

/// The replicated state of one member.
#[derive(Debug)]
pub struct StateMachine {}

impl StateMachine {
    pub fn open(engine: Arc<dyn Engine>, options: Options) -> Result<Self, Error> {
        todo!()
    }
    /// The mark found in the engine at open, then that of the last applied entry.
    pub fn mark(&self) -> Option<&Mark> {
        todo!()
    }
    /// Applies one Raft entry: each command on its own, in order. `Err` stops the node.
    pub fn apply(&mut self, mark: Mark, commands: Vec<Command>) -> Result<Vec<Applied>, Error> {
        todo!()
    }
    pub fn revision(&self) -> Revision {
        todo!()
    }
    pub fn compact_revision(&self) -> Revision {
        todo!()
    }
    pub fn range(&self, range: &Range) -> Result<Result<RangeResponse, Rejected>, Error> {
        todo!()
    }
    /// etcd HashKV at `revision` (0: now): (hash, revision hashed, compact revision).
    pub fn hash_kv(
        &self,
        revision: Revision,
    ) -> Result<Result<(u32, Revision, Revision), Rejected>, Error> {
        todo!()
    }
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        todo!()
    }
    pub fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        todo!()
    }
    pub fn leases(&self) -> Vec<LeaseInfo> {
        todo!()
    }
    pub fn alarms(&self) -> Vec<(u64, AlarmKind)> {
        todo!()
    }
    pub fn member_attributes(&self, member_id: u64) -> Option<&MemberAttributes> {
        todo!()
    }
    /// Events with `from <= mod_revision`, whole revisions, at most about `max` events, from
    /// the ring; `None` when the ring no longer reaches back to `from` (then use `history`).
    pub fn recent_events(&self, from: Revision, max: usize) -> Option<Vec<Arc<Event>>> {
        todo!()
    }
    /// Events of `range` from history, for watchers behind the ring.
    pub fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        max: usize,
        prev_kv: bool,
    ) -> Result<Result<HistoryPage, Rejected>, Error> {
        todo!()
    }
    /// The version of `key` visible at `revision` (for prev_kv of watch events).
    pub fn version_at(&self, key: &[u8], revision: Revision) -> Result<Option<KeyValue>, Error> {
        todo!()
    }
    /// Moves what is pending into a flush; the data stays readable. `None`: nothing to do.
    pub fn begin_flush(&mut self) -> Option<Flush> {
        todo!()
    }
    /// The flush reached the engine: memory may let go of it.
    pub fn end_flush(&mut self, flush: Flush) {
        todo!()
    }
    /// Bytes applied but not yet handed to the engine.
    pub fn pending_bytes(&self) -> u64 {
        todo!()
    }
    /// Prunes up to `keys_max` keys of compacted history; true when more is left.
    pub fn compact_step(&mut self, keys_max: usize) -> Result<bool, Error> {
        todo!()
    }
    /// Bytes of live and historic data, for quota and status.
    pub fn size_in_use_bytes(&self) -> u64 {
        todo!()
    }
}
