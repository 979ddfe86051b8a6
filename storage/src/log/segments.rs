//! Which row lies where: the segments in use and the offsets of their live rows.
//!
//! Four bytes a row. In each segment the live rows are a contiguous run of indexes at growing
//! offsets, and the runs of successive segments follow each other: a truncation cuts from the
//! end, a purge from the front.

use std::{collections::VecDeque, sync::Arc};

use super::record::Stamp;
use crate::disk::DiskFile;

/// One segment file in use.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) sequence: u64,
    pub(super) stamp: Stamp,
    /// Length of the file.
    pub(super) file_bytes: u64,
    /// Index of the first live row; where there is none, of the next one.
    first: u64,
    /// Offset of each live row.
    offsets: Vec<u32>,
    /// End of the last live row.
    rows_end: u32,
}

/// Live rows that lie one after the other in one segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    pub(super) segment: &'a Segment,
    /// Offset of each row; not empty.
    pub(super) offsets: &'a [u32],
    /// End of the last of them, or beyond it.
    pub(super) end: u32,
}

impl Segment {
    pub(super) fn new(
        file: Arc<dyn DiskFile>,
        sequence: u64,
        stamp: Stamp,
        file_bytes: u64,
    ) -> Self {
        Self { file, sequence, stamp, file_bytes, first: 0, offsets: Vec::new(), rows_end: 0 }
    }

    /// One past the last live row.
    fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }
}

/// All segments, oldest first.
#[derive(Debug, Default)]
pub(super) struct Segments {
    list: VecDeque<Segment>,
    bounds: Option<(u64, u64)>,
}

impl Segments {
    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        self.bounds
    }

    pub(super) fn current(&self) -> Option<&Segment> {
        self.list.back()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.list.iter()
    }

    /// Adds a segment behind the others; rows go to it from now on.
    pub(super) fn add(&mut self, mut segment: Segment) {
        segment.first = self.bounds.map_or(0, |(_, last)| last + 1);
        self.list.push_back(segment);
    }

    /// A row was written at `offset..end` of the current segment. The caller has checked
    /// that it follows the last one.
    pub(super) fn push(&mut self, index: u64, offset: u32, end: u32) {
        let Some(segment) = self.list.back_mut() else { return };
        if segment.offsets.is_empty() {
            segment.first = index;
        }
        debug_assert_eq!(segment.next(), index);
        segment.offsets.push(offset);
        segment.rows_end = end;
        self.bounds = Some(self.bounds.map_or((index, index), |(first, _)| (first, index)));
    }

    /// Forgets rows after `keep`, all rows for `None`.
    pub(super) fn truncate_after(&mut self, keep: Option<u64>) {
        let Some((first, last)) = self.bounds else { return };
        let end = keep.map_or(0, |keep| keep.saturating_add(1));
        if last < end {
            return;
        }
        for segment in self.list.iter_mut().rev() {
            if segment.next() <= end && segment.first <= end {
                break;
            }
            // At most the number of offsets, which is a usize.
            let kept = usize::try_from(end.saturating_sub(segment.first)).unwrap_or(usize::MAX);
            if let Some(&cut) = segment.offsets.get(kept) {
                segment.rows_end = cut;
                segment.offsets.truncate(kept);
            }
            segment.first = segment.first.min(end);
        }
        self.bounds = (first < end).then(|| (first, end - 1));
        if self.bounds.is_none() {
            // Whatever row comes next must not be below a segment's first.
            self.list.iter_mut().for_each(|segment| segment.first = 0);
        }
    }

    /// Forgets rows up to and including `index`, and returns the segments that hold no other
    /// row any more, oldest first; never the current one.
    pub(super) fn purge_to(&mut self, index: u64) -> Vec<Segment> {
        for segment in &mut self.list {
            if segment.first > index {
                break;
            }
            let gone =
                usize::try_from((index - segment.first).saturating_add(1)).unwrap_or(usize::MAX);
            let gone = gone.min(segment.offsets.len());
            segment.offsets.drain(..gone);
            segment.first = index.saturating_add(1);
        }
        self.bounds = self.bounds.filter(|&(_, last)| last > index);
        self.bounds = self.bounds.map(|(first, last)| (first.max(index + 1), last));
        let mut released = Vec::new();
        while self.list.len() > 1 && self.list.front().is_some_and(|s| s.offsets.is_empty()) {
            released.extend(self.list.pop_front());
        }
        released
    }

    /// The stored rows from `index` on, as far as they lie in one segment, at most up to
    /// `to` (exclusive) and about `max_bytes`, at least one.
    pub(super) fn run(&self, index: u64, to: u64, max_bytes: usize) -> Option<Run<'_>> {
        let (first, last) = self.bounds?;
        if index < first || index > last || to <= index {
            return None;
        }
        let at = self.list.partition_point(|segment| segment.first <= index).checked_sub(1)?;
        let segment = &self.list[at];
        let from = usize::try_from(index - segment.first).ok()?;
        let start = *segment.offsets.get(from)?;
        let rows = usize::try_from(to.min(segment.next()) - index).ok()?;
        let limit = u64::from(start).saturating_add(max_bytes as u64);
        let end_of = |row: usize| segment.offsets.get(row + 1).map_or(segment.rows_end, |end| *end);
        let candidates = &segment.offsets[from..from + rows];
        // How many rows end within the limit: their ends are the next rows' offsets.
        let fitting = candidates.partition_point(|&offset| u64::from(offset) < limit);
        let count = match fitting {
            0 | 1 => 1,
            _ if u64::from(end_of(from + fitting - 1)) <= limit => fitting,
            _ => fitting - 1,
        };
        let offsets = &candidates[..count];
        Some(Run { segment, offsets, end: end_of(from + count - 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk as _, FaultDisk};

    fn segment(sequence: u64) -> Segment {
        let file = FaultDisk::new(1).create("x").unwrap();
        Segment::new(file, sequence, Stamp::new(sequence, 7), 1 << 16)
    }

    /// Rows a..=b of each segment, as (sequence, offsets of live rows).
    fn shape(segments: &Segments) -> Vec<(u64, usize)> {
        segments.iter().map(|s| (s.sequence, s.offsets.len())).collect()
    }

    fn filled() -> Segments {
        let mut segments = Segments::default();
        let mut index = 5;
        for sequence in 1..=3 {
            segments.add(segment(sequence));
            for row in 0..4_u32 {
                segments.push(index, 4096 + row * 100, 4096 + row * 100 + 100);
                index += 1;
            }
        }
        segments
    }

    #[test]
    fn a_truncation_may_empty_segments_and_rows_go_on_in_the_current_one() {
        let mut segments = filled();
        assert_eq!(segments.bounds(), Some((5, 16)));
        segments.truncate_after(Some(6));
        assert_eq!(
            (segments.bounds(), shape(&segments)),
            (Some((5, 6)), vec![(1, 2), (2, 0), (3, 0)])
        );
        segments.push(7, 9000, 9100);
        assert_eq!(segments.run(7, 99, 1).unwrap().segment.sequence, 3);
        assert_eq!(segments.run(6, 99, 1).unwrap().segment.sequence, 1);
        segments.truncate_after(None);
        assert_eq!((segments.bounds(), shape(&segments)), (None, vec![(1, 0), (2, 0), (3, 0)]));
        segments.truncate_after(Some(3));
        segments.push(1, 9200, 9300);
        assert_eq!(segments.run(1, 2, 1).unwrap().offsets, [9200]);
    }

    #[test]
    fn a_purge_releases_old_segments_and_keeps_the_current_one() {
        let mut segments = filled();
        let released: Vec<u64> = segments.purge_to(10).iter().map(|s| s.sequence).collect();
        assert_eq!((released, segments.bounds()), (vec![1], Some((11, 16))));
        assert_eq!(segments.run(11, 99, 1).unwrap().offsets, [4296]);
        let released: Vec<u64> = segments.purge_to(99).iter().map(|s| s.sequence).collect();
        assert_eq!((released, segments.bounds()), (vec![2], None));
        segments.push(100, 9000, 9100);
        assert_eq!(segments.bounds(), Some((100, 100)));
        assert_eq!(segments.run(100, 101, 1).unwrap().offsets, [9000]);
    }

    #[test]
    fn a_run_stays_in_one_segment_and_near_the_byte_limit() {
        let segments = filled();
        let cases = [
            ((5, 99, 1000), Some((4, 4496))),
            ((5, 7, 1000), Some((2, 4296))),
            ((6, 99, 0), Some((1, 4296))),
            ((5, 99, 199), Some((1, 4196))),
            ((5, 99, 200), Some((2, 4296))),
            ((5, 99, 399), Some((3, 4396))),
            ((9, 99, 1000), Some((4, 4496))),
            ((4, 99, 1000), None),
            ((17, 99, 1000), None),
            ((5, 5, 1000), None),
        ];
        for ((index, to, max_bytes), want) in cases {
            let got = segments.run(index, to, max_bytes).map(|run| (run.offsets.len(), run.end));
            assert_eq!(got, want, "{index}..{to} of {max_bytes} bytes");
        }
    }
}
