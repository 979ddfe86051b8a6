//! Plain values that every room shares.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Main revision of the store: grows by one with every command that changes a key.
///
/// A fresh store is at revision 1; the first write makes revision 2. Signed as on etcd's wire.
pub type Revision = i64;

/// Lease id; 0 means "no lease". Any other `i64` is valid, negative ones too.
pub type LeaseId = i64;

/// A full revision: the main revision and the position of one change inside it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Rev {
    /// Main revision.
    pub main: Revision,
    /// Position among the changes of one command, from 0.
    pub sub: u32,
}

/// One version of a key, as clients see it (etcd `mvccpb.KeyValue`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty where only keys were asked for.
    pub value: Bytes,
    /// Revision that created this generation.
    pub create_revision: Revision,
    /// Revision that wrote this version.
    pub mod_revision: Revision,
    /// Writes since creation, from 1.
    pub version: i64,
    /// Lease attached, 0 for none.
    pub lease: LeaseId,
}

/// Half-open byte range in etcd's convention: empty `end` is the single key, `\0` is
/// "from key on".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub key: Bytes,
    /// Exclusive end, empty for one key, `\0` for no end.
    pub end: Bytes,
}

/// A [`Rev`] and one flag in 12 bytes: the index keeps one for every key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PackedRev([u32; 3]);

const PACKED_FLAG: u32 = 1 << 31;

impl PackedRev {
    /// `rev.sub` must be below 2^31: a command has far fewer changes.
    pub(crate) fn new(rev: Rev, flag: bool) -> Self {
        let main = rev.main.cast_unsigned();
        debug_assert!(rev.sub < PACKED_FLAG);
        let sub = (rev.sub & !PACKED_FLAG) | if flag { PACKED_FLAG } else { 0 };
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of main")]
        Self([(main >> 32) as u32, main as u32, sub])
    }

    pub(crate) fn main(self) -> Revision {
        ((u64::from(self.0[0]) << 32) | u64::from(self.0[1])).cast_signed()
    }

    pub(crate) fn rev(self) -> Rev {
        Rev { main: self.main(), sub: self.0[2] & !PACKED_FLAG }
    }

    pub(crate) fn flag(self) -> bool {
        self.0[2] & PACKED_FLAG != 0
    }
}
