//! The write-ahead log: numbered rows and a few meta records in checked segments.
//!
//! Invariants:
//! - what was appended before a successful [`Wal::sync`] is there at the next open, whatever
//!   happens to the process or the power; what is found is always a prefix of what was called;
//! - a torn write at the very end is cut; a record that was durable once and does not verify now
//!   is [`Error::Corrupt`], never an end of the log: cutting there could forget a vote or an
//!   acknowledged row;
//! - after any failed write or sync the log refuses everything: after a failed fsync nobody
//!   knows what is on disk, and a second fsync may lie (the page cache forgets the error);
//! - no segment is recycled before the purge that frees it is durable.
//!
//! | part | what it does |
//! |---|---|
//! | `record` | bytes of a record and of a segment's header |
//! | `segments` | index of rows: four bytes each |
//! | `scan`, `recover` | reading segments back, telling torn from corrupt |
//! | `supply` | segment files: zero-filled ahead of need, recycled after a purge |
//!
//! Torn or corrupt: each record carries the offset below which its segment was durable when it
//! was made, and a new segment begins only when the one before is durable and sealed. A bad record
//! that a later good record (in its segment or a later one) calls durable is corruption. A bad
//! record with good ones behind it that call it *not yet* durable is what a power cut leaves of
//! several writes without a sync between; it is cut, and what lies behind is erased.
//!
//! Overwriting zero-filled space keeps an fdatasync free of file system metadata: about half the
//! time of appending to a growing file.

mod fuzz;
mod record;
mod recover;
mod scan;
mod segments;
mod supply;

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;

pub use self::fuzz::fuzz_segment;
use self::{
    record::{Header, Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, Stamp, record_bytes},
    recover::{Contents, Recovered},
    segments::{Run, Segment},
    supply::{Supply, segment_name},
};
use crate::{
    Error,
    disk::{DirDisk, Disk, DiskLock},
};

/// Most bytes of one row. A segment of its own is made for a row above the segment size.
pub const ROW_BYTES_MAX: usize = 512 << 20;
/// Most bytes of one meta record or purge payload: all of them go into each new segment.
pub const META_BYTES_MAX: usize = 64 << 10;
/// Bytes buffered before they are handed to the system without being asked for.
const BUFFER_BYTES_MAX: usize = 4 << 20;
/// Capacity kept for the next drain.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How the log lies on disk.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Size of one segment file in bytes, zero-filled ahead. Taken as 16 KiB to 1 GiB, in whole
    /// pages of 4 KiB.
    pub segment_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// One row: a Raft log index and bytes that the raft crate encodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Raft log index.
    pub index: u64,
    /// The caller's bytes.
    pub payload: Bytes,
}

/// The log of one member. Single owner, no interior locking.
#[derive(Debug)]
pub struct Wal {
    contents: Contents,
    /// Records behind `written`, on their way to the current segment.
    buffer: Vec<u8>,
    /// End of what was handed to the system, in the current segment.
    written: u64,
    /// End of what is durable, in the current segment.
    synced: u64,
    /// Sequence and length of segments to recycle once their purge is durable.
    released: Vec<(u64, u64)>,
    /// What failed first; nothing works from then on.
    failed: Option<String>,
    supply: Supply,
    /// Last, so that it is let go last.
    _lock: Box<dyn DiskLock>,
}

/// Opening.
impl Wal {
    /// Opens the log in `dir`, making it if need be.
    ///
    /// Cost: reads every segment once, in pieces of 1 MB.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with file and offset if durable records are damaged or files are
    /// missing; [`Error::Io`] if another process has the log open, or the disk fails.
    pub fn open(dir: &Path, options: WalOptions) -> Result<Self, Error> {
        let disk = DirDisk::open(dir).map_err(|source| Error::Io {
            action: format!("open the log directory {}", dir.display()),
            source,
        })?;
        Self::open_in(Arc::new(disk), options)
    }

    /// As [`Wal::open`], on any disk.
    ///
    /// # Errors
    /// As [`Wal::open`].
    #[expect(clippy::needless_pass_by_value, reason = "the shape of `open`")]
    pub fn open_in(disk: Arc<dyn Disk>, options: WalOptions) -> Result<Self, Error> {
        let lock = disk.lock().map_err(|source| lock_error(&*disk, source))?;
        let segment_bytes = options.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let segment_bytes = segment_bytes.next_multiple_of(SEGMENT_HEADER_BYTES);
        let (mut supply, sequences) = Supply::open(disk, segment_bytes)?;
        let Recovered { contents, end, recycle } = recover::recover(&mut supply, &sequences)?;
        let mut wal = Self {
            contents,
            buffer: Vec::new(),
            written: end.unwrap_or_default(),
            synced: end.unwrap_or_default(),
            released: recycle,
            failed: None,
            supply,
            _lock: lock,
        };
        match end {
            None => wal.begin_segment(0)?,
            Some(end) => wal.repeat_known(end == SEGMENT_HEADER_BYTES)?,
        }
        wal.sync()?;
        wal.recycle()?;
        Ok(wal)
    }
}

fn lock_error(disk: &dyn Disk, source: io::Error) -> Error {
    let path = disk.path();
    let action = if source.kind() == io::ErrorKind::WouldBlock {
        format!("lock the log directory {path}: another process uses it")
    } else {
        format!("lock the log directory {path}")
    };
    Error::Io { action, source }
}

/// What the log holds.
impl Wal {
    /// Lowest and highest index held, `None` when empty.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        self.contents.segments.bounds()
    }

    /// The opaque payload given with the last purge (the purged log id), with its index.
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.contents.purged.clone()
    }

    /// The meta record `kind` as last set.
    pub fn meta(&self, kind: u8) -> Option<Bytes> {
        self.contents.meta.get(&kind).cloned()
    }

    /// Bytes of all files, those waiting for use among them.
    pub fn size_bytes(&self) -> u64 {
        let in_use: u64 = self.contents.segments.iter().map(|segment| segment.file_bytes).sum();
        in_use + self.supply.spare_bytes()
    }

    /// Rows `from..to` as far as they are held, stopping after about `max_bytes` (at least one
    /// row). Rows not yet written or synced are among them.
    ///
    /// Cost: one read for each segment touched. The rows share the memory they were read into.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a row does not verify, [`Error::Io`] if the disk fails.
    pub fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Row>, Error> {
        self.check()?;
        let mut rows = Vec::new();
        let Some((first, _)) = self.bounds() else { return Ok(rows) };
        let (mut index, mut left) = (from.max(first), max_bytes);
        while let Some(run) = self.contents.segments.run(index, to, left) {
            let bytes = self.read_run(run, max_bytes)?;
            let start = run.offsets[0];
            for &offset in run.offsets {
                // Offsets of one run are in ascending order.
                let row = row_at(&bytes, (offset - start) as usize, run.segment.stamp, index);
                let damaged = || Error::Corrupt {
                    what: format!(
                        "log segment {} at offset {offset}",
                        segment_name(run.segment.sequence)
                    ),
                    detail: format!("row {index} does not verify"),
                };
                rows.push(row.ok_or_else(damaged)?);
                index += 1;
            }
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                break;
            }
        }
        Ok(rows)
    }

    /// The bytes that hold a run, from the disk or the buffer.
    fn read_run(&self, run: Run<'_>, max_bytes: usize) -> Result<Bytes, Error> {
        let (start, mut end) = (u64::from(run.offsets[0]), u64::from(run.end));
        let is_current = self.current()?.sequence == run.segment.sequence;
        if is_current && start >= self.written {
            return Ok(Bytes::copy_from_slice(self.buffered(start, end)));
        }
        let error = |source| Error::Io {
            action: format!("read log segment {}", segment_name(run.segment.sequence)),
            source,
        };
        if run.offsets.len() == 1 && end - start > max_bytes as u64 {
            // Dead records may lie between this row and the next: take its own length.
            let mut header = [0; RECORD_HEADER_BYTES];
            run.segment.file.read_at(&mut header, start).map_err(error)?;
            if let Some(header) = run.segment.stamp.parse(&header) {
                end = end.min(start + record_bytes(header.len as usize) as u64);
            }
        }
        let on_disk = if is_current { end.min(self.written) } else { end };
        // A segment's length fits in 32 bits.
        let mut bytes = vec![0; usize::try_from(on_disk - start).unwrap_or_default()];
        run.segment.file.read_at(&mut bytes, start).map_err(error)?;
        bytes.extend_from_slice(self.buffered(on_disk, end));
        Ok(Bytes::from(bytes))
    }

    /// Part of the buffer by offset in the current segment.
    fn buffered(&self, start: u64, end: u64) -> &[u8] {
        let position = |offset: u64| usize::try_from(offset.saturating_sub(self.written)).ok();
        let range = position(start).zip(position(end));
        range.and_then(|(start, end)| self.buffer.get(start..end)).unwrap_or_default()
    }
}

/// The row `index` at `at`, if it verifies.
fn row_at(bytes: &Bytes, at: usize, stamp: Stamp, index: u64) -> Option<Row> {
    let raw = bytes.get(at..)?.first_chunk::<RECORD_HEADER_BYTES>()?;
    let header = stamp.parse(raw)?;
    let start = at + RECORD_HEADER_BYTES;
    let end = start.checked_add(header.len as usize)?;
    let payload = bytes.get(start..end)?;
    let is_it = header.kind == Kind::Row && header.index == index && stamp.verify(raw, payload);
    is_it.then(|| Row { index, payload: bytes.slice(start..end) })
}

/// Changes. All are buffered: durable after [`Wal::sync`], in the order of the calls.
impl Wal {
    /// Adds a row to the write buffer. `parts` are concatenated. Indexes are contiguous: a row
    /// follows the last one, or the purged one in an empty log.
    ///
    /// # Errors
    /// [`Error::Io`] if the index does not follow or the row is above [`ROW_BYTES_MAX`], if no
    /// new segment can be made, or if the log has failed before.
    pub fn append(&mut self, index: u64, parts: &[&[u8]]) -> Result<(), Error> {
        self.check()?;
        let next = self.contents.next_index();
        if next.is_some_and(|next| next != index) || index == u64::MAX {
            return Err(misuse(format!("append row {index} to the log where {next:?} follows")));
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > ROW_BYTES_MAX {
            return Err(misuse(format!("append a row of {bytes} bytes, above {ROW_BYTES_MAX}")));
        }
        let (offset, end) = self.put(Kind::Row, 0, index, parts)?;
        self.contents.segments.push(index, offset, end);
        Ok(())
    }

    /// Sets a small named record (vote, committed, ...); last write wins; survives purge.
    ///
    /// # Errors
    /// [`Error::Io`] above [`META_BYTES_MAX`], and as [`Wal::append`].
    pub fn set_meta(&mut self, kind: u8, payload: &[u8]) -> Result<(), Error> {
        self.check()?;
        check_meta(payload)?;
        if self.contents.meta.get(&kind).is_some_and(|present| present == payload) {
            return Ok(());
        }
        self.put(Kind::Meta, kind, 0, &[payload])?;
        self.contents.meta.insert(kind, Bytes::copy_from_slice(payload));
        Ok(())
    }

    /// Drops every row after `index` (all rows for `None`).
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn truncate_after(&mut self, index: Option<u64>) -> Result<(), Error> {
        self.check()?;
        let Some((_, last)) = self.bounds() else { return Ok(()) };
        if index.is_some_and(|index| index >= last) {
            return Ok(());
        }
        self.put(Kind::Truncate, u8::from(index.is_some()), index.unwrap_or_default(), &[])?;
        self.contents.segments.truncate_after(index);
        Ok(())
    }

    /// Drops rows up to and including `index`, remembering `payload`. Segments without any
    /// other row are recycled by the next [`Wal::sync`]. An index above the last row empties
    /// the log, which goes on behind `index`; one below the last purge changes nothing.
    ///
    /// # Errors
    /// [`Error::Io`] if the payload is above [`META_BYTES_MAX`], and as [`Wal::append`].
    pub fn purge_to(&mut self, index: u64, payload: &[u8]) -> Result<(), Error> {
        self.check()?;
        check_meta(payload)?;
        if self.contents.purged.as_ref().is_some_and(|(purged, _)| *purged >= index) {
            return Ok(());
        }
        self.put(Kind::Purge, 0, index, &[payload])?;
        let released = self.contents.purge_to(index, Bytes::copy_from_slice(payload));
        self.released.extend(released.iter().map(|s| (s.sequence, s.file_bytes)));
        Ok(())
    }

    /// Hands the buffer to the operating system (pwrite), without waiting for the disk.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk refuses or the log has failed before. Nothing works after.
    pub fn write(&mut self) -> Result<(), Error> {
        self.check()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let segment = self.current()?;
        let result = segment.file.write_at(&self.buffer, self.written);
        let half_full = self.written > segment.file_bytes / 2;
        self.settle("write", result)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        if half_full {
            self.supply.prepare();
        }
        Ok(())
    }

    /// `write`, then one fdatasync if anything is unsynced.
    ///
    /// # Errors
    /// As [`Wal::write`]. Never call it again then: stop the node.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.write()?;
        if self.written > self.synced {
            let result = self.current()?.file.sync();
            self.settle("sync", result)?;
            self.synced = self.written;
            self.recycle()?;
        }
        Ok(())
    }
}

/// Inside.
impl Wal {
    fn check(&self) -> Result<(), Error> {
        match &self.failed {
            None => Ok(()),
            Some(first) => Err(Error::Io {
                action: "use the log: it failed before, this member must be restarted".to_owned(),
                source: io::Error::other(first.clone()),
            }),
        }
    }

    /// Passes a result of the disk on; an error is the end of this log.
    fn settle(&mut self, action: &str, result: io::Result<()>) -> Result<(), Error> {
        result.or_else(|source| {
            let name = segment_name(self.current()?.sequence);
            let error = Error::Io { action: format!("{action} log segment {name}"), source };
            self.fail(Err(error))
        })
    }

    /// Remembers a failure, if it is one.
    fn fail<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            let source = std::error::Error::source(error).map(ToString::to_string);
            self.failed = Some(format!("{error}: {}", source.unwrap_or_default()));
        }
        result
    }

    fn current(&self) -> Result<&Segment, Error> {
        self.contents.segments.current().ok_or_else(|| misuse("write a log without a segment"))
    }

    /// Encodes a record behind the buffer, in a new segment if the present one is full.
    /// Returns its offset and end.
    fn put(
        &mut self,
        kind: Kind,
        arg: u8,
        index: u64,
        parts: &[&[u8]],
    ) -> Result<(u32, u32), Error> {
        let bytes = record_bytes(parts.iter().map(|part| part.len()).sum());
        let end = self.written + (self.buffer.len() + bytes + record_bytes(0)) as u64;
        if end > self.current()?.file_bytes {
            self.end_segment()?;
            self.begin_segment(bytes)?;
        } else if self.buffer.len() >= BUFFER_BYTES_MAX {
            self.write()?;
        }
        self.encode(kind, arg, index, parts)
    }

    fn encode(
        &mut self,
        kind: Kind,
        arg: u8,
        index: u64,
        parts: &[&[u8]],
    ) -> Result<(u32, u32), Error> {
        let narrow = |bytes: u64| {
            u32::try_from(bytes).map_err(|_| misuse("write behind the end of a log segment"))
        };
        let start = narrow(self.written + self.buffer.len() as u64)?;
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let header = Header { kind, arg, index, len: narrow(len)?, synced: narrow(self.synced)? };
        let stamp = self.current()?.stamp;
        stamp.encode(header, parts, &mut self.buffer);
        Ok((start, narrow(self.written + self.buffer.len() as u64)?))
    }

    /// Makes the present segment complete and durable: only then may a next one exist.
    fn end_segment(&mut self) -> Result<(), Error> {
        self.encode(Kind::Seal, 0, 0, &[])?;
        self.write()?;
        let result = self.current()?.file.sync();
        self.settle("sync", result)
    }

    /// Takes a new segment with room for a record of `bytes`, and writes into it everything
    /// that a reader who has lost the older ones must know.
    fn begin_segment(&mut self, bytes: usize) -> Result<(), Error> {
        let meta = self.contents.meta.clone();
        let purged = self.contents.purged.clone();
        let payloads = meta.values().chain(purged.as_ref().map(|(_, payload)| payload));
        let known: usize = payloads.map(|payload| record_bytes(payload.len())).sum();
        // Besides it: base and seal.
        let needed =
            SEGMENT_HEADER_BYTES + (known + record_bytes(8) + record_bytes(0) + bytes) as u64;
        let sequence = self.contents.segments.current().map_or(0, |segment| segment.sequence) + 1;
        let taken = self.supply.take(sequence, needed);
        let segment = self.fail(taken)?;
        self.contents.segments.add(segment);
        (self.written, self.synced) = (SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES);
        self.put_base()?;
        if let Some((index, payload)) = &purged {
            self.encode(Kind::Purge, 0, *index, &[payload])?;
        }
        for (kind, payload) in &meta {
            self.encode(Kind::Meta, *kind, 0, &[payload])?;
        }
        Ok(())
    }

    fn put_base(&mut self) -> Result<(), Error> {
        match self.bounds() {
            Some((first, last)) => self.encode(Kind::Base, 1, last, &[&first.to_le_bytes()])?,
            None => self.encode(Kind::Base, 0, 0, &[])?,
        };
        Ok(())
    }

    /// Completes what a segment begins with, where a crash may have cut it: older segments,
    /// which hold the same, are recycled in the belief that it is there.
    fn repeat_known(&mut self, is_blank: bool) -> Result<(), Error> {
        if is_blank {
            self.put_base()?;
        }
        if let Some((index, payload)) = self.contents.purged.clone() {
            self.put(Kind::Purge, 0, index, &[&payload])?;
        }
        for (kind, payload) in self.contents.meta.clone() {
            self.put(Kind::Meta, kind, 0, &[&payload])?;
        }
        Ok(())
    }

    fn recycle(&mut self) -> Result<(), Error> {
        for (sequence, bytes) in std::mem::take(&mut self.released) {
            let given_back = self.supply.give_back(sequence, bytes);
            self.fail(given_back)?;
        }
        Ok(())
    }
}

fn check_meta(payload: &[u8]) -> Result<(), Error> {
    let bytes = payload.len();
    if bytes > META_BYTES_MAX {
        return Err(misuse(format!("log a meta record of {bytes} bytes, above {META_BYTES_MAX}")));
    }
    Ok(())
}

/// A call that breaks this module's contract; the log is unharmed.
fn misuse(action: impl Into<String>) -> Error {
    Error::Io { action: action.into(), source: io::ErrorKind::InvalidInput.into() }
}

#[cfg(test)]
mod tests;
