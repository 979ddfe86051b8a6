//! An etcd backend into an engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    AuthTables, Role, User, bucket,
    wire::{change_of, rev_of_key, three_numbers},
};
use crate::{
    LeaseId, Revision,
    apply::Mark,
    auth::Auth,
    bbolt::{self, Reader, Source},
    command::AlarmKind,
    engine::{Engine, WriteBatch},
    history::{BlockBuilder, ChangeRef, History},
    keys::{self, rev_key},
    mvcc::{FIRST_REVISION, NEVER_COMPACTED},
    snapshot::{complete, mark_incomplete},
    types::Rev,
};

/// Bytes of rows written in one batch, about.
const BATCH_BYTES: usize = 2 << 20;
/// Bytes written without a sync, so that the engine's memory stays small.
const SYNC_BYTES: usize = 64 << 20;
/// Bytes of authentication tables that are taken in: they are held in memory.
const AUTH_BYTES_MAX: usize = 64 << 20;

/// Raising the revision, for clusters that go back in time: clients that have seen later
/// revisions must not meet them again with other contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bump {
    /// Added to the revision. Everything up to the sum counts as compacted.
    pub by: u64,
}

/// Why a file is not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file is to blame.
    #[error(transparent)]
    File(#[from] bbolt::Error),
    /// The engine is.
    #[error(transparent)]
    Engine(#[from] crate::Error),
}

/// What was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Revision of the state, any bump included.
    pub revision: Revision,
    /// Reads below it are refused; -1 where nothing was compacted.
    pub compact_revision: Revision,
    /// Changes, old versions and deletes included.
    pub changes: u64,
    /// Leases.
    pub leases: u64,
    /// Keys that named a lease which is not there; they have none now.
    pub orphans: u64,
    /// Users.
    pub users: u64,
    /// Authentication is on.
    pub auth_enabled: bool,
}

/// Rows on their way into the engine.
struct Rows<'a> {
    engine: &'a dyn Engine,
    batch: WriteBatch,
    bytes: usize,
    unsynced: usize,
}

impl Rows<'_> {
    fn put(&mut self, key: Vec<u8>, row: Vec<u8>) -> Result<(), ImportError> {
        self.bytes += key.len() + row.len();
        self.batch.writes.push((key, Some(row)));
        if self.bytes >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), ImportError> {
        self.engine.write(std::mem::take(&mut self.batch))?;
        self.unsynced += std::mem::take(&mut self.bytes);
        if self.unsynced >= SYNC_BYTES {
            self.engine.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// Fills `engine` from a backend; it is durable and ready to be opened then. `mark` is what the
/// state counts as applied. Members, cluster version and Raft's own rows stay behind: a restored
/// cluster has its own.
///
/// Memory: the lease ids, the authentication tables, a batch of rows.
///
/// # Errors
/// [`ImportError`]. The engine is of no use then: remove it.
pub fn import<S: Source>(
    reader: &Reader<S>,
    engine: &Arc<dyn Engine>,
    mark: &Mark,
    bump: Option<Bump>,
) -> Result<Imported, ImportError> {
    mark_incomplete(&**engine)?;
    let mut imported = Imported::default();
    let mut rows = Rows { engine: &**engine, batch: WriteBatch::default(), bytes: 0, unsynced: 0 };
    let leases = leases(reader, &mut rows)?;
    imported.leases = leases.len() as u64;
    alarms(reader, &mut rows)?;
    let tables = auth(reader)?;
    let stored = Auth::from_backend(&tables).ok_or_else(|| odd("a user or role has no name"))?;
    for (key, row) in stored.rows() {
        rows.put(key, row)?;
    }
    (imported.users, imported.auth_enabled) = (tables.users.len() as u64, tables.enabled);
    let compacted = compact_revision(reader)?;
    let changes = changes(reader, &mut rows, &leases)?;
    imported.changes = changes.count;
    imported.revision = changes.revision.max(compacted).max(FIRST_REVISION);
    imported.compact_revision = compacted;
    if let Some(bump) = bump {
        let by = i64::try_from(bump.by).ok();
        let raised = by.and_then(|by| imported.revision.checked_add(by));
        let raised = raised.filter(|&raised| raised < i64::MAX / 2);
        imported.revision = raised.ok_or_else(|| odd("its revision cannot be raised so far"))?;
        imported.compact_revision = imported.revision;
    }
    if imported.compact_revision > NEVER_COMPACTED {
        rows.put(keys::COMPACT_ROW.to_vec(), imported.compact_revision.to_le_bytes().to_vec())?;
    }
    rows.write()?;
    for rev in &changes.orphans {
        drop_lease(&**engine, *rev)?;
    }
    imported.orphans = changes.orphans.len() as u64;
    complete(&**engine, Some(mark))?;
    Ok(imported)
}

fn odd(detail: &str) -> ImportError {
    ImportError::File(bbolt::Error::NotEtcd(detail.to_owned()))
}

fn leases<S: Source>(
    reader: &Reader<S>,
    rows: &mut Rows<'_>,
) -> Result<BTreeSet<LeaseId>, ImportError> {
    let mut ids = BTreeSet::new();
    reader.pairs(bucket::LEASE, |key, value| {
        let id = key.try_into().map(i64::from_be_bytes).map_err(|_| odd("a lease has no id"))?;
        let [named, ttl_s, remaining_s] =
            three_numbers(value).ok_or_else(|| odd("a lease is malformed"))?;
        if id == 0 || named != id {
            return Err(odd("a lease bears another id"));
        }
        ids.insert(id);
        let remaining_s = if (1..ttl_s).contains(&remaining_s) { remaining_s } else { 0 };
        let row = [ttl_s.to_le_bytes(), remaining_s.to_le_bytes()].concat();
        rows.put(keys::lease_key(id), row)?;
        Ok(true)
    })?;
    Ok(ids)
}

fn alarms<S: Source>(reader: &Reader<S>, rows: &mut Rows<'_>) -> Result<(), ImportError> {
    reader.pairs(bucket::ALARM, |key, _| {
        let [member_id, alarm, _] =
            three_numbers(key).ok_or_else(|| odd("an alarm is malformed"))?;
        // Kinds that only a later etcd knows are left out.
        if let Some(alarm) = u8::try_from(alarm).ok().and_then(AlarmKind::of_number) {
            rows.put(keys::alarm_key(member_id.cast_unsigned(), alarm.number()), Vec::new())?;
        }
        Ok::<_, ImportError>(true)
    })?;
    Ok(())
}

fn auth<S: Source>(reader: &Reader<S>) -> Result<AuthTables, ImportError> {
    let mut tables = AuthTables::default();
    let mut bytes = 0;
    let mut count = |value: &[u8]| {
        bytes += value.len();
        if bytes > AUTH_BYTES_MAX { Err(odd("its users and roles are too large")) } else { Ok(()) }
    };
    reader.pairs(bucket::AUTH, |key, value| {
        match key {
            b"authEnabled" => tables.enabled = value == [1],
            b"authRevision" => {
                let revision = value.try_into().map(u64::from_be_bytes);
                tables.revision = revision.map_err(|_| odd("authRevision is malformed"))?;
            }
            _ => {}
        }
        Ok::<_, ImportError>(true)
    })?;
    reader.pairs(bucket::AUTH_USERS, |_, value| {
        count(value)?;
        tables.users.push(User::decode(value).ok_or_else(|| odd("a user is malformed"))?);
        Ok::<_, ImportError>(true)
    })?;
    reader.pairs(bucket::AUTH_ROLES, |_, value| {
        count(value)?;
        tables.roles.push(Role::decode(value).ok_or_else(|| odd("a role is malformed"))?);
        Ok::<_, ImportError>(true)
    })?;
    Ok(tables)
}

/// The later of the compactions finished and scheduled: etcd would go on with the latter.
fn compact_revision<S: Source>(reader: &Reader<S>) -> Result<Revision, ImportError> {
    let mut revision = NEVER_COMPACTED;
    reader.pairs(bucket::META, |key, value| {
        if key == b"finishedCompactRev" || key == b"scheduledCompactRev" {
            let found = rev_of_key(value).ok_or_else(|| odd("a compaction is malformed"))?;
            revision = revision.max(found.0.main);
        }
        Ok::<_, ImportError>(true)
    })?;
    Ok(revision)
}

struct Changes {
    count: u64,
    revision: Revision,
    /// Changes that are the newest of their key and name a lease which is not there.
    orphans: BTreeSet<Rev>,
}

fn changes<S: Source>(
    reader: &Reader<S>,
    rows: &mut Rows<'_>,
    leases: &BTreeSet<LeaseId>,
) -> Result<Changes, ImportError> {
    let mut found = Changes { count: 0, revision: 0, orphans: BTreeSet::new() };
    let mut orphans: BTreeMap<Vec<u8>, Rev> = BTreeMap::new();
    let mut builder = BlockBuilder::default();
    let has_keys = reader.pairs(bucket::KEY, |key, value| {
        let change = change_of(key, value).ok_or_else(|| odd("a change is malformed"))?;
        found.revision = found.revision.max(change.rev.main);
        if change.key.is_empty() {
            // Left by `etcdutl snapshot restore --bump-revision`: a revision without a key.
            return Ok(true);
        }
        found.count += 1;
        if change.lease != 0 && !leases.contains(&change.lease) {
            orphans.insert(change.key.to_vec(), change.rev);
        } else if !orphans.is_empty() {
            orphans.remove(change.key);
        }
        if builder.is_full() || builder.is_beyond(change.rev) {
            write_block(&mut builder, rows)?;
        }
        builder.push(change);
        Ok::<_, ImportError>(true)
    })?;
    if !has_keys {
        return Err(odd("it has no bucket `key`"));
    }
    write_block(&mut builder, rows)?;
    found.orphans = orphans.into_values().collect();
    Ok(found)
}

fn write_block(builder: &mut BlockBuilder, rows: &mut Rows<'_>) -> Result<(), ImportError> {
    let Some(block) = builder.take() else { return Ok(()) };
    rows.put(rev_key(keys::HISTORY, block.first()), block.bytes().to_vec())
}

/// Takes the lease off one stored change.
fn drop_lease(engine: &dyn Engine, rev: Rev) -> Result<(), ImportError> {
    let last = engine.last_at_or_below(&rev_key(keys::HISTORY, rev))?;
    let first = last.map(|(key, _)| keys::rev_of_key(&key)).transpose()?;
    let block = first.map(|first| History::load(engine, first)).transpose()?.flatten();
    let block = block.ok_or_else(|| odd("a change was lost on its way"))?;
    let mut builder = BlockBuilder::default();
    for at in 0..block.len() {
        let change = block.at(at)?;
        let lease = if change.rev == rev { 0 } else { change.lease };
        builder.push(ChangeRef { lease, ..change });
    }
    let mut batch = WriteBatch::default();
    if let Some(block) = builder.take() {
        batch.writes.push((rev_key(keys::HISTORY, block.first()), Some(block.bytes().to_vec())));
    }
    Ok(engine.write(batch)?)
}
