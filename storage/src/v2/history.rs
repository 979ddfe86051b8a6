//! The latest events, in order of their index.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Action, Error, ErrorCode, Event, FIRST_INDEX, HISTORY_BYTES_MAX, HISTORY_EVENTS_MAX, NodeView,
    path,
};

/// What an event costs beyond keys and values, in bytes.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// Every event from `start` on.
#[derive(Debug)]
pub(super) struct History {
    pub(super) events: BTreeMap<u64, Arc<Event>>,
    /// Least index that can be asked for.
    pub(super) start: u64,
    /// Index of the newest event.
    last: u64,
    bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { events: BTreeMap::new(), start: 1, last: FIRST_INDEX, bytes: 0 }
    }
}

impl History {
    /// Adds the event of the next index; the indexes that leave for it.
    pub(super) fn push(&mut self, event: Arc<Event>) -> Vec<u64> {
        self.last = event.node.modified;
        self.bytes += event_bytes(&event);
        self.events.insert(self.last, event);
        let first = (self.last + 1).saturating_sub(HISTORY_EVENTS_MAX as u64);
        self.start = self.start.max(first);
        let mut dropped = Vec::new();
        while let Some(entry) = self.events.first_entry() {
            let is_over = self.bytes > HISTORY_BYTES_MAX && *entry.key() < self.last;
            if *entry.key() >= self.start && !is_over {
                break;
            }
            let (index, event) = entry.remove_entry();
            self.bytes -= event_bytes(&event);
            self.start = self.start.max(index + 1);
            dropped.push(index);
        }
        dropped
    }

    /// Takes a stored event in.
    pub(super) fn load(&mut self, event: Event) {
        self.last = self.last.max(event.node.modified);
        self.bytes += event_bytes(&event);
        self.events.insert(event.node.modified, Arc::new(event));
    }

    /// The first event at or after `index` that concerns a watcher of `key`.
    pub(super) fn find(
        &self,
        key: &[u8],
        recursive: bool,
        index: u64,
    ) -> Result<Option<Arc<Event>>, Error> {
        if index < self.start {
            let cause = format!("the requested history has been cleared [{}/{index}]", self.start);
            return Err(Error::of_request(ErrorCode::EventIndexCleared, cause));
        }
        let concerns = |event: &&Arc<Event>| !event.refresh && concerns(event, key, recursive);
        Ok(self.events.range(index..).map(|(_, event)| event).find(concerns).cloned())
    }
}

/// A past event concerns a watcher of `key`: it is of that key, or below it and the watcher is
/// recursive, or it ended a directory whose path `key` begins with (etcd compares the bytes
/// alone: the end of `/a` concerns `/ab` too).
fn concerns(event: &Event, key: &[u8], recursive: bool) -> bool {
    let of = &event.node.key[..];
    let ended = matches!(event.action, Action::Delete | Action::Expire);
    let ended_dir = event.prev.as_ref().filter(|prev| ended && prev.dir);
    of == key
        || recursive && path::is_within(of, key)
        || ended_dir.is_some_and(|prev| key.starts_with(&prev.key))
}

fn event_bytes(event: &Event) -> usize {
    let node = |node: &NodeView| node.key.len() + node.value.as_ref().map_or(0, bytes::Bytes::len);
    EVENT_OVERHEAD_BYTES + node(&event.node) + event.prev.as_ref().map_or(0, node)
}
