//! Timing and limits of one member, validated once.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{Error, types::NodeId};

/// Room above etcd's limit of a request for what the command around it adds, such as the name
/// of the user it is made for.
const ENVELOPE_BYTES: usize = 64 << 10;

/// Settings of a member. Names and defaults are etcd's where it has them.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member's id. Never that of a member removed before.
    pub node_id: NodeId,
    /// Peers of another cluster are refused.
    pub cluster_id: u64,
    /// Folder of the write-ahead log and of snapshots on their way in.
    pub data_dir: PathBuf,
    /// Folder of the write-ahead log, where it is not inside `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Time between leader heartbeats, in milliseconds. Set it near the longest round trip
    /// between members.
    pub heartbeat_interval_ms: u64,
    /// Time without a heartbeat before a follower campaigns, in milliseconds. At least five
    /// heartbeats. Writes go on about 1.5 to 2 of these after the leader's death.
    pub election_timeout_ms: u64,
    /// Ask whether one could win before campaigning, so that a member that was cut off does not
    /// disturb a healthy leader.
    pub pre_vote: bool,
    /// Log entries between two checks that the log may be cut.
    pub snapshot_count: u64,
    /// Log entries kept behind the durable state for slow followers.
    pub snapshot_catchup_entries: u64,
    /// Most bytes of one request.
    pub request_bytes_max: usize,
    /// Raft entries under way at a time; what a leader appends for others gathers behind them too.
    pub batches_in_flight: usize,
    /// Bytes of recent log entries kept in memory for replication.
    pub log_cache_bytes: usize,
    /// Size of one segment file of the write-ahead log.
    pub wal_segment_bytes: u64,
    /// The state machine's own limits.
    pub state: tripod_storage::apply::Options,
    /// Changes applied but not yet in the engine that start a flush, in bytes.
    pub flush_bytes: u64,
    /// Changes applied but not yet in the engine at which proposals wait, in bytes.
    pub flush_bytes_max: u64,
    /// Longest time a change stays out of the engine, in milliseconds.
    pub flush_interval_ms: u64,
    /// Longest time written data stays without an engine sync, in milliseconds. Only after it
    /// may the log be cut; nothing acknowledged depends on it.
    pub engine_sync_interval_ms: u64,
    /// Keys of compacted history pruned in one step, during which nothing is applied.
    pub compact_keys: usize,
    /// Pause between two such steps.
    pub compact_pause: Duration,
    /// Applying an entry for longer is said in the log and counts as slow.
    pub slow_apply: Duration,
    /// Most learners in the cluster (etcd: 1; more are needed for a remote center).
    pub learners_max: usize,
    /// Refuse membership changes that put the quorum at risk (etcd's strict reconfiguration
    /// check).
    pub strict_reconfiguration: bool,
}

/// Folder of the write-ahead log inside the data directory.
const WAL_DIR: &str = "wal";

/// Least heartbeats in an election timeout, as etcd.
const HEARTBEATS_PER_ELECTION_MIN: u64 = 5;

/// Longest election timeout, as etcd.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;

/// A follower is sent log entries, never a snapshot, while it is within this of the leader.
/// openraft uses it only to call a learner "up to date"; etcd promotes at 90 % of the leader's
/// index, this is a fixed distance.
const LEARNER_LAG_MAX: u64 = 1_000;

impl Config {
    /// etcd's defaults for member `node_id` of cluster `cluster_id` with its log in `data_dir`.
    pub fn new(node_id: NodeId, cluster_id: u64, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_id,
            cluster_id,
            data_dir: data_dir.into(),
            wal_dir: None,
            heartbeat_interval_ms: 100,
            election_timeout_ms: 1_000,
            pre_vote: true,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            request_bytes_max: (3 << 19) + ENVELOPE_BYTES,
            batches_in_flight: 1,
            log_cache_bytes: 4 << 20,
            wal_segment_bytes: 64 << 20,
            state: tripod_storage::apply::Options {
                cache_bytes: 256 << 20,
                ..tripod_storage::apply::Options::default()
            },
            flush_bytes: 2 << 20,
            flush_bytes_max: 128 << 20,
            flush_interval_ms: 1_000,
            engine_sync_interval_ms: 5_000,
            compact_keys: 512,
            compact_pause: Duration::from_millis(2),
            slow_apply: Duration::from_millis(100),
            learners_max: 16,
            strict_reconfiguration: true,
        }
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`Error::Config`] with the values.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |text: String| Err(Error::Config(text));
        if self.node_id == 0 {
            return refuse("member id 0 is reserved".into());
        }
        if self.heartbeat_interval_ms == 0 {
            return refuse("--heartbeat-interval must be >0 (set to 0ms)".into());
        }
        if self.election_timeout_ms < HEARTBEATS_PER_ELECTION_MIN * self.heartbeat_interval_ms {
            return refuse(format!(
                "--election-timeout[{}ms] should be at least as 5 times as \
                 --heartbeat-interval[{}ms]",
                self.election_timeout_ms, self.heartbeat_interval_ms
            ));
        }
        if self.election_timeout_ms > ELECTION_TIMEOUT_MS_MAX {
            return refuse(format!(
                "--election-timeout[{}ms] is too long, and should be set less than {}ms",
                self.election_timeout_ms, ELECTION_TIMEOUT_MS_MAX
            ));
        }
        if self.batches_in_flight == 0 || self.request_bytes_max == 0 {
            return refuse("batches in flight and request bytes must be above 0".into());
        }
        if self.request_bytes_max > crate::types::BATCH_BYTES_LIMIT / 4 {
            return refuse(format!(
                "request limit of {} bytes is over {}",
                self.request_bytes_max,
                crate::types::BATCH_BYTES_LIMIT / 4
            ));
        }
        Ok(())
    }

    /// Where the write-ahead log lies.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join(WAL_DIR))
    }

    /// How long a proposal may wait: etcd's 5 s plus two election timeouts.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(5_000 + 2 * self.election_timeout_ms)
    }

    /// The election timeout.
    pub fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.election_timeout_ms)
    }

    /// The heartbeat interval.
    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms)
    }

    /// openraft's settings.
    ///
    /// A voter honours a leader for `election_timeout_max` after its last message and campaigns
    /// a random `min..max` later (openraft `engine_config.rs`). With `max` the configured
    /// timeout and `min` 11/20 of it, a leader's death is noticed after 1.55 to 2 timeouts, inside
    /// etcd's own 1 to 2, and candidates are spread over almost half a timeout. `min` stays above
    /// two heartbeats because the configured timeout is at least five.
    pub(crate) fn openraft(&self) -> Result<Arc<openraft::Config>, Error> {
        let config = openraft::Config {
            cluster_name: format!("{:016x}", self.cluster_id),
            heartbeat_interval: self.heartbeat_interval_ms,
            heartbeat_min_interval: None,
            election_timeout_min: self.election_timeout_ms * 11 / 20,
            election_timeout_max: self.election_timeout_ms,
            enable_pre_vote: Some(self.pre_vote),
            // A restored leader may serve a state machine older than what it answered before the
            // restart, because the committed index is not synced. A real election never does.
            enable_leader_restore: Some(false),
            broadcast_submitted_on_append: Some(true),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_count),
            max_in_snapshot_log_to_keep: self.snapshot_catchup_entries,
            replication_lag_threshold: LEARNER_LAG_MAX,
            max_payload_entries: 4096,
            install_snapshot_timeout: 60_000,
            backoff: "50ms 100ms ..1000ms".into(),
            ..openraft::Config::default()
        };
        let config = config.validate().map_err(|error| Error::Config(error.to_string()))?;
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn election_timeout_is_at_least_five_heartbeats_as_in_etcd() {
        let cases = [(100, 1000, true), (100, 500, true), (100, 499, false), (0, 1000, false)];
        for (heartbeat, election, want) in cases {
            let mut config = Config::new(1, 1, "");
            config.heartbeat_interval_ms = heartbeat;
            config.election_timeout_ms = election;
            assert_eq!(config.validate().is_ok(), want, "{heartbeat}/{election}");
            if want {
                config.openraft().expect("openraft accepts what we accept");
            }
        }
    }
}
