//! The write-ahead log: numbered rows and a few meta records in checked segments.
//!
//! Contract stub: signatures are agreed, bodies are being written.
#![allow(unused_variables, clippy::todo, missing_docs)]

use std::path::Path;

use bytes::Bytes;

use crate::Error;

/// How the log lies on disk.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Size of one segment file in bytes, zero-filled ahead.
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
    pub index: u64,
    pub payload: Bytes,
}

/// The log of one member. Single owner, no interior locking.
#[derive(Debug)]
pub struct Wal {}

impl Wal {
    pub fn open(dir: &Path, options: WalOptions) -> Result<Self, Error> {
        todo!()
    }
    /// Lowest and highest index held, `None` when empty.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        todo!()
    }
    /// The opaque payload given with the last purge (the purged log id), with its index.
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        todo!()
    }
    /// Adds a row to the write buffer. `parts` are concatenated. Indexes are contiguous.
    pub fn append(&mut self, index: u64, parts: &[&[u8]]) -> Result<(), Error> {
        todo!()
    }
    /// Sets a small named record (vote, committed, ...); last write wins; survives purge.
    pub fn set_meta(&mut self, kind: u8, payload: &[u8]) -> Result<(), Error> {
        todo!()
    }
    pub fn meta(&self, kind: u8) -> Option<Bytes> {
        todo!()
    }
    /// Drops every row after `index` (all rows for `None`). Buffered; durable after `sync`.
    pub fn truncate_after(&mut self, index: Option<u64>) -> Result<(), Error> {
        todo!()
    }
    /// Drops rows up to and including `index`, remembering `payload`. Recycles segments.
    pub fn purge_to(&mut self, index: u64, payload: &[u8]) -> Result<(), Error> {
        todo!()
    }
    /// Hands the buffer to the operating system (pwrite), without waiting for the disk.
    pub fn write(&mut self) -> Result<(), Error> {
        todo!()
    }
    /// `write`, then one fdatasync if anything is unsynced.
    pub fn sync(&mut self) -> Result<(), Error> {
        todo!()
    }
    /// Rows `from..to`, stopping after about `max_bytes` (at least one row).
    pub fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Row>, Error> {
        todo!()
    }
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }
}
