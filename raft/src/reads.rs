//! Read index: one confirmation of leadership serves every read that arrived before it began.
//!
//! Invariants:
//! - a confirmation that began before a read arrived never serves it, and a failed one is not
//!   reused (etcd#20418): each try makes its own;
//! - a member that does not lead asks the leader, and never on behalf of a third one.

use std::{future::poll_fn, sync::Arc, sync::atomic::Ordering, time::Duration};

use openraft::LinearizerOption;
use tokio::time::{Instant, timeout_at};
use tripod_storage::codec;

use crate::{
    error::ReadError,
    hub::{Hub, fail_reads},
    network::Network,
    node::Raft,
    port::{Delivery, Dest},
    route::{Route, Routes},
    types::{NodeId, Peer},
    wire::{self, Lane, ReadIndexReply, kind},
};

/// Pause before asking again after a failure.
const RETRY: Duration = Duration::from_millis(20);

pub(crate) struct Reads {
    pub(crate) raft: Raft,
    pub(crate) hub: Arc<Hub>,
    pub(crate) network: Network,
    pub(crate) routes: Routes,
    /// Longest wait of a read.
    pub(crate) timeout: Duration,
    /// Longest wait for one confirmation.
    pub(crate) confirm_timeout: Duration,
}

impl Reads {
    /// Runs until dropped.
    pub(crate) async fn run(mut self) {
        let hub = self.hub.clone();
        loop {
            let (dests, since) = poll_fn(|context| hub.queues.poll_reads(context)).await;
            let deadline = since + self.timeout;
            if let Err((dests, error)) = self.round(dests, deadline).await {
                hub.queues.counters.failed_reads.fetch_add(1, Ordering::Relaxed);
                let mut delivery = Delivery::default();
                fail_reads(dests, &error, &mut delivery);
                delivery.wake();
            }
        }
    }

    /// Serves `dests`, trying until `deadline`.
    async fn round(
        &mut self,
        mut dests: Vec<Dest>,
        deadline: Instant,
    ) -> Result<(), (Vec<Dest>, ReadError)> {
        loop {
            self.hub.queues.counters.read_rounds.fetch_add(1, Ordering::Relaxed);
            let route = self.routes.borrow_and_update().clone();
            let confirmed = match &route {
                Route::Here => timeout_at(deadline, self.confirm()).await.ok().flatten(),
                Route::There(leader, peer) => {
                    dests = refuse_remote(dests);
                    self.ask(*leader, peer, deadline).await
                }
                Route::None => {
                    dests = refuse_remote(dests);
                    None
                }
            };
            if let Some(index) = confirmed {
                self.confirmed(dests, index, deadline);
                return Ok(());
            }
            self.hub.queues.counters.slow_reads.fetch_add(1, Ordering::Relaxed);
            if Instant::now() >= deadline {
                let error =
                    if route == Route::None { ReadError::NoLeader } else { ReadError::Timeout };
                return Err((dests, error));
            }
            // Whatever comes first: another leader, or time for another try.
            let _ = tokio::time::timeout(RETRY, self.routes.changed()).await;
        }
    }

    /// Asks a quorum whether this member still leads; the index a read must wait for.
    async fn confirm(&self) -> Option<u64> {
        let option = LinearizerOption::new(Some(Duration::ZERO), true)
            .with_wait_timeout(self.confirm_timeout);
        match self.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Some(linearizer.read_log_id().index()),
            Err(error) => {
                tracing::debug!(%error, "leadership is not confirmed");
                None
            }
        }
    }

    /// Asks the leader for an index.
    async fn ask(&self, leader: NodeId, peer: &Peer, deadline: Instant) -> Option<u64> {
        // One lost answer must not cost a read all its time.
        let deadline = deadline.min(Instant::now() + 2 * self.confirm_timeout);
        let reply = self
            .network
            .shared(leader, Lane::Control)
            .request(peer, |id| wire::encode_frame(kind::READ_INDEX, id, &[]), deadline)
            .await
            .ok()?;
        match codec::decode(&reply) {
            Ok(ReadIndexReply::Index(index)) => Some(index),
            Ok(ReadIndexReply::NotLeader | ReadIndexReply::Failed) | Err(_) => None,
        }
    }

    fn confirmed(&self, dests: Vec<Dest>, index: u64, deadline: Instant) {
        let mut local = Vec::with_capacity(dests.len());
        for dest in dests {
            match dest {
                Dest::Remote(sender) => {
                    // A receiver that is gone has given up waiting.
                    let _ = sender.send(Ok(index));
                }
                local_dest @ Dest::Slot { .. } => local.push(local_dest),
            }
        }
        if !local.is_empty() {
            self.hub.read_at(index, local, deadline);
        }
    }
}

/// Tells other members that this one does not lead.
fn refuse_remote(dests: Vec<Dest>) -> Vec<Dest> {
    let mut local = Vec::with_capacity(dests.len());
    for dest in dests {
        match dest {
            Dest::Remote(sender) => {
                let _ = sender.send(Err(ReadError::NoLeader));
            }
            local_dest @ Dest::Slot { .. } => local.push(local_dest),
        }
    }
    local
}
