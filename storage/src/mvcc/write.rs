//! Puts and deletes: index, history, leases and events together.

use std::sync::Arc;

use bytes::Bytes;

use super::{Counts, End, Store, entry::Version};
use crate::{
    Error, KeyValue, Revision,
    command::{DeleteRange, DeleteRangeResponse, Event, EventKind, Put, PutResponse},
    history::ChangeRef,
    types::Rev,
};

/// The changes of one command. Dropping it without [`Writer::finish`] would lose the revision.
#[derive(Debug)]
#[must_use]
pub(crate) struct Writer<'a> {
    pub(crate) store: &'a mut Store,
    main: Revision,
    changes: u32,
    pub(crate) counts: Counts,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(store: &'a mut Store) -> Self {
        let main = store.revision + 1;
        Self { store, main, changes: 0, counts: Counts::default() }
    }

    /// What a header shows at this point: the new revision once something has changed.
    pub(crate) fn revision(&self) -> Revision {
        if self.changes == 0 { self.main - 1 } else { self.main }
    }

    /// Makes the changes visible; returns the store's revision.
    pub(crate) fn finish(self) -> Revision {
        self.store.counts.add_command(self.counts);
        if self.changes > 0 {
            self.store.revision = self.main;
            self.store.ring.trim();
        }
        self.store.revision
    }

    /// Writes one key. The checks are done: the lease exists, and the key where a part of it
    /// is to be kept (a missing one counts as empty: apply is total).
    pub(crate) fn put(&mut self, put: &Put) -> Result<PutResponse, Error> {
        self.counts.puts += 1;
        self.counts.put_bytes += (put.key.len() + put.value.len()) as u64;
        let rev = self.next_rev();
        let key = &put.key[..];
        let Store { index, history, .. } = &mut *self.store;
        let mut kept = None;
        let mut event = None;
        // One look-up in the index for all of it: that is most of what a put costs.
        let before = index.update(key, |present| {
            if let Some(present) = present.filter(|_| put.ignore_value || put.prev_kv) {
                kept = match present.key_value(key.len()) {
                    Some(kv) => Some(kv),
                    None => Some(history.get(present.rev())?),
                };
            }
            let value = match &kept {
                Some(kept) if put.ignore_value => &kept.value,
                _ => &put.value,
            };
            let data = Bytes::from([key, value].concat());
            let change = ChangeRef {
                rev,
                tombstone: false,
                key,
                value,
                create: present.map_or(rev.main, |present| present.create),
                version: present.map_or(0, |present| present.version).saturating_add(1),
                lease: present.filter(|_| put.ignore_lease).map_or(put.lease, |kept| kept.lease),
            };
            history.push(change);
            let newest = Version::new(&change, Some(data));
            event = newest.key_value(key.len());
            Ok(newest)
        })?;
        let kv = event.unwrap_or_default();
        let detached = before.as_ref().map_or(0, |before| before.lease);
        if detached != kv.lease {
            self.store.leases.detach(detached, key);
            self.store.leases.attach(kv.lease, key);
        }
        let prev_kv = if kv.version == 1 { None } else { self.prev(key, before)? };
        self.store.ring.push(Arc::new(Event { kind: EventKind::Put, kv, prev_kv }));
        Ok(PutResponse { revision: self.main, prev_kv: kept.filter(|_| put.prev_kv) })
    }

    /// What watchers get as the version before: that at the revision before this command.
    fn prev(&self, key: &[u8], before: Option<Version>) -> Result<Option<KeyValue>, Error> {
        match before {
            None => Ok(None),
            // Changed twice in one command: the version in between was never visible.
            Some(before) if before.rev().main == self.main => {
                self.store.version_at(key, self.main - 1)
            }
            Some(before) if before.is_tombstone() => Ok(None),
            Some(before) => Ok(before.into_key_value(key.len())),
        }
    }

    fn next_rev(&mut self) -> Rev {
        let rev = Rev { main: self.main, sub: self.changes };
        self.changes += 1;
        rev
    }

    /// Deletes a range.
    pub(crate) fn delete_range(
        &mut self,
        delete: &DeleteRange,
    ) -> Result<DeleteRangeResponse, Error> {
        self.counts.deletes += 1;
        let end = End::new(&delete.range_end);
        let start = std::ops::Bound::Included(&delete.key[..]);
        let keys: Vec<Box<[u8]>> = (self.store.index.range(start, end))
            .filter(|(_, entry)| entry.is_live())
            .map(|(key, _)| Box::from(key))
            .collect();
        let mut prev_kvs = Vec::new();
        if delete.prev_kv {
            prev_kvs = self.store.newest_versions(&keys)?;
        }
        for key in &keys {
            self.delete(key)?;
        }
        let deleted = i64::try_from(keys.len()).unwrap_or(i64::MAX);
        Ok(DeleteRangeResponse { revision: self.revision(), deleted, prev_kvs })
    }

    /// Deletes one key where it is live.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<(), Error> {
        if self.store.index.live(key).is_none() {
            return Ok(());
        }
        let rev = self.next_rev();
        let store = &mut *self.store;
        let tombstone = ChangeRef { rev, tombstone: true, key, ..ChangeRef::default() };
        store.history.push(tombstone);
        let before = store.index.insert(key, Version::new(&tombstone, None));
        if let Some(before) = &before {
            store.leases.detach(before.lease, key);
        }
        let prev_kv = self.prev(key, before)?;
        let shared = prev_kv.as_ref().map(|kv| kv.key.clone());
        let key = shared.unwrap_or_else(|| Bytes::copy_from_slice(key));
        let kv = KeyValue { key, mod_revision: rev.main, ..KeyValue::default() };
        self.store.ring.push(Arc::new(Event { kind: EventKind::Delete, kv, prev_kv }));
        Ok(())
    }
}

impl Store {
    /// The newest versions of live `keys`, in their order.
    fn newest_versions(&self, keys: &[Box<[u8]>]) -> Result<Vec<KeyValue>, Error> {
        let newest = keys.iter().filter_map(|key| {
            let entry = self.index.live(key)?;
            Some((&**key, &entry.newest))
        });
        self.resolve(newest)
    }
}
