//! Every family: name, meaning, value.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tripod_raft::{Distribution, Measured, Status};
use tripod_storage::command::AlarmKind;

use super::{
    calls::{CODES, Calls, LATENCY_BOUNDS_MS},
    process::{self, Process},
    text::{NANO, Text},
};
use crate::{
    api::descriptors::Flow,
    client::{Client, ClientReading},
    version,
};

/// First bound of etcd's histograms of disk times, in nanoseconds.
const DISK_FIRST_NS: u64 = 1_000_000;

/// How the runs of one check went.
#[derive(Clone, Copy, Debug, Default)]
struct CheckCounts {
    successes: u64,
    errors: u64,
    passed_last: bool,
}

/// How health checks went, over all threads.
#[derive(Debug, Default)]
pub struct HealthCounts {
    healthy: AtomicU64,
    unhealthy: AtomicU64,
    /// By probe and check.
    checks: Mutex<BTreeMap<(&'static str, &'static str), CheckCounts>>,
}

impl HealthCounts {
    /// Counts an answer of `/health`.
    pub fn note_health(&self, healthy: bool) {
        let counter = if healthy { &self.healthy } else { &self.unhealthy };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a check of `/livez` or `/readyz`.
    pub fn note_check(&self, probe: &'static str, check: &'static str, passed: bool) {
        let mut checks = self.checks.lock();
        let counts = checks.entry((probe, check)).or_default();
        counts.successes += u64::from(passed);
        counts.errors += u64::from(!passed);
        counts.passed_last = passed;
    }
}

/// What metrics are read from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    /// The member.
    pub client: Client,
    /// gRPC calls of all threads.
    pub calls: Arc<Calls>,
    /// Health checks of all threads.
    pub health: Arc<HealthCounts>,
    /// Client connections open.
    pub connections: Arc<AtomicUsize>,
}

impl Source {
    /// All metrics now. Blocks for reading `/proc`, and briefly for the state's lock.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Text::default();
        let status = self.client.node().status();
        let measured = self.client.node().measured();
        let reading = self.client.reading();
        self.server(&mut text, &status, &measured);
        self.store(&mut text, reading);
        watches(&mut text, reading);
        disk(&mut text, &measured);
        self.peers(&mut text, &status, &measured);
        self.ours(&mut text, &status, &measured, reading);
        self.grpc(&mut text);
        process_families(&mut text);
        text.finish()
    }

    fn server(&self, text: &mut Text, status: &Status, measured: &Measured) {
        let counters = self.client.node().metrics();
        let id = format!("{:x}", self.client.identity().member_id);
        let minor = version::ETCD.rsplit_once('.').map_or(version::ETCD, |(minor, _)| minor);
        let mut info = |name, help, label, value: &str| {
            text.family(name, "gauge", help).sample(&[(label, value)], 1);
        };
        info(
            "etcd_cluster_version",
            "Version of the cluster, as a label.",
            "cluster_version",
            minor,
        );
        info(
            "etcd_server_version",
            "etcd version this server behaves as, as a label.",
            "server_version",
            version::ETCD,
        );
        info("etcd_server_id", "Member id in hexadecimal, as a label.", "server_id", &id);
        info(
            "tripod_build_info",
            "Version of this program, as a label.",
            "version",
            version::TRIPOD,
        );
        let live = self.client.node().live_leader();
        let is_leader = live == Some(status.node_id);
        text.gauge(
            "etcd_server_has_leader",
            "1 where a leader is known that lives.",
            u8::from(live.is_some()),
        );
        text.gauge("etcd_server_is_leader", "1 on the leader.", u8::from(is_leader));
        text.gauge(
            "etcd_server_is_learner",
            "1 on a member without a vote.",
            u8::from(status.is_learner),
        );
        text.counter(
            "etcd_server_leader_changes_seen_total",
            "Changes of the leader seen.",
            counters.leader_changes,
        );
        text.gauge(
            "etcd_server_proposals_committed_total",
            "Last log index known to be committed.",
            status.committed_index,
        );
        text.gauge(
            "etcd_server_proposals_applied_total",
            "Last log index applied.",
            status.applied_index,
        );
        text.gauge(
            "etcd_server_proposals_pending",
            "Proposals made here and not answered yet.",
            measured.proposals_pending,
        );
        text.counter(
            "etcd_server_proposals_failed_total",
            "Proposals made here that failed.",
            counters.proposals_failed,
        );
        text.counter(
            "etcd_server_slow_apply_total",
            "Log entries whose applying took longer than --warning-apply-duration.",
            measured.slow_applies,
        );
        text.counter(
            "etcd_server_slow_read_indexes_total",
            "Confirmations for linearizable reads that failed or came too late, and were repeated.",
            measured.slow_reads,
        );
        text.counter(
            "etcd_server_read_indexes_failed_total",
            "Groups of linearizable reads given up.",
            measured.failed_reads,
        );
        text.gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            "1 while a snapshot from the leader is being installed.",
            u8::from(measured.installing_snapshot),
        );
        text.gauge(
            "etcd_server_quota_backend_bytes",
            "Quota of the database in bytes; 0: none.",
            self.client.limits().quota_bytes,
        );
        let health = &self.health;
        text.counter(
            "etcd_server_health_success",
            "Answers of /health that were good.",
            health.healthy.load(Ordering::Relaxed),
        );
        text.counter(
            "etcd_server_health_failures",
            "Answers of /health that were bad.",
            health.unhealthy.load(Ordering::Relaxed),
        );
        let checks = health.checks.lock();
        let mut last = text.family(
            "etcd_server_healthcheck",
            "gauge",
            "1 where the last run of this check of /livez or /readyz passed.",
        );
        for ((probe, check), counts) in &*checks {
            last.sample(&[("type", probe), ("name", check)], u8::from(counts.passed_last));
        }
        let mut total = text.family(
            "etcd_server_healthchecks_total",
            "counter",
            "Runs of the checks of /livez and /readyz.",
        );
        for ((probe, check), counts) in &*checks {
            for (status, count) in [("success", counts.successes), ("error", counts.errors)] {
                total.sample(&[("type", probe), ("name", check), ("status", status)], count);
            }
        }
    }

    fn store(&self, text: &mut Text, reading: ClientReading) {
        // Refused to nobody: the client acts for the member itself.
        let status = self.client.status().map(|(_, status)| status).unwrap_or_default();
        let (counts, keys, leases, cached, revision, compacted) = {
            let machine = self.client.node().state().read();
            (
                machine.counts(),
                machine.keys_count(),
                machine.leases_count(),
                machine.cached_bytes(),
                machine.revision(),
                machine.compact_revision(),
            )
        };
        text.gauge(
            "etcd_mvcc_db_total_size_in_bytes",
            "Bytes of the database on disk.",
            status.db_size_bytes,
        );
        text.gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Bytes of live and historic data.",
            status.db_size_in_use_bytes,
        );
        text.counter(
            "etcd_mvcc_put_total",
            "Puts applied, those in transactions included.",
            counts.puts,
        );
        text.counter(
            "etcd_mvcc_delete_total",
            "Deletes applied, those in transactions and of ended leases included.",
            counts.deletes,
        );
        text.counter(
            "etcd_mvcc_range_total",
            "Ranges answered or applied.",
            counts.ranges + reading.ranges,
        );
        text.counter(
            "etcd_mvcc_txn_total",
            "Commands of more than one operation applied.",
            counts.txns,
        );
        text.counter(
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            "Bytes of keys and values put.",
            counts.put_bytes,
        );
        text.gauge(
            "etcd_debugging_mvcc_keys_total",
            "Keys in the index, deleted ones included until they are compacted.",
            keys,
        );
        text.gauge("etcd_debugging_mvcc_current_revision", "Revision of the store.", revision);
        text.gauge(
            "etcd_debugging_mvcc_compact_revision",
            "Revision of the last compaction; -1: none.",
            compacted,
        );
        text.counter(
            "etcd_debugging_lease_granted_total",
            "Leases granted.",
            counts.leases_granted,
        );
        text.counter(
            "etcd_debugging_lease_revoked_total",
            "Leases ended, for whatever reason.",
            counts.leases_revoked,
        );
        text.counter(
            "etcd_debugging_lease_renewed_total",
            "Leases renewed by this member as the leader.",
            self.client.lease_renewals(),
        );
        text.counter(
            "etcd_debugging_server_lease_expired_total",
            "Leases ended because their time was over.",
            counts.leases_expired,
        );
        text.gauge("tripod_leases", "Leases now.", leases);
        text.gauge(
            "tripod_cached_bytes",
            "Bytes of current keys and values held in memory.",
            cached,
        );
        let mut alarms = text.family("tripod_alarms", "gauge", "Members that raised this alarm.");
        for (name, kind) in [("NOSPACE", AlarmKind::NoSpace), ("CORRUPT", AlarmKind::Corrupt)] {
            let raised = status.alarms.iter().filter(|(_, alarm)| *alarm == kind).count();
            alarms.sample(&[("type", name)], raised);
        }
    }

    fn peers(&self, text: &mut Text, status: &Status, measured: &Measured) {
        let own = format!("{:x}", status.node_id);
        let peers: Vec<_> = measured.peers.iter().map(|p| (format!("{:x}", p.id), p)).collect();
        let mut family =
            text.family("etcd_network_peer_sent_bytes_total", "counter", "Bytes sent to a peer.");
        for (id, peer) in &peers {
            family.sample(&[("To", id)], peer.sent_bytes);
        }
        let mut family = text.family(
            "etcd_network_peer_received_bytes_total",
            "counter",
            "Bytes received from a peer.",
        );
        for (id, peer) in &peers {
            family.sample(&[("From", id)], peer.received_bytes);
        }
        let mut family = text.family(
            "etcd_network_peer_sent_failures_total",
            "counter",
            "Requests to a peer that were not answered, attempts to connect included.",
        );
        for (id, peer) in &peers {
            family.sample(&[("To", id)], peer.send_failures);
        }
        let mut family = text.family(
            "etcd_network_active_peers",
            "gauge",
            "1 where the peer answered the last probe.",
        );
        for (id, peer) in &peers {
            family.sample(&[("Local", &own), ("Remote", id)], u8::from(peer.reachable));
        }
        let mut family = text.family(
            "etcd_network_peer_round_trip_time_seconds",
            "histogram",
            "Time from a probe to its answer, the turn of the peer's consensus thread included.",
        );
        for (id, peer) in &peers {
            family.histogram(&[("To", id)], &peer.round_trip, NANO, 0);
        }
    }

    fn ours(&self, text: &mut Text, status: &Status, measured: &Measured, reading: ClientReading) {
        let counters = self.client.node().metrics();
        text.gauge("tripod_raft_term", "Raft term.", status.term);
        let mut members = text.family("tripod_members", "gauge", "Members by role.");
        let learners = status.members.values().filter(|member| member.is_learner).count();
        members.sample(&[("role", "voter")], status.members.len() - learners);
        members.sample(&[("role", "learner")], learners);
        text.counter("tripod_proposals_total", "Proposals made here.", counters.proposals);
        text.counter(
            "tripod_forwarded_batches_total",
            "Batches of proposals sent to the leader.",
            counters.forwarded,
        );
        let sizes = &measured.batch_commands;
        text.family("tripod_batch_commands", "histogram", "Proposals in a batch made here.")
            .histogram(&[], sizes, 1.0, 0);
        text.seconds("tripod_apply_seconds", "Applying one log entry.", &measured.apply, 0);
        text.seconds(
            "tripod_wal_sync_seconds",
            "Syncs of the write-ahead log, in finer steps than etcd's.",
            &measured.wal_sync,
            0,
        );
        text.seconds(
            "tripod_engine_sync_seconds",
            "Syncs of the engine.",
            &measured.engine_sync,
            0,
        );
        text.gauge(
            "tripod_wal_size_bytes",
            "Bytes of the write-ahead log on disk.",
            status.log_bytes,
        );
        text.gauge(
            "tripod_flush_pending_bytes",
            "Bytes applied and not in the engine yet.",
            measured.flush_pending_bytes,
        );
        text.gauge(
            "tripod_flush_lag_entries",
            "Log entries applied and not durable in the engine yet; the log keeps them.",
            measured.flush_lag_entries,
        );
        text.counter(
            "tripod_read_index_reads_total",
            "Linearizable reads that waited for a confirmation.",
            counters.reads,
        );
        text.counter(
            "tripod_read_index_rounds_total",
            "Confirmations; one serves all reads that wait.",
            counters.read_rounds,
        );
        text.counter(
            "tripod_sole_voter_reads_total",
            "Linearizable reads that a sole voter answered without a confirmation.",
            measured.sole_voter_reads,
        );
        text.counter(
            "tripod_snapshots_sent_total",
            "Snapshots sent to other members.",
            counters.snapshots_sent,
        );
        text.counter(
            "tripod_snapshots_received_total",
            "Snapshots installed from a leader.",
            counters.snapshots_received,
        );
        text.counter(
            "tripod_peers_refused_total",
            "Peer connections refused or closed for a fault.",
            counters.peers_refused,
        );
        text.gauge(
            "tripod_watch_lag_revisions",
            "Revisions that the slowest thread has yet to look at for its watchers.",
            reading.watch.lag,
        );
        text.gauge(
            "tripod_client_connections",
            "Client connections open.",
            self.connections.load(Ordering::Relaxed),
        );
    }

    fn grpc(&self, text: &mut Text) {
        let totals = self.calls.read();
        let labels: Vec<[(&str, &str); 3]> = totals
            .iter()
            .map(|(method, _)| {
                let flow = match method.flow {
                    Flow::Unary => "unary",
                    Flow::ClientStream => "client_stream",
                    Flow::ServerStream => "server_stream",
                    Flow::BidiStream => "bidi_stream",
                };
                [
                    ("grpc_method", &*method.name),
                    ("grpc_service", &*method.service),
                    ("grpc_type", flow),
                ]
            })
            .collect();
        let all = || labels.iter().zip(totals.iter().map(|(_, totals)| totals));
        let sum =
            |count: fn(&super::calls::Totals) -> u64| all().map(|(_, t)| count(t)).sum::<u64>();
        text.counter(
            "etcd_network_client_grpc_received_bytes_total",
            "Bytes of messages from gRPC clients, the JSON gateway included.",
            sum(|t| t.bytes_received),
        );
        text.counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "Bytes of messages to gRPC clients, the JSON gateway included.",
            sum(|t| t.bytes_sent),
        );
        let mut family = text.family("grpc_server_started_total", "counter", "Calls begun.");
        all().for_each(|(labels, totals)| family.sample(labels, totals.started));
        let mut family =
            text.family("grpc_server_msg_received_total", "counter", "Messages received.");
        all().for_each(|(labels, totals)| family.sample(labels, totals.messages_received));
        let mut family = text.family("grpc_server_msg_sent_total", "counter", "Messages sent.");
        all().for_each(|(labels, totals)| family.sample(labels, totals.messages_sent));
        let mut family =
            text.family("grpc_server_handled_total", "counter", "Calls ended, by outcome.");
        for ([method, service, flow], totals) in all() {
            for (code, count) in CODES.iter().zip(totals.handled) {
                family.sample(&[("grpc_code", code), *method, *service, *flow], count);
            }
        }
        if !self.calls.is_timed() {
            return;
        }
        let mut family = text.family(
            "grpc_server_handling_seconds",
            "histogram",
            "Time from a call's beginning to its end.",
        );
        for (labels, totals) in all() {
            let buckets = LATENCY_BOUNDS_MS.iter().map(|ms| ms * 1_000_000);
            let read = Distribution {
                buckets: buckets.zip(totals.latencies).collect(),
                above: totals.latencies[LATENCY_BOUNDS_MS.len()],
                sum: totals.latency_sum_ns,
            };
            family.histogram(labels, &read, NANO, 0);
        }
    }
}

fn watches(text: &mut Text, reading: ClientReading) {
    let watch = reading.watch;
    text.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams now.", watch.streams);
    text.gauge("etcd_debugging_mvcc_watcher_total", "Watchers now.", watch.watchers);
    text.gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watchers that read history because they are behind.",
        watch.behind,
    );
    text.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers.", watch.sent);
    text.gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "Events that wait for their stream.",
        watch.pending,
    );
}

fn disk(text: &mut Text, measured: &Measured) {
    text.seconds(
        "etcd_disk_wal_fsync_duration_seconds",
        "Syncs of the write-ahead log.",
        &measured.wal_sync,
        DISK_FIRST_NS,
    );
    text.seconds(
        "etcd_disk_backend_commit_duration_seconds",
        "Batches handed to the engine, the sync included where one was made.",
        &measured.engine_commit,
        DISK_FIRST_NS,
    );
    text.counter(
        "etcd_disk_wal_write_bytes_total",
        "Bytes of entries written to the write-ahead log, record heads not counted.",
        measured.wal_bytes,
    );
}

fn process_families(text: &mut Text) {
    let process = Process::read();
    let mut number = |name, kind, help, value: Option<String>| {
        if let Some(value) = value {
            text.family(name, kind, help).sample(&[], value);
        }
    };
    let whole = |value: Option<u64>| value.map(|value| value.to_string());
    let part = |value: Option<f64>| value.map(|value| value.to_string());
    number("process_cpu_seconds_total", "counter", "CPU time of the process.", part(process.cpu_s));
    number(
        "process_start_time_seconds",
        "gauge",
        "Start of the process, in Unix time.",
        part(process.started_unix_s),
    );
    number(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory.",
        whole(process.resident_bytes),
    );
    number(
        "process_virtual_memory_bytes",
        "gauge",
        "Virtual memory.",
        whole(process.virtual_bytes),
    );
    number(
        "process_virtual_memory_max_bytes",
        "gauge",
        "Limit of virtual memory; 2^64-1: none.",
        whole(process.virtual_max_bytes),
    );
    number("process_open_fds", "gauge", "Open file descriptors.", whole(process.fds_open));
    number("process_max_fds", "gauge", "Limit of open file descriptors.", whole(process.fds_max));
    number("os_fd_used", "gauge", "Open file descriptors.", whole(process.fds_open));
    number("os_fd_limit", "gauge", "Limit of open file descriptors.", whole(process.fds_max));
    number("tripod_threads", "gauge", "Threads of the process.", whole(process.threads));
    let threads = process::thread_cpu_s();
    if !threads.is_empty() {
        let mut family = text.family(
            "tripod_thread_cpu_seconds_total",
            "counter",
            "CPU time by thread, those of one name together.",
        );
        for (name, cpu_s) in &threads {
            family.sample(&[("thread", name)], cpu_s);
        }
    }
}
