//! Client side of peer connections: greeting, reconnecting with bounded backoff, deadlines.
//!
//! Two shapes: [`Exclusive`] carries one request at a time and reads the answer in the asking
//! task, without a task switch (log entries, snapshots); [`Shared`] carries many requests at a
//! time (votes, heartbeats, reads, forwarding).

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    fatal::{Fatal, REMOVED},
    measures::Counted,
    queue::Counters,
    queue::Queues,
    transport::{PeerStream, PeerTransport},
    types::{NodeId, Peer},
    wire::{self, Frame, FrameReader, Hello, Lane, Malformed, Status, WELCOME_BYTES, WIRE_VERSION},
};

/// Longest time to connect and greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// First and longest pause before connecting again.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// An exclusive connection unused for this long is made anew: the other side closes idle ones.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// Requests under way on one shared connection.
const REQUESTS_MAX: usize = 1_024;

/// Why a request has no answer, and whether the peer may have seen it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It never left this member.
    #[error("cannot reach peer: {0}")]
    NotSent(String),
    /// The connection broke or the deadline passed after it was sent.
    #[error("no answer from peer: {0}")]
    NoAnswer(String),
}

/// What every connection of this member says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) cluster_id: u64,
    pub(crate) node_id: NodeId,
    pub(crate) queues: Arc<Queues>,
    pub(crate) fatal: Fatal,
}

type Halves = (FrameReader<ReadHalf<Box<dyn PeerStream>>>, WriteHalf<Box<dyn PeerStream>>);

impl Dialer {
    fn counters(&self) -> &Counters {
        &self.queues.counters
    }

    /// Counts a request to `target` that was not answered.
    fn failed(&self, target: NodeId) {
        self.queues.peers.of(target).send_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Connects to `target` and greets it.
    async fn dial(&self, target: NodeId, peer: &Peer, lane: Lane) -> io::Result<Halves> {
        let attempt = async {
            let stream = self.transport.connect(&peer.peer_urls, lane).await?;
            let mut stream = Counted::wrap(stream, self.queues.peers.of(target));
            let hello = Hello {
                version: WIRE_VERSION,
                lane,
                cluster_id: self.cluster_id,
                from: self.node_id,
                to: target,
            };
            stream.write_all(&hello.encode()).await?;
            let mut welcome = [0; WELCOME_BYTES];
            stream.read_exact(&mut welcome).await?;
            match wire::decode_welcome(&welcome)? {
                (Status::Accepted, id) if id == target => Ok(stream),
                (Status::Removed, id) if id == target => {
                    // A removal is for ever, and only members that applied it say so.
                    self.fatal.report_text(REMOVED);
                    Err(io::Error::new(io::ErrorKind::ConnectionRefused, REMOVED))
                }
                (status, id) => Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    format!("member {id:x} refused: {status:?}"),
                )),
            }
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, attempt)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (reader, writer) = tokio::io::split(stream);
        Ok((FrameReader::new(reader), writer))
    }
}

/// Doubling pauses between attempts.
#[derive(Debug, Default)]
struct Backoff {
    pause: Duration,
    until: Option<Instant>,
}

impl Backoff {
    fn check(&self) -> Result<(), LinkError> {
        match self.until {
            Some(until) if Instant::now() < until => {
                Err(LinkError::NotSent("waiting before the next attempt".into()))
            }
            _ => Ok(()),
        }
    }

    fn failed(&mut self) {
        self.pause = (self.pause * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        self.until = Some(Instant::now() + self.pause);
    }

    fn succeeded(&mut self) {
        *self = Self::default();
    }
}

/// One request at a time. A request that is dropped or fails takes the connection with it, so
/// that an answer never meets another request.
pub(crate) struct Exclusive {
    dialer: Dialer,
    target: NodeId,
    peer: Peer,
    lane: Lane,
    connection: Option<(Halves, Instant)>,
    next_id: u64,
    backoff: Backoff,
}

impl Exclusive {
    pub(crate) fn new(dialer: Dialer, target: NodeId, peer: Peer, lane: Lane) -> Self {
        let backoff = Backoff::default();
        Self { dialer, target, peer, lane, connection: None, next_id: 0, backoff }
    }

    /// Sends the frame that `encode` makes for a request id and waits for its answer.
    pub(crate) async fn request(
        &mut self,
        encode: impl FnOnce(u64) -> Result<BytesMut, Malformed>,
        deadline: Instant,
    ) -> Result<Bytes, LinkError> {
        let answer = self.attempt(encode, deadline).await;
        answer.inspect_err(|_| self.dialer.failed(self.target))
    }

    async fn attempt(
        &mut self,
        encode: impl FnOnce(u64) -> Result<BytesMut, Malformed>,
        deadline: Instant,
    ) -> Result<Bytes, LinkError> {
        let (mut reader, mut writer) = self.connected(deadline).await?;
        self.next_id += 1;
        let id = self.next_id;
        let frame = encode(id).map_err(|error| LinkError::NotSent(error.to_string()))?;
        let exchange = async {
            writer.write_all(&frame).await?;
            writer.flush().await?;
            let reply = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if reply.kind != wire::kind::REPLY || reply.id != id {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer"));
            }
            Ok(reply.body)
        };
        let body = match timeout_at(deadline, exchange).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Err(LinkError::NoAnswer(error.to_string())),
            Err(_) => return Err(LinkError::NoAnswer("deadline passed".into())),
        };
        let counters = self.dialer.counters();
        counters.peer_bytes_sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
        counters.peer_bytes_received.fetch_add(body.len() as u64, Ordering::Relaxed);
        self.connection = Some(((reader, writer), Instant::now()));
        Ok(body)
    }

    /// Takes the connection out, making one first where there is none.
    async fn connected(&mut self, deadline: Instant) -> Result<Halves, LinkError> {
        if let Some((halves, used)) = self.connection.take()
            && used.elapsed() < IDLE_MAX
        {
            return Ok(halves);
        }
        self.backoff.check()?;
        let dial = self.dialer.dial(self.target, &self.peer, self.lane);
        match timeout_at(deadline, dial).await {
            Ok(Ok(halves)) => {
                self.backoff.succeeded();
                Ok(halves)
            }
            Ok(Err(error)) => {
                self.backoff.failed();
                Err(LinkError::NotSent(error.to_string()))
            }
            Err(_) => {
                self.backoff.failed();
                Err(LinkError::NotSent("deadline passed".into()))
            }
        }
    }
}

/// Many requests at a time. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Shared {
    inner: Arc<SharedInner>,
}

struct SharedInner {
    dialer: Dialer,
    target: NodeId,
    lane: Lane,
    /// Also serializes dialing.
    connection: tokio::sync::Mutex<Connection>,
    next_id: AtomicU64,
}

#[derive(Default)]
struct Connection {
    open: Option<Open>,
    backoff: Backoff,
}

#[derive(Clone)]
struct Open {
    frames: mpsc::Sender<BytesMut>,
    requests: Arc<Requests>,
}

#[derive(Default)]
struct Requests {
    waiting: Mutex<HashMap<u64, oneshot::Sender<Frame>>>,
    broken: AtomicBool,
}

impl Requests {
    /// No answer will come any more.
    fn break_off(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.waiting.lock().clear();
    }
}

impl Shared {
    pub(crate) fn new(dialer: Dialer, target: NodeId, lane: Lane) -> Self {
        let inner = SharedInner {
            dialer,
            target,
            lane,
            connection: tokio::sync::Mutex::default(),
            next_id: AtomicU64::new(1),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sends the frame that `encode` makes for a request id and waits for its answer.
    pub(crate) async fn request(
        &self,
        peer: &Peer,
        encode: impl FnOnce(u64) -> Result<BytesMut, Malformed>,
        deadline: Instant,
    ) -> Result<Bytes, LinkError> {
        let answer = self.attempt(peer, encode, deadline).await;
        answer.inspect_err(|_| self.inner.dialer.failed(self.inner.target))
    }

    async fn attempt(
        &self,
        peer: &Peer,
        encode: impl FnOnce(u64) -> Result<BytesMut, Malformed>,
        deadline: Instant,
    ) -> Result<Bytes, LinkError> {
        let open = match timeout_at(deadline, self.connected(peer)).await {
            Ok(open) => open?,
            Err(_) => return Err(LinkError::NotSent("deadline passed".into())),
        };
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = encode(id).map_err(|error| LinkError::NotSent(error.to_string()))?;
        let sent = frame.len() as u64;
        let (sender, receiver) = oneshot::channel();
        let _guard = {
            let mut waiting = open.requests.waiting.lock();
            if waiting.len() >= REQUESTS_MAX {
                return Err(LinkError::NotSent("too many requests under way".into()));
            }
            waiting.insert(id, sender);
            Forget { requests: &open.requests, id }
        };
        if open.requests.broken.load(Ordering::SeqCst) {
            return Err(LinkError::NotSent("connection broke".into()));
        }
        match timeout_at(deadline, open.frames.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(LinkError::NotSent("connection broke".into())),
            Err(_) => return Err(LinkError::NotSent("deadline passed".into())),
        }
        let reply = match timeout_at(deadline, receiver).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => return Err(LinkError::NoAnswer("connection broke".into())),
            Err(_) => return Err(LinkError::NoAnswer("deadline passed".into())),
        };
        let counters = self.inner.dialer.counters();
        counters.peer_bytes_sent.fetch_add(sent, Ordering::Relaxed);
        counters.peer_bytes_received.fetch_add(reply.body.len() as u64, Ordering::Relaxed);
        Ok(reply.body)
    }

    async fn connected(&self, peer: &Peer) -> Result<Open, LinkError> {
        let mut connection = self.inner.connection.lock().await;
        if let Some(open) = &connection.open
            && !open.requests.broken.load(Ordering::SeqCst)
        {
            return Ok(open.clone());
        }
        connection.open = None;
        connection.backoff.check()?;
        match self.inner.dialer.dial(self.inner.target, peer, self.inner.lane).await {
            Ok((reader, writer)) => {
                connection.backoff.succeeded();
                let open = start(reader, writer);
                connection.open = Some(open.clone());
                Ok(open)
            }
            Err(error) => {
                connection.backoff.failed();
                Err(LinkError::NotSent(error.to_string()))
            }
        }
    }
}

/// Takes a request off the list when its asker is gone.
struct Forget<'a> {
    requests: &'a Requests,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.requests.waiting.lock().remove(&self.id);
    }
}

/// Spawns the two tasks of a shared connection. They end when every handle is gone or the
/// stream breaks.
fn start(
    mut reader: FrameReader<ReadHalf<Box<dyn PeerStream>>>,
    mut writer: WriteHalf<Box<dyn PeerStream>>,
) -> Open {
    let (frames, mut queue) = mpsc::channel::<BytesMut>(REQUESTS_MAX);
    let requests = Arc::<Requests>::default();
    let writing = async move {
        while let Some(frame) = queue.recv().await {
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
    };
    let of_reader = requests.clone();
    let reading = async move {
        while let Ok(Some(frame)) = reader.next().await {
            let asker = of_reader.waiting.lock().remove(&frame.id);
            if let Some(asker) = asker {
                // An asker that is gone needs no answer.
                let _ = asker.send(frame);
            }
        }
    };
    let of_both = requests.clone();
    tokio::spawn(async move {
        // Whichever ends first takes the other with it, and with it the stream.
        tokio::select! {
            () = writing => {}
            () = reading => {}
        }
        of_both.break_off();
    });
    Open { frames, requests }
}
