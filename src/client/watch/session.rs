//! One watch stream: many watchers, their history, live events, progress and cancellation.
//!
//! Messages come out in the order etcd keeps: `Created` before any event of that watcher, then
//! its events by revision without a gap, then at most one `Canceled`.
//!
//! A stream whose client is slow holds little: what its bounded mailbox took, and then its
//! watchers read history a page at a time, when the client has room again. Once that history is
//! compacted they are canceled with the compact revision.
//!
//! Source: etcd watch API guarantees, <https://etcd.io/docs/latest/learning/api/#watch-api>.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future as _,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::time::{Duration, Instant, Sleep};
use tripod_raft::Node;
use tripod_storage::{
    KeyValue, Rejected, Revision,
    auth::{Ask, Caller},
    types::KeyRange,
};

use super::{
    hub::{Filters, Hub, Wanted, WatcherKey},
    mailbox::{Delivery, Direct, Mailbox, SharedEvent, SharedEvents, Waiting},
};

/// Watchers on one stream; creating more is refused.
pub const WATCHERS_PER_STREAM_MAX: usize = 100_000;
/// Events read from history for one watcher before the others get their turn.
const HISTORY_PAGE_EVENTS: usize = 1000;
/// The id in answers that concern no watcher.
pub const NO_WATCHER: i64 = -1;

/// What to watch (etcd `WatchCreateRequest`).
#[derive(Clone, Debug, Default)]
pub struct WatchRequest {
    /// First key; empty means the very first possible key.
    pub key: Bytes,
    /// Exclusive end; empty: one key; `\0`: no end.
    pub range_end: Bytes,
    /// First revision to see; 0: what comes after now.
    pub start_revision: Revision,
    /// Id to use, 0: the stream picks one.
    pub watch_id: i64,
    /// Answer with the version before each event.
    pub prev_kv: bool,
    /// Tell the revision now and then while nothing happens.
    pub progress_notify: bool,
    /// Kinds of events to leave out.
    pub filters: Filters,
    /// The client can put together answers split by size.
    pub fragment: bool,
}

/// One answer on a watch stream.
#[derive(Debug)]
pub enum Message {
    /// The watcher exists and will deliver from its start revision on.
    Created {
        /// Its id.
        watch_id: i64,
        /// Current revision.
        revision: Revision,
    },
    /// The watcher could not be made.
    Refused {
        /// Current revision.
        revision: Revision,
        /// etcd's text.
        reason: &'static str,
    },
    /// The watcher ended: by request, or because its history is compacted.
    Canceled {
        /// Its id.
        watch_id: i64,
        /// Current revision; 0 (left out on the wire) after a compaction.
        revision: Revision,
        /// Revision to resume at or above, 0 when canceled by request.
        compact_revision: Revision,
    },
    /// Events of one watcher, whole revisions, in order.
    Events {
        /// The watcher.
        watch_id: i64,
        /// For the header: the events' revision if live, the current one from history.
        revision: Revision,
        /// In order.
        events: SharedEvents,
        /// Versions before, in parallel to `events`; empty unless asked for.
        prev_kvs: Vec<Option<KeyValue>>,
        /// The client takes fragments.
        fragment: bool,
    },
    /// Everything up to `revision` has been sent.
    Progress {
        /// The watcher, or [`NO_WATCHER`] for the whole stream.
        watch_id: i64,
        /// See above.
        revision: Revision,
    },
}

#[derive(Debug)]
enum Position {
    /// Registered with the hub.
    Live { key: WatcherKey, from: Revision },
    /// Reading history; this revision is next.
    History { next: Revision },
}

#[derive(Debug)]
struct Watcher {
    range: KeyRange,
    request: WatchRequest,
    position: Position,
    /// No event from history since the last progress tick; the hub knows of the others.
    quiet: bool,
}

impl Watcher {
    fn is_registered_as(&self, wanted: WatcherKey) -> bool {
        matches!(self.position, Position::Live { key, .. } if key == wanted)
    }
}

/// State of one stream. Dropping it unregisters all of its watchers.
#[derive(Debug)]
pub struct Session {
    node: Node,
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    outbox: VecDeque<Message>,
    progress_requested: bool,
    progress_interval: Duration,
    next_progress: Instant,
    /// Set to `next_progress`, once the stream had nothing to do.
    timer: Option<Pin<Box<Sleep>>>,
    /// Watchers told to the hub's counts.
    counted: usize,
    /// Watcher whose history was read last: the next one gets the next turn.
    last_read: i64,
    /// On whose behalf watchers are made.
    caller: Caller,
}

impl Session {
    /// An empty stream. `progress_interval` is etcd's `--watch-progress-notify-interval`.
    #[must_use]
    pub fn new(node: Node, hub: Arc<Hub>, progress_interval: Duration, caller: Caller) -> Self {
        hub.counts().streams.fetch_add(1, Ordering::Relaxed);
        Self {
            mailbox: hub.mailbox(),
            node,
            hub,
            watchers: BTreeMap::new(),
            next_id: 0,
            outbox: VecDeque::new(),
            progress_requested: false,
            progress_interval,
            next_progress: Instant::now() + progress_interval,
            timer: None,
            counted: 0,
            last_read: i64::MIN,
            caller,
        }
    }

    /// Events may go this way to the client while the stream has nothing else to say.
    pub fn send_through(&self, direct: Box<dyn Direct>) {
        self.mailbox.set_direct(direct);
    }

    /// Leaves an answer in the stream, before all events to come.
    fn say(&mut self, message: Message) {
        self.mailbox.set_busy();
        self.outbox.push_back(message);
    }

    /// Later watchers are made on behalf of `caller`; those there are stay.
    pub fn act_for(&mut self, caller: Caller) {
        self.caller = caller;
    }

    /// Makes a watcher, or leaves the reason why not in the stream. Who may read the range now
    /// may watch it for as long as he listens, as in etcd.
    pub fn create(&mut self, mut request: WatchRequest) {
        if request.key.is_empty() {
            request.key = Bytes::from_static(b"\0");
        }
        let (revision, permitted) = {
            let machine = self.node.state().read();
            let ask = Ask::Watch { key: &request.key, range_end: &request.range_end };
            (machine.revision(), machine.authorize(&self.caller, &ask))
        };
        if let Err(rejected) = permitted {
            let reason = denied_because(&rejected);
            return self.say(Message::Refused { revision, reason });
        }
        let range = match watch_range(&request) {
            Ok(range) => range,
            Err(reason) => return self.say(Message::Refused { revision, reason }),
        };
        if request.watch_id != 0 && self.watchers.contains_key(&request.watch_id) {
            let reason = "mvcc: duplicate watch ID provided on the WatchStream";
            return self.say(Message::Refused { revision, reason });
        }
        if self.watchers.len() >= WATCHERS_PER_STREAM_MAX {
            let reason = "etcdserver: too many requests";
            return self.say(Message::Refused { revision, reason });
        }
        let watch_id = self.choose_id(request.watch_id);
        let next = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        self.say(Message::Created { watch_id, revision });
        let position = Position::History { next };
        self.watchers.insert(watch_id, Watcher { range, request, position, quiet: true });
        self.go_live(watch_id, next);
    }

    fn choose_id(&mut self, wanted: i64) -> i64 {
        if wanted != 0 {
            return wanted;
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Ends a watcher; an unknown id has no answer, as in etcd.
    pub fn cancel(&mut self, watch_id: i64) {
        let Some(watcher) = self.watchers.remove(&watch_id) else { return };
        if let Position::Live { key, .. } = watcher.position {
            self.hub.unregister(key);
        }
        let revision = self.node.state().read().revision();
        self.say(Message::Canceled { watch_id, revision, compact_revision: 0 });
    }

    /// Asks for a stream-wide progress message once every watcher is up to date.
    pub fn request_progress(&mut self) {
        self.mailbox.set_busy();
        self.progress_requested = true;
    }

    /// The next answer. Cancel safe.
    pub async fn next(&mut self) -> Message {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The next answer. One task at a time may wait for it.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Message> {
        // What the hub dispatches from here on comes after what is said here.
        self.mailbox.set_busy();
        // Before the look into the mailbox, so that nothing falls between the two.
        self.mailbox.register(context.waker());
        loop {
            self.collect();
            self.account();
            if let Some(message) = self.outbox.pop_front() {
                if let Message::Events { events, .. } = &message {
                    self.hub.counts().sent.fetch_add(events.len() as u64, Ordering::Relaxed);
                }
                return Poll::Ready(message);
            }
            if self.read_some_history() {
                // Others first: this asks to be polled again after them.
                let _ = pin!(tokio::task::yield_now()).poll(context);
                return Poll::Pending;
            }
            if self.answer_progress_request() {
                continue;
            }
            let at = self.next_progress;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.as_mut().poll(context).is_pending() {
                self.mailbox.set_idle();
                return Poll::Pending;
            }
            self.progress_tick();
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(self.next_progress);
            }
        }
    }

    /// Tells the hub's counts how many watchers there are.
    fn account(&mut self) {
        let now = self.watchers.len();
        if now != self.counted {
            let watchers = &self.hub.counts().watchers;
            watchers.fetch_add(now as u64, Ordering::Relaxed);
            watchers.fetch_sub(self.counted as u64, Ordering::Relaxed);
            self.counted = now;
        }
    }

    /// Moves what the hub left in the mailbox into the outbox, once that is empty. Leaves an empty
    /// mailbox or something in the outbox.
    fn collect(&mut self) {
        while self.outbox.is_empty() {
            match self.mailbox.take() {
                Some(Waiting::Delivery(delivery)) => {
                    let events = delivery.events.len() as u64;
                    self.hub.counts().taken.fetch_add(events, Ordering::Relaxed);
                    self.deliver(delivery);
                }
                Some(Waiting::Lagging { watch_id, key, from }) => self.lag(watch_id, key, from),
                None => return,
            }
        }
    }

    fn lag(&mut self, watch_id: i64, key: WatcherKey, next: Revision) {
        if let Some(watcher) = self.watchers.get_mut(&watch_id)
            && watcher.is_registered_as(key)
        {
            watcher.position = Position::History { next };
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let Delivery { watch_id, key, revision, events } = delivery;
        // Of a watcher canceled meanwhile, whose id another one may have.
        let Some(watcher) = self.watchers.get_mut(&watch_id) else { return };
        if !watcher.is_registered_as(key) {
            return;
        }
        let prev_kvs =
            if watcher.request.prev_kv { prev_kvs(&self.node, &events) } else { Vec::new() };
        let fragment = watcher.request.fragment;
        self.outbox.push_back(Message::Events { watch_id, revision, events, prev_kvs, fragment });
    }

    /// Registers a watcher with the hub if the hub has not passed `next` yet.
    fn go_live(&mut self, watch_id: i64, next: Revision) -> bool {
        let Some(watcher) = self.watchers.get_mut(&watch_id) else { return false };
        let WatchRequest { filters, prev_kv, .. } = watcher.request;
        let wanted = Wanted { filters, prev_kv };
        match self.hub.register(&self.mailbox, watch_id, &watcher.range, next, wanted) {
            Ok(key) => {
                watcher.position = Position::Live { key, from: next };
                true
            }
            Err(_) => false,
        }
    }

    /// One page of history for the next watcher that needs it; false when none does.
    fn read_some_history(&mut self) -> bool {
        let behind = |(id, watcher): (&i64, &Watcher)| match watcher.position {
            Position::History { next } => Some((*id, next)),
            Position::Live { .. } => None,
        };
        let after = (std::ops::Bound::Excluded(self.last_read), std::ops::Bound::Unbounded);
        let found = self.watchers.range(after).find_map(behind);
        let Some((watch_id, next)) = found.or_else(|| self.watchers.iter().find_map(behind)) else {
            return false;
        };
        self.last_read = watch_id;
        if !self.go_live(watch_id, next) {
            self.read_history(watch_id, next);
        }
        true
    }

    fn read_history(&mut self, watch_id: i64, next: Revision) {
        let Some(watcher) = self.watchers.get_mut(&watch_id) else { return };
        let machine = self.node.state().read();
        let revision = machine.revision();
        let page = machine.history(&watcher.range, next, HISTORY_PAGE_EVENTS, false);
        drop(machine);
        match page {
            Ok(Ok(page)) => {
                watcher.position = Position::History { next: page.next };
                let filters = watcher.request.filters;
                let events: SharedEvents = page
                    .events
                    .into_iter()
                    .filter(|event| filters.passes(event.kind))
                    .map(|event| Arc::new(SharedEvent::from(Arc::new(event))))
                    .collect();
                if events.is_empty() {
                    return;
                }
                watcher.quiet = false;
                let wants_prev = watcher.request.prev_kv;
                let prev_kvs = if wants_prev { prev_kvs(&self.node, &events) } else { Vec::new() };
                let fragment = watcher.request.fragment;
                let message = Message::Events { watch_id, revision, events, prev_kvs, fragment };
                self.outbox.push_back(message);
            }
            Ok(Err(rejected)) => {
                let compact_revision = match rejected {
                    Rejected::Compacted { compact_revision } => compact_revision,
                    _ => 0,
                };
                self.watchers.remove(&watch_id);
                let canceled = Message::Canceled { watch_id, revision: 0, compact_revision };
                self.outbox.push_back(canceled);
            }
            Err(error) => self.node.fail(&error),
        }
    }

    /// Answers a pending progress request if every watcher is live, started and drained.
    fn answer_progress_request(&mut self) -> bool {
        if !self.progress_requested {
            return false;
        }
        if self.watchers.is_empty() {
            // Later etcd releases answer nothing on a stream without watchers.
            self.progress_requested = false;
            return false;
        }
        let Some(revision) = self.hub.progress(&self.mailbox) else { return true };
        let synced = self.watchers.values().all(
            |watcher| matches!(watcher.position, Position::Live { from, .. } if from <= revision + 1),
        );
        if synced {
            self.progress_requested = false;
            self.outbox.push_back(Message::Progress { watch_id: NO_WATCHER, revision });
        }
        synced
    }

    fn progress_tick(&mut self) {
        self.next_progress = Instant::now() + self.progress_interval;
        let Some(revision) = self.hub.progress(&self.mailbox) else { return };
        for (watch_id, watcher) in &mut self.watchers {
            let (started, had_none) = match watcher.position {
                Position::Live { key, from } => (from <= revision + 1, self.hub.was_quiet(key)),
                Position::History { .. } => (false, true),
            };
            if watcher.request.progress_notify && watcher.quiet && had_none && started {
                self.outbox.push_back(Message::Progress { watch_id: *watch_id, revision });
            }
            watcher.quiet = true;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for watcher in self.watchers.values() {
            if let Position::Live { key, .. } = watcher.position {
                self.hub.unregister(key);
            }
        }
        while let Some(waiting) = self.mailbox.take() {
            if let Waiting::Delivery(delivery) = waiting {
                let events = delivery.events.len() as u64;
                self.hub.counts().taken.fetch_add(events, Ordering::Relaxed);
            }
        }
        self.watchers.clear();
        self.account();
        self.hub.counts().streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The range a request means, or etcd's reason to refuse it.
fn watch_range(request: &WatchRequest) -> Result<KeyRange, &'static str> {
    if request.start_revision < 0 {
        return Err("mvcc: required revision has been compacted");
    }
    let open = request.range_end.as_ref() == b"\0";
    if !open && !request.range_end.is_empty() && request.range_end <= request.key {
        return Err("mvcc: watcher range is empty");
    }
    Ok(KeyRange { key: request.key.clone(), end: request.range_end.clone() })
}

/// etcd's reason, as its gRPC library prints an error.
fn denied_because(rejected: &Rejected) -> &'static str {
    match rejected {
        Rejected::UserEmpty => {
            "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
        }
        Rejected::InvalidAuthToken => {
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
        }
        Rejected::AuthOldRevision => {
            "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old"
        }
        _ => "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
    }
}

/// The version before each event; absent where it was created, or is compacted.
fn prev_kvs(node: &Node, events: &[Arc<SharedEvent>]) -> Vec<Option<KeyValue>> {
    let prev_kv = |shared: &Arc<SharedEvent>| {
        let prev = node.state().read().event_prev(&shared.event);
        prev.unwrap_or_else(|error| {
            node.fail(&error);
            None
        })
    };
    events.iter().map(prev_kv).collect()
}
