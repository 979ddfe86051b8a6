//! What the hub leaves for one stream: a bounded mailbox, and the short way around it.
//!
//! Invariants:
//! - a mailbox holds at most [`MAILBOX_DELIVERIES_MAX`] deliveries and [`MAILBOX_BYTES_MAX`], and
//!   all mailboxes of a hub together little more than [`HUB_BYTES_MAX`];
//! - events go around it only while it is empty and its stream has nothing to say, so that the
//!   client sees them in order.

use std::{
    cell::OnceCell,
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tripod_storage::{Revision, command::Event};

use super::hub::WatcherKey;

/// Deliveries that wait in one stream's mailbox before its watchers fall back to history.
pub const MAILBOX_DELIVERIES_MAX: usize = 1024;
/// Bytes that wait in one stream's mailbox before that; one delivery of any size has room.
pub const MAILBOX_BYTES_MAX: usize = 4 << 20;
/// Bytes in all mailboxes of a hub above which each may hold [`PRESSED_BYTES_MAX`].
pub const HUB_BYTES_MAX: usize = 256 << 20;
/// Bytes in one mailbox while those of its hub together hold too much.
pub const PRESSED_BYTES_MAX: usize = 16 << 10;
/// What a delivery costs beside the events it keeps, in bytes.
const DELIVERY_BYTES: usize = 256;
/// Room that an empty mailbox keeps.
const MAILBOX_SLOTS_KEPT: usize = 16;

/// An event with room for its encoding, so that a thousand watchers encode it once.
#[derive(Debug)]
pub struct SharedEvent {
    /// The event.
    pub event: Arc<Event>,
    /// Encoding without `prev_kv`, made by the first transport that needs it.
    pub wire: OnceLock<Bytes>,
}

impl From<Arc<Event>> for SharedEvent {
    fn from(event: Arc<Event>) -> Self {
        Self { event, wire: OnceLock::new() }
    }
}

/// Events of one revision, in order, shared by the watchers that receive exactly these.
pub type SharedEvents = Arc<[Arc<SharedEvent>]>;

/// Events of one revision for one watcher.
#[derive(Debug)]
pub struct Delivery {
    /// The watcher's id on its stream.
    pub watch_id: i64,
    /// The registration it is for: an id may be given to another watcher meanwhile.
    pub key: WatcherKey,
    /// The revision all events share.
    pub revision: Revision,
    /// In the order of their sub-revisions.
    pub events: SharedEvents,
}

impl Delivery {
    /// Bytes it keeps from being freed. Events are shared, and counted once for each mailbox.
    fn bytes(&self) -> usize {
        let event =
            |shared: &Arc<SharedEvent>| shared.event.kv.key.len() + shared.event.kv.value.len();
        DELIVERY_BYTES + self.events.iter().map(event).sum::<usize>()
    }
}

/// Events on offer to many streams, with room for what their encodings have in common.
#[derive(Debug)]
pub struct Offer<'e> {
    /// The revision all events share.
    pub revision: Revision,
    /// In the order of their sub-revisions.
    pub events: &'e SharedEvents,
    /// What comes before and after the watcher's id, made by the first stream.
    pub wire: OnceCell<(Bytes, Bytes)>,
}

impl<'e> Offer<'e> {
    /// An offer nobody has encoded yet.
    #[must_use]
    pub fn new(revision: Revision, events: &'e SharedEvents) -> Self {
        Self { revision, events, wire: OnceCell::new() }
    }
}

/// A short way to a stream's client, for events that come while the stream has nothing else to
/// say. It is used on the thread that runs the hub only.
pub trait Direct: Send + Sync + std::fmt::Debug {
    /// Sends the events on behalf of a watcher; `false` if there is no room, and nothing was sent.
    fn send(&self, watch_id: i64, offer: &Offer<'_>) -> bool;
}

/// Something for a stream.
#[derive(Debug)]
pub enum Waiting {
    /// Events.
    Delivery(Delivery),
    /// A watcher was unregistered, after everything before this.
    Lagging {
        /// The watcher's id on its stream.
        watch_id: i64,
        /// The registration that ended.
        key: WatcherKey,
        /// The first revision it misses.
        from: Revision,
    },
}

/// Where a stream receives what the hub has for it.
#[derive(Debug)]
pub struct Mailbox {
    inbox: Mutex<Inbox>,
    /// Bytes in all mailboxes of the hub.
    held: Arc<AtomicUsize>,
    /// The stream waits for events and for nothing else; never while something waits here.
    idle: AtomicBool,
    direct: OnceLock<Box<dyn Direct>>,
    /// The stream to wake after a dispatch that left something here.
    reader: AtomicWaker,
}

/// What waits in a [`Mailbox`].
#[derive(Debug, Default)]
struct Inbox {
    /// In dispatch order.
    waiting: VecDeque<Waiting>,
    /// Of the deliveries in it.
    bytes: usize,
}

impl Mailbox {
    pub(super) fn new(held: Arc<AtomicUsize>) -> Self {
        Self {
            inbox: Mutex::default(),
            held,
            idle: AtomicBool::new(false),
            direct: OnceLock::new(),
            reader: AtomicWaker::new(),
        }
    }

    /// Gives the stream a short way to its client. The first one stays.
    pub fn set_direct(&self, direct: Box<dyn Direct>) {
        let _ = self.direct.set(direct);
    }

    /// The stream has something to say, so that events must wait their turn here.
    pub fn set_busy(&self) {
        self.idle.store(false, Ordering::Release);
    }

    /// The stream has nothing left to say.
    pub fn set_idle(&self) {
        if self.direct.get().is_some() {
            let inbox = self.inbox.lock();
            self.idle.store(inbox.waiting.is_empty(), Ordering::Release);
        }
    }

    /// Sends events around the mailbox; `false` if they have to go through it.
    pub(super) fn send_directly(&self, watch_id: i64, offer: &Offer<'_>) -> bool {
        self.idle.load(Ordering::Acquire)
            && self.direct.get().is_some_and(|direct| direct.send(watch_id, offer))
    }

    /// The stream to wake from now on. Look into the mailbox after this, not before.
    pub fn register(&self, reader: &Waker) {
        self.reader.register(reader);
    }

    /// Wakes the stream.
    pub(super) fn wake(&self) {
        self.reader.wake();
    }

    /// Takes what has waited longest.
    pub fn take(&self) -> Option<Waiting> {
        let mut inbox = self.inbox.lock();
        let taken = inbox.waiting.pop_front()?;
        if inbox.waiting.is_empty() {
            inbox.waiting.shrink_to(MAILBOX_SLOTS_KEPT);
        }
        if let Waiting::Delivery(delivery) = &taken {
            let bytes = delivery.bytes();
            inbox.bytes -= bytes;
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        Some(taken)
    }

    /// Leaves a delivery, or word that its watcher lags where there is no room: `false`. The
    /// second answer is whether the mailbox was empty.
    pub(super) fn put(&self, delivery: Delivery) -> (bool, bool) {
        let bytes = delivery.bytes();
        let mut inbox = self.inbox.lock();
        self.set_busy();
        let was_empty = inbox.waiting.is_empty();
        let pressed = self.held.load(Ordering::Relaxed) > HUB_BYTES_MAX;
        let bytes_max = if pressed { PRESSED_BYTES_MAX } else { MAILBOX_BYTES_MAX };
        let full = inbox.waiting.len() >= MAILBOX_DELIVERIES_MAX
            || (inbox.bytes > 0 && inbox.bytes + bytes > bytes_max);
        if full {
            let Delivery { watch_id, key, revision, .. } = delivery;
            inbox.waiting.push_back(Waiting::Lagging { watch_id, key, from: revision });
        } else {
            inbox.bytes += bytes;
            self.held.fetch_add(bytes, Ordering::Relaxed);
            inbox.waiting.push_back(Waiting::Delivery(delivery));
        }
        (!full, was_empty)
    }

    pub(super) fn lag(&self, watch_id: i64, key: WatcherKey, from: Revision) {
        let mut inbox = self.inbox.lock();
        self.set_busy();
        inbox.waiting.push_back(Waiting::Lagging { watch_id, key, from });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inbox.lock().waiting.is_empty()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.held.fetch_sub(self.inbox.get_mut().bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tripod_storage::{KeyValue, command::EventKind};

    use super::*;

    fn delivery(revision: Revision, value_bytes: usize) -> Delivery {
        let kv = KeyValue {
            key: "k".into(),
            value: vec![0; value_bytes].into(),
            mod_revision: revision,
            ..KeyValue::default()
        };
        let event = Arc::new(Event { kind: EventKind::Put, kv, prev_kv: None });
        let events = [Arc::new(SharedEvent::from(event))].into();
        Delivery { watch_id: 1, key: 1, revision, events }
    }

    /// Fills a mailbox until it refuses; how many deliveries it took.
    fn fill(mailbox: &Mailbox, value_bytes: usize) -> usize {
        (1..).take_while(|revision| mailbox.put(delivery(*revision, value_bytes)).0).count()
    }

    #[test]
    fn a_mailbox_is_bounded_by_count_and_by_bytes() {
        let held = Arc::<AtomicUsize>::default();
        let small = Mailbox::new(Arc::clone(&held));
        assert_eq!(fill(&small, 1), MAILBOX_DELIVERIES_MAX);
        let large = Mailbox::new(Arc::clone(&held));
        assert_eq!(fill(&large, 1 << 20), MAILBOX_BYTES_MAX / (1 << 20) - 1);
        let huge = Mailbox::new(Arc::clone(&held));
        assert_eq!(fill(&huge, 2 * MAILBOX_BYTES_MAX), 1, "one delivery of any size has room");
    }

    #[test]
    fn full_mailboxes_of_a_hub_leave_the_others_little_and_give_it_back() {
        let held = Arc::<AtomicUsize>::default();
        let large: Vec<_> = (0..HUB_BYTES_MAX / MAILBOX_BYTES_MAX + 40)
            .map(|_| {
                let mailbox = Mailbox::new(Arc::clone(&held));
                fill(&mailbox, MAILBOX_BYTES_MAX / 8);
                mailbox
            })
            .collect();
        assert!(held.load(Ordering::Relaxed) > HUB_BYTES_MAX);
        let late = Mailbox::new(Arc::clone(&held));
        assert!(fill(&late, 1000) <= PRESSED_BYTES_MAX / 1000);
        drop(large);
        while late.take().is_some() {}
        assert_eq!(held.load(Ordering::Relaxed), 0);
        assert_eq!(fill(&late, 1000), MAILBOX_DELIVERIES_MAX);
    }

    #[test]
    fn word_of_a_lag_comes_after_the_deliveries_before_it() {
        let mailbox = Mailbox::new(Arc::default());
        let count = fill(&mailbox, 1);
        let mut seen = 0;
        while let Some(Waiting::Delivery(delivery)) = mailbox.take() {
            seen += 1;
            assert_eq!(delivery.revision, seen);
            if seen == count as Revision {
                break;
            }
        }
        let Some(Waiting::Lagging { from, .. }) = mailbox.take() else { panic!("no word of it") };
        assert_eq!((from, seen), (seen + 1, count as Revision));
        assert!(mailbox.is_empty());
    }
}
