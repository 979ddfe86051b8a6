//! A sled store that can be rewritten while it is in use, to give space back to the file system.
//!
//! sled keeps the space of removed pairs for itself. So the pairs are copied into a second store
//! beside the first, and a small file names the store in use:
//!
//! ```text
//! DIR            the first store, in use where there is no DIR.current
//! DIR.N          the store after the N-th rewriting
//! DIR.current    the number N
//! ```
//! While a copy is made every batch goes to both stores, one page of the copy or one batch at a
//! time, so writers wait for a page at most and readers for nothing.
//!
//! Invariants:
//! - the number changes by one atomic rename, after the new store is on disk with everything the
//!   old one has: a crash at any point leaves a whole store in use;
//! - stores that are not in use are removed, at the latest at the next open;
//! - a fault of the copy ends the rewriting and nothing else.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use bytes::Bytes;

use super::{Engine, SledEngine, SledOptions, WriteBatch};
use crate::Error;

/// Pairs copied under one lock: with full history blocks about 1 MiB.
const PAGE_PAIRS: usize = 64;
/// Pages copied between two syncs, so that the new store's memory stays small.
const PAGES_PER_SYNC: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct RewritableEngine {
    dir: PathBuf,
    options: SledOptions,
    /// The store in use.
    current: RwLock<Arc<SledEngine>>,
    /// Held by every change of a store.
    writer: Mutex<Writer>,
    /// Held by a rewriting: one at a time.
    rewriting: Mutex<()>,
}

#[derive(Debug)]
struct Writer {
    number: u64,
    /// The store being filled, which gets every batch too.
    copy: Option<Arc<SledEngine>>,
}

impl RewritableEngine {
    /// Opens the store of `dir`, making it if need be, and removes what a rewriting that was
    /// cut short left behind.
    ///
    /// # Errors
    /// As [`SledEngine::open`]; [`Error::Corrupt`] where the number in use cannot be read.
    pub fn open(dir: &Path, options: &SledOptions) -> Result<Self, Error> {
        let number = read_number(dir)?;
        let engine = SledEngine::open(&store_dir(dir, number), options)?;
        remove_others(dir, number);
        Ok(Self {
            dir: dir.to_owned(),
            options: options.clone(),
            current: RwLock::new(Arc::new(engine)),
            writer: Mutex::new(Writer { number, copy: None }),
            rewriting: Mutex::new(()),
        })
    }

    fn current(&self) -> Arc<SledEngine> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    // No change below panics half way, so a poisoned lock still guards a whole state.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills a new store and puts it in use; false where the copy was given up, because the
    /// store was cleared or the copy had a fault.
    fn rewrite(&self) -> Result<bool, Error> {
        let number = self.writer().number + 1;
        let target = store_dir(&self.dir, number);
        remove_dir(&target)?;
        let copy = Arc::new(SledEngine::open(&target, &self.options)?);
        self.writer().copy = Some(copy.clone());
        let filled = self.fill(&copy);
        let mut writer = self.writer();
        if writer.copy.take().is_none() || !filled? {
            return Ok(false);
        }
        copy.sync()?;
        write_number(&self.dir, number)?;
        writer.number = number;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, copy);
        drop(current);
        drop(writer);
        // Takes a while: it writes out what it holds.
        drop(old);
        Ok(true)
    }

    /// Copies all pairs; false where the copy was given up meanwhile.
    fn fill(&self, copy: &SledEngine) -> Result<bool, Error> {
        let mut after: Option<Bytes> = None;
        for page in 0_usize.. {
            let writer = self.writer();
            if writer.copy.is_none() {
                return Ok(false);
            }
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let pairs = self.current().scan((from, Bound::Unbounded), PAGE_PAIRS)?;
            let Some((last, _)) = pairs.last() else { return Ok(true) };
            after = Some(last.clone());
            let writes = pairs.into_iter().map(|(key, value)| (key.to_vec(), Some(value.to_vec())));
            copy.write(WriteBatch { writes: writes.collect(), ..WriteBatch::default() })?;
            drop(writer);
            if page % PAGES_PER_SYNC == 0 {
                copy.sync()?;
            }
        }
        Ok(true)
    }
}

impl Engine for RewritableEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.current().get(key)
    }

    fn scan(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.current().scan(range, limit)
    }

    fn last_at_or_below(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        self.current().last_at_or_below(key)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        let mut writer = self.writer();
        if let Some(copy) = &writer.copy
            && let Err(error) = copy.write(batch.clone())
        {
            tracing::warn!(%error, "the engine is not rewritten: its copy cannot be written");
            writer.copy = None;
        }
        self.current().write(batch)
    }

    fn sync(&self) -> Result<(), Error> {
        // Not under the writer's lock: a change of stores syncs the new one itself.
        self.current().sync()
    }

    fn size_bytes(&self) -> Result<u64, Error> {
        self.current().size_bytes()
    }

    fn clear(&self) -> Result<(), Error> {
        let mut writer = self.writer();
        writer.copy = None;
        self.current().clear()
    }

    fn give_back_space(&self) -> Result<(), Error> {
        let _one = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.rewrite();
        let mut writer = self.writer();
        writer.copy = None;
        remove_others(&self.dir, writer.number);
        drop(writer);
        match done? {
            true => Ok(()),
            false => Err(Error::Io {
                action: format!("rewrite {}", self.dir.display()),
                source: io::Error::other("the copy was given up; ask again later"),
            }),
        }
    }
}

/// Folder of the store with a number.
fn store_dir(dir: &Path, number: u64) -> PathBuf {
    if number == 0 { dir.to_owned() } else { beside(dir, &format!(".{number}")) }
}

/// `dir` with something behind its name.
fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io_error(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let action = format!("{action} {}", path.display());
    move |source| Error::Io { action, source }
}

fn read_number(dir: &Path) -> Result<u64, Error> {
    let path = beside(dir, ".current");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| Error::Corrupt {
            what: path.display().to_string(),
            detail: "it holds no number".into(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// Whole or not at all, and on disk when this returns.
fn write_number(dir: &Path, number: u64) -> Result<(), Error> {
    let (path, part) = (beside(dir, ".current"), beside(dir, ".current.part"));
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(number.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(io_error("write", &path))
}

fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Removes the stores beside the one in use. What cannot be removed is tried at the next open.
fn remove_others(dir: &Path, number: u64) {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(own), Some(parent)) = (name(dir), dir.parent()) else { return };
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let Some(found) = name(&entry.path()) else { continue };
        let found = match found.strip_prefix(&own) {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix('.').and_then(|rest| rest.parse().ok()),
            None => None,
        };
        if found.is_some_and(|found: u64| found != number)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, "a store that is not in use cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(pairs: impl IntoIterator<Item = (u32, Option<u8>)>) -> WriteBatch {
        let writes = pairs
            .into_iter()
            .map(|(key, value)| (key.to_be_bytes().to_vec(), value.map(|value| vec![value; 8000])));
        WriteBatch { writes: writes.collect(), ..WriteBatch::default() }
    }

    fn open(dir: &Path) -> RewritableEngine {
        RewritableEngine::open(&dir.join("db"), &SledOptions::default()).unwrap()
    }

    fn bytes_below(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).unwrap().flatten();
        entries
            .map(|entry| match entry.metadata().unwrap() {
                meta if meta.is_dir() => bytes_below(&entry.path()),
                meta => meta.len(),
            })
            .sum()
    }

    fn all(engine: &dyn Engine) -> Vec<(Bytes, Bytes)> {
        engine.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX).unwrap()
    }

    #[test]
    fn space_of_removed_pairs_goes_back_to_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        for from in (0..4000).step_by(100) {
            engine.write(batch((from..from + 100).map(|key| (key, Some(1))))).unwrap();
        }
        engine.write(batch((100..4000).map(|key| (key, None)))).unwrap();
        engine.sync().unwrap();
        let (pairs, before) = (all(&engine), bytes_below(dir.path()));
        engine.give_back_space().unwrap();
        let after = bytes_below(dir.path());
        assert!(after * 4 < before, "{before} bytes became {after}");
        assert!(all(&engine) == pairs);
        drop(engine);
        assert!(all(&open(dir.path())) == pairs, "after a restart");
    }

    #[test]
    fn what_is_written_meanwhile_is_in_the_new_store() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        for from in (0..2000).step_by(100) {
            engine.write(batch((from..from + 100).map(|key| (key, Some(1))))).unwrap();
        }
        std::thread::scope(|scope| {
            let rewriting = scope.spawn(|| engine.give_back_space());
            for key in (0..2000).rev().step_by(3) {
                let value = if key % 2 == 0 { Some(2) } else { None };
                engine.write(batch([(key, value)])).unwrap();
            }
            rewriting.join().unwrap().unwrap();
        });
        let pairs = all(&engine);
        drop(engine);
        assert!(all(&open(dir.path())) == pairs, "after a restart");
        for (key, value) in pairs {
            let key = u32::from_be_bytes(key[..].try_into().unwrap());
            let changed = (1999 - key) % 3 == 0;
            assert!(!changed || key % 2 == 0, "{key} was removed");
            assert_eq!(value[0], if changed { 2 } else { 1 }, "{key}");
        }
    }

    #[test]
    fn a_rewriting_that_was_cut_short_leaves_the_old_store_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        engine.write(batch([(1, Some(1)), (2, Some(2))])).unwrap();
        engine.sync().unwrap();
        let pairs = all(&engine);
        drop(engine);
        // As a crash in the middle of a copy leaves it, and just before the rename.
        let part = SledEngine::open(&dir.path().join("db.1"), &SledOptions::default()).unwrap();
        part.write(batch([(1, Some(9))])).unwrap();
        part.sync().unwrap();
        drop(part);
        fs::write(dir.path().join("db.current.part"), "1").unwrap();
        let engine = open(dir.path());
        assert_eq!(all(&engine), pairs);
        assert!(!dir.path().join("db.1").exists());
        engine.give_back_space().unwrap();
        assert_eq!(all(&engine), pairs);
        assert!(dir.path().join("db.1").exists() && !dir.path().join("db").exists());
        drop(engine);
        // As a crash between the rename and the removal leaves it.
        fs::create_dir(dir.path().join("db")).unwrap();
        let engine = open(dir.path());
        assert_eq!(all(&engine), pairs);
        assert!(!dir.path().join("db").exists());
    }

    #[test]
    fn clearing_ends_a_rewriting_and_a_number_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        engine.write(batch([(1, Some(1))])).unwrap();
        engine.clear().unwrap();
        engine.give_back_space().unwrap();
        assert_eq!(all(&engine), []);
        drop(engine);
        fs::write(dir.path().join("db.current"), "two").unwrap();
        let refused = RewritableEngine::open(&dir.path().join("db"), &SledOptions::default());
        assert!(matches!(refused, Err(Error::Corrupt { .. })));
    }
}
