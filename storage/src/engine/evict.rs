//! Makes sled let go of pages that it keeps against its cache size.
//!
//! sled divides its pages over 256 shards by their number. It notes the accesses of a shard in a
//! queue of 64, compares the shard with its share of the cache size only when the queue is full,
//! and never lets go of the page used last. A page with nine blocks of history has 64 KB: one a
//! shard is 16 MB, and those whose accesses wait in the queues come on top.
//!
//! So there is a second tree, of tiny pages, enough for one in every shard. Reading each of them
//! until the queues have been full leaves a tiny page as the one used last, and the large ones go.
//! The tree is made when it is first needed; a store without it is whole, and so is one whose
//! tree does not reach every shard, because sled gave it used page numbers: some pages stay then.

use std::sync::{
    Mutex, TryLockError,
    atomic::{AtomicU64, Ordering},
};

use super::sled::collect_garbage;

/// Name of the tree.
const TREE: &str = "tiny pages";
/// sled splits a full page of a growing tree so that this many pairs stay in it.
const KEYS_PER_PAGE: u16 = 9;
/// Pages of the tree: the shards, and some more because the tree's inner pages take numbers too.
const PAGES: u16 = 256 + 28;
/// Reads of each: the length of a queue, and the one that finds it full.
const READS_PER_PAGE: usize = 65;

/// Bytes of records read or written after which pages are let go. Takes some 5 ms of CPU.
const BYTES: u64 = 16 << 20;
/// The same at a sync: what a member that rests has in memory.
const BYTES_AT_SYNC: u64 = 1 << 20;

/// See the module.
pub(super) struct Evictor {
    db: sled::Db,
    tree: Mutex<Option<sled::Tree>>,
    /// Bytes of records read or written since the last time.
    used_bytes: AtomicU64,
}

impl Evictor {
    pub(super) fn new(db: sled::Db) -> Self {
        Self { db, tree: Mutex::default(), used_bytes: AtomicU64::new(0) }
    }

    /// Notes `bytes` of records read or written; lets go of pages where that is much by now.
    pub(super) fn note(&self, bytes: usize) -> sled::Result<()> {
        let used_bytes = self.used_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if used_bytes + bytes as u64 >= BYTES { self.evict() } else { Ok(()) }
    }

    /// Lets go of pages where that is worth it before a rest.
    pub(super) fn synced(&self) -> sled::Result<()> {
        let is_worth_it = self.used_bytes.load(Ordering::Relaxed) >= BYTES_AT_SYNC;
        if is_worth_it { self.evict() } else { Ok(()) }
    }

    fn evict(&self) -> sled::Result<()> {
        // One at a time; another thread's is as good.
        let mut tree = match self.tree.try_lock() {
            Ok(tree) => tree,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        self.used_bytes.store(0, Ordering::Relaxed);
        if tree.is_none() {
            *tree = Some(open_tree(&self.db)?);
        }
        let Some(tree) = &*tree else { return Ok(()) };
        for page in 0..PAGES {
            let key = (page * KEYS_PER_PAGE).to_be_bytes();
            for _ in 0..READS_PER_PAGE {
                tree.get(key)?;
            }
        }
        collect_garbage(usize::from(PAGES));
        Ok(())
    }
}

fn open_tree(db: &sled::Db) -> sled::Result<sled::Tree> {
    let tree = db.open_tree(TREE)?;
    let keys = PAGES * KEYS_PER_PAGE;
    if !tree.contains_key((keys - 1).to_be_bytes())? {
        let mut batch = sled::Batch::default();
        for key in 0..keys {
            batch.insert(&key.to_be_bytes(), &[]);
        }
        tree.apply_batch(batch)?;
    }
    Ok(tree)
}
