//! Changes of the membership and of the leader, one at a time, on the leader.
//!
//! Invariants:
//! - a change runs to its end once begun, even if whoever asked has gone;
//! - the local read shortcut of a sole voter is off before a change is proposed and comes back
//!   only after the log shows that it still holds ([`Sole`]);
//! - a joint configuration left behind by a leader that died is completed by the next one;
//! - a new voter first catches up as a learner: `AddVoter` never puts the quorum at the mercy of
//!   a member that has not started (etcd adds it at once).

mod rules;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{
    ChangeMembers, Instant as _,
    async_runtime::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tripod_storage::apply::StateMachine;

use self::rules::{Standing, Voter};
use crate::{
    error::MemberError,
    hub::Hub,
    node::Raft,
    route::{Route, Routes},
    sole::Sole,
    types::{Membership, NodeId, Peer, StoredMembership, TypeConfig, voters},
};

/// Changes that wait for their turn.
const WAITING_MAX: usize = 16;

/// How often the leader looks for joint configurations left behind and learners that are ready.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(250);

/// A learner this close to the leader is in sync.
pub(crate) const LEARNER_LAG_MAX: u64 = 1_000;

/// One change, as it travels to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    AddLearner(NodeId, Peer),
    AddVoter(NodeId, Peer),
    Promote(NodeId),
    Remove(NodeId),
    UpdateUrls(NodeId, Vec<String>),
    Transfer(NodeId),
}

type Job = (Change, oneshot::Sender<Result<(), MemberError>>);

/// Handle that takes changes. Clones share the queue.
#[derive(Clone)]
pub(crate) struct Members {
    jobs: mpsc::Sender<Job>,
    routes: Routes,
}

impl Members {
    /// The handle and the queue for [`Worker::run`].
    pub(crate) fn new(routes: Routes) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, queue) = mpsc::channel(WAITING_MAX);
        (Self { jobs, routes }, queue)
    }

    /// Makes a change, if this member leads.
    pub(crate) async fn change_here(&self, change: Change) -> Result<(), MemberError> {
        let leader = match &*self.routes.borrow() {
            Route::Here => None,
            Route::There(id, _) => Some(Some(*id)),
            Route::None => Some(None),
        };
        if let Some(leader) = leader {
            return Err(MemberError::NotLeader { leader });
        }
        let (sender, receiver) = oneshot::channel();
        self.jobs.try_send((change, sender)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MemberError::InProgress,
            mpsc::error::TrySendError::Closed(_) => MemberError::Stopped,
        })?;
        receiver.await.unwrap_or(Err(MemberError::Stopped))
    }
}

/// Limits of changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) learners_max: usize,
    pub(crate) election_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    /// Longest time for one change.
    pub(crate) timeout: Duration,
    /// Refuse what puts the quorum at risk.
    pub(crate) strict: bool,
}

/// Makes the changes. One for each member, on the consensus thread.
pub(crate) struct Worker {
    pub(crate) node_id: NodeId,
    pub(crate) raft: Raft,
    pub(crate) routes: Routes,
    pub(crate) sole: Arc<Sole>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) state: Arc<RwLock<StateMachine>>,
    pub(crate) limits: Limits,
    /// Proposals wait while this is set, so that a transfer's target can catch up.
    pub(crate) hold: Arc<AtomicBool>,
}

/// Clears the hold whatever happens.
struct Held<'a>(&'a AtomicBool);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Worker {
    /// Runs until dropped.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut tick = tokio::time::interval(MAINTENANCE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                job = queue.recv() => {
                    let Some((change, answer)) = job else { return };
                    tracing::info!(?change, "membership change");
                    let result = self.apply(change).await;
                    if let Err(error) = &result {
                        tracing::info!(%error, "membership change failed");
                    }
                    // Whoever asked may be gone.
                    let _ = answer.send(result);
                }
                _ = tick.tick() => self.maintain().await,
            }
        }
    }

    async fn apply(&self, change: Change) -> Result<(), MemberError> {
        match change {
            Change::AddLearner(id, peer) => self.add(id, Peer { promote: false, ..peer }).await,
            Change::AddVoter(id, peer) => self.add(id, Peer { promote: true, ..peer }).await,
            Change::Promote(id) => self.promote(id).await,
            Change::Remove(id) => self.remove(id).await,
            Change::UpdateUrls(id, urls) => self.update_urls(id, urls).await,
            Change::Transfer(to) => self.transfer(to).await,
        }
    }

    fn membership(&self) -> Arc<StoredMembership> {
        self.raft.metrics().borrow_watched().membership_config.clone()
    }

    async fn add(&self, id: NodeId, peer: Peer) -> Result<(), MemberError> {
        let membership = self.membership();
        let membership = membership.membership();
        if id == 0 || membership.get_node(&id).is_some() || self.hub.is_removed(id) {
            return Err(MemberError::IdExists);
        }
        if has_url(membership.nodes(), None, &peer.peer_urls) {
            return Err(MemberError::PeerUrlExists);
        }
        let is_learner = !peer.promote;
        let is_for_good = |id: &NodeId| membership.get_node(id).is_some_and(|peer| !peer.promote);
        let learners = membership.learner_ids().filter(is_for_good).count();
        if is_learner && learners >= self.limits.learners_max {
            return Err(MemberError::TooManyLearners);
        }
        if self.limits.strict {
            self.standing(membership).await.may_add(is_learner)?;
        }
        self.change(ChangeMembers::AddNodes([(id, peer)].into())).await
    }

    async fn promote(&self, id: NodeId) -> Result<(), MemberError> {
        let membership = self.membership();
        let membership = membership.membership();
        if membership.get_node(&id).is_none() {
            return Err(MemberError::NotFound);
        }
        let promotes_itself = membership.get_node(&id).is_some_and(|peer| peer.promote);
        if promotes_itself || voters(membership).contains(&id) {
            return Err(MemberError::NotLearner);
        }
        if !self.in_sync(id) {
            return Err(MemberError::LearnerNotReady);
        }
        if self.limits.strict {
            self.standing(membership).await.may_promote()?;
        }
        self.change(ChangeMembers::AddVoterIds([id].into())).await
    }

    /// The follower answered lately and is close to the leader's log.
    fn in_sync(&self, id: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        let Some(matched) = matched else { return false };
        let last = metrics.last_log_index.unwrap_or(0);
        matched.index + LEARNER_LAG_MAX >= last && self.is_fresh(id)
    }

    /// The follower acknowledged a heartbeat within an election timeout.
    fn is_fresh(&self, id: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let acked = metrics.heartbeat.as_ref().and_then(|all| all.get(&id).copied().flatten());
        acked.is_some_and(|acked| acked.elapsed() < self.limits.election_timeout)
    }

    /// The voters and those on their way to a vote. Whoever answers from now on within half an
    /// election timeout is active: an older answer may come from a member that has died since.
    async fn standing(&self, membership: &Membership) -> Standing {
        let asked = Instant::now();
        let limit = self.limits.election_timeout / 2;
        loop {
            let standing = self.standing_since(membership, asked);
            if standing.all_active() || asked.elapsed() >= limit {
                return standing;
            }
            tokio::time::sleep(self.limits.heartbeat_interval / 4).await;
        }
    }

    fn standing_since(&self, membership: &Membership, asked: Instant) -> Standing {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let state = self.state.read();
        let voters = voters(membership);
        let votes = |(id, peer): &(&NodeId, &Peer)| peer.promote || voters.contains(id);
        let voter = |(id, _): (&NodeId, &Peer)| {
            let named = state.member_attributes(*id).is_some_and(|found| !found.name.is_empty());
            let is_self = *id == self.node_id;
            let acked = metrics.heartbeat.as_ref().and_then(|all| all.get(id).copied().flatten());
            let answered = acked.is_some_and(|acked| acked.elapsed() < asked.elapsed());
            (*id, Voter { started: named || is_self, active: is_self || answered })
        };
        Standing::new(membership.nodes().filter(votes).map(voter).collect())
    }

    async fn remove(&self, id: NodeId) -> Result<(), MemberError> {
        let membership = self.membership();
        let membership = membership.membership();
        if membership.get_node(&id).is_none() {
            return Err(MemberError::NotFound);
        }
        let mut remaining = voters(membership);
        if !remaining.remove(&id) {
            return self.change(ChangeMembers::RemoveNodes([id].into())).await;
        }
        if remaining.is_empty() {
            return Err(MemberError::NotEnoughStarted);
        }
        if self.limits.strict {
            self.standing(membership).await.may_remove(id)?;
        }
        self.change(ChangeMembers::RemoveVoters([id].into())).await
    }

    async fn update_urls(&self, id: NodeId, urls: Vec<String>) -> Result<(), MemberError> {
        let membership = self.membership();
        let membership = membership.membership();
        let Some(peer) = membership.get_node(&id) else { return Err(MemberError::NotFound) };
        if has_url(membership.nodes(), Some(id), &urls) {
            return Err(MemberError::PeerUrlExists);
        }
        let peer = Peer { peer_urls: urls, ..peer.clone() };
        self.change(ChangeMembers::SetNodes([(id, peer)].into())).await
    }

    /// Proposes one change and waits until it is committed.
    async fn change(&self, change: ChangeMembers<NodeId, Peer>) -> Result<(), MemberError> {
        let guard = self.sole.begin_change();
        let changing = self.raft.change_membership(change, false);
        let result = tokio::time::timeout(self.limits.timeout, changing).await;
        drop(guard);
        match result {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(member_error(&error)),
            Err(_) => Err(MemberError::Timeout),
        }
    }

    /// Completes what a dead leader left half done, and promotes learners that are ready.
    async fn maintain(&self) {
        if *self.routes.borrow() != Route::Here {
            return;
        }
        let membership = self.membership();
        let membership = membership.membership();
        if membership.get_joint_config().len() > 1 {
            let result = self.change(ChangeMembers::AddVoterIds([].into())).await;
            tracing::info!(?result, "completed a joint configuration left behind");
            return;
        }
        if !self.sole.is_given() && membership.voter_ids().eq([self.node_id]) {
            self.sole.renew(self.node_id, &self.raft, &self.hub).await;
        }
        let ready = membership.learner_ids().find(|id| {
            membership.get_node(id).is_some_and(|peer| peer.promote) && self.in_sync(*id)
        });
        if let Some(id) = ready {
            let result = self.change(ChangeMembers::AddVoterIds([id].into())).await;
            tracing::info!(node_id = id, ?result, "promoted a member that has caught up");
        }
    }

    /// Hands leadership to `to`.
    ///
    /// openraft never takes a transfer back: until an election this leader refuses writes and
    /// sends no heartbeats. So it is asked only for a target that answers and has the whole log;
    /// proposals are held for a moment so that it can.
    async fn transfer(&self, to: NodeId) -> Result<(), MemberError> {
        if to == self.node_id {
            return Ok(());
        }
        let membership = self.membership();
        let membership = membership.membership();
        if membership.get_node(&to).is_none() {
            return Err(MemberError::NotFound);
        }
        if !voters(membership).contains(&to) {
            return Err(MemberError::TransfereeNotReady("it is a learner".into()));
        }
        if !self.in_sync(to) {
            return Err(MemberError::TransfereeNotReady("it does not answer or is behind".into()));
        }
        self.hold.store(true, Ordering::SeqCst);
        let _held = Held(&self.hold);
        let deadline = Instant::now() + self.limits.election_timeout;
        let mut agreed = 0;
        // Twice in a row: the metrics may be one turn of the core behind.
        while agreed < 2 {
            if Instant::now() >= deadline {
                return Err(MemberError::TransfereeNotReady("it does not catch up".into()));
            }
            tokio::time::sleep(self.limits.heartbeat_interval / 20).await;
            agreed = if self.has_whole_log(to) { agreed + 1 } else { 0 };
        }
        let guard = self.sole.begin_change();
        let asked = self.raft.trigger().transfer_leader(to).await;
        drop(guard);
        asked.map_err(|_| MemberError::Stopped)?;
        let mut metrics = self.raft.server_metrics();
        let moved = async {
            while metrics.borrow_watched().current_leader != Some(to) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        match tokio::time::timeout(2 * self.limits.election_timeout, moved).await {
            Ok(()) => Ok(()),
            Err(_) => Err(MemberError::TransferTimeout),
        }
    }

    /// Nothing is under way here and the target has the end of the log.
    fn has_whole_log(&self, to: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&to).copied().flatten());
        self.hub.batches_waiting() == 0
            && metrics.last_log_index.is_some()
            && metrics.last_log_index == matched.map(|log_id| log_id.index)
    }
}

/// Another member than `except` has one of `urls`.
fn has_url<'a>(
    mut nodes: impl Iterator<Item = (&'a NodeId, &'a Peer)>,
    except: Option<NodeId>,
    urls: &[String],
) -> bool {
    nodes.any(|(id, peer)| {
        Some(*id) != except && peer.peer_urls.iter().any(|url| urls.contains(url))
    })
}

fn member_error(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MemberError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            MemberError::NotLeader { leader: forward.leader_id }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_)
            | ChangeMembershipError::UncommittedLeaderLog(_) => MemberError::InProgress,
            ChangeMembershipError::EmptyMembership(_) => MemberError::NotEnoughStarted,
            ChangeMembershipError::LearnerNotFound(_) => MemberError::NotFound,
            _ => MemberError::InProgress,
        },
        RaftError::APIError(_) => MemberError::Timeout,
        RaftError::Fatal(_) => MemberError::Stopped,
    }
}
