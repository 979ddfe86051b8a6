//! The one codec of stored records, log rows and peer frames: a format byte, then bincode.
//!
//! Invariants:
//! - the first byte names the format, so that the body's encoding can be replaced;
//! - decoding never allocates more than the input's size times a small constant: a length is
//!   believed only as far as bytes are really there, whatever it claims;
//! - nesting is bounded by [`DEPTH_MAX`], so that forged input cannot exhaust the stack;
//! - the whole input must be used: bytes left over are an error, not ignored.
//!
//! Layout of the body: bincode 2, little endian, variable-length integers, fields in the order
//! of declaration and enum variants by position. Adding a field or reordering variants changes
//! the format: bump [`FORMAT`] and keep decoding the old one.

mod guard;

use serde::{Serialize, de::DeserializeOwned};

/// First byte of everything encoded here.
pub const FORMAT: u8 = 1;

/// Levels of nested values (struct in vector in variant ...) that decoding follows. A
/// transaction nested in a transaction takes about 5.
pub const DEPTH_MAX: u32 = 256;

/// Why bytes are not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing at all, not even a format byte.
    #[error("empty record")]
    Empty,
    /// Written by another version of this program.
    #[error("unknown record format {0}, this version reads {FORMAT}")]
    Format(u8),
    /// More bytes than the caller allows.
    #[error("record of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The body does not decode.
    #[error("malformed record: {0}")]
    Malformed(String),
    /// The body ends before the input does.
    #[error("{0} bytes left over after a record")]
    TrailingBytes(usize),
}

/// The encoding of `value`, format byte first.
///
/// # Panics
/// If the type's `Serialize` refuses (a sequence of unknown length, a custom error). Types of
/// this workspace derive it and never do.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_into(value, &mut out);
    out
}

/// Appends the encoding of `value` to `out`, format byte first.
///
/// # Panics
/// As [`encode`].
pub fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    out.push(FORMAT);
    bincode::serde::encode_into_writer(value, guard::Appender(out), guard::CONFIG)
        .expect("derived serialization into memory does not fail");
}

/// The value that `bytes` encode, all of them.
///
/// Cost: O(bytes) time and memory, whatever lengths the bytes claim.
///
/// # Errors
/// [`Error`] if the bytes are not exactly one value of this format.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let (&format, body) = bytes.split_first().ok_or(Error::Empty)?;
    if format != FORMAT {
        return Err(Error::Format(format));
    }
    guard::decode(body)
}

/// As [`decode`], refusing more than `limit` bytes before looking at them.
///
/// # Errors
/// As [`decode`], and [`Error::TooLong`].
pub fn decode_limited<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, Error> {
    if bytes.len() > limit {
        return Err(Error::TooLong { len: bytes.len(), limit });
    }
    decode(bytes)
}

#[cfg(test)]
mod tests;
