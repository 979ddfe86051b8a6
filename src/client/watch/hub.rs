//! Fan-out of applied events to watchers: one hub for each front-end thread.
//!
//! The hub is a cursor over the state machine's ring of recent events. When entries are applied
//! it wakes once, matches what is new against its watchers and drops deliveries into the
//! mailboxes of the streams concerned, waking each of them once.
//!
//! Invariants:
//! - every event below `cursor` has been delivered to every registered watcher that wants it;
//! - a mailbox holds at most [`MAILBOX_DELIVERIES_MAX`] deliveries and [`MAILBOX_BYTES_MAX`], and
//!   all mailboxes of a hub together little more than [`HUB_BYTES_MAX`]. A watcher whose mailbox
//!   is full is unregistered and told from which revision it lags; it then reads history. So
//!   memory is bounded and no event is skipped.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tripod_raft::Node;
use tripod_storage::{Revision, command::Event, types::KeyRange, watch::WatcherSet};

pub use tripod_storage::watch::Filters;

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
/// Events taken from the ring under one read lock.
const DISPATCH_EVENTS_MAX: usize = 4096;

/// An event with room for its encoding, so that a thousand watchers encode it once.
#[derive(Debug)]
pub struct SharedEvent {
    /// The event.
    pub event: Arc<Event>,
    /// Encoding without `prev_kv`, made by the first transport that needs it.
    pub wire: OnceLock<Bytes>,
}

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
    pub events: Vec<Arc<SharedEvent>>,
}

impl Delivery {
    /// Bytes it keeps from being freed. Events are shared, and counted once for each mailbox.
    fn bytes(&self) -> usize {
        let event =
            |shared: &Arc<SharedEvent>| shared.event.kv.key.len() + shared.event.kv.value.len();
        DELIVERY_BYTES + self.events.iter().map(event).sum::<usize>()
    }
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
    /// Signalled after each dispatch that left something here.
    pub notify: Notify,
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
    fn new(held: Arc<AtomicUsize>) -> Self {
        Self { inbox: Mutex::default(), held, notify: Notify::new() }
    }

    /// Takes what waits, in order, at most `max`.
    pub fn take(&self, max: usize) -> Vec<Waiting> {
        let mut inbox = self.inbox.lock();
        let count = inbox.waiting.len().min(max);
        let taken: Vec<_> = inbox.waiting.drain(..count).collect();
        if inbox.waiting.is_empty() {
            inbox.waiting.shrink_to(MAILBOX_SLOTS_KEPT);
        }
        let bytes = taken.iter().map(|item| match item {
            Waiting::Delivery(delivery) => delivery.bytes(),
            Waiting::Lagging { .. } => 0,
        });
        let bytes = bytes.sum();
        inbox.bytes -= bytes;
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        taken
    }

    /// Leaves a delivery, or word that its watcher lags where there is no room: `false`. The
    /// second answer is whether the mailbox was empty.
    fn put(&self, delivery: Delivery) -> (bool, bool) {
        let bytes = delivery.bytes();
        let mut inbox = self.inbox.lock();
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

    fn lag(&self, watch_id: i64, key: WatcherKey, from: Revision) {
        self.inbox.lock().waiting.push_back(Waiting::Lagging { watch_id, key, from });
    }

    fn is_empty(&self) -> bool {
        self.inbox.lock().waiting.is_empty()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.held.fetch_sub(self.inbox.get_mut().bytes, Ordering::Relaxed);
    }
}

/// Names a registered watcher inside one hub.
pub type WatcherKey = u64;

#[derive(Debug)]
struct Registered {
    mailbox: Arc<Mailbox>,
    watch_id: i64,
    from: Revision,
    filters: Filters,
}

#[derive(Debug)]
struct State {
    watchers: WatcherSet<WatcherKey>,
    registered: HashMap<WatcherKey, Registered>,
    next_key: WatcherKey,
    /// First revision not dispatched yet.
    cursor: Revision,
}

/// See the module's text.
#[derive(Debug)]
pub struct Hub {
    node: Node,
    /// Held while events move from the ring to mailboxes, so that none is delivered twice.
    dispatching: Mutex<()>,
    state: Mutex<State>,
    /// For metrics.
    counts: HubCounts,
    /// Signalled when there is a watcher again: without one the hub sleeps, so that writes of a
    /// store that nobody watches wake no front-end thread.
    watched: Notify,
    /// Bytes in all mailboxes.
    held: Arc<AtomicUsize>,
}

impl Hub {
    /// A hub that starts at the node's present revision. [`Hub::run`] must be polled for
    /// deliveries to happen.
    #[must_use]
    pub fn new(node: Node) -> Arc<Self> {
        let cursor = node.state().read().revision() + 1;
        let state = State {
            watchers: WatcherSet::default(),
            registered: HashMap::new(),
            next_key: 1,
            cursor,
        };
        let (dispatching, state) = (Mutex::new(()), Mutex::new(state));
        let counts = HubCounts::default();
        let held = Arc::default();
        Arc::new(Self { node, dispatching, state, counts, watched: Notify::new(), held })
    }

    /// A mailbox for one stream.
    #[must_use]
    pub fn mailbox(&self) -> Arc<Mailbox> {
        Arc::new(Mailbox::new(Arc::clone(&self.held)))
    }

    /// Dispatches until the node stops.
    pub async fn run(self: Arc<Self>) {
        let mut applied = self.node.applied();
        loop {
            if self.state.lock().registered.is_empty() {
                self.watched.notified().await;
            }
            self.dispatch_all();
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Registers a watcher for events from `from` on, if the hub has not dispatched `from` yet;
    /// otherwise answers how far it is, and the caller reads history first.
    ///
    /// # Errors
    /// The hub's cursor: the first revision it has yet to dispatch.
    pub fn register(
        &self,
        mailbox: &Arc<Mailbox>,
        watch_id: i64,
        range: &KeyRange,
        from: Revision,
        filters: Filters,
    ) -> Result<WatcherKey, Revision> {
        let newest = self.node.state().read().revision();
        let mut state = self.state.lock();
        if state.registered.is_empty() {
            // The hub may have slept through these; nobody here has waited for them.
            state.cursor = state.cursor.max(newest + 1);
            self.watched.notify_one();
        }
        if from < state.cursor {
            return Err(state.cursor);
        }
        let key = state.next_key;
        state.next_key += 1;
        state.watchers.insert(key, range.clone());
        let registered = Registered { mailbox: Arc::clone(mailbox), watch_id, from, filters };
        state.registered.insert(key, registered);
        Ok(key)
    }

    /// Forgets a watcher; deliveries already in the mailbox stay there.
    pub fn unregister(&self, key: WatcherKey) {
        let mut state = self.state.lock();
        state.registered.remove(&key);
        state.watchers.remove(&key);
    }

    /// The store's revision, if all events up to it are out of the hub and out of `mailbox`,
    /// which means that its stream has seen them. `None` while something waits there.
    pub fn progress(&self, mailbox: &Mailbox) -> Option<Revision> {
        self.dispatch_all();
        let state = self.state.lock();
        mailbox.is_empty().then_some(state.cursor - 1)
    }

    fn dispatch_all(&self) {
        let _only_one = self.dispatching.lock();
        while self.dispatch() {}
    }

    /// Takes one page of events from the ring; true when there may be more.
    fn dispatch(&self) -> bool {
        let from = self.state.lock().cursor;
        let (events, newest) = {
            let machine = self.node.state().read();
            (machine.recent_events(from, DISPATCH_EVENTS_MAX), machine.revision())
        };
        let mut state = self.state.lock();
        let Some(events) = events else {
            state.all_lag(newest + 1);
            return true;
        };
        if events.is_empty() {
            // Revisions without events do not exist but after an installed snapshot.
            state.cursor = state.cursor.max(newest + 1);
            return false;
        }
        let queued = state.deliver(&events);
        self.counts.queued.fetch_add(queued, Ordering::Relaxed);
        true
    }
}

/// What a hub and the streams on it count.
#[derive(Debug, Default)]
pub(super) struct HubCounts {
    pub(super) streams: AtomicU64,
    pub(super) watchers: AtomicU64,
    /// Events put into mailboxes, and taken out.
    queued: AtomicU64,
    pub(super) taken: AtomicU64,
    /// Events handed to clients.
    pub(super) sent: AtomicU64,
}

/// A hub as read for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubReading {
    /// Watch streams.
    pub streams: u64,
    /// Watchers on them.
    pub watchers: u64,
    /// Those that read history because they are behind.
    pub behind: u64,
    /// Events handed to clients.
    pub sent: u64,
    /// Events that wait in mailboxes.
    pub pending: u64,
    /// Revisions the hub has yet to look at; 0 while nobody watches.
    pub lag: u64,
}

impl Hub {
    pub(super) fn counts(&self) -> &HubCounts {
        &self.counts
    }

    /// Counters and backlog.
    #[must_use]
    pub fn reading(&self) -> HubReading {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let newest = self.node.state().read().revision();
        let (registered, lag) = {
            let state = self.state.lock();
            let registered = state.registered.len() as u64;
            let lag = u64::try_from(newest + 1 - state.cursor).unwrap_or(0);
            (registered, if registered == 0 { 0 } else { lag })
        };
        let counts = &self.counts;
        let taken = get(&counts.taken);
        HubReading {
            streams: get(&counts.streams),
            watchers: get(&counts.watchers),
            behind: get(&counts.watchers).saturating_sub(registered),
            sent: get(&counts.sent),
            pending: get(&counts.queued).saturating_sub(taken),
            lag,
        }
    }
}

impl State {
    /// The ring has moved on without this hub: every watcher must read history from the cursor.
    fn all_lag(&mut self, cursor: Revision) {
        for (key, watcher) in self.registered.drain() {
            self.watchers.remove(&key);
            let from = watcher.from.max(self.cursor);
            watcher.mailbox.lag(watcher.watch_id, key, from);
            watcher.mailbox.notify.notify_one();
        }
        self.cursor = cursor;
    }

    /// Returns how many events went into mailboxes.
    fn deliver(&mut self, events: &[Arc<Event>]) -> u64 {
        let mut queued = 0;
        let mut touched: Vec<Arc<Mailbox>> = Vec::new();
        for revision in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            queued += self.deliver_revision(revision, &mut touched);
            self.cursor = revision[0].kv.mod_revision + 1;
        }
        for mailbox in touched {
            mailbox.notify.notify_one();
        }
        queued
    }

    /// `events` share one revision.
    fn deliver_revision(&mut self, events: &[Arc<Event>], touched: &mut Vec<Arc<Mailbox>>) -> u64 {
        let mut by_watcher: Vec<(WatcherKey, Vec<Arc<SharedEvent>>)> = Vec::new();
        let mut position: HashMap<WatcherKey, usize> = HashMap::new();
        for event in events {
            let shared = Arc::new(SharedEvent { event: Arc::clone(event), wire: OnceLock::new() });
            self.watchers.matches(&event.kv.key, |&key| {
                if events.len() == 1 {
                    by_watcher.push((key, vec![Arc::clone(&shared)]));
                    return;
                }
                let at = *position.entry(key).or_insert_with(|| {
                    by_watcher.push((key, Vec::new()));
                    by_watcher.len() - 1
                });
                by_watcher[at].1.push(Arc::clone(&shared));
            });
        }
        let revision = events[0].kv.mod_revision;
        let mut queued = 0;
        for (key, events) in by_watcher {
            queued += self.drop_into_mailbox(key, revision, events, touched);
        }
        queued
    }

    fn drop_into_mailbox(
        &mut self,
        key: WatcherKey,
        revision: Revision,
        mut events: Vec<Arc<SharedEvent>>,
        touched: &mut Vec<Arc<Mailbox>>,
    ) -> u64 {
        let Some(watcher) = self.registered.get(&key) else { return 0 };
        events.retain(|shared| watcher.filters.passes(shared.event.kind));
        if revision < watcher.from || events.is_empty() {
            return 0;
        }
        let count = events.len() as u64;
        let delivery = Delivery { watch_id: watcher.watch_id, key, revision, events };
        let (has_room, was_empty) = watcher.mailbox.put(delivery);
        if was_empty {
            touched.push(Arc::clone(&watcher.mailbox));
        }
        if !has_room {
            self.registered.remove(&key);
            self.watchers.remove(&key);
            return 0;
        }
        count
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
        let events = vec![Arc::new(SharedEvent { event, wire: OnceLock::new() })];
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
        late.take(usize::MAX);
        assert_eq!(held.load(Ordering::Relaxed), 0);
        assert_eq!(fill(&late, 1000), MAILBOX_DELIVERIES_MAX);
    }

    #[test]
    fn word_of_a_lag_comes_after_the_deliveries_before_it() {
        let mailbox = Mailbox::new(Arc::default());
        let count = fill(&mailbox, 1);
        let mut seen = 0;
        loop {
            for item in mailbox.take(100) {
                match item {
                    Waiting::Delivery(delivery) => {
                        seen += 1;
                        assert_eq!(delivery.revision, seen);
                    }
                    Waiting::Lagging { from, .. } => {
                        assert_eq!((from, seen), (seen + 1, count as Revision));
                        assert!(mailbox.is_empty());
                        return;
                    }
                }
            }
        }
    }
}
