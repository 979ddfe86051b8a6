//! Which keys there are, and where their versions are.
//!
//! Invariants:
//! - a key stays here until compaction drops its last change, deleted or not;
//! - `cached_bytes` is the sum of keys and values of newest versions held in memory.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

use super::{
    End,
    entry::{KeyEntry, Version},
    key::Key,
};
use crate::types::Rev;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Entries are boxed: a third and more of the places in the map's nodes is free.
    keys: BTreeMap<Key, Box<KeyEntry>>,
    pub(crate) cached_bytes: u64,
    /// Where the eviction hand stands.
    hand: Option<Box<[u8]>>,
}

/// Keys the eviction hand looks at in one go.
const EVICT_STEP_KEYS: usize = 4096;
/// Keys it looks at in one call at most: the caller holds the write lock.
const EVICT_KEYS_MAX: usize = 1 << 16;

impl Index {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.keys.get(key).map(|entry| &**entry)
    }

    /// The entry of `key` where it is live.
    pub(crate) fn live(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.get(key).filter(|entry| entry.is_live())
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Makes `version` the newest of `key`; returns the one before.
    pub(crate) fn insert(&mut self, key: &[u8], version: Version) -> Option<Version> {
        self.cached_bytes += version.data_len();
        if let Some(entry) = self.keys.get_mut(key) {
            let before = entry.replace(version);
            self.cached_bytes -= before.data_len();
            return Some(before);
        }
        self.keys.insert(Key::from(key), Box::new(KeyEntry::new(version)));
        None
    }

    /// Makes what `make` returns the newest version of `key`, given the present one where the
    /// key is live; returns the one before. As [`Self::insert`], in one look-up.
    pub(crate) fn update<E>(
        &mut self,
        key: &[u8],
        make: impl FnOnce(Option<&Version>) -> Result<Version, E>,
    ) -> Result<Option<Version>, E> {
        let Some(entry) = self.keys.get_mut(key) else {
            let version = make(None)?;
            self.cached_bytes += version.data_len();
            self.keys.insert(Key::from(key), Box::new(KeyEntry::new(version)));
            return Ok(None);
        };
        let version = make(Some(&entry.newest).filter(|newest| !newest.is_tombstone()))?;
        self.cached_bytes += version.data_len();
        let before = entry.replace(version);
        self.cached_bytes -= before.data_len();
        Ok(Some(before))
    }

    /// Entries of a range in key order; `start` may be beyond the range's first key.
    pub(crate) fn range<'a>(
        &'a self,
        start: Bound<&'a [u8]>,
        end: End<'a>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a KeyEntry)> + use<'a> {
        let first = match start {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => &[],
        };
        let bounds = match end {
            End::Single => (start, Bound::Included(first)),
            End::Open => (start, Bound::Unbounded),
            End::At(end) => (start, Bound::Excluded(end)),
        };
        let is_empty = match bounds {
            (Bound::Excluded(_), Bound::Included(_)) => true,
            (_, Bound::Excluded(end)) => end <= first,
            _ => false,
        };
        let range =
            if is_empty { btree_map::Range::default() } else { self.keys.range::<[u8], _>(bounds) };
        range.map(|(key, entry)| (&**key, &**entry))
    }

    /// All entries in key order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &KeyEntry)> {
        self.keys.iter().map(|(key, entry)| (&**key, &**entry))
    }

    /// Visits up to `max` entries from `from` on and removes those for which `drop` says so.
    /// Returns the key to go on from, `None` at the end.
    pub(crate) fn retain_step(
        &mut self,
        from: Bound<&[u8]>,
        max: usize,
        mut drop: impl FnMut(&[u8], &mut KeyEntry) -> bool,
    ) -> Option<Box<[u8]>> {
        let mut gone = Vec::new();
        let mut next = None;
        let range = self.keys.range_mut::<[u8], _>((from, Bound::Unbounded));
        for (at, (key, entry)) in range.enumerate() {
            if at == max {
                next = Some(Box::from(&**key));
                break;
            }
            if drop(key, entry) {
                gone.push(key.clone());
            }
        }
        for key in gone {
            if let Some(entry) = self.keys.remove(&*key) {
                self.cached_bytes -= entry.newest.data_len();
            }
        }
        next
    }

    /// Puts values out of memory until at most `budget` bytes are held, sparing those read
    /// since the hand last passed. Only versions below `unflushed` can go. Bounded work: what a
    /// call does not reach is left to the next one.
    pub(crate) fn evict(&mut self, budget: u64, unflushed: Rev) {
        let mut seen = 0;
        let seen_max = EVICT_KEYS_MAX.min(self.keys.len() * 2);
        while self.cached_bytes > budget && seen < seen_max {
            let hand = self.hand.take();
            let from = hand.as_deref().map_or(Bound::Unbounded, Bound::Included);
            let mut freed = 0;
            let cached = self.cached_bytes;
            self.hand = self.retain_step(from, EVICT_STEP_KEYS, |_, entry| {
                seen += 1;
                let over = cached - freed > budget;
                if over && entry.newest.rev() < unflushed && !entry.untouch() {
                    freed += entry.newest.data_len();
                    entry.newest.data = None;
                }
                false
            });
            self.cached_bytes -= freed;
        }
    }
}
