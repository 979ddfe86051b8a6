//! What a member's handle tells monitoring.

use std::sync::atomic::{AtomicU64, Ordering};

use openraft::{Instant as _, async_runtime::WatchReceiver};

use super::{Inner, Node};
use crate::{
    measures::Measured,
    types::{NodeId, voters},
};

impl Node {
    /// The leader, unless this member has reason to believe that it leads no more: it leads
    /// itself and has not heard from a quorum for two election timeouts, or its last probe of
    /// the leader had no answer. For health and metrics: consensus keeps its own counsel.
    pub fn live_leader(&self) -> Option<NodeId> {
        let leader = self.leader()?;
        if leader != self.inner.config.node_id {
            let peer = self.inner.hub.queues.peers.of(leader);
            return (!peer.is_unreachable()).then_some(leader);
        }
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let patience = 2 * self.inner.config.election_timeout();
        let is_alone = voters(metrics.membership_config.membership()).len() < 2;
        // None: nobody has answered yet, but a quorum has just voted.
        let is_fresh = metrics.last_quorum_acked.is_none_or(|acked| acked.elapsed() <= patience);
        (is_alone || is_fresh).then_some(leader)
    }

    /// What was measured since the start, and how much waits now.
    pub fn measured(&self) -> Measured {
        let Inner { hub, log, flusher, config, raft, .. } = &*self.inner;
        let queues = &hub.queues;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let members = raft.metrics().borrow_watched().membership_config.membership().clone();
        let is_other = |id| id != config.node_id && members.get_node(&id).is_some();
        Measured {
            wal_sync: log.measures().sync.read(),
            wal_bytes: get(&log.measures().bytes),
            engine_commit: flusher.measures().commit.read(),
            engine_sync: flusher.measures().sync.read(),
            apply: queues.counters.apply.read(),
            slow_applies: get(&queues.counters.slow_applies),
            batch_commands: queues.counters.batch_commands.read(),
            proposals_pending: queues.proposals_waiting() + hub.proposals_under_way(),
            flush_pending_bytes: flusher.pending_bytes(),
            flush_lag_entries: (hub.applied_index().map_or(0, |index| index + 1))
                .saturating_sub(log.durable_next()),
            sole_voter_reads: queues.sole_voter_reads(),
            slow_reads: get(&queues.counters.slow_reads),
            failed_reads: get(&queues.counters.failed_reads),
            installing_snapshot: hub.is_installing(),
            peers: queues.peers.read(is_other),
        }
    }
}
