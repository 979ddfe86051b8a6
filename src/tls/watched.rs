//! Something made of files, made anew when they change.
//!
//! Looked at when it is used, at most once an interval. If the new files cannot be used, the old
//! thing stays in use, one log line says why, and every further look tries again: a certificate
//! and its key are seldom replaced in the same instant.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Error;

/// Shortest time between two looks at the files.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// What tells two states of a file apart; renames into its place included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            inode: meta.ino(),
            length: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

type Load<T> = Box<dyn Fn() -> Result<T, Error> + Send + Sync>;

/// A value of type `T` that follows its files.
pub(super) struct Watched<T> {
    paths: Vec<PathBuf>,
    interval: Duration,
    load: Load<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    looked_at: Instant,
    /// What was wrong at the last look, so that it is said once.
    complaint: Option<String>,
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Loads for the first time. Empty paths are none.
    ///
    /// # Errors
    /// What `load` says: there is no last good state to fall back to.
    pub(super) fn new(
        paths: Vec<PathBuf>,
        interval: Duration,
        now: Instant,
        load: Load<T>,
    ) -> Result<Self, Error> {
        let paths: Vec<PathBuf> =
            paths.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
        // Before loading, so that a change in between is noticed at the next look.
        let stamps = paths.iter().map(|path| Stamp::of(path)).collect();
        let current = Arc::new(load()?);
        let state = State { current, stamps, looked_at: now, complaint: None };
        Ok(Self { paths, interval, load, state: Mutex::new(state) })
    }

    /// The newest good state.
    pub(super) fn current(&self, now: Instant) -> Arc<T> {
        let mut state = self.state.lock();
        if now.saturating_duration_since(state.looked_at) < self.interval {
            return Arc::clone(&state.current);
        }
        state.looked_at = now;
        let stamps: Vec<_> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        if stamps == state.stamps && state.complaint.is_none() {
            return Arc::clone(&state.current);
        }
        match (self.load)() {
            Ok(new) => {
                tracing::info!(files = ?self.paths, "read changed certificate files");
                state.current = Arc::new(new);
                state.stamps = stamps;
                state.complaint = None;
            }
            Err(error) => {
                let complaint = error.with_causes();
                if state.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(
                        reason = complaint,
                        "changed certificate files cannot be used; the last good ones stay in use"
                    );
                    state.complaint = Some(complaint);
                }
            }
        }
        Arc::clone(&state.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_again_when_they_change_and_the_last_good_state_stays() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        fs::write(&path, "one").unwrap();
        let of_load = path.clone();
        let load: Load<String> = Box::new(move || {
            let text = fs::read_to_string(&of_load).unwrap_or_default();
            if text.is_empty() { Err(Error::Settings("empty".into())) } else { Ok(text) }
        });
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let watched = Watched::new(vec![path.clone()], second, start, load).unwrap();
        fs::write(&path, "second").unwrap();
        assert_eq!(*watched.current(start + second / 2), "one", "not looked at yet");
        assert_eq!(*watched.current(start + second), "second");
        fs::write(&path, "").unwrap();
        assert_eq!(*watched.current(start + 2 * second), "second", "the last good one");
        fs::remove_file(&path).unwrap();
        assert_eq!(*watched.current(start + 3 * second), "second", "also when it is gone");
        fs::write(&path, "three").unwrap();
        assert_eq!(*watched.current(start + 4 * second), "three");
    }
}
