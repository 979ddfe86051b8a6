//! The handle of one member: start, propose, read, change members, stop.
//!
//! One OS thread for each member, `tripod-consensus`, runs openraft, the log with its syncs,
//! applying and every peer connection; `tripod-flush` moves applied changes into the engine.

mod measured;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, LocalBoxFuture};
use openraft::{Instant as _, LogIdOptionExt, async_runtime::WatchReceiver};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tripod_storage::{apply::StateMachine, codec, command::Command, engine::Engine};

use crate::{
    Config, Error,
    consensus::{self, Started},
    error::{CallError, MemberError, ProposeError, ReadError},
    fatal::{Fatal, FatalHook},
    flusher::Flusher,
    hub::Hub,
    log_store::LogStore,
    members::{Change, Members},
    network::Network,
    port::{Answer, Port},
    route::{Route, Routes},
    server::{CALL_BYTES_MAX, CallHandler, PeerServer},
    state_machine::StateStore,
    status::{MemberStatus, Metrics, Status},
    transport::{PeerIdentity, PeerStream, PeerTransport},
    types::{NodeId, Peer, TypeConfig, voters},
    wire::{self, CallReply, Lane, kind},
};

/// openraft's handle with our types.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateStore>;

/// A task for the consensus thread.
pub(crate) type Job = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// How a member ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Graceful,
    Kill,
}

/// Pause before asking the leader again.
const CALL_RETRY: Duration = Duration::from_millis(20);

/// How a member comes into being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// A new cluster of these voters. Every one of them starts with the same map. A member whose
    /// log already exists goes on from it.
    New {
        /// All voters of the new cluster.
        members: BTreeMap<NodeId, Peer>,
    },
    /// Waits to be added to a running cluster. A member whose log already exists goes on from it.
    Join,
    /// The log exists; it is an error if it does not.
    Existing,
    /// The log exists, and this member goes on alone: everybody else is removed. For a cluster
    /// that lost its quorum for good; never start two survivors so.
    Alone,
}

/// One member of the cluster. Clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// A handle that keeps no member alive, for what the member itself owns.
#[derive(Clone)]
pub struct WeakNode {
    inner: Weak<Inner>,
}

impl WeakNode {
    /// The member, if anybody else still holds it.
    pub fn upgrade(&self) -> Option<Node> {
        Some(Node { inner: self.inner.upgrade()? })
    }
}

struct Inner {
    config: Config,
    raft: Raft,
    hub: Arc<Hub>,
    state: Arc<RwLock<StateMachine>>,
    log: LogStore,
    flusher: Flusher,
    network: Network,
    routes: Routes,
    server: Arc<PeerServer>,
    members: Members,
    jobs: mpsc::UnboundedSender<Job>,
    port: Port,
    stop: Mutex<Option<oneshot::Sender<Stop>>>,
    fatal: Fatal,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    /// Opens log and state and starts the member. Blocks for the recovery: the log behind the
    /// engine's last state is replayed.
    ///
    /// `fatal` is called once, from any thread, when the member must stop: it should log and end
    /// the process. The state on disk stays consistent; nothing is acknowledged any more.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(
        config: Config,
        bootstrap: Bootstrap,
        engine: Arc<dyn Engine>,
        transport: Arc<dyn PeerTransport>,
        fatal: FatalHook,
    ) -> Result<Self, Error> {
        config.validate()?;
        let fatal = Fatal::new(fatal);
        let Started {
            raft,
            hub,
            state,
            log,
            flusher,
            network,
            routes,
            server,
            members,
            jobs,
            stop,
            thread,
        } = consensus::start(&config, bootstrap, engine, transport, fatal.clone())?;
        let port = Port::new(hub.queues.clone());
        let driver = port.drive();
        let job: Job = Box::new(move || Box::pin(driver));
        jobs.send(job).map_err(|_| Error::Stopped("at start".into()))?;
        let inner = Inner {
            config,
            raft,
            hub,
            state,
            log,
            flusher,
            network,
            routes,
            server,
            members,
            jobs,
            port,
            stop: Mutex::new(Some(stop)),
            fatal,
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A handle that does not keep the member alive.
    pub fn downgrade(&self) -> WeakNode {
        WeakNode { inner: Arc::downgrade(&self.inner) }
    }

    /// A new submission port; have one for each front-end thread.
    pub fn port(&self) -> Port {
        Port::new(self.inner.hub.queues.clone())
    }

    /// Replicates one command. For occasional callers; front ends use a [`Port`].
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Answer, ProposeError>> + Send + 'static {
        self.inner.port.propose(command)
    }

    /// Makes reading [`Node::state`] linearizable. For occasional callers.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_index(&self) -> impl Future<Output = Result<(), ReadError>> + Send + 'static {
        self.inner.port.read_index()
    }

    /// The replicated state on this member. Hold the lock briefly: applying waits for it.
    pub fn state(&self) -> &RwLock<StateMachine> {
        &self.inner.state
    }

    /// A snapshot from the leader is replacing the state: [`Node::state`] may be locked for as
    /// long as that takes. Refuse reads rather than wait on a front-end thread.
    pub fn is_installing_snapshot(&self) -> bool {
        self.inner.hub.is_installing()
    }

    /// The same, to keep.
    pub fn state_handle(&self) -> Arc<RwLock<StateMachine>> {
        self.inner.state.clone()
    }

    /// Holds one above the last applied index; changes once for each applied group of entries.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.hub.watch_applied()
    }

    /// This member's settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Something fatal happened: this member acknowledges nothing any more.
    pub fn has_failed(&self) -> bool {
        self.inner.fatal.tripped()
    }

    /// This member leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        *self.inner.routes.borrow() == Route::Here
    }

    /// The leader, as far as this member knows.
    pub fn leader(&self) -> Option<NodeId> {
        match &*self.inner.routes.borrow() {
            Route::None => None,
            Route::Here => Some(self.inner.config.node_id),
            Route::There(id, _) => Some(*id),
        }
    }

    /// Current term, members and progress.
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters = voters(membership);
        let member = |(id, peer): (&NodeId, &Peer)| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(id).copied());
            let acked = metrics.heartbeat.as_ref().and_then(|all| all.get(id).copied().flatten());
            let status = MemberStatus {
                peer: peer.clone(),
                is_learner: !voters.contains(id),
                match_index: matched.flatten().index(),
                acknowledged_ago: acked.map(|acked| acked.elapsed()),
            };
            (*id, status)
        };
        Status {
            node_id: self.inner.config.node_id,
            term: metrics.current_term,
            leader: self.leader(),
            is_learner: !voters.contains(&self.inner.config.node_id),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.index().unwrap_or(0),
            applied_index: self.inner.hub.applied_index().unwrap_or(0),
            members: membership.nodes().map(member).collect(),
            log_bytes: self.inner.log.size_bytes(),
        }
    }

    /// Present term.
    pub fn term(&self) -> u64 {
        self.inner.raft.metrics().borrow_watched().current_term
    }

    /// This member has no vote, as far as it knows.
    pub fn is_learner(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let id = self.inner.config.node_id;
        !metrics.membership_config.membership().voter_ids().any(|voter| voter == id)
    }

    /// This member was stopped, or must not go on.
    pub fn is_stopped(&self) -> bool {
        self.inner.jobs.is_closed() || self.has_failed()
    }

    /// Stops this member for a failure of its storage: nothing is acknowledged any more.
    pub fn fail(&self, error: &tripod_storage::Error) {
        self.inner.fatal.report(error);
    }

    /// Makes everything applied so far durable in the engine; false if the member stops.
    pub async fn flush(&self) -> bool {
        self.inner.flusher.sync().await.is_some() || !self.is_stopped()
    }

    /// Waits until compacted history is gone from memory and engine.
    pub async fn compaction_done(&self) {
        self.inner.flusher.pruned().await;
    }

    /// Counters since the start.
    pub fn metrics(&self) -> Metrics {
        let counters = &self.inner.hub.queues.counters;
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Metrics {
            proposals: get(&counters.proposals),
            proposals_failed: get(&counters.proposals_failed),
            batches: get(&counters.batches),
            forwarded: get(&counters.forwarded),
            reads: get(&counters.reads),
            read_rounds: get(&counters.read_rounds),
            leader_changes: get(&counters.leader_changes),
            log_syncs: self.inner.log.syncs(),
            snapshots_sent: get(&counters.snapshots_sent),
            snapshots_received: get(&counters.snapshots_received),
            peer_bytes_sent: get(&counters.peer_bytes_sent),
            peer_bytes_received: get(&counters.peer_bytes_received),
            peers_refused: get(&counters.peers_refused),
        }
    }

    /// Waits until a leader is known, at most `timeout`.
    pub async fn wait_leader(&self, timeout: Duration) -> Option<NodeId> {
        let mut routes = self.inner.routes.clone();
        let known = routes.wait_for(|route| *route != Route::None);
        tokio::time::timeout(timeout, known).await.ok()?.ok()?;
        self.leader()
    }

    /// Serves a connection that a peer opened. Returns when it ends; may be called on any
    /// thread, best on the consensus thread ([`Node::spawn_on_consensus`]).
    pub async fn serve_peer(&self, stream: Box<dyn PeerStream>, identity: PeerIdentity) {
        self.inner.server.clone().serve(stream, identity).await;
    }

    /// Runs a future on the consensus thread. A front end may put some connections there: a
    /// single client then pays for no thread change. The task ends with the member.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the member has stopped.
    pub fn spawn_on_consensus(
        &self,
        make: impl FnOnce() -> LocalBoxFuture<'static, ()> + Send + 'static,
    ) -> Result<(), Error> {
        self.inner.jobs.send(Box::new(make)).map_err(|_| Error::Stopped("by request".into()))
    }

    /// Registers what answers calls of `kind` while this member leads. Runs on the consensus
    /// thread of the leader and must not block.
    pub fn on_call(
        &self,
        kind: u8,
        handler: impl Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync + 'static,
    ) {
        let handler: CallHandler = Arc::new(handler);
        self.inner.server.handlers.write().insert(kind, handler);
    }

    /// Asks the leader, wherever it is, and returns its handler's answer. Tried again while no
    /// leader takes it, for at most the request timeout; a leader that died may have acted.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_leader(&self, kind: u8, request: Bytes) -> Result<Bytes, CallError> {
        if request.len() >= CALL_BYTES_MAX {
            return Err(CallError::TooLarge);
        }
        let deadline = Instant::now() + self.inner.config.request_timeout();
        let mut body = Vec::with_capacity(1 + request.len());
        body.push(kind);
        body.extend_from_slice(&request);
        let body = Bytes::from(body);
        let mut routes = self.inner.routes.clone();
        loop {
            let route = routes.borrow_and_update().clone();
            let reply = match route {
                Route::Here => self.inner.server.called(body.clone()).await,
                Route::None => CallReply::NotLeader,
                Route::There(leader, peer) => {
                    self.ask(leader, &peer, kind::CALL, &body, deadline).await?
                }
            };
            if let Some(answer) = reply.into_result(kind)? {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                return Err(CallError::NoLeader);
            }
            let _ = tokio::time::timeout(CALL_RETRY, routes.changed()).await;
        }
    }

    /// Registers what answers calls of `kind` on this member, whether it leads or not. Runs on
    /// the consensus thread and must not block.
    pub fn on_member_call(
        &self,
        kind: u8,
        handler: impl Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync + 'static,
    ) {
        let handler: CallHandler = Arc::new(handler);
        self.inner.server.member_handlers.write().insert(kind, handler);
    }

    /// Asks another member and returns its handler's answer, once, within `timeout`.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::NoLeader`] where the member is not reached or not known.
    pub async fn call_member(
        &self,
        target: NodeId,
        kind: u8,
        request: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let peer = self.status().members.remove(&target).ok_or(CallError::NoLeader)?.peer;
        let body = Bytes::from([&[kind], request].concat());
        let deadline = Instant::now() + timeout;
        let reply: CallReply = self.ask(target, &peer, kind::CALL_MEMBER, &body, deadline).await?;
        reply.into_result(kind)?.ok_or(CallError::NoLeader)
    }

    /// One request to another member from any thread; connections live on the consensus thread.
    async fn ask<A: serde::de::DeserializeOwned + Refusal + Send + 'static>(
        &self,
        leader: NodeId,
        peer: &Peer,
        kind: u8,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<A, CallError> {
        let (sender, receiver) = oneshot::channel();
        let link = self.inner.network.shared(leader, Lane::Control);
        let (peer, body) = (peer.clone(), body.clone());
        self.spawn_on_consensus(move || {
            Box::pin(async move {
                let encode = |id| wire::encode_frame(kind, id, &[&body]);
                let reply = link.request(&peer, encode, deadline).await;
                // Whoever asked may be gone.
                let _ = sender.send(reply);
            })
        })
        .map_err(|_| CallError::Stopped)?;
        match receiver.await.map_err(|_| CallError::Stopped)? {
            Ok(bytes) => codec::decode(&bytes).map_err(|_| CallError::Timeout),
            Err(crate::link::LinkError::NotSent(_)) => Ok(A::not_leader()),
            Err(crate::link::LinkError::NoAnswer(_)) => Err(CallError::Timeout),
        }
    }

    /// Adds a member that does not vote.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn add_learner(&self, id: NodeId, peer: Peer) -> Result<(), MemberError> {
        self.change(Change::AddLearner(id, peer)).await
    }

    /// Adds a member that votes as soon as it has caught up; until then it is a learner, so that
    /// the quorum never depends on a member that was not started.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn add_voter(&self, id: NodeId, peer: Peer) -> Result<(), MemberError> {
        self.change(Change::AddVoter(id, peer)).await
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn promote(&self, id: NodeId) -> Result<(), MemberError> {
        self.change(Change::Promote(id)).await
    }

    /// Removes a member for ever: its id is refused from then on.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn remove(&self, id: NodeId) -> Result<(), MemberError> {
        self.change(Change::Remove(id)).await
    }

    /// Changes where a member is reached.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn update_urls(&self, id: NodeId, urls: Vec<String>) -> Result<(), MemberError> {
        self.change(Change::UpdateUrls(id, urls)).await
    }

    /// Hands leadership to a voter that has the whole log.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MemberError> {
        self.change(Change::Transfer(to)).await
    }

    /// Makes a change here or asks the leader to; again while nobody takes it, for at most the
    /// request timeout.
    async fn change(&self, change: Change) -> Result<(), MemberError> {
        let deadline = Instant::now() + self.inner.config.request_timeout();
        let body = Bytes::from(codec::encode(&change));
        let mut routes = self.inner.routes.clone();
        loop {
            let route = routes.borrow_and_update().clone();
            let result = match route {
                Route::Here => self.inner.members.change_here(change.clone()).await,
                Route::None => Err(MemberError::NotLeader { leader: None }),
                Route::There(leader, peer) => {
                    match self.ask(leader, &peer, kind::MEMBER, &body, deadline).await {
                        Ok(result) => result,
                        Err(CallError::Stopped) => Err(MemberError::Stopped),
                        Err(_) => Err(MemberError::Timeout),
                    }
                }
            };
            if !matches!(result, Err(MemberError::NotLeader { .. })) || Instant::now() >= deadline {
                return result;
            }
            let _ = tokio::time::timeout(CALL_RETRY, routes.changed()).await;
        }
    }

    /// Stops the member: what waits is told, the log is synced, the state flushed.
    pub async fn shutdown(&self) {
        self.end(Stop::Graceful).await;
    }

    /// Ends the member as a crash of the process would: nothing more is written, and whoever
    /// waits is told only that it stopped. For tests.
    #[doc(hidden)]
    pub async fn kill(&self) {
        self.inner.flusher.abandon();
        self.end(Stop::Kill).await;
    }

    async fn end(&self, how: Stop) {
        let stop = self.inner.stop.lock().take();
        if let Some(stop) = stop {
            // A thread that has ended needs no signal.
            let _ = stop.send(how);
        }
        let thread = self.inner.thread.lock().take();
        let Some(thread) = thread else { return };
        let (flusher, log) = (self.inner.flusher.clone(), self.inner.log.clone());
        let (sender, done) = oneshot::channel();
        // Joining blocks, and the caller may be a single-threaded runtime.
        let joiner = std::thread::Builder::new().name("tripod-join".into()).spawn(move || {
            if thread.join().is_err() {
                tracing::error!("the consensus thread panicked");
            }
            flusher.stop();
            log.close();
            // A caller that stopped waiting needs no answer.
            let _ = sender.send(());
        });
        if joiner.is_ok() {
            let _ = done.await;
        }
    }
}

/// Answers that can say "ask the leader".
trait Refusal {
    fn not_leader() -> Self;
}

impl Refusal for CallReply {
    fn not_leader() -> Self {
        Self::NotLeader
    }
}

impl Refusal for Result<(), MemberError> {
    fn not_leader() -> Self {
        Err(MemberError::NotLeader { leader: None })
    }
}

impl fmt::Debug for WeakNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakNode").finish_non_exhaustive()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("node_id", &self.inner.config.node_id).finish_non_exhaustive()
    }
}
