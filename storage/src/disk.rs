//! The disk as the log sees it: one flat directory of files, with every durability step named.
//!
//! | disk | for |
//! |---|---|
//! | [`DirDisk`] | a directory of the real file system |
//! | [`FaultDisk`] | tests and simulation: power cuts, torn writes, failing syncs, a full disk |
//!
//! What callers may rely on, and what [`FaultDisk`] takes away as far as it is allowed to:
//! - a file's bytes are durable after its [`DiskFile::sync`], not before; at a power cut every
//!   512-byte sector written since is either old or new;
//! - a name (made, renamed, removed) is durable after [`Disk::sync`]; at a power cut the
//!   operations since survive up to some point, in their order;
//! - a failed sync leaves the state of the disk unknown, and a later sync may "succeed" without
//!   having written anything: never retry one.

mod dir;
mod fault;

use std::{fmt, io, sync::Arc};

pub use self::{
    dir::DirDisk,
    fault::{FaultDisk, Faults},
};

/// Held while a directory is in exclusive use; dropping it lets go.
pub trait DiskLock: fmt::Debug + Send + Sync {}

/// A directory. Names are plain file names without separators.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Names of all files, in ascending order.
    ///
    /// # Errors
    /// What the system says, here and for every operation.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` among others.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes an empty file.
    ///
    /// # Errors
    /// `AlreadyExists` among others.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing one of the new name.
    ///
    /// # Errors
    /// `NotFound` among others.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Open handles stay usable.
    ///
    /// # Errors
    /// `NotFound` among others.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable.
    ///
    /// # Errors
    /// What the system says; never retry.
    fn sync(&self) -> io::Result<()>;

    /// Takes the directory for this process alone.
    ///
    /// # Errors
    /// `WouldBlock` while another holder, in this or another process, has it.
    fn lock(&self) -> io::Result<Box<dyn DiskLock>>;

    /// A number that others cannot guess. Checksums start from it, so that bytes a client
    /// chose cannot pass for a record of ours.
    fn salt(&self) -> u64;

    /// Whether slow work may move to a thread. A simulated disk says no: its faults must
    /// strike at the same operation each time.
    fn allows_threads(&self) -> bool;

    /// The path, for messages.
    fn path(&self) -> String;
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Reads exactly `buffer.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file if need be.
    ///
    /// # Errors
    /// `StorageFull` among others; part of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Overwrites `from..to` with zeros that really take their space: overwriting them later
    /// needs no allocation.
    ///
    /// # Errors
    /// As [`DiskFile::write_at`].
    fn zero_fill(&self, from: u64, to: u64) -> io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut at = from;
        while at < to {
            // The minimum fits: it is at most the length of ZEROS.
            let part = usize::try_from(to - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.write_at(&ZEROS[..part], at)?;
            at += part as u64;
        }
        Ok(())
    }

    /// Makes the bytes, and the length if it changed, durable.
    ///
    /// # Errors
    /// What the system says; never retry.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// True for a file of no bytes.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros that take no space).
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

#[cfg(test)]
mod tests;
