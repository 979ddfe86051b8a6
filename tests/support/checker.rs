//! Linearizability from revisions ("revision witness"), in O(n log n).
//!
//! Every etcd answer carries the revision at which it is true, so the server itself claims a
//! total order. The checker replays the changes in that order, compares each answer with the
//! state at its revision, and checks that the order respects real time: no operation may have
//! returned before one of a lower revision was called.
//!
//! Stricter than a search over values: an answer from an old revision is refused even where the
//! values happen to agree. Unknown outcomes are settled from the changes, by their unique
//! values; those that left no change may have happened nowhere.
//!
//! A server that lies consistently about revisions would pass, so every answer is also held
//! against `mod_revision`, `create_revision` and `version` of the replayed pairs.

use std::{collections::HashMap, fmt};

use super::history::{Action, Change, History, Operation, Outcome, Pair, Seen};

/// Violations reported of one history; the first tells the story.
const VIOLATIONS_MAX: usize = 20;

/// Something that no linearizable server could have answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// The changes skip or repeat a revision.
    Gap { after: i64, found: i64 },
    /// A change has the wrong counters for its place in the order.
    WrongCounters { change: Change, expected: Option<Pair> },
    /// A change that no operation explains: never asked for, or applied twice.
    Phantom(Change),
    /// A write was acknowledged at a revision where the store has something else.
    Lost { operation: String, found: Option<Change> },
    /// Two acknowledged writes claim one revision.
    Shared { revision: i64, operation: String },
    /// An answer that does not fit the state at its revision.
    WrongAnswer { operation: String, state: Option<Pair> },
    /// An answer at a revision that the store never had.
    NeverReached { operation: String, last: i64 },
    /// `late` is ordered after `early` by revision, yet returned before `early` was called.
    Backwards { early: String, late: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}

/// What a clean history contained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Operations with an answer.
    pub(crate) answered: usize,
    /// Operations without one that turned out to have happened.
    pub(crate) settled: usize,
    /// Operations without one that left no trace.
    pub(crate) floating: usize,
    /// Changes of the store.
    pub(crate) changes: usize,
}

/// Checks a history of a store that was empty at `first_revision`.
///
/// `changes` must hold every change after `first_revision`.
///
/// # Errors
/// The first violations found; the history is not linearizable.
pub(crate) fn check(history: &History, first_revision: i64) -> Result<Summary, Vec<Violation>> {
    let mut check = Check::new(history, first_revision);
    check.replay();
    check.real_time();
    if check.violations.is_empty() {
        Ok(check.summary)
    } else {
        check.violations.truncate(VIOLATIONS_MAX);
        Err(check.violations)
    }
}

/// Place of an operation in the claimed order: writes come before reads of their revision.
type Place = (i64, bool);

struct Check<'a> {
    history: &'a History,
    revision: i64,
    state: HashMap<&'a str, &'a Pair>,
    /// Acknowledged writes by revision.
    writers: HashMap<i64, &'a Operation>,
    /// Acknowledged reads, by revision, newest first: popped while replaying.
    readers: Vec<&'a Operation>,
    /// Unknown writes by their value.
    unknown_writes: HashMap<&'a str, &'a Operation>,
    /// Unknown deletes by key, in order of call, newest first.
    unknown_deletes: HashMap<&'a str, Vec<&'a Operation>>,
    /// All operations with a place, and when they had returned at the latest.
    placed: Vec<(Place, u64, &'a Operation)>,
    summary: Summary,
    violations: Vec<Violation>,
}

impl<'a> Check<'a> {
    fn new(history: &'a History, first_revision: i64) -> Self {
        let mut check = Self {
            history,
            revision: first_revision,
            state: HashMap::new(),
            writers: HashMap::new(),
            readers: Vec::new(),
            unknown_writes: HashMap::new(),
            unknown_deletes: HashMap::new(),
            placed: Vec::with_capacity(history.operations.len()),
            summary: Summary { changes: history.changes.len(), ..Summary::default() },
            violations: Vec::new(),
        };
        for operation in &history.operations {
            check.sort_in(operation);
        }
        check.readers.sort_by_key(|operation| std::cmp::Reverse(answered_at(operation)));
        for deletes in check.unknown_deletes.values_mut() {
            deletes.sort_by_key(|operation| std::cmp::Reverse(operation.called_ns));
        }
        check
    }

    fn sort_in(&mut self, operation: &'a Operation) {
        match (&operation.outcome, &operation.action) {
            (Outcome::Unknown, Action::Read { .. }) => {}
            (Outcome::Unknown, Action::Delete { key }) => {
                self.summary.floating += 1;
                self.unknown_deletes.entry(key).or_default().push(operation);
            }
            (Outcome::Unknown, Action::Put { value, .. } | Action::Swap { value, .. }) => {
                self.summary.floating += 1;
                self.unknown_writes.insert(value, operation);
            }
            (Outcome::Answered { revision, seen }, _) => {
                self.summary.answered += 1;
                let reads = matches!(seen, Seen::Value(_) | Seen::Deleted(0));
                self.placed.push(((*revision, reads), operation.returned_ns, operation));
                if reads {
                    self.readers.push(operation);
                } else if self.writers.insert(*revision, operation).is_some() {
                    let operation = format!("{operation:?}");
                    self.violations.push(Violation::Shared { revision: *revision, operation });
                }
            }
        }
    }

    fn replay(&mut self) {
        self.answer_readers();
        let history = self.history;
        for changes in history.changes.chunk_by(|a, b| a.revision == b.revision) {
            let revision = changes[0].revision;
            if revision != self.revision + 1 {
                self.violations.push(Violation::Gap { after: self.revision, found: revision });
            }
            self.revision = revision;
            for change in changes {
                self.counters(change);
                self.explain(change);
            }
            for change in changes {
                match &change.pair {
                    Some(pair) => self.state.insert(&change.key, pair),
                    None => self.state.remove(change.key.as_str()),
                };
            }
            self.answer_readers();
        }
        let last = self.revision;
        let lost = std::mem::take(&mut self.writers).into_values();
        let late = std::mem::take(&mut self.readers).into_iter();
        for operation in lost.chain(late) {
            let operation = format!("{operation:?}");
            self.violations.push(Violation::NeverReached { operation, last });
        }
    }

    /// A pair's counters follow from the pair before it.
    fn counters(&mut self, change: &Change) {
        let before = self.state.get(change.key.as_str()).copied();
        let expected = change.pair.as_ref().map(|pair| Pair {
            value: pair.value.clone(),
            create_revision: before.map_or(change.revision, |before| before.create_revision),
            mod_revision: change.revision,
            version: before.map_or(1, |before| before.version + 1),
        });
        let deletes_nothing = change.pair.is_none() && before.is_none();
        if expected != change.pair || deletes_nothing {
            self.violations.push(Violation::WrongCounters { change: change.clone(), expected });
        }
    }

    /// Finds the operation that made a change and checks its answer.
    fn explain(&mut self, change: &'a Change) {
        if let Some(operation) = self.writers.remove(&change.revision) {
            if !made(operation, change) {
                let found = Some(change.clone());
                self.violations
                    .push(Violation::Lost { operation: format!("{operation:?}"), found });
            } else if !self.write_fits(operation) {
                self.wrong_answer(operation);
            }
            return;
        }
        let unknown = match &change.pair {
            Some(pair) => self.unknown_writes.remove(pair.value.as_str()),
            None => self.unknown_deletes.get_mut(change.key.as_str()).and_then(Vec::pop),
        };
        match unknown {
            Some(operation) if made(operation, change) => {
                self.summary.settled += 1;
                self.summary.floating -= 1;
                self.placed.push(((change.revision, false), u64::MAX, operation));
                if !self.write_fits(operation) {
                    self.wrong_answer(operation);
                }
            }
            _ => self.violations.push(Violation::Phantom(change.clone())),
        }
    }

    /// Whether a write could happen in, and answer from, the state just before it.
    fn write_fits(&self, operation: &Operation) -> bool {
        let before = self.state.get(operation.action.key()).copied();
        let condition = match &operation.action {
            Action::Swap { expected, .. } => {
                *expected == before.map_or(0, |pair| pair.mod_revision)
            }
            _ => true,
        };
        let answer = match &operation.outcome {
            Outcome::Answered { seen: Seen::Replaced(previous), .. } => previous.as_ref() == before,
            Outcome::Answered { seen: Seen::Deleted(count), .. } => *count == 1,
            _ => true,
        };
        condition && answer
    }

    /// Answers all reads at the revision reached.
    fn answer_readers(&mut self) {
        while let Some(operation) = self.readers.pop_if(|next| answered_at(next) <= self.revision) {
            let state = self.state.get(operation.action.key()).copied();
            let fits = match (&operation.action, &operation.outcome) {
                _ if answered_at(operation) < self.revision => false,
                (_, Outcome::Answered { seen: Seen::Deleted(_), .. }) => state.is_none(),
                (
                    Action::Swap { expected, .. },
                    Outcome::Answered { seen: Seen::Value(value), .. },
                ) => {
                    value.as_ref() == state
                        && *expected != state.map_or(0, |pair| pair.mod_revision)
                }
                (_, Outcome::Answered { seen: Seen::Value(value), .. }) => value.as_ref() == state,
                _ => false,
            };
            if !fits {
                self.wrong_answer(operation);
            }
        }
    }

    fn wrong_answer(&mut self, operation: &Operation) {
        let state = self.state.get(operation.action.key()).map(|pair| (*pair).clone());
        self.violations.push(Violation::WrongAnswer { operation: format!("{operation:?}"), state });
    }

    /// From the newest place to the oldest: nothing later may have returned before a call here.
    fn real_time(&mut self) {
        self.placed.sort_by_key(|(place, ..)| *place);
        let mut later: Option<(u64, &Operation)> = None;
        for group in self.placed.chunk_by(|a, b| a.0 == b.0).rev() {
            for (_, _, early) in group {
                if let Some((returned_ns, late)) = later
                    && returned_ns < early.called_ns
                {
                    let (early, late) = (format!("{early:?}"), format!("{late:?}"));
                    self.violations.push(Violation::Backwards { early, late });
                }
            }
            for (_, returned_ns, operation) in group {
                if later.is_none_or(|(least, _)| *returned_ns < least) {
                    later = Some((*returned_ns, operation));
                }
            }
        }
    }
}

fn answered_at(operation: &Operation) -> i64 {
    match operation.outcome {
        Outcome::Answered { revision, .. } => revision,
        Outcome::Unknown => i64::MAX,
    }
}

/// Whether `change` is what `operation` asked for.
fn made(operation: &Operation, change: &Change) -> bool {
    match (&operation.action, &change.pair) {
        (Action::Put { key, value } | Action::Swap { key, value, .. }, Some(pair)) => {
            *key == change.key && *value == pair.value
        }
        (Action::Delete { key }, None) => *key == change.key,
        _ => false,
    }
}
