//! Every change ever made and not yet compacted away, in revision order.
//!
//! Changes are encoded into a [`block`] as they are applied. A full block is sealed and waits in
//! memory until a flush hands it to the engine: one engine record holds many changes.
//!
//! Invariants:
//! - blocks are disjoint and ordered: every change of a block is below the first of the next;
//! - a block in the engine is replaced or deleted only by compaction, never extended;
//! - a change stays readable from the moment it is pushed until compaction drops it.

pub(crate) mod block;
mod dead;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

pub(crate) use self::{
    block::{Block, Builder as BlockBuilder, ChangeRef},
    dead::{ALL_DROPPED, DeadSet},
};
use crate::{
    Error, KeyValue,
    engine::Engine,
    keys::{self, corrupt, rev_key},
    types::Rev,
};

/// Decoded engine blocks kept for neighbouring reads.
const CACHED_BLOCKS_MAX: usize = 8;

/// What is remembered of a block in the engine or on its way there.
#[derive(Debug)]
pub(crate) struct BlockInfo {
    /// Changes in it.
    pub(crate) count: u32,
    /// Bytes of it.
    pub(crate) bytes: u32,
    /// Changes that compaction dropped.
    pub(crate) dead: DeadSet,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    engine: Arc<dyn Engine>,
    /// The block being filled.
    building: BlockBuilder,
    /// Full blocks that are not known to be in the engine, ascending.
    sealed: Vec<Arc<Block>>,
    /// How many of `sealed`, from the front, a flush has taken.
    flushing: usize,
    /// Bytes in `sealed` beyond `flushing`.
    sealed_bytes: u64,
    /// All sealed and stored blocks by first change.
    pub(crate) blocks: BTreeMap<Rev, BlockInfo>,
    /// Blocks from which changes were dropped since the last [`Self::take_touched`].
    touched: BTreeSet<Rev>,
    /// Recently read engine blocks, latest last.
    cache: Mutex<Vec<Arc<Block>>>,
    /// Bytes of all live changes, about (dead ones count at their block's average).
    pub(crate) live_bytes: u64,
}

impl History {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            building: BlockBuilder::default(),
            sealed: Vec::new(),
            flushing: 0,
            sealed_bytes: 0,
            blocks: BTreeMap::new(),
            touched: BTreeSet::new(),
            cache: Mutex::new(Vec::new()),
            live_bytes: 0,
        }
    }

    /// Adds a change; revisions only grow.
    pub(crate) fn push(&mut self, change: ChangeRef<'_>) {
        self.live_bytes += self.building.push(change);
        if self.building.is_full() {
            self.seal();
        }
    }

    /// Closes the block being filled.
    pub(crate) fn seal(&mut self) {
        let Some(block) = self.building.take() else { return };
        self.sealed_bytes += block.bytes().len() as u64;
        self.note(&block, DeadSet::default());
        self.sealed.push(Arc::new(block));
    }

    /// Registers a sealed or stored block.
    pub(crate) fn note(&mut self, block: &Block, dead: DeadSet) {
        let info = BlockInfo {
            count: u32::try_from(block.len()).unwrap_or(u32::MAX),
            bytes: u32::try_from(block.bytes().len()).unwrap_or(u32::MAX),
            dead,
        };
        self.blocks.insert(block.first(), info);
    }

    /// Registers a block found in the engine at open.
    pub(crate) fn note_stored(&mut self, block: &Block, dead: DeadSet) {
        let bytes = block.bytes().len() as u64;
        let count = block.len().max(1) as u64;
        self.live_bytes += bytes.saturating_sub(bytes / count * dead.len() as u64);
        self.note(block, dead);
    }

    /// Blocks from which changes were dropped since the last call.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<Rev> {
        std::mem::take(&mut self.touched)
    }

    /// Bytes pushed and not yet taken by a flush.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.sealed_bytes + self.building.bytes()
    }

    /// Revisions below this one are in the engine; values at them may leave memory.
    pub(crate) fn unflushed_from(&self) -> Rev {
        let building = self.building.first().unwrap_or(Rev { main: i64::MAX, sub: u32::MAX });
        self.sealed.first().map_or(building, |block| block.first())
    }

    /// Hands everything pending to a flush; it stays readable until [`Self::end_flush`].
    pub(crate) fn begin_flush(&mut self) -> Vec<Arc<Block>> {
        self.seal();
        let taken = self.sealed[self.flushing..].to_vec();
        self.flushing = self.sealed.len();
        self.sealed_bytes = 0;
        taken
    }

    /// The first `count` blocks that flushes hold are in the engine now.
    pub(crate) fn end_flush(&mut self, count: usize) {
        let count = count.min(self.flushing);
        self.sealed.drain(..count);
        self.flushing -= count;
    }

    /// The version written at exactly `rev`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not there: the index said it is.
    pub(crate) fn get(&self, rev: Rev) -> Result<KeyValue, Error> {
        let mut found = None;
        self.get_many(std::iter::once(rev), |_, kv| found = Some(kv))?;
        found.ok_or_else(|| missing(rev))
    }

    /// As [`Self::get`] for many; each block is read once where `revs` ascend.
    pub(crate) fn get_many(
        &self,
        revs: impl Iterator<Item = Rev>,
        mut found: impl FnMut(Rev, KeyValue),
    ) -> Result<(), Error> {
        let mut current: Option<Arc<Block>> = None;
        for rev in revs {
            if self.building.covers(rev) {
                let change = self.building.get(rev).ok_or_else(|| missing(rev))?;
                found(rev, change.to_key_value());
                continue;
            }
            let block = match current.take().filter(|block| block.covers(rev)) {
                Some(block) => block,
                None => self.block_at(rev)?.ok_or_else(|| missing(rev))?,
            };
            let change = block.get(rev)?.ok_or_else(|| missing(rev))?;
            found(rev, block.key_value(change));
            current = Some(block);
        }
        Ok(())
    }

    /// The sealed or stored block that would hold `rev`.
    fn block_at(&self, rev: Rev) -> Result<Option<Arc<Block>>, Error> {
        let after = self.sealed.partition_point(|block| block.first() <= rev);
        if let Some(block) = after.checked_sub(1).and_then(|at| self.sealed.get(at)) {
            return Ok(Some(Arc::clone(block)));
        }
        self.stored_block_at(rev)
    }

    fn stored_block_at(&self, rev: Rev) -> Result<Option<Arc<Block>>, Error> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().position(|block| block.covers(rev)) {
            let block = cache.remove(at);
            cache.push(Arc::clone(&block));
            return Ok(Some(block));
        }
        drop(cache);
        let key = rev_key(keys::HISTORY, rev);
        let Some((key, bytes)) = self.engine.last_at_or_below(&key)? else { return Ok(None) };
        if key.first() != Some(&keys::HISTORY) {
            return Ok(None);
        }
        let block = Arc::new(Block::decode(keys::rev_of_key(&key)?, bytes)?);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_BLOCKS_MAX {
            cache.remove(0);
        }
        cache.push(Arc::clone(&block));
        Ok(Some(block))
    }

    /// Drops what was read from engine blocks that are being replaced.
    pub(crate) fn forget_cached(&self) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The sealed or stored block with the first change at or after `from`; it may begin
    /// before. `None`: only the block being filled can have any.
    pub(crate) fn next_block(&self, from: Rev) -> Result<Option<Arc<Block>>, Error> {
        if self.sealed.first().is_none_or(|block| from < block.first()) {
            if let Some(block) = self.stored_block_at(from)?.filter(|block| block.last() >= from) {
                return Ok(Some(block));
            }
            if let Some(block) = Self::load_page(&*self.engine, from, 1)?.pop() {
                return Ok(Some(Arc::new(block)));
            }
        }
        let at = self.sealed.partition_point(|block| block.last() < from);
        Ok(self.sealed.get(at).cloned())
    }

    /// Changes from `from` on that are physically there, in order, until `each` returns false.
    pub(crate) fn scan(
        &self,
        mut from: Rev,
        mut each: impl FnMut(ChangeRef<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        while let Some(block) = self.next_block(from)? {
            for at in block.position(from)..block.len() {
                if !each(block.at(at)?)? {
                    return Ok(());
                }
            }
            from = next_rev(block.last());
        }
        for change in self.building.changes(self.building.position(from)) {
            if !each(change)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// True where compaction dropped the change at `rev`.
    pub(crate) fn is_dead(&self, rev: Rev) -> bool {
        let block = self.blocks.range(..=rev).next_back();
        block.is_some_and(|(_, info)| info.dead.contains(rev))
    }

    /// Notes that compaction dropped the change at `rev`. The block must be sealed.
    pub(crate) fn mark_dead(&mut self, rev: Rev) {
        if self.building.covers(rev) {
            self.seal();
        }
        let Some((&first, info)) = self.blocks.range_mut(..=rev).next_back() else { return };
        let share = u64::from(info.bytes / info.count.max(1));
        if info.dead.insert(rev) {
            self.touched.insert(first);
            self.live_bytes = self.live_bytes.saturating_sub(share);
        }
    }

    /// A stored block.
    pub(crate) fn load(engine: &dyn Engine, first: Rev) -> Result<Option<Block>, Error> {
        let bytes = engine.get(&rev_key(keys::HISTORY, first))?;
        bytes.map(|bytes| Block::decode(first, bytes)).transpose()
    }

    /// Blocks in the engine, `max` of them, whose first change is at or after `from`.
    pub(crate) fn load_page(
        engine: &dyn Engine,
        from: Rev,
        max: usize,
    ) -> Result<Vec<Block>, Error> {
        let key = rev_key(keys::HISTORY, from);
        let end = [keys::HISTORY + 1];
        let range = (Bound::Included(&key[..]), Bound::Excluded(&end[..]));
        let rows: Vec<(Bytes, Bytes)> = engine.scan(range, max)?;
        rows.into_iter().map(|(key, bytes)| Block::decode(keys::rev_of_key(&key)?, bytes)).collect()
    }
}

/// The least revision above `rev`.
pub(crate) fn next_rev(rev: Rev) -> Rev {
    match rev.sub.checked_add(1) {
        Some(sub) => Rev { main: rev.main, sub },
        None => Rev { main: rev.main.saturating_add(1), sub: 0 },
    }
}

fn missing(rev: Rev) -> Error {
    corrupt(format!("history at {}.{}", rev.main, rev.sub), "the index names it and it is gone")
}
