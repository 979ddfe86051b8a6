//! One load thread: connects, drives its connections, counts.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use tokio::task::{JoinSet, LocalSet};

use super::{
    LoadError, Message, ThreadResult,
    connection::{self, Client, Link},
};
use crate::bench::{
    plan::{Plan, Stop},
    process,
    render::Renderer,
    stats::Tally,
    wire::Outcome,
};

/// How long requests in flight are awaited after the window.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// A run in which nothing completes for so long is given up.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Time between looks at both.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Bytes taken from a socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// What the connections of a thread share. One thread, so cells do.
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) renderer: Renderer,
    open_at: Instant,
    stop_at: Option<Instant>,
    /// Measured requests still to complete; only with [`Stop::Total`].
    budget: Cell<u64>,
    opened: Cell<Option<(Instant, Option<Duration>)>>,
    closed: Cell<Option<(Instant, Option<Duration>)>>,
    pub(super) tally: RefCell<Tally>,
    pub(super) in_flight: Cell<u64>,
    /// Next key if keys come in turn: threads take every other one, so that a total of the key
    /// space writes each key once, whichever client is quick.
    next_key: Cell<u64>,
    /// Scratch for reads; what does not end in a whole frame is copied by the wire.
    pub(super) input: RefCell<Vec<u8>>,
    /// Scratch for a request body.
    pub(super) body: RefCell<Vec<u8>>,
    completed: Arc<AtomicU64>,
    sender: mpsc::Sender<Message>,
}

impl Shared {
    /// Whether no further request is to be sent. Opens and closes the window by time.
    pub(super) fn stopping(&self, now: Instant) -> bool {
        if self.opened.get().is_none() && now >= self.open_at {
            self.opened.set(Some((now, process::cpu_of_this_thread())));
        }
        if self.closed.get().is_none() && self.stop_at.is_some_and(|stop| now >= stop) {
            self.close(now);
        }
        self.closed.get().is_some()
    }

    /// The time at which an idle connection has to look again.
    pub(super) fn stop_at(&self) -> Option<Instant> {
        self.stop_at
    }

    /// The key whose turn it is, if keys come in turn.
    pub(super) fn next_key(&self) -> Option<u64> {
        let number = self.next_key.get();
        self.next_key.set(number + u64::try_from(self.plan.thread_count()).unwrap_or(1));
        self.plan.sequential.then_some(number % self.plan.key_space)
    }

    fn close(&self, now: Instant) {
        self.closed.set(Some((now, process::cpu_of_this_thread())));
        // The calling thread is gone only if the whole run was given up.
        let _ = self.sender.send(Message::Closed);
    }

    /// Counts the end of a request.
    pub(super) fn complete(&self, now: Instant, latency: Duration, outcome: &Outcome, short: bool) {
        self.in_flight.set(self.in_flight.get() - 1);
        let mut tally = self.tally.borrow_mut();
        tally.outcome(outcome);
        tally.short_reads += u64::from(short);
        let measured = self.opened.get().is_some_and(|(opened, _)| now >= opened)
            && self.closed.get().is_none();
        if !measured {
            return;
        }
        if outcome.is_ok() {
            tally.succeed(latency);
        }
        // Failures use up the total too, so that a refusing server ends the run.
        self.budget.set(self.budget.get() - 1);
        if self.budget.get() == 0 {
            drop(tally);
            self.close(now);
        }
    }

    pub(super) fn add_completed(&self, count: u64) {
        self.completed.fetch_add(count, Ordering::Relaxed);
    }
}

/// Body of a load thread.
pub(super) fn run(
    plan: &Plan,
    index: usize,
    start: &mpsc::Receiver<Instant>,
    sender: &mpsc::Sender<Message>,
    completed: Arc<AtomicU64>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = sender.send(Message::Failed(LoadError::Thread(error)));
            return;
        }
    };
    let local = LocalSet::new();
    let result = local.block_on(&runtime, drive(plan, index, start, sender, completed));
    let message = match result {
        Ok(result) => Message::Finished(Box::new(result)),
        Err(error) => Message::Failed(error),
    };
    let _ = sender.send(message);
}

async fn drive(
    plan: &Plan,
    index: usize,
    start: &mpsc::Receiver<Instant>,
    sender: &mpsc::Sender<Message>,
    completed: Arc<AtomicU64>,
) -> Result<ThreadResult, LoadError> {
    let groups = groups(plan, index);
    let links =
        try_join_all(groups.iter().map(|group| Link::connect(plan, group.connection))).await?;
    for (link, group) in links.iter().zip(&groups) {
        link.check_slots(group.clients.len())?;
    }
    let _ = sender.send(Message::Connected);
    // Nothing else runs on this thread yet, so blocking is fine.
    let Ok(start_at) = start.recv() else { return Err(LoadError::Died) };
    let shared = Rc::new(shared(plan, index, start_at, sender.clone(), completed));
    tokio::time::sleep_until(start_at.into()).await;
    let mut tasks = JoinSet::new();
    for (link, group) in links.into_iter().zip(groups) {
        tasks.spawn_local(connection::run(shared.clone(), link, group));
    }
    let mut clients: Vec<Client> = vec![];
    let mut watchdog = Watchdog { completed: 0, since: Instant::now() };
    loop {
        match tokio::time::timeout(LOOK_EVERY, tasks.join_next()).await {
            Ok(Some(Ok(done))) => clients.extend(done),
            // A task that panicked: its requests stay in flight and count as unanswered.
            Ok(Some(Err(_))) => {}
            Ok(None) => break,
            Err(_) if watchdog.gives_up(&shared) => {
                tasks.shutdown().await;
                break;
            }
            Err(_) => {}
        }
    }
    Ok(finish(&shared, clients))
}

fn finish(shared: &Shared, clients: Vec<Client>) -> ThreadResult {
    let now = Instant::now();
    if shared.closed.get().is_none() {
        shared.close(now);
    }
    let mut tally = shared.tally.take();
    if shared.in_flight.get() > 0 {
        let text = "no answer before the end of the run";
        tally.fail("unanswered".into(), shared.in_flight.get(), &text);
    }
    let (closed, cpu_after) = shared.closed.get().unwrap_or((now, None));
    let (opened, cpu_before) = shared.opened.get().unwrap_or((closed, None));
    let cpu = cpu_after.zip(cpu_before).and_then(|(after, before)| after.checked_sub(before));
    let witnesses = clients.into_iter().map(|client| client.witness).collect();
    ThreadResult { tally, opened, closed, cpu, witnesses }
}

fn shared(
    plan: &Plan,
    index: usize,
    start: Instant,
    sender: mpsc::Sender<Message>,
    completed: Arc<AtomicU64>,
) -> Shared {
    let open_at = start + plan.warmup;
    let threads = u64::try_from(plan.thread_count()).unwrap_or(1);
    let (stop_at, budget) = match plan.stop {
        Stop::After(time) => (Some(open_at + time), u64::MAX),
        // The first thread takes what does not divide.
        Stop::Total(total) => {
            (None, total / threads + if index == 0 { total % threads } else { 0 })
        }
    };
    Shared {
        renderer: Renderer::new(plan),
        plan: plan.clone(),
        open_at,
        stop_at,
        budget: Cell::new(budget.max(1)),
        opened: Cell::new(None),
        closed: Cell::new(None),
        tally: RefCell::default(),
        in_flight: Cell::new(0),
        next_key: Cell::new(u64::try_from(index).unwrap_or(0)),
        input: RefCell::new(vec![0; READ_BYTES]),
        body: RefCell::default(),
        completed,
        sender,
    }
}

/// The clients of one connection.
pub(super) struct Group {
    /// Number of the connection among all of the run.
    pub(super) connection: usize,
    /// Its clients; the slot of a client is its place here.
    pub(super) clients: Vec<Client>,
}

/// The connections of one thread with their clients: both are dealt out in turn.
fn groups(plan: &Plan, thread: usize) -> Vec<Group> {
    let connections = plan.connection_count();
    (thread..connections)
        .step_by(plan.thread_count())
        .map(|connection| Group {
            connection,
            clients: (connection..plan.clients)
                .step_by(connections)
                .map(|number| Client::new(plan, number))
                .collect(),
        })
        .collect()
}

/// Notices that a run does not end.
struct Watchdog {
    completed: u64,
    since: Instant,
}

impl Watchdog {
    fn gives_up(&mut self, shared: &Shared) -> bool {
        let now = Instant::now();
        if shared.stopping(now)
            && shared.closed.get().is_some_and(|(closed, _)| now > closed + DRAIN_MAX)
        {
            return true;
        }
        let completed = shared.completed.load(Ordering::Relaxed);
        if completed != self.completed {
            *self = Self { completed, since: now };
        }
        now > self.since + STALL_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_one_connection_and_one_thread() {
        for (clients, connections, threads) in [(1, None, 2), (64, None, 2), (1000, Some(7), 1)] {
            let plan = Plan { clients, connections, threads, ..Plan::default() };
            let mut numbers: Vec<u32> = (0..plan.thread_count())
                .flat_map(|thread| groups(&plan, thread))
                .flat_map(|group| group.clients)
                .map(|client| client.witness.client)
                .collect();
            numbers.sort_unstable();
            let want: Vec<u32> = (0..u32::try_from(clients).unwrap()).collect();
            assert_eq!(numbers, want);
        }
    }
}
