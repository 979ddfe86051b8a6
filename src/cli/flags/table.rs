//! Every flag of etcd 3.5 and 3.6: where its value goes, or why it goes nowhere.
//!
//! One row per flag is the whole knowledge about it: parsing, environment, file keys, help and
//! notices all read this table. The first name of a row is the one of 3.6; the others are older
//! spellings. Source: etcd `--help` of 3.5 and 3.6.

use super::{Flag, Kind, Treatment};

use Kind::{Bool, Dur, Int, List, Str, Uint, Uint32, Url};

/// A flag whose value the configuration holds under `key`.
const fn set(
    names: &'static [&'static str],
    key: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { names, kind, default, help, treatment: Treatment::Set(key) }
}

/// A flag that is read and then dropped.
const fn noted(names: &'static [&'static str], kind: Kind, why: &'static str) -> Flag {
    Flag { names, kind, default: "", help: why, treatment: Treatment::Noted(why) }
}

/// A flag that stops the start unless its value asks for nothing.
const fn refused(
    names: &'static [&'static str],
    kind: Kind,
    harmless: &'static [&'static str],
    why: &'static str,
) -> Flag {
    Flag { names, kind, default: "", help: why, treatment: Treatment::Refused { harmless, why } }
}

/// A headed part of the help text.
pub(super) struct Group {
    /// Heading.
    pub(super) title: &'static str,
    /// Rows.
    pub(super) flags: &'static [Flag],
}

/// All groups, in the order of the help text.
pub(super) static GROUPS: [Group; 9] = [
    Group { title: "Member", flags: &MEMBER },
    Group { title: "Clustering", flags: &CLUSTERING },
    Group { title: "Security", flags: &SECURITY },
    Group { title: "Auth", flags: &AUTH },
    Group { title: "Monitoring", flags: &MONITORING },
    Group { title: "Logging", flags: &LOGGING },
    Group { title: "Watch, compaction, integrity", flags: &STORE },
    Group { title: "Recovery", flags: &RECOVERY },
    Group { title: "Accepted for compatibility, or refused", flags: &FOREIGN },
];

#[rustfmt::skip]
static MEMBER: [Flag; 25] = [
    set(&["name"], "name", Str, "default", "Name of this member, unique in the cluster."),
    set(&["data-dir"], "data-dir", Str, "${name}.etcd", "Directory of all data."),
    set(&["wal-dir"], "wal-dir", Str, "", "Directory of the log, if not inside the data directory."),
    set(&["snapshot-count"], "snapshot-count", Uint, "10000", "Applied entries after which a snapshot is taken."),
    set(&["snapshot-catchup-entries", "experimental-snapshot-catchup-entries"], "snapshot-catchup-entries", Uint, "5000", "Entries kept behind a snapshot for slow followers."),
    set(&["heartbeat-interval"], "heartbeat-interval", Uint, "100", "Milliseconds between heartbeats."),
    set(&["election-timeout"], "election-timeout", Uint, "1000", "Milliseconds without a heartbeat before an election."),
    set(&["listen-peer-urls"], "listen-peer-urls", Url, "http://localhost:2380", "URLs to listen on for peers."),
    set(&["listen-client-urls"], "listen-client-urls", Url, "http://localhost:2379", "URLs to listen on for clients; HTTP too unless --listen-client-http-urls is given."),
    set(&["listen-client-http-urls"], "listen-client-http-urls", Url, "", "URLs to listen on for HTTP clients only."),
    set(&["quota-backend-bytes"], "quota-backend-bytes", Int, "0", "Bytes of data above which writes are refused (0: 2 GiB, negative: no limit)."),
    set(&["max-txn-ops"], "max-txn-ops", Uint32, "128", "Operations in one transaction."),
    set(&["max-request-bytes"], "max-request-bytes", Uint32, "1572864", "Bytes of one client request."),
    set(&["max-concurrent-streams", "experimental-max-concurrent-streams"], "max-concurrent-streams", Uint32, "4294967295", "Concurrent streams of one client."),
    set(&["enable-grpc-gateway"], "enable-grpc-gateway", Bool, "true", "Serve HTTP+JSON."),
    set(&["grpc-keepalive-min-time"], "grpc-keepalive-min-time", Dur, "5s", "Shortest time a client must leave between pings."),
    set(&["grpc-keepalive-interval"], "grpc-keepalive-interval", Dur, "2h", "Time after which a silent client is pinged (0: never)."),
    set(&["grpc-keepalive-timeout"], "grpc-keepalive-timeout", Dur, "20s", "Time a pinged client has to answer (0: for ever)."),
    set(&["socket-reuse-port"], "socket-options.reuse-port", Bool, "false", "Share the ports with other processes of this user (SO_REUSEPORT)."),
    set(&["socket-reuse-address"], "socket-options.reuse-address", Bool, "false", "Nothing to choose: listeners always set SO_REUSEADDR."),
    set(&["raft-read-timeout"], "raft-read-timeout", Dur, "5s", "Time a peer's machine may be silent, by TCP keepalive (0: for ever)."),
    set(&["raft-write-timeout"], "raft-write-timeout", Dur, "5s", "Time bytes to a peer may go unacknowledged, by TCP (0: for ever)."),
    set(&["max-learners", "experimental-max-learners"], "max-learners", Uint32, "1", "Learners the cluster may have at once."),
    set(&["enable-v2"], "enable-v2", Bool, "true", "Serve the v2 keys API."),
    set(&["feature-gates"], "feature-gates", Str, "", "Feature gates, NAME=true|false separated by commas."),
];

#[rustfmt::skip]
static CLUSTERING: [Flag; 11] = [
    set(&["initial-advertise-peer-urls"], "initial-advertise-peer-urls", Url, "http://localhost:2380", "Peer URLs told to the other members."),
    set(&["initial-cluster"], "initial-cluster", Str, "${name}=${initial-advertise-peer-urls}", "The first members, NAME=URL separated by commas."),
    set(&["discovery-srv"], "discovery-srv", Str, "", "Domain whose DNS SRV records name the first members; TRIPOD_DNS_RESOLVER=IP:PORT asks another DNS server."),
    set(&["discovery-srv-name"], "discovery-srv-name", Str, "", "Suffix of the SRV services: _etcd-server-ssl-NAME._tcp."),
    set(&["initial-cluster-state"], "initial-cluster-state", Str, "new", "'new' to found the cluster, 'existing' to join one."),
    set(&["initial-cluster-token"], "initial-cluster-token", Str, "etcd-cluster", "Keeps clusters with equal URLs apart."),
    set(&["advertise-client-urls"], "advertise-client-urls", Url, "http://localhost:2379", "Client URLs told to clients and members."),
    set(&["strict-reconfig-check"], "strict-reconfig-check", Bool, "true", "Refuse membership changes that would lose the quorum."),
    set(&["pre-vote"], "pre-vote", Bool, "true", "Ask for votes without raising the term first."),
    set(&["auto-compaction-mode"], "auto-compaction-mode", Str, "periodic", "'periodic' (by age) or 'revision' (by number)."),
    set(&["auto-compaction-retention"], "auto-compaction-retention", Str, "0", "What compaction keeps: '1h', '5' (hours), or revisions; 0 is off."),
];

#[rustfmt::skip]
static SECURITY: [Flag; 25] = [
    set(&["cert-file"], "client-transport-security.cert-file", Str, "", "Certificate of the client port."),
    set(&["key-file"], "client-transport-security.key-file", Str, "", "Private key of the client port."),
    set(&["client-cert-file"], "client-transport-security.client-cert-file", Str, "", "Certificate for dialing itself, if not --cert-file."),
    set(&["client-key-file"], "client-transport-security.client-key-file", Str, "", "Private key of --client-cert-file."),
    set(&["client-cert-auth"], "client-transport-security.client-cert-auth", Bool, "false", "Require client certificates."),
    set(&["client-crl-file"], "client-transport-security.crl-file", Str, "", "Revoked client certificates."),
    set(&["client-cert-allowed-hostname"], "client-transport-security.allowed-hostname", List, "", "Host names a client certificate may have."),
    set(&["trusted-ca-file"], "client-transport-security.trusted-ca-file", Str, "", "Authorities of client certificates."),
    set(&["auto-tls"], "client-transport-security.auto-tls", Bool, "false", "Generate a client port certificate."),
    set(&["peer-cert-file"], "peer-transport-security.cert-file", Str, "", "Certificate of the peer port."),
    set(&["peer-key-file"], "peer-transport-security.key-file", Str, "", "Private key of the peer port."),
    set(&["peer-client-cert-file"], "peer-transport-security.client-cert-file", Str, "", "Certificate for dialing peers, if not --peer-cert-file."),
    set(&["peer-client-key-file"], "peer-transport-security.client-key-file", Str, "", "Private key of --peer-client-cert-file."),
    set(&["peer-client-cert-auth"], "peer-transport-security.client-cert-auth", Bool, "false", "Require peer certificates."),
    set(&["peer-trusted-ca-file"], "peer-transport-security.trusted-ca-file", Str, "", "Authorities of peer certificates."),
    set(&["peer-crl-file"], "peer-transport-security.crl-file", Str, "", "Revoked peer certificates."),
    set(&["peer-cert-allowed-cn"], "peer-transport-security.allowed-cn", List, "", "Common names a peer certificate may have."),
    set(&["peer-cert-allowed-hostname"], "peer-transport-security.allowed-hostname", List, "", "Host names a peer certificate may have."),
    set(&["peer-auto-tls"], "peer-transport-security.auto-tls", Bool, "false", "Generate a peer certificate."),
    set(&["peer-skip-client-san-verification", "experimental-peer-skip-client-san-verification"], "peer-transport-security.skip-client-san-verification", Bool, "false", "Do not compare a peer certificate's addresses."),
    set(&["self-signed-cert-validity"], "self-signed-cert-validity", Uint32, "1", "Years a generated certificate lives."),
    set(&["cipher-suites"], "cipher-suites", List, "", "TLS 1.2 cipher suites."),
    set(&["tls-min-version"], "tls-min-version", Str, "TLS1.2", "Lowest TLS version, TLS1.2 or TLS1.3."),
    set(&["tls-max-version"], "tls-max-version", Str, "", "Highest TLS version."),
    set(&["host-whitelist"], "host-whitelist", Str, "*", "Host names a cleartext HTTP request may be for."),
];

#[rustfmt::skip]
static AUTH: [Flag; 4] = [
    set(&["auth-token"], "auth-token", Str, "simple", "'simple', or 'jwt,pub-key=..,priv-key=..,sign-method=..,ttl=..'."),
    set(&["auth-token-ttl"], "auth-token-ttl", Uint, "300", "Seconds a simple token lives unused."),
    set(&["bcrypt-cost"], "bcrypt-cost", Uint32, "10", "Work factor of password hashes, 4 to 31."),
    set(&["cors"], "cors", Str, "*", "Origins for cross-origin requests."),
];

#[rustfmt::skip]
static MONITORING: [Flag; 5] = [
    set(&["metrics"], "metrics", Str, "basic", "'extensive' adds latency histograms per method."),
    set(&["enable-pprof"], "enable-pprof", Bool, "false", "Reports about the process under /debug/pprof/."),
    set(&["listen-metrics-urls"], "listen-metrics-urls", Url, "", "More URLs for /metrics and /health."),
    set(&["warning-apply-duration", "experimental-warning-apply-duration"], "warning-apply-duration", Dur, "100ms", "Warn when applying an entry takes longer (a line a second at most)."),
    set(&["warning-unary-request-duration", "experimental-warning-unary-request-duration"], "warning-unary-request-duration", Dur, "300ms", "Warn when a unary request takes longer (a line a second at most)."),
];

#[rustfmt::skip]
static LOGGING: [Flag; 3] = [
    set(&["log-level"], "log-level", Str, "info", "debug, info, warn, error, panic or fatal."),
    set(&["log-format"], "log-format", Str, "json", "'json' or 'console'."),
    set(&["log-outputs", "log-output"], "log-outputs", List, "default", "stderr, stdout or file paths; default is stderr."),
];

#[rustfmt::skip]
static STORE: [Flag; 8] = [
    set(&["watch-progress-notify-interval", "experimental-watch-progress-notify-interval"], "watch-progress-notify-interval", Dur, "10m", "Time between progress notifications."),
    set(&["compaction-batch-limit", "experimental-compaction-batch-limit"], "compaction-batch-limit", Uint32, "1000", "Keys one step of a compaction goes through."),
    set(&["compaction-sleep-interval", "experimental-compaction-sleep-interval"], "compaction-sleep-interval", Dur, "10ms", "Pause between steps of a compaction."),
    set(&["corrupt-check-time", "experimental-corrupt-check-time"], "corrupt-check-time", Dur, "0s", "Time between comparisons of the members' hashes."),
    set(&["compact-hash-check-time", "experimental-compact-hash-check-time"], "compact-hash-check-time", Dur, "1m", "Time between comparisons of compaction hashes."),
    set(&["experimental-compact-hash-check-enabled"], "compact-hash-check", Bool, "false", "Feature gate CompactHashCheck."),
    set(&["experimental-initial-corrupt-check"], "initial-corrupt-check", Bool, "false", "Feature gate InitialCorruptCheck."),
    set(&["experimental-enable-lease-checkpoint"], "lease-checkpoint", Bool, "false", "Feature gate LeaseCheckpoint."),
];

#[rustfmt::skip]
static RECOVERY: [Flag; 1] = [
    set(&["force-new-cluster"], "force-new-cluster", Bool, "false", "Start a one-member cluster from this member's data."),
];

const DISCOVERY: &str = "the v2 discovery service is not asked (etcd 3.6 dropped it too): name all members in --initial-cluster";
const TICKS: &str =
    "a member that starts waits for no earlier leader: it asks for votes at its first tick";
const V3_DISCOVERY: &str =
    "discovery through another cluster is not built: name all members in --initial-cluster";
const PROXY: &str = "the v2 proxy is gone since etcd 3.6: give clients the members' own URLs";
const PROXY_TIMING: &str = "there is no v2 proxy to time";
const BBOLT: &str = "there is no bbolt file here; the store chooses its own batches";
const FILES_KEPT: &str = "log segments and snapshots are removed as soon as no member needs them";
const TRACING: &str = "spans are not exported";
const ROTATION: &str = "log files are not rotated here; use logrotate with copytruncate";
const DEFRAG: &str = "the store needs no defragmentation";

#[rustfmt::skip]
static FOREIGN: [Flag; 43] = [
    refused(&["unsafe-no-fsync"], Bool, &["false"], "an acknowledged write is always on disk on a quorum; for throw-away data put --data-dir on tmpfs instead"),
    refused(&["discovery"], Str, &[""], DISCOVERY),
    refused(&["discovery-endpoints"], List, &[""], V3_DISCOVERY),
    refused(&["discovery-token"], Str, &[""], V3_DISCOVERY),
    refused(&["proxy"], Str, &["off", "false", ""], PROXY),
    refused(&["experimental-enable-v2v3"], Str, &[""], "v2 keys live in their own store, not under a v3 prefix; use --enable-v2"),
    refused(&["logger"], Str, &["zap", ""], "only zap's line format is written; choose with --log-format"),
    noted(&["discovery-fallback"], Str, DISCOVERY),
    noted(&["discovery-proxy"], Str, DISCOVERY),
    noted(&["initial-election-tick-advance"], Bool, TICKS),
    noted(&["discovery-dial-timeout"], Dur, V3_DISCOVERY),
    noted(&["discovery-request-timeout"], Dur, V3_DISCOVERY),
    noted(&["discovery-keepalive-time"], Dur, V3_DISCOVERY),
    noted(&["discovery-keepalive-timeout"], Dur, V3_DISCOVERY),
    noted(&["discovery-insecure-transport"], Bool, V3_DISCOVERY),
    noted(&["discovery-insecure-skip-tls-verify"], Bool, V3_DISCOVERY),
    noted(&["discovery-cert"], Str, V3_DISCOVERY),
    noted(&["discovery-key"], Str, V3_DISCOVERY),
    noted(&["discovery-cacert"], Str, V3_DISCOVERY),
    noted(&["discovery-user"], Str, V3_DISCOVERY),
    noted(&["discovery-password"], Str, V3_DISCOVERY),
    noted(&["proxy-failure-wait"], Uint, PROXY_TIMING),
    noted(&["proxy-refresh-interval"], Uint, PROXY_TIMING),
    noted(&["proxy-dial-timeout"], Uint, PROXY_TIMING),
    noted(&["proxy-write-timeout"], Uint, PROXY_TIMING),
    noted(&["proxy-read-timeout"], Uint, PROXY_TIMING),
    noted(&["max-snapshots"], Uint, FILES_KEPT),
    noted(&["max-wals"], Uint, FILES_KEPT),
    noted(&["backend-bbolt-freelist-type", "experimental-backend-bbolt-freelist-type"], Str, BBOLT),
    noted(&["backend-batch-interval"], Dur, BBOLT),
    noted(&["backend-batch-limit"], Int, BBOLT),
    noted(&["experimental-txn-mode-write-with-shared-buffer"], Bool, BBOLT),
    noted(&["memory-mlock", "experimental-memory-mlock"], Bool, "memory is not locked; the working set is bounded instead"),
    noted(&["bootstrap-defrag-threshold-megabytes", "experimental-bootstrap-defrag-threshold-megabytes"], Uint, DEFRAG),
    noted(&["experimental-stop-grpc-service-on-defrag"], Bool, DEFRAG),
    noted(&["experimental-enable-lease-checkpoint-persist"], Bool, "checkpoints are always persisted"),
    noted(&["downgrade-check-time", "experimental-downgrade-check-time"], Dur, "a downgrade needs no polling"),
    noted(&["v2-deprecation"], Str, "the v2 store is neither migrated nor deleted; --enable-v2 serves it or not"),
    noted(&["enable-log-rotation"], Bool, ROTATION),
    noted(&["log-rotation-config-json"], Str, ROTATION),
    noted(&["disable-log-sampling"], Bool, "log lines are never sampled"),
    noted(&["enable-distributed-tracing", "experimental-enable-distributed-tracing"], Bool, TRACING),
    noted(&["distributed-tracing-address", "experimental-distributed-tracing-address", "distributed-tracing-service-name", "experimental-distributed-tracing-service-name", "distributed-tracing-instance-id", "experimental-distributed-tracing-instance-id", "distributed-tracing-sampling-rate", "experimental-distributed-tracing-sampling-rate"], Str, TRACING),
];
