//! The consensus thread: builds a member's parts, runs its tasks, ends them in order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use openraft::{LogIdOptionExt, ServerState, async_runtime::WatchReceiver};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use tripod_storage::{
    apply::{Mark, StateMachine},
    engine::Engine,
    log::WalOptions,
};

use crate::{
    Config, Error,
    fatal::{Fatal, REMOVED},
    flusher::{FlushSettings, Flusher},
    hub::Hub,
    link::Dialer,
    log_store::{Durable, LogStore},
    members::{self, Members},
    network::Network,
    node::{Bootstrap, Job, Raft, Stop},
    probe,
    proposer::Proposer,
    queue::Queues,
    reads::Reads,
    route::{Route, Routes},
    server::PeerServer,
    snapshot::SnapshotDir,
    sole::Sole,
    state_machine::{AppliedState, StateStore},
    transport::PeerTransport,
    types::{NodeId, Peer},
};

/// Everything of a member that its handle needs.
pub(crate) struct Started {
    pub(crate) raft: Raft,
    pub(crate) hub: Arc<Hub>,
    pub(crate) state: Arc<RwLock<StateMachine>>,
    pub(crate) log: LogStore,
    pub(crate) flusher: Flusher,
    pub(crate) network: Network,
    pub(crate) routes: Routes,
    pub(crate) server: Arc<PeerServer>,
    pub(crate) members: Members,
    pub(crate) jobs: mpsc::UnboundedSender<Job>,
    pub(crate) stop: oneshot::Sender<Stop>,
    pub(crate) thread: JoinHandle<()>,
}

/// What the thread is given.
struct Parts {
    config: Config,
    bootstrap: Bootstrap,
    hub: Arc<Hub>,
    log: LogStore,
    store: StateStore,
    state: Arc<RwLock<StateMachine>>,
    snapshots: SnapshotDir,
    network: Network,
    fatal: Fatal,
    jobs: mpsc::UnboundedReceiver<Job>,
    stop: oneshot::Receiver<Stop>,
}

/// What the thread gives back once consensus runs.
struct Running {
    raft: Raft,
    routes: Routes,
    server: Arc<PeerServer>,
    members: Members,
}

/// Opens storage and starts the threads.
pub(crate) fn start(
    config: &Config,
    bootstrap: Bootstrap,
    engine: Arc<dyn Engine>,
    transport: Arc<dyn PeerTransport>,
    fatal: Fatal,
) -> Result<Started, Error> {
    let durable = Durable::default();
    let wal = WalOptions { segment_bytes: config.wal_segment_bytes };
    let dir = config.wal_dir();
    let log = LogStore::open(&dir, wal, config.log_cache_bytes, durable.clone(), fatal.clone())?;
    let needs_log = matches!(bootstrap, Bootstrap::Existing | Bootstrap::Alone);
    if needs_log && log.is_pristine() {
        return Err(Error::Bootstrap(format!("{} holds no log", dir.display())));
    }
    log.claim(config.cluster_id, config.node_id)?;
    let snapshots = SnapshotDir::open(&config.data_dir)?;
    snapshots.recover(&engine)?;
    let state = StateMachine::open(engine.clone(), config.state.clone())?;
    check_applied(config, &bootstrap, &log, state.mark())?;
    let state = Arc::new(RwLock::new(state));
    let settings = FlushSettings {
        bytes: config.flush_bytes,
        interval: Duration::from_millis(config.flush_interval_ms),
        sync_interval: Duration::from_millis(config.engine_sync_interval_ms),
        compact_keys: config.compact_keys.max(1),
        compact_pause: config.compact_pause,
    };
    let flusher = Flusher::start(state.clone(), engine.clone(), settings, durable, fatal.clone())?;
    let queues = Arc::new(Queues::new(config.request_bytes_max));
    let hub = Arc::new(Hub::new(config.node_id, queues.clone()));
    let store = StateStore::new(
        state.clone(),
        engine,
        snapshots.clone(),
        hub.clone(),
        flusher.clone(),
        config.flush_bytes_max,
        fatal.clone(),
    )
    .map_err(|error| Error::Bootstrap(error.to_string()))?
    .with_slow_apply(config.slow_apply);
    let dialer = Dialer {
        transport,
        cluster_id: config.cluster_id,
        node_id: config.node_id,
        queues,
        fatal: fatal.clone(),
    };
    let append_timeout = (2 * config.election_timeout()).max(Duration::from_secs(2));
    let network = Network::new(dialer, append_timeout);
    let (jobs, job_queue) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel();
    let parts = Parts {
        config: config.clone(),
        bootstrap,
        hub: hub.clone(),
        log: log.clone(),
        store,
        state: state.clone(),
        snapshots,
        network: network.clone(),
        fatal,
        jobs: job_queue,
        stop: stopped,
    };
    let (ready, starting) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("tripod-consensus".into())
        .spawn(move || run(parts, &ready))
        .map_err(|source| Error::Io { action: "start the consensus thread".into(), source })?;
    let running = starting.recv().unwrap_or_else(|_| Err(Error::Stopped("at start".into())));
    match running {
        Ok(Running { raft, routes, server, members }) => Ok(Started {
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
        }),
        Err(error) => {
            // The reason is in `error`; a panic was printed by the thread.
            let _ = thread.join();
            flusher.stop();
            Err(error)
        }
    }
}

/// Holds log and applied state against each other and against what is asked for, and cuts the
/// membership down for [`Bootstrap::Alone`].
fn check_applied(
    config: &Config,
    bootstrap: &Bootstrap,
    log: &LogStore,
    mark: Option<&Mark>,
) -> Result<(), Error> {
    let applied =
        AppliedState::from_mark(mark).map_err(|error| Error::Bootstrap(error.to_string()))?;
    if applied.removed.contains(&config.node_id) {
        return Err(Error::Bootstrap(REMOVED.into()));
    }
    if applied.log_id.is_some() && log.is_pristine() {
        return Err(Error::Bootstrap(format!(
            "the data is there but the log in {} is empty: give the --wal-dir the member had, or \
             remove the member and add it again with empty directories",
            config.wal_dir().display()
        )));
    }
    if *bootstrap == Bootstrap::Alone {
        log.force_alone(config.node_id, &applied)?;
    }
    Ok(())
}

/// Body of the thread.
fn run(parts: Parts, ready: &std::sync::mpsc::Sender<Result<Running, Error>>) {
    // Unlike a `LocalSet`, a local runtime wakes its tasks without a system call.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = Error::Io { action: "make the consensus runtime".into(), source };
            // The starter waits for this.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let (hub, fatal) = (parts.hub.clone(), parts.fatal.clone());
    let end = EndOfThread { hub, fatal };
    runtime.block_on(consensus(parts, ready));
    // Connections and tasks that are left end here.
    runtime.shutdown_background();
    drop(end);
}

/// Tells everybody who waits, also after a panic.
struct EndOfThread {
    hub: Arc<Hub>,
    fatal: Fatal,
}

impl Drop for EndOfThread {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fatal.report_text("the consensus thread panicked");
        }
        self.hub.stop();
    }
}

async fn consensus(parts: Parts, ready: &std::sync::mpsc::Sender<Result<Running, Error>>) {
    let Parts {
        config,
        bootstrap,
        hub,
        log,
        store,
        state,
        snapshots,
        network,
        fatal,
        mut jobs,
        mut stop,
    } = parts;
    let settings = match config.openraft() {
        Ok(settings) => settings,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    tokio::spawn(log.clone().run_deferred_sync());
    let raft = match Raft::new(config.node_id, settings, network.clone(), log.clone(), store).await
    {
        Ok(raft) => raft,
        Err(error) => {
            let _ = ready.send(Err(Error::Stopped(error.to_string())));
            return;
        }
    };
    recovered(&raft).await;
    hub.set_running();
    let founders = match &bootstrap {
        Bootstrap::New { members } => {
            members.values().flat_map(|peer| peer.peer_urls.iter().cloned()).collect()
        }
        Bootstrap::Join | Bootstrap::Existing | Bootstrap::Alone => Vec::new(),
    };
    let (routes, server, members) =
        spawn_tasks(&config, founders, &raft, &hub, &log, &network, snapshots, &state, &fatal);
    tokio::spawn(initialize(config.clone(), bootstrap, raft.clone()));
    let running = Running { raft: raft.clone(), routes, server, members };
    if ready.send(Ok(running)).is_err() {
        return;
    }
    let how = loop {
        tokio::select! {
            biased;
            how = &mut stop => break how.unwrap_or(Stop::Graceful),
            job = jobs.recv() => match job {
                Some(job) => {
                    tokio::task::spawn_local(job());
                }
                None => break Stop::Graceful,
            }
        }
    };
    tracing::info!(node_id = config.node_id, ?how, "member stops");
    if how == Stop::Kill {
        return;
    }
    hub.stop();
    if let Err(error) = raft.shutdown().await {
        tracing::warn!(%error, "consensus did not end cleanly");
    }
    // Acknowledges what is written; an error is fatal and was reported.
    let _ = log.sync_now();
}

/// Starts the member's own tasks.
#[expect(clippy::too_many_arguments, reason = "called once, where the parts are made")]
fn spawn_tasks(
    config: &Config,
    founders: Vec<String>,
    raft: &Raft,
    hub: &Arc<Hub>,
    log: &LogStore,
    network: &Network,
    snapshots: SnapshotDir,
    state: &Arc<RwLock<StateMachine>>,
    fatal: &Fatal,
) -> (Routes, Arc<PeerServer>, Members) {
    let (route, routes) = watch::channel(Route::None);
    let hold = Arc::new(AtomicBool::new(false));
    let sole = Arc::new(Sole::new(hub.queues.clone()));
    let (members, changes) = Members::new(routes.clone());
    let proposer = Proposer {
        raft: raft.clone(),
        hub: hub.clone(),
        network: network.clone(),
        routes: routes.clone(),
        timeout: config.request_timeout(),
        in_flight_max: config.batches_in_flight,
        fatal: fatal.clone(),
        hold: hold.clone(),
    };
    tokio::spawn(proposer.run());
    let reads = Reads {
        raft: raft.clone(),
        hub: hub.clone(),
        network: network.clone(),
        routes: routes.clone(),
        timeout: config.request_timeout(),
        confirm_timeout: config.election_timeout(),
    };
    tokio::spawn(reads.run());
    tokio::spawn(probe::run(hub.clone(), raft.clone(), network.clone()));
    let worker = members::Worker {
        node_id: config.node_id,
        raft: raft.clone(),
        routes: routes.clone(),
        sole: sole.clone(),
        hub: hub.clone(),
        state: state.clone(),
        limits: members::Limits {
            learners_max: config.learners_max,
            election_timeout: config.election_timeout(),
            heartbeat_interval: config.heartbeat_interval(),
            timeout: config.request_timeout(),
            strict: config.strict_reconfiguration,
        },
        hold: hold.clone(),
    };
    tokio::spawn(worker.run(changes));
    let server = Arc::new(PeerServer::new(
        config.cluster_id,
        config.node_id,
        raft.clone(),
        hub.clone(),
        routes.clone(),
        members.clone(),
        hold,
        founders,
        snapshots,
        state.clone(),
    ));
    let watcher = Watcher {
        node_id: config.node_id,
        raft: raft.clone(),
        hub: hub.clone(),
        log: log.clone(),
        sole,
        fatal: fatal.clone(),
        route,
        leader: None,
    };
    tokio::spawn(watcher.run());
    (routes, server, members)
}

/// Waits until openraft has published the membership it recovered. Until then a member that starts
/// again would seem to be alone, and what asks the others would ask nobody.
async fn recovered(raft: &Raft) {
    if !matches!(raft.is_initialized().await, Ok(true)) {
        return;
    }
    let mut metrics = raft.metrics();
    loop {
        let is_known =
            metrics.borrow_watched().membership_config.membership().nodes().next().is_some();
        if is_known || metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Makes the first membership of a new cluster. Every member writes the same one. The lowest id
/// does it at once and campaigns; the others give it an election timeout to reach them, so that
/// a cluster started together does not begin with a split vote.
async fn initialize(config: Config, bootstrap: Bootstrap, raft: Raft) {
    let Bootstrap::New { members } = bootstrap else { return };
    if members.keys().next() != Some(&config.node_id) {
        tokio::time::sleep(config.election_timeout()).await;
    }
    if !matches!(raft.is_initialized().await, Ok(false)) {
        return;
    }
    let members: BTreeMap<NodeId, Peer> = members;
    if let Err(error) = raft.initialize(members).await {
        tracing::info!(%error, "the cluster is initialized already");
    }
}

/// Follows what consensus says about leader and membership.
struct Watcher {
    node_id: NodeId,
    raft: Raft,
    hub: Arc<Hub>,
    log: LogStore,
    sole: Arc<Sole>,
    fatal: Fatal,
    route: watch::Sender<Route>,
    leader: Option<NodeId>,
}

impl Watcher {
    async fn run(mut self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let seen = metrics.borrow_and_update().clone();
            let membership = seen.membership_config.membership();
            let leads =
                seen.state == ServerState::Leader && seen.current_leader == Some(self.node_id);
            let route = match seen.current_leader {
                _ if leads => Route::Here,
                Some(id) if id != self.node_id => {
                    membership.get_node(&id).map_or(Route::None, |p| Route::There(id, p.clone()))
                }
                _ => Route::None,
            };
            self.note_leader(&route, &seen.vote.to_string());
            // A leader puts entries on the wire before it syncs them; a follower applies and answers
            // what was committed before.
            self.log.set_deferred(membership.nodes().count() > 1);
            if !leads {
                self.sole.withdraw();
            }
            self.route.send_if_modified(|old| {
                let changed = *old != route;
                *old = route;
                changed
            });
            if leads && !self.sole.is_given() {
                let (sole, raft, hub) = (self.sole.clone(), self.raft.clone(), self.hub.clone());
                let node_id = self.node_id;
                tokio::spawn(async move { sole.renew(node_id, &raft, &hub).await });
            }
            if metrics.changed().await.is_err() {
                break;
            }
        }
        self.route.send_replace(Route::None);
        self.sole.withdraw();
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        match state {
            Err(openraft::errors::Fatal::Stopped) | Ok(()) => {}
            Err(error) => {
                self.fatal.report(&error);
            }
        }
    }

    fn note_leader(&mut self, route: &Route, vote: &str) {
        let leader = match route {
            Route::None => None,
            Route::Here => Some(self.node_id),
            Route::There(id, _) => Some(*id),
        };
        if leader == self.leader {
            return;
        }
        self.leader = leader;
        if let Some(leader) = leader {
            self.hub.queues.counters.leader_changes.fetch_add(1, Ordering::Relaxed);
            let last = self.raft.metrics().borrow_watched().local_committed.index();
            tracing::info!(
                node_id = self.node_id,
                leader,
                vote,
                committed = last,
                "leader is known"
            );
        } else {
            tracing::info!(node_id = self.node_id, vote, "no leader is known");
        }
    }
}
