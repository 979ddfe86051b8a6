//! Bringing a state machine back from its engine.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{Mark, Options, StateMachine, flush::Maintenance, tables::Tables};
use crate::{
    Error, Revision,
    auth::{Auth, LoginFeed},
    engine::Engine,
    history::{Block, DeadSet, History, next_rev},
    keys::{self, corrupt},
    lease::LeaseFeed,
    mvcc::{FIRST_REVISION, Store, compact::Pruning, entry::Version},
    types::Rev,
    v2::Tree,
    watch::EventRing,
};

/// Layout of everything in the engine. A new number needs a way to read the old one.
pub(crate) const FORMAT: u8 = 1;

/// Blocks and rows read at once.
const BLOCKS_AT_ONCE: usize = 16;
const ROWS_AT_ONCE: usize = 1024;

impl StateMachine {
    /// Opens the state in `engine`, a fresh one where it is empty.
    ///
    /// The result equals the state before a crash as of the mark: apply the log from there on.
    /// Cost: reads all history once.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where what is stored does not fit together, and the engine's own.
    pub fn open(engine: Arc<dyn Engine>, options: Options) -> Result<Self, Error> {
        check_format(&*engine)?;
        let mut tables = Tables::default();
        let ring = EventRing::new(0, options.events_max, options.events_bytes_max);
        let mut store = Store::new(Arc::clone(&engine), ring);

        for_each_row(&*engine, keys::LEASE, |key, row| store.leases.load(key, row))?;
        for_each_row(&*engine, keys::ALARM, |key, row| tables.load(key, row))?;
        for_each_row(&*engine, keys::MEMBER, |key, row| tables.load(key, row))?;
        let mut auth = Auth::default();
        for_each_row(&*engine, keys::USER, |key, row| auth.load(key, row))?;
        for_each_row(&*engine, keys::ROLE, |key, row| auth.load(key, row))?;
        if let Some(row) = engine.get(keys::AUTH_ROW)? {
            auth.load(keys::AUTH_ROW, &row)?;
        }
        auth.complete();
        let mut v2 = Tree::default();
        if let Some(row) = engine.get(keys::V2_ROW)? {
            v2.load_counters(&row)?;
        }
        for_each_row(&*engine, keys::V2_NODE, |key, row| v2.load_node(key, row))?;
        for_each_row(&*engine, keys::V2_EVENT, |_, row| v2.load_event(row))?;
        v2.loaded();
        if let Some(row) = engine.get(keys::COMPACT_ROW)? {
            let row = (row[..].try_into())
                .map_err(|_| corrupt("compact revision", "its row has a wrong length"))?;
            store.compact_revision = Revision::from_le_bytes(row);
        }
        let mark = engine.get(keys::MARK_ROW)?.map(|row| decode_mark(&row)).transpose()?;

        load_history(&mut store, &*engine, options.cache_bytes)?;
        store.revision = store.revision.max(store.compact_revision).max(FIRST_REVISION);
        store.ring.set_floor(store.revision + 1);
        let mut machine = Self {
            store,
            tables,
            auth_switch: Arc::new(AtomicBool::new(auth.is_enabled())),
            auth,
            login_feed: LoginFeed::default(),
            v2,
            options,
            mark,
            mark_is_new: false,
            pruning: Pruning::default(),
            maintenance: Maintenance::default(),
            lease_feed: LeaseFeed::default(),
            pin: Arc::new(()),
        };
        let listed: Vec<Rev> = machine.store.history.blocks.keys().copied().collect();
        for first in listed {
            machine.note_dropped(first);
        }
        machine.prune_all();
        machine.attach_leases()?;
        Ok(machine)
    }

    /// Replaces this state by the one in `engine`; whoever holds this one's
    /// [`StateMachine::auth_switch`] sees that of the new one.
    ///
    /// # Errors
    /// As [`StateMachine::open`]; then this state is as it was.
    pub fn reopen(&mut self, engine: Arc<dyn Engine>) -> Result<(), Error> {
        let new = Self::open(engine, self.options.clone())?;
        let switch = Arc::clone(&self.auth_switch);
        *self = new;
        switch.store(self.auth.is_enabled(), Ordering::Release);
        self.auth_switch = switch;
        Ok(())
    }

    /// Follows the compact revision at once, as the state before the crash had or would have.
    fn prune_all(&mut self) {
        while self.prune(usize::MAX) {}
    }

    fn attach_leases(&mut self) -> Result<(), Error> {
        let Store { index, leases, .. } = &mut self.store;
        for (key, entry) in index.iter() {
            let lease = entry.newest.lease;
            if lease == 0 {
                continue;
            }
            if !leases.contains(lease) {
                return Err(corrupt(format!("lease {lease:x}"), "a key names it and it is gone"));
            }
            leases.attach(lease, key);
        }
        Ok(())
    }
}

fn check_format(engine: &dyn Engine) -> Result<(), Error> {
    if engine.get(keys::IMPORTING_ROW)?.is_some() {
        return Err(corrupt("state", "the import of a snapshot was interrupted"));
    }
    match engine.get(keys::FORMAT_ROW)?.as_deref() {
        None if engine.scan((Bound::Unbounded, Bound::Unbounded), 1)?.is_empty() => Ok(()),
        Some([FORMAT]) => Ok(()),
        None => Err(corrupt("state", "it has rows and no format")),
        Some(other) => {
            Err(corrupt("state", format!("unknown format {other:?}, this version reads {FORMAT}")))
        }
    }
}

fn load_history(store: &mut Store, engine: &dyn Engine, cache_bytes: u64) -> Result<(), Error> {
    let mut dead = BTreeMap::new();
    for_each_row(engine, keys::DEAD, |key, row| {
        dead.insert(keys::rev_of_key(key)?, row.to_vec());
        Ok(())
    })?;
    let mut from = Rev::default();
    loop {
        let blocks = History::load_page(engine, from, BLOCKS_AT_ONCE)?;
        for block in &blocks {
            let dead = match dead.remove(&block.first()) {
                Some(row) => DeadSet::decode(&row, block)?,
                None => DeadSet::default(),
            };
            load_block(store, block, &dead, cache_bytes)?;
            store.history.note_stored(block, dead);
        }
        let Some(last) = blocks.last() else { break };
        from = next_rev(last.last());
    }
    if let Some(first) = dead.keys().next() {
        let what = format!("list of dropped changes {}.{}", first.main, first.sub);
        return Err(corrupt(what, "its block is gone"));
    }
    Ok(())
}

fn load_block(
    store: &mut Store,
    block: &Block,
    dead: &DeadSet,
    cache_bytes: u64,
) -> Result<(), Error> {
    for at in 0..block.len() {
        let change = block.at(at)?;
        if change.rev.main < store.revision {
            let what = format!("history block {}.{}", block.first().main, block.first().sub);
            return Err(corrupt(what, "its revisions do not ascend"));
        }
        store.revision = change.rev.main;
        if !dead.contains(change.rev) {
            let held = !change.tombstone && store.index.cached_bytes < cache_bytes;
            let data = held.then(|| Bytes::from([change.key, change.value].concat()));
            store.index.insert(change.key, Version::new(&change, data));
        }
    }
    Ok(())
}

fn for_each_row(
    engine: &dyn Engine,
    table: u8,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let end = [table + 1];
    let mut from = vec![table];
    loop {
        let range = (Bound::Included(&from[..]), Bound::Excluded(&end[..]));
        let rows = engine.scan(range, ROWS_AT_ONCE)?;
        for (key, row) in &rows {
            each(key, row)?;
        }
        let Some((last, _)) = rows.last() else { return Ok(()) };
        // The least key above the last one.
        from = last.to_vec();
        from.push(0);
    }
}

/// The stored row of a mark.
pub(crate) fn encode_mark(mark: &Mark) -> Vec<u8> {
    [&mark.index.to_le_bytes()[..], &mark.payload].concat()
}

pub(crate) fn decode_mark(row: &[u8]) -> Result<Mark, Error> {
    let (index, payload) =
        row.split_first_chunk::<8>().ok_or_else(|| corrupt("applied mark", "it is cut short"))?;
    Ok(Mark { index: u64::from_le_bytes(*index), payload: Bytes::copy_from_slice(payload) })
}
