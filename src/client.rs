//! The in-process client: the store's API as typed async calls.
//!
//! It has the same meaning as gRPC, which is a translation on top of it; embedders and the
//! orchestrator use it directly. Cheap to clone; each front-end thread has one with its own
//! submission port, so that answers of many requests arrive with one wake.

mod auth;
mod budget;
mod concurrency;
mod delete;
mod downgrade;
mod error;
mod lease;
mod maintenance;
mod members;
mod meters;
mod snapshot;
mod txn;
pub mod v2;
pub mod watch;

use std::sync::Arc;

use bytes::Bytes;
use tripod_raft::{Answer, Node, Port};
use tripod_storage::{
    Rejected, Revision,
    auth::{Ask, Caller},
    command::{
        AlarmAction, AlarmKind, Command, Compact, DeleteRange, Put, PutResponse, Range,
        RangeResponse, Response,
    },
    engine::Engine,
    mvcc::validate,
};

use crate::auth::AuthService;
use budget::AnswerBudget;
use watch::hub::Hub;

pub use auth::AuthStatus;
pub(crate) use budget::Budgeted;
pub use concurrency::{LeaderKey, Observer};
pub use error::{DowngradeRefused, Error, MemberRefused};
pub use lease::{LeaseRemaining, LeaseService};
pub(crate) use maintenance::hash_of;
pub use maintenance::{KvHash, MemberInfo, Status};
pub use meters::ClientReading;
pub(crate) use snapshot::private_file;
pub use snapshot::{CLUSTER_VERSION, SNAPSHOTS_MAX, Snapshot};

/// Bytes that etcd's log entry adds to a request, counted towards `max_request_bytes`.
const ENTRY_OVERHEAD_BYTES: usize = 20;
/// Election timeouts without a leader after which streams that require one end, as etcd.
const LEADERLESS_TIMEOUTS: u32 = 3;
/// Pairs read under one lock by a range without sorting, so that writers are not held up.
const RANGE_PAGE_KEYS: usize = 10_000;

/// Bounds of one request (etcd's flags of the same names).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Quota of the database in bytes, 0 for none; reported in the status.
    pub quota_bytes: i64,
    /// Most bytes of a request that goes through the log.
    pub max_request_bytes: usize,
    /// Most operations in one branch of a transaction.
    pub max_txn_ops: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { quota_bytes: 0, max_request_bytes: 1_572_864, max_txn_ops: 128 }
    }
}

/// Who a member is: fixed when it first starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of this member; its Raft node id too.
    pub member_id: u64,
    /// Human name (`--name`).
    pub name: String,
}

/// Who answered and how far it was (etcd `ResponseHeader`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of the member that answered.
    pub member_id: u64,
    /// The store's revision.
    pub revision: Revision,
    /// Raft term.
    pub raft_term: u64,
}

/// An answer and its header.
pub type Answered<T> = Result<(Header, T), Error>;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Client {
    node: Node,
    port: Port,
    identity: Arc<Identity>,
    limits: Limits,
    hub: Arc<Hub>,
    leases: Arc<LeaseService>,
    engine: Arc<dyn Engine>,
    auth: Arc<AuthService>,
    caller: Caller,
    snapshots: snapshot::Slots,
    meters: meters::Meters,
    /// Shared by all clients of a member.
    answers: AnswerBudget,
}

impl Client {
    /// A client over a running node that acts as the system. The caller drives `port` and runs `hub`.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one caller, the composition root")]
    pub(crate) fn new(
        node: Node,
        port: Port,
        identity: Arc<Identity>,
        limits: Limits,
        hub: Arc<Hub>,
        leases: Arc<LeaseService>,
        engine: Arc<dyn Engine>,
        auth: Arc<AuthService>,
    ) -> Self {
        let (caller, snapshots) = (Caller::System, snapshot::Slots::default());
        let meters = meters::Meters::new(Arc::clone(&hub));
        let answers = AnswerBudget::default();
        Self {
            node,
            port,
            identity,
            limits,
            hub,
            leases,
            engine,
            auth,
            caller,
            snapshots,
            meters,
            answers,
        }
    }

    /// A client with a port and a watch hub of its own, for another thread; the caller drives
    /// the one and runs the other.
    pub(crate) fn fork(&self) -> Self {
        let hub = Hub::new(self.node.clone());
        let meters = self.meters.fork(Arc::clone(&hub));
        Self { port: self.node.port(), hub, meters, ..self.clone() }
    }

    /// What this member's clients have counted, on all threads.
    #[must_use]
    pub fn reading(&self) -> ClientReading {
        self.meters.read()
    }

    /// Leases that this member renewed while it led.
    pub(crate) fn lease_renewals(&self) -> u64 {
        self.leases.renewals()
    }

    pub(crate) fn port(&self) -> &Port {
        &self.port
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Who this member is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Ends when no leader was known for three election timeouts.
    pub(crate) async fn leader_lost(&self) {
        let timeout = self.node.config().election_timeout();
        let mut without = 0;
        while without < LEADERLESS_TIMEOUTS {
            tokio::time::sleep(timeout).await;
            without = if self.node.leader().is_some() { 0 } else { without + 1 };
        }
    }

    /// The consensus node under this client.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Bounds in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A header at `revision`, with the present term.
    #[must_use]
    pub fn header(&self, revision: Revision) -> Header {
        header(&self.node, &self.identity, revision)
    }

    /// Makes headers like [`Client::header`], for those who outlive the client.
    pub(crate) fn headers(&self) -> Headers {
        Headers { node: self.node.clone(), identity: Arc::clone(&self.identity) }
    }

    /// A header at the store's present revision.
    #[must_use]
    pub fn header_now(&self) -> Header {
        self.header(self.node.state().read().revision())
    }

    /// Reads a key or range.
    ///
    /// `serializable` reads this member's present state; otherwise a majority first confirms
    /// that nothing newer was acknowledged (one round trip, shared by all waiting reads).
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty key, [`Error::Rejected`] for a compacted or future
    /// revision, the availability errors without a leader.
    ///
    /// Source: etcd `RangeRequest`.
    pub async fn range(&self, range: Range, serializable: bool) -> Answered<RangeResponse> {
        let (header, Budgeted { answer, .. }) = self.range_budgeted(range, serializable).await?;
        Ok((header, answer))
    }

    /// As [`Client::range`]; a long answer waits for its part of the memory that long answers may
    /// take together, and keeps that part until the share is dropped.
    pub(crate) async fn range_budgeted(
        &self,
        range: Range,
        serializable: bool,
    ) -> Answered<Budgeted<RangeResponse>> {
        validate::range(&range)?;
        if serializable {
            self.refuse_removed()?;
        } else {
            self.refuse_learner()?;
            self.port.read_index().await?;
        }
        let response = self.read_range(&range).await?;
        self.meters.count_ranges(1);
        Ok((self.header(response.answer.revision), response))
    }

    /// Whole answer at once where it is small or sorted by the state machine; page by page at
    /// one revision where it is a long plain range.
    async fn read_range(&self, range: &Range) -> Result<Budgeted<RangeResponse>, Error> {
        let plain = range.sort_order == 0 && range.sort_target == 0;
        let bounded = range.limit > 0 && range.limit <= RANGE_PAGE_KEYS as i64;
        let filtered = range.min_mod_revision != 0
            || range.max_mod_revision != 0
            || range.min_create_revision != 0
            || range.max_create_revision != 0;
        if range.range_end.is_empty() || range.count_only {
            return Ok(self.read_whole(range)?.into());
        }
        if bounded {
            return Ok(self.answers.admit(self.read_whole(range)?).await);
        }
        if filtered || !plain {
            let sample = self.read_whole(&budget::sample_of(range))?;
            let bytes = budget::estimate(&sample, 0);
            drop(sample);
            let share = self.answers.take_if_long(bytes).await;
            return Ok(Budgeted { answer: self.read_whole(range)?, share });
        }
        let first = Range { limit: RANGE_PAGE_KEYS as i64, ..range.clone() };
        let mut response = self.read_whole(&first)?;
        if !response.more {
            return Ok(self.answers.admit(response).await);
        }
        let bytes = budget::estimate(&response, range.limit);
        let mut share = self.answers.try_take(bytes);
        if share.is_none() {
            // Whoever waits holds nothing.
            drop(response);
            share = Some(self.answers.take(bytes).await);
            response = self.read_whole(&first)?;
        }
        let limit = usize::try_from(range.limit).unwrap_or_default();
        let wanted = if limit > 0 { limit } else { usize::MAX };
        let revision = if range.revision > 0 { range.revision } else { response.revision };
        let pinned = range.revision > 0;
        while response.more && response.kvs.len() < wanted {
            tokio::task::yield_now().await;
            let Some(last) = response.kvs.last() else { break };
            let mut key = last.key.to_vec();
            key.push(0);
            let left = wanted - response.kvs.len();
            let page = Range {
                key: key.into(),
                limit: left.min(RANGE_PAGE_KEYS) as i64,
                revision,
                ..range.clone()
            };
            let page = match self.read_whole(&page) {
                // Compacted between two pages: the newest state is as good an answer.
                Err(Error::Rejected(Rejected::Compacted { .. })) if !pinned => {
                    return Ok(Budgeted { answer: self.read_whole(range)?, share });
                }
                page => page?,
            };
            response.more = page.more;
            response.kvs.extend(page.kvs);
        }
        Ok(Budgeted { answer: response, share })
    }

    fn read_whole(&self, range: &Range) -> Result<RangeResponse, Error> {
        let read = {
            let machine = self.node.state().read();
            machine.authorize(&self.caller, &Ask::Range(range))?;
            machine.range(range)
        };
        match read {
            Ok(answer) => Ok(answer?),
            Err(error) => {
                self.node.fail(&error);
                Err(Error::Stopped)
            }
        }
    }

    /// Writes one key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty key or contradictory options, [`Error::Rejected`] for an
    /// unknown lease, the availability errors without a quorum.
    ///
    /// Source: etcd `PutRequest`.
    pub async fn put(&self, put: Put) -> Answered<PutResponse> {
        validate::put(&put)?;
        self.check_size(put.key.len() + put.value.len())?;
        let (header, response) = self.propose(Command::Put(put)).await?;
        match response {
            Response::Put(response) => Ok((header, response)),
            other => unexpected(&other),
        }
    }

    /// Forgets history below `revision`; with `physical` answers once it is gone from memory
    /// and the engine.
    ///
    /// # Errors
    /// [`Error::Rejected`] for a revision that is compacted already or in the future.
    ///
    /// Source: etcd `CompactionRequest`.
    pub async fn compact(&self, revision: Revision, physical: bool) -> Answered<()> {
        let command = Command::Compact(Compact { revision });
        let (header, _) = self.propose(command).await?;
        if physical {
            self.node.compaction_done().await;
        }
        Ok((header, ()))
    }

    fn check_size(&self, bytes: usize) -> Result<(), Error> {
        if bytes + ENTRY_OVERHEAD_BYTES > self.limits.max_request_bytes {
            return Err(Error::TooLarge);
        }
        Ok(())
    }

    /// Sends a command through the log; the answer comes after this member has applied it.
    async fn propose(&self, command: Command) -> Answered<Response> {
        self.refuse_learner()?;
        let over_quota = self.is_over_quota(&command);
        let command = self.signed(command).await?;
        if over_quota {
            return Err(self.raise_no_space().await);
        }
        let Answer { applied, term, .. } = self.port.propose(command).await?;
        let header = Header { raft_term: term, ..self.header(applied.revision) };
        Ok((header, applied.outcome?))
    }

    fn is_over_quota(&self, command: &Command) -> bool {
        let cost_bytes = validate::quota_cost_bytes(command);
        cost_bytes > 0 && self.node.state().read().is_over_quota(cost_bytes)
    }

    /// Over the quota: the alarm is raised for all members, and what needs space is refused.
    async fn raise_no_space(&self) -> Error {
        let (action, member_id) = (AlarmAction::Activate, self.identity.member_id);
        let alarm = Command::Alarm { action, member_id, alarm: AlarmKind::NoSpace };
        if let Err(error) = self.propose_as_system(alarm).await {
            return error;
        }
        tracing::warn!(member_id, "database space exceeded: raised the alarm NOSPACE");
        Rejected::NoSpace.into()
    }

    fn refuse_learner(&self) -> Result<(), Error> {
        if self.node.is_learner() { Err(Error::Learner) } else { Ok(()) }
    }

    fn refuse_removed(&self) -> Result<(), Error> {
        if self.node.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
    }
}

/// Short forms for embedders.
/// See [`Client::headers`].
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    node: Node,
    identity: Arc<Identity>,
}

impl Headers {
    /// A header at `revision`, with the present term.
    pub(crate) fn at(&self, revision: Revision) -> Header {
        header(&self.node, &self.identity, revision)
    }
}

fn header(node: &Node, identity: &Identity, revision: Revision) -> Header {
    let Identity { cluster_id, member_id, .. } = *identity;
    Header { cluster_id, member_id, revision, raft_term: node.term() }
}

impl Client {
    /// The newest version of `key`, linearizable.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn get(
        &self,
        key: impl Into<Bytes>,
    ) -> Result<Option<tripod_storage::KeyValue>, Error> {
        let range = Range { key: key.into(), ..Range::default() };
        Ok(self.range(range, false).await?.1.kvs.pop())
    }

    /// Every live pair whose key starts with `prefix`, in key order, linearizable.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn get_prefix(
        &self,
        prefix: impl Into<Bytes>,
    ) -> Result<Vec<tripod_storage::KeyValue>, Error> {
        let key = prefix.into();
        let range = Range { range_end: prefix_end(&key), key, ..Range::default() };
        Ok(self.range(range, false).await?.1.kvs)
    }

    /// Writes `value` under `key`; the revision of the write.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn set(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Revision, Error> {
        let put = Put { key: key.into(), value: value.into(), ..Put::default() };
        Ok(self.put(put).await?.0.revision)
    }

    /// Deletes `key`; whether it was there.
    ///
    /// # Errors
    /// As [`Client::delete_range`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Error> {
        let delete = DeleteRange { key: key.into(), ..DeleteRange::default() };
        Ok(self.delete_range(delete).await?.1.deleted > 0)
    }
}

/// The exclusive end of the keys that start with `prefix`: `\0` (no end) if there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// The state machine answered another kind of command: it is broken, and the request's fate is
/// unknown. What it answered may hold values, so the log gets its kind alone.
fn unexpected<T>(response: &Response) -> Answered<T> {
    let kind = std::mem::discriminant(response);
    tracing::error!(?kind, "the state machine answered another kind of command");
    Err(Error::Stopped)
}
