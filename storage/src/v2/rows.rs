//! The tree as engine rows: one a node, one an event, one for the counters.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Event, path,
    tree::{Data, Node, Tree},
};
use crate::{
    Error, codec,
    keys::{self, corrupt},
};

/// A stored node.
#[derive(Serialize, Deserialize)]
struct NodeRow {
    /// `None`: a directory.
    value: Option<Bytes>,
    modified: u64,
    created: u64,
    expires_ns: Option<i64>,
}

impl Tree {
    /// Rows changed since the last call; `None`: delete.
    pub(crate) fn take_dirty(&mut self, mut put: impl FnMut(Vec<u8>, Option<Vec<u8>>)) {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.is_empty() {
            return;
        }
        for path in &dirty.nodes {
            put(keys::v2_node_key(path), self.nodes.get(path).map(node_row));
        }
        for &index in &dirty.events {
            let event = self.history.events.get(&index);
            put(keys::v2_event_key(index), event.map(|event| codec::encode(&**event)));
        }
        put(keys::V2_ROW.to_vec(), Some(self.counters()));
    }

    /// About the bytes of changed rows.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty.bytes
    }

    /// All rows, for a snapshot.
    pub(crate) fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let nodes = self.nodes.iter().filter(|(path, _)| path.len() > 1);
        let mut rows: Vec<_> =
            nodes.map(|(path, node)| (keys::v2_node_key(path), node_row(node))).collect();
        let event = |(&index, event): (&u64, &Arc<Event>)| {
            (keys::v2_event_key(index), codec::encode(&**event))
        };
        rows.extend(self.history.events.iter().map(event));
        rows.push((keys::V2_ROW.to_vec(), self.counters()));
        rows
    }

    fn counters(&self) -> Vec<u8> {
        codec::encode(&(self.index, self.history.start))
    }

    /// Takes the stored counters in.
    pub(crate) fn load_counters(&mut self, row: &[u8]) -> Result<(), Error> {
        (self.index, self.history.start) = codec::decode(row)
            .map_err(|error| corrupt("counters of the v2 tree", error.to_string()))?;
        Ok(())
    }

    /// Takes a stored node in; its folder comes before it.
    pub(crate) fn load_node(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let path = Bytes::copy_from_slice(key.get(1..).unwrap_or_default());
        let bad = |detail: String| corrupt("a node of the v2 tree", detail);
        let row: NodeRow = codec::decode(row).map_err(|error| bad(error.to_string()))?;
        let has_folder = self.nodes.get(path::split(&path).0).is_some_and(Node::is_dir);
        if path.len() < 2 || path::clean(&path) != path || !has_folder {
            return Err(bad("it lies in no directory".to_owned()));
        }
        let NodeRow { value, modified, created, expires_ns } = row;
        let data = value.map_or_else(Data::empty_dir, Data::File);
        self.insert(path, Node { data, modified, created, expires_ns });
        Ok(())
    }

    /// Takes a stored event in.
    pub(crate) fn load_event(&mut self, row: &[u8]) -> Result<(), Error> {
        let event = codec::decode(row)
            .map_err(|error| corrupt("an event of the v2 tree", error.to_string()))?;
        self.history.load(event);
        Ok(())
    }

    /// Everything was taken in: nothing of it is new to the engine.
    pub(crate) fn loaded(&mut self) {
        let _ = std::mem::take(&mut self.dirty);
    }
}

fn node_row(node: &Node) -> Vec<u8> {
    let value = match &node.data {
        Data::File(value) => Some(value.clone()),
        Data::Dir(_) => None,
    };
    let Node { modified, created, expires_ns, .. } = *node;
    codec::encode(&NodeRow { value, modified, created, expires_ns })
}
