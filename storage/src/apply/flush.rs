//! Writing behind: what is applied reaches the engine in large atomic batches.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    StateMachine,
    open::{FORMAT, encode_mark},
    tables::Rows,
};
use crate::{
    Error, Revision,
    engine::{Engine, WriteBatch},
    etcd::Backup,
    history::{ALL_DROPPED, Block, BlockBuilder, ChangeRef, DeadSet, History},
    keys::{self, rev_key},
    mvcc::compact::{Step, is_sparse},
    snapshot::{Export, Header},
    types::Rev,
};

/// Stored blocks that one flush rewrites at most: bounds its memory and time, as the engine
/// holds all pages of a batch until its end.
const REWRITE_BLOCKS_MAX: usize = 32;
/// Stored blocks that one flush removes at most.
const REMOVE_BLOCKS_MAX: usize = 64;

/// What compaction leaves to do in the engine.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    /// A pass over the index is complete: what it dropped is to be written.
    pass_is_done: bool,
    /// Blocks with nothing left, listed as such in the engine.
    empty: BTreeSet<Rev>,
    /// Blocks worth rewriting.
    sparse: BTreeSet<Rev>,
    /// A flush is under way.
    flushing: bool,
    /// The engine knows its layout.
    format_is_stored: bool,
}

/// A block to be replaced: what was dropped from it when the flush began.
#[derive(Debug)]
struct Source {
    first: Rev,
    dead: DeadSet,
    /// No block that stays lies between this one and the source before it.
    joins_previous: bool,
}

/// Changes on their way to the engine; made under the write lock, written without it.
#[derive(Debug)]
pub struct Flush {
    index: u64,
    blocks: Vec<Arc<Block>>,
    rows: Rows,
    /// Neighbouring sparse blocks to be merged.
    sources: Vec<Source>,
    /// Whole blocks that this flush removes.
    removed: Vec<Rev>,
    /// What the sources were merged into, known once written.
    merged: Mutex<Vec<Block>>,
}

impl Flush {
    /// Writes the batch (without waiting for the disk). Call `engine.sync()` now and then:
    /// only then may the log be purged up to `index()`.
    ///
    /// # Errors
    /// [`Error`]: the node must stop.
    pub fn write(&self, engine: &dyn Engine) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        for block in &self.blocks {
            batch.appends.push((rev_key(keys::HISTORY, block.first()), block.bytes().clone()));
        }
        for (key, row) in &self.rows {
            batch.writes.push((key.clone(), row.clone()));
        }
        let merged = self.merge(engine)?;
        for source in &self.sources {
            batch.writes.push((rev_key(keys::HISTORY, source.first), None));
            batch.writes.push((rev_key(keys::DEAD, source.first), None));
        }
        for block in &merged {
            batch
                .writes
                .push((rev_key(keys::HISTORY, block.first()), Some(block.bytes().to_vec())));
        }
        engine.write(batch)?;
        *self.merged.lock().unwrap_or_else(PoisonError::into_inner) = merged;
        Ok(())
    }

    /// Log index up to which the data is applied in this flush.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    fn merge(&self, engine: &dyn Engine) -> Result<Vec<Block>, Error> {
        let mut merged = Vec::new();
        let mut builder = BlockBuilder::default();
        for source in &self.sources {
            let Some(block) = History::load(engine, source.first)? else { continue };
            if !source.joins_previous {
                merged.extend(builder.take());
            }
            for at in 0..block.len() {
                let change = block.at(at)?;
                if source.dead.contains(change.rev) {
                    continue;
                }
                if builder.is_full() || builder.is_beyond(change.rev) {
                    merged.extend(builder.take());
                }
                builder.push(change);
            }
        }
        merged.extend(builder.take());
        Ok(merged)
    }
}

impl StateMachine {
    /// Moves what is pending into a flush; the data stays readable. `None`: nothing to do, or
    /// a flush is under way.
    pub fn begin_flush(&mut self) -> Option<Flush> {
        if self.maintenance.flushing {
            return None;
        }
        let mut rows = self.tables.take_dirty();
        self.v2.take_dirty(|key, row| drop(rows.insert(key, row)));
        let stored_below = self.store.history.unflushed_from();
        let removed = self.take_empty(&mut rows);
        self.write_dropped(&mut rows);
        let sources = self.take_sparse(stored_below);
        let blocks = self.store.history.begin_flush();
        let is_idle = blocks.is_empty() && rows.is_empty() && sources.is_empty();
        if is_idle && !self.mark_is_new {
            return None;
        }
        if !self.maintenance.format_is_stored {
            rows.insert(keys::FORMAT_ROW.to_vec(), Some(vec![FORMAT]));
        }
        if let Some(mark) = self.mark.as_ref().filter(|_| self.mark_is_new) {
            rows.insert(keys::MARK_ROW.to_vec(), Some(encode_mark(mark)));
        }
        self.mark_is_new = false;
        self.maintenance.flushing = true;
        let index = self.mark.as_ref().map_or(0, |mark| mark.index);
        Some(Flush { index, blocks, rows, sources, removed, merged: Mutex::default() })
    }

    /// Rows that list what a pass of compaction dropped, all of them in one batch: where a
    /// tombstone is dropped, older versions of its key must not come back. Only then may
    /// blocks be removed or rewritten, a few with each flush.
    fn write_dropped(&mut self, rows: &mut Rows) {
        if !std::mem::take(&mut self.maintenance.pass_is_done) {
            return;
        }
        for first in self.store.history.take_touched() {
            let Some(info) = self.store.history.blocks.get(&first) else { continue };
            let is_empty = info.dead.len() >= info.count as usize;
            let row = if is_empty { ALL_DROPPED.to_vec() } else { info.dead.encode() };
            rows.insert(rev_key(keys::DEAD, first), Some(row));
            self.note_dropped(first);
        }
    }

    /// Queues a block for removal or rewriting where it is worth that; its list is stored.
    pub(super) fn note_dropped(&mut self, first: Rev) {
        let Some(info) = self.store.history.blocks.get(&first) else { return };
        if info.dead.len() >= info.count as usize {
            self.maintenance.sparse.remove(&first);
            self.maintenance.empty.insert(first);
        } else if is_sparse(info.count, &info.dead) {
            self.maintenance.sparse.insert(first);
        }
    }

    fn take_empty(&mut self, rows: &mut Rows) -> Vec<Rev> {
        let mut removed = Vec::new();
        while removed.len() < REMOVE_BLOCKS_MAX {
            let Some(first) = self.maintenance.empty.pop_first() else { break };
            rows.insert(rev_key(keys::HISTORY, first), None);
            rows.insert(rev_key(keys::DEAD, first), None);
            removed.push(first);
        }
        removed
    }

    fn take_sparse(&mut self, stored_below: Rev) -> Vec<Source> {
        let mut sources: Vec<Source> = Vec::new();
        if self.is_pinned() {
            return sources;
        }
        let blocks = &self.store.history.blocks;
        while sources.len() < REWRITE_BLOCKS_MAX {
            let Some(&first) = self.maintenance.sparse.first() else { break };
            if first >= stored_below {
                break;
            }
            self.maintenance.sparse.remove(&first);
            let Some(info) = blocks.get(&first) else { continue };
            let before = blocks.range(..first).next_back().map(|(&before, _)| before);
            let joins_previous =
                before.is_some() && before == sources.last().map(|source| source.first);
            sources.push(Source { first, dead: info.dead.clone(), joins_previous });
        }
        sources
    }

    /// The flush reached the engine: memory may let go of it.
    pub fn end_flush(&mut self, flush: Flush) {
        let history = &mut self.store.history;
        history.end_flush(flush.blocks.len());
        for first in &flush.removed {
            history.blocks.remove(first);
        }
        // What was dropped from the sources since the flush began.
        let mut late = Vec::new();
        for source in &flush.sources {
            if let Some(info) = history.blocks.remove(&source.first) {
                late.extend(info.dead.iter().filter(|&rev| !source.dead.contains(rev)));
            }
        }
        for block in flush.merged.into_inner().unwrap_or_else(PoisonError::into_inner) {
            history.note(&block, DeadSet::default());
        }
        for rev in late {
            history.mark_dead(rev);
        }
        if !(flush.removed.is_empty() && flush.sources.is_empty()) {
            history.forget_cached();
        }
        self.maintenance.flushing = false;
        self.maintenance.format_is_stored = true;
        let unflushed = self.store.history.unflushed_from();
        self.store.index.evict(self.options.cache_bytes, unflushed);
    }

    /// Bytes applied but not yet handed to the engine.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.store.history.pending_bytes() + self.tables.dirty_bytes() + self.v2.dirty_bytes()
    }

    /// Prunes up to `keys_max` keys of compacted history; true when more is left. While an
    /// export or a hash is alive nothing is pruned. The engine follows with the flushes after it.
    ///
    /// # Errors
    /// [`Error`]: the node must stop.
    pub fn compact_step(&mut self, keys_max: usize) -> Result<bool, Error> {
        if self.is_pinned() {
            return Ok(false);
        }
        Ok(self.prune(keys_max))
    }

    pub(super) fn prune(&mut self, keys_max: usize) -> bool {
        match self.store.prune_step(&mut self.pruning, keys_max) {
            Step::Idle => false,
            Step::More => true,
            Step::PassDone => {
                self.maintenance.pass_is_done = true;
                self.pruning.is_behind(self.store.compact_revision)
            }
        }
    }

    pub(crate) fn is_pinned_by(&self, pin: &Arc<()>) -> bool {
        Arc::ptr_eq(&self.pin, pin)
    }

    fn is_pinned(&self) -> bool {
        Arc::strong_count(&self.pin) > 1
    }

    /// Begins to write the whole state out, as of now. See [`Export`].
    pub fn export(&mut self) -> Export {
        // So that all of it lies in blocks that do not change any more.
        self.store.history.seal();
        let header = Header {
            revision: self.store.revision,
            compact_revision: self.store.compact_revision,
            mark: self.mark.clone(),
        };
        let mut rows = self.tables.rows(self.store.compact_revision);
        for lease in self.store.leases.iter() {
            if let Some(row) = self.store.leases.row(lease.id) {
                rows.push((keys::lease_key(lease.id), row));
            }
        }
        rows.extend(self.auth.rows());
        rows.extend(self.v2.rows());
        Export::new(header, rows, Arc::clone(&self.pin))
    }

    /// Begins to write the whole state out as an etcd backend, as of now. See [`Backup`].
    pub fn backup(&mut self) -> Backup {
        self.store.history.seal();
        Backup::new(self, self.auth.to_backend(), Arc::clone(&self.pin))
    }

    /// Blocks of history that wait to be removed or rewritten in the engine; 0 while an export
    /// or a hash keeps them.
    #[must_use]
    pub fn maintenance_left(&self) -> usize {
        let Maintenance { empty, sparse, pass_is_done, .. } = &self.maintenance;
        if self.is_pinned() { 0 } else { empty.len() + sparse.len() + usize::from(*pass_is_done) }
    }

    pub(crate) fn is_kept(&self, change: &ChangeRef<'_>, compact_revision: Revision) -> bool {
        self.store.is_kept(change, compact_revision)
    }

    pub(crate) fn history_block(&self, from: Rev) -> Result<Option<Arc<Block>>, Error> {
        self.store.history.next_block(from)
    }

    pub(crate) fn is_dropped(&self, rev: Rev) -> bool {
        self.store.history.is_dead(rev)
    }
}
