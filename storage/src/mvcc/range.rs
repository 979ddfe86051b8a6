//! Reads with every option of etcd's `RangeRequest`.

use std::{cmp::Ordering, ops::Bound};

use bytes::Bytes;

use super::{
    Answer, End, Store,
    entry::{Found, KeyEntry, Version},
};
use crate::{
    Error, KeyValue, Rejected, Revision,
    command::{Range, RangeResponse},
    types::{KeyRange, Rev},
};

/// `RangeRequest.SortOrder` numbers.
const ORDER_NONE: i32 = 0;
const ORDER_ASCEND: i32 = 1;
const ORDER_DESCEND: i32 = 2;

/// `RangeRequest.SortTarget` numbers.
const TARGET_KEY: i32 = 0;
const TARGET_VERSION: i32 = 1;
const TARGET_CREATE: i32 = 2;
const TARGET_MOD: i32 = 3;
const TARGET_VALUE: i32 = 4;

/// True where sort order and target are ones that etcd knows.
pub(crate) fn is_known_sort(order: i32, target: i32) -> bool {
    (ORDER_NONE..=ORDER_DESCEND).contains(&order) && (TARGET_KEY..=TARGET_VALUE).contains(&target)
}

/// Part of a large read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangePage {
    /// Pairs in key order.
    pub kvs: Vec<KeyValue>,
    /// Key to go on from; `None` at the end of the range.
    pub next: Option<Bytes>,
}

/// One pair found; its value may have to be read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hit<'a> {
    Newest(&'a [u8], &'a Version),
    Older(Rev),
}

impl Store {
    /// Answers `range`. `current` is the revision that headers show; the newest versions in the
    /// index are those visible at it.
    pub(crate) fn range(&self, range: &Range, current: Revision) -> Answer<RangeResponse> {
        if !is_known_sort(range.sort_order, range.sort_target) {
            return Ok(Err(Rejected::InvalidSortOption));
        }
        let at = match self.check_revision(range.revision, current) {
            Ok(at) => at,
            Err(rejected) => return Ok(Err(rejected)),
        };
        let (start, end) = (Bound::Included(&range.key[..]), End::new(&range.range_end));
        let mut response = RangeResponse { revision: current, ..RangeResponse::default() };
        let fetched_max = fetched_max(range);

        let mut hits = Vec::new();
        let mut count = 0_usize;
        for (key, entry) in self.index.range(start, end) {
            let Some(hit) = hit(key, entry, at) else { continue };
            count += 1;
            if !range.count_only && hits.len() < fetched_max {
                hits.push(hit);
                entry.touch();
            }
        }
        response.count = i64::try_from(count).unwrap_or(i64::MAX);
        if range.count_only {
            return Ok(Ok(response));
        }
        self.select(range, hits, &mut response)?;
        Ok(Ok(response))
    }

    /// Filters, sorts and cuts `hits` into `response`.
    fn select(
        &self,
        range: &Range,
        hits: Vec<Hit<'_>>,
        response: &mut RangeResponse,
    ) -> Result<(), Error> {
        let limit = usize::try_from(range.limit).ok().filter(|&limit| limit > 0);
        let mut kvs = if is_filtered(range) || !range.keys_only || sort_key(range).is_some() {
            self.resolve_hits(&hits)?
        } else {
            self.resolve_keys(&hits)?
        };
        if is_filtered(range) {
            kvs.retain(|kv| passes(range, kv));
        }
        if let Some((target, descend)) = sort_key(range) {
            let compare = |a: &KeyValue, b: &KeyValue| compare(target, a, b);
            // Stable both ways: equal ones stay in key order.
            kvs.sort_by(|a, b| if descend { compare(b, a) } else { compare(a, b) });
        }
        if let Some(limit) = limit.filter(|&limit| limit < kvs.len()) {
            kvs.truncate(limit);
            response.more = true;
        }
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
            }
        }
        response.kvs = kvs;
        Ok(())
    }

    /// The revision to read at.
    pub(crate) fn check_revision(
        &self,
        asked: Revision,
        current: Revision,
    ) -> Result<Revision, Rejected> {
        if asked > current {
            return Err(Rejected::FutureRevision);
        }
        let at = if asked <= 0 { current } else { asked };
        if at < self.compact_revision {
            return Err(Rejected::Compacted { compact_revision: self.compact_revision });
        }
        Ok(at)
    }

    /// Up to `keys_max` pairs of `range` at `revision` (0 and below: now), from `from_key` on
    /// (empty: from the start of the range).
    pub(crate) fn range_page(
        &self,
        range: &KeyRange,
        revision: Revision,
        from_key: &[u8],
        keys_max: usize,
    ) -> Answer<RangePage> {
        let at = match self.check_revision(revision, self.revision) {
            Ok(at) => at,
            Err(rejected) => return Ok(Err(rejected)),
        };
        let end = End::new(&range.end);
        let start = if from_key <= &range.key[..] { &range.key[..] } else { from_key };
        if end == End::Single && start != &range.key[..] {
            return Ok(Ok(RangePage::default()));
        }
        let mut hits = Vec::new();
        let mut next = None;
        for (key, entry) in self.index.range(Bound::Included(start), end) {
            let Some(hit) = hit(key, entry, at) else { continue };
            if hits.len() >= keys_max.max(1) {
                next = Some(Bytes::copy_from_slice(key));
                break;
            }
            hits.push(hit);
        }
        Ok(Ok(RangePage { kvs: self.resolve_hits(&hits)?, next }))
    }

    /// The pairs of newest versions, reading values that are not in memory.
    pub(crate) fn resolve<'a>(
        &self,
        newest: impl Iterator<Item = (&'a [u8], &'a Version)>,
    ) -> Result<Vec<KeyValue>, Error> {
        let hits: Vec<_> = newest.map(|(key, version)| Hit::Newest(key, version)).collect();
        self.resolve_hits(&hits)
    }

    fn resolve_hits(&self, hits: &[Hit<'_>]) -> Result<Vec<KeyValue>, Error> {
        let mut kvs = Vec::with_capacity(hits.len());
        let mut wanted = Vec::new();
        for (at, hit) in hits.iter().enumerate() {
            let (held, rev) = match *hit {
                Hit::Newest(key, version) => (version.key_value(key.len()), version.rev()),
                Hit::Older(rev) => (None, rev),
            };
            if held.is_none() {
                wanted.push((rev, at));
            }
            kvs.push(held.unwrap_or_default());
        }
        // In order of revision, so that a block of history is read once.
        wanted.sort_unstable();
        let mut places = wanted.iter().map(|&(_, at)| at);
        self.history.get_many(wanted.iter().map(|&(rev, _)| rev), |_, kv| {
            if let Some(place) = places.next().and_then(|at| kvs.get_mut(at)) {
                *place = kv;
            }
        })?;
        Ok(kvs)
    }

    /// As [`Self::resolve_hits`] without values: newest versions cost no read.
    fn resolve_keys(&self, hits: &[Hit<'_>]) -> Result<Vec<KeyValue>, Error> {
        let mut kvs = Vec::with_capacity(hits.len());
        let mut older = Vec::new();
        for (at, hit) in hits.iter().enumerate() {
            match *hit {
                Hit::Newest(key, version) => kvs.push(match version.key_value(key.len()) {
                    Some(kv) => kv,
                    None => KeyValue { key: Bytes::copy_from_slice(key), ..version.without_data() },
                }),
                Hit::Older(_) => {
                    kvs.push(KeyValue::default());
                    older.push((at, *hit));
                }
            }
        }
        let hits: Vec<_> = older.iter().map(|&(_, hit)| hit).collect();
        for ((at, _), kv) in older.iter().zip(self.resolve_hits(&hits)?) {
            if let Some(place) = kvs.get_mut(*at) {
                *place = kv;
            }
        }
        Ok(kvs)
    }
}

pub(super) fn hit<'a>(key: &'a [u8], entry: &'a KeyEntry, at: Revision) -> Option<Hit<'a>> {
    match entry.at(at) {
        Found::None => None,
        Found::Newest(version) => Some(Hit::Newest(key, version)),
        Found::Older(rev) => Some(Hit::Older(rev)),
    }
}

/// How many pairs in key order the answer is made from. Without order and filters that is one
/// more than the limit, also where a sort target is named: etcd then sorts just these.
fn fetched_max(range: &Range) -> usize {
    if range.limit <= 0 || range.sort_order != ORDER_NONE || is_filtered(range) {
        return usize::MAX;
    }
    usize::try_from(range.limit).unwrap_or(usize::MAX).saturating_add(1)
}

pub(super) fn is_filtered(range: &Range) -> bool {
    range.min_mod_revision != 0
        || range.max_mod_revision != 0
        || range.min_create_revision != 0
        || range.max_create_revision != 0
}

fn passes(range: &Range, kv: &KeyValue) -> bool {
    let within = |at: Revision, min: Revision, max: Revision| {
        (min == 0 || at >= min) && (max == 0 || at <= max)
    };
    within(kv.mod_revision, range.min_mod_revision, range.max_mod_revision)
        && within(kv.create_revision, range.min_create_revision, range.max_create_revision)
}

/// Sort target and whether descending; `None` where key order is the answer's order. A target
/// other than the key without an order means ascending.
pub(super) fn sort_key(range: &Range) -> Option<(i32, bool)> {
    match (range.sort_order, range.sort_target) {
        (ORDER_NONE | ORDER_ASCEND, TARGET_KEY) => None,
        (order, target) => Some((target, order == ORDER_DESCEND)),
    }
}

fn compare(target: i32, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        TARGET_VERSION => a.version.cmp(&b.version),
        TARGET_CREATE => a.create_revision.cmp(&b.create_revision),
        TARGET_MOD => a.mod_revision.cmp(&b.mod_revision),
        TARGET_VALUE => a.value.cmp(&b.value),
        _ => a.key.cmp(&b.key),
    }
}
