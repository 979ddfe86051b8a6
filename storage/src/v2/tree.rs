//! Nodes by path, their deadlines, and reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{
    Action, Error, ErrorCode, Event, FIRST_INDEX, NodeView, PATH_DEPTH_MAX, Watch,
    history::History,
    hub::{Hub, Interest},
    path,
};

const ROOT: Bytes = Bytes::from_static(b"/");
const NS_OF_S: i64 = 1_000_000_000;
/// What a node costs beyond its path and value, in bytes.
const NODE_OVERHEAD_BYTES: u64 = 128;

/// What a node is.
#[derive(Debug)]
pub(super) enum Data {
    File(Bytes),
    /// Names of its children.
    Dir(BTreeSet<Bytes>),
}

impl Data {
    pub(super) fn empty_dir() -> Self {
        Self::Dir(BTreeSet::new())
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) data: Data,
    pub(super) modified: u64,
    pub(super) created: u64,
    pub(super) expires_ns: Option<i64>,
}

impl Node {
    pub(super) fn is_dir(&self) -> bool {
        matches!(self.data, Data::Dir(_))
    }

    pub(super) fn has_children(&self) -> bool {
        matches!(&self.data, Data::Dir(children) if !children.is_empty())
    }

    /// The value; empty for a directory.
    pub(super) fn value(&self) -> Bytes {
        match &self.data {
            Data::File(value) => value.clone(),
            Data::Dir(_) => Bytes::new(),
        }
    }

    fn value_len(&self) -> u64 {
        match &self.data {
            Data::File(value) => value.len() as u64,
            Data::Dir(_) => 0,
        }
    }

    /// The node without its children.
    pub(super) fn view(&self, path: &Bytes, now_ns: i64) -> NodeView {
        NodeView {
            key: shown(path),
            value: if self.is_dir() { None } else { Some(self.value()) },
            dir: self.is_dir(),
            expires_ns: self.expires_ns,
            ttl_s: ttl_s(self.expires_ns, now_ns),
            nodes: Vec::new(),
            modified: self.modified,
            created: self.created,
        }
    }
}

/// The root has no name towards clients.
pub(super) fn shown(path: &Bytes) -> Bytes {
    if path.len() > 1 { path.clone() } else { Bytes::new() }
}

/// Seconds left, rounded up; 0 without a deadline.
pub(super) fn ttl_s(expires_ns: Option<i64>, now_ns: i64) -> i64 {
    let Some(expires_ns) = expires_ns else { return 0 };
    let left = expires_ns.saturating_sub(now_ns);
    left / NS_OF_S + i64::from(left % NS_OF_S > 0)
}

/// What the engine does not have yet.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) nodes: BTreeSet<Bytes>,
    pub(super) events: BTreeSet<u64>,
    pub(super) bytes: u64,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.events.is_empty()
    }
}

/// How often what was asked since this member started; etcd's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "etcd's own names")]
pub struct Stats {
    pub gets: [u64; 2],
    pub sets: [u64; 2],
    pub deletes: [u64; 2],
    pub updates: [u64; 2],
    pub creates: [u64; 2],
    pub swaps: [u64; 2],
    pub compare_deletes: [u64; 2],
    pub expired: u64,
    pub watchers: usize,
}

/// See the module's parent.
#[derive(Debug)]
pub struct Tree {
    pub(super) nodes: BTreeMap<Bytes, Node>,
    /// Nodes by deadline.
    due: BTreeSet<(i64, Bytes)>,
    pub(super) index: u64,
    pub(super) history: History,
    pub(super) hub: Arc<Hub>,
    pub(super) dirty: Dirty,
    /// Of paths and values, about.
    bytes: u64,
    pub(super) stats: Stats,
    gets: [AtomicU64; 2],
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { data: Data::empty_dir(), modified: 0, created: 0, expires_ns: None };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            due: BTreeSet::new(),
            index: FIRST_INDEX,
            history: History::default(),
            hub: Arc::default(),
            dirty: Dirty::default(),
            bytes: 0,
            stats: Stats::default(),
            gets: Default::default(),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.hub.close();
    }
}

impl Tree {
    /// Index of the last change.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Bytes of paths and values, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The nearest deadline, in nanoseconds since 1970.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<i64> {
        self.due.first().map(|(expires_ns, _)| *expires_ns)
    }

    /// How often what was asked.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let gets = [0, 1].map(|at: usize| self.gets[at].load(Ordering::Relaxed));
        Stats { gets, watchers: self.hub.watchers(), ..self.stats }
    }

    /// The node at `key`; of a directory the children that are not hidden too, and with
    /// `recursive` what lies below them.
    ///
    /// # Errors
    /// [`ErrorCode::KeyNotFound`], [`ErrorCode::NotDir`].
    pub fn get(&self, key: &[u8], recursive: bool, now_ns: i64) -> Result<Event, Error> {
        let path = path::clean(key);
        let node = self.find(&path);
        self.gets[usize::from(node.is_err())].fetch_add(1, Ordering::Relaxed);
        let mut view = node?.view(&path, now_ns);
        view.nodes = self.children(&path, recursive, now_ns);
        Ok(Event { action: Action::Get, node: view, prev: None, refresh: false })
    }

    /// The children of `folder`. Depth is bounded by [`PATH_DEPTH_MAX`].
    fn children(&self, folder: &Bytes, recursive: bool, now_ns: i64) -> Vec<NodeView> {
        let Some(Data::Dir(names)) = self.nodes.get(folder).map(|node| &node.data) else {
            return Vec::new();
        };
        let child = |name: &Bytes| {
            let path = path::join(folder, name);
            let mut view = self.nodes.get(&path)?.view(&path, now_ns);
            if recursive && view.dir {
                view.nodes = self.children(&path, true, now_ns);
            }
            Some(view)
        };
        names.iter().filter(|name| !path::is_hidden(name)).filter_map(child).collect()
    }

    /// A watcher of `key`, and of what lies below it if `recursive`: of the next event, or with
    /// `stream` of all. `wait_index` 0: from now on; otherwise the first event at or after it,
    /// which may be a past one.
    ///
    /// # Errors
    /// [`ErrorCode::EventIndexCleared`] where the past asked for is gone,
    /// [`ErrorCode::RaftInternal`] where there are [`super::WATCHERS_MAX`] watchers.
    pub fn watch(
        &self,
        key: &[u8],
        recursive: bool,
        stream: bool,
        wait_index: u64,
    ) -> Result<Watch, Error> {
        let path = path::clean(key);
        let since = if wait_index == 0 { self.index + 1 } else { wait_index };
        let past = self.history.find(&path, recursive, since);
        let past = past.map_err(|error| Error { index: self.index, ..error })?;
        let interest = Interest { path, recursive, stream, since };
        self.hub.add(interest, past, self.index).ok_or_else(|| {
            self.error(ErrorCode::RaftInternal, "too many clients wait already: try again later")
        })
    }

    pub(super) fn error(&self, code: ErrorCode, cause: impl Into<Bytes>) -> Error {
        Error { code, cause: cause.into(), index: self.index }
    }

    /// The node at a tidy path. An error names the first part that is missing or no directory.
    pub(super) fn find(&self, path: &[u8]) -> Result<&Node, Error> {
        if let Some(node) = self.nodes.get(path) {
            return Ok(node);
        }
        for prefix in path::prefixes(path) {
            let copy = || Bytes::copy_from_slice(prefix);
            match self.nodes.get(prefix) {
                None => return Err(self.error(ErrorCode::KeyNotFound, copy())),
                Some(node) if !node.is_dir() => return Err(self.error(ErrorCode::NotDir, copy())),
                Some(_) => {}
            }
        }
        Err(self.error(ErrorCode::KeyNotFound, Bytes::copy_from_slice(path)))
    }

    /// Makes the folders of a tidy path that are missing.
    pub(super) fn make_folders(&mut self, path: &[u8]) -> Result<(), Error> {
        if path::depth(path) > PATH_DEPTH_MAX {
            let cause = format!("a key has at most {PATH_DEPTH_MAX} parts");
            return Err(self.error(ErrorCode::InvalidField, cause));
        }
        let index = self.index + 1;
        for prefix in path::prefixes(path::split(path).0) {
            let prefix = Bytes::copy_from_slice(prefix);
            match self.nodes.get(&prefix) {
                Some(node) if node.is_dir() => {}
                Some(_) => return Err(self.error(ErrorCode::NotDir, prefix)),
                None => {
                    let data = Data::empty_dir();
                    let node = Node { data, modified: index, created: index, expires_ns: None };
                    self.insert(prefix, node);
                }
            }
        }
        Ok(())
    }

    fn touch(&mut self, path: &Bytes, value_len: u64) {
        self.dirty.bytes += path.len() as u64 + value_len;
        self.dirty.nodes.insert(path.clone());
    }

    /// Adds a node to its folder, which is there, where no such node is.
    pub(super) fn insert(&mut self, path: Bytes, node: Node) {
        let (folder, name) = path::split(&path);
        if let Some(Data::Dir(names)) = self.nodes.get_mut(folder).map(|node| &mut node.data) {
            names.insert(Bytes::copy_from_slice(name));
        }
        if let Some(expires_ns) = node.expires_ns {
            self.due.insert((expires_ns, path.clone()));
        }
        self.touch(&path, node.value_len());
        self.bytes += cost(&path, &node);
        let replaced = self.nodes.insert(path, node);
        assert!(replaced.is_none(), "a node is removed before it is replaced");
    }

    /// Takes a node without children out.
    pub(super) fn remove(&mut self, path: &Bytes) {
        let Some(node) = self.nodes.remove(path) else { return };
        debug_assert!(!node.has_children());
        let (folder, name) = path::split(path);
        if let Some(Data::Dir(names)) = self.nodes.get_mut(folder).map(|node| &mut node.data) {
            names.remove(name);
        }
        if let Some(expires_ns) = node.expires_ns {
            self.due.remove(&(expires_ns, path.clone()));
        }
        self.touch(path, 0);
        self.bytes -= cost(path, &node);
    }

    /// A node and everything below it, children before their folder.
    pub(super) fn below(&self, top: &Bytes) -> Vec<Bytes> {
        let mut found = vec![top.clone()];
        let mut at = 0;
        while let Some(path) = found.get(at).cloned() {
            if let Some(Data::Dir(names)) = self.nodes.get(&path).map(|node| &node.data) {
                found.extend(names.iter().map(|name| path::join(&path, name)));
            }
            at += 1;
        }
        found.reverse();
        found
    }

    /// Writes a value (of a file) and a deadline into a node that is there.
    pub(super) fn rewrite(&mut self, path: &Bytes, value: Option<Bytes>, expires_ns: Option<i64>) {
        let index = self.index + 1;
        let Some(node) = self.nodes.get_mut(path) else { return };
        let before = cost(path, node);
        if let Some(value) = value {
            node.data = Data::File(value);
            node.modified = index;
        }
        let old = std::mem::replace(&mut node.expires_ns, expires_ns);
        let (after, len) = (cost(path, node), node.value_len());
        self.bytes = self.bytes + after - before;
        if let Some(old) = old {
            self.due.remove(&(old, path.clone()));
        }
        if let Some(expires_ns) = expires_ns {
            self.due.insert((expires_ns, path.clone()));
        }
        self.touch(path, len);
    }

    /// The path of a node whose deadline is not after `cutoff_ns`, the earliest first.
    pub(super) fn next_due(&self, cutoff_ns: i64) -> Option<Bytes> {
        let (expires_ns, path) = self.due.first()?;
        (*expires_ns <= cutoff_ns).then(|| path.clone())
    }
}

fn cost(path: &Bytes, node: &Node) -> u64 {
    NODE_OVERHEAD_BYTES + 2 * path.len() as u64 + node.value_len()
}
