//! The replicated vocabulary: every change that goes through the log, and its answer.
//!
//! Requests arrive here already validated (non-empty keys, operation counts, duplicate keys:
//! [`crate::mvcc::validate`]); what depends on the state is decided at apply and answered as
//! [`Rejected`].
//! Enumerations that etcd lets through unknown (compare results, sort numbers) stay numbers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Rejected,
    auth::{AuthChange, Caller},
    types::{KeyValue, LeaseId, Revision},
    v2,
};

/// One replicated change. A Raft entry carries a batch of them, each applied on its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// Write one key.
    Put(Put),
    /// Delete a key or range, in one revision.
    DeleteRange(DeleteRange),
    /// Compare, then one branch of operations, in one revision.
    Txn(Txn),
    /// Forget history below a revision.
    Compact(Compact),
    /// Make a lease. The leader has chosen `id` and raised the TTL to its minimum.
    LeaseGrant {
        /// Never 0 here.
        id: LeaseId,
        /// Time to live in seconds, 1..=9_000_000_000.
        ttl_s: i64,
    },
    /// Delete a lease and every key attached to it. Also how the leader expires one.
    LeaseRevoke {
        /// Lease to end.
        id: LeaseId,
    },
    /// The leader ends a lease whose time has passed. As [`Command::LeaseRevoke`], but the raft
    /// crate turns it into [`Command::Noop`] in an entry of another term: a leader that was
    /// deposed meanwhile must not end what its successor renews.
    LeaseExpire {
        /// Lease to end.
        id: LeaseId,
        /// Term of the leader that saw it expire.
        term: u64,
    },
    /// The leader's view of remaining time, so that a new leader does not restart full TTLs.
    LeaseCheckpoint {
        /// (lease, remaining seconds) pairs; unknown leases are skipped.
        remaining_s: Vec<(LeaseId, i64)>,
    },
    /// Raise or clear an alarm of one member.
    Alarm {
        /// What to do.
        action: AlarmAction,
        /// Member concerned.
        member_id: u64,
        /// Which alarm.
        alarm: AlarmKind,
    },
    /// A member publishes its name and client URLs, as etcd does when it starts.
    MemberAttributes {
        /// Raft node id.
        member_id: u64,
        /// Human name.
        name: String,
        /// Advertised client URLs.
        client_urls: Vec<String>,
    },
    /// Nothing: carries a read barrier or keeps an index moving.
    Noop,
    /// Change users, roles or the switch of authentication.
    Auth(AuthChange),
    /// A command asked for by somebody, while authentication is on. Apply decides whether he may.
    As {
        /// Who asks.
        caller: Caller,
        /// What for; never this variant again.
        command: Box<Command>,
    },
    /// A change of the v2 tree.
    V2(Box<v2::Change>),
}

/// etcd `PutRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// Key, not empty.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
    /// Lease to attach, 0 detaches.
    pub lease: LeaseId,
    /// Answer with the version before.
    pub prev_kv: bool,
    /// Keep the present value; the key must exist.
    pub ignore_value: bool,
    /// Keep the present lease; the key must exist.
    pub ignore_lease: bool,
}

/// etcd `DeleteRangeRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRange {
    /// First key, not empty.
    pub key: Bytes,
    /// Exclusive end; empty: one key; `\0`: no end.
    pub range_end: Bytes,
    /// Answer with the versions deleted.
    pub prev_kv: bool,
}

/// etcd `RangeRequest`. `serializable` is the caller's business and not here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First key, not empty.
    pub key: Bytes,
    /// Exclusive end; empty: one key; `\0`: no end.
    pub range_end: Bytes,
    /// Most pairs to answer; 0 and below: all.
    pub limit: i64,
    /// Revision to read at; 0 and below: now (in a transaction below 0 is compacted or passes).
    pub revision: Revision,
    /// `RangeRequest.SortOrder` number.
    pub sort_order: i32,
    /// `RangeRequest.SortTarget` number.
    pub sort_target: i32,
    /// Leave values out of the answer.
    pub keys_only: bool,
    /// Answer the count alone.
    pub count_only: bool,
    /// Lower bound of mod_revision, 0: none.
    pub min_mod_revision: Revision,
    /// Upper bound of mod_revision, 0: none.
    pub max_mod_revision: Revision,
    /// Lower bound of create_revision, 0: none.
    pub min_create_revision: Revision,
    /// Upper bound of create_revision, 0: none.
    pub max_create_revision: Revision,
}

/// etcd `Compare`: one condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// `CompareResult` number; an unknown one is always true.
    pub result: i32,
    /// What is compared, with the operand (0 or empty where absent or of another target).
    pub target: CompareTarget,
    /// First key, not empty.
    pub key: Bytes,
    /// Exclusive end; empty: one key; `\0`: no end.
    pub range_end: Bytes,
}

/// Left side and operand of a [`Compare`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareTarget {
    /// Writes since creation.
    Version(i64),
    /// Creation revision.
    Create(Revision),
    /// Modification revision.
    Mod(Revision),
    /// Value; false for a missing key whatever the comparison.
    Value(Bytes),
    /// Lease id.
    Lease(LeaseId),
    /// A target number etcd does not know: compares 0 with 0.
    Unknown,
}

/// etcd `TxnRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// All must hold for `success`.
    pub compare: Vec<Compare>,
    /// Operations if all compares hold.
    pub success: Vec<TxnOp>,
    /// Operations otherwise.
    pub failure: Vec<TxnOp>,
}

/// One operation inside a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOp {
    /// Read.
    Range(Range),
    /// Write.
    Put(Put),
    /// Delete.
    DeleteRange(DeleteRange),
    /// Nested transaction.
    Txn(Txn),
    /// A wire operation without a request in it. Validation refuses it
    /// ([`Rejected::KeyNotFound`]), and so does apply.
    Empty,
}

/// etcd `CompactionRequest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compact {
    /// Reads below this revision are refused from now on.
    pub revision: Revision,
}

/// What an [`Command::Alarm`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlarmAction {
    /// Raise; raising again changes nothing and still answers the alarm.
    Activate,
    /// Clear; clearing what is not raised answers an empty list.
    Deactivate,
}

/// Alarms of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AlarmKind {
    /// The database is over its quota.
    NoSpace,
    /// Members disagree.
    Corrupt,
}

impl AlarmKind {
    /// Its number on the wire and on disk.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::NoSpace => 1,
            Self::Corrupt => 2,
        }
    }

    /// The alarm of a number; `None` for one that is not known.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::NoSpace),
            2 => Some(Self::Corrupt),
            _ => None,
        }
    }
}

/// The answer of one applied command; `revision` is the store's revision after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// For the response header.
    pub revision: Revision,
    /// The answer, or why it was refused.
    pub outcome: Result<Response, Rejected>,
}

/// Answers by command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Response {
    /// Of a put.
    Put(PutResponse),
    /// Of a delete.
    DeleteRange(DeleteRangeResponse),
    /// Of a transaction.
    Txn(TxnResponse),
    /// Of a lease grant: id and granted TTL in seconds.
    LeaseGrant {
        /// Lease id.
        id: LeaseId,
        /// Granted TTL in seconds.
        ttl_s: i64,
    },
    /// Of an alarm change: the alarms concerned.
    Alarm(Vec<(u64, AlarmKind)>),
    /// Of everything that has nothing to say beyond the revision.
    Done,
    /// Of a write into the v2 tree: what happened, or why nothing did.
    V2(Box<Result<v2::Event, v2::Error>>),
}

/// Of a put; `revision` is what a nested header shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutResponse {
    /// Revision of the write.
    pub revision: Revision,
    /// The version before, where asked for and present.
    pub prev_kv: Option<KeyValue>,
}

/// Of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRangeResponse {
    /// Revision visible after it (unchanged if nothing was deleted).
    pub revision: Revision,
    /// Number of keys deleted.
    pub deleted: i64,
    /// The versions deleted, where asked for, in key order.
    pub prev_kvs: Vec<KeyValue>,
}

/// Of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeResponse {
    /// Current revision at the read (inside a transaction: visible at that point).
    pub revision: Revision,
    /// Pairs after filters, sort and limit.
    pub kvs: Vec<KeyValue>,
    /// The limit cut something.
    pub more: bool,
    /// Keys in the range at that revision, before filters and limit.
    pub count: i64,
}

/// Of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnResponse {
    /// Which branch ran.
    pub succeeded: bool,
    /// One answer an operation.
    pub responses: Vec<TxnOpResponse>,
}

/// Answer of one operation in a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOpResponse {
    /// Of a read.
    Range(RangeResponse),
    /// Of a write.
    Put(PutResponse),
    /// Of a delete.
    DeleteRange(DeleteRangeResponse),
    /// Of a nested transaction.
    Txn(TxnResponse),
}

/// A change of one key, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The version written; a delete has only key and mod_revision.
    pub kv: KeyValue,
    /// The version at `mod_revision - 1`, where there was one.
    pub prev_kv: Option<KeyValue>,
}

/// Kind of an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The key was written.
    Put,
    /// The key was deleted.
    Delete,
}
