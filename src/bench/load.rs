//! Drives one workload: connections as tasks of one or two threads, clients as slots on them.
//!
//! A closed loop: a client sends its next request when the answer to the one before has arrived.
//! With a rate, requests become due at fixed times and latency counts from then, so that a slow
//! server cannot hide behind the requests it kept from being sent.
//!
//! Invariants:
//! - only requests that complete in the measured window count, and only successful ones;
//! - every request ends as a success, a failure or unanswered; none is forgotten;
//! - the window is closed by time or count, then requests in flight are awaited, not measured.

mod connection;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    plan::{Plan, PlanError, Stop},
    stats::{Summary, Tally},
    verify::Witness,
};

/// Time between looks at the progress.
const TICK: Duration = Duration::from_millis(100);
/// Time from the last connection to the first request, so that all threads start together.
const START_DELAY: Duration = Duration::from_millis(20);

/// Why a run could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The plan makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A connection could not be made or did not get through its handshake.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// Which endpoint.
        endpoint: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server allows fewer requests on a connection than clients share it.
    #[error(
        "{endpoint} allows {allowed} requests per connection, {needed} clients share one: use more --conns"
    )]
    Streams {
        /// Which endpoint.
        endpoint: String,
        /// What it allows.
        allowed: usize,
        /// What the plan needs.
        needed: usize,
    },
    /// A load thread could not be run.
    #[error("cannot run a load thread")]
    Thread(#[source] std::io::Error),
    /// A load thread ended without a result.
    #[error("a load thread ended early")]
    Died,
}

/// Gets told about the course of a run, on the calling thread.
pub trait Observer {
    /// Measuring starts.
    fn opened(&mut self) {}
    /// Measuring has ended; requests may still be in flight.
    fn closed(&mut self) {}
    /// Ten times a second: requests completed so far, warm-up included.
    fn tick(&mut self, _completed: u64, _elapsed: Duration) {}
}

/// An observer that does not care.
impl Observer for () {}

/// A finished run: its figures, and what is needed to check what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// The figures.
    pub summary: Summary,
    /// What each client saw acknowledged.
    pub witnesses: Vec<Witness>,
}

/// What a load thread tells the calling one.
enum Message {
    Connected,
    Closed,
    Finished(Box<ThreadResult>),
    Failed(LoadError),
}

/// What a load thread comes to.
struct ThreadResult {
    tally: Tally,
    opened: Instant,
    closed: Instant,
    cpu: Option<Duration>,
    witnesses: Vec<Witness>,
}

/// Runs a plan to its end.
///
/// # Errors
/// A plan out of bounds, or endpoints that cannot be reached at the start. Connections lost later
/// are made anew and counted.
pub fn run(plan: &Plan, observer: &mut dyn Observer) -> Result<Finished, LoadError> {
    plan.validate()?;
    let threads = plan.thread_count();
    let completed = Arc::new(AtomicU64::new(0));
    let (sender, messages) = mpsc::channel();
    let mut starts = vec![];
    for index in 0..threads {
        let (start, started) = mpsc::channel();
        starts.push(start);
        let (plan, sender, completed) = (plan.clone(), sender.clone(), completed.clone());
        thread::Builder::new()
            .name(format!("load-{index}"))
            .spawn(move || worker::run(&plan, index, &started, &sender, completed))
            .map_err(LoadError::Thread)?;
    }
    drop(sender);
    for _ in 0..threads {
        match messages.recv() {
            Ok(Message::Connected) => {}
            Ok(Message::Failed(error)) => return Err(error),
            _ => return Err(LoadError::Died),
        }
    }
    let start = Instant::now() + START_DELAY;
    for sender in &starts {
        // A thread that is gone is noticed below.
        let _ = sender.send(start);
    }
    let results = watch(&messages, observer, start, start + plan.warmup, &completed)?;
    Ok(combine(plan, results))
}

/// Follows the threads to their end.
fn watch(
    messages: &mpsc::Receiver<Message>,
    observer: &mut dyn Observer,
    start: Instant,
    open_at: Instant,
    completed: &AtomicU64,
) -> Result<Vec<ThreadResult>, LoadError> {
    let (mut opened, mut closed) = (false, false);
    let mut results = vec![];
    loop {
        let now = Instant::now();
        if !opened && now >= open_at {
            opened = true;
            observer.opened();
        }
        let wait = if opened { TICK } else { TICK.min(open_at - now) };
        match messages.recv_timeout(wait) {
            Ok(Message::Closed) if !closed => {
                closed = true;
                observer.closed();
            }
            Ok(Message::Finished(result)) => results.push(*result),
            Ok(Message::Failed(error)) => return Err(error),
            Ok(Message::Connected | Message::Closed) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                observer.tick(completed.load(Ordering::Relaxed), start.elapsed());
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(results),
        }
    }
}

fn combine(plan: &Plan, results: Vec<ThreadResult>) -> Finished {
    let mut tally = Tally::default();
    let mut witnesses = vec![];
    let opened = results.iter().map(|r| r.opened).min();
    let closed = results.iter().map(|r| r.closed).max();
    let window = opened.zip(closed).map_or(Duration::ZERO, |(from, to)| to - from);
    let cpu = results.iter().map(|r| r.cpu).sum::<Option<Duration>>();
    for result in results {
        tally.merge(result.tally);
        witnesses.extend(result.witnesses);
    }
    Finished { summary: Summary::new(plan, &tally, window, cpu), witnesses }
}

/// Writes every key of the plan's key space once, so that reads find something.
///
/// # Errors
/// As [`run`]; failed writes are an error too.
pub fn fill(plan: &Plan, observer: &mut dyn Observer) -> Result<Finished, LoadError> {
    let plan = Plan {
        op: super::Op::Put,
        sequential: true,
        warmup: Duration::ZERO,
        stop: Stop::Total(plan.key_space),
        rate: None,
        ..plan.clone()
    };
    run(&plan, observer)
}
