//! Dropping history, and hashing what is kept.
//!
//! A compaction counts from the moment it is applied: reads below it are refused, and hashes and
//! watchers see only what it keeps. The index and the history on disk follow in small steps.
//!
//! Kept by a compaction at C: every change above C, and of each key the newest at or below C,
//! unless that is a tombstone from before C (one at C itself is kept, so that a watch from C
//! sees the delete).

use std::ops::Bound;

use super::{Store, entry::KeyEntry};
use crate::{
    Error, Rejected, Revision,
    command::Compact,
    etcd::{
        bucket,
        wire::{put_change, put_rev_key},
    },
    history::{ChangeRef, DeadSet, next_rev},
    types::Rev,
};

/// How far the index has followed the compact revision.
#[derive(Debug, Default)]
pub(crate) struct Pruning {
    /// The compaction being followed, and where in the index.
    pass: Option<(Revision, Box<[u8]>)>,
    /// Compact revision that the whole index has followed.
    done: Revision,
}

impl Pruning {
    /// True where a pass is under way or due.
    pub(crate) fn is_behind(&self, compact_revision: Revision) -> bool {
        self.pass.is_some() || self.done < compact_revision
    }
}

/// Outcome of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing was left to do.
    Idle,
    /// More keys are to be visited.
    More,
    /// The whole index follows the compact revision now.
    PassDone,
}

impl Store {
    /// Sets the compact revision.
    pub(crate) fn compact(&mut self, compact: Compact) -> Result<(), Rejected> {
        if compact.revision <= self.compact_revision {
            return Err(Rejected::Compacted { compact_revision: self.compact_revision });
        }
        if compact.revision > self.revision {
            return Err(Rejected::FutureRevision);
        }
        self.compact_revision = compact.revision;
        Ok(())
    }

    /// Drops compacted changes of up to `keys_max` keys from the index.
    pub(crate) fn prune_step(&mut self, pruning: &mut Pruning, keys_max: usize) -> Step {
        if !pruning.is_behind(self.compact_revision) {
            return Step::Idle;
        }
        let (revision, from) =
            pruning.pass.take().unwrap_or_else(|| (self.compact_revision, Box::default()));
        let Self { index, history, .. } = self;
        let next = index.retain_step(Bound::Included(&from), keys_max.max(1), |_, entry| {
            entry.compact(revision, |rev| history.mark_dead(rev))
        });
        match next {
            Some(next) => {
                pruning.pass = Some((revision, next));
                Step::More
            }
            None => {
                pruning.done = revision;
                Step::PassDone
            }
        }
    }

    /// True where a compaction at `compact_revision`, the present one or an earlier one that
    /// pruning has not gone beyond, keeps `change`.
    pub(crate) fn is_kept(&self, change: &ChangeRef<'_>, compact_revision: Revision) -> bool {
        if change.rev.main > compact_revision {
            return true;
        }
        if change.tombstone && change.rev.main < compact_revision {
            return false;
        }
        // A key that is gone from the index had only dropped changes.
        let entry = self.index.get(change.key);
        let kept = entry.and_then(|entry| entry.change_at(compact_revision));
        kept.is_some_and(|(rev, _)| rev == change.rev)
    }

    /// Begins a hash at `revision` (0: now).
    pub(crate) fn begin_hash(&self, revision: Revision) -> Result<Hashing, Rejected> {
        let compact_revision = self.compact_revision;
        if revision > 0 && revision < compact_revision {
            return Err(Rejected::Compacted { compact_revision });
        }
        if revision > self.revision {
            return Err(Rejected::FutureRevision);
        }
        let revision = if revision == 0 { self.revision } else { revision };
        // As etcd: where no key is live at the revision, nothing counts as scheduled to go.
        let has_live = self.index.iter().any(|(_, entry)| is_live_at(entry, revision));
        let hash = crc32c::crc32c(bucket::KEY);
        let (from, scratch) = (Rev::default(), Vec::new());
        Ok(Hashing { revision, compact_revision, has_live, from, hash, scratch })
    }

    /// True where etcd's hash has `change`: from the compact revision down only what is visible
    /// at the revision hashed.
    fn is_hashed(&self, change: &ChangeRef<'_>, hashing: &Hashing) -> bool {
        if change.rev.main > hashing.compact_revision {
            return true;
        }
        if !hashing.has_live {
            // A delete at the compact revision is kept for watchers alone.
            return !change.tombstone && self.is_kept(change, hashing.compact_revision);
        }
        let newest = self.index.get(change.key).and_then(|entry| entry.change_at(hashing.revision));
        newest.is_some_and(|(rev, tombstone)| rev == change.rev && !tombstone)
    }

    /// Hashes up to `changes_max` more changes; true at the end.
    pub(crate) fn hash_step(&self, hashing: &mut Hashing, changes_max: u64) -> Result<bool, Error> {
        let mut seen = 0;
        let mut done = true;
        let mut next = hashing.from;
        self.history.scan(hashing.from, |change| {
            if change.rev.main > hashing.revision {
                return Ok(false);
            }
            if seen >= changes_max.max(1) {
                done = false;
                return Ok(false);
            }
            seen += 1;
            next = next_rev(change.rev);
            if self.is_hashed(&change, hashing) {
                hashing.add(&change);
            }
            Ok(true)
        })?;
        hashing.from = next;
        Ok(done)
    }
}

/// etcd's HashKV under way: CRC-32C over the name of the bucket `key` and the pairs that etcd
/// stores there for the changes up to a revision, so equal to etcd's own for equal histories. The
/// same on every member that has the same revision and compact revision.
#[derive(Debug)]
pub(crate) struct Hashing {
    pub(crate) revision: Revision,
    pub(crate) compact_revision: Revision,
    /// Some key is live at `revision`.
    has_live: bool,
    from: Rev,
    pub(crate) hash: u32,
    /// A pair as etcd stores it.
    scratch: Vec<u8>,
}

impl Hashing {
    fn add(&mut self, change: &ChangeRef<'_>) {
        self.scratch.clear();
        put_rev_key(&mut self.scratch, change.rev, change.tombstone);
        put_change(&mut self.scratch, change);
        self.hash = crc32c::crc32c_append(self.hash, &self.scratch);
    }
}

fn is_live_at(entry: &KeyEntry, revision: Revision) -> bool {
    entry.change_at(revision).is_some_and(|(_, tombstone)| !tombstone)
}

/// True where a block has so few live changes that it is worth rewriting.
pub(crate) fn is_sparse(count: u32, dead: &DeadSet) -> bool {
    dead.len() * 4 >= count as usize * 3
}
