//! Wakers of single calls inside one connection task.
//!
//! A connection runs all its calls itself. To know which of them may go on, each slot has a
//! waker that notes the slot's number before it wakes the task. Slots are reused, and so are
//! their wakers: a call allocates none.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// Numbers of slots to run, and the task to wake for them.
#[derive(Debug, Default)]
pub(super) struct Ready {
    numbers: Mutex<Vec<u32>>,
    any: AtomicBool,
    task: AtomicWaker,
}

impl Ready {
    /// The task to wake from now on.
    pub(super) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Moves the noted numbers to the end of `turn`.
    pub(super) fn take(&self, turn: &mut VecDeque<u32>) {
        if self.any.swap(false, Ordering::AcqRel) {
            turn.extend(self.numbers.lock().drain(..));
        }
    }
}

/// One slot's waker.
#[derive(Debug)]
pub(super) struct Signal {
    ready: Arc<Ready>,
    number: u32,
    /// Noted and not yet run.
    noted: AtomicBool,
}

impl Signal {
    pub(super) fn new(ready: Arc<Ready>, number: u32) -> Arc<Self> {
        Arc::new(Self { ready, number, noted: AtomicBool::new(false) })
    }

    /// The slot runs now; a wake from here on notes it again.
    pub(super) fn running(&self) {
        self.noted.store(false, Ordering::Release);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.noted.swap(true, Ordering::AcqRel) {
            let mut numbers = self.ready.numbers.lock();
            numbers.push(self.number);
            let first = numbers.len() == 1;
            drop(numbers);
            self.ready.any.store(true, Ordering::Release);
            if first {
                self.ready.task.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_noted_once_until_it_runs() {
        let ready = Arc::new(Ready::default());
        let signals = [0, 1].map(|number| Signal::new(Arc::clone(&ready), number));
        for signal in [&signals[1], &signals[0], &signals[1]] {
            signal.wake_by_ref();
        }
        let mut turn = VecDeque::new();
        ready.take(&mut turn);
        assert_eq!(turn, [1, 0]);
        signals[1].running();
        signals[1].wake_by_ref();
        signals[0].wake_by_ref();
        turn.clear();
        ready.take(&mut turn);
        assert_eq!(turn, [1]);
    }
}
