//! What a log holds, read from its segments after any kind of stop.
//!
//! The segments in use are the unbroken sequence that ends at the highest number; older ones
//! left below a gap were purged, and only their removal was cut short. Whether that is so is
//! proved at the end: every row that is neither purged nor truncated must have been found.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    record::{Header, Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES},
    scan::{Record, Scanner, Tail},
    segments::{Segment, Segments},
    supply::{Supply, segment_name},
};
use crate::{Error, disk::DiskFile};

/// Bytes rewritten or zeroed at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// A log's contents.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) segments: Segments,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) meta: BTreeMap<u8, Bytes>,
}

/// A log that can be written on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) contents: Contents,
    /// Where the next record goes in the last segment; `None`: that one is sealed, or there is
    /// none.
    pub(super) end: Option<u64>,
    /// Sequence and length of segments to be recycled.
    pub(super) recycle: Vec<(u64, u64)>,
}

impl Contents {
    /// The only index that may be appended; `None`: any.
    pub(super) fn next_index(&self) -> Option<u64> {
        let last = self.segments.bounds().map(|(_, last)| last);
        last.or(self.purged.as_ref().map(|(index, _)| *index)).map(|last| last.saturating_add(1))
    }

    /// Notes a purge; returns segments that hold nothing live any more.
    pub(super) fn purge_to(&mut self, index: u64, payload: Bytes) -> Vec<Segment> {
        self.purged = Some((index, payload));
        self.segments.purge_to(index)
    }
}

#[derive(Debug, Default)]
struct Replay {
    contents: Contents,
    /// First and last row that lie in segments before those read.
    missing: Option<(u64, u64)>,
    /// Sequence and length of segments that hold nothing live.
    released: Vec<(u64, u64)>,
    /// Highest offset of the present segment that a record calls durable.
    synced: u32,
}

/// Reads all segments and makes the last one ready for more.
pub(super) fn recover(supply: &mut Supply, sequences: &[u64]) -> Result<Recovered, Error> {
    let mut from = sequences.len().saturating_sub(1);
    while from > 0 && sequences[from - 1].checked_add(1) == Some(sequences[from]) {
        from -= 1;
    }
    let (leftover, in_use) = sequences.split_at(from);
    let mut replay = Replay::default();
    let mut end = None;
    for (position, &sequence) in in_use.iter().enumerate() {
        let is_last = position + 1 == in_use.len();
        let name = segment_name(sequence);
        let io = |source| Error::Io { action: format!("read log segment {name}"), source };
        let file = supply.disk().open(&name).map_err(io)?;
        let tail = replay.segment(sequence, &file, position == 0)?;
        if tail.corrupt || !(tail.sealed || is_last) {
            return Err(corrupt(sequence, tail.end, "the record there does not verify"));
        }
        if is_last {
            settle_tail(&*file, &tail, replay.synced).map_err(|source| Error::Io {
                action: format!("settle log segment {name}"),
                source,
            })?;
            end = (!tail.sealed).then_some(tail.end);
        }
    }
    if let Some((first, last)) = replay.missing {
        return Err(Error::Corrupt {
            what: format!("the log in {}", supply.disk().path()),
            detail: format!("rows {first} to {last} are in no segment; a file is missing"),
        });
    }
    supply.sync_names().map_err(|source| supply.error("sync", source))?;
    let mut recycle = replay.released;
    for &sequence in leftover {
        let bytes = supply.disk().open(&segment_name(sequence)).and_then(|file| file.len());
        recycle.push((sequence, bytes.map_err(|source| supply.error("read", source))?));
    }
    Ok(Recovered { contents: replay.contents, end, recycle })
}

fn corrupt(sequence: u64, offset: u64, detail: impl Into<String>) -> Error {
    let what = format!("log segment {} at offset {offset}", segment_name(sequence));
    Error::Corrupt { what, detail: detail.into() }
}

/// Makes the end of the log what it will be taken for.
///
/// Records behind the end, of a torn write and never acknowledged, lose their headers, whole
/// ones or they might follow a new end one day, torn ones or a later write of the same bytes
/// might complete them. What no record calls durable is written again: a process that
/// failed to sync may have left it in the page cache only, where a sync alone finds it clean.
fn settle_tail(file: &dyn DiskFile, tail: &Tail, synced: u32) -> std::io::Result<()> {
    for &at in &tail.stale {
        file.write_at(&[0; RECORD_HEADER_BYTES], at)?;
    }
    let mut at = u64::from(synced).max(SEGMENT_HEADER_BYTES);
    let mut bytes = Vec::new();
    while at < tail.end {
        let part = (tail.end - at).min(CHUNK_BYTES);
        // At most CHUNK_BYTES.
        bytes.resize(usize::try_from(part).unwrap_or_default(), 0);
        file.read_at(&mut bytes, at)?;
        file.write_at(&bytes, at)?;
        at += part;
    }
    file.sync()
}

impl Replay {
    /// Replays one segment; returns how it ends.
    fn segment(
        &mut self,
        sequence: u64,
        file: &Arc<dyn DiskFile>,
        is_first: bool,
    ) -> Result<Tail, Error> {
        let io = |source| Error::Io {
            action: format!("read log segment {}", segment_name(sequence)),
            source,
        };
        let opened = Scanner::open(&**file).map_err(io)?;
        let mut scanner = opened.map_err(|detail| corrupt(sequence, 0, detail))?;
        if scanner.sequence() != sequence {
            let detail = format!("its header says it is segment {}", scanner.sequence());
            return Err(corrupt(sequence, 0, detail));
        }
        let (stamp, bytes) = (scanner.stamp(), scanner.file_bytes());
        self.contents.segments.add(Segment::new(Arc::clone(file), sequence, stamp, bytes));
        self.synced = 0;
        let mut records = 0_u64;
        while let Some(record) = scanner.next().map_err(io)? {
            let at = u64::from(record.offset);
            if (record.header.kind == Kind::Base) != (records == 0) {
                return Err(corrupt(sequence, at, "a base record is first and only first"));
            }
            self.record(&record, is_first).map_err(|detail| corrupt(sequence, at, detail))?;
            self.synced = self.synced.max(record.header.synced);
            records += 1;
            if record.header.kind == Kind::Seal {
                let end = u64::from(record.end);
                return Ok(Tail { end, stale: Vec::new(), corrupt: false, sealed: true });
            }
        }
        if is_first && records == 0 && sequence != 1 {
            let detail = "it does not say what came before, and the segments before are missing";
            return Err(corrupt(sequence, SEGMENT_HEADER_BYTES, detail));
        }
        scanner.tail().map_err(io)
    }

    /// Replays one record; the error says what does not fit.
    fn record(&mut self, record: &Record<'_>, is_first: bool) -> Result<(), String> {
        let Header { kind, arg, index, .. } = record.header;
        match kind {
            Kind::Row => self.row(index, record)?,
            Kind::Meta => {
                self.contents.meta.insert(arg, Bytes::copy_from_slice(record.payload));
            }
            Kind::Truncate => {
                let keep = record.optional_index();
                self.contents.segments.truncate_after(keep);
                let kept = |(first, last): (u64, u64)| {
                    keep.filter(|&keep| keep >= first).map(|keep| (first, last.min(keep)))
                };
                self.missing = self.missing.and_then(kept);
            }
            Kind::Purge => {
                // Their removal was cut short.
                let payload = Bytes::copy_from_slice(record.payload);
                let released = self.contents.purge_to(index, payload);
                self.released.extend(released.iter().map(|s| (s.sequence, s.file_bytes)));
                let left = |(first, last): (u64, u64)| {
                    (last > index).then(|| (first.max(index + 1), last))
                };
                self.missing = self.missing.and_then(left);
            }
            Kind::Base => {
                let before = record.bounds().ok_or("a base record is no pair of indexes")?;
                let known = match (self.missing, self.contents.segments.bounds()) {
                    (Some((first, _)), Some((_, last))) => Some((first, last)),
                    (missing, held) => held.or(missing),
                };
                if is_first {
                    self.missing = before;
                } else if known != before {
                    return Err(format!("the rows before are {known:?}, it says {before:?}"));
                }
            }
            Kind::Seal => {}
        }
        Ok(())
    }

    fn row(&mut self, index: u64, record: &Record<'_>) -> Result<(), String> {
        let next = match (self.contents.segments.bounds(), self.missing) {
            (None, Some((_, last))) => Some(last.saturating_add(1)),
            _ => self.contents.next_index(),
        };
        if next.is_some_and(|next| next != index) || index == u64::MAX {
            return Err(format!("row {index} is there where {next:?} has to follow"));
        }
        self.contents.segments.push(index, record.offset, record.end);
        Ok(())
    }
}

/// Reads one segment alone, as the first of a log, without changing anything.
pub(super) fn check_segment(sequence: u64, file: &Arc<dyn DiskFile>) -> Result<(), Error> {
    Replay::default().segment(sequence, file, true).map(drop)
}
