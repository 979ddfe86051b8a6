//! Submission ports: how a front-end thread hands requests over and gets answers back.
//!
//! A cross-thread wake for each request costs a system call each. So a port has a list of
//! answers that the consensus thread fills, and one *driver* task on the front-end thread
//! ([`Port::drive`]) that is woken once for all answers of a batch and then wakes the waiting
//! futures, which are on its own thread.
//!
//! Invariants:
//! - every slot handed out gets exactly one outcome, also at shutdown;
//! - a slot whose future was dropped is reused only after its outcome arrived, so an outcome
//!   never meets another request.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tripod_storage::command::{Applied, Command};

use crate::{
    error::{ProposeError, ReadError},
    queue::Queues,
};

/// The answer of an applied command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the state machine said, on this member, at `index`.
    pub applied: Applied,
    /// Raft term of the entry.
    pub term: u64,
    /// Raft index of the entry.
    pub index: u64,
}

/// What a slot waits for.
#[derive(Debug)]
pub(crate) enum Outcome {
    Proposed(Result<Answer, ProposeError>),
    Read(Result<(), ReadError>),
}

/// Where an outcome goes.
#[derive(Debug)]
pub(crate) enum Dest {
    /// A future on a front-end thread.
    Slot { port: Arc<PortShared>, slot: u32 },
    /// A read confirmed for another member: it wants the index, and waits for it itself.
    Remote(oneshot::Sender<Result<u64, ReadError>>),
}

#[derive(Debug, Default)]
pub(crate) struct PortShared {
    waiters: Mutex<Waiters>,
    done: Mutex<Vec<(u32, Outcome)>>,
    driver: AtomicWaker,
    closed: AtomicBool,
    /// Reads answered without asking anybody. Here, so that threads do not share its line.
    sole_voter_reads: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiters {
    slots: Vec<Waiter>,
    free: Vec<u32>,
}

#[derive(Debug)]
enum Waiter {
    Free,
    Waiting(Option<Waker>),
    Done(Outcome),
    /// The future is gone, the outcome is still to come.
    Abandoned,
}

impl PortShared {
    pub(crate) fn sole_voter_reads(&self) -> u64 {
        self.sole_voter_reads.load(Ordering::Relaxed)
    }

    fn take_slot(&self) -> u32 {
        let mut waiters = self.waiters.lock();
        if let Some(slot) = waiters.free.pop() {
            waiters.slots[slot as usize] = Waiter::Waiting(None);
            return slot;
        }
        waiters.slots.push(Waiter::Waiting(None));
        u32::try_from(waiters.slots.len() - 1).expect("the queue limits keep slots far below 2^32")
    }

    /// Moves arrived outcomes to their slots and wakes their futures.
    fn distribute(&self) {
        let mut done = std::mem::take(&mut *self.done.lock());
        if done.is_empty() {
            return;
        }
        let mut waiters = self.waiters.lock();
        let mut wakers = Vec::with_capacity(done.len());
        for (slot, outcome) in done.drain(..) {
            let waiter = &mut waiters.slots[slot as usize];
            match std::mem::replace(waiter, Waiter::Free) {
                Waiter::Waiting(waker) => {
                    *waiter = Waiter::Done(outcome);
                    wakers.extend(waker);
                }
                Waiter::Abandoned => waiters.free.push(slot),
                Waiter::Free | Waiter::Done(_) => unreachable!("one outcome for each slot"),
            }
        }
        drop(waiters);
        for waker in wakers {
            waker.wake();
        }
    }

    fn poll(&self, slot: u32, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut waiters = self.waiters.lock();
        let waiter = &mut waiters.slots[slot as usize];
        match waiter {
            Waiter::Waiting(waker) => {
                match waker {
                    Some(old) if old.will_wake(context.waker()) => {}
                    _ => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            Waiter::Done(_) => {
                let Waiter::Done(outcome) = std::mem::replace(waiter, Waiter::Free) else {
                    unreachable!("just seen")
                };
                waiters.free.push(slot);
                Poll::Ready(outcome)
            }
            Waiter::Free | Waiter::Abandoned => unreachable!("polled after completion"),
        }
    }

    fn abandon(&self, slot: u32) {
        let mut waiters = self.waiters.lock();
        let waiter = &mut waiters.slots[slot as usize];
        match waiter {
            Waiter::Waiting(_) => *waiter = Waiter::Abandoned,
            Waiter::Done(_) => {
                *waiter = Waiter::Free;
                waiters.free.push(slot);
            }
            Waiter::Free | Waiter::Abandoned => {}
        }
    }
}

/// Delivers outcomes, waking each port's driver once.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    touched: Vec<Arc<PortShared>>,
}

impl Delivery {
    /// Delivers `outcomes` in order. Locks a port once for a run of its slots.
    pub(crate) fn all(&mut self, outcomes: impl IntoIterator<Item = (Dest, Outcome)>) {
        let mut outcomes = outcomes.into_iter();
        let Some(mut next) = outcomes.next() else { return };
        loop {
            let (port, mut slot, mut outcome) = match next {
                (Dest::Slot { port, slot }, outcome) => (port, slot, outcome),
                (Dest::Remote(_), _) => {
                    // Dropping the sender tells the waiting side that there is no index.
                    match outcomes.next() {
                        Some(following) => next = following,
                        None => return,
                    }
                    continue;
                }
            };
            let mut done: MutexGuard<'_, Vec<(u32, Outcome)>> = port.done.lock();
            let following = loop {
                done.push((slot, outcome));
                match outcomes.next() {
                    Some((Dest::Slot { port: other, slot: other_slot }, other_outcome))
                        if Arc::ptr_eq(&other, &port) =>
                    {
                        (slot, outcome) = (other_slot, other_outcome);
                    }
                    following => break following,
                }
            };
            drop(done);
            if !self.touched.iter().any(|touched| Arc::ptr_eq(touched, &port)) {
                self.touched.push(port);
            }
            match following {
                Some(following) => next = following,
                None => return,
            }
        }
    }

    /// Wakes the drivers of all ports that got something.
    pub(crate) fn wake(&mut self) {
        for port in self.touched.drain(..) {
            port.driver.wake();
        }
    }
}

/// A submission port. Clones share it; have one for each front-end thread and spawn
/// [`Port::drive`] on that thread.
#[derive(Clone, Debug)]
pub struct Port {
    shared: Arc<PortShared>,
    queues: Arc<Queues>,
}

impl Port {
    pub(crate) fn new(queues: Arc<Queues>) -> Self {
        let shared = Arc::<PortShared>::default();
        queues.register(&shared);
        Self { shared, queues }
    }

    /// Delivers answers to the futures of this port. Spawn it on the front-end thread; without
    /// it no future of the port finishes. Returns when the member has stopped.
    pub fn drive(&self) -> impl Future<Output = ()> + Send + 'static {
        Drive { shared: self.shared.clone() }
    }

    /// Replicates `command` and returns its answer once this member has applied it, so that a
    /// read here afterwards sees it. Enqueued at once, in call order; dropping the future does
    /// not take the command back.
    ///
    /// # Errors
    /// [`ProposeError`]; its texts say whether the command may have been applied.
    pub fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Answer, ProposeError>> + Send + 'static {
        let slot = self.shared.take_slot();
        let dest = Dest::Slot { port: self.shared.clone(), slot };
        let refused = self.queues.propose(command, dest).err();
        let wait = self.wait(slot, refused.is_some());
        async move {
            if let Some(error) = refused {
                return Err(error);
            }
            match wait.await {
                Outcome::Proposed(result) => result,
                Outcome::Read(_) => unreachable!("a proposal's slot gets a proposal's outcome"),
            }
        }
    }

    /// Returns once reading this member's state machine is linearizable: everything that was
    /// acknowledged anywhere before the call is applied here.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_index(&self) -> impl Future<Output = Result<(), ReadError>> + Send + 'static {
        let wait = if self.queues.is_sole_voter() {
            self.shared.sole_voter_reads.fetch_add(1, Ordering::Relaxed);
            None
        } else {
            let slot = self.shared.take_slot();
            let dest = Dest::Slot { port: self.shared.clone(), slot };
            let refused = self.queues.read(dest).err();
            let refuse = refused.is_some();
            Some((self.wait(slot, refuse), refused))
        };
        async move {
            let Some((wait, refused)) = wait else { return Ok(()) };
            if let Some(error) = refused {
                return Err(error);
            }
            match wait.await {
                Outcome::Read(result) => result,
                Outcome::Proposed(_) => unreachable!("a read's slot gets a read's outcome"),
            }
        }
    }

    fn wait(&self, slot: u32, refused: bool) -> Wait {
        if refused {
            // No outcome will come for this slot.
            let mut waiters = self.shared.waiters.lock();
            waiters.slots[slot as usize] = Waiter::Free;
            waiters.free.push(slot);
        }
        Wait { shared: self.shared.clone(), slot: (!refused).then_some(slot) }
    }
}

/// Waits for the outcome of one slot.
struct Wait {
    shared: Arc<PortShared>,
    slot: Option<u32>,
}

impl Future for Wait {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let slot = self.slot.expect("not polled after completion");
        let outcome = self.shared.poll(slot, context);
        if outcome.is_ready() {
            self.slot = None;
        }
        outcome
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.shared.abandon(slot);
        }
    }
}

struct Drive {
    shared: Arc<PortShared>,
}

impl Future for Drive {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.shared.driver.register(context.waker());
        self.shared.distribute();
        if self.shared.closed.load(Ordering::Acquire) {
            // What was pushed before closing is seen after reading the flag.
            self.shared.distribute();
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl PortShared {
    /// No further outcome will come.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.driver.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(index: u64) -> Outcome {
        let applied = Applied {
            revision: i64::try_from(index).unwrap(),
            outcome: Ok(tripod_storage::command::Response::Done),
        };
        Outcome::Proposed(Ok(Answer { applied, term: 1, index }))
    }

    fn is_index(outcome: Poll<Outcome>, want: u64) -> bool {
        matches!(outcome, Poll::Ready(Outcome::Proposed(Ok(answer))) if answer.index == want)
    }

    #[test]
    fn an_abandoned_slot_is_reused_only_after_its_outcome() {
        let port = Arc::<PortShared>::default();
        let mut context = Context::from_waker(Waker::noop());
        let (first, second) = (port.take_slot(), port.take_slot());
        port.abandon(first);
        let third = port.take_slot();
        assert_ne!(third, first);
        let mut delivery = Delivery::default();
        let dest = |slot| Dest::Slot { port: port.clone(), slot };
        delivery.all([(dest(first), outcome(1)), (dest(third), outcome(3))]);
        delivery.all([(dest(second), outcome(2))]);
        assert_eq!(delivery.touched.len(), 1, "one wake for three outcomes");
        delivery.wake();
        port.distribute();
        assert!(is_index(port.poll(second, &mut context), 2));
        assert!(is_index(port.poll(third, &mut context), 3));
        let mut reused = [port.take_slot(), port.take_slot(), port.take_slot()];
        reused.sort_unstable();
        assert_eq!(reused, [0, 1, 2]);
    }
}
