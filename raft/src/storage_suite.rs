//! openraft's own storage test suite over our log store and state machine.

use std::sync::Arc;

use openraft::{
    StorageError,
    storage::{IOFlushed, RaftLogStorage as _},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt as _,
};
use parking_lot::RwLock;
use tempfile::TempDir;
use tripod_storage::{
    apply::StateMachine,
    engine::{Engine, MemoryEngine},
    log::WalOptions,
};

use crate::{
    fatal::Fatal,
    flusher::{FlushSettings, Flusher},
    hub::Hub,
    log_store::{Durable, LogStore},
    queue::Queues,
    snapshot::SnapshotDir,
    state_machine::StateStore,
    types::{Entry, Payload, TypeConfig, log_id},
};

struct Builder {
    cache_bytes: usize,
}

/// Ends the flush thread with the test.
struct Guard(Flusher, #[expect(dead_code, reason = "removed on drop")] TempDir);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl StoreBuilder<TypeConfig, LogStore, StateStore, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, StateStore), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let fatal = Fatal::new(Arc::new(|_| {}));
        let durable = Durable::default();
        // The suite purges what no engine has; a member never does.
        durable.advance(u64::MAX);
        let options = WalOptions { segment_bytes: 1 << 16 };
        let log = LogStore::open(
            &dir.path().join("wal"),
            options,
            self.cache_bytes,
            durable.clone(),
            fatal.clone(),
        )
        .unwrap();
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let state = StateMachine::open(engine.clone(), Default::default()).unwrap();
        let state = Arc::new(RwLock::new(state));
        let hour = std::time::Duration::from_secs(3600);
        let settings = FlushSettings {
            bytes: 1 << 20,
            interval: hour,
            sync_interval: hour,
            compact_keys: 512,
            compact_pause: std::time::Duration::from_millis(2),
        };
        let flusher =
            Flusher::start(state.clone(), engine.clone(), settings, durable, fatal.clone())
                .unwrap();
        let hub = Arc::new(Hub::new(1, Arc::new(Queues::new(1 << 20))));
        hub.set_running();
        let snapshots = SnapshotDir::open(dir.path()).unwrap();
        let store = StateStore::new(state, engine, snapshots, hub, flusher.clone(), 1 << 30, fatal)
            .unwrap();
        Ok((Guard(flusher, dir), log, store))
    }
}

#[tokio::test]
async fn openraft_storage_suite_holds_with_entries_in_the_cache() {
    Suite::test_all(Builder { cache_bytes: 1 << 20 }).await.unwrap();
}

#[tokio::test]
async fn openraft_storage_suite_holds_with_entries_read_from_disk() {
    Suite::test_all(Builder { cache_bytes: 1 }).await.unwrap();
}

#[tokio::test]
async fn a_deferred_append_is_acknowledged_by_the_sync_and_not_before() {
    let (_guard, mut log, _) = Builder { cache_bytes: 1 << 20 }.build().await.unwrap();
    log.set_deferred(true);
    let (sender, mut flushed) = TypeConfig::oneshot();
    let entry = Entry { log_id: log_id(1, 0), payload: Payload::Blank };
    log.append([entry], IOFlushed::signal(sender)).await.unwrap();
    assert!(flushed.try_recv().is_err(), "acknowledged before it is on disk");
    assert_eq!(log.syncs(), 0);
    log.sync_now().unwrap();
    assert!(matches!(flushed.try_recv(), Ok(Ok(()))));
    assert_eq!(log.syncs(), 1);
}
