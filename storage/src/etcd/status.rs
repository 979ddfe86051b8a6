//! What `snapshot status` says about a file.

use super::{bucket, wire};
use crate::{
    Revision,
    bbolt::{Error, Place, Reader, Source},
};

/// Hash and counts of a file, as etcdutl computes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileStatus {
    /// CRC-32C over names of buckets, keys and values.
    pub hash: u32,
    /// Revision of the last change.
    pub revision: Revision,
    /// Pairs in all buckets.
    pub total_keys: u64,
    /// Bytes of the database.
    pub total_bytes: u64,
    /// Storage version, where the file names one (from etcd 3.6 on).
    pub version: String,
}

/// Reads a whole file.
///
/// # Errors
/// [`Error`]: it is damaged, or no etcd backend.
pub fn file_status<S: Source>(reader: &Reader<S>) -> Result<FileStatus, Error> {
    let mut status = FileStatus { total_bytes: reader.size_bytes(), ..FileStatus::default() };
    let mut current = Vec::new();
    let mut has_keys = false;
    reader.walk(|place| {
        match place {
            Place::Bucket(name) => {
                has_keys |= name == bucket::KEY;
                status.hash = crc32c::crc32c_append(status.hash, name);
                current = name.to_vec();
            }
            Place::Pair(key, value) => {
                status.hash = crc32c::crc32c_append(status.hash, key);
                status.hash = crc32c::crc32c_append(status.hash, value);
                status.total_keys += 1;
                if current == bucket::KEY {
                    let rev = wire::rev_of_key(key);
                    let rev = rev.ok_or_else(|| Error::NotEtcd("a key is no revision".into()))?;
                    status.revision = rev.0.main;
                }
                if current == bucket::META && key == b"storageVersion" {
                    status.version = String::from_utf8_lossy(value).into_owned();
                }
            }
        }
        Ok::<_, Error>(true)
    })?;
    if !has_keys {
        return Err(Error::NotEtcd("it has no bucket `key`".into()));
    }
    Ok(status)
}
