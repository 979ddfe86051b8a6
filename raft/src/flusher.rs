//! Write-behind: one thread that moves applied changes from memory into the engine.
//!
//! Nothing acknowledged depends on it, the write-ahead log has everything. It decides how long
//! recovery takes and how far the log may be cut: only behind a finished `Engine::sync`.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{Notify, oneshot};
use tripod_storage::{
    apply::{Mark, StateMachine},
    engine::Engine,
};

use crate::{Error, fatal::Fatal, log_store::Durable, measures::Histogram};

/// Bytes written to the engine without a sync after which one is made.
const SYNC_BYTES: u64 = 64 << 20;

/// When to flush and sync.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlushSettings {
    pub(crate) bytes: u64,
    pub(crate) interval: Duration,
    pub(crate) sync_interval: Duration,
    /// Keys of compacted history pruned under one write lock.
    pub(crate) compact_keys: usize,
    /// Pause between two pruning steps, so that readers get the lock.
    pub(crate) compact_pause: Duration,
}

#[derive(Debug, Default)]
struct Requests {
    /// Pending bytes went over the threshold.
    flush: bool,
    /// Answered once everything applied before is synced.
    sync: Vec<oneshot::Sender<Option<Mark>>>,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    state: Arc<RwLock<StateMachine>>,
    engine: Arc<dyn Engine>,
    settings: FlushSettings,
    durable: Durable,
    durable_mark: Mutex<Option<Mark>>,
    fatal: Fatal,
    requests: Mutex<Requests>,
    wake: Condvar,
    /// Held while the thread uses state and engine, and while a snapshot replaces them.
    busy: Mutex<()>,
    pending: AtomicU64,
    flushed: Notify,
    /// Told after each pruning step that left nothing to prune.
    pruned: Notify,
    abandoned: AtomicBool,
    measures: FlushMeasures,
}

/// What the thread measures.
#[derive(Debug)]
pub(crate) struct FlushMeasures {
    /// A batch for the engine, its sync included where one was made.
    pub(crate) commit: Histogram,
    pub(crate) sync: Histogram,
}

/// Handle of the write-behind thread.
#[derive(Clone, Debug)]
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Flusher {
    /// Starts the thread. The state's present mark counts as durable: it was read from there.
    pub(crate) fn start(
        state: Arc<RwLock<StateMachine>>,
        engine: Arc<dyn Engine>,
        settings: FlushSettings,
        durable: Durable,
        fatal: Fatal,
    ) -> Result<Self, Error> {
        let mark = state.read().mark().cloned();
        if let Some(mark) = &mark {
            durable.advance(mark.index + 1);
        }
        let shared = Arc::new(Shared {
            state,
            engine,
            settings,
            durable,
            durable_mark: Mutex::new(mark),
            fatal,
            requests: Mutex::default(),
            wake: Condvar::new(),
            busy: Mutex::new(()),
            pending: AtomicU64::new(0),
            flushed: Notify::new(),
            pruned: Notify::new(),
            abandoned: AtomicBool::new(false),
            measures: FlushMeasures {
                // etcd's bounds.
                commit: Histogram::of_time(Duration::from_millis(1), 14),
                sync: Histogram::of_time(Duration::from_millis(1), 14),
            },
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("tripod-flush".into())
            .spawn(move || of_thread.run())
            .map_err(|source| Error::Io { action: "start the flush thread".into(), source })?;
        Ok(Self { shared, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Notes how much is pending after an apply.
    pub(crate) fn note_pending(&self, bytes: u64) {
        self.shared.pending.store(bytes, Ordering::Relaxed);
        if bytes >= self.shared.settings.bytes {
            let mut requests = self.shared.requests.lock();
            if !requests.flush {
                requests.flush = true;
                self.shared.wake.notify_one();
            }
        }
    }

    /// What was measured since the start.
    pub(crate) fn measures(&self) -> &FlushMeasures {
        &self.shared.measures
    }

    /// Bytes applied and not in the engine, about.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.shared.pending.load(Ordering::Relaxed)
    }

    /// Waits while more than `bytes_max` is pending.
    pub(crate) async fn wait_below(&self, bytes_max: u64) {
        loop {
            let flushed = self.shared.flushed.notified();
            if self.shared.pending.load(Ordering::Relaxed) < bytes_max
                || self.shared.fatal.tripped()
            {
                return;
            }
            flushed.await;
        }
    }

    /// Makes everything applied so far durable in the engine and returns the mark it reached;
    /// `None` if nothing was ever applied or the thread has stopped.
    pub(crate) async fn sync(&self) -> Option<Mark> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut requests = self.shared.requests.lock();
            if requests.stop {
                return None;
            }
            requests.sync.push(sender);
        }
        self.shared.wake.notify_one();
        receiver.await.ok().flatten()
    }

    /// Waits for a pruning step that begins from now on and leaves nothing to prune.
    pub(crate) async fn pruned(&self) {
        let pruned = self.shared.pruned.notified();
        {
            let mut requests = self.shared.requests.lock();
            if requests.stop {
                return;
            }
            requests.flush = true;
        }
        self.shared.wake.notify_one();
        pruned.await;
    }

    /// The last mark known to be durable.
    pub(crate) fn durable_mark(&self) -> Option<Mark> {
        self.shared.durable_mark.lock().clone()
    }

    /// Keeps the thread away from state and engine while `replace` runs, which must leave the
    /// engine synced at the mark it returns.
    pub(crate) fn exclusive<E>(
        &self,
        replace: impl FnOnce() -> Result<Option<Mark>, E>,
    ) -> Result<(), E> {
        let _busy = self.shared.busy.lock();
        let mark = replace()?;
        if let Some(mark) = &mark {
            self.shared.durable.advance(mark.index + 1);
        }
        *self.shared.durable_mark.lock() = mark;
        self.shared.pending.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the thread end without writing anything more, as a crash would.
    pub(crate) fn abandon(&self) {
        self.shared.abandoned.store(true, Ordering::SeqCst);
    }

    /// Flushes and syncs everything, then ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.requests.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the flush thread panicked");
        }
        // An installation that outlives its task still has the engine.
        drop(self.shared.busy.lock());
    }
}

impl Shared {
    fn run(&self) {
        match std::panic::catch_unwind(AssertUnwindSafe(|| self.work())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.fatal.report(&error);
            }
            Err(_) => self.fatal.report_text("the flush thread panicked"),
        }
        // Whoever waits is told, also after an error.
        let mut requests = self.requests.lock();
        requests.stop = true;
        requests.sync.clear();
        self.flushed.notify_waiters();
        self.pruned.notify_waiters();
    }

    fn work(&self) -> Result<(), tripod_storage::Error> {
        let mut last_sync = Instant::now();
        let mut unsynced = 0;
        let mut more_to_prune = false;
        let mut compacted = self.state.read().compact_revision();
        loop {
            let (syncs, stop) = self.wait(more_to_prune);
            if self.fatal.tripped() || self.abandoned.load(Ordering::SeqCst) {
                return Ok(());
            }
            let _busy = self.busy.lock();
            let began = Instant::now();
            let (written, mark) = self.flush()?;
            unsynced += written;
            let due = last_sync.elapsed() >= self.settings.sync_interval || unsynced >= SYNC_BYTES;
            if stop || !syncs.is_empty() || (due && unsynced > 0) {
                let sync_began = Instant::now();
                self.engine.sync()?;
                last_sync = Instant::now();
                self.measures.sync.observe_time(last_sync - sync_began);
                unsynced = 0;
                if let Some(mark) = &mark {
                    self.durable.advance(mark.index + 1);
                }
                (*self.durable_mark.lock()).clone_from(&mark);
                for sender in syncs {
                    // A requester that is gone needs no answer.
                    let _ = sender.send(mark.clone());
                }
            }
            if written > 0 {
                self.measures.commit.observe_time(began.elapsed());
            }
            if stop {
                return Ok(());
            }
            more_to_prune = self.state.write().compact_step(self.settings.compact_keys)?;
            if !more_to_prune {
                self.pruned.notify_waiters();
                let revision = self.state.read().compact_revision();
                if revision > compacted {
                    compacted = revision;
                    tracing::info!(compact_revision = revision, "finished scheduled compaction");
                }
            }
        }
    }

    /// Waits for a request or the interval.
    fn wait(&self, more_to_prune: bool) -> (Vec<oneshot::Sender<Option<Mark>>>, bool) {
        let settings = &self.settings;
        let interval = if more_to_prune { settings.compact_pause } else { settings.interval };
        let deadline = Instant::now() + interval;
        let mut requests = self.requests.lock();
        while !(requests.flush || requests.stop || !requests.sync.is_empty()) {
            if self.wake.wait_until(&mut requests, deadline).timed_out() {
                break;
            }
        }
        requests.flush = false;
        (std::mem::take(&mut requests.sync), requests.stop)
    }

    /// Writes what is pending; returns about how many bytes, and the mark that is then in the
    /// engine.
    fn flush(&self) -> Result<(u64, Option<Mark>), tripod_storage::Error> {
        let (flush, mark, bytes) = {
            let mut state = self.state.write();
            let bytes = state.pending_bytes();
            (state.begin_flush(), state.mark().cloned(), bytes)
        };
        let Some(flush) = flush else { return Ok((0, mark)) };
        flush.write(&*self.engine)?;
        let pending = {
            let mut state = self.state.write();
            state.end_flush(flush);
            state.pending_bytes()
        };
        self.pending.store(pending, Ordering::Relaxed);
        self.flushed.notify_waiters();
        Ok((bytes.max(1), mark))
    }
}
