//! Changes of the tree, as they go through the log.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Action, EXPIRES_NS_MIN, Error, ErrorCode, Event, NodeView, path,
    tree::{Data, Node, Tree, shown},
};

/// Nodes that one [`Change::Expire`] ends at most, directories with all that is in them counted
/// once; the rest follows with the next.
const EXPIRED_MAX: usize = 10_000;

/// What a log entry does to the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A client's request.
    Write(Write),
    /// The leader ends the nodes whose deadline has passed.
    Expire {
        /// Its clock, in nanoseconds since 1970.
        cutoff_ns: i64,
    },
}

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// What to do with it.
    pub op: Op,
    /// Deadline in nanoseconds since 1970; `None`: never.
    pub expires_ns: Option<i64>,
    /// Keep the value, and tell no watcher.
    pub refresh: bool,
    /// Clock of the member that took the request, in nanoseconds since 1970: what remaining
    /// seconds in the answer count from.
    pub now_ns: i64,
}

/// What a [`Write`] does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Makes the node, or replaces a file.
    Set {
        /// A directory; it has no value.
        dir: bool,
        /// The value.
        value: Bytes,
    },
    /// Makes the node, which must not be there.
    Create {
        /// A directory; it has no value.
        dir: bool,
        /// The value.
        value: Bytes,
        /// Make it inside `key`, under the name of the next index.
        unique: bool,
    },
    /// Changes value and deadline of a node that is there; of a directory the deadline.
    Update {
        /// The value.
        value: Bytes,
    },
    /// Changes a file if the condition holds.
    CompareAndSwap {
        /// The value.
        value: Bytes,
        /// What must hold.
        condition: Condition,
    },
    /// Ends a node.
    Delete {
        /// It may be a directory.
        dir: bool,
        /// The directory may have children.
        recursive: bool,
    },
    /// Ends a file if the condition holds.
    CompareAndDelete {
        /// What must hold.
        condition: Condition,
    },
}

/// What must hold of a file; parts left empty or 0 hold always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its value.
    pub value: Bytes,
    /// Index of its last write.
    pub index: u64,
}

impl Condition {
    /// What does not match, in etcd's notation; `None` where all does.
    fn mismatch(&self, node: &Node) -> Option<Bytes> {
        let have = node.value();
        let value = !self.value.is_empty() && self.value != have;
        let index = self.index != 0 && self.index != node.modified;
        let mut parts: Vec<Vec<u8>> = Vec::new();
        if value {
            parts.push([b"[", &self.value[..], b" != ", &have, b"]"].concat());
        }
        if index {
            parts.push(format!("[{} != {}]", self.index, node.modified).into_bytes());
        }
        (!parts.is_empty()).then(|| parts.join(&b' ').into())
    }
}

impl Write {
    /// Bytes it adds at most, for the quota; 0 for what is allowed when space is short.
    pub(crate) fn cost_bytes(&self) -> u64 {
        let value = match &self.op {
            Op::Set { value, .. }
            | Op::Create { value, .. }
            | Op::Update { value }
            | Op::CompareAndSwap { value, .. } => value.len(),
            Op::Delete { .. } | Op::CompareAndDelete { .. } => return 0,
        };
        (self.key.len() + value) as u64
    }
}

impl Tree {
    /// Applies a client's request: its event, whose `modified` is the tree's index after it.
    pub(crate) fn write(&mut self, write: &Write) -> Result<Event, Error> {
        let path = path::clean(&write.key);
        let result = match &write.op {
            Op::Set { dir, value } => self.set(&path, write, *dir, value),
            Op::Create { dir, value, unique } => self.create(&path, write, *dir, value, *unique),
            Op::Update { value } => self.update(&path, write, value),
            Op::CompareAndSwap { value, condition } => {
                self.compare_and_swap(&path, write, value, condition)
            }
            Op::Delete { dir, recursive } => self.delete(&path, write, *dir, *recursive),
            Op::CompareAndDelete { condition } => self.compare_and_delete(&path, write, condition),
        };
        let stats = &mut self.stats;
        let counts = match &write.op {
            Op::Set { .. } => &mut stats.sets,
            Op::Create { .. } => &mut stats.creates,
            Op::Update { .. } => &mut stats.updates,
            Op::CompareAndSwap { .. } => &mut stats.swaps,
            Op::Delete { .. } => &mut stats.deletes,
            Op::CompareAndDelete { .. } => &mut stats.compare_deletes,
        };
        counts[usize::from(result.is_err())] += 1;
        result
    }

    /// Ends what is due.
    pub(crate) fn expire(&mut self, cutoff_ns: i64) {
        for _ in 0..EXPIRED_MAX {
            let Some(path) = self.next_due(cutoff_ns) else { return };
            let Some(node) = self.nodes.get(&path) else { return };
            let event = self.end_of(Action::Expire, &path, node, cutoff_ns);
            self.end_tree(&path, &event);
            self.commit(event);
            self.stats.expired += 1;
        }
    }

    fn refuse_root(&self, path: &[u8]) -> Result<(), Error> {
        if path == b"/" { Err(self.error(ErrorCode::RootReadOnly, "/")) } else { Ok(()) }
    }

    fn set(
        &mut self,
        path: &Bytes,
        write: &Write,
        dir: bool,
        value: &Bytes,
    ) -> Result<Event, Error> {
        let mut value = value.clone();
        let prev = match self.find(path) {
            Ok(node) => {
                if write.refresh {
                    value = node.value();
                }
                Some(node.view(path, write.now_ns))
            }
            Err(error) if error.code != ErrorCode::KeyNotFound || write.refresh => {
                return Err(error);
            }
            Err(_) => None,
        };
        self.refuse_root(path)?;
        if prev.as_ref().is_some_and(|prev| prev.dir) {
            return Err(self.error(ErrorCode::NotFile, path.clone()));
        }
        self.make_folders(path)?;
        self.remove(path);
        let node = self.make(path, write, dir, value);
        let event = Event { action: Action::Set, node, prev, refresh: write.refresh };
        Ok(self.commit(Arc::new(event)))
    }

    fn create(
        &mut self,
        path: &Bytes,
        write: &Write,
        dir: bool,
        value: &Bytes,
        unique: bool,
    ) -> Result<Event, Error> {
        let path = if unique {
            path::join(path, format!("{:020}", self.index + 1).as_bytes())
        } else {
            path.clone()
        };
        self.refuse_root(&path)?;
        self.make_folders(&path)?;
        if self.nodes.contains_key(&path) {
            return Err(self.error(ErrorCode::NodeExists, path));
        }
        let node = self.make(&path, write, dir, value.clone());
        let event = Event { action: Action::Create, node, prev: None, refresh: false };
        Ok(self.commit(Arc::new(event)))
    }

    /// Adds a node where none is, and shows it.
    fn make(&mut self, path: &Bytes, write: &Write, dir: bool, value: Bytes) -> NodeView {
        let index = self.index + 1;
        let expires_ns = write.expires_ns.filter(|&expires_ns| expires_ns >= EXPIRES_NS_MIN);
        let data = if dir { Data::empty_dir() } else { Data::File(value) };
        let node = Node { data, modified: index, created: index, expires_ns };
        let view = node.view(path, write.now_ns);
        self.insert(path.clone(), node);
        view
    }

    fn update(&mut self, path: &Bytes, write: &Write, value: &Bytes) -> Result<Event, Error> {
        self.refuse_root(path)?;
        let node = self.find(path)?;
        let is_dir = node.is_dir();
        if is_dir && !value.is_empty() {
            return Err(self.error(ErrorCode::NotFile, path.clone()));
        }
        let value = if write.refresh { node.value() } else { value.clone() };
        // A directory keeps its index, as in etcd 3.4 (3.5.1 refuses by mistake).
        let value = (!is_dir).then_some(value);
        Ok(self.rewritten(Action::Update, path, write, value))
    }

    fn compare_and_swap(
        &mut self,
        path: &Bytes,
        write: &Write,
        value: &Bytes,
        condition: &Condition,
    ) -> Result<Event, Error> {
        self.refuse_root(path)?;
        self.check(path, condition)?;
        let node = self.find(path)?;
        let value = if write.refresh { node.value() } else { value.clone() };
        Ok(self.rewritten(Action::CompareAndSwap, path, write, Some(value)))
    }

    /// The file is there and the condition holds.
    fn check(&self, path: &Bytes, condition: &Condition) -> Result<(), Error> {
        let node = self.find(path)?;
        if node.is_dir() {
            return Err(self.error(ErrorCode::NotFile, shown(path)));
        }
        match condition.mismatch(node) {
            Some(cause) => Err(self.error(ErrorCode::CompareFailed, cause)),
            None => Ok(()),
        }
    }

    /// Writes into a node that is there.
    fn rewritten(
        &mut self,
        action: Action,
        path: &Bytes,
        write: &Write,
        value: Option<Bytes>,
    ) -> Event {
        let prev = self.nodes.get(path).map(|node| node.view(path, write.now_ns));
        self.rewrite(path, value, write.expires_ns);
        let node = self.nodes.get(path).map(|node| node.view(path, write.now_ns));
        let node = NodeView { modified: self.index + 1, ..node.unwrap_or_default() };
        self.commit(Arc::new(Event { action, node, prev, refresh: write.refresh }))
    }

    fn delete(
        &mut self,
        path: &Bytes,
        write: &Write,
        dir: bool,
        recursive: bool,
    ) -> Result<Event, Error> {
        self.refuse_root(path)?;
        let node = self.find(path)?;
        if node.is_dir() && !dir && !recursive {
            return Err(self.error(ErrorCode::NotFile, path.clone()));
        }
        if node.has_children() && !recursive {
            return Err(self.error(ErrorCode::DirNotEmpty, path.clone()));
        }
        let event = self.end_of(Action::Delete, path, node, write.now_ns);
        self.end_tree(path, &event);
        Ok(self.commit(event))
    }

    fn compare_and_delete(
        &mut self,
        path: &Bytes,
        write: &Write,
        condition: &Condition,
    ) -> Result<Event, Error> {
        self.check(path, condition)?;
        let node = self.find(path)?;
        let event = self.end_of(Action::CompareAndDelete, path, node, write.now_ns);
        self.end_tree(path, &event);
        Ok(self.commit(event))
    }

    /// The event of a node's end.
    fn end_of(&self, action: Action, path: &Bytes, node: &Node, now_ns: i64) -> Arc<Event> {
        let view = NodeView {
            key: shown(path),
            dir: node.is_dir(),
            modified: self.index + 1,
            created: node.created,
            ..NodeView::default()
        };
        let prev = Some(node.view(path, now_ns));
        Arc::new(Event { action, node: view, prev, refresh: false })
    }

    /// Removes a node with everything below it; watchers of each removed path are told.
    fn end_tree(&mut self, top: &Bytes, event: &Arc<Event>) {
        let is_watched = self.hub.has_watchers();
        for path in self.below(top) {
            self.remove(&path);
            if is_watched {
                self.hub.tell_removed(event, &path);
            }
        }
    }

    /// Counts a change, keeps its event and tells watchers.
    fn commit(&mut self, event: Arc<Event>) -> Event {
        self.index += 1;
        debug_assert_eq!(self.index, event.node.modified);
        self.dirty.events.insert(self.index);
        self.dirty.events.extend(self.history.push(Arc::clone(&event)));
        if !event.refresh {
            self.hub.tell(&event);
        }
        Event::clone(&event)
    }
}
