//! The tree across restarts, crashes and snapshots, on both engines.

use std::sync::Arc;

use proptest::prelude::*;

use super::{model::any_change, *};
use crate::{
    Rejected,
    apply::{
        StateMachine,
        tests::{options, put},
    },
    command::{AlarmAction, AlarmKind, Command},
    engine::{Engine, MemoryEngine, SledEngine, SledOptions},
    snapshot::Importer,
};

/// Everything a client could see of the tree.
fn seen(machine: &StateMachine) -> (u64, u64, Event, Vec<Event>, u64, Option<i64>) {
    let tree = machine.v2();
    let events = tree.history.events.values().map(|event| Event::clone(event)).collect();
    let all = tree.get(b"/", true, NOW).unwrap();
    let (bytes, due) = (tree.bytes(), tree.next_deadline_ns());
    (tree.index(), tree.history.start, all, events, bytes, due)
}

fn open(engine: &Arc<dyn Engine>) -> StateMachine {
    StateMachine::open(Arc::clone(engine), options()).unwrap()
}

fn apply(machine: &mut StateMachine, change: &Change) {
    machine.one(Command::V2(Box::new(change.clone()))).outcome.unwrap();
}

fn copy(machine: &mut StateMachine) -> StateMachine {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let mut importer = Importer::new(Arc::clone(&engine)).unwrap();
    let mut export = machine.export();
    // What comes after the export began is not in it.
    apply(machine, &Change::Write(set("/after", "1")));
    while let Some(chunk) = export.next_chunk(machine).unwrap() {
        importer.chunk(&chunk).unwrap();
    }
    importer.finish().unwrap();
    open(&engine)
}

fn life(engine: Arc<dyn Engine>) {
    let mut machine = open(&engine);
    for at in 0..HISTORY_EVENTS_MAX + 50 {
        let write = lasting(set(&format!("/d{}/k{}", at % 7, at % 50), "value"), 60);
        apply(&mut machine, &Change::Write(write));
        if at % 300 == 0 {
            machine.flush(&*engine);
        }
    }
    apply(&mut machine, &Change::Write(delete("/d3", true, true)));
    machine.one(Command::Put(put("v3", "too")));
    machine.flush(&*engine);
    let before = seen(&machine);
    drop(machine);
    let mut machine = open(&engine);
    assert_eq!(seen(&machine), before);
    assert_eq!(seen(&copy(&mut machine)), before, "a snapshot is of its beginning");
    assert_eq!(machine.revision(), 2, "no v2 write takes a revision");
}

#[test]
fn a_tree_in_memory_is_the_same_after_reopening() {
    life(Arc::new(MemoryEngine::default()));
}

#[test]
fn a_tree_on_sled_is_the_same_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    life(Arc::new(SledEngine::open(dir.path(), &SledOptions::default()).unwrap()));
}

#[test]
fn what_adds_data_is_refused_while_space_is_short() {
    let mut machine = open(&(Arc::new(MemoryEngine::default()) as Arc<dyn Engine>));
    let change = |write| Command::V2(Box::new(Change::Write(write)));
    let before = machine.size_in_use_bytes();
    machine.one(change(set("/k", "value"))).outcome.unwrap();
    assert!(machine.size_in_use_bytes() > before, "the tree counts towards the quota");
    let (action, alarm) = (AlarmAction::Activate, AlarmKind::NoSpace);
    machine.one(Command::Alarm { action, member_id: 1, alarm }).outcome.unwrap();
    for write in
        [set("/a", "1"), create("/q", true), update("/k", "2"), swap("/k", "2", "value", 0)]
    {
        assert_eq!(machine.one(change(write)).outcome, Err(Rejected::NoSpace));
    }
    machine.one(change(delete("/k", false, false))).outcome.unwrap();
    let expire = Command::V2(Box::new(Change::Expire { cutoff_ns: NOW }));
    machine.one(expire).outcome.unwrap();
    assert_eq!(machine.size_in_use_bytes(), before);
}

#[test]
fn rows_that_do_not_fit_together_are_refused() {
    for (key, row) in [
        (&b"2/a/b"[..], &b"x"[..]),
        (b"2", b""),
        (b"2/", b""),
        (b"2/a//b", b""),
        (b"mv2", b"x"),
        (b"30000000x", b""),
    ] {
        let engine = MemoryEngine::default();
        let mut tree = Tree::default();
        tree.write(&set("/f", "1")).unwrap();
        tree.take_dirty(|key, row| {
            engine
                .write(crate::engine::WriteBatch { writes: vec![(key, row)], ..Default::default() })
                .unwrap();
        });
        let writes = vec![(key.to_vec(), Some(row.to_vec())), (b"mformat".to_vec(), Some(vec![1]))];
        engine.write(crate::engine::WriteBatch { writes, ..Default::default() }).unwrap();
        assert!(StateMachine::open(Arc::new(engine), options()).is_err(), "{key:?}");
    }
}

proptest! {
    #[test]
    fn flushes_and_crashes_lose_nothing_that_the_log_has(
        steps in prop::collection::vec((any_change(), 0..6_u8), 1..50),
    ) {
        let memory = Arc::new(MemoryEngine::default());
        let engine: Arc<dyn Engine> = memory.clone();
        let mut machine = open(&engine);
        let mut log = Vec::new();
        for (change, then) in &steps {
            apply(&mut machine, change);
            log.push(change.clone());
            match then {
                0 => machine.flush(&*engine),
                1 => engine.sync().unwrap(),
                2 => {
                    let before = seen(&machine);
                    memory.crash();
                    machine = open(&engine);
                    let applied = machine.mark().map_or(0, |mark| usize::try_from(mark.index).unwrap());
                    for change in &log[applied..] {
                        apply(&mut machine, change);
                    }
                    prop_assert_eq!(seen(&machine), before);
                }
                _ => {}
            }
        }
    }
}
