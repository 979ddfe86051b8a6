//! Fan-out of applied events to watchers: one hub for each front-end thread.
//!
//! The hub is a cursor over the state machine's ring of recent events. When entries are applied
//! it wakes once, matches what is new against its watchers and drops deliveries into the
//! mailboxes of the streams concerned, waking each of them once. The events of a revision, and
//! their encoding, are shared by all who receive them. A stream that has nothing else to say may
//! take them at once instead ([`Direct`](super::mailbox::Direct)), without being woken.
//!
//! Invariants:
//! - every event below `cursor` has been delivered to every registered watcher that wants it;
//! - a watcher whose mailbox is full is unregistered and told from which revision it lags; it then
//!   reads history. So memory is bounded and no event is skipped.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tripod_raft::Node;
use tripod_storage::{Revision, command::Event, types::KeyRange, watch::WatcherSet};

use super::mailbox::{Delivery, Mailbox, Offer, SharedEvent, SharedEvents};

pub use tripod_storage::watch::Filters;

/// Room for watchers of one event that a hub keeps.
const MATCHED_KEPT: usize = 4096;
/// Deliveries of one page that go around the mailboxes: the streams' connections send them before
/// they count against any other limit.
const DIRECT_MAX: usize = 1 << 16;
/// Events taken from the ring under one read lock.
const DISPATCH_EVENTS_MAX: usize = 4096;

/// Names a registered watcher inside one hub.
pub type WatcherKey = u64;

#[derive(Debug)]
struct Registered {
    mailbox: Arc<Mailbox>,
    watch_id: i64,
    wanted: Wanted,
    from: Revision,
    /// No event since it was asked last.
    quiet: bool,
}

/// What a watcher wants of the events in its range.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Kinds to leave out.
    pub filters: Filters,
    /// The version before each event too.
    pub prev_kv: bool,
}

#[derive(Debug)]
struct State {
    watchers: WatcherSet<WatcherKey>,
    registered: HashMap<WatcherKey, Registered>,
    next_key: WatcherKey,
    /// Watchers of the event at hand; empty but for its room.
    matched: Vec<WatcherKey>,
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
            matched: Vec::new(),
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
        wanted: Wanted,
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
        let mailbox = Arc::clone(mailbox);
        let registered = Registered { mailbox, watch_id, wanted, from, quiet: true };
        state.registered.insert(key, registered);
        Ok(key)
    }

    /// Forgets a watcher; deliveries already in the mailbox stay there.
    pub fn unregister(&self, key: WatcherKey) {
        let mut state = self.state.lock();
        state.registered.remove(&key);
        state.watchers.remove(&key);
    }

    /// Whether a watcher had no event since this was asked last.
    pub fn was_quiet(&self, key: WatcherKey) -> bool {
        let mut state = self.state.lock();
        state
            .registered
            .get_mut(&key)
            .is_none_or(|watcher| std::mem::replace(&mut watcher.quiet, true))
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
        let delivered = state.deliver(&events);
        self.counts.queued.fetch_add(delivered.queued, Ordering::Relaxed);
        self.counts.sent.fetch_add(delivered.sent, Ordering::Relaxed);
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
            watcher.mailbox.wake();
        }
        self.cursor = cursor;
    }

    fn deliver(&mut self, events: &[Arc<Event>]) -> Delivered {
        let mut delivered = Delivered::default();
        let mut touched: Vec<Arc<Mailbox>> = Vec::new();
        for revision in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            self.deliver_revision(revision, &mut touched, &mut delivered);
            self.cursor = revision[0].kv.mod_revision + 1;
        }
        for mailbox in touched {
            mailbox.wake();
        }
        delivered
    }

    /// `events` share one revision.
    fn deliver_revision(
        &mut self,
        events: &[Arc<Event>],
        touched: &mut Vec<Arc<Mailbox>>,
        delivered: &mut Delivered,
    ) {
        let revision = events[0].kv.mod_revision;
        let shared: SharedEvents =
            events.iter().map(|event| Arc::new(SharedEvent::from(Arc::clone(event)))).collect();
        let offer = Offer::new(revision, &shared);
        if let [event] = events {
            let mut matched = std::mem::take(&mut self.matched);
            self.watchers.matches(&event.kv.key, |&key| matched.push(key));
            for key in matched.drain(..) {
                self.deliver_to(key, &offer, touched, delivered);
            }
            matched.shrink_to(MATCHED_KEPT);
            self.matched = matched;
            return;
        }
        let mut by_watcher: Vec<(WatcherKey, Vec<Arc<SharedEvent>>)> = Vec::new();
        let mut position: HashMap<WatcherKey, usize> = HashMap::new();
        for event in &*shared {
            self.watchers.matches(&event.event.kv.key, |&key| {
                let at = *position.entry(key).or_insert_with(|| {
                    by_watcher.push((key, Vec::new()));
                    by_watcher.len() - 1
                });
                by_watcher[at].1.push(Arc::clone(event));
            });
        }
        for (key, wanted) in by_watcher {
            if wanted.len() == shared.len() {
                self.deliver_to(key, &offer, touched, delivered);
            } else {
                let wanted: SharedEvents = wanted.into();
                self.deliver_to(key, &Offer::new(revision, &wanted), touched, delivered);
            }
        }
    }

    /// Hands one watcher those of the events that it wants.
    fn deliver_to(
        &mut self,
        key: WatcherKey,
        offer: &Offer<'_>,
        touched: &mut Vec<Arc<Mailbox>>,
        delivered: &mut Delivered,
    ) {
        let Some(watcher) = self.registered.get_mut(&key) else { return };
        let Registered { ref mailbox, watch_id, wanted, from, ref mut quiet } = *watcher;
        if offer.revision < from {
            return;
        }
        let passes = |shared: &&Arc<SharedEvent>| wanted.filters.passes(shared.event.kind);
        let filtered: SharedEvents;
        let own_offer;
        let offer = if offer.events.iter().all(|shared| passes(&shared)) {
            offer
        } else {
            filtered = offer.events.iter().filter(passes).cloned().collect();
            own_offer = Offer::new(offer.revision, &filtered);
            &own_offer
        };
        if offer.events.is_empty() {
            return;
        }
        let count = offer.events.len() as u64;
        if !wanted.prev_kv
            && delivered.direct < DIRECT_MAX
            && mailbox.send_directly(watch_id, offer)
        {
            *quiet = false;
            delivered.direct += 1;
            delivered.sent += count;
            return;
        }
        let (revision, events) = (offer.revision, Arc::clone(offer.events));
        let (has_room, was_empty) = mailbox.put(Delivery { watch_id, key, revision, events });
        if was_empty {
            touched.push(Arc::clone(mailbox));
        }
        if has_room {
            *quiet = false;
            delivered.queued += count;
        } else {
            self.registered.remove(&key);
            self.watchers.remove(&key);
        }
    }
}

/// What became of a page of events.
#[derive(Debug, Default)]
struct Delivered {
    /// Deliveries that went around the mailboxes.
    direct: usize,
    /// Events in them.
    sent: u64,
    /// Events that went into mailboxes.
    queued: u64,
}
