//! The latest events, in memory, shared by all watchers.

use std::{collections::VecDeque, sync::Arc};

use crate::{Revision, command::Event};

/// What an event costs beyond its keys and values, in bytes.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// Events in order of revision, bounded by count and bytes; the oldest revisions go first and
/// as a whole.
#[derive(Debug)]
pub(crate) struct EventRing {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
    /// Every event at or above this revision is here.
    floor: Revision,
}

impl EventRing {
    /// An empty ring of a store whose next change is at `floor`.
    pub(crate) fn new(floor: Revision, events_max: usize, bytes_max: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, events_max, bytes_max, floor }
    }

    pub(crate) fn set_floor(&mut self, floor: Revision) {
        self.events.clear();
        self.bytes = 0;
        self.floor = floor;
    }

    /// Adds an event; the caller trims once its revision is whole.
    pub(crate) fn push(&mut self, event: Arc<Event>) {
        self.bytes += event_bytes(&event);
        self.events.push_back(event);
    }

    /// Drops the oldest revisions until the bounds hold.
    pub(crate) fn trim(&mut self) {
        while self.events.len() > self.events_max || self.bytes > self.bytes_max {
            let Some(revision) = self.events.front().map(|event| event.kv.mod_revision) else {
                return;
            };
            while self.events.front().is_some_and(|event| event.kv.mod_revision == revision) {
                if let Some(event) = self.events.pop_front() {
                    self.bytes -= event_bytes(&event);
                }
            }
            self.floor = revision + 1;
        }
    }

    /// Whole revisions from `from` on, about `max` events; `None` when older ones are wanted
    /// than are here.
    pub(crate) fn since(&self, from: Revision, max: usize) -> Option<Vec<Arc<Event>>> {
        if from < self.floor {
            return None;
        }
        let start = self.events.partition_point(|event| event.kv.mod_revision < from);
        let mut events: Vec<Arc<Event>> = Vec::new();
        for event in self.events.range(start..) {
            let last = events.last().map(|event| event.kv.mod_revision);
            if events.len() >= max && last != Some(event.kv.mod_revision) {
                break;
            }
            events.push(Arc::clone(event));
        }
        Some(events)
    }
}

fn event_bytes(event: &Event) -> usize {
    let prev = event.prev_kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    EVENT_OVERHEAD_BYTES + event.kv.key.len() + event.kv.value.len() + prev
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyValue, command::EventKind};

    fn event(revision: Revision) -> Arc<Event> {
        let kv = KeyValue { mod_revision: revision, ..KeyValue::default() };
        Arc::new(Event { kind: EventKind::Put, kv, prev_kv: None })
    }

    fn revisions(ring: &EventRing, from: Revision, max: usize) -> Option<Vec<Revision>> {
        ring.since(from, max)
            .map(|events| events.iter().map(|event| event.kv.mod_revision).collect())
    }

    #[test]
    fn whole_revisions_leave_and_whole_revisions_are_read() {
        let mut ring = EventRing::new(2, 4, usize::MAX);
        for revision in [2, 2, 3, 3, 3] {
            ring.push(event(revision));
        }
        ring.trim();
        assert_eq!(revisions(&ring, 2, 9), None, "revision 2 left as a whole");
        assert_eq!(revisions(&ring, 3, 1), Some(vec![3, 3, 3]), "max does not cut a revision");
        assert_eq!(revisions(&ring, 4, 9), Some(vec![]));
        for _ in 0..5 {
            ring.push(event(4));
        }
        ring.trim();
        assert_eq!(revisions(&ring, 4, 9), None, "a revision above the bound is not kept");
        assert_eq!(revisions(&ring, 5, 9), Some(vec![]));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut ring = EventRing::new(2, usize::MAX, 3 * EVENT_OVERHEAD_BYTES);
        for revision in 2..10 {
            ring.push(event(revision));
            ring.trim();
        }
        assert_eq!(revisions(&ring, 6, 9), None);
        assert_eq!(revisions(&ring, 7, 9), Some(vec![7, 8, 9]));
    }
}
