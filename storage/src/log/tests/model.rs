//! Random histories with power cuts: what is found at an open is a prefix of what was called,
//! and never less than what was synced.

use std::collections::BTreeMap;

use super::*;
use crate::disk::Disk as _;

#[derive(Clone, Debug)]
enum Step {
    Append {
        rows: u8,
        bytes: usize,
    },
    Truncate {
        rows: u64,
    },
    Purge {
        rows: u64,
    },
    Meta {
        kind: u8,
        value: u8,
    },
    Write,
    Sync,
    /// Shut and open without a sync.
    Reopen,
    Kill,
    PowerCut,
    /// A power cut, and another while the log is being opened.
    PowerCutTwice {
        at: u64,
    },
    Arm(Fault),
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Power(u64),
    Sync(u64),
    Full(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        4 => (1..30_u64).prop_map(Fault::Power),
        2 => (1..6_u64).prop_map(Fault::Sync),
        1 => (0..40_000_u64).prop_map(Fault::Full),
    ];
    prop_oneof![
        12 => (1..8_u8, 0..1500_usize).prop_map(|(rows, bytes)| Step::Append { rows, bytes }),
        1 => (20_000..60_000_usize).prop_map(|bytes| Step::Append { rows: 1, bytes }),
        3 => (0..12_u64).prop_map(|rows| Step::Truncate { rows }),
        3 => (0..40_u64).prop_map(|rows| Step::Purge { rows }),
        3 => (0..3_u8, any::<u8>()).prop_map(|(kind, value)| Step::Meta { kind, value }),
        4 => Just(Step::Write),
        7 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => Just(Step::PowerCut),
        1 => (1..20_u64).prop_map(|at| Step::PowerCutTwice { at }),
        2 => fault.prop_map(Step::Arm),
    ]
}

/// What a log should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Held {
    rows: BTreeMap<u64, Vec<u8>>,
    purged: Option<(u64, Vec<u8>)>,
    meta: BTreeMap<u8, Vec<u8>>,
}

impl Held {
    fn next(&self) -> u64 {
        let last = self.rows.keys().next_back().copied();
        last.or(self.purged.as_ref().map(|(index, _)| *index)).map_or(1, |last| last + 1)
    }

    /// Rows as index:serial/bytes.
    fn brief(&self) -> String {
        let row = |(index, row): (&u64, &Vec<u8>)| {
            format!("{index}:{}/{}", row.first().copied().unwrap_or_default(), row.len())
        };
        let rows: Vec<String> = self.rows.iter().map(row).collect();
        let meta: Vec<_> = self.meta.iter().map(|(kind, meta)| (kind, meta.len())).collect();
        format!("rows {} purged {:?} meta {meta:?}", rows.join(" "), self.purged)
    }

    fn of(wal: &Wal) -> Self {
        let rows = wal.read(0, u64::MAX, usize::MAX).unwrap();
        Self {
            rows: rows.into_iter().map(|row| (row.index, row.payload.to_vec())).collect(),
            purged: wal.purged().map(|(index, payload)| (index, payload.to_vec())),
            meta: (0..3).filter_map(|k| Some((k, wal.meta(k)?.to_vec()))).collect(),
        }
    }
}

struct Run {
    disk: FaultDisk,
    wal: Option<Wal>,
    /// Every state since the last sync; the first is durable.
    states: Vec<Held>,
    /// Makes rows of the same index distinguishable.
    serial: u64,
    /// Faults that struck, power cuts, states found that were not the newest.
    effects: [u32; 3],
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = FaultDisk::new(seed);
        let wal = Some(open(&disk).unwrap());
        Self { disk, wal, states: vec![Held::default()], serial: 0, effects: [0; 3] }
    }

    fn newest(&self) -> Held {
        self.states.last().cloned().unwrap_or_default()
    }

    /// Calls the log; the call may have reached the disk even if it fails.
    fn call(&mut self, state: Held, call: impl FnOnce(&mut Wal) -> Result<(), Error>) {
        self.states.push(state);
        let failed = call(self.wal.as_mut().unwrap()).is_err();
        if failed {
            self.effects[0] += 1;
            assert!(self.wal.as_mut().unwrap().sync().is_err(), "a failed log goes on");
            // Half of the time the machine goes too.
            let power = self.serial.is_multiple_of(2);
            self.stop(power);
            self.reopen();
        }
    }

    fn stop(&mut self, power: bool) {
        self.wal = None;
        if power {
            self.effects[1] += 1;
            self.disk.power_cut();
        } else {
            self.disk.process_killed();
        }
    }

    fn reopen(&mut self) {
        let wal = match open(&self.disk) {
            Ok(wal) => wal,
            Err(error) => panic!("does not open: {}", text(&error)),
        };
        let found = Held::of(&wal);
        let at = self.states.iter().rposition(|state| *state == found);
        let at = at.unwrap_or_else(|| {
            panic!(
                "found what never was: {}\nof {} states, the newest {}",
                found.brief(),
                self.states.len(),
                self.newest().brief()
            )
        });
        if at + 1 < self.states.len() {
            self.effects[2] += 1;
        }
        self.states = vec![found];
        self.wal = Some(wal);
    }

    fn step(&mut self, step: &Step) {
        self.serial += 1;
        let mut state = self.newest();
        match *step {
            Step::Append { rows, bytes } => {
                for _ in 0..rows {
                    let mut state = self.newest();
                    let index = state.next();
                    let mut payload = self.serial.to_le_bytes().to_vec();
                    payload.resize(bytes, u8::try_from(index % 251).unwrap());
                    state.rows.insert(index, payload.clone());
                    self.call(state, |wal| wal.append(index, &[&payload]));
                }
            }
            Step::Truncate { rows } => {
                let keep = state.next().checked_sub(rows + 1);
                state.rows.retain(|index, _| keep.is_some_and(|keep| *index <= keep));
                self.call(state, |wal| wal.truncate_after(keep));
            }
            Step::Purge { rows } => {
                let first = state.rows.keys().next().copied().unwrap_or_else(|| state.next());
                let index = first + rows - rows.min(1);
                let payload = self.serial.to_le_bytes();
                if state.purged.as_ref().is_none_or(|(purged, _)| *purged < index) {
                    state.rows.retain(|row, _| *row > index);
                    state.purged = Some((index, payload.to_vec()));
                }
                self.call(state, |wal| wal.purge_to(index, &payload));
            }
            Step::Meta { kind, value } => {
                state.meta.insert(kind, vec![value; usize::from(value)]);
                self.call(state, |wal| wal.set_meta(kind, &vec![value; usize::from(value)]));
            }
            Step::Write => self.call(state, Wal::write),
            Step::Sync => {
                let failures = self.effects[0];
                self.call(state.clone(), Wal::sync);
                if self.effects[0] == failures {
                    self.states = vec![state];
                }
            }
            Step::Reopen => {
                self.wal = None;
                self.disk.set_faults(Faults::default());
                if self.disk.list().is_err() {
                    // The power failed unseen, while a segment was made ahead.
                    self.stop(true);
                }
                self.reopen();
            }
            Step::Kill => {
                self.stop(false);
                self.reopen();
            }
            Step::PowerCut => {
                self.stop(true);
                self.reopen();
            }
            Step::PowerCutTwice { at } => {
                self.stop(true);
                let faults = Faults { power_fails_at_operation: Some(at), ..Faults::default() };
                self.disk.set_faults(faults);
                drop(open(&self.disk));
                self.stop(true);
                self.reopen();
            }
            Step::Arm(fault) => {
                let none = Faults::default();
                self.disk.set_faults(match fault {
                    Fault::Power(at) => Faults { power_fails_at_operation: Some(at), ..none },
                    Fault::Sync(at) => Faults { sync_fails_at: Some(at), ..none },
                    Fault::Full(bytes) => Faults { free_bytes: Some(bytes), ..none },
                });
            }
        }
        if let Some(wal) = &self.wal {
            let state = self.newest();
            let bounds = state.rows.keys().next().zip(state.rows.keys().next_back());
            assert_eq!(wal.bounds(), bounds.map(|(first, last)| (*first, *last)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_is_found_and_nothing_that_never_was(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut run = Run::new(seed);
        for step in &steps {
            run.step(step);
        }
        run.disk.set_faults(Faults::default());
        run.step(&Step::PowerCut);
    }
}

/// The histories above are worth something only if faults strike in them.
#[test]
fn faults_strike_in_random_histories() {
    use proptest::{
        strategy::ValueTree as _,
        test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut effects = [0; 3];
    for seed in 0..100 {
        let steps = proptest::collection::vec(step(), 80).new_tree(&mut runner).unwrap().current();
        let mut run = Run::new(seed);
        for step in &steps {
            run.step(step);
        }
        effects = std::array::from_fn(|n| effects[n] + run.effects[n]);
    }
    assert!(effects.iter().all(|effect| *effect > 50), "{effects:?}");
}
