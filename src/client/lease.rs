//! Leases: the client's calls, and the leader's service that keeps their deadlines.
//!
//! The replicated table says which leases exist; deadlines are volatile and the leader's alone
//! ([`Lessor`]). A renewal is answered only after the leader has confirmed that it still leads,
//! so a deposed leader renews nothing; and expiry is proposed by a command that is never
//! forwarded, so a deposed leader ends nothing either.
//!
//! Source: etcd lease API; etcd issue 15247 for the deposed leader.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tripod_raft::{Node, Port};
use tripod_storage::{
    LeaseId, Rejected,
    auth::Ask,
    command::{Command, Response},
    lease::{LeaseChange, Lessor, Renewal},
};

use super::{Answered, Client, Error, unexpected};

/// Longest TTL of a lease in seconds, as etcd.
const TTL_S_MAX: i64 = 9_000_000_000;
/// Between two looks for expired leases, as etcd.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Leases ended at one look: 1,000 a second, as etcd.
const EXPIRED_MAX: usize = 500;
/// Checkpoints in one command, as etcd.
const CHECKPOINTS_MAX: usize = 1000;
/// Ids tried for a lease that asks the server to choose.
const ID_ATTEMPTS_MAX: usize = 8;
/// How long a renewal waits for the end of a lease that has expired.
const REVOKE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Kinds of calls to the leader (see [`Node::call_leader`]).
const CALL_RENEW: u8 = 1;
const CALL_REMAINING: u8 = 2;
/// "No such lease" in an answer of the leader. An empty answer: it could not tell.
const UNKNOWN: i64 = -1;

/// What is left of a lease (etcd `LeaseTimeToLiveResponse`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseRemaining {
    /// Whole seconds left, rounded down.
    pub remaining_s: i64,
    /// TTL granted in seconds.
    pub granted_s: i64,
    /// Keys attached, where asked for.
    pub keys: Vec<Bytes>,
}

/// Keeps the deadlines of all leases while this member leads.
#[derive(Debug)]
pub struct LeaseService {
    node: Node,
    port: Port,
    lessor: Mutex<Lessor>,
    /// Term the lessor was promoted in.
    term: AtomicU64,
    started: Instant,
    /// Least TTL in seconds: 1.5 election timeouts, rounded up.
    ttl_s_min: i64,
    extend_ms: u64,
    checkpoint: bool,
    ids: RandomState,
    next_id: AtomicU64,
    renewals: AtomicU64,
}

impl LeaseService {
    /// A service over `node`; `port` must be driven by the caller. `checkpoint` replicates
    /// remaining times, so that a new leader does not restart full TTLs.
    #[must_use]
    pub fn new(node: Node, port: Port, election_timeout: Duration, checkpoint: bool) -> Arc<Self> {
        let extend_ms = u64::try_from(election_timeout.as_millis()).unwrap_or(u64::MAX);
        let ttl_s_min = i64::try_from(extend_ms.saturating_mul(3).div_ceil(2000)).unwrap_or(2);
        let service = Arc::new(Self {
            node,
            port,
            lessor: Mutex::new(Lessor::new()),
            term: AtomicU64::new(0),
            started: Instant::now(),
            ttl_s_min,
            extend_ms,
            checkpoint,
            ids: RandomState::new(),
            next_id: AtomicU64::new(1),
            renewals: AtomicU64::new(0),
        });
        service.register_calls();
        service
    }

    /// Ends expired leases while this member leads; returns when the node stops.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.node.is_stopped() {
            ticks.tick().await;
            if self.lead() {
                self.end_expired().await;
                if self.checkpoint {
                    self.replicate_remaining().await;
                }
            }
        }
    }

    /// Renewals made here.
    pub(crate) fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// Where the service's own proposals go.
    pub(crate) fn port(&self) -> &Port {
        &self.port
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Brings the lessor in line with leadership and the table; whether this member leads.
    fn lead(&self) -> bool {
        let mut lessor = self.lessor.lock();
        if !self.node.is_leader() {
            lessor.demote();
            return false;
        }
        let now_ms = self.now_ms();
        let term = self.node.term();
        let promoted_in = self.term.swap(term, Ordering::AcqRel);
        if !lessor.is_primary() || promoted_in != term {
            let mut machine = self.node.state().write();
            // What the feed holds is in the table already.
            let _ = machine.take_lease_changes();
            lessor.promote(now_ms, self.extend_ms, machine.leases());
            return true;
        }
        if !self.node.state().read().has_lease_changes() {
            return true;
        }
        let mut machine = self.node.state().write();
        match machine.take_lease_changes() {
            Some(changes) => changes.into_iter().for_each(|change| match change {
                LeaseChange::Granted { id, ttl_s } => lessor.granted(id, ttl_s, now_ms),
                LeaseChange::Revoked { id } => lessor.revoked(id),
                LeaseChange::Checkpointed { id, remaining_s } => {
                    lessor.checkpointed(id, remaining_s);
                }
            }),
            None => lessor.promote(now_ms, 0, machine.leases()),
        }
        true
    }

    async fn end_expired(&self) {
        let expired = self.lessor.lock().expired(self.now_ms(), EXPIRED_MAX);
        if expired.is_empty() {
            return;
        }
        let term = self.term.load(Ordering::Acquire);
        let ended =
            expired.into_iter().map(|id| self.port.propose(Command::LeaseExpire { id, term }));
        for answer in futures::future::join_all(ended).await {
            // Failed: the lessor shows the lease again.
            if let Err(error) = answer {
                tracing::warn!(%error, "an expired lease could not be ended yet");
            }
        }
    }

    async fn replicate_remaining(&self) {
        let remaining_s = self.lessor.lock().checkpoints_due(self.now_ms(), CHECKPOINTS_MAX);
        if remaining_s.is_empty() {
            return;
        }
        if let Err(error) = self.port.propose(Command::LeaseCheckpoint { remaining_s }).await {
            tracing::warn!(%error, "remaining lease times could not be replicated");
        }
    }

    /// Renews on this member, which must be the leader: seconds, or none for no such lease.
    async fn renew_here(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        self.port.read_index().await?;
        if !self.lead() {
            return Err(Error::NotLeader);
        }
        let renewal = self.lessor.lock().renew(id, self.now_ms());
        match renewal {
            Renewal::Renewed { ttl_s, clear_checkpoint } => {
                self.renewals.fetch_add(1, Ordering::Relaxed);
                if clear_checkpoint {
                    let remaining_s = vec![(id, 0)];
                    self.port.propose(Command::LeaseCheckpoint { remaining_s }).await?;
                }
                Ok(Some(ttl_s))
            }
            Renewal::Expired => {
                self.wait_until_gone(id).await;
                Ok(None)
            }
            Renewal::Unknown => Ok(None),
        }
    }

    async fn wait_until_gone(&self, id: LeaseId) {
        let mut applied = self.node.applied();
        let gone = async {
            while self.node.state().read().lease(id).is_some() && applied.changed().await.is_ok() {}
        };
        let _ = tokio::time::timeout(REVOKE_WAIT_MAX, gone).await;
    }

    /// Seconds left by this member's deadlines, which must be the leader.
    async fn remaining_here(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        self.port.read_index().await?;
        if !self.lead() {
            return Err(Error::NotLeader);
        }
        Ok(self.lessor.lock().remaining_s(id, self.now_ms()))
    }

    fn register_calls(self: &Arc<Self>) {
        // The node owns the handlers and the service owns a handle of the node: no cycle.
        let service = Arc::downgrade(self);
        self.node.on_call(CALL_RENEW, move |request| {
            let service = service.clone();
            Box::pin(async move {
                let answer = async {
                    let ttl = service.upgrade()?.renew_here(decode(&request)?).await.ok()?;
                    Some(encode(ttl.unwrap_or(UNKNOWN)))
                };
                answer.await.unwrap_or_default()
            })
        });
        let service = Arc::downgrade(self);
        self.node.on_call(CALL_REMAINING, move |request| {
            let service = service.clone();
            Box::pin(async move {
                let answer = async {
                    let left = service.upgrade()?.remaining_here(decode(&request)?).await.ok()?;
                    Some(encode(left.unwrap_or(UNKNOWN)))
                };
                answer.await.unwrap_or_default()
            })
        });
    }

    async fn ask_leader(&self, kind: u8, id: LeaseId) -> Result<Option<i64>, Error> {
        let answer = self.node.call_leader(kind, encode(id)).await?;
        let seconds = decode(&answer).ok_or(Error::Timeout)?;
        Ok((seconds != UNKNOWN).then_some(seconds))
    }

    async fn renew(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        if self.node.is_leader() {
            match self.renew_here(id).await {
                Err(Error::NotLeader) => {}
                answer => return answer,
            }
        }
        self.ask_leader(CALL_RENEW, id).await
    }

    async fn remaining(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        if self.node.is_leader() {
            match self.remaining_here(id).await {
                Err(Error::NotLeader) => {}
                answer => return answer,
            }
        }
        self.ask_leader(CALL_REMAINING, id).await
    }

    /// A positive id that is hard to meet twice.
    fn choose_id(&self) -> LeaseId {
        let count = self.next_id.fetch_add(1, Ordering::Relaxed);
        let hash = self.ids.hash_one(count) & (u64::MAX >> 1);
        LeaseId::try_from(hash).unwrap_or(1).max(1)
    }

    /// Leases by expiry on the leader, by id elsewhere.
    fn list(&self) -> Vec<LeaseId> {
        if self.lead() {
            return self.lessor.lock().by_expiry();
        }
        self.node.state().read().leases().into_iter().map(|lease| lease.id).collect()
    }
}

fn encode(number: i64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn decode(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(bytes.try_into().ok()?))
}

impl Client {
    /// Makes a lease; `id` 0 lets the server choose, a TTL below the minimum is raised to it.
    /// Answers id and granted TTL in seconds.
    ///
    /// # Errors
    /// [`Error::LeaseTtlTooLarge`], [`Rejected::LeaseExists`], the availability errors.
    ///
    /// Source: etcd `LeaseGrantRequest`.
    pub async fn lease_grant(&self, id: LeaseId, ttl_s: i64) -> Answered<(LeaseId, i64)> {
        if ttl_s > TTL_S_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        let ttl_s = ttl_s.max(self.leases.ttl_s_min);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let chosen = if id == 0 { self.leases.choose_id() } else { id };
            match self.propose(Command::LeaseGrant { id: chosen, ttl_s }).await {
                Ok((header, Response::LeaseGrant { id, ttl_s })) => {
                    return Ok((header, (id, ttl_s)));
                }
                Ok((_, other)) => return unexpected(&other),
                Err(Error::Rejected(Rejected::LeaseExists))
                    if id == 0 && attempts < ID_ATTEMPTS_MAX => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends a lease and deletes every key attached to it, in one revision.
    ///
    /// # Errors
    /// [`Rejected::LeaseNotFound`], the availability errors.
    pub async fn lease_revoke(&self, id: LeaseId) -> Answered<()> {
        let (header, _) = self.propose(Command::LeaseRevoke { id }).await?;
        Ok((header, ()))
    }

    /// Gives a lease its full TTL again: the TTL in seconds, `None` for no such lease.
    ///
    /// # Errors
    /// The availability errors: the leader must be reached and confirmed.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        self.refuse_learner()?;
        self.permit_caught_up(&Ask::LeaseRenew(id)).await?;
        self.leases.renew(id).await
    }

    /// What is left of a lease, and its keys if asked for; `None` for no such lease.
    ///
    /// # Errors
    /// The availability errors.
    pub async fn lease_time_to_live(
        &self,
        id: LeaseId,
        with_keys: bool,
    ) -> Answered<Option<LeaseRemaining>> {
        self.refuse_learner()?;
        let ask = if with_keys { Ask::LeaseKeys(id) } else { Ask::Known };
        self.permit_caught_up(&ask).await?;
        let remaining_s = self.leases.remaining(id).await?;
        self.port.read_index().await?;
        let machine = self.node.state().read();
        machine.authorize(&self.caller, &ask)?;
        let header = self.header(machine.revision());
        let lease = machine.lease(id).zip(remaining_s).map(|(lease, remaining_s)| LeaseRemaining {
            remaining_s,
            granted_s: lease.ttl_s,
            keys: if with_keys { machine.lease_keys(id) } else { Vec::new() },
        });
        Ok((header, lease))
    }

    /// Ids of all leases.
    ///
    /// # Errors
    /// The availability errors.
    pub async fn lease_list(&self) -> Answered<Vec<LeaseId>> {
        self.refuse_learner()?;
        self.port.read_index().await?;
        self.permit(&Ask::LeaseList)?;
        Ok((self.header_now(), self.leases.list()))
    }
}
