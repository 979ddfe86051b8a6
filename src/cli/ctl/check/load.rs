//! Puts of many clients at once, at a pace, and how long they took.

use std::{cell::Cell, cell::RefCell, collections::BTreeMap, time::Duration};

use futures::future::join_all;
use tokio::time::{Instant, sleep_until};

use super::super::{
    Session,
    args::Global,
    client::{Client, Effect},
    exit::Exit,
};
use crate::{
    api::proto::etcdserverpb::{PutRequest, kv_client::KvClient},
    bench::Progress,
};

/// What is put.
pub(super) struct Load<'a> {
    /// In front of all keys.
    pub(super) prefix: &'a str,
    /// Connections, each with one put at a time.
    pub(super) clients: usize,
    pub(super) key_bytes: usize,
    pub(super) value_bytes: usize,
    pub(super) pace: Pace,
}

/// How fast, and how much.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// This many puts a second for this time. What the server is late with is not made up for.
    Rate { per_s: u32, time: Duration },
    /// This many puts, as fast as they go.
    Count(u64),
}

/// How a load went.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    latencies_s: Vec<f64>,
    /// How often each error came.
    pub(super) errors: BTreeMap<String, u64>,
    /// From the first put to the last answer.
    pub(super) elapsed: Duration,
}

impl Outcome {
    /// Counts one put.
    pub(super) fn add(&mut self, took: Duration, error: Option<String>) {
        match error {
            None => self.latencies_s.push(took.as_secs_f64()),
            Some(error) => *self.errors.entry(error).or_default() += 1,
        }
    }

    fn count(&self) -> f64 {
        self.latencies_s.len() as f64
    }

    /// Puts that succeeded, a second.
    pub(super) fn per_s(&self) -> f64 {
        self.count() / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// The longest time of a put, in seconds.
    pub(super) fn slowest_s(&self) -> f64 {
        self.latencies_s.iter().copied().fold(0.0, f64::max)
    }

    /// Standard deviation of the times, in seconds.
    pub(super) fn spread_s(&self) -> f64 {
        if self.latencies_s.is_empty() {
            return 0.0;
        }
        let mean = self.latencies_s.iter().sum::<f64>() / self.count();
        let squares = self.latencies_s.iter().map(|took| (took - mean).powi(2));
        (squares.sum::<f64>() / self.count()).sqrt()
    }
}

/// What the clients share.
struct Run<'a> {
    load: &'a Load<'a>,
    began: Instant,
    sent: Cell<u64>,
    /// When the next put may be sent.
    next: Cell<Instant>,
    outcome: RefCell<Outcome>,
    progress: RefCell<Progress>,
}

/// Puts a load over connections of its own, to the endpoints in turn.
///
/// # Errors
/// A flag that makes no client. What becomes of the puts is in the outcome.
pub(super) async fn put(
    session: &Session,
    global: &Global,
    load: &Load<'_>,
) -> Result<Outcome, Exit> {
    let endpoints = global.endpoints.iter().cycle().take(load.clients);
    let clients = endpoints
        .map(|endpoint| session.client.single(global, endpoint))
        .collect::<Result<Vec<_>, _>>()?;
    let began = Instant::now();
    let run = Run {
        load,
        began,
        sent: Cell::new(0),
        next: Cell::new(began),
        outcome: RefCell::default(),
        progress: RefCell::new(Progress::new(run_length(load.pace))),
    };
    join_all(clients.iter().map(|client| run.work(client))).await;
    run.progress.borrow().finish();
    let mut outcome = run.outcome.into_inner();
    outcome.elapsed = began.elapsed();
    Ok(outcome)
}

/// Seconds or puts.
fn run_length(pace: Pace) -> u64 {
    match pace {
        Pace::Rate { time, .. } => time.as_secs(),
        Pace::Count(count) => count,
    }
}

impl Run<'_> {
    /// One client's puts until the load is done.
    async fn work(&self, client: &Client) {
        while let Some(number) = self.turn().await {
            let request = PutRequest {
                key: key(self.load.prefix, number, self.load.key_bytes).into(),
                value: vec![0; self.load.value_bytes].into(),
                ..PutRequest::default()
            };
            let began = Instant::now();
            let done = client
                .call(Effect::Writes, async |connection| {
                    KvClient::new(connection).put(request.clone()).await
                })
                .await;
            self.outcome.borrow_mut().add(began.elapsed(), done.err().map(|exit| exit.message));
            let position = match self.load.pace {
                Pace::Rate { .. } => self.began.elapsed().as_secs(),
                Pace::Count(_) => number + 1,
            };
            let length = run_length(self.load.pace);
            self.progress.borrow_mut().set(position, length, String::new);
        }
    }

    /// Waits for this client's turn to put; the number of the put, none once the load is done.
    async fn turn(&self) -> Option<u64> {
        match self.load.pace {
            Pace::Count(count) if self.sent.get() >= count => return None,
            Pace::Count(_) => {}
            Pace::Rate { per_s, time } => {
                let due = self.next.get().max(Instant::now());
                if due.duration_since(self.began) >= time {
                    return None;
                }
                self.next.set(due + Duration::from_secs(1) / per_s.max(1));
                sleep_until(due).await;
            }
        }
        let number = self.sent.get();
        self.sent.set(number + 1);
        Some(number)
    }
}

/// A key of its own for each put; neighbours in time are not neighbours in the key space.
fn key(prefix: &str, number: u64, bytes: usize) -> Vec<u8> {
    let mut key =
        format!("{prefix}{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes();
    let bytes = bytes.max(key.len());
    key.resize(bytes, b'.');
    key
}
