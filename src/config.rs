//! The whole configuration of a member: one struct, the same for embedders and the program.
//!
//! Names and defaults are etcd 3.6's; the serde form is the shape of etcd's YAML file, so a file
//! is read straight into it. The program lays defaults, file, environment and flags over each
//! other (`cli::flags`); this module reads no environment and no arguments.
//!
//! Invariants:
//! - [`Config::complete`] fills what follows from other values; [`Config::validate`] judges a
//!   completed configuration; a member starts only from one that passed both;
//! - units end the field names where the type does not carry them.
//!
//! Source: etcd `--help` of 3.5.1 and 3.6 (`server/embed`, `server/etcdmain`).

mod auth_token;
mod cluster;
mod compaction;
pub mod duration;
mod log;
mod tls;
mod url;
mod validate;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use auth_token::{AuthToken, AuthTokenError, JwtOptions};
pub use cluster::{ClusterError, InitialCluster};
pub use compaction::{AutoCompaction, CompactionMode};
pub use log::{LogFormat, LogLevel, LogOutput, LogOutputs};
pub use tls::{TlsFiles, TlsVersion};
pub use url::{Scheme, Url, UrlError, Urls};
pub use validate::ConfigError;

use duration::serde_go as go_duration;

/// Name of a member that was given none.
pub const DEFAULT_NAME: &str = "default";
/// Quota that `quota-backend-bytes: 0` stands for: 2 GiB.
pub const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
/// Where a member without other orders listens for peers.
pub const DEFAULT_PEER_URL: &str = "http://localhost:2380";
/// Where a member without other orders listens for clients.
pub const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";

/// Whether `initial-cluster` is being founded or joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterState {
    /// Found the cluster together with the other initial members.
    #[default]
    New,
    /// Join a cluster that has already added this member.
    Existing,
}

/// Detail of exported metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsLevel {
    /// Counters and gauges.
    #[default]
    Basic,
    /// Also latency histograms per gRPC method.
    Extensive,
}

/// Socket options of listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SocketOptions {
    /// `SO_REUSEPORT` towards other processes.
    pub reuse_port: bool,
    /// Listeners always set `SO_REUSEADDR`, so this has no effect; etcd's file has the key.
    pub reuse_address: bool,
}

/// Configuration of one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    // ---- member
    /// Name of this member, unique in the cluster.
    pub name: String,
    /// Directory of all data. Empty: `NAME.etcd` (see [`Config::complete`]).
    pub data_dir: PathBuf,
    /// Directory of the log. Empty: inside `data_dir`.
    pub wal_dir: PathBuf,
    /// Applied entries after which a snapshot is taken and the log cut.
    pub snapshot_count: u64,
    /// Entries kept behind a snapshot for slow followers.
    #[serde(rename = "snapshot-catchup-entries")]
    pub snapshot_catch_up_entries: u64,
    /// Time between leader heartbeats, in milliseconds.
    #[serde(rename = "heartbeat-interval")]
    pub heartbeat_interval_ms: u64,
    /// Time without a heartbeat before a follower campaigns, in milliseconds.
    #[serde(rename = "election-timeout")]
    pub election_timeout_ms: u64,
    /// Addresses for peers.
    pub listen_peer_urls: Urls,
    /// Addresses for clients: gRPC, and HTTP unless `listen_client_http_urls` is given.
    pub listen_client_urls: Urls,
    /// Addresses for HTTP clients only.
    pub listen_client_http_urls: Urls,
    /// Additional addresses for `/metrics` and `/health`.
    pub listen_metrics_urls: Urls,
    /// Size in bytes above which writes are refused: 0 is [`DEFAULT_QUOTA_BYTES`], negative none.
    pub quota_backend_bytes: i64,
    /// Operations in one transaction.
    pub max_txn_ops: u32,
    /// Bytes of one client request.
    pub max_request_bytes: u32,
    /// Concurrent HTTP/2 streams of one client.
    pub max_concurrent_streams: u32,
    /// Shortest time a client must leave between its pings.
    #[serde(with = "go_duration")]
    pub grpc_keepalive_min_time: Duration,
    /// Time after which a silent client is pinged; zero never.
    #[serde(with = "go_duration")]
    pub grpc_keepalive_interval: Duration,
    /// Time a pinged client has to answer; zero waits for ever.
    #[serde(with = "go_duration")]
    pub grpc_keepalive_timeout: Duration,
    /// Socket options of listeners.
    pub socket_options: SocketOptions,
    /// Time a peer connection may stay silent.
    #[serde(with = "go_duration")]
    pub raft_read_timeout: Duration,
    /// Time one write to a peer may take.
    #[serde(with = "go_duration")]
    pub raft_write_timeout: Duration,
    /// Learners the cluster may have at once.
    pub max_learners: u32,

    // ---- clustering
    /// Peer URLs told to the other members.
    pub initial_advertise_peer_urls: Urls,
    /// Client URLs told to clients and members.
    pub advertise_client_urls: Urls,
    /// The first members. Empty: those of `discovery_srv`, else this one alone (see
    /// [`Config::complete`]).
    pub initial_cluster: InitialCluster,
    /// Domain whose DNS SRV records name the first members, instead of `initial_cluster`.
    pub discovery_srv: String,
    /// Suffix of the SRV services of `discovery_srv`.
    pub discovery_srv_name: String,
    /// DNS server to ask, instead of the system's. Neither flag nor key of a file.
    #[serde(skip)]
    pub dns_resolver: Option<SocketAddr>,
    /// Found or join.
    pub initial_cluster_state: ClusterState,
    /// Part of all ids, keeps clusters with equal URLs apart.
    pub initial_cluster_token: String,
    /// Refuse membership changes that would lose the quorum.
    pub strict_reconfig_check: bool,
    /// Ask for votes without raising the term first.
    pub pre_vote: bool,
    /// How `auto_compaction_retention` is read.
    pub auto_compaction_mode: CompactionMode,
    /// What automatic compaction keeps; "0" turns it off. See [`Config::auto_compaction`].
    pub auto_compaction_retention: String,
    /// Serve the v2 keys API.
    pub enable_v2: bool,
    /// Serve HTTP+JSON.
    pub enable_grpc_gateway: bool,

    // ---- security
    /// Certificates of the client port.
    pub client_transport_security: TlsFiles,
    /// Certificates between peers.
    pub peer_transport_security: TlsFiles,
    /// Lifetime of generated certificates, in years.
    #[serde(rename = "self-signed-cert-validity")]
    pub self_signed_cert_validity_years: u32,
    /// TLS 1.2 cipher suites by IANA name, in order of preference. Empty: our default.
    pub cipher_suites: Vec<String>,
    /// Lowest TLS version.
    pub tls_min_version: TlsVersion,
    /// Highest TLS version; none is the highest known.
    pub tls_max_version: Option<TlsVersion>,
    /// Origins for cross-origin requests, `*` any.
    #[serde(with = "comma_list")]
    pub cors: Vec<String>,
    /// Host names a cleartext HTTP request may be for, `*` any.
    #[serde(with = "comma_list")]
    pub host_whitelist: Vec<String>,

    // ---- auth
    /// Kind of tokens: `simple`, or `jwt` with options. See [`Config::auth_token`].
    #[serde(rename = "auth-token")]
    pub auth_token: String,
    /// Work factor of password hashes.
    pub bcrypt_cost: u32,
    /// Lifetime of a simple token after its last use, in seconds.
    #[serde(rename = "auth-token-ttl")]
    pub auth_token_ttl_s: u64,

    // ---- monitoring
    /// Detail of metrics.
    pub metrics: MetricsLevel,
    /// Serve reports about the process under `/debug/pprof/`.
    pub enable_pprof: bool,
    /// Warn when applying an entry takes longer.
    #[serde(with = "go_duration")]
    pub warning_apply_duration: Duration,
    /// Warn when a unary request takes longer.
    #[serde(with = "go_duration")]
    pub warning_unary_request_duration: Duration,

    // ---- logging
    /// Least severe level written.
    pub log_level: LogLevel,
    /// Form of a line.
    pub log_format: LogFormat,
    /// Where lines go.
    pub log_outputs: LogOutputs,

    // ---- watch, lease, compaction, integrity
    /// Time between progress notifications of an idle watcher; zero is etcd's ten minutes.
    #[serde(with = "go_duration")]
    pub watch_progress_notify_interval: Duration,
    /// Revisions one step of a compaction deletes; 0 is etcd's 1000.
    pub compaction_batch_limit: u32,
    /// Pause between steps of a compaction; zero is etcd's 10 ms.
    #[serde(with = "go_duration")]
    pub compaction_sleep_interval: Duration,
    /// Time between comparisons of the members' hashes; zero never.
    #[serde(with = "go_duration")]
    pub corrupt_check_time: Duration,
    /// Time between comparisons of the members' compaction hashes.
    #[serde(with = "go_duration")]
    pub compact_hash_check_time: Duration,
    /// Compare hashes with the peers before serving (feature gate `InitialCorruptCheck`).
    pub initial_corrupt_check: bool,
    /// Compare compaction hashes (feature gate `CompactHashCheck`).
    pub compact_hash_check: bool,
    /// Replicate remaining TTLs, so a new leader does not restart leases in full (feature gate
    /// `LeaseCheckpoint`).
    pub lease_checkpoint: bool,

    // ---- recovery
    /// Start a one-member cluster from this member's data.
    pub force_new_cluster: bool,
}

impl Default for Config {
    fn default() -> Self {
        let url = |text: &str| text.parse::<Urls>().expect("a constant URL is valid");
        Self {
            name: DEFAULT_NAME.to_owned(),
            data_dir: PathBuf::new(),
            wal_dir: PathBuf::new(),
            snapshot_count: 10_000,
            snapshot_catch_up_entries: 5_000,
            heartbeat_interval_ms: 100,
            election_timeout_ms: 1_000,
            listen_peer_urls: url(DEFAULT_PEER_URL),
            listen_client_urls: url(DEFAULT_CLIENT_URL),
            listen_client_http_urls: Urls::default(),
            listen_metrics_urls: Urls::default(),
            quota_backend_bytes: 0,
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            grpc_keepalive_min_time: Duration::from_secs(5),
            grpc_keepalive_interval: Duration::from_secs(2 * 3600),
            grpc_keepalive_timeout: Duration::from_secs(20),
            socket_options: SocketOptions::default(),
            raft_read_timeout: Duration::from_secs(5),
            raft_write_timeout: Duration::from_secs(5),
            max_learners: 1,
            initial_advertise_peer_urls: url(DEFAULT_PEER_URL),
            advertise_client_urls: url(DEFAULT_CLIENT_URL),
            initial_cluster: InitialCluster::default(),
            discovery_srv: String::new(),
            discovery_srv_name: String::new(),
            dns_resolver: None,
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".to_owned(),
            strict_reconfig_check: true,
            pre_vote: true,
            auto_compaction_mode: CompactionMode::Periodic,
            auto_compaction_retention: "0".to_owned(),
            enable_v2: true,
            enable_grpc_gateway: true,
            client_transport_security: TlsFiles::default(),
            peer_transport_security: TlsFiles::default(),
            self_signed_cert_validity_years: 1,
            cipher_suites: Vec::new(),
            tls_min_version: TlsVersion::Tls12,
            tls_max_version: None,
            cors: vec!["*".to_owned()],
            host_whitelist: vec!["*".to_owned()],
            auth_token: "simple".to_owned(),
            bcrypt_cost: 10,
            auth_token_ttl_s: 300,
            metrics: MetricsLevel::Basic,
            enable_pprof: false,
            warning_apply_duration: Duration::from_millis(100),
            warning_unary_request_duration: Duration::from_millis(300),
            log_level: LogLevel::Info,
            log_format: LogFormat::Json,
            log_outputs: LogOutputs::default(),
            watch_progress_notify_interval: Duration::ZERO,
            compaction_batch_limit: 0,
            compaction_sleep_interval: Duration::ZERO,
            corrupt_check_time: Duration::ZERO,
            compact_hash_check_time: Duration::from_secs(60),
            initial_corrupt_check: false,
            compact_hash_check: false,
            lease_checkpoint: false,
            force_new_cluster: false,
        }
    }
}

/// What zero stands for in [`Config::watch_progress_notify_interval`].
const DEFAULT_WATCH_PROGRESS: Duration = Duration::from_secs(600);
/// What zero stands for in [`Config::compaction_batch_limit`].
const DEFAULT_COMPACTION_BATCH: u32 = 1_000;
/// What zero stands for in [`Config::compaction_sleep_interval`].
const DEFAULT_COMPACTION_SLEEP: Duration = Duration::from_millis(10);

impl Config {
    /// It listens for peers on all addresses and says nothing about where they find it.
    #[must_use]
    pub fn advertises_default_host(&self) -> bool {
        self.initial_advertise_peer_urls.to_string() == DEFAULT_PEER_URL
            && self.listen_peer_urls.first().is_some_and(|url| url.host() == "0.0.0.0")
    }

    /// Tells peers to come to `host`, with the port that is listened on; nothing without a host.
    /// To be called before [`Config::complete`]. As in etcd.
    pub fn advertise_host(&mut self, host: Option<IpAddr>) {
        let (Some(host), Some(listen)) = (host, self.listen_peer_urls.first()) else { return };
        let scheme = if listen.scheme().is_secure() { "https" } else { "http" };
        let address = SocketAddr::new(host, listen.port());
        if let Ok(urls) = format!("{scheme}://{address}").parse() {
            self.initial_advertise_peer_urls = urls;
        }
    }

    /// Fills what follows from other values: the data directory from the name, the initial
    /// cluster from name and advertised peer URLs, and the zeros that stand for a default.
    /// Doing it twice changes nothing.
    pub fn complete(&mut self) {
        if self.data_dir.as_os_str().is_empty() {
            self.data_dir = PathBuf::from(format!("{}.etcd", self.name));
        }
        if self.initial_cluster.is_empty() && self.discovery_srv.is_empty() {
            self.initial_cluster =
                InitialCluster::single(&self.name, self.initial_advertise_peer_urls.clone());
        }
        if self.watch_progress_notify_interval.is_zero() {
            self.watch_progress_notify_interval = DEFAULT_WATCH_PROGRESS;
        }
        if self.compaction_batch_limit == 0 {
            self.compaction_batch_limit = DEFAULT_COMPACTION_BATCH;
        }
        if self.compaction_sleep_interval.is_zero() {
            self.compaction_sleep_interval = DEFAULT_COMPACTION_SLEEP;
        }
    }

    /// Bytes of data above which writes are refused; none if there is no limit.
    #[must_use]
    pub fn quota_bytes(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(DEFAULT_QUOTA_BYTES),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// Directory of the log, if it is not inside the data directory.
    #[must_use]
    pub fn separate_wal_dir(&self) -> Option<&Path> {
        (!self.wal_dir.as_os_str().is_empty()).then_some(self.wal_dir.as_path())
    }

    /// Automatic compaction, none if it is off.
    ///
    /// # Errors
    /// [`ConfigError::CompactionRetention`] if the retention is neither number nor duration.
    pub fn auto_compaction(&self) -> Result<Option<AutoCompaction>, ConfigError> {
        AutoCompaction::parse(self.auto_compaction_mode, &self.auto_compaction_retention)
    }

    /// Kind and options of auth tokens.
    ///
    /// # Errors
    /// [`ConfigError::AuthToken`].
    pub fn auth_token(&self) -> Result<AuthToken, ConfigError> {
        self.auth_token.parse().map_err(ConfigError::AuthToken)
    }
}

/// Serde form of a list that etcd's file writes as one text with commas.
mod comma_list {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<String>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let items: Vec<String> =
            text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
        // Empty means all, as `*` does.
        Ok(if items.is_empty() { vec!["*".to_owned()] } else { items })
    }

    pub(super) fn serialize<S: Serializer>(
        items: &[String],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&items.join(","))
    }
}
