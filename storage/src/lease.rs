//! Leases: the replicated table, and the leader's deadlines beside it.
//!
//! The table says which leases there are and which keys hang on them; it changes only at apply
//! and knows no time. Deadlines are the leader's alone ([`Lessor`]): it proposes a revoke when
//! one passes.
//!
//! Invariant: the keys of a lease here are exactly the live keys whose newest version names it.
//!
//! Source: etcd lease API, <https://etcd.io/docs/latest/learning/api/#lease-api>.

mod feed;
mod lessor;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

pub use self::feed::LeaseChange;
pub(crate) use self::feed::LeaseFeed;
pub use self::lessor::{CHECKPOINT_INTERVAL_MS, Checkpoint, EXPIRED_RETRY_MS, Lessor, Renewal};
use crate::{
    Error, LeaseId,
    apply::LeaseInfo,
    keys::{corrupt, lease_of_key},
};

/// One lease.
#[derive(Debug, Default)]
struct Lease {
    ttl_s: i64,
    /// Checkpointed remainder; 0: none.
    remaining_s: i64,
    keys: BTreeSet<Box<[u8]>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable {
    leases: BTreeMap<LeaseId, Lease>,
}

impl LeaseTable {
    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// False where the id is taken.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl_s: i64) -> bool {
        if self.contains(id) {
            return false;
        }
        self.leases.insert(id, Lease { ttl_s, ..Lease::default() });
        true
    }

    /// Removes a lease; its keys are deleted before.
    pub(crate) fn remove(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    /// Notes the remaining time; 0, below, or the full TTL and above: forgets it. False where
    /// nothing changed.
    pub(crate) fn checkpoint(&mut self, id: LeaseId, remaining_s: i64) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        let is_part = remaining_s > 0 && remaining_s < lease.ttl_s;
        let remaining_s = if is_part { remaining_s } else { 0 };
        std::mem::replace(&mut lease.remaining_s, remaining_s) != remaining_s
    }

    /// Hangs `key` on lease `id`; 0 is none.
    pub(crate) fn attach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(Box::from(key));
        }
    }

    /// Takes `key` off lease `id`; 0 is none.
    pub(crate) fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if id == 0 {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    pub(crate) fn info(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.leases.get(&id).map(|lease| info(id, lease))
    }

    /// All leases by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = LeaseInfo> + '_ {
        self.leases.iter().map(|(&id, lease)| info(id, lease))
    }

    /// Keys of a lease, ascending.
    pub(crate) fn keys(&self, id: LeaseId) -> impl Iterator<Item = &[u8]> {
        self.leases.get(&id).into_iter().flat_map(|lease| lease.keys.iter().map(|key| &**key))
    }

    /// As [`Self::keys`], copied.
    pub(crate) fn keys_shared(&self, id: LeaseId) -> Vec<Bytes> {
        self.keys(id).map(Bytes::copy_from_slice).collect()
    }

    /// The stored row of a lease: TTL and remainder.
    pub(crate) fn row(&self, id: LeaseId) -> Option<Vec<u8>> {
        let lease = self.leases.get(&id)?;
        Some([lease.ttl_s.to_le_bytes(), lease.remaining_s.to_le_bytes()].concat())
    }

    /// Takes a stored row in.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(crate) fn load(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let id = lease_of_key(key)?;
        let (numbers, rest) = row.as_chunks::<8>();
        let (&[ttl_s, remaining_s], []) = (numbers, rest) else {
            return Err(corrupt(format!("lease {id:x}"), "its row has a wrong length"));
        };
        let ttl_s = i64::from_le_bytes(ttl_s);
        let remaining_s = i64::from_le_bytes(remaining_s);
        self.leases.insert(id, Lease { ttl_s, remaining_s, keys: BTreeSet::new() });
        Ok(())
    }
}

fn info(id: LeaseId, lease: &Lease) -> LeaseInfo {
    let remaining_s = if lease.remaining_s > 0 { lease.remaining_s } else { lease.ttl_s };
    LeaseInfo { id, ttl_s: lease.ttl_s, remaining_s }
}
