//! Where segments come from and go to: made ahead of need, taken into use, recycled.
//!
//! | file | what it is |
//! |---|---|
//! | `<sequence>.wal` | a segment in use; its header was durable before it got this name |
//! | `<sequence>.free` | a purged one that waits for its next life |
//! | `ahead.new` | a fresh one being zero-filled |
//!
//! A purged file's new name is made durable before its header is overwritten: otherwise a power
//! cut could bring back the old name with the new header.

use std::{io, sync::Arc, thread::JoinHandle};

use super::{
    record::{SEGMENT_HEADER_BYTES, Stamp, encode_segment_header},
    segments::Segment,
};
use crate::{
    Error,
    disk::{Disk, DiskFile},
};

/// Purged segments kept for reuse; more are removed. Each saves 64 MB of zero-filling.
const FREE_SEGMENTS_MAX: usize = 3;

/// Zeros written between two syncs. One sync of the whole file would fill the disk's queue, and
/// the drains of the segment in use would wait behind it.
const FILL_BYTES: u64 = 1 << 20;

const AHEAD: &str = "ahead.new";
const IN_USE: &str = ".wal";
const FREE: &str = ".free";

pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}{IN_USE}")
}

fn sequence_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    if digits.len() != 16 { None } else { u64::from_str_radix(digits, 16).ok() }
}

type Made = io::Result<Arc<dyn DiskFile>>;

/// A fresh segment file on its way.
#[derive(Debug)]
enum Ahead {
    Ready(Made),
    Thread(JoinHandle<Made>),
}

#[derive(Debug)]
pub(super) struct Supply {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    free: Vec<String>,
    ahead: Option<Ahead>,
    /// Names changed since the directory was last synced.
    names_unsynced: bool,
}

impl Supply {
    /// Sorts the files of the directory: returns the sequences of segments in use, ascending.
    pub(super) fn open(disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<(Self, Vec<u64>), Error> {
        let mut supply =
            Self { disk, segment_bytes, free: Vec::new(), ahead: None, names_unsynced: true };
        let names = supply.disk.list().map_err(|source| supply.error("list", source))?;
        let mut in_use = Vec::new();
        for name in names {
            if let Some(sequence) = sequence_of(&name, IN_USE) {
                in_use.push(sequence);
            } else if sequence_of(&name, FREE).is_some() && supply.free.len() < FREE_SEGMENTS_MAX {
                supply.free.push(name);
            } else if name == AHEAD || name.ends_with(FREE) {
                let removed = supply.disk.remove(&name);
                removed.map_err(|source| supply.error("remove unused segments in", source))?;
            }
        }
        if in_use.is_empty() {
            // A new log counts from 1 and must not meet names of an old one.
            for name in std::mem::take(&mut supply.free) {
                let removed = supply.disk.remove(&name);
                removed.map_err(|source| supply.error("remove unused segments in", source))?;
            }
        }
        in_use.sort_unstable();
        Ok((supply, in_use))
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Bytes of files that wait for use.
    pub(super) fn spare_bytes(&self) -> u64 {
        let ahead = usize::from(self.ahead.is_some());
        (self.free.len() + ahead) as u64 * self.segment_bytes
    }

    /// Begins to make the next segment, if none waits. Failure shows when it is needed.
    pub(super) fn prepare(&mut self) {
        if !self.free.is_empty() || self.ahead.is_some() {
            return;
        }
        let (disk, bytes) = (Arc::clone(&self.disk), self.segment_bytes);
        self.ahead = Some(if disk.allows_threads() {
            let make = move || make_ahead(&*disk, bytes);
            match std::thread::Builder::new().name("wal-ahead".to_owned()).spawn(make) {
                Ok(thread) => Ahead::Thread(thread),
                Err(error) => Ahead::Ready(Err(error)),
            }
        } else {
            Ahead::Ready(make_ahead(&*disk, bytes))
        });
    }

    /// A segment of at least `bytes`, durable under its name, and empty.
    pub(super) fn take(&mut self, sequence: u64, bytes: u64) -> Result<Segment, Error> {
        let bytes = self.segment_bytes.max(bytes.next_multiple_of(SEGMENT_HEADER_BYTES));
        let taken = self.take_file(bytes).and_then(|(name, file)| {
            let salt = self.disk.salt();
            file.write_at(&encode_segment_header(sequence, salt, bytes), 0)?;
            file.sync()?;
            self.disk.rename(&name, &segment_name(sequence))?;
            self.names_unsynced = true;
            self.sync_names()?;
            Ok(Segment::new(file, sequence, Stamp::new(sequence, salt), bytes))
        });
        taken.map_err(|source| self.make_error(sequence, bytes, source))
    }

    fn take_file(&mut self, bytes: u64) -> io::Result<(String, Arc<dyn DiskFile>)> {
        self.sync_names()?;
        while bytes == self.segment_bytes
            && let Some(name) = self.free.pop()
        {
            let file = self.disk.open(&name)?;
            if file.len()? == bytes {
                return Ok((name, file));
            }
            self.disk.remove(&name)?;
        }
        let ahead = match self.ahead.take() {
            Some(Ahead::Ready(made)) => Some(made),
            Some(Ahead::Thread(thread)) => {
                Some(thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread failed"))))
            }
            None => None,
        };
        match ahead {
            Some(Ok(file)) if bytes == self.segment_bytes => Ok((AHEAD.to_owned(), file)),
            // Too small, or it failed: perhaps there is space now.
            _ => make_ahead(&*self.disk, bytes).map(|file| (AHEAD.to_owned(), file)),
        }
    }

    /// Takes back a segment whose rows are durably purged.
    pub(super) fn give_back(&mut self, sequence: u64, bytes: u64) -> Result<(), Error> {
        let name = segment_name(sequence);
        let done = if bytes == self.segment_bytes && self.free.len() < FREE_SEGMENTS_MAX {
            let free = format!("{sequence:016x}{FREE}");
            self.disk.rename(&name, &free).map(|()| self.free.push(free))
        } else {
            self.disk.remove(&name)
        };
        self.names_unsynced = true;
        done.map_err(|source| self.error("recycle segments in", source))
    }

    pub(super) fn sync_names(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.names_unsynced) {
            self.disk.sync()?;
        }
        Ok(())
    }

    pub(super) fn error(&self, what: &str, source: io::Error) -> Error {
        Error::Io { action: format!("{what} the log directory {}", self.disk.path()), source }
    }

    fn make_error(&self, sequence: u64, bytes: u64, source: io::Error) -> Error {
        let (name, path) = (segment_name(sequence), self.disk.path());
        let action = if source.kind() == io::ErrorKind::StorageFull {
            format!(
                "make log segment {name}: the disk of {path} is full; free at least \
                 {bytes} bytes there and start this member again"
            )
        } else {
            format!("make log segment {name} of {bytes} bytes in {path}")
        };
        Error::Io { action, source }
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        // The thread works in a directory that is about to be unlocked.
        if let Some(Ahead::Thread(thread)) = self.ahead.take() {
            drop(thread.join());
        }
    }
}

/// Makes `ahead.new`: zero-filled, durable in content.
fn make_ahead(disk: &dyn Disk, bytes: u64) -> Made {
    match disk.remove(AHEAD) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(AHEAD)?;
    if let Err(error) = fill(&*file, bytes) {
        // Give the space back; the first error is the one to tell.
        drop(disk.remove(AHEAD));
        return Err(error);
    }
    Ok(file)
}

fn fill(file: &dyn DiskFile, bytes: u64) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let end = bytes.min(at + FILL_BYTES);
        file.zero_fill(at, end)?;
        file.sync()?;
        at = end;
    }
    Ok(())
}
