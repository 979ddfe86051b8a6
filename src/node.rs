//! Composition root: makes a running member of a [`Config`], and owns everything it starts.
//!
//! Start order: identity, engine, consensus (which replays the log), peer port, leases and other
//! housekeeping, membership attributes, client port. Stop order is the reverse; whatever a step
//! started ends with [`Member::shutdown`].

mod corruption;
mod health;
mod housekeeping;
mod identity;
mod join;
mod observe;
mod publish;
pub mod restore;
mod security;

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures::future::LocalBoxFuture;
use tokio::sync::watch;
use tripod_raft::{Bootstrap, Config as RaftConfig, FatalHook, Node, Peer};
use tripod_storage::engine::{Engine, MemoryEngine, RewritableEngine, SledOptions};

use crate::{
    api::{
        grpc::{self, Rpc},
        h2,
        http::{Gateway, GatewayConfig},
        v2::V2,
    },
    auth::{self, AuthService, KeyError},
    client::{Client, Identity, LeaseService, Limits, v2::V2Service, watch::hub::Hub},
    config::{Config, ConfigError, Url, Urls},
    discovery,
    frontend::{
        self, Distribution, Frontend, FrontendHandle, Handlers, Listen, ListenerTls, LocalTask,
        Serves,
    },
    peer::{self, PeerSecurity, PeerTimeouts, Plaintext, TcpTransport},
    tls,
};
use identity::Loaded;
use join::Joined;
use publish::publish;

pub use corruption::Mismatch;
pub use join::JoinError;

/// Folder of a member inside its data directory, as in etcd.
const MEMBER_DIR: &str = "member";
/// Folder of the engine inside it.
const ENGINE_DIR: &str = "db";
/// What zero stands for in keepalive settings: it never happens.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// What gRPC adds to the largest request, as in etcd.
const GRPC_OVERHEAD_BYTES: usize = 512 << 10;

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A directory or file of the member cannot be used.
    #[error("cannot {action}; check path and permissions")]
    Io {
        /// What was attempted, with the path.
        action: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A URL cannot be listened on.
    #[error("cannot listen on {url} for peers; is another member running there?")]
    Listen {
        /// The URL.
        url: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// DNS does not tell who the members are.
    #[error(transparent)]
    Discovery(#[from] discovery::Error),
    /// There is no place for this member in the cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The log is not where the flag says.
    #[error(
        "this member's log lies in {}, and {} is empty: move the directory there, or \
         start with the --wal-dir that the member had",
        old.display(),
        new.display()
    )]
    LogMoved {
        /// Where it was.
        old: PathBuf,
        /// Where it should be.
        new: PathBuf,
    },
    /// The members' data differ.
    #[error(transparent)]
    Corrupt(#[from] corruption::Mismatch),
    /// Something that this version does not do.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] tripod_storage::Error),
    /// Consensus did not start.
    #[error(transparent)]
    Raft(#[from] tripod_raft::Error),
    /// The keys of auth tokens cannot be used.
    #[error(transparent)]
    TokenKeys(#[from] KeyError),
    /// The client port did not start.
    #[error(transparent)]
    Frontend(#[from] frontend::Error),
    /// It was stopped, or failed, before it served.
    #[error("the member stopped before it served")]
    Stopped,
    /// It found out that it must not run.
    #[error("{0}")]
    Failed(String),
}

/// Where the state machine's data goes behind the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// sled in the data directory.
    #[default]
    Disk,
    /// Memory: gone at the end.
    Memory,
}

/// A running member.
pub struct Member {
    node: Node,
    client: Client,
    v2: Arc<V2Service>,
    frontend: Option<FrontendHandle>,
    observing: observe::Observing,
    /// Serves the metrics URLs.
    monitor: Option<FrontendHandle>,
    failed: watch::Receiver<Option<String>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Member {
    /// Starts the member that `config` (completed and validated) describes, and returns once it
    /// serves clients, for which a quorum must run.
    ///
    /// # Errors
    /// [`StartError`]; nothing of the member is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, EngineKind::Disk).await
    }

    /// As [`Member::start`], with a choice of engine. Without client URLs it serves only the
    /// program it is in.
    ///
    /// # Errors
    /// As [`Member::start`].
    pub async fn start_with(mut config: Config, engine: EngineKind) -> Result<Self, StartError> {
        // A program that embeds a member may not have asked; half a setting must not serve.
        config.validate_tls()?;
        let frontend = bind_clients(&config)?;
        let tls = security::of_peers(&config)?;
        let transport = Arc::new(TcpTransport::new(tls.clone(), peer_timeouts(&config)));
        if !config.discovery_srv.is_empty() && needs_initial_cluster(&config) {
            config.initial_cluster = Box::pin(discovery::initial_cluster(&config)).await?;
        }
        let joined = if identity::is_known(&config.data_dir.join(MEMBER_DIR)) {
            None
        } else {
            join::first_start(&config, &*transport).await?
        };
        let monitor = observe::bind(&config)?;
        let opening = config.clone();
        let opened = tokio::task::spawn_blocking(move || {
            Opened::open(&opening, engine, joined, transport, tls.as_ref())
        });
        let opened = opened.await;
        let opened = opened.map_err(|_| StartError::Stopped)??;
        let mut member = opened.wire(&config).await?;
        if let Some(bound) = monitor {
            let serving = observe::serve(bound, member.client.clone(), member.observing.clone());
            match serving {
                Ok(serving) => member.monitor = Some(serving),
                Err(error) => {
                    member.shutdown().await;
                    return Err(error);
                }
            }
        }
        match member.join_in(&config).await {
            Ok(()) => {}
            Err(error) => {
                member.shutdown().await;
                return Err(error);
            }
        }
        member.serve_clients(&config, frontend)
    }

    /// A client inside this process.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where it serves clients.
    #[must_use]
    pub fn client_addrs(&self) -> Vec<SocketAddr> {
        self.frontend.as_ref().map_or_else(Vec::new, |frontend| frontend.addresses().to_vec())
    }

    /// Where it serves metrics besides.
    #[must_use]
    pub fn metrics_addrs(&self) -> Vec<SocketAddr> {
        self.monitor.as_ref().map_or_else(Vec::new, |monitor| monitor.addresses().to_vec())
    }

    /// All metrics in the Prometheus text format, as `/metrics` serves them. Blocks briefly.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.observing.source.render()
    }

    /// Ends when the member stops by itself, with the reason.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let reason = failed.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "stopped".to_owned())
    }

    /// Stops the member: no more requests, everything acknowledged is on disk.
    pub async fn shutdown(mut self) {
        for frontend in self.frontend.take().into_iter().chain(self.monitor.take()) {
            let joined = tokio::task::spawn_blocking(move || frontend.join()).await;
            if let Ok(Err(error)) = joined {
                tracing::error!(%error, "the front end did not end well");
            }
        }
        self.node.shutdown().await;
    }

    /// What comes between running and serving.
    async fn join_in(&self, config: &Config) -> Result<(), StartError> {
        if config.initial_corrupt_check {
            corruption::check_at_start(&self.node).await?;
        }
        publish(self, config).await
    }

    fn serve_clients(
        mut self,
        config: &Config,
        frontend: Option<frontend::BoundFrontend>,
    ) -> Result<Self, StartError> {
        let Some(frontend) = frontend else { return Ok(self) };
        let base = self.client.clone();
        let progress = config.watch_progress_notify_interval;
        let request_bytes = config.max_request_bytes as usize;
        let v2 = config.enable_v2.then(|| Arc::clone(&self.v2));
        let (cors, hosts) = (config.cors.clone(), config.host_whitelist.clone());
        let observing = self.observing.clone();
        let (slow_request, grpc_gateway) =
            (config.warning_unary_request_duration, config.enable_grpc_gateway);
        let factory = Arc::new(move || {
            let client = client_of_this_thread(&base);
            let options = grpc::Options {
                watch_progress_interval: progress,
                watch_fragment_bytes: request_bytes + GRPC_OVERHEAD_BYTES,
                slow_request,
            };
            let v2 = v2.clone().map(|service| V2::new(client.clone(), service, request_bytes));
            let source = &observing.source;
            let health = Rc::new(health::Health::new(client.clone(), source.health.clone()));
            let services = Rc::new(Rpc::new(client, options).counted(source.calls.thread()));
            let gateway = GatewayConfig {
                max_request_bytes: request_bytes,
                cors: cors.clone(),
                host_whitelist: hosts.clone(),
                grpc_gateway,
                ..GatewayConfig::default()
            };
            let observer = Rc::new(observing.clone());
            let http = Gateway::new(services.clone(), health, gateway);
            let http = http.with_v2(v2).with_observer(observer);
            let connections = source.connections.clone();
            Handlers { services, http: Rc::new(http), connections }
        });
        self.frontend = Some(frontend.with_home(home(&self.node)).run(factory)?);
        Ok(self)
    }
}

/// Runs some of the client connections on the consensus thread, so that a lone client pays for
/// no change of thread.
fn home(node: &Node) -> frontend::HomeExecutor {
    let node = node.clone();
    Arc::new(move |task: LocalTask| {
        if node.spawn_on_consensus(task).is_err() {
            tracing::debug!("the member has stopped; it takes no more connections");
        }
    })
}

/// A client whose answers arrive on this thread. Its port and watch hub run here.
fn client_of_this_thread(base: &Client) -> Client {
    let client = base.fork();
    tokio::task::spawn_local(client.port().drive());
    tokio::task::spawn_local(client.hub().clone().run());
    client
}

/// What opening leaves: consensus running, nothing served yet.
struct Opened {
    node: Node,
    engine: Arc<dyn Engine>,
    identity: Arc<Identity>,
    failed: watch::Receiver<Option<String>>,
}

impl Opened {
    /// Blocks: replays the log.
    fn open(
        config: &Config,
        kind: EngineKind,
        joined: Option<Joined>,
        transport: Arc<TcpTransport>,
        tls: Option<&Arc<dyn PeerSecurity>>,
    ) -> Result<Self, StartError> {
        let member_dir = config.data_dir.join(MEMBER_DIR);
        let io =
            |source| StartError::Io { action: format!("make {}", member_dir.display()), source };
        fs::create_dir_all(&member_dir).map_err(io)?;
        let restarts = identity::is_known(&member_dir);
        let Loaded { identity, joined } = identity::load_or_make(config, &member_dir, joined)?;
        let identity = Arc::new(identity);
        let engine: Arc<dyn Engine> = match kind {
            EngineKind::Memory => Arc::new(MemoryEngine::new()),
            EngineKind::Disk => {
                let options = SledOptions::default();
                Arc::new(RewritableEngine::open(&member_dir.join(ENGINE_DIR), &options)?)
            }
        };
        let raft = raft_config(config, &identity, member_dir);
        let (tell, failed) = watch::channel(None);
        let fatal: FatalHook = Arc::new(move |reason: &str| {
            tell.send_replace(Some(reason.to_owned()));
        });
        // Bound before consensus starts, so that a port in use shows at once.
        let listeners = bind_peers(config, tls)?;
        let bootstrap = if config.force_new_cluster && restarts {
            Bootstrap::Alone
        } else if joined {
            Bootstrap::Join
        } else {
            Bootstrap::New { members: initial_peers(config) }
        };
        let node = Node::start(raft, bootstrap, engine.clone(), transport, fatal)?;
        for (listener, security) in listeners {
            peer::serve(&node, listener, security, peer_timeouts(config))?;
        }
        Ok(Self { node, engine, identity, failed })
    }

    /// Starts what runs beside consensus.
    async fn wire(self, config: &Config) -> Result<Member, StartError> {
        let Self { node, engine, identity, failed } = self;
        let auth = match AuthService::new(node.clone(), &auth::Options::of(config)) {
            Ok(auth) => auth,
            Err(error) => {
                node.shutdown().await;
                return Err(error.into());
            }
        };
        let election = Duration::from_millis(config.election_timeout_ms);
        let leases =
            LeaseService::new(node.clone(), node.port(), election, config.lease_checkpoint);
        let v2 = V2Service::new(node.clone(), node.port());
        let limits = Limits {
            quota_bytes: config.quota_bytes().map_or(0, |bytes| i64::try_from(bytes).unwrap_or(0)),
            max_request_bytes: config.max_request_bytes as usize,
            max_txn_ops: config.max_txn_ops as usize,
        };
        let (port, hub) = (node.port(), Hub::new(node.clone()));
        let client = Client::new(
            node.clone(),
            port,
            identity,
            limits,
            hub,
            leases.clone(),
            engine,
            auth.clone(),
        );
        let compaction = config.auto_compaction().ok().flatten();
        corruption::answer_peers(&node);
        let checks = corruption::Checks::of(config);
        let of_tasks = client.clone();
        let of_v2 = Arc::clone(&v2);
        let tasks = move || -> LocalBoxFuture<'static, ()> {
            Box::pin(async move {
                tokio::task::spawn_local(of_tasks.port().drive());
                tokio::task::spawn_local(of_tasks.hub().clone().run());
                tokio::task::spawn_local(leases.port().drive());
                tokio::task::spawn_local(leases.run());
                tokio::task::spawn_local(corruption::run(of_tasks.clone(), checks));
                tokio::task::spawn_local(auth.run());
                tokio::task::spawn_local(of_v2.port().drive());
                tokio::task::spawn_local(of_v2.run());
                if let Some(retention) = compaction {
                    tokio::task::spawn_local(housekeeping::compact(of_tasks, retention));
                }
            })
        };
        if node.spawn_on_consensus(tasks).is_err() {
            tracing::debug!("the member has stopped already");
        }
        let source = observe::source(client.clone(), config);
        let observing = observe::Observing { source, has_profiles: config.enable_pprof };
        Ok(Member { node, client, v2, frontend: None, observing, monitor: None, failed })
    }
}

fn raft_config(config: &Config, identity: &Identity, dir: PathBuf) -> RaftConfig {
    let mut raft = RaftConfig::new(identity.member_id, identity.cluster_id, dir);
    raft.heartbeat_interval_ms = config.heartbeat_interval_ms;
    raft.election_timeout_ms = config.election_timeout_ms;
    raft.pre_vote = config.pre_vote;
    raft.snapshot_count = config.snapshot_count;
    raft.snapshot_catchup_entries = config.snapshot_catch_up_entries;
    raft.compact_keys = config.compaction_batch_limit as usize;
    raft.compact_pause = config.compaction_sleep_interval;
    raft.slow_apply = config.warning_apply_duration;
    raft.learners_max = config.max_learners as usize;
    raft.strict_reconfiguration = config.strict_reconfig_check;
    raft.wal_dir = config.separate_wal_dir().map(PathBuf::from);
    raft.state.quota_bytes =
        config.quota_bytes().map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    raft
}

/// The voters of the initial cluster by their derived ids.
fn initial_peers(config: &Config) -> std::collections::BTreeMap<u64, Peer> {
    let peer = |urls: &Urls| Peer {
        peer_urls: urls.texts().map(str::to_owned).collect(),
        ..Peer::default()
    };
    config
        .initial_cluster
        .members()
        .map(|(_, urls)| (identity::member_id_of(config, urls), peer(urls)))
        .collect()
}

/// Listeners with what secures their connections.
type PeerListeners = Vec<(TcpListener, Arc<dyn PeerSecurity>)>;

/// How long connections between peers may do nothing.
fn peer_timeouts(config: &Config) -> PeerTimeouts {
    PeerTimeouts { read: config.raft_read_timeout, write: config.raft_write_timeout }
}

/// There is no log yet that knows the members: the first start, or one that was cut short.
fn needs_initial_cluster(config: &Config) -> bool {
    let member_dir = config.data_dir.join(MEMBER_DIR);
    let wal = config.separate_wal_dir().map_or_else(|| member_dir.join("wal"), PathBuf::from);
    let has_log = fs::read_dir(wal).is_ok_and(|mut files| files.next().is_some());
    !has_log || !identity::is_known(&member_dir)
}

fn bind_peers(
    config: &Config,
    tls: Option<&Arc<dyn PeerSecurity>>,
) -> Result<PeerListeners, StartError> {
    let bind = |url: &Url| {
        let listener = listen(url, config.socket_options.reuse_port)
            .map_err(|source| StartError::Listen { url: url.to_string(), source })?;
        let security: Arc<dyn PeerSecurity> = match tls {
            Some(tls) if url.scheme().is_secure() => Arc::clone(tls),
            _ => Arc::new(Plaintext),
        };
        Ok((listener, security))
    };
    config.listen_peer_urls.iter().map(bind).collect()
}

/// Listens at the first address of a URL that can be.
fn listen(url: &Url, reuse_port: bool) -> io::Result<TcpListener> {
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for address in url.authority().to_socket_addrs()? {
        match frontend::listen(address, reuse_port) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Where clients are listened for. URLs for HTTP alone leave the others to gRPC.
fn client_listeners(config: &Config, tls: Option<&ListenerTls>) -> Result<Vec<Listen>, StartError> {
    let is_split = !config.listen_client_http_urls.is_empty();
    let grpc = if is_split { Serves::Grpc } else { Serves::Both };
    let all = config.listen_client_urls.iter().map(|url| (url, grpc));
    let http = config.listen_client_http_urls.iter().map(|url| (url, Serves::Http));
    let mut listen = Vec::new();
    for (url, serves) in all.chain(http) {
        let authority = url.authority();
        let resolve =
            |source| StartError::Io { action: format!("resolve client URL {url}"), source };
        let address = authority
            .to_socket_addrs()
            .map_err(resolve)?
            .find(SocketAddr::is_ipv4)
            .or(authority.to_socket_addrs().map_err(resolve)?.next());
        let tls = tls.filter(|_| url.scheme().is_secure()).cloned();
        listen.extend(address.map(|address| Listen { address, tls, serves }));
    }
    Ok(listen)
}

/// Limits of client connections. As in etcd, a keepalive time of zero is none at all.
fn h2_limits(config: &Config) -> h2::Limits {
    let or_never = |time: Duration| if time.is_zero() { NEVER } else { time.min(NEVER) };
    h2::Limits {
        message_bytes_max: config.max_request_bytes as usize + GRPC_OVERHEAD_BYTES,
        streams_max: config.max_concurrent_streams.min(h2::STREAMS_MAX),
        ping_interval_min: config.grpc_keepalive_min_time,
        keepalive_interval: or_never(config.grpc_keepalive_interval),
        keepalive_timeout: or_never(config.grpc_keepalive_timeout),
        ..h2::Limits::default()
    }
}

/// Binds the client port, if there is one, before anything is started.
fn bind_clients(config: &Config) -> Result<Option<frontend::BoundFrontend>, StartError> {
    let tls = security::of_clients(config)?;
    let listen = client_listeners(config, tls.as_ref())?;
    if listen.is_empty() {
        return Ok(None);
    }
    let distribution = Distribution::Acceptor {
        home: None,
        home_connections_max: frontend::HOME_CONNECTIONS_MAX_DEFAULT,
    };
    let limits = h2_limits(config);
    let reuse_port = config.socket_options.reuse_port;
    let frontend = Frontend { listen, distribution, limits, reuse_port, ..Frontend::default() };
    Ok(Some(frontend.bind()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_client_connections_are_the_flags() {
        let mut config = Config {
            max_concurrent_streams: 7,
            grpc_keepalive_min_time: Duration::from_secs(1),
            grpc_keepalive_interval: Duration::from_secs(2),
            grpc_keepalive_timeout: Duration::from_secs(3),
            max_request_bytes: 9,
            ..Config::default()
        };
        let limits = h2_limits(&config);
        assert_eq!((limits.streams_max, limits.message_bytes_max), (7, 9 + GRPC_OVERHEAD_BYTES));
        assert_eq!(limits.ping_interval_min, Duration::from_secs(1));
        let keepalive = |limits: &h2::Limits| (limits.keepalive_interval, limits.keepalive_timeout);
        assert_eq!(keepalive(&limits), (Duration::from_secs(2), Duration::from_secs(3)));
        // Zero: nobody is pinged, or nobody is given up.
        (config.grpc_keepalive_interval, config.grpc_keepalive_timeout) = Default::default();
        assert_eq!(keepalive(&h2_limits(&config)), (NEVER, NEVER));
    }

    #[test]
    fn a_port_is_shared_only_if_it_is_asked_for() {
        let shared = |port: u16, reuse_port| {
            let url: Url = format!("http://127.0.0.1:{port}").parse().unwrap();
            listen(&url, reuse_port)
        };
        for reuse_port in [false, true] {
            let first = shared(0, reuse_port).unwrap();
            let port = first.local_addr().unwrap().port();
            assert_eq!(shared(port, reuse_port).is_ok(), reuse_port);
        }
        let config = |port: u16| Config {
            listen_client_urls: format!("http://127.0.0.1:{port}").parse().unwrap(),
            ..Config::default()
        };
        let first = bind_clients(&config(0)).unwrap().unwrap();
        let port = first.addresses()[0].port();
        assert!(bind_clients(&config(port)).is_err(), "not shared by default");
        drop(first);
        let mut sharing = config(port);
        sharing.socket_options.reuse_port = true;
        let _first = bind_clients(&sharing).unwrap().unwrap();
        assert!(bind_clients(&sharing).is_ok(), "shared with --socket-reuse-port");
    }

    #[test]
    fn the_log_and_peer_settings_reach_consensus() {
        let config = Config {
            compaction_batch_limit: 3,
            compaction_sleep_interval: Duration::from_secs(4),
            warning_apply_duration: Duration::from_secs(5),
            max_learners: 6,
            raft_read_timeout: Duration::from_secs(7),
            raft_write_timeout: Duration::from_secs(8),
            ..Config::default()
        };
        let identity = Identity { cluster_id: 1, member_id: 2, name: "a".to_owned() };
        let raft = raft_config(&config, &identity, PathBuf::new());
        assert_eq!((raft.compact_keys, raft.compact_pause), (3, Duration::from_secs(4)));
        assert_eq!((raft.slow_apply, raft.learners_max), (Duration::from_secs(5), 6));
        let timeouts = peer_timeouts(&config);
        assert_eq!((timeouts.read.as_secs(), timeouts.write.as_secs()), (7, 8));
    }
}
