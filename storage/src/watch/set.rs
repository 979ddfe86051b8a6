//! The watchers that a key concerns.

use std::collections::{BTreeMap, BTreeSet};

use super::interval::IntervalMap;
use crate::types::KeyRange;

/// Watchers by the keys they watch. `Id` is whatever names a watcher to the caller.
///
/// Cost: single keys O(log n); ranges O(log n + matches) in the number of distinct ranges,
/// expected.
#[derive(Debug)]
pub struct WatcherSet<Id> {
    ranges_of: BTreeMap<Id, KeyRange>,
    singles: BTreeMap<Box<[u8]>, BTreeSet<Id>>,
    ranges: IntervalMap<BTreeSet<Id>>,
}

impl<Id> Default for WatcherSet<Id> {
    fn default() -> Self {
        Self {
            ranges_of: BTreeMap::new(),
            singles: BTreeMap::new(),
            ranges: IntervalMap::default(),
        }
    }
}

impl<Id: Ord + Clone> WatcherSet<Id> {
    /// Adds a watcher, in place of one of the same id.
    pub fn insert(&mut self, id: Id, range: KeyRange) {
        self.remove(&id);
        if range.end.is_empty() {
            self.singles.entry(Box::from(&range.key[..])).or_default().insert(id.clone());
        } else if !range.is_empty() {
            self.ranges.get_or_default(&range.key, open_end(&range)).insert(id.clone());
        }
        self.ranges_of.insert(id, range);
    }

    /// Removes a watcher; false where there was none.
    pub fn remove(&mut self, id: &Id) -> bool {
        let Some(range) = self.ranges_of.remove(id) else { return false };
        if range.end.is_empty() {
            if let Some(ids) = self.singles.get_mut(&range.key[..]) {
                ids.remove(id);
                if ids.is_empty() {
                    self.singles.remove(&range.key[..]);
                }
            }
        } else if !range.is_empty() {
            let ids = self.ranges.get_or_default(&range.key, open_end(&range));
            ids.remove(id);
            if ids.is_empty() {
                self.ranges.remove(&range.key, open_end(&range));
            }
        }
        true
    }

    /// What a watcher watches.
    #[must_use]
    pub fn range(&self, id: &Id) -> Option<&KeyRange> {
        self.ranges_of.get(id)
    }

    /// Calls `each` for every watcher of `key`, each once, in no particular order.
    pub fn matches(&self, key: &[u8], mut each: impl FnMut(&Id)) {
        if let Some(ids) = self.singles.get(key) {
            ids.iter().for_each(&mut each);
        }
        self.ranges.stab(key, &mut |ids: &BTreeSet<Id>| ids.iter().for_each(&mut each));
    }

    /// Number of watchers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges_of.len()
    }

    /// True without watchers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges_of.is_empty()
    }
}

/// The exclusive end; `None` for no end.
fn open_end(range: &KeyRange) -> Option<&[u8]> {
    Some(&range.end[..]).filter(|end| *end != b"\0")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn range(key: &[u8], end: &[u8]) -> KeyRange {
        KeyRange { key: Bytes::copy_from_slice(key), end: Bytes::copy_from_slice(end) }
    }

    fn matches(set: &WatcherSet<u32>, key: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        set.matches(key, |id| found.push(*id));
        found.sort_unstable();
        found
    }

    #[test]
    fn keys_ranges_and_open_ranges_match_as_etcd_reads_them() {
        let mut set = WatcherSet::default();
        set.insert(1, range(b"a", b""));
        set.insert(2, range(b"a", b"c"));
        set.insert(3, range(b"b", b"\0"));
        set.insert(4, range(b"c", b"a"));
        set.insert(5, range(b"a", b"c"));
        assert_eq!(matches(&set, b"a"), [1, 2, 5]);
        assert_eq!(matches(&set, b"b"), [2, 3, 5]);
        assert_eq!(matches(&set, b"c"), [3]);
        assert_eq!(matches(&set, b"\xff\xff"), [3]);
        assert!(set.remove(&2) && !set.remove(&2));
        set.insert(1, range(b"z", b""));
        assert_eq!(matches(&set, b"a"), [5]);
        assert_eq!(set.len(), 4);
    }

    proptest! {
        #[test]
        fn the_set_agrees_with_asking_every_watcher(
            steps in prop::collection::vec(
                (0_u32..24, prop::collection::vec(0_u8..4, 1..4),
                 prop::collection::vec(0_u8..4, 0..4), any::<bool>()),
                1..120),
            probes in prop::collection::vec(prop::collection::vec(0_u8..4, 1..4), 1..20),
        ) {
            let mut set = WatcherSet::default();
            let mut all: BTreeMap<u32, KeyRange> = BTreeMap::new();
            for (id, key, end, insert) in steps {
                if insert {
                    set.insert(id, range(&key, &end));
                    all.insert(id, range(&key, &end));
                } else {
                    prop_assert_eq!(set.remove(&id), all.remove(&id).is_some());
                }
                for probe in &probes {
                    let want: Vec<u32> = (all.iter())
                        .filter(|(_, range)| range.contains(probe))
                        .map(|(id, _)| *id)
                        .collect();
                    prop_assert_eq!(matches(&set, probe), want);
                }
            }
        }
    }
}
