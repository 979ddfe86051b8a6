//! The changes of a key before its newest, in a few bytes each.
//!
//! A change is stored as its distance to the change after it. So the list is read from the newest
//! end down, adding needs no look at what is there, and compaction cuts bytes off the front.
//!
//! ```text
//! a change, last byte first: more u1 | tombstone u1 | sub u1 | low 5 bits of the distance
//!                            varint of the rest of the distance, where there is more
//!                            varint of the change's sub revision, where it is not 0
//! ```
//! Changes are added to a tail. A full one becomes a run, with the revision that its distances
//! count from, so a look-up is a binary search and a walk over one run: logarithmic however many
//! changes a key has.
//!
//! Invariant: revisions ascend over runs, tail and the newest change, which the caller keeps.

use crate::{Revision, types::Rev};

/// Bytes of records after which a tail becomes a run.
const RUN_BYTES: usize = 128;
/// Bytes of one record at most: distance in 1 + 9, sub revision in 5.
const RECORD_BYTES_MAX: usize = 15;
/// Room is made in steps that are sizes of the allocator.
const GROWTH_BYTES: usize = 16;

const MORE: u8 = 1 << 7;
const TOMBSTONE: u8 = 1 << 6;
const SUB: u8 = 1 << 5;
const LOW_BITS: u32 = 5;

/// One change: its revision, and whether it is a tombstone.
type Change = (Rev, bool);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Older {
    tail: Vec<u8>,
    /// Most keys have none.
    runs: Option<Box<Runs>>,
}

#[derive(Debug, Default)]
struct Runs(Vec<Run>);

/// A full tail.
#[derive(Debug)]
struct Run {
    /// The change after it, which its distances count from.
    next: Rev,
    records: Box<[u8]>,
}

impl Run {
    fn walk(&self) -> Walk<'_> {
        Walk { records: &self.records, next: self.next }
    }
}

impl Older {
    /// Adds a change that `next` replaces.
    pub(super) fn push(&mut self, (rev, tombstone): Change, next: Rev) {
        assert!(rev < next, "revisions of a key only grow");
        let mut record = [0; RECORD_BYTES_MAX];
        let record = encode(&mut record, rev, tombstone, next);
        let needed = self.tail.len() + record.len();
        if needed > self.tail.capacity() {
            // Less slack than doubling: there is one such list for every key.
            self.tail.reserve_exact(needed.next_multiple_of(GROWTH_BYTES) - self.tail.len());
        }
        self.tail.extend_from_slice(record);
        if self.tail.len() >= RUN_BYTES {
            let records = std::mem::take(&mut self.tail).into_boxed_slice();
            self.runs.get_or_insert_default().0.push(Run { next, records });
        }
    }

    /// The newest change at or below `revision`, which must be below that of `newest`, the change
    /// after all of these.
    pub(super) fn at(&self, revision: Revision, newest: Rev) -> Option<Change> {
        let runs = self.runs();
        let mut walk = Walk { records: &self.tail, next: newest };
        if runs.last().is_some_and(|run| run.next.main > revision) {
            // The change after a run is the first of the one behind it, or of the tail.
            let run = runs.partition_point(|run| run.next.main <= revision);
            walk = runs.get(run)?.walk();
        }
        walk.find(|(rev, _)| rev.main <= revision)
    }

    /// Drops the changes that `is_dropped`, which are the oldest ones, and reports them in
    /// ascending order; `newest` is the change after all of these.
    pub(super) fn drop_oldest(
        &mut self,
        newest: Rev,
        is_dropped: impl Fn(Rev) -> bool,
        mut dropped: impl FnMut(Rev),
    ) {
        let mut gone = Vec::new();
        let mut whole = 0;
        for run in self.runs.iter_mut().flat_map(|runs| &mut runs.0) {
            let cut = cut(run.walk(), &is_dropped, &mut gone);
            gone.drain(..).rev().for_each(&mut dropped);
            if cut < run.records.len() {
                run.records = Box::from(run.records.get(cut..).unwrap_or_default());
                break;
            }
            whole += 1;
        }
        let kept = self.runs().len() - whole;
        if let Some(runs) = &mut self.runs {
            runs.0.drain(..whole);
            if runs.0.capacity() > runs.0.len() * 2 {
                runs.0.shrink_to_fit();
            }
        }
        if kept > 0 {
            return;
        }
        self.runs = None;
        let walk = Walk { records: &self.tail, next: newest };
        let cut = cut(walk, &is_dropped, &mut gone);
        gone.drain(..).rev().for_each(&mut dropped);
        if cut > 0 {
            self.tail = self.tail.get(cut..).map(Vec::from).unwrap_or_default();
        }
    }

    fn runs(&self) -> &[Run] {
        self.runs.as_ref().map_or(&[], |runs| &runs.0)
    }

    /// Bytes of memory that the list takes beside itself.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let runs = self
            .runs
            .as_ref()
            .map_or(0, |runs| size_of::<Runs>() + runs.0.capacity() * size_of::<Run>());
        let records: usize = self.runs().iter().map(|run| run.records.len()).sum();
        self.tail.capacity() + runs + records
    }
}

/// Walks down to the first change that is dropped and collects it and those before it, in
/// descending order; returns where the records of the others begin.
fn cut(mut walk: Walk<'_>, is_dropped: impl Fn(Rev) -> bool, gone: &mut Vec<Rev>) -> usize {
    loop {
        let end = walk.records.len();
        match walk.next() {
            None => return 0,
            Some((rev, _)) if is_dropped(rev) => {
                gone.push(rev);
                gone.extend(walk.map(|(rev, _)| rev));
                return end;
            }
            Some(_) => {}
        }
    }
}

/// Changes from the newest down.
#[derive(Clone, Debug)]
struct Walk<'a> {
    records: &'a [u8],
    next: Rev,
}

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.records.split_last()?;
        self.records = rest;
        Some(byte)
    }

    /// A varint whose first group has weight 2 to the power of `shift`.
    fn varint(&mut self, mut shift: u32) -> Option<u64> {
        let mut value = 0;
        loop {
            let byte = self.byte()?;
            value |= u64::from(byte & !MORE).checked_shl(shift)?;
            if byte & MORE == 0 {
                return Some(value);
            }
            shift += 7;
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        let head = self.byte()?;
        let mut distance = u64::from(head & ((1 << LOW_BITS) - 1));
        if head & MORE != 0 {
            distance |= self.varint(LOW_BITS)?;
        }
        let sub = if head & SUB == 0 { 0 } else { u32::try_from(self.varint(0)?).ok()? };
        self.next = Rev { main: self.next.main.wrapping_sub_unsigned(distance), sub };
        Some((self.next, head & TOMBSTONE != 0))
    }
}

/// The record of a change, made at the end of `space`.
fn encode(space: &mut [u8; RECORD_BYTES_MAX], rev: Rev, tombstone: bool, next: Rev) -> &[u8] {
    let distance = next.main.wrapping_sub(rev.main).cast_unsigned();
    let mut start = RECORD_BYTES_MAX;
    let mut put = |byte: u8| {
        start -= 1;
        space[start] = byte;
    };
    let rest = distance >> LOW_BITS;
    let head = u8::try_from(distance & ((1 << LOW_BITS) - 1)).unwrap_or_default()
        | if rest == 0 { 0 } else { MORE }
        | if tombstone { TOMBSTONE } else { 0 }
        | if rev.sub == 0 { 0 } else { SUB };
    put(head);
    if rest != 0 {
        put_varint(rest, &mut put);
    }
    if rev.sub != 0 {
        put_varint(rev.sub.into(), &mut put);
    }
    &space[start..]
}

fn put_varint(mut value: u64, put: &mut impl FnMut(u8)) {
    loop {
        let group = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        put(if value == 0 { group } else { group | MORE });
        if value == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the list must do, done plainly: all changes, ascending, the newest last.
    #[derive(Default)]
    struct Model(Vec<Change>);

    impl Model {
        fn older(&self) -> &[Change] {
            self.0.split_last().map_or(&[], |(_, older)| older)
        }

        fn at(&self, revision: Revision) -> Option<Change> {
            self.older().iter().rev().find(|(rev, _)| rev.main <= revision).copied()
        }
    }

    fn build(steps: &[(u64, u32, bool)]) -> (Older, Model) {
        let (mut older, mut model) = (Older::default(), Model::default());
        let mut last = Rev { main: 1, sub: 0 };
        for &(distance, sub, tombstone) in steps {
            let main = last.main + i64::try_from(distance).unwrap();
            let sub = if distance == 0 { last.sub + 1 + sub % 9 } else { sub };
            let rev = Rev { main, sub };
            if let Some(&replaced) = model.0.last() {
                older.push(replaced, rev);
            }
            model.0.push((rev, tombstone));
            last = rev;
        }
        (older, model)
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u32, bool)>> {
        let distance = prop_oneof![0_u64..3, 1_u64..200, 1_u64..1 << 20, 1_u64..1 << 48];
        let sub = prop_oneof![4 => Just(0_u32), 1 => 0_u32..200, 1 => 0..u32::MAX / 2];
        prop::collection::vec((distance, sub, any::<bool>()), 1..400)
    }

    proptest! {
        #[test]
        fn every_revision_finds_what_a_plain_list_finds(steps in steps()) {
            let (older, model) = build(&steps);
            let newest = model.0.last().unwrap().0;
            for (rev, _) in &model.0 {
                let near = [rev.main - 1, rev.main, rev.main + 1];
                for revision in near.into_iter().filter(|&near| near < newest.main) {
                    prop_assert_eq!(older.at(revision, newest), model.at(revision));
                }
            }
        }

        #[test]
        fn the_oldest_leave_in_order_and_the_rest_stays(
            steps in steps(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        ) {
            let (mut older, mut model) = build(&steps);
            let newest = model.0.last().unwrap().0;
            for cut in cuts {
                let count = cut.index(model.0.len());
                let kept = model.0[count].0;
                let mut gone = Vec::new();
                older.drop_oldest(newest, |rev| rev < kept, |rev| gone.push(rev));
                let want: Vec<Rev> = model.0.drain(..count).map(|(rev, _)| rev).collect();
                prop_assert_eq!(gone, want);
                for (rev, _) in &model.0 {
                    let near = [rev.main - 1, rev.main];
                    for revision in near.into_iter().filter(|&near| near < newest.main) {
                        prop_assert_eq!(older.at(revision, newest), model.at(revision));
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_revisions_come_back() {
        let first = (Rev { main: 0, sub: u32::MAX }, true);
        let newest = Rev { main: i64::MAX, sub: u32::MAX };
        let mut older = Older::default();
        older.push(first, newest);
        assert_eq!(older.at(i64::MAX - 1, newest), Some(first));
        assert_eq!(older.at(-1, newest), None);
    }

    #[test]
    fn a_revision_takes_few_bytes() {
        for (changes, distance, bytes_max) in
            [(10, 100_000, 32), (1_000, 100_000, 4_200), (1_000_000, 1, 1_700_000)]
        {
            let (older, _) = build(&vec![(distance, 0, false); changes]);
            let bytes = older.heap_bytes();
            assert!(bytes <= bytes_max, "{changes} revisions, {distance} apart: {bytes} bytes");
        }
    }
}
