//! What a member tells about itself.

use std::{collections::BTreeMap, time::Duration};

use crate::types::{NodeId, Peer};

/// What a member knows about itself and the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub node_id: NodeId,
    /// Current Raft term.
    pub term: u64,
    /// The leader, where one is known.
    pub leader: Option<NodeId>,
    /// This member is no voter.
    pub is_learner: bool,
    /// Last index in the log; 0 for an empty log.
    pub last_log_index: u64,
    /// Last index known to be committed.
    pub committed_index: u64,
    /// Last index applied.
    pub applied_index: u64,
    /// Everybody in the effective membership.
    pub members: BTreeMap<NodeId, MemberStatus>,
    /// Bytes of the write-ahead log on disk.
    pub log_bytes: u64,
}

/// A member as another one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// Where it is.
    pub peer: Peer,
    /// It does not vote. A member added as a voter votes once it has caught up.
    pub is_learner: bool,
    /// Last index it has on disk; known by the leader only.
    pub match_index: Option<u64>,
    /// Time since it acknowledged a message of the leader; known by the leader only.
    pub acknowledged_ago: Option<Duration>,
}

/// Counts since the member started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Proposals accepted into the queue.
    pub proposals: u64,
    /// Proposals that ended in an error.
    pub proposals_failed: u64,
    /// Batches of proposals made here.
    pub batches: u64,
    /// Batches sent to another leader.
    pub forwarded: u64,
    /// Reads that asked for an index.
    pub reads: u64,
    /// Confirmations of leadership for reads.
    pub read_rounds: u64,
    /// Changes of the leader seen.
    pub leader_changes: u64,
    /// Syncs of the write-ahead log.
    pub log_syncs: u64,
    /// Snapshots sent to followers.
    pub snapshots_sent: u64,
    /// Snapshots received and installed.
    pub snapshots_received: u64,
    /// Bytes sent in requests to peers.
    pub peer_bytes_sent: u64,
    /// Bytes received in answers of peers.
    pub peer_bytes_received: u64,
    /// Peer connections refused or closed for a fault.
    pub peers_refused: u64,
}
