//! The guard is guarded: clean histories pass, each planted violation is found.

use std::time::Instant;

use proptest::prelude::*;

use crate::support::{
    checker::{Violation, check},
    history::{Action, Change, History, Operation, Outcome, Pair, Seen},
    random::Random,
};

/// Revision of an empty store.
const FIRST: i64 = 1;

/// Plays random clients against a correct store. Each operation happens at one instant between
/// its call and its return; some lose their answers, some of those never happen.
fn clean_history(seed: u64, operations: usize) -> History {
    let mut random = Random::new(seed);
    let mut store = Store::default();
    let mut clocks = [0_u64; 6];
    let mut calls = Vec::new();
    for number in 0..operations {
        let client = random.below(clocks.len());
        let called_ns = clocks[client] + 1 + random.bits() % 50;
        let happens_ns = called_ns + 1 + random.bits() % 100;
        let returned_ns = happens_ns + 1 + random.bits() % 100;
        clocks[client] = returned_ns;
        calls.push((happens_ns, number, client, called_ns, returned_ns));
    }
    calls.sort_unstable();
    let mut history = History::default();
    for (_, number, client, called_ns, returned_ns) in calls {
        let action = store.action(&mut random, number);
        let happens = !random.chance(3);
        let answered = happens && !random.chance(5);
        let (revision, seen) = if happens {
            store.apply(&action, &mut random, &mut history.changes)
        } else {
            (0, Seen::Wrote)
        };
        let outcome =
            if answered { Outcome::Answered { revision, seen } } else { Outcome::Unknown };
        history.operations.push(Operation { client, called_ns, returned_ns, action, outcome });
    }
    history
}

/// A correct store of a few keys.
#[derive(Default)]
struct Store {
    changes: i64,
    pairs: std::collections::BTreeMap<String, Pair>,
}

impl Store {
    fn action(&self, random: &mut Random, number: usize) -> Action {
        let key = format!("k{}", random.below(4));
        let value = format!("v{number}");
        match random.weighted(&[4, 2, 4, 3]) {
            0 => Action::Put { key, value },
            1 => Action::Delete { key },
            2 => Action::Read { key },
            _ => {
                let now = self.pairs.get(&key).map_or(0, |pair| pair.mod_revision);
                let expected = if random.chance(70) { now } else { 0 };
                Action::Swap { key, expected, value }
            }
        }
    }

    fn apply(
        &mut self,
        action: &Action,
        random: &mut Random,
        changes: &mut Vec<Change>,
    ) -> (i64, Seen) {
        let before = self.pairs.get(action.key()).cloned();
        let next = FIRST + self.changes + 1;
        let written = match action {
            Action::Read { .. } => return (next - 1, Seen::Value(before)),
            Action::Delete { .. } if before.is_none() => return (next - 1, Seen::Deleted(0)),
            Action::Swap { expected, .. }
                if *expected != before.as_ref().map_or(0, |pair| pair.mod_revision) =>
            {
                return (next - 1, Seen::Value(before));
            }
            Action::Delete { .. } => None,
            Action::Put { value, .. } | Action::Swap { value, .. } => Some(Pair {
                value: value.clone(),
                create_revision: before.as_ref().map_or(next, |pair| pair.create_revision),
                mod_revision: next,
                version: before.as_ref().map_or(1, |pair| pair.version + 1),
            }),
        };
        self.changes += 1;
        match &written {
            Some(pair) => self.pairs.insert(action.key().to_owned(), pair.clone()),
            None => self.pairs.remove(action.key()),
        };
        let key = action.key().to_owned();
        changes.push(Change { revision: next, key, pair: written });
        let seen = match action {
            Action::Delete { .. } => Seen::Deleted(1),
            Action::Put { .. } if random.chance(50) => Seen::Replaced(before),
            _ => Seen::Wrote,
        };
        (next, seen)
    }
}

proptest! {
    #[test]
    fn a_correct_store_has_no_violation(seed: u64, operations in 0_usize..400) {
        let history = clean_history(seed, operations);
        prop_assert_eq!(check(&history, FIRST).err(), None);
    }

    #[test]
    fn a_read_answered_from_the_previous_revision_is_found(seed: u64) {
        let mut history = clean_history(seed, 300);
        // A read of a key that was changed at the revision the read was answered at, and that
        // was called after that change had been acknowledged, now tells the state before it.
        let Some((read, old)) = stale_candidate(&history) else { return Ok(()) };
        let Outcome::Answered { revision, seen } = &mut history.operations[read].outcome else {
            unreachable!("only answered reads are candidates")
        };
        *revision -= 1;
        *seen = Seen::Value(old);
        let found = check(&history, FIRST).expect_err("a stale read");
        prop_assert!(found.iter().any(|one| matches!(one, Violation::Backwards { .. })), "{found:?}");
    }
}

/// An answered read and the pair that its key had one revision earlier.
fn stale_candidate(history: &History) -> Option<(usize, Option<Pair>)> {
    let returned_at = |revision: i64| {
        history.operations.iter().find_map(|operation| match &operation.outcome {
            Outcome::Answered { revision: at, seen }
                if *at == revision && !matches!(seen, Seen::Value(_) | Seen::Deleted(0)) =>
            {
                Some(operation.returned_ns)
            }
            _ => None,
        })
    };
    history.operations.iter().enumerate().find_map(|(index, operation)| {
        let Outcome::Answered { revision, .. } = operation.outcome else { return None };
        let Action::Read { key } = &operation.action else { return None };
        let change = history.changes.iter().find(|change| change.revision == revision)?;
        if change.key != *key || returned_at(revision)? >= operation.called_ns {
            return None;
        }
        let before = |change: &&Change| change.revision < revision && change.key == *key;
        let old = history.changes.iter().rev().find(before).and_then(|change| change.pair.clone());
        Some((index, old))
    })
}

/// A put of `value` on key `k`, answered at `revision`, during `called..returned`.
fn put(value: &str, revision: i64, called_ns: u64, returned_ns: u64) -> Operation {
    let action = Action::Put { key: "k".to_owned(), value: value.to_owned() };
    let outcome = Outcome::Answered { revision, seen: Seen::Wrote };
    Operation { client: 0, called_ns, returned_ns, action, outcome }
}

fn pair(value: &str, create_revision: i64, mod_revision: i64, version: i64) -> Pair {
    Pair { value: value.to_owned(), create_revision, mod_revision, version }
}

fn change(revision: i64, pair: Option<Pair>) -> Change {
    Change { revision, key: "k".to_owned(), pair }
}

/// Two puts, one after the other, and a read that sees the second.
fn small() -> History {
    let read = Operation {
        client: 1,
        called_ns: 50,
        returned_ns: 60,
        action: Action::Read { key: "k".to_owned() },
        outcome: Outcome::Answered { revision: 3, seen: Seen::Value(Some(pair("b", 2, 3, 2))) },
    };
    History {
        operations: vec![put("a", 2, 10, 20), put("b", 3, 30, 40), read],
        changes: vec![change(2, Some(pair("a", 2, 2, 1))), change(3, Some(pair("b", 2, 3, 2)))],
    }
}

#[test]
fn each_planted_violation_is_found() {
    type Plant = fn(&mut History);
    type Want = fn(&Violation) -> bool;
    let cases: [(&str, Plant, Want); 14] = [
        (
            "an acknowledged write is not in the store",
            |h| drop(h.changes.pop()),
            |v| matches!(v, Violation::NeverReached { .. }),
        ),
        (
            "another value stands at the acknowledged revision",
            |h| h.changes[1].pair = Some(pair("x", 2, 3, 2)),
            |v| matches!(v, Violation::Lost { .. }),
        ),
        (
            "a change nobody asked for",
            |h| h.changes.push(change(4, Some(pair("z", 2, 4, 3)))),
            |v| matches!(v, Violation::Phantom(_)),
        ),
        (
            "one put applied twice",
            |h| h.changes.push(change(4, Some(pair("b", 2, 4, 3)))),
            |v| matches!(v, Violation::Phantom(_)),
        ),
        (
            "a delete nobody asked for",
            |h| h.changes.push(change(4, None)),
            |v| matches!(v, Violation::Phantom(_)),
        ),
        (
            "a revision is missing",
            |h| h.changes[1].revision = 4,
            |v| matches!(v, Violation::Gap { after: 2, found: 4 }),
        ),
        (
            "a version does not count up",
            |h| h.changes[1].pair = Some(pair("b", 2, 3, 1)),
            |v| matches!(v, Violation::WrongCounters { .. }),
        ),
        (
            "a create revision moves",
            |h| h.changes[1].pair = Some(pair("b", 3, 3, 2)),
            |v| matches!(v, Violation::WrongCounters { .. }),
        ),
        (
            "two writes were acknowledged at one revision",
            |h| h.operations.push(put("c", 3, 30, 40)),
            |v| matches!(v, Violation::Shared { revision: 3, .. }),
        ),
        (
            "a read misses the newest value of its own revision",
            |h| h.operations[2].outcome = answered(3, Seen::Value(Some(pair("a", 2, 2, 1)))),
            |v| matches!(v, Violation::WrongAnswer { .. }),
        ),
        (
            "a read is answered from an old revision",
            |h| h.operations[2].outcome = answered(2, Seen::Value(Some(pair("a", 2, 2, 1)))),
            |v| matches!(v, Violation::Backwards { .. }),
        ),
        (
            "a put is visible before it was asked for",
            |h| h.operations[1].called_ns = 70,
            |v| matches!(v, Violation::Backwards { .. }),
        ),
        (
            "a swap goes through although its condition does not hold",
            |h| {
                let key = "k".to_owned();
                h.operations[1].action = Action::Swap { key, expected: 0, value: "b".to_owned() };
            },
            |v| matches!(v, Violation::WrongAnswer { .. }),
        ),
        (
            "a put answers a wrong previous value",
            |h| h.operations[1].outcome = answered(3, Seen::Replaced(None)),
            |v| matches!(v, Violation::WrongAnswer { .. }),
        ),
    ];
    assert_eq!(check(&small(), FIRST).err(), None, "the history without a plant is clean");
    for (name, plant, want) in cases {
        let mut history = small();
        plant(&mut history);
        let found = check(&history, FIRST).expect_err(name);
        assert!(found.iter().any(want), "{name}: found only {found:?}");
    }
}

fn answered(revision: i64, seen: Seen) -> Outcome {
    Outcome::Answered { revision, seen }
}

#[test]
fn an_unknown_write_may_have_happened_or_not() {
    let mut history = small();
    history.operations[1].outcome = Outcome::Unknown;
    let happened = check(&history, FIRST).expect("the change settles it");
    assert_eq!((happened.settled, happened.floating), (1, 0));

    history.operations.truncate(2);
    history.changes.truncate(1);
    let never = check(&history, FIRST).expect("no trace is fine");
    assert_eq!((never.settled, never.floating), (0, 1));
}

#[test]
fn an_unknown_write_must_not_happen_before_it_was_asked_for() {
    let mut history = small();
    history.operations[1].outcome = Outcome::Unknown;
    history.operations[1].called_ns = 70;
    let found = check(&history, FIRST).expect_err("the read saw it too early");
    assert!(matches!(found[0], Violation::Backwards { .. }), "{found:?}");
}

#[test]
fn a_hundred_thousand_operations_take_well_under_ten_seconds() {
    let history = clean_history(7, 100_000);
    let start = Instant::now();
    let summary = check(&history, FIRST).expect("clean");
    assert!(summary.answered > 80_000, "{summary:?}");
    assert!(start.elapsed().as_secs() < 10, "took {:?}", start.elapsed());
}
