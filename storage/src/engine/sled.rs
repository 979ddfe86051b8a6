//! sled 0.34 as the engine on disk.
//!
//! All pairs live in sled's default tree. sled's own background flush is off: the caller decides
//! when to sync. sled locks its directory; a second opener is refused.

use std::{fmt, fs, io, ops::Bound, path::Path, thread, time::Duration};

use bytes::Bytes;
use sled::IVec;

use super::{Engine, WriteBatch, evict::Evictor, is_empty_range, places};
use crate::Error;

/// Keys that `clear` removes in one batch. sled loads the page of each and keeps all of them until
/// the batch is done: with records of 64 KB many keys are much memory.
const CLEAR_KEYS_MAX: usize = 128;

/// One collection frees up to 512 objects; a write leaves a few behind.
const WRITES_PER_COLLECTION: usize = 64;
/// Two advances of the epoch make garbage free for collection.
const COLLECTIONS_MIN: usize = 8;

/// sled frees its lock some time after the store is dropped (its threads and deferred garbage
/// still hold it), so a program that closes and opens again tries this often, this far apart.
const LOCK_ATTEMPTS_MAX: u32 = 40;
const LOCK_RETRY: Duration = Duration::from_millis(25);

/// What the removal of a pair counts as when memory is given back, in bytes: sled reads the page
/// of the pair for it.
const REMOVAL_BYTES: usize = 16 << 10;

/// How sled is run. (Its `mode` has no effect in 0.34, its compression needs a C library.)
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// Bytes of pages sled keeps in memory. It exceeds this by the 16 MB that were read or
    /// written last, until they are synced.
    pub cache_bytes: u64,
    /// Size of sled's log segments and write buffers in bytes; a power of two, 256 to 16 Mi.
    /// Fixed when the store is created.
    pub segment_bytes: usize,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 4 << 20, segment_bytes: 512 << 10 }
    }
}

/// An ordered store in a directory of its own.
pub struct SledEngine {
    db: sled::Db,
    evictor: Evictor,
}

impl fmt::Debug for SledEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // sled's own Debug prints every pair.
        formatter.debug_struct("SledEngine").finish_non_exhaustive()
    }
}

impl SledEngine {
    /// Opens the store in `dir`, making it if need be.
    ///
    /// # Errors
    /// [`Error::Engine`] where sled cannot (damaged files, another process has it open),
    /// [`Error::Io`] where the directory cannot be made or synced.
    pub fn open(dir: &Path, options: &SledOptions) -> Result<Self, Error> {
        let io = |source| Error::Io { action: format!("make {}", dir.display()), source };
        fs::create_dir_all(dir).map_err(io)?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(options.cache_bytes)
            .segment_size(options.segment_bytes)
            .flush_every_ms(None);
        let db =
            open_patiently(&config).map_err(engine_error(&format!("open {}", dir.display())))?;
        let engine = Self { evictor: Evictor::new(db.clone()), db };
        engine.sync()?;
        // sled makes its files but leaves their directory entries to chance.
        for made in [Some(dir), dir.parent()].into_iter().flatten() {
            if !made.as_os_str().is_empty() {
                fs::File::open(made).and_then(|made| made.sync_all()).map_err(io)?;
            }
        }
        Ok(engine)
    }
}

impl SledEngine {
    /// Makes room for what is about to be appended.
    pub(super) fn make_places(&self, appends: &[(Vec<u8>, Bytes)]) -> Result<(), Error> {
        places::make(&self.db, appends).map_err(engine_error("make room"))
    }
}

fn open_patiently(config: &sled::Config) -> sled::Result<sled::Db> {
    for _ in 1..LOCK_ATTEMPTS_MAX {
        match config.open() {
            Err(sled::Error::Io(error)) if is_lock_held(&error) => thread::sleep(LOCK_RETRY),
            other => return other,
        }
    }
    config.open()
}

/// sled hides the system's error code in a text.
fn is_lock_held(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("acquire lock")
}

fn engine_error(action: &str) -> impl FnOnce(sled::Error) -> Error {
    move |source| Error::Engine { action: action.to_owned(), source: Box::new(source) }
}

/// A pair that is not just a place for one to come. Copied: a sled slice may hold on to the whole
/// page it comes from.
fn copy(pair: sled::Result<(IVec, IVec)>) -> Option<sled::Result<(Bytes, Bytes)>> {
    match pair {
        Ok((_, value)) if places::is_place(&value) => None,
        Ok((key, value)) => {
            Some(Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))))
        }
        Err(error) => Some(Err(error)),
    }
}

/// Frees what sled's lock-free structures have replaced.
///
/// sled leaves this to `crossbeam-epoch`, which collects a little at every 128th operation. A
/// batch counts as one operation however large it is, so its garbage (every replaced page)
/// would pile up to many times the cache size.
pub(super) fn collect_garbage(writes: usize) {
    for _ in 0..COLLECTIONS_MIN + writes / WRITES_PER_COLLECTION {
        crossbeam_epoch::pin().flush();
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.db.get(key).map_err(engine_error("read a key"))?;
        let value = value.filter(|value| !places::is_place(value));
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if is_empty_range(&range) || limit == 0 {
            return Ok(Vec::new());
        }
        let pairs = self.db.range::<&[u8], _>(range).filter_map(copy).take(limit);
        let pairs: Vec<_> = pairs.collect::<Result<_, _>>().map_err(engine_error("scan"))?;
        let bytes = pairs.iter().map(|(_, value)| value.len()).sum();
        self.evictor.note(bytes).map_err(engine_error("let go of pages"))?;
        Ok(pairs)
    }

    fn last_at_or_below(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        let last = self.db.range::<&[u8], _>(..=key).rev().find_map(copy);
        last.transpose().map_err(engine_error("read backwards"))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.make_places(&batch.appends)?;
        let mut writes = sled::Batch::default();
        let count = batch.writes.len() + batch.appends.len();
        let mut bytes = 0;
        for (key, value) in &batch.appends {
            bytes += value.len();
            writes.insert(&key[..], &value[..]);
        }
        for (key, value) in batch.writes {
            match value {
                Some(value) => {
                    bytes += value.len();
                    writes.insert(key, value);
                }
                None => {
                    bytes += REMOVAL_BYTES;
                    writes.remove(key);
                }
            }
        }
        self.db.apply_batch(writes).map_err(engine_error("write a batch"))?;
        self.evictor.note(bytes).map_err(engine_error("let go of pages"))?;
        collect_garbage(count);
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        self.db.flush().map_err(engine_error("flush"))?;
        self.evictor.synced().map_err(engine_error("let go of pages"))
    }

    fn size_bytes(&self) -> Result<u64, Error> {
        self.db.size_on_disk().map_err(engine_error("measure its files"))
    }

    fn clear(&self) -> Result<(), Error> {
        // Not sled's `drop_tree`: a crash in the middle of it leaks the tree's pages for good.
        loop {
            let mut removals = sled::Batch::default();
            let mut removed = 0;
            for key in self.db.iter().keys().take(CLEAR_KEYS_MAX) {
                removals.remove(key.map_err(engine_error("list keys to remove"))?);
                removed += 1;
            }
            if removed == 0 {
                return self.sync();
            }
            self.db.apply_batch(removals).map_err(engine_error("remove keys"))?;
        }
    }
}
