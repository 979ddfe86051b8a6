//! Bound of handshakes that have begun and not ended.
//!
//! When all places are taken the oldest is given up: an honest handshake takes milliseconds,
//! so the oldest of a thousand is hardly one.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Unfinished handshakes at a time on all listeners of a kind.
pub const HANDSHAKES_MAX: usize = 1_024;

/// The places.
#[derive(Debug)]
pub(super) struct HalfOpen {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By age. Dropping an entry tells its handshake to give up.
    open: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place of one handshake; free when dropped.
pub(super) struct Place {
    number: u64,
    evicted: oneshot::Receiver<()>,
    owner: Arc<HalfOpen>,
}

impl HalfOpen {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), state: Mutex::default() })
    }

    /// Takes a place, the oldest handshake's if there is no other.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let (sender, evicted) = oneshot::channel();
        let mut state = self.state.lock();
        if state.open.len() >= self.max {
            state.open.pop_first();
        }
        let number = state.next;
        state.next += 1;
        state.open.insert(number, sender);
        Place { number, evicted, owner: Arc::clone(self) }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state.lock().open.len()
    }
}

impl Place {
    /// Ends when the place is given to a newer handshake.
    pub(super) async fn evicted(&mut self) {
        // The sender is never used, only dropped.
        let _ = (&mut self.evicted).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.owner.state.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_handshake_makes_room_for_the_newest() {
        let places = HalfOpen::new(2);
        let mut first = places.enter();
        let mut second = places.enter();
        assert!(first.evicted().now_or_never().is_none());
        let third = places.enter();
        assert!(first.evicted().now_or_never().is_some());
        assert!(second.evicted().now_or_never().is_none());
        assert_eq!(places.len(), 2);
        drop(first);
        assert_eq!(places.len(), 2, "its place is taken already");
        drop((second, third));
        assert_eq!(places.len(), 0);
    }
}
