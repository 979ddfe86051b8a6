//! The same seeded random requests to real etcd and to the server under test, over JSON and
//! gRPC: every answer must be equal, revisions and error texts included.
//!
//! Both servers start empty, so revisions are equal without translation. A failing run is
//! shortened by leaving out steps and printed as requests that can be sent by hand.

mod generate;
mod normal;
mod play;
mod shrink;
mod step;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use self::{
    generate::Generator,
    normal::{difference, normalise},
    play::{Marks, Player},
    step::Step,
};
use crate::support::{
    cluster::Options,
    random::{Random, number, seed},
};

/// Seeds played when `TRIPOD_DIFFERENTIAL_SEEDS` does not say otherwise.
const SEEDS: u64 = 4;
/// Steps per seed when `TRIPOD_DIFFERENTIAL_STEPS` does not say otherwise.
const STEPS: u64 = 1500;
/// No further seed is started after this time, so that a slow machine still ends in time.
const TIME_LIMIT: Duration = Duration::from_secs(90);

#[test]
fn random_requests_are_answered_as_etcd_answers_them() -> Result<()> {
    let seeds = number("TRIPOD_DIFFERENTIAL_SEEDS").unwrap_or(SEEDS);
    let steps = number("TRIPOD_DIFFERENTIAL_STEPS").unwrap_or(STEPS);
    let base = seed();
    eprintln!("differential: TRIPOD_TEST_SEED={base}, {seeds} seeds of {steps} steps");
    let start = Instant::now();
    let mut played = 0;
    for seed in (base..).take(usize::try_from(seeds)?) {
        let trace = Generator::new(seed).steps(usize::try_from(steps)?);
        if let Some(failure) = run(&trace)? {
            let shortest = shrink::shortest(trace, failure, run)?;
            panic!("seed {seed}: the servers differ\n{shortest}");
        }
        played += steps;
        if start.elapsed() > TIME_LIMIT {
            break;
        }
    }
    eprintln!("differential: {played} equal answers in {:?}", start.elapsed());
    Ok(())
}

/// Where two servers parted.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Position of the step.
    pub(crate) index: usize,
    /// What differs, with both values.
    pub(crate) difference: String,
    /// The requests as sent, up to and with the failing one.
    pub(crate) sent: Vec<String>,
}

/// Plays a trace on two fresh servers until an answer differs.
fn run(trace: &[Step]) -> Result<Option<Failure>> {
    // The reference's data is thrown away, so it need not wait for the disk.
    let reference = Options::reference()?.flag("--unsafe-no-fsync");
    let mut reference = Player::start(reference)?;
    let mut candidate = Player::start(Options::candidate(1)?)?;
    let mut marks = Marks::default();
    let mut sent = Vec::new();
    for (index, step) in trace.iter().enumerate() {
        let step = step.resolve(marks);
        let (want, have) = std::thread::scope(|scope| {
            let other = scope.spawn(|| candidate.play(&step, marks));
            let want = reference.play(&step, marks);
            (want, other.join().expect("playing does not panic"))
        });
        // A reference that fails makes the test unusable; a candidate that fails is a finding.
        let want = want?;
        let have = have.unwrap_or_else(|error| Value::String(format!("no answer: {error:#}")));
        sent.push(step.to_string());
        marks.learn(&step, &want);
        if let Some(difference) = difference(&normalise(&step, want), &normalise(&step, have)) {
            return Ok(Some(Failure { index, difference, sent }));
        }
    }
    Ok(None)
}

/// A change to answers that a comparison must notice: a name, and what it does to one answer.
type Lie = (&'static str, fn(&mut Value));

#[test]
fn each_kind_of_wrong_answer_is_noticed() -> Result<()> {
    let lies: [Lie; 14] = [
        ("a revision too low", |answer| on_number(answer, "revision", -1)),
        ("a create revision too high", |answer| on_number(answer, "create_revision", 1)),
        ("a mod revision too low", |answer| on_number(answer, "mod_revision", -1)),
        ("a version too high", |answer| on_number(answer, "version", 1)),
        ("a count too low", |answer| on_number(answer, "count", -1)),
        ("one more deleted", |answer| on_number(answer, "deleted", 1)),
        ("no more", |answer| without(answer, "more")),
        ("no previous pair", |answer| without(answer, "prev_kv")),
        ("no lease on a pair", |answer| without(answer, "lease")),
        ("a delete event as a put", |answer| without(answer, "type")),
        ("a compare that fails", |answer| without(answer, "succeeded")),
        ("another error code", |answer| on_number(answer, "code", 1)),
        ("pairs in reverse", |answer| on_list(answer, "kvs", |list| list.reverse())),
        ("the last event lost", |answer| on_list(answer, "events", |list| drop(list.pop()))),
    ];
    let mut server = Player::start(Options::reference()?.flag("--unsafe-no-fsync"))?;
    let mut marks = Marks::default();
    let mut noticed = [0; 14];
    let mut random = Random::new(1);
    for step in Generator::new(random.bits()).steps(600) {
        let step = step.resolve(marks);
        let answer = server.play(&step, marks)?;
        marks.learn(&step, &answer);
        let want = normalise(&step, answer.clone());
        ensure!(
            difference(&want, &normalise(&step, answer.clone())).is_none(),
            "unequal to itself"
        );
        for (count, (_, lie)) in noticed.iter_mut().zip(lies) {
            let mut changed = answer.clone();
            lie(&mut changed);
            *count += usize::from(difference(&want, &normalise(&step, changed)).is_some());
        }
    }
    for (count, (name, _)) in noticed.iter().zip(lies) {
        ensure!(*count > 0, "{name}: not noticed in 600 steps");
    }
    Ok(())
}

/// Calls `change` on every value named `name` inside `value`.
fn on_each(value: &mut Value, name: &str, change: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields.iter_mut() {
                if key == name {
                    change(inner);
                }
                on_each(inner, name, change);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| on_each(item, name, change)),
        _ => {}
    }
}

fn on_number(value: &mut Value, name: &str, by: i64) {
    on_each(value, name, &mut |inner| {
        if let Some(number) = step::integer(inner) {
            *inner = Value::String((number + by).to_string());
        }
    });
}

fn on_list(value: &mut Value, name: &str, change: fn(&mut Vec<Value>)) {
    on_each(value, name, &mut |inner| {
        if let Value::Array(items) = inner {
            change(items);
        }
    });
}

fn without(value: &mut Value, name: &str) {
    match value {
        Value::Object(fields) => {
            fields.remove(name);
            fields.values_mut().for_each(|inner| without(inner, name));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without(item, name)),
        _ => {}
    }
}
