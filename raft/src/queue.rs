//! What waits for the consensus thread: proposals, encoded and grouped, and reads.
//!
//! Front-end threads push under a short lock; the consensus thread is woken only if it sleeps.
//! Proposals are encoded by the front-end thread before it takes the lock.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use tripod_storage::{codec, command::Command};

use crate::{
    error::{ProposeError, ReadError},
    measures::{Histogram, Peers},
    port::{Dest, PortShared},
    types::{Batch, BatchWriter},
    wire::ForwardReply,
};

/// A batch is closed at this size and goes over it by one request at most.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;

/// Most commands in one batch.
pub(crate) const BATCH_COMMANDS_MAX: usize = 4_096;

/// Most proposals that wait on one member, by number and by bytes; beyond it they are refused
/// as etcd does ("too many requests").
const QUEUE_COMMANDS_MAX: usize = 100_000;
const QUEUE_BYTES_MAX: usize = 128 << 20;

/// Most reads that wait on one member.
const READS_MAX: usize = 200_000;

/// Proposals of one future Raft entry.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) writer: BatchWriter,
    pub(crate) commands: Vec<Command>,
    pub(crate) dests: Vec<Dest>,
    /// When its oldest proposal came.
    pub(crate) since: Instant,
}

/// A batch of another member, which this one is to append as the leader.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) batch: Batch,
    pub(crate) reply: oneshot::Sender<ForwardReply>,
}

/// Batches that go into the log together: one sync and one message to each follower for all.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) chunk: Option<Chunk>,
    pub(crate) forwarded: Vec<Forwarded>,
}

/// Both queues of a member, and what front-end threads may know without asking it.
#[derive(Debug)]
pub(crate) struct Queues {
    proposals: Mutex<Proposals>,
    reads: Mutex<Reads>,
    ports: Mutex<Vec<Weak<PortShared>>>,
    sole_voter: AtomicBool,
    request_bytes_max: usize,
    pub(crate) counters: Counters,
    pub(crate) peers: Peers,
}

/// Plain counters for metrics.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) proposals: AtomicU64,
    pub(crate) proposals_failed: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read_rounds: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) forwarded: AtomicU64,
    pub(crate) leader_changes: AtomicU64,
    pub(crate) snapshots_sent: AtomicU64,
    pub(crate) snapshots_received: AtomicU64,
    pub(crate) peer_bytes_sent: AtomicU64,
    pub(crate) peer_bytes_received: AtomicU64,
    pub(crate) peers_refused: AtomicU64,
    pub(crate) apply: Histogram,
    pub(crate) slow_applies: AtomicU64,
    pub(crate) batch_commands: Histogram,
    pub(crate) slow_reads: AtomicU64,
    pub(crate) failed_reads: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        #[expect(clippy::declare_interior_mutable_const, reason = "copied for each counter")]
        const ZERO: AtomicU64 = AtomicU64::new(0);
        Self {
            proposals: ZERO,
            proposals_failed: ZERO,
            reads: ZERO,
            read_rounds: ZERO,
            batches: ZERO,
            forwarded: ZERO,
            leader_changes: ZERO,
            snapshots_sent: ZERO,
            snapshots_received: ZERO,
            peer_bytes_sent: ZERO,
            peer_bytes_received: ZERO,
            peers_refused: ZERO,
            apply: Histogram::of_time(Duration::from_micros(10), 20),
            slow_applies: ZERO,
            batch_commands: Histogram::new(1, 13),
            slow_reads: ZERO,
            failed_reads: ZERO,
        }
    }
}

#[derive(Debug, Default)]
struct Proposals {
    chunks: VecDeque<Chunk>,
    /// Bounded by the requests that the server side handles at a time.
    forwarded: Vec<Forwarded>,
    commands: usize,
    bytes: usize,
    /// Of the batch before, for the next chunk.
    spare: Option<BatchWriter>,
    closed: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Reads {
    waiting: Vec<Dest>,
    since: Option<Instant>,
    closed: bool,
    waker: Option<Waker>,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Scratch capacity kept between requests of a thread.
const SCRATCH_KEEP: usize = 64 << 10;

impl Queues {
    pub(crate) fn new(request_bytes_max: usize) -> Self {
        Self {
            proposals: Mutex::default(),
            reads: Mutex::default(),
            ports: Mutex::default(),
            sole_voter: AtomicBool::new(false),
            request_bytes_max,
            counters: Counters::default(),
            peers: Peers::default(),
        }
    }

    /// Remembers a port, to close it at shutdown.
    pub(crate) fn register(&self, port: &Arc<PortShared>) {
        let mut ports = self.ports.lock();
        ports.retain(|port| port.strong_count() > 0);
        ports.push(Arc::downgrade(port));
        drop(ports);
        if self.proposals.lock().closed {
            port.close();
        }
    }

    /// Adds a proposal.
    pub(crate) fn propose(&self, command: Command, dest: Dest) -> Result<(), ProposeError> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            codec::encode_into(&command, scratch);
            if scratch.len() > self.request_bytes_max {
                scratch.shrink_to(SCRATCH_KEEP);
                return Err(ProposeError::TooLarge);
            }
            let result = self.push(command, scratch, dest);
            scratch.shrink_to(SCRATCH_KEEP);
            result
        })
    }

    fn push(&self, command: Command, encoded: &[u8], dest: Dest) -> Result<(), ProposeError> {
        let mut proposals = self.proposals.lock();
        if proposals.closed {
            return Err(ProposeError::Stopped);
        }
        if proposals.commands >= QUEUE_COMMANDS_MAX || proposals.bytes >= QUEUE_BYTES_MAX {
            return Err(ProposeError::Overloaded);
        }
        let open = proposals.chunks.back().is_some_and(|chunk| {
            chunk.commands.len() < BATCH_COMMANDS_MAX && chunk.writer.len() < BATCH_BYTES_MAX
        });
        if !open {
            let writer = proposals.spare.take().unwrap_or_default();
            proposals.chunks.push_back(Chunk {
                writer,
                commands: Vec::with_capacity(16),
                dests: Vec::with_capacity(16),
                since: Instant::now(),
            });
        }
        let chunk = proposals.chunks.back_mut().expect("just made sure");
        chunk.writer.push(encoded);
        chunk.commands.push(command);
        chunk.dests.push(dest);
        proposals.commands += 1;
        proposals.bytes += encoded.len();
        let waker = proposals.waker.take();
        drop(proposals);
        self.counters.proposals.fetch_add(1, Ordering::Relaxed);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Takes back the writer of a finished batch.
    pub(crate) fn reuse(&self, writer: BatchWriter) {
        if let Some(writer) = writer.reused() {
            self.proposals.lock().spare = Some(writer);
        }
    }

    /// Adds a batch of another member; `None` once closed.
    pub(crate) fn forward(&self, batch: Batch) -> Option<oneshot::Receiver<ForwardReply>> {
        let (reply, receiver) = oneshot::channel();
        let mut proposals = self.proposals.lock();
        if proposals.closed {
            return None;
        }
        proposals.forwarded.push(Forwarded { batch, reply });
        let waker = proposals.waker.take();
        drop(proposals);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(receiver)
    }

    /// The oldest chunk of proposals and all batches of others, or the promise to wake when
    /// there is something.
    pub(crate) fn poll_round(&self, context: &mut Context<'_>) -> Poll<Round> {
        let mut proposals = self.proposals.lock();
        let (chunk, forwarded) = (proposals.pop(), std::mem::take(&mut proposals.forwarded));
        if chunk.is_some() || !forwarded.is_empty() {
            return Poll::Ready(Round { chunk, forwarded });
        }
        proposals.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Batches of others that no round has taken.
    pub(crate) fn take_forwarded(&self) -> Vec<Forwarded> {
        std::mem::take(&mut self.proposals.lock().forwarded)
    }

    /// Takes a chunk that has waited since before `oldest`.
    pub(crate) fn take_older(&self, oldest: Instant) -> Option<Chunk> {
        let mut proposals = self.proposals.lock();
        if proposals.chunks.front()?.since > oldest {
            return None;
        }
        proposals.pop()
    }

    /// Adds a read.
    pub(crate) fn read(&self, dest: Dest) -> Result<(), ReadError> {
        let mut reads = self.reads.lock();
        if reads.closed {
            return Err(ReadError::Stopped);
        }
        if reads.waiting.len() >= READS_MAX {
            return Err(ReadError::Overloaded);
        }
        reads.waiting.push(dest);
        if reads.since.is_none() {
            reads.since = Some(Instant::now());
        }
        let waker = reads.waker.take();
        drop(reads);
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// All waiting reads and since when, or the promise to wake when there are some.
    pub(crate) fn poll_reads(&self, context: &mut Context<'_>) -> Poll<(Vec<Dest>, Instant)> {
        let mut reads = self.reads.lock();
        if let Some(since) = reads.since.take() {
            return Poll::Ready((std::mem::take(&mut reads.waiting), since));
        }
        reads.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Proposals that no batch has taken.
    pub(crate) fn proposals_waiting(&self) -> u64 {
        self.proposals.lock().commands as u64
    }

    /// Reads answered on the word of a sole voter, over all ports that live.
    pub(crate) fn sole_voter_reads(&self) -> u64 {
        let ports = self.ports.lock();
        ports.iter().filter_map(Weak::upgrade).map(|port| port.sole_voter_reads()).sum()
    }

    /// Refuses everything from now on; returns what waited.
    pub(crate) fn close(&self) -> (Vec<Chunk>, Vec<Dest>) {
        let chunks = {
            let mut proposals = self.proposals.lock();
            proposals.closed = true;
            // Their members hear that this one stops.
            proposals.forwarded.clear();
            proposals.chunks.drain(..).collect()
        };
        let mut reads = self.reads.lock();
        reads.closed = true;
        (chunks, std::mem::take(&mut reads.waiting))
    }

    /// Tells every port that no further outcome will come.
    pub(crate) fn close_ports(&self) {
        for port in self.ports.lock().drain(..) {
            if let Some(port) = port.upgrade() {
                port.close();
            }
        }
    }

    /// This member is the only voter, leads, and has applied an entry of its own term: whatever
    /// was acknowledged anywhere is applied here.
    pub(crate) fn is_sole_voter(&self) -> bool {
        self.sole_voter.load(Ordering::SeqCst)
    }

    pub(crate) fn set_sole_voter(&self, sole: bool) {
        self.sole_voter.store(sole, Ordering::SeqCst);
    }
}

impl Proposals {
    fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.commands -= chunk.commands.len();
        if self.chunks.is_empty() {
            self.bytes = 0;
        } else {
            self.bytes = self.bytes.saturating_sub(chunk.writer.len());
        }
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use tripod_storage::command::Command;

    use super::*;

    fn round(queues: &Queues) -> Option<Round> {
        match queues.poll_round(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(round) => Some(round),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_round_takes_one_chunk_and_whatever_other_members_sent() {
        let queues = Queues::new(1 << 20);
        assert!(round(&queues).is_none());
        let first = queues.forward(Batch::of(Vec::new())).unwrap();
        let second = queues.forward(Batch::of(Vec::new())).unwrap();
        let (sender, _own) = oneshot::channel();
        queues.propose(Command::Noop, Dest::Remote(sender)).unwrap();
        let taken = round(&queues).unwrap();
        assert_eq!(taken.chunk.map(|chunk| chunk.commands.len()), Some(1));
        assert_eq!(taken.forwarded.len(), 2);
        assert!(round(&queues).is_none());
        for forwarded in taken.forwarded {
            forwarded.reply.send(ForwardReply::Applied(5)).unwrap();
        }
        assert_eq!(first.blocking_recv(), Ok(ForwardReply::Applied(5)));
        assert_eq!(second.blocking_recv(), Ok(ForwardReply::Applied(5)));
    }

    #[test]
    fn a_batch_that_no_round_took_hears_of_the_end() {
        let queues = Queues::new(1 << 20);
        let waiting = queues.forward(Batch::of(Vec::new())).unwrap();
        queues.close();
        assert!(waiting.blocking_recv().is_err());
        assert!(queues.forward(Batch::of(Vec::new())).is_none());
    }
}
