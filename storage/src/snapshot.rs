//! The whole state out and in, in checked chunks; never the whole of it in memory.
//!
//! ```text
//! chunk: kind u8 | sequence u32 | crc32c of kind, sequence, payload u32 | payload   (little endian)
//! header (first): magic | format u8 | revision i64 | compact revision i64 | applied mark
//! rows (any number): count u32, then key length u32 | value length u32 | key | value
//! trailer (last): rows u64 | bytes of keys and values u64
//! ```
//! Rows are those of the engine (`keys`): small tables first, then history blocks in order,
//! without what compaction dropped.

mod export;
mod fuzz;
mod import;

use bytes::Bytes;

pub(crate) use self::import::{complete, mark_incomplete};
pub use self::{export::Export, fuzz::fuzz_chunks, import::Importer};
use crate::{Error, Revision, apply::Mark, keys::corrupt};

/// A chunk is closed once its payload reaches this many bytes.
pub const CHUNK_BYTES_FULL: usize = 1 << 20;

/// Larger chunks are refused: a block holds at most one request beyond its full size.
pub const CHUNK_BYTES_MAX: usize = 256 << 20;

const MAGIC: &[u8; 8] = b"tripod-s";
const FORMAT: u8 = 1;

const HEADER: u8 = 1;
const ROWS: u8 = 2;
const TRAILER: u8 = 3;

const CRC_AT: usize = 5;
const PAYLOAD_AT: usize = 9;

/// What a snapshot says about itself in its first chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Revision of the state.
    pub revision: Revision,
    /// Reads below it are refused; -1 where nothing was compacted.
    pub compact_revision: Revision,
    /// How far the log is in it; `None` for a state to which nothing was applied.
    pub mark: Option<Mark>,
}

impl Header {
    /// Reads the first chunk of a snapshot alone.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn of_chunk(chunk: &[u8]) -> Result<Self, Error> {
        match open_chunk(chunk, 0)? {
            (HEADER, payload) => Self::decode(payload),
            _ => Err(broken("it does not begin with a header")),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(FORMAT);
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&self.compact_revision.to_le_bytes());
        if let Some(mark) = &self.mark {
            out.extend_from_slice(&mark.index.to_le_bytes());
            out.extend_from_slice(&mark.payload);
        }
        out
    }

    fn decode(payload: &[u8]) -> Result<Self, Error> {
        let rest = payload.strip_prefix(MAGIC).ok_or_else(|| broken("it is no snapshot"))?;
        let (&format, mut rest) =
            rest.split_first().ok_or_else(|| broken("its header is short"))?;
        if format != FORMAT {
            return Err(broken(&format!("unknown format {format}, this version reads {FORMAT}")));
        }
        let mut number = || {
            let (number, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(i64::from_le_bytes(*number))
        };
        let (Some(revision), Some(compact_revision)) = (number(), number()) else {
            return Err(broken("its header is short"));
        };
        let mark = match number() {
            Some(index) => {
                Some(Mark { index: index.cast_unsigned(), payload: Bytes::copy_from_slice(rest) })
            }
            None if rest.is_empty() => None,
            None => return Err(broken("its header is odd")),
        };
        Ok(Self { revision, compact_revision, mark })
    }
}

fn seal_chunk(kind: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(PAYLOAD_AT + payload.len());
    chunk.push(kind);
    chunk.extend_from_slice(&sequence.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&chunk), payload);
    chunk.extend_from_slice(&crc.to_le_bytes());
    chunk.extend_from_slice(payload);
    chunk
}

/// Kind and payload of a chunk that is whole and in its place.
fn open_chunk(chunk: &[u8], sequence: u32) -> Result<(u8, &[u8]), Error> {
    if chunk.len() > CHUNK_BYTES_MAX {
        return Err(broken("a chunk is too long"));
    }
    let (head, payload) =
        chunk.split_at_checked(PAYLOAD_AT).ok_or_else(|| broken("a chunk is cut short"))?;
    let (named, crc) = head.split_at(CRC_AT);
    if crc32c::crc32c_append(crc32c::crc32c(named), payload).to_le_bytes() != *crc {
        return Err(broken(&format!("the checksum of chunk {sequence} does not match")));
    }
    if named.get(1..) != Some(&sequence.to_le_bytes()[..]) {
        return Err(broken(&format!("chunk {sequence} is missing or out of order")));
    }
    Ok((named.first().copied().unwrap_or_default(), payload))
}

fn broken(detail: &str) -> Error {
    corrupt("snapshot", detail)
}

#[cfg(test)]
mod tests;
