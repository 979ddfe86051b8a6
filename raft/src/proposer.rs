//! Collects waiting proposals into Raft entries: here if this member leads, else by the leader.
//!
//! Invariants:
//! - a batch is proposed again only when it was certainly not appended anywhere;
//! - answers come from this member's own state machine (`hub.rs`), so a caller that reads here
//!   after its answer sees its write;
//! - forwarded batches are never forwarded again: a receiver that does not lead refuses.
//!
//! A leader works in rounds: while one is on its way, its own proposals and the batches of others
//! gather for the next, which costs one sync and one message to each follower for all of them.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use openraft::{errors::ClientWriteError, impls::ProgressResponder};
use tokio::time::{Instant, MissedTickBehavior};
use tripod_storage::codec;

use crate::{
    error::ProposeError,
    fatal::Fatal,
    hub::Hub,
    link::LinkError,
    network::Network,
    node::Raft,
    port::Delivery,
    queue::{Chunk, Forwarded},
    route::{Route, Routes},
    types::{Batch, BatchId, Peer},
    wire::{self, ForwardReply, Lane, kind},
};

/// How often deadlines are looked at and refused batches tried again.
const TICK: Duration = Duration::from_millis(20);

/// Batches on their way to the leader at a time: one in its round, one that waits for the next.
const FORWARDS_MAX: usize = 2;

/// What became of one attempt.
enum Finished {
    /// Applied here, or on its way to be.
    Done,
    /// The leader has applied the batch of this sequence at this index.
    AppliedThere(u64, u64),
    /// Certainly not appended: may be tried again.
    NotAppended(Attempt),
    /// Appended, then the leader was lost.
    LeaderLost(u64),
    /// The leader could not read it: a fault of this program.
    Refused(u64),
    /// Consensus has stopped.
    Stopped(u64),
}

/// A batch under way.
#[derive(Clone, Debug)]
struct Attempt {
    batch: Batch,
    sequence: u64,
    deadline: Instant,
}

pub(crate) struct Proposer {
    pub(crate) raft: Raft,
    pub(crate) hub: Arc<Hub>,
    pub(crate) network: Network,
    pub(crate) routes: Routes,
    pub(crate) timeout: Duration,
    pub(crate) in_flight_max: usize,
    pub(crate) fatal: Fatal,
    /// Set while leadership is handed over.
    pub(crate) hold: Arc<AtomicBool>,
}

impl Proposer {
    /// Runs until dropped.
    pub(crate) async fn run(mut self) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Finished>> = FuturesUnordered::new();
        let mut retry: VecDeque<Attempt> = VecDeque::new();
        let mut sequence = 0;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let routed = *self.routes.borrow() != Route::None;
            let held = self.hold.load(Ordering::SeqCst);
            let most = if self.leads() { self.in_flight_max } else { FORWARDS_MAX };
            let free = routed && !held && retry.is_empty() && in_flight.len() < most;
            let queues = &self.hub.queues;
            tokio::select! {
                biased;
                Some(finished) = in_flight.next() => self.finish(finished, &mut retry),
                round = poll_fn(|context| queues.poll_round(context)), if free => {
                    for forwarded in round.forwarded {
                        in_flight.extend(self.append(forwarded).await);
                    }
                    if let Some(chunk) = round.chunk {
                        sequence += 1;
                        let attempt = self.begin(chunk, sequence);
                        in_flight.extend(self.start(attempt, &mut retry).await);
                    }
                }
                changed = self.routes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                _ = tick.tick() => {
                    self.hub.expire(Instant::now());
                    self.expire_queued();
                    if held || !self.leads() {
                        self.hub.queues.take_forwarded().into_iter().for_each(refuse);
                    }
                    for attempt in std::mem::take(&mut retry) {
                        if attempt.deadline <= Instant::now() + TICK {
                            self.fail(attempt.sequence, &ProposeError::NoLeader);
                        } else {
                            in_flight.extend(self.start(attempt, &mut retry).await);
                        }
                    }
                }
            }
        }
    }

    /// Makes a batch of what waits and remembers its callers.
    fn begin(&self, mut chunk: Chunk, sequence: u64) -> Attempt {
        let id = BatchId { node: self.hub.node_id, incarnation: self.hub.incarnation, sequence };
        let deadline = chunk.since + self.timeout;
        let batch = Batch::decoded(chunk.writer.finish(id), chunk.commands);
        self.hub.queues.reuse(chunk.writer);
        self.hub.queues.counters.batch_commands.observe(chunk.dests.len() as u64);
        self.hub.expect_batch(sequence, chunk.dests, deadline);
        self.hub.queues.counters.batches.fetch_add(1, Ordering::Relaxed);
        Attempt { batch, sequence, deadline }
    }

    /// Starts one attempt where the leader is; the future that ends with it.
    async fn start(
        &self,
        attempt: Attempt,
        retry: &mut VecDeque<Attempt>,
    ) -> Option<BoxFuture<'static, Finished>> {
        let route = self.routes.borrow().clone();
        match route {
            Route::None => {
                retry.push_back(attempt);
                None
            }
            Route::Here => {
                let (responder, answer) = ProgressResponder::complete_only();
                let sent = self.raft.client_write_ff(attempt.batch.clone(), Some(responder)).await;
                if let Err(error) = sent {
                    self.stopped(&error.to_string());
                    self.fail(attempt.sequence, &ProposeError::Stopped);
                    return None;
                }
                Some(Box::pin(async move {
                    match answer.await {
                        Ok(Ok(_)) => Finished::Done,
                        Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
                            Finished::NotAppended(attempt)
                        }
                        Ok(Err(_)) => Finished::LeaderLost(attempt.sequence),
                        Err(_) => Finished::Stopped(attempt.sequence),
                    }
                }))
            }
            Route::There(leader, peer) => {
                self.hub.queues.counters.forwarded.fetch_add(1, Ordering::Relaxed);
                let network = self.network.clone();
                Some(Box::pin(async move { forward(&network, leader, &peer, attempt).await }))
            }
        }
    }

    fn leads(&self) -> bool {
        *self.routes.borrow() == Route::Here
    }

    /// Appends another member's batch; the future that ends with its answer.
    async fn append(&self, forwarded: Forwarded) -> Option<BoxFuture<'static, Finished>> {
        if !self.leads() {
            refuse(forwarded);
            return None;
        }
        let (responder, answer) = ProgressResponder::complete_only();
        if let Err(error) = self.raft.client_write_ff(forwarded.batch, Some(responder)).await {
            // The sender hears that this member stops.
            self.stopped(&error.to_string());
            return None;
        }
        Some(Box::pin(async move {
            let reply = match answer.await {
                Ok(Ok(response)) => ForwardReply::Applied(response.log_id.index),
                Ok(Err(ClientWriteError::ForwardToLeader(_))) => ForwardReply::NotLeader,
                Ok(Err(_)) => ForwardReply::LeaderLost,
                Err(_) => ForwardReply::Stopped,
            };
            // A sender that is gone has given up waiting.
            let _ = forwarded.reply.send(reply);
            Finished::Done
        }))
    }

    fn finish(&self, finished: Finished, retry: &mut VecDeque<Attempt>) {
        match finished {
            Finished::Done => {}
            Finished::AppliedThere(sequence, index) => self.hub.applied_there(sequence, index),
            Finished::NotAppended(attempt) => retry.push_back(attempt),
            Finished::LeaderLost(sequence) => self.fail(sequence, &ProposeError::LeaderLost),
            Finished::Refused(sequence) => {
                tracing::error!("the leader cannot read a batch of this member");
                self.fail(sequence, &ProposeError::Timeout);
            }
            Finished::Stopped(sequence) => self.fail(sequence, &ProposeError::Stopped),
        }
    }

    fn fail(&self, sequence: u64, error: &ProposeError) {
        if let Some(dests) = self.hub.withdraw_batch(sequence) {
            let mut delivery = Delivery::default();
            self.hub.fail(dests, error, &mut delivery);
            delivery.wake();
        }
    }

    /// Fails proposals that waited in the queue all their time: they were never sent.
    fn expire_queued(&self) {
        let Some(oldest) = Instant::now().checked_sub(self.timeout) else { return };
        let mut delivery = Delivery::default();
        while let Some(chunk) = self.hub.queues.take_older(oldest) {
            self.hub.fail(chunk.dests, &ProposeError::NoLeader, &mut delivery);
        }
        delivery.wake();
    }

    fn stopped(&self, reason: &str) {
        tracing::debug!(reason, "consensus does not take proposals");
        if self.fatal.tripped() {
            self.hub.stop();
        }
    }
}

/// Tells another member that its batch was not appended.
fn refuse(forwarded: Forwarded) {
    let _ = forwarded.reply.send(ForwardReply::NotLeader);
}

/// Sends a batch to the leader.
async fn forward(network: &Network, leader: u64, peer: &Peer, attempt: Attempt) -> Finished {
    let bytes = attempt.batch.bytes().clone();
    let reply = network
        .shared(leader, Lane::Forward)
        .request(peer, |id| wire::encode_frame(kind::FORWARD, id, &[&bytes]), attempt.deadline)
        .await;
    let sequence = attempt.sequence;
    match reply {
        Err(LinkError::NotSent(_)) => Finished::NotAppended(attempt),
        // It may still be applied: its callers wait for that until their deadline.
        Err(LinkError::NoAnswer(_)) => Finished::Done,
        Ok(body) => match codec::decode(&body) {
            Ok(ForwardReply::Applied(index)) => Finished::AppliedThere(sequence, index),
            Ok(ForwardReply::NotLeader) => Finished::NotAppended(attempt),
            Ok(ForwardReply::LeaderLost) => Finished::LeaderLost(sequence),
            Ok(ForwardReply::Invalid) => Finished::Refused(sequence),
            Ok(ForwardReply::Stopped) | Err(_) => Finished::Done,
        },
    }
}
