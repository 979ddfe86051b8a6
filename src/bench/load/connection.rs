//! One connection and the clients on it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    LoadError,
    worker::{Group, Shared},
};
use crate::bench::{
    plan::{Plan, Protocol},
    render::{Action, Rng, Stamp},
    verify::Witness,
    wire::{Event, Grpc, Json, Stream, Wire, WireError},
};

/// Time a connection and its handshake may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Pause before a lost connection is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A client: what it does next and what it saw acknowledged.
pub(super) struct Client {
    rng: Rng,
    sequence: u64,
    in_flight: Option<InFlight>,
    pub(super) witness: Witness,
}

#[derive(Clone, Copy)]
struct InFlight {
    started: Instant,
    action: Action,
    stamp: Stamp,
}

impl Client {
    pub(super) fn new(plan: &Plan, number: usize) -> Self {
        let client = u32::try_from(number).unwrap_or(u32::MAX);
        let mut rng = Rng::new(plan.seed.wrapping_add(u64::from(client) << 32));
        rng.next();
        Self {
            rng,
            sequence: 0,
            in_flight: None,
            witness: Witness { client, first: None, last: None },
        }
    }
}

/// A socket with its protocol.
pub(super) struct Link {
    stream: Stream,
    wire: Wire,
    /// How much of the output has been written.
    written: usize,
    endpoint: String,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("connection closed by the server")]
    Eof,
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Link {
    /// Connects and waits until requests may be sent.
    pub(super) async fn connect(plan: &Plan, connection: usize) -> Result<Self, LoadError> {
        let endpoint = plan.endpoints[connection % plan.endpoints.len()].clone();
        let attempt = Self::open(plan, &endpoint);
        let source = match tokio::time::timeout(CONNECT_MAX, attempt).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(Broken::Io(error))) => error,
            Ok(Err(other)) => io::Error::other(other.to_string()),
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "no answer to the handshake"),
        };
        Err(LoadError::Connect { endpoint, source })
    }

    async fn open(plan: &Plan, endpoint: &str) -> Result<Self, Broken> {
        let tls = plan.tls.as_ref().map(|tls| tls.of(plan.protocol));
        let stream = Stream::connect(endpoint, tls).await?;
        let wire = match plan.protocol {
            Protocol::Grpc => Wire::Grpc(Box::new(Grpc::new(endpoint))),
            Protocol::Http => Wire::Json(Box::new(Json::new(endpoint))),
        };
        let mut link = Self { stream, wire, written: 0, endpoint: endpoint.to_owned() };
        let mut input = vec![0; 4096];
        while !link.wire.ready() {
            let count = link.exchange(&mut input).await?;
            link.wire.feed(&input[..count], &mut vec![])?;
        }
        Ok(link)
    }

    /// Whether the server allows so many requests at a time.
    pub(super) fn check_slots(&self, needed: usize) -> Result<(), LoadError> {
        let allowed = self.wire.slots_max();
        if needed <= allowed {
            return Ok(());
        }
        Err(LoadError::Streams { endpoint: self.endpoint.clone(), allowed, needed })
    }

    /// Writes what there is to write, and returns with the next bytes read.
    async fn exchange(&mut self, input: &mut [u8]) -> Result<usize, Broken> {
        poll_fn(|context| {
            self.poll_write(context)?;
            let mut buffer = ReadBuf::new(input);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer)? {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) if buffer.filled().is_empty() => Poll::Ready(Err(Broken::Eof)),
                Poll::Ready(()) => Poll::Ready(Ok(buffer.filled().len())),
            }
        })
        .await
    }

    fn poll_write(&mut self, context: &mut std::task::Context<'_>) -> Result<(), Broken> {
        let output = self.wire.output();
        while self.written < output.len() {
            match Pin::new(&mut self.stream).poll_write(context, &output[self.written..])? {
                Poll::Ready(0) => return Err(Broken::Eof),
                Poll::Ready(count) => self.written += count,
                Poll::Pending => return Ok(()),
            }
        }
        output.clear();
        self.written = 0;
        // TLS may have kept something; when the socket takes it, the task is woken.
        match Pin::new(&mut self.stream).poll_flush(context)? {
            Poll::Ready(()) | Poll::Pending => Ok(()),
        }
    }
}

/// When requests of one connection become due.
struct Pace {
    interval: Duration,
    due: Instant,
}

impl Pace {
    fn new(plan: &Plan, now: Instant, connection: usize) -> Option<Self> {
        let connections = u32::try_from(plan.connection_count()).unwrap_or(u32::MAX);
        let interval = Duration::from_secs_f64(f64::from(connections) / plan.rate?);
        // Connections start apart, so that requests of all of them are evenly spread.
        let offset = interval * u32::try_from(connection).unwrap_or(0) / connections;
        Some(Self { interval, due: now + offset })
    }
}

/// Drives a connection to the end of the run, making it anew when it breaks.
pub(super) async fn run(shared: Rc<Shared>, link: Link, group: Group) -> Vec<Client> {
    let Group { connection, mut clients } = group;
    let mut pace = Pace::new(&shared.plan, Instant::now(), connection);
    let mut link = Some(link);
    loop {
        if let Some(link) = &mut link {
            let Err(broken) = drive(&shared, link, &mut clients, &mut pace).await else {
                return clients;
            };
            lose(&shared, &mut clients, &broken);
        }
        if shared.stopping(Instant::now()) {
            return clients;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
        link = match Link::connect(&shared.plan, connection).await {
            Ok(link) => Some(link),
            Err(error) => {
                shared.tally.borrow_mut().fail("reconnect".into(), 1, &error);
                None
            }
        };
    }
}

/// Counts the requests of a broken connection as failed.
fn lose(shared: &Shared, clients: &mut [Client], broken: &Broken) {
    let lost = clients.iter_mut().filter_map(|client| client.in_flight.take()).count();
    let lost = u64::try_from(lost).unwrap_or(u64::MAX);
    shared.in_flight.set(shared.in_flight.get() - lost);
    let mut tally = shared.tally.borrow_mut();
    tally.connections_lost += 1;
    if lost > 0 {
        tally.fail("connection lost".into(), lost, broken);
    }
}

async fn drive(
    shared: &Shared,
    link: &mut Link,
    clients: &mut [Client],
    pace: &mut Option<Pace>,
) -> Result<(), Broken> {
    let mut idle: Vec<usize> = (0..clients.len()).rev().collect();
    let mut events = vec![];
    let mut now = Instant::now();
    loop {
        let stopping = shared.stopping(now);
        if !stopping {
            issue(shared, link, clients, &mut idle, pace, now);
        } else if idle.len() == clients.len() {
            return Ok(());
        }
        let wake = if stopping || idle.is_empty() {
            None
        } else {
            pace.as_ref().map(|pace| shared.stop_at().map_or(pace.due, |stop| pace.due.min(stop)))
        };
        let received = receive(shared, link, wake, &mut events).await;
        now = Instant::now();
        // Answers that arrived before the connection broke count.
        finish(shared, clients, &mut idle, &mut events, now);
        received?;
    }
}

/// Waits for input, at most until `wake`, and parses it.
async fn receive(
    shared: &Shared,
    link: &mut Link,
    wake: Option<Instant>,
    events: &mut Vec<Event>,
) -> Result<(), Broken> {
    // The scratch buffer is shared by all connections, so it is borrowed only while polling.
    let exchange = poll_fn(|context| {
        link.poll_write(context)?;
        let mut input = shared.input.borrow_mut();
        let mut buffer = ReadBuf::new(&mut input);
        match Pin::new(&mut link.stream).poll_read(context, &mut buffer)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) if buffer.filled().is_empty() => Poll::Ready(Err(Broken::Eof)),
            Poll::Ready(()) => {
                Poll::Ready(link.wire.feed(buffer.filled(), events).map_err(Broken::from))
            }
        }
    });
    match wake {
        None => exchange.await,
        Some(wake) => tokio::time::timeout_at(wake.into(), exchange).await.unwrap_or(Ok(())),
    }
}

/// Sends a request for every client that may send one.
fn issue(
    shared: &Shared,
    link: &mut Link,
    clients: &mut [Client],
    idle: &mut Vec<usize>,
    pace: &mut Option<Pace>,
    now: Instant,
) {
    let mut body = shared.body.borrow_mut();
    while !idle.is_empty() {
        let mut started = now;
        if let Some(pace) = pace {
            if pace.due > now {
                return;
            }
            started = pace.due;
            pace.due += pace.interval;
        }
        let Some(slot) = idle.pop() else { return };
        let client = &mut clients[slot];
        let action = shared.renderer.action(&mut client.rng);
        let key = shared.next_key().unwrap_or_else(|| client.rng.below(shared.plan.key_space));
        client.sequence += 1;
        let stamp = shared.renderer.stamp(key, client.sequence, client.witness.client);
        shared.renderer.body(&mut body, action, stamp);
        link.wire.request(u32::try_from(slot).unwrap_or(u32::MAX), action.method(), &body);
        client.in_flight = Some(InFlight { started, action, stamp });
        shared.in_flight.set(shared.in_flight.get() + 1);
    }
}

/// Counts what has ended.
fn finish(
    shared: &Shared,
    clients: &mut [Client],
    idle: &mut Vec<usize>,
    events: &mut Vec<Event>,
    now: Instant,
) {
    let mut count = 0;
    for event in events.drain(..) {
        let Event::Done { slot, received, outcome } = event else { continue };
        let Ok(slot) = usize::try_from(slot) else { continue };
        let Some(client) = clients.get_mut(slot) else { continue };
        let Some(request) = client.in_flight.take() else { continue };
        let ok = outcome.is_ok();
        // A read that found nothing answers with a header only, shorter than any value.
        let short = ok && !request.action.writes() && received < shared.plan.value_bytes.max(1);
        if ok && request.action.writes() {
            client.witness.acknowledged(request.stamp);
        }
        let latency = now.saturating_duration_since(request.started);
        shared.complete(now, latency, &outcome, short);
        idle.push(slot);
        count += 1;
    }
    if count > 0 {
        shared.add_completed(count);
    }
}
