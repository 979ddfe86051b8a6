//! Which changes of a block compaction dropped, while their block still holds them.

use super::Block;
use crate::{
    Error,
    keys::corrupt,
    types::{PackedRev, Rev},
};

/// Stored instead of a list where nothing of a block is left.
pub(crate) const ALL_DROPPED: &[u8] = b"";

const ENTRY_BYTES: usize = 12;

/// A sorted set of revisions in 12 bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeadSet {
    revs: Vec<PackedRev>,
}

impl DeadSet {
    pub(crate) fn len(&self) -> usize {
        self.revs.len()
    }

    pub(crate) fn contains(&self, rev: Rev) -> bool {
        self.revs.binary_search_by_key(&rev, |packed| packed.rev()).is_ok()
    }

    /// False where it was there already.
    pub(crate) fn insert(&mut self, rev: Rev) -> bool {
        match self.revs.binary_search_by_key(&rev, |packed| packed.rev()) {
            Ok(_) => false,
            Err(at) => {
                self.revs.insert(at, PackedRev::new(rev, false));
                true
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Rev> + '_ {
        self.revs.iter().map(|packed| packed.rev())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.revs.len() * ENTRY_BYTES);
        for rev in self.iter() {
            out.extend_from_slice(&rev.main.to_le_bytes());
            out.extend_from_slice(&rev.sub.to_le_bytes());
        }
        out
    }

    /// The stored list of `block`.
    pub(crate) fn decode(bytes: &[u8], block: &Block) -> Result<Self, Error> {
        if bytes == ALL_DROPPED {
            let revs = (0..block.len()).filter_map(|at| block.rev(at));
            return Ok(Self { revs: revs.map(|rev| PackedRev::new(rev, false)).collect() });
        }
        let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(corrupt("list of dropped changes", "its length is odd"));
        }
        let mut set = Self::default();
        for entry in entries {
            let (main, sub) = entry.split_at(8);
            let main = i64::from_le_bytes(main.try_into().unwrap_or_default());
            let sub = u32::from_le_bytes(sub.try_into().unwrap_or_default());
            set.insert(Rev { main, sub });
        }
        Ok(set)
    }
}
