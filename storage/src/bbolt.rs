//! etcd's file format: a bbolt database, read and written without bbolt.
//!
//! ```text
//! page: id u64 | flags u16 | count u16 | overflow u32 | body      (little endian, 16 bytes of header)
//! meta (pages 0 and 1): magic u32 | version u32 | page size u32 | flags u32 | root page u64 |
//!     sequence u64 | freelist page u64 | pages u64 | transaction u64 | FNV-1a of all before u64
//! leaf element: flags u32 | offset u32 | key length u32 | value length u32
//! branch element: offset u32 | key length u32 | page u64        (offsets count from the element)
//! bucket (a value of a leaf element with flag 1): root page u64 | sequence u64 | where the root
//!     is 0, a leaf page of its own ("inline")
//! ```
//! A page with an overflow of N is N pages longer. The newer valid meta page counts.
//!
//! Invariants:
//! - the reader is total: any bytes give pairs or an error, in bounded memory and in time
//!   proportional to the file;
//! - the writer streams: it holds one page for each level of a tree, whatever the size;
//! - keys of a bucket ascend strictly, read or written.
//!
//! Absent: changing a file, nested buckets below the first level, reading the freelist (no page
//! on it is reachable).
//!
//! Source: the file format as documented and as etcd 3.4 to 3.6 write it.

mod page;
mod reader;
mod writer;

use std::io;

pub use self::{
    reader::{Place, Reader, Source},
    writer::Writer,
};

/// Why a file cannot be read as a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    #[error("cannot read or write the database file")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error(
        "no etcd database: {0}; give a file made by `snapshot save`, or member/snap/db of a \
             stopped etcd"
    )]
    NotADatabase(&'static str),
    /// Its end is missing.
    #[error("the file is cut short: {have} of {want} bytes are there; copy or save it again")]
    CutShort {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        want: u64,
    },
    /// Its pages do not fit together.
    #[error("page {page} is damaged: {detail}; copy or save the file again")]
    Damaged {
        /// Number of the page.
        page: u64,
        /// What does not hold.
        detail: &'static str,
    },
    /// The bucket that a caller needs is not there, or its rows are none of etcd's.
    #[error("no etcd data: {0}; save the file again from a running etcd")]
    NotEtcd(String),
}

#[cfg(test)]
mod tests;
