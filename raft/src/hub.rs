//! Where proposing, applying and reading meet: batches whose callers wait, and how far this
//! member has applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, time::Instant};
use tripod_storage::command::Applied;

use crate::{
    error::{ProposeError, ReadError},
    port::{Answer, Delivery, Dest, Outcome},
    queue::Queues,
    types::{BatchId, LogId, NodeId},
};

/// Callers of one batch under way.
#[derive(Debug)]
struct Waiting {
    dests: Vec<Dest>,
    deadline: Instant,
    /// Where the leader has applied it, once that is known.
    applied_there: Option<u64>,
}

/// Reads confirmed at an index that is not applied yet.
#[derive(Debug)]
struct WaitingReads {
    index: u64,
    dests: Vec<Dest>,
    deadline: Instant,
}

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) node_id: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) queues: Arc<Queues>,
    batches: Mutex<BTreeMap<u64, Waiting>>,
    reads: Mutex<Vec<WaitingReads>>,
    /// One above the last applied index.
    applied_next: AtomicU64,
    applied: watch::Sender<u64>,
    /// Ids of members that left the cluster.
    removed: RwLock<BTreeSet<NodeId>>,
    /// openraft has recovered and runs.
    running: AtomicBool,
    /// A snapshot is replacing the state: locking it may take long.
    installing: AtomicBool,
}

impl Hub {
    pub(crate) fn new(node_id: NodeId, queues: Arc<Queues>) -> Self {
        Self {
            node_id,
            // Drawn by the standard library's keyed hasher: enough to tell two starts apart.
            incarnation: RandomState::new().hash_one(std::process::id()),
            queues,
            batches: Mutex::default(),
            reads: Mutex::default(),
            applied_next: AtomicU64::new(0),
            applied: watch::Sender::new(0),
            removed: RwLock::default(),
            running: AtomicBool::new(false),
            installing: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    pub(crate) fn set_running(&self) {
        self.running.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_installing(&self) -> bool {
        self.installing.load(Ordering::SeqCst)
    }

    pub(crate) fn set_installing(&self, installing: bool) {
        self.installing.store(installing, Ordering::SeqCst);
    }

    /// The id belonged to a member that was removed.
    pub(crate) fn is_removed(&self, id: NodeId) -> bool {
        self.removed.read().contains(&id)
    }

    /// Ids of all members that were removed.
    pub(crate) fn removed(&self) -> BTreeSet<NodeId> {
        self.removed.read().clone()
    }

    pub(crate) fn set_removed(&self, removed: BTreeSet<NodeId>) {
        *self.removed.write() = removed;
    }

    /// Wakes with one above the last applied index, once for each applied group of entries.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Last applied index.
    pub(crate) fn applied_index(&self) -> Option<u64> {
        self.applied_next.load(Ordering::Acquire).checked_sub(1)
    }

    /// Remembers who waits for the batch `sequence` of this incarnation.
    pub(crate) fn expect_batch(&self, sequence: u64, dests: Vec<Dest>, deadline: Instant) {
        self.batches.lock().insert(sequence, Waiting { dests, deadline, applied_there: None });
    }

    /// The callers of a batch that will not be applied; `None` if they were answered meanwhile.
    pub(crate) fn withdraw_batch(&self, sequence: u64) -> Option<Vec<Dest>> {
        Some(self.batches.lock().remove(&sequence)?.dests)
    }

    /// The leader has applied the batch `sequence` at `index`. Its answers come when this member
    /// applies it too.
    pub(crate) fn applied_there(&self, sequence: u64, index: u64) {
        if let Some(waiting) = self.batches.lock().get_mut(&sequence) {
            waiting.applied_there = Some(index);
        }
        self.fail_passed_over();
    }

    /// Fails batches whose entries came inside a snapshot: they are done, but their answers are known to
    /// nobody. To be called when a snapshot is installed; entries are answered as they are applied.
    pub(crate) fn fail_passed_over(&self) {
        let applied_next = self.applied_next.load(Ordering::Acquire);
        let is_passed = |index: u64| index < applied_next;
        let mut delivery = Delivery::default();
        for waiting in self.take_batches(|waiting| waiting.applied_there.is_some_and(is_passed)) {
            self.fail(waiting.dests, &ProposeError::Timeout, &mut delivery);
        }
        delivery.wake();
    }

    fn take_batches(&self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut batches = self.batches.lock();
        let taken: Vec<u64> =
            batches.iter().filter(|(_, waiting)| which(waiting)).map(|(&s, _)| s).collect();
        taken.iter().filter_map(|sequence| batches.remove(sequence)).collect()
    }

    /// Batches of this member that are not answered.
    pub(crate) fn batches_waiting(&self) -> usize {
        self.batches.lock().len()
    }

    /// Proposals of batches that are not answered.
    pub(crate) fn proposals_under_way(&self) -> u64 {
        self.batches.lock().values().map(|waiting| waiting.dests.len() as u64).sum()
    }

    /// Hands the answers of an applied batch to its callers, if they are here.
    pub(crate) fn answer(
        &self,
        id: BatchId,
        log_id: LogId,
        answers: Vec<Applied>,
        delivery: &mut Delivery,
    ) {
        if id.node != self.node_id || id.incarnation != self.incarnation {
            return;
        }
        let Some(waiting) = self.batches.lock().remove(&id.sequence) else { return };
        debug_assert_eq!(waiting.dests.len(), answers.len(), "one answer for each command");
        let (term, index) = (log_id.leader_id.term, log_id.index);
        delivery.all(
            waiting.dests.into_iter().zip(answers).map(|(dest, applied)| {
                (dest, Outcome::Proposed(Ok(Answer { applied, term, index })))
            }),
        );
    }

    /// Notes that everything up to `index` is applied; reads that waited for it go on.
    pub(crate) fn applied(&self, index: u64, delivery: &mut Delivery) {
        self.applied_next.store(index + 1, Ordering::Release);
        let mut reads = self.reads.lock();
        if !reads.is_empty() {
            let ready: Vec<_> = reads.extract_if(.., |waiting| waiting.index <= index).collect();
            drop(reads);
            for waiting in ready {
                delivery.all(waiting.dests.into_iter().map(|dest| (dest, Outcome::Read(Ok(())))));
            }
        }
        self.applied.send_replace(index + 1);
    }

    /// Lets confirmed reads go on once `index` is applied.
    pub(crate) fn read_at(&self, index: u64, dests: Vec<Dest>, deadline: Instant) {
        let mut reads = self.reads.lock();
        // Under the lock: `applied` stores before it looks into the list.
        if self.applied_next.load(Ordering::Acquire) > index {
            drop(reads);
            let mut delivery = Delivery::default();
            delivery.all(dests.into_iter().map(|dest| (dest, Outcome::Read(Ok(())))));
            delivery.wake();
            return;
        }
        reads.push(WaitingReads { index, dests, deadline });
    }

    /// Fails what has waited past its deadline.
    pub(crate) fn expire(&self, now: Instant) {
        let mut delivery = Delivery::default();
        for waiting in self.take_batches(|waiting| waiting.deadline <= now) {
            self.fail(waiting.dests, &ProposeError::Timeout, &mut delivery);
        }
        let late: Vec<_> =
            self.reads.lock().extract_if(.., |waiting| waiting.deadline <= now).collect();
        for waiting in late {
            fail_reads(waiting.dests, &ReadError::Timeout, &mut delivery);
        }
        delivery.wake();
    }

    /// Fails proposals.
    pub(crate) fn fail(&self, dests: Vec<Dest>, error: &ProposeError, delivery: &mut Delivery) {
        self.queues.counters.proposals_failed.fetch_add(dests.len() as u64, Ordering::Relaxed);
        delivery.all(dests.into_iter().map(|dest| (dest, Outcome::Proposed(Err(error.clone())))));
    }

    /// The member stops: everything that waits is told, and every port closed.
    pub(crate) fn stop(&self) {
        let mut delivery = Delivery::default();
        let (chunks, reads) = self.queues.close();
        for chunk in chunks {
            self.fail(chunk.dests, &ProposeError::Stopped, &mut delivery);
        }
        fail_reads(reads, &ReadError::Stopped, &mut delivery);
        let batches = std::mem::take(&mut *self.batches.lock());
        for (_, waiting) in batches {
            self.fail(waiting.dests, &ProposeError::Stopped, &mut delivery);
        }
        let reads = std::mem::take(&mut *self.reads.lock());
        for waiting in reads {
            fail_reads(waiting.dests, &ReadError::Stopped, &mut delivery);
        }
        delivery.wake();
        self.queues.close_ports();
    }
}

/// Fails reads; other members are told too.
pub(crate) fn fail_reads(dests: Vec<Dest>, error: &ReadError, delivery: &mut Delivery) {
    let (remote, local): (Vec<_>, Vec<_>) =
        dests.into_iter().partition(|dest| matches!(dest, Dest::Remote(_)));
    for dest in remote {
        if let Dest::Remote(sender) = dest {
            // A receiver that is gone has given up waiting.
            let _ = sender.send(Err(error.clone()));
        }
    }
    delivery.all(local.into_iter().map(|dest| (dest, Outcome::Read(Err(error.clone())))));
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_batch_that_came_by_a_snapshot_fails_and_one_that_comes_by_the_log_waits() {
        let hub = Hub::new(1, Arc::new(Queues::new(1 << 20)));
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        let expect = |sequence| {
            let (sender, caller) = oneshot::channel();
            hub.expect_batch(sequence, vec![Dest::Remote(sender)], deadline);
            caller
        };
        let (mut before, mut within, mut after) = (expect(1), expect(2), expect(3));
        hub.applied(9, &mut Delivery::default());
        // Where it is applied is not known, or not reached.
        hub.applied_there(2, 10);
        hub.applied_there(3, 21);
        hub.fail_passed_over();
        assert_eq!(hub.batches_waiting(), 3);
        // A snapshot up to 20.
        hub.applied(20, &mut Delivery::default());
        hub.fail_passed_over();
        assert_eq!(hub.batches_waiting(), 2);
        assert!(within.try_recv() != Err(oneshot::error::TryRecvError::Empty));
        // The leader's word comes after the snapshot.
        hub.applied_there(1, 12);
        assert_eq!(hub.batches_waiting(), 1);
        assert!(before.try_recv() != Err(oneshot::error::TryRecvError::Empty));
        assert!(after.try_recv() == Err(oneshot::error::TryRecvError::Empty));
    }
}
