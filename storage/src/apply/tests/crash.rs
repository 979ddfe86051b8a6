//! What a crash leaves: the state as of the mark, and with the log after it the same state.

use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{model::*, *};
use crate::{
    Error,
    engine::{SledEngine, SledOptions},
    snapshot::{Header, Importer},
};

/// What happens between commands.
#[derive(Clone, Copy, Debug)]
enum Step {
    Nothing,
    BeginFlush,
    WriteFlush,
    EndFlush,
    Sync,
    Prune(usize),
    Crash,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Nothing),
        3 => Just(Step::BeginFlush),
        3 => Just(Step::WriteFlush),
        3 => Just(Step::EndFlush),
        2 => Just(Step::Sync),
        4 => prop::sample::select(vec![1_usize, 3, 1000]).prop_map(Step::Prune),
        1 => Just(Step::Crash),
    ]
}

fn small() -> Options {
    Options { cache_bytes: 3000, events_max: 8, events_bytes_max: 4000, quota_bytes: 0 }
}

/// A member: its log, its engine, its state machine, and a flush at some stage.
struct Member {
    engine: Arc<MemoryEngine>,
    machine: StateMachine,
    log: Vec<Command>,
    flush: Option<(Flush, bool)>,
}

impl Member {
    fn new() -> Self {
        let engine = Arc::new(MemoryEngine::default());
        let machine = StateMachine::open(engine.clone(), small()).unwrap();
        Self { engine, machine, log: Vec::new(), flush: None }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::BeginFlush => {
                if self.flush.is_none() {
                    self.flush = self.machine.begin_flush().map(|flush| (flush, false));
                }
            }
            Step::WriteFlush => {
                if let Some((flush, written @ false)) = &mut self.flush {
                    flush.write(&*self.engine).unwrap();
                    *written = true;
                }
            }
            Step::EndFlush => {
                if let Some((flush, _)) = self.flush.take_if(|(_, written)| *written) {
                    self.machine.end_flush(flush);
                }
            }
            Step::Sync => self.engine.sync().unwrap(),
            Step::Prune(keys) => drop(self.machine.compact_step(keys).unwrap()),
            Step::Crash => self.crash(),
        }
    }

    /// Loses what the engine had not synced and everything in memory; replays the log.
    fn crash(&mut self) {
        self.flush = None;
        self.engine.crash();
        self.machine = StateMachine::open(self.engine.clone(), small()).unwrap();
        let applied = self.machine.mark().map_or(0, |mark| usize::try_from(mark.index).unwrap());
        for command in &self.log[applied..] {
            self.machine.one(command.clone());
        }
    }

    fn apply(&mut self, command: Command) -> Applied {
        self.log.push(command.clone());
        self.machine.one(command)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_point_changes_nothing_that_a_client_sees(
        history in prop::collection::vec((any_command(), any_step(), any_step()), 1..50),
    ) {
        let mut member = Member::new();
        let mut model = Model::new();
        let mut undisturbed = machine();
        for (command, before, after) in history {
            member.step(before);
            let want = model.apply(&command);
            undisturbed.one(command.clone());
            prop_assert_eq!(member.apply(command), want);
            member.step(after);
        }
        model.check(&member.machine);
        for revision in 0..=undisturbed.revision() {
            let (got, want) = (member.machine.hash_kv(revision), undisturbed.hash_kv(revision));
            prop_assert_eq!(got.unwrap(), want.unwrap(), "hash at {}", revision);
        }
        member.crash();
        model.check(&member.machine);
        for _ in 0..2 {
            let stages = [Step::BeginFlush, Step::WriteFlush, Step::EndFlush, Step::Sync];
            for step in [Step::Prune(1000)].into_iter().chain(stages) {
                member.step(step);
            }
            model.check(&member.machine);
        }
        member.crash();
        model.check(&member.machine);
        let (got, want) = (member.machine.hash_kv(0), undisturbed.hash_kv(0));
        prop_assert_eq!(got.unwrap(), want.unwrap());
    }

    #[test]
    fn a_snapshot_restores_the_state_of_its_beginning(
        before in prop::collection::vec((any_command(), any_step()), 0..40),
        during in prop::collection::vec((any_command(), any_step()), 0..12),
    ) {
        let mut member = Member::new();
        let mut model = Model::new();
        for (command, step) in before {
            model.apply(&command);
            member.apply(command);
            member.step(if matches!(step, Step::Crash) { Step::Nothing } else { step });
        }
        let want_hash = member.machine.hash_kv(0).unwrap();
        let mut export = member.machine.export();
        prop_assert_eq!(export.header().mark.as_ref(), member.machine.mark());
        let engine = Arc::new(MemoryEngine::default());
        let mut importer = Importer::new(engine.clone()).unwrap();
        let mut during = during.into_iter();
        while let Some(chunk) = export.next_chunk(&member.machine).unwrap() {
            importer.chunk(&chunk).unwrap();
            // The exporting member goes on meanwhile.
            for (command, step) in during.by_ref().take(4) {
                member.apply(command);
                member.step(if matches!(step, Step::Crash) { Step::Nothing } else { step });
            }
        }
        let header = importer.finish().unwrap();
        prop_assert_eq!(header.revision, model_revision(&model, &header));
        let restored = StateMachine::open(engine, small()).unwrap();
        prop_assert_eq!(restored.mark(), header.mark.as_ref());
        prop_assert_eq!(restored.hash_kv(0).unwrap(), want_hash);
        model.check(&restored);
    }
}

fn model_revision(model: &Model, _: &Header) -> Revision {
    model.range(&all()).unwrap().revision
}

#[test]
fn a_hash_in_steps_is_of_its_beginning_whatever_happens_meanwhile() {
    let engine = Arc::new(MemoryEngine::default());
    let mut machine = StateMachine::open(engine.clone(), options()).unwrap();
    for at in 0..3000 {
        machine.put(&format!("k{}", at % 40), "v");
        if at == 1500 {
            machine.ok(Command::Compact(Compact { revision: 1000 }));
        }
    }
    let want = machine.hash_kv(0).unwrap().unwrap();
    let mut hash = machine.begin_hash(0).unwrap();
    let mut steps = 0;
    let got = loop {
        if let Some(got) = hash.step(&machine, 100).unwrap() {
            break got;
        }
        steps += 1;
        machine.delete(&format!("k{}", steps % 40), "");
        let revision = machine.revision() - 5;
        machine.ok(Command::Compact(Compact { revision }));
        assert!(!machine.compact_step(1000).unwrap(), "pruning waits");
        machine.flush(&*engine);
    };
    assert_eq!((got, steps), (want, 29));
    drop(hash);
    while machine.compact_step(1000).unwrap() {}
    assert_eq!(machine.keys_count(), 40 - 23, "deletes below the compact revision are gone");
}

/// A longer life with real block sizes: many keys, compactions, sparse blocks to merge.
fn long_life(engine: Arc<dyn Engine>, reopen: impl Fn(Arc<dyn Engine>) -> Arc<dyn Engine>) {
    let options = Options { cache_bytes: 30_000, ..options() };
    let mut machine = StateMachine::open(Arc::clone(&engine), options.clone()).unwrap();
    let mut reference = super::machine();
    let mut apply = |machine: &mut StateMachine, command: Command| {
        assert_eq!(machine.one(command.clone()), reference.one(command));
    };
    let mut blocks_before = 0;
    for round in 0..8_usize {
        for at in 0..1500_usize {
            // A few keys change often, most once: blocks become sparse, not empty.
            let key =
                if at % 5 == 0 { format!("once/{round}/{at}") } else { format!("hot/{}", at % 7) };
            apply(&mut machine, Command::Put(put(&key, &"v".repeat(at % 90))));
            if at % 400 == 0 {
                machine.flush(&*engine);
            }
        }
        apply(&mut machine, Command::DeleteRange(delete("once/0/1", "once/0/3")));
        let revision = machine.revision() - 100;
        apply(&mut machine, Command::Compact(Compact { revision }));
        while machine.compact_step(200).unwrap() {}
        machine.flush(&*engine);
        let blocks = machine.store.history.blocks.len();
        if round > 3 {
            assert!(blocks < blocks_before + 30, "sparse blocks are merged: {blocks}");
        }
        blocks_before = blocks;
    }
    let everything = machine.get(&all());
    assert_eq!(everything, reference.get(&all()));
    let hash = machine.hash_kv(0).unwrap();
    assert_eq!(hash, reference.hash_kv(0).unwrap());
    let in_use = machine.size_in_use_bytes();
    for _ in 0..4 {
        machine.flush(&*engine);
    }
    engine.sync().unwrap();
    drop(machine);
    let engine = reopen(engine);
    let machine = StateMachine::open(engine, options).unwrap();
    assert_eq!(machine.get(&all()), everything);
    assert_eq!(machine.hash_kv(0).unwrap(), hash);
    assert!(machine.cached_bytes() <= 31_000, "{}", machine.cached_bytes());
    let reopened = machine.size_in_use_bytes();
    assert!(reopened < in_use * 11 / 10 && reopened > in_use * 9 / 10, "{in_use} {reopened}");
}

#[test]
fn a_long_life_in_memory_is_the_same_after_reopening() {
    long_life(Arc::new(MemoryEngine::default()), |engine| engine);
}

#[test]
fn a_long_life_on_sled_is_the_same_after_reopening() {
    let dir = TempDir::new().unwrap();
    let open = |dir: &Path| Arc::new(SledEngine::open(dir, &SledOptions::default()).unwrap());
    long_life(open(dir.path()), |engine| {
        drop(engine);
        open(dir.path())
    });
}

#[test]
fn merging_leaves_few_blocks_and_no_row_behind() {
    let engine = Arc::new(MemoryEngine::default());
    let mut machine = StateMachine::open(engine.clone(), options()).unwrap();
    for at in 0..20_000 {
        let key = if at % 50 == 0 { format!("once/{at}") } else { "hot".to_owned() };
        machine.put(&key, "v");
    }
    machine.flush(&*engine);
    assert!(machine.store.history.blocks.len() >= 78);
    machine.ok(Command::Compact(Compact { revision: 20_001 }));
    while machine.compact_step(100).unwrap() {}
    for _ in 0..4 {
        machine.flush(&*engine);
    }
    assert_eq!(machine.get(&all()).count, 401);
    let rows = engine.scan((std::ops::Bound::Unbounded, std::ops::Bound::Unbounded), 999).unwrap();
    assert!(rows.len() < 15, "{} rows", rows.len());
    assert!(rows.iter().all(|(key, _)| key[0] != crate::keys::DEAD), "all lists are used up");
    assert_eq!(
        machine.store.history.blocks.len(),
        rows.len() - 3,
        "format, mark, compact revision"
    );
}

#[test]
fn an_engine_of_another_format_or_with_a_hole_is_refused() {
    let write = |engine: &MemoryEngine, key: &[u8], row: Option<&[u8]>| {
        let writes = vec![(key.to_vec(), row.map(<[u8]>::to_vec))];
        engine.write(crate::engine::WriteBatch { writes, ..Default::default() }).unwrap();
    };
    type Case = (&'static str, &'static [u8], Option<&'static [u8]>);
    let cases: [Case; 5] = [
        ("format", crate::keys::FORMAT_ROW, Some(&[99])),
        ("no format", crate::keys::FORMAT_ROW, None),
        ("mark", crate::keys::MARK_ROW, Some(&[1])),
        ("compact revision", crate::keys::COMPACT_ROW, Some(&[1])),
        ("interrupted", crate::keys::IMPORTING_ROW, Some(&[])),
    ];
    for (name, key, row) in cases {
        let engine = Arc::new(MemoryEngine::default());
        let mut machine = StateMachine::open(engine.clone(), options()).unwrap();
        machine.put("k", "v");
        machine.flush(&*engine);
        write(&engine, key, row);
        let refused = StateMachine::open(engine, options()).unwrap_err();
        assert!(matches!(refused, Error::Corrupt { .. }), "{name}");
    }
}
