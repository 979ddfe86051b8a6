//! An ordered map that behaves like a disk: batches are lost at a crash unless synced.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;

use super::{Engine, WriteBatch, is_empty_range};
use crate::Error;

/// Keeps everything in memory. [`MemoryEngine::crash`] forgets what was not synced.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    pairs: BTreeMap<Bytes, Bytes>,
    /// What each key written since the last sync held at that sync.
    synced: BTreeMap<Bytes, Option<Bytes>>,
    bytes: u64,
}

impl State {
    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let key_bytes = key.len() as u64;
        let before = match value {
            Some(value) => {
                self.bytes += key_bytes + value.len() as u64;
                self.pairs.insert(key, value)
            }
            None => self.pairs.remove(&key),
        };
        self.bytes -= before.map_or(0, |before| key_bytes + before.len() as u64);
    }

    fn remember(&mut self, key: &Bytes) {
        if !self.synced.contains_key(key) {
            self.synced.insert(key.clone(), self.pairs.get(key).cloned());
        }
    }
}

impl MemoryEngine {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a power cut does: everything written after the last sync is gone.
    pub fn crash(&self) {
        let mut state = self.write_lock();
        for (key, value) in std::mem::take(&mut state.synced) {
            state.set(key, value);
        }
    }

    // No operation here panics half way, so a poisoned lock still guards a whole state.
    fn read_lock(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write_lock(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.read_lock().pairs.get(key).cloned())
    }

    fn scan(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if is_empty_range(&range) {
            return Ok(Vec::new());
        }
        let state = self.read_lock();
        let pairs = state.pairs.range::<[u8], _>(range).take(limit);
        Ok(pairs.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn last_at_or_below(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        let state = self.read_lock();
        let range = (Bound::Unbounded, Bound::Included(key));
        let last = state.pairs.range::<[u8], _>(range).next_back();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        let mut state = self.write_lock();
        let writes = batch.writes.into_iter().map(|(key, value)| (key, value.map(Bytes::from)));
        let appends = batch.appends.into_iter().map(|(key, value)| (key, Some(value)));
        for (key, value) in writes.chain(appends) {
            let key = Bytes::from(key);
            state.remember(&key);
            state.set(key, value);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        self.write_lock().synced.clear();
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, Error> {
        Ok(self.read_lock().bytes)
    }

    fn clear(&self) -> Result<(), Error> {
        *self.write_lock() = State::default();
        Ok(())
    }
}
