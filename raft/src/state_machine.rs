//! openraft's state machine over the storage crate's: applies entries, answers their callers.
//!
//! Invariants:
//! - each entry is applied under the write lock as one step, together with its mark (log id and
//!   membership), which reaches the engine in the same batch as its data;
//! - an entry that does not decode stops the member;
//! - the snapshot that openraft knows of is the last *durable* mark, so that it never cuts the
//!   log in front of what a restart would need; what is sent to a follower is the state applied
//!   when it is sent.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder, Snapshot,
    alias::SnapshotOf,
    storage::{EntryResponder, RaftStateMachine},
};
use parking_lot::RwLock;
use tripod_storage::{
    apply::{Mark, StateMachine},
    codec,
    engine::Engine,
};

use crate::{
    fatal::{Fatal, REMOVED},
    flusher::Flusher,
    hub::Hub,
    port::Delivery,
    row::{self, ROW_HEADER_BYTES},
    slow::SlowSteps,
    snapshot::{Outgoing, Received, SnapshotDir},
    types::{
        Entry, LogId, MalformedBatch, Membership, NodeId, Payload, SnapshotMeta, StoredMembership,
        TypeConfig,
    },
};

/// How long a member that was removed still answers.
const LEAVE_AFTER: Duration = Duration::from_secs(1);

/// The last applied log id and membership, as stored beside the data.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedState {
    pub(crate) log_id: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Ids that were members once and must not come back.
    pub(crate) removed: BTreeSet<NodeId>,
    /// Encoding of membership and removed ids, which most marks share.
    encoded: Bytes,
}

/// A mark that is not what this crate writes.
#[derive(Debug, thiserror::Error)]
#[error("applied mark is corrupt: {0}")]
pub(crate) struct MalformedMark(String);

impl AppliedState {
    /// The mark of a state to which nothing but `membership` was applied.
    pub(crate) fn founding(founding: LogId, membership: Membership) -> Mark {
        let mut applied = Self::default();
        applied.set_membership(StoredMembership::new(Some(founding), membership));
        applied.mark(founding)
    }

    /// Reads a mark back.
    pub(crate) fn from_mark(mark: Option<&Mark>) -> Result<Self, MalformedMark> {
        let bad = |error: &dyn std::fmt::Display| MalformedMark(error.to_string());
        let Some(mark) = mark else {
            let mut state = Self::default();
            state.encode();
            return Ok(state);
        };
        let log_id = row::log_id_of(&mark.payload).map_err(|error| bad(&error))?;
        if log_id.index != mark.index {
            return Err(bad(&format_args!("index {} in the mark of {}", log_id.index, mark.index)));
        }
        let encoded = mark.payload.slice(ROW_HEADER_BYTES..);
        let (membership, removed) = codec::decode(&encoded).map_err(|error| bad(&error))?;
        Ok(Self { log_id: Some(log_id), membership, removed, encoded })
    }

    fn encode(&mut self) {
        self.encoded = codec::encode(&(&self.membership, &self.removed)).into();
    }

    /// Takes over an applied membership; whoever is no longer in it never comes back.
    fn set_membership(&mut self, membership: StoredMembership) {
        for (id, _) in self.membership.membership().nodes() {
            if membership.membership().get_node(id).is_none() {
                self.removed.insert(*id);
            }
        }
        self.membership = membership;
        self.encode();
    }

    /// The mark of `log_id` with the present membership.
    fn mark(&self, log_id: LogId) -> Mark {
        let header = row::encode(&Entry { log_id, payload: Payload::Blank }).header;
        let mut payload = Vec::with_capacity(header.len() + self.encoded.len());
        payload.extend_from_slice(&header);
        payload.extend_from_slice(&self.encoded);
        Mark { index: log_id.index, payload: payload.into() }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.log_id, last_membership: self.membership.clone() }
    }
}

/// What openraft passes around as a snapshot.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// Only that the state is durable up to a point; the data is the engine.
    Durable,
    /// A consistent view of the live state, to be sent.
    Export(Box<Outgoing>),
    /// A whole, verified snapshot from the leader, to be installed.
    Received(Received),
}

/// openraft's handle of the state machine.
#[derive(Debug)]
pub(crate) struct StateStore {
    state: Arc<RwLock<StateMachine>>,
    engine: Arc<dyn Engine>,
    snapshots: SnapshotDir,
    applied: AppliedState,
    hub: Arc<Hub>,
    flusher: Flusher,
    flush_bytes_max: u64,
    fatal: Fatal,
    slow: SlowSteps,
}

/// Why an entry cannot be applied; always fatal.
#[derive(Debug, thiserror::Error)]
enum ApplyFault {
    #[error(transparent)]
    Storage(#[from] tripod_storage::Error),
    #[error("log entry {0} cannot be applied")]
    Batch(u64, #[source] MalformedBatch),
}

impl StateStore {
    pub(crate) fn new(
        state: Arc<RwLock<StateMachine>>,
        engine: Arc<dyn Engine>,
        snapshots: SnapshotDir,
        hub: Arc<Hub>,
        flusher: Flusher,
        flush_bytes_max: u64,
        fatal: Fatal,
    ) -> Result<Self, MalformedMark> {
        let applied = AppliedState::from_mark(state.read().mark())?;
        hub.set_removed(applied.removed.clone());
        if let Some(log_id) = applied.log_id {
            hub.applied(log_id.index, &mut Delivery::default());
        }
        let slow = SlowSteps::longer_than(Duration::MAX);
        Ok(Self { state, engine, snapshots, applied, hub, flusher, flush_bytes_max, fatal, slow })
    }

    /// The same, with a line in the log when an entry takes longer than `limit`.
    pub(crate) fn with_slow_apply(self, limit: Duration) -> Self {
        Self { slow: SlowSteps::longer_than(limit), ..self }
    }

    /// Counts how long an entry took, and says so if that is worth it. Neither keys nor values are
    /// named.
    fn note_time(&mut self, index: u64, commands: usize, began: Instant) {
        let now = Instant::now();
        let took = now.duration_since(began);
        let counters = &self.hub.queues.counters;
        counters.apply.observe_time(took);
        if took > self.slow.limit() {
            counters.slow_applies.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(unsaid) = self.slow.note(took, now) {
            tracing::warn!(
                index,
                commands,
                ?took,
                expected_duration = ?self.slow.limit(),
                unsaid,
                "apply request took too long"
            );
        }
    }

    /// Stops this removed member, once whoever asked for the removal has had time to hear of it.
    fn leave(&self) {
        let fatal = self.fatal.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LEAVE_AFTER).await;
            fatal.report_text(REMOVED);
        });
    }

    /// Applies one entry and hands its answers to whoever waits for them here.
    fn apply_entry(&mut self, entry: &Entry, delivery: &mut Delivery) -> Result<u64, ApplyFault> {
        let log_id = entry.log_id;
        let (id, commands) = match &entry.payload {
            Payload::Blank => (None, Vec::new()),
            Payload::Normal(batch) => {
                let mut commands = batch
                    .take_commands()
                    .map_err(|error| ApplyFault::Batch(log_id.index, error))?;
                drop_expiries_of_other_terms(&mut commands, log_id.leader_id.term);
                (batch.id(), commands)
            }
            Payload::Membership(membership) => {
                let membership = StoredMembership::new(Some(log_id), membership.clone());
                self.applied.set_membership(membership);
                self.hub.set_removed(self.applied.removed.clone());
                if self.applied.removed.contains(&self.hub.node_id) {
                    self.leave();
                }
                (None, Vec::new())
            }
        };
        let mark = self.applied.mark(log_id);
        let (began, count) = (Instant::now(), commands.len());
        let (answers, pending) = {
            let mut state = self.state.write();
            let answers = state.apply(mark, commands)?;
            (answers, state.pending_bytes())
        };
        self.note_time(log_id.index, count, began);
        self.applied.log_id = Some(log_id);
        if let Some(id) = id {
            self.hub.answer(id, log_id, answers, delivery);
        }
        Ok(pending)
    }
}

impl RaftStateMachine<TypeConfig> for StateStore {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.log_id, self.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut delivery = Delivery::default();
        let mut pending = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            pending = self
                .apply_entry(&entry, &mut delivery)
                .map_err(|error| self.fatal.report(&error))?;
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        if let Some(log_id) = self.applied.log_id {
            self.hub.applied(log_id.index, &mut delivery);
        }
        delivery.wake();
        self.flusher.note_pending(pending);
        if pending > self.flush_bytes_max {
            // The engine is slower than the log: wait here, so that memory stays bounded.
            self.flusher.wait_below(self.flush_bytes_max).await;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { flusher: self.flusher.clone(), fatal: self.fatal.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let dir = self.snapshots.clone();
        let received = match snapshot {
            SnapshotData::Received(received) => received,
            SnapshotData::Export(outgoing) => {
                copy(&dir, *outgoing).map_err(|error| self.fatal.report(&error))?
            }
            SnapshotData::Durable => {
                return Err(io::Error::other("this snapshot has no data of its own"));
            }
        };
        let (state, engine, flusher) =
            (self.state.clone(), self.engine.clone(), self.flusher.clone());
        self.hub.set_installing(true);
        // Long and blocking: not on the consensus thread, which goes on answering its leader.
        let installed = tokio::task::spawn_blocking(move || {
            flusher.exclusive(|| install(received, &state, &engine))
        });
        let installed = installed.await.map_err(io::Error::other);
        self.hub.set_installing(false);
        installed?.map_err(|error| self.fatal.report(&error))?;
        self.applied = AppliedState::from_mark(self.state.read().mark())
            .map_err(|error| self.fatal.report(&error))?;
        if self.applied.log_id != meta.last_log_id {
            self.fatal.report_text("an installed snapshot is not what its sender announced");
            return Err(io::Error::other("wrong snapshot"));
        }
        self.hub.set_removed(self.applied.removed.clone());
        self.hub.queues.counters.snapshots_received.fetch_add(1, Ordering::Relaxed);
        let mut delivery = Delivery::default();
        if let Some(log_id) = self.applied.log_id {
            tracing::info!(%log_id, "applied snapshot");
            self.hub.applied(log_id.index, &mut delivery);
        }
        delivery.wake();
        self.hub.fail_passed_over();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotData>>> {
        if self.hub.is_running() {
            // To be sent: what is applied now.
            if self.applied.log_id.is_none() {
                return Ok(None);
            }
            let snapshot = SnapshotData::Export(Box::new(Outgoing::new(self.state.clone())));
            return Ok(Some(Snapshot { meta: self.applied.meta(), snapshot }));
        }
        // At start: openraft takes it for what may be cut from the log.
        let Some(mark) = self.flusher.durable_mark() else { return Ok(None) };
        let durable =
            AppliedState::from_mark(Some(&mark)).map_err(|error| self.fatal.report(&error))?;
        Ok(Some(Snapshot { meta: durable.meta(), snapshot: SnapshotData::Durable }))
    }
}

/// Takes in a state of this process.
fn copy(dir: &SnapshotDir, mut outgoing: Outgoing) -> Result<Received, tripod_storage::Error> {
    let mut incoming = dir.receive()?;
    while let Some(chunk) = outgoing.next_chunk()? {
        incoming.chunk(&chunk)?;
    }
    Ok(incoming.complete()?.0)
}

/// Replaces engine and state by a received snapshot; the mark that is then durable.
///
/// Readers wait for the lock meanwhile: the old state could not read the cleared engine.
fn install(
    received: Received,
    state: &RwLock<StateMachine>,
    engine: &Arc<dyn Engine>,
) -> Result<Option<Mark>, tripod_storage::Error> {
    let dir = received.commit()?;
    let mut state = state.write();
    let header = dir.import(engine)?;
    let counts = state.counts();
    state.reopen(engine.clone())?;
    state.set_counts(counts);
    drop(state);
    dir.finish()?;
    Ok(header.mark)
}

/// Makes the applied state durable; that is all a snapshot is here.
#[derive(Debug)]
pub(crate) struct Builder {
    flusher: Flusher,
    fatal: Fatal,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
        let mark = self.flusher.sync().await;
        let durable =
            AppliedState::from_mark(mark.as_ref()).map_err(|error| self.fatal.report(&error))?;
        if let Some(log_id) = durable.log_id {
            tracing::info!(snapshot_index = log_id.index, "saved snapshot");
        }
        Ok(Snapshot { meta: durable.meta(), snapshot: SnapshotData::Durable })
    }
}

/// A lease ends only in the term of the leader that saw it expire: its successor has given it
/// its time again. Equal on every member, as the log has both terms.
fn drop_expiries_of_other_terms(
    commands: &mut [tripod_storage::command::Command],
    entry_term: u64,
) {
    use tripod_storage::command::Command;
    for command in commands {
        if matches!(command, Command::LeaseExpire { term, .. } if *term != entry_term) {
            *command = Command::Noop;
        }
    }
}
