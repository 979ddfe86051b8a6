//! Ordered bytes on disk or in memory, written in atomic batches.
//!
//! Contract stub: signatures are agreed, bodies are being written.
#![allow(missing_docs)]

use std::ops::Bound;

use bytes::Bytes;

use crate::Error;

/// Puts and deletes that become visible and durable together.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// Key and new value; `None` deletes.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// One ordered key space of bytes. Shared by the writer thread and readers.
pub trait Engine: std::fmt::Debug + Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;
    /// Up to `limit` pairs in ascending order.
    fn scan(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error>;
    /// The greatest pair at or below `key`.
    fn last_at_or_below(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error>;
    /// Atomic, visible at once, durable after `sync`.
    fn write(&self, batch: WriteBatch) -> Result<(), Error>;
    /// Everything written before is on disk.
    fn sync(&self) -> Result<(), Error>;
    /// Bytes on disk (memory engine: bytes held).
    fn size_bytes(&self) -> Result<u64, Error>;
    /// Removes everything (before a snapshot is installed).
    fn clear(&self) -> Result<(), Error>;
}
