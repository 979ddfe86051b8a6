//! All versions of one key: the newest inline, of older ones only the revision.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

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
    pub(crate) rev: Rev,
    pub(crate) tombstone: bool,
    pub(crate) create: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

impl Version {
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
            mod_revision: self.rev.main,
            version: self.version,
            lease: self.lease,
        }
    }

    /// As history records it.
    pub(crate) fn change<'a>(&self, key: &'a [u8], value: &'a [u8]) -> ChangeRef<'a> {
        let &Self { rev, tombstone, create, version, lease, .. } = self;
        ChangeRef { rev, tombstone, key, value, create, version, lease }
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
    /// Changes before the newest, ascending; the flag marks tombstones.
    older: Vec<PackedRev>,
    /// Read since the eviction hand last passed.
    referenced: AtomicBool,
}

impl KeyEntry {
    pub(crate) fn new(newest: Version) -> Self {
        Self { newest, older: Vec::new(), referenced: AtomicBool::new(false) }
    }

    /// Makes `version` the newest and returns the one before.
    pub(crate) fn replace(&mut self, version: Version) -> Version {
        assert!(self.newest.rev < version.rev, "revisions of a key only grow");
        if self.older.len() == self.older.capacity() {
            // Less slack than doubling: there is one such list for every key.
            self.older.reserve_exact((self.older.len() / 2).max(2));
        }
        self.older.push(PackedRev::new(self.newest.rev, self.newest.tombstone));
        std::mem::replace(&mut self.newest, version)
    }

    pub(crate) fn is_live(&self) -> bool {
        !self.newest.tombstone
    }

    /// What is visible at `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Found<'_> {
        if self.newest.rev.main <= revision {
            return if self.is_live() { Found::Newest(&self.newest) } else { Found::None };
        }
        match self.older_at(revision) {
            Some(packed) if !packed.flag() => Found::Older(packed.rev()),
            _ => Found::None,
        }
    }

    fn older_at(&self, revision: Revision) -> Option<PackedRev> {
        let after = self.older.partition_point(|packed| packed.main() <= revision);
        after.checked_sub(1).and_then(|at| self.older.get(at)).copied()
    }

    /// The newest change at or below `revision`, and whether it is a tombstone.
    pub(crate) fn change_at(&self, revision: Revision) -> Option<(Rev, bool)> {
        if self.newest.rev.main <= revision {
            return Some((self.newest.rev, self.newest.tombstone));
        }
        self.older_at(revision).map(|packed| (packed.rev(), packed.flag()))
    }

    /// Drops what a compaction at `revision` drops, reporting each. True where nothing is left.
    ///
    /// Kept is every change above `revision`, and the newest at or below it unless that is a
    /// tombstone from before `revision`.
    pub(crate) fn compact(&mut self, revision: Revision, mut dropped: impl FnMut(Rev)) -> bool {
        let Some((kept, tombstone)) = self.change_at(revision) else { return false };
        let drop_kept = tombstone && kept.main < revision;
        let is_dropped = |rev: Rev| rev < kept || (drop_kept && rev == kept);
        let count = self.older.iter().take_while(|packed| is_dropped(packed.rev())).count();
        for packed in self.older.drain(..count) {
            dropped(packed.rev());
        }
        if self.older.capacity() > self.older.len() * 2 {
            self.older.shrink_to_fit();
        }
        if is_dropped(self.newest.rev) {
            dropped(self.newest.rev);
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
