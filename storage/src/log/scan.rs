//! Reading a segment from front to back in bounded memory, and judging where it ends.

use std::io;

use super::record::{
    ALIGN, HEADER_USED_BYTES, Header, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, Stamp,
    decode_segment_header, record_bytes,
};
use crate::disk::DiskFile;

/// Bytes read at a time. A longer record is read whole: at most the file's length.
const CHUNK_BYTES: u64 = 1 << 20;

/// Space without a record.
const ZEROS: [u8; 4096] = [0; 4096];

/// A window that moves forward over a file.
#[derive(Debug)]
struct Window<'a> {
    file: &'a dyn DiskFile,
    file_bytes: u64,
    bytes: Vec<u8>,
    start: u64,
}

impl Window<'_> {
    /// `len` bytes at `offset`; `None` where the file ends before.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let end = offset + len as u64;
        if end > self.file_bytes {
            return Ok(None);
        }
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let until = end.max(offset + CHUNK_BYTES).min(self.file_bytes);
            let wanted = usize::try_from(until - offset)
                .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            self.bytes.resize(wanted, 0);
            self.start = offset;
            self.file.read_at(&mut self.bytes, offset)?;
        }
        // Within the window, whose length is a usize.
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..from + len))
    }
}

/// A good record at its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) offset: u32,
    pub(super) end: u32,
    pub(super) header: Header,
    pub(super) payload: &'a [u8],
}

/// How a segment ends.
#[derive(Debug)]
pub(super) struct Tail {
    /// End of the last good record of the unbroken sequence.
    pub(super) end: u64,
    /// Offsets behind `end` where a record of this segment seems to begin, whole or torn: left
    /// by writes that never were durable.
    pub(super) stale: Vec<u64>,
    /// The records say that `end` was durable once: what is there now was damaged since.
    pub(super) corrupt: bool,
    /// The last record says that the log goes on in the next segment.
    pub(super) sealed: bool,
}

/// Reads the records of one segment.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    window: Window<'a>,
    stamp: Stamp,
    sequence: u64,
    offset: u64,
}

impl<'a> Scanner<'a> {
    /// Reads the header. The inner error says what is wrong with it.
    pub(super) fn open(file: &'a dyn DiskFile) -> io::Result<Result<Self, String>> {
        let file_bytes = file.len()?;
        if file_bytes < SEGMENT_HEADER_BYTES || file_bytes > u64::from(u32::MAX) {
            return Ok(Err(format!("a segment is not {file_bytes} bytes long")));
        }
        let mut window = Window { file, file_bytes, bytes: Vec::new(), start: 0 };
        let mut header = [0; HEADER_USED_BYTES];
        if let Some(bytes) = window.get(0, HEADER_USED_BYTES)? {
            header.copy_from_slice(bytes);
        }
        let offset = SEGMENT_HEADER_BYTES;
        Ok(decode_segment_header(&header, file_bytes).map(|(sequence, stamp)| Self {
            window,
            stamp,
            sequence,
            offset,
        }))
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.window.file_bytes
    }

    /// The record at the present offset, if there is a good one; moves behind it.
    pub(super) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let at = self.offset;
        let found = record_at(&mut self.window, self.stamp, at)?;
        let Some(Found { header, is_good: true }) = found else { return Ok(None) };
        let len = header.len as usize;
        self.offset = at + record_bytes(len) as u64;
        let payload = self.window.get(at + RECORD_HEADER_BYTES as u64, len)?.unwrap_or_default();
        // File lengths were checked to fit.
        let narrow = |offset: u64| u32::try_from(offset).unwrap_or(u32::MAX);
        Ok(Some(Record { offset: narrow(at), end: narrow(self.offset), header, payload }))
    }

    /// Looks at everything behind the last good record. Cost: reads the rest of the file.
    pub(super) fn tail(&mut self) -> io::Result<Tail> {
        let end = self.offset;
        let mut tail = Tail { end, stale: Vec::new(), corrupt: false, sealed: false };
        let mut at = end;
        while at + RECORD_HEADER_BYTES as u64 <= self.window.file_bytes {
            if self.window.get(at, ZEROS.len())?.is_some_and(|bytes| bytes == ZEROS) {
                // No tag is zero, and the last one that could begin here ends in the next.
                at += (ZEROS.len() - RECORD_HEADER_BYTES) as u64;
                continue;
            }
            let step = match record_at(&mut self.window, self.stamp, at)? {
                Some(Found { header, is_good: true }) => {
                    tail.corrupt |= u64::from(header.synced) > end;
                    record_bytes(header.len as usize)
                }
                Some(Found { is_good: false, .. }) => ALIGN,
                None => {
                    at += ALIGN as u64;
                    continue;
                }
            };
            tail.stale.push(at);
            at += step as u64;
        }
        Ok(tail)
    }
}

/// What looks like a record.
struct Found {
    header: Header,
    is_good: bool,
}

/// The record that begins or seems to begin at `at`.
fn record_at(window: &mut Window<'_>, stamp: Stamp, at: u64) -> io::Result<Option<Found>> {
    let Some(bytes) = window.get(at, RECORD_HEADER_BYTES)? else { return Ok(None) };
    let mut raw = [0; RECORD_HEADER_BYTES];
    raw.copy_from_slice(bytes);
    let Some(header) = stamp.parse(&raw) else { return Ok(None) };
    let len = header.len as usize;
    let mut is_good = at + record_bytes(len) as u64 <= window.file_bytes;
    if is_good {
        let payload = window.get(at + RECORD_HEADER_BYTES as u64, len)?;
        is_good = payload.is_some_and(|payload| stamp.verify(&raw, payload));
    }
    Ok(Some(Found { header, is_good }))
}

impl Record<'_> {
    /// `index`, where the record has one (`arg` is not 0).
    pub(super) fn optional_index(&self) -> Option<u64> {
        (self.header.arg != 0).then_some(self.header.index)
    }

    /// First and last row that a base record names; the outer `None`: it is malformed.
    pub(super) fn bounds(&self) -> Option<Option<(u64, u64)>> {
        let Some(last) = self.optional_index() else { return Some(None) };
        let first = u64::from_le_bytes(self.payload.try_into().ok()?);
        (first <= last).then_some(Some((first, last)))
    }
}
