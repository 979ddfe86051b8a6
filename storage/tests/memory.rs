//! How much memory a state takes beside its keys: the engine must give history back.
//!
//! Alone in its process, which it measures.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tripod_storage::{
    Command,
    apply::{Mark, Options, StateMachine},
    command::Put,
    engine::{Engine, SledEngine, SledOptions},
};

const KEYS: u64 = 1_000;
const PUTS: u64 = 128_000;
const VALUE_BYTES: usize = 1_000;
/// Changes in an entry, and entries in a flush of about 4 MB.
const BATCH: u64 = 100;
const ENTRIES_PER_FLUSH: u64 = 40;
/// Most memory for 1 MB of values, 128 MB of history on disk, recent events and sled's cache: 49 were
/// measured, and 21 more are sled's unused statistics where its feature is left out.
const RESIDENT_MB_MAX: u64 = 64;

fn resident_mb() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).context("no second field")?.parse()?;
    Ok((pages * 4096) >> 20)
}

fn open(dir: &Path) -> Result<(Arc<SledEngine>, StateMachine)> {
    let engine = Arc::new(SledEngine::open(dir, &SledOptions::default())?);
    let machine = StateMachine::open(engine.clone(), Options::default())?;
    Ok((engine, machine))
}

fn flush(engine: &SledEngine, machine: &mut StateMachine) -> Result<()> {
    if let Some(flush) = machine.begin_flush() {
        flush.write(engine)?;
        machine.end_flush(flush);
    }
    Ok(())
}

fn put(number: u64) -> Command {
    Command::Put(Put {
        key: (number % KEYS).to_be_bytes().to_vec().into(),
        value: Bytes::from(vec![number.to_le_bytes()[0]; VALUE_BYTES]),
        ..Put::default()
    })
}

#[test]
fn history_on_disk_does_not_stay_in_memory_neither_when_written_nor_when_opened() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (engine, mut machine) = open(dir.path())?;
    for entry in 0..PUTS / BATCH {
        let commands = (0..BATCH).map(|at| put(entry * BATCH + at)).collect();
        machine.apply(Mark { index: entry + 1, payload: Bytes::new() }, commands)?;
        if entry % ENTRIES_PER_FLUSH == 0 {
            flush(&engine, &mut machine)?;
        }
    }
    flush(&engine, &mut machine)?;
    engine.sync()?;
    let written = resident_mb()?;
    assert!(written <= RESIDENT_MB_MAX, "{written} MB after the writes");
    let revision = machine.revision();
    drop((machine, engine));

    let (_engine, machine) = open(dir.path())?;
    assert_eq!(machine.revision(), revision);
    let opened = resident_mb()?;
    assert!(opened <= RESIDENT_MB_MAX, "{opened} MB after opening");
    Ok(())
}
