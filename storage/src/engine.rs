//! Ordered bytes on disk or in memory, written in atomic batches.
//!
//! | engine | for |
//! |---|---|
//! | [`RewritableEngine`] | a member's data directory |
//! | [`SledEngine`] | one store below it |
//! | [`MemoryEngine`] | tests and simulation; can lose its unsynced tail on demand |
//!
//! Invariants, which one shared test set holds both engines to:
//! - a batch is visible at once and survives a crash as a whole or not at all;
//! - after `sync` every earlier batch survives a crash; without it, batches may be lost, but
//!   only the latest ones: what is found at open is a prefix of what was written;
//! - a scan started during a write may see some pairs from before and some from after it.

mod evict;
mod memory;
mod places;
mod rewritable;
mod sled;

use std::ops::Bound;

use bytes::Bytes;

pub use self::{
    memory::MemoryEngine,
    rewritable::RewritableEngine,
    sled::{SledEngine, SledOptions},
};
use crate::Error;

/// Puts and deletes that become visible and durable together. Of several writes of one key
/// the last wins.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// Key and new value; `None` deletes.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Pairs in ascending order whose keys the engine does not have and `writes` does not name:
    /// an engine may make room for them first, which saves it moving large values about.
    pub appends: Vec<(Vec<u8>, Bytes)>,
}

/// One ordered key space of bytes. Shared by the writer thread and readers.
pub trait Engine: std::fmt::Debug + Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`Error::Engine`] as for every operation here: the node must stop.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Up to `limit` pairs in ascending order of keys. An inverted range is empty.
    ///
    /// # Errors
    /// [`Error::Engine`].
    fn scan(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error>;

    /// The greatest pair at or below `key`.
    ///
    /// # Errors
    /// [`Error::Engine`].
    fn last_at_or_below(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error>;

    /// Writes a batch: atomic, visible at once, durable after [`Engine::sync`].
    ///
    /// Cost: the engine may hold every page that the batch touches in memory until the batch
    /// is done, those of deleted keys too. Keep a batch to a few MB of old and new values.
    ///
    /// # Errors
    /// [`Error::Engine`].
    fn write(&self, batch: WriteBatch) -> Result<(), Error>;

    /// Returns when everything written before is on disk.
    ///
    /// # Errors
    /// [`Error::Engine`].
    fn sync(&self) -> Result<(), Error>;

    /// Bytes on disk (memory engine: bytes held).
    ///
    /// # Errors
    /// [`Error::Engine`].
    fn size_bytes(&self) -> Result<u64, Error>;

    /// Removes everything (before a snapshot is installed), durably. Not atomic: after a crash
    /// in between, any part may still be there.
    ///
    /// # Errors
    /// [`Error::Engine`].
    fn clear(&self) -> Result<(), Error>;

    /// Gives the space of what was removed back to the file system, where the engine keeps it
    /// for itself. Reads and writes go on meanwhile. Blocks: reads and writes everything.
    ///
    /// # Errors
    /// Nothing was changed: the engine serves as before, so the node need not stop.
    fn give_back_space(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// True where no key can lie between the bounds; ordered maps panic or err on some of these.
fn is_empty_range(range: &(Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    use Bound::{Excluded, Included, Unbounded};
    match (range.0, range.1) {
        (Unbounded, Unbounded | Included(_)) | (_, Unbounded) => false,
        (Unbounded, Excluded(end)) => end.is_empty(),
        (Included(start), Included(end)) => start > end,
        (Included(start) | Excluded(start), Excluded(end)) | (Excluded(start), Included(end)) => {
            start >= end
        }
    }
}

#[cfg(test)]
mod tests;
