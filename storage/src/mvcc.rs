//! The revisioned key space: each write adds a version, reads choose a revision.
//!
//! Invariants:
//! - a command takes one new main revision if it changed a key, none if it did not;
//! - a read at revision R sees each key's newest version with `mod_revision <= R`;
//! - a read below the compact revision is refused with [`Rejected::Compacted`], equal to it is
//!   answered;
//! - whether a command can fail is decided before it changes anything.
//!
//! | room | what it does |
//! |---|---|
//! | `index`, `key` | keys in order; short ones inline |
//! | `entry`, `older` | where the versions of a key are; newest values in memory |
//! | `range` | reads with every option of etcd |
//! | `write` | puts and deletes: index, history, leases and events together |
//! | `txn` | compares, checks, then operations |
//! | [`answer`] | how much the reads of a transaction will answer |
//! | `compact` | dropping history, hashing what is kept |
//! | [`validate`] | what can be refused without the state |
//!
//! Source: etcd data model, <https://etcd.io/docs/latest/learning/data_model/>.

pub mod answer;
pub(crate) mod compact;
mod counts;
pub(crate) mod entry;
pub(crate) mod index;
mod key;
mod older;
pub(crate) mod range;
pub(crate) mod txn;
pub mod validate;
pub(crate) mod write;

use std::sync::Arc;

pub use self::counts::Counts;
use self::index::Index;
pub use self::range::RangePage;
use crate::{
    Error, KeyValue, Rejected, Revision, engine::Engine, history::History, lease::LeaseTable,
    types::KeyRange, watch::EventRing,
};

/// Revision of a store that nothing was written to.
pub(crate) const FIRST_REVISION: Revision = 1;

/// Compact revision of a store that was never compacted; etcd shows the same.
pub(crate) const NEVER_COMPACTED: Revision = -1;

/// An answer, or why it is refused; outside of it, a failure of this node.
pub(crate) type Answer<T> = Result<Result<T, Rejected>, Error>;

/// The key space with all that a change of a key touches.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) index: Index,
    pub(crate) history: History,
    pub(crate) leases: LeaseTable,
    pub(crate) ring: EventRing,
    pub(crate) revision: Revision,
    pub(crate) compact_revision: Revision,
    pub(crate) counts: Counts,
}

impl Store {
    pub(crate) fn new(engine: Arc<dyn Engine>, ring: EventRing) -> Self {
        Self {
            index: Index::default(),
            history: History::new(engine),
            leases: LeaseTable::default(),
            ring,
            revision: FIRST_REVISION,
            compact_revision: NEVER_COMPACTED,
            counts: Counts::default(),
        }
    }

    /// The version of `key` visible at `revision`; `None` where there was none or it is
    /// compacted.
    pub(crate) fn version_at(
        &self,
        key: &[u8],
        revision: Revision,
    ) -> Result<Option<KeyValue>, Error> {
        if revision < self.compact_revision {
            return Ok(None);
        }
        let Some(entry) = self.index.get(key) else { return Ok(None) };
        match entry.at(revision) {
            entry::Found::None => Ok(None),
            entry::Found::Newest(newest) => match newest.key_value(key.len()) {
                Some(kv) => Ok(Some(kv)),
                None => self.history.get(newest.rev()).map(Some),
            },
            entry::Found::Older(rev) => self.history.get(rev).map(Some),
        }
    }
}

/// Where a range of etcd's convention ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// One key.
    Single,
    /// Every key from the first on.
    Open,
    /// Exclusive.
    At(&'a [u8]),
}

impl<'a> End<'a> {
    pub(crate) fn new(range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::Single,
            [0] => Self::Open,
            end => Self::At(end),
        }
    }

    /// True where `key` lies in the range that begins at `start`.
    pub(crate) fn contains(self, start: &[u8], key: &[u8]) -> bool {
        match self {
            Self::Single => key == start,
            Self::Open => start <= key,
            Self::At(end) => start <= key && key < end,
        }
    }
}

impl KeyRange {
    /// True where `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        End::new(&self.end).contains(&self.key, key)
    }

    /// True where no key can lie in the range (an end at or below the key).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(End::new(&self.end), End::At(end) if end <= &self.key[..])
    }
}
