//! Watchers of this member. Not replicated: they come and go with their clients.
//!
//! An event goes into the queue of every watcher it concerns while it is applied, and the
//! watcher's task is woken. No channels: a queue, a limit and a [`Waker`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{Event, path};

/// Watchers of one member at most.
pub const WATCHERS_MAX: usize = 10_000;

/// Events that wait for one watcher at most, as etcd; one more ends it.
const QUEUE_EVENTS_MAX: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    watchers: BTreeMap<u64, Watcher>,
    /// Those that wait for events, by what they watch, in order of arrival.
    by_path: BTreeMap<Bytes, Vec<u64>>,
    next_id: u64,
}

#[derive(Debug)]
struct Watcher {
    interest: Interest,
    queue: VecDeque<Arc<Event>>,
    waker: Option<Waker>,
    /// It gets no more events than those in its queue.
    ended: bool,
}

/// What a watcher wants.
#[derive(Clone, Debug)]
pub(super) struct Interest {
    pub(super) path: Bytes,
    pub(super) recursive: bool,
    /// All events, not only the next one.
    pub(super) stream: bool,
    /// Not before this index.
    pub(super) since: u64,
}

impl Interest {
    /// An event that is told at `node_path`, where this watcher waits, concerns it. `removed`:
    /// the event removed the node there together with what lies above or below.
    fn wants(&self, event: &Event, node_path: &[u8], removed: bool) -> bool {
        let here = event.node.key == node_path;
        let hidden = !here && is_hidden_below(node_path, &event.node.key);
        !hidden && (self.recursive || here || removed) && event.node.modified >= self.since
    }
}

/// A part of `key` below `watched` is hidden.
fn is_hidden_below(watched: &[u8], key: &[u8]) -> bool {
    let below = key.get(watched.len()..).unwrap_or_default();
    let mut parts = below.split(|&byte| byte == b'/');
    parts.any(path::is_hidden)
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everyone on the way from the root to the node of `event`.
    pub(super) fn tell(&self, event: &Arc<Event>) {
        let mut inner = self.lock();
        if inner.by_path.is_empty() {
            return;
        }
        for prefix in path::prefixes(&event.node.key) {
            inner.tell_at(event, prefix, false);
        }
    }

    /// Tells the watchers of `node_path`, which `event` removed.
    pub(super) fn tell_removed(&self, event: &Arc<Event>, node_path: &[u8]) {
        self.lock().tell_at(event, node_path, true);
    }

    pub(super) fn has_watchers(&self) -> bool {
        !self.lock().by_path.is_empty()
    }

    pub(super) fn watchers(&self) -> usize {
        self.lock().watchers.len()
    }

    /// A new watcher, with an event of the past for it, which is then all it gets. `None`:
    /// there are too many.
    pub(super) fn add(
        self: &Arc<Self>,
        interest: Interest,
        past: Option<Arc<Event>>,
        start_index: u64,
    ) -> Option<Watch> {
        let mut inner = self.lock();
        if inner.watchers.len() >= WATCHERS_MAX {
            return None;
        }
        let id = inner.next_id;
        inner.next_id += 1;
        if past.is_none() {
            inner.by_path.entry(interest.path.clone()).or_default().push(id);
        }
        // etcd's streams that begin in the past get one event and then wait for ever.
        let ended = past.is_some() && !interest.stream;
        let queue = past.into_iter().collect();
        inner.watchers.insert(id, Watcher { interest, queue, waker: None, ended });
        Some(Watch { hub: Arc::clone(self), id, start_index })
    }

    /// Ends every watcher: the tree they watch is gone.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.by_path.clear();
        for watcher in inner.watchers.values_mut() {
            watcher.end();
        }
    }
}

impl Inner {
    fn tell_at(&mut self, event: &Arc<Event>, node_path: &[u8], removed: bool) {
        let Self { watchers, by_path, .. } = self;
        let Some(ids) = by_path.get_mut(node_path) else { return };
        ids.retain(|id| {
            let Some(watcher) = watchers.get_mut(id) else { return false };
            if !watcher.interest.wants(event, node_path, removed) {
                return true;
            }
            watcher.push(event)
        });
        if ids.is_empty() {
            by_path.remove(node_path);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        if let Some(ids) = self.by_path.get_mut(&watcher.interest.path) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_path.remove(&watcher.interest.path);
            }
        }
    }
}

impl Watcher {
    /// Queues an event; whether the watcher waits for more.
    fn push(&mut self, event: &Arc<Event>) -> bool {
        if self.queue.len() >= QUEUE_EVENTS_MAX {
            self.end();
            return false;
        }
        self.queue.push_back(Arc::clone(event));
        if !self.interest.stream {
            self.ended = true;
        }
        self.wake();
        self.interest.stream
    }

    fn end(&mut self) {
        self.ended = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A watcher's end of its queue. Dropping it ends the watcher.
#[derive(Debug)]
pub struct Watch {
    hub: Arc<Hub>,
    id: u64,
    start_index: u64,
}

impl Watch {
    /// The tree's index when the watcher came.
    #[must_use]
    pub fn start_index(&self) -> u64 {
        self.start_index
    }

    /// The next event; `None` after the last one, and where the watcher was too slow.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        let mut inner = self.hub.lock();
        let Some(watcher) = inner.watchers.get_mut(&self.id) else { return Poll::Ready(None) };
        match watcher.queue.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if watcher.ended => Poll::Ready(None),
            None => {
                watcher.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.lock().remove(self.id);
    }
}
