//! Asks every other member from time to time whether it answers, and how fast.
//!
//! Decides nothing: elections and quorums have their own messages. It only measures, on every
//! member alike, where heartbeats would do so on the leader alone.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    hub::Hub,
    network::Network,
    node::Raft,
    types::Peer,
    wire::{self, Lane, kind},
};

/// Time between two probes of a member, about etcd's.
const INTERVAL: Duration = Duration::from_secs(3);
/// Longest wait for an answer; below the interval, so that probes do not pile up.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Probes until dropped.
pub(crate) async fn run(hub: std::sync::Arc<Hub>, raft: Raft, network: Network) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let others: Vec<(u64, Peer)> = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let nodes = metrics.membership_config.membership().nodes();
            nodes.filter(|(id, _)| **id != hub.node_id).map(|(id, p)| (*id, p.clone())).collect()
        };
        for (id, peer) in others {
            tokio::spawn(probe(hub.clone(), network.clone(), id, peer));
        }
    }
}

async fn probe(hub: std::sync::Arc<Hub>, network: Network, id: u64, peer: Peer) {
    let sent = Instant::now();
    let link = network.shared(id, Lane::Control);
    let encode = |request| wire::encode_frame(kind::PROBE, request, &[]);
    let answer = link.request(&peer, encode, sent + TIMEOUT).await;
    hub.queues.peers.of(id).probed(answer.is_ok().then(|| sent.elapsed()));
}
