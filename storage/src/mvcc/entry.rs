//! All versions of one key: the newest inline, of older ones only the revision.
//!
//! One of these is in memory for every key, so its size counts: it is one of the allocator's.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::older::Older;
use crate::{
    KeyValue, LeaseId, Revision,
    history::ChangeRef,
    types::{PackedRev, Rev},
};

/// The newest change of a key.
#[derive(Debug, Default)]
pub(crate) struct Version {
    /// Key and value in one allocation; `None` for a tombstone, and where the value was put
    /// out of memory (history has it).
    pub(crate) data: Option<Bytes>,
    /// Its revision; the flag marks a tombstone.
    change: PackedRev,
    pub(crate) create: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

impl Version {
    /// The version that `change` makes, its value in memory where `data` is given.
    pub(crate) fn new(change: &ChangeRef<'_>, data: Option<Bytes>) -> Self {
        let &ChangeRef { rev, tombstone, create, version, lease, .. } = change;
        Self { data, change: PackedRev::new(rev, tombstone), create, version, lease }
    }

    pub(crate) fn rev(&self) -> Rev {
        self.change.rev()
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.change.flag()
    }

    /// As clients see it; `None` where the value is not in memory.
    pub(crate) fn key_value(&self, key_len: usize) -> Option<KeyValue> {
        self.data.as_ref().map(|data| self.with_data(data.clone(), key_len))
    }

    /// As clients see it, giving up this version; `None` where the value is not in memory.
    pub(crate) fn into_key_value(mut self, key_len: usize) -> Option<KeyValue> {
        let data = self.data.take()?;
        Some(self.with_data(data, key_len))
    }

    fn with_data(&self, mut data: Bytes, key_len: usize) -> KeyValue {
        let value = data.split_off(key_len.min(data.len()));
        KeyValue { key: data, value, ..self.without_data() }
    }

    /// All but key and value.
    pub(crate) fn without_data(&self) -> KeyValue {
        KeyValue {
            key: Bytes::new(),
            value: Bytes::new(),
            create_revision: self.create,
            mod_revision: self.change.main(),
            version: self.version,
            lease: self.lease,
        }
    }

    pub(crate) fn data_len(&self) -> u64 {
        self.data.as_ref().map_or(0, |data| data.len() as u64)
    }
}

/// What a read at some revision finds.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// Not yet there, deleted, or compacted.
    None,
    /// The newest version, a live one.
    Newest(&'a Version),
    /// An older live version, in history.
    Older(Rev),
}

/// See the module. Never empty: a key without versions is not in the index.
#[derive(Debug)]
pub(crate) struct KeyEntry {
    pub(crate) newest: Version,
    /// Changes before the newest.
    older: Older,
    /// Read since the eviction hand last passed.
    referenced: AtomicBool,
}

// 112 bytes is a size of the allocator, the next one is 128.
const _: () = assert!(size_of::<KeyEntry>() <= 112);

impl KeyEntry {
    pub(crate) fn new(newest: Version) -> Self {
        Self { newest, older: Older::default(), referenced: AtomicBool::new(false) }
    }

    /// Makes `version` the newest and returns the one before.
    pub(crate) fn replace(&mut self, version: Version) -> Version {
        self.older.push((self.newest.rev(), self.newest.is_tombstone()), version.rev());
        std::mem::replace(&mut self.newest, version)
    }

    pub(crate) fn is_live(&self) -> bool {
        !self.newest.is_tombstone()
    }

    /// What is visible at `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Found<'_> {
        if self.newest.change.main() <= revision {
            return if self.is_live() { Found::Newest(&self.newest) } else { Found::None };
        }
        match self.older.at(revision, self.newest.rev()) {
            Some((rev, false)) => Found::Older(rev),
            _ => Found::None,
        }
    }

    /// The newest change at or below `revision`, and whether it is a tombstone.
    pub(crate) fn change_at(&self, revision: Revision) -> Option<(Rev, bool)> {
        if self.newest.change.main() <= revision {
            return Some((self.newest.rev(), self.newest.is_tombstone()));
        }
        self.older.at(revision, self.newest.rev())
    }

    /// Drops what a compaction at `revision` drops, reporting each. True where nothing is left.
    ///
    /// Kept is every change above `revision`, and the newest at or below it unless that is a
    /// tombstone from before `revision`.
    pub(crate) fn compact(&mut self, revision: Revision, mut dropped: impl FnMut(Rev)) -> bool {
        let Some((kept, tombstone)) = self.change_at(revision) else { return false };
        let drop_kept = tombstone && kept.main < revision;
        let is_dropped = |rev: Rev| rev < kept || (drop_kept && rev == kept);
        let newest = self.newest.rev();
        self.older.drop_oldest(newest, is_dropped, &mut dropped);
        if is_dropped(newest) {
            dropped(newest);
            return true;
        }
        false
    }

    pub(crate) fn touch(&self) {
        if !self.referenced.load(Ordering::Relaxed) {
            self.referenced.store(true, Ordering::Relaxed);
        }
    }

    /// Clears the mark of a read; true where there was one.
    pub(crate) fn untouch(&mut self) -> bool {
        std::mem::take(self.referenced.get_mut())
    }
}
