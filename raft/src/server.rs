//! Server side of peer connections: greeting, then one loop for each connection.
//!
//! Every connection has a deadline for its greeting, for the rest of a frame that began, and for
//! staying idle; their number is bounded. Garbage closes its connection and nothing else.

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
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use parking_lot::{Mutex, RwLock};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use tripod_storage::{apply::StateMachine, codec};

use crate::{
    error::ReadError,
    hub::Hub,
    identity,
    info::{ClusterInfo, ClusterMember},
    measures::Counted,
    members::Members,
    node::Raft,
    port::Dest,
    route::{Route, Routes},
    snapshot::{self, Begin, Reply, SnapshotDir},
    state_machine::SnapshotData,
    transport::{PeerIdentity, PeerStream},
    types::{Batch, NodeId, Peer, voters},
    wire::{
        self, CallReply, ForwardReply, Frame, FrameReader, HELLO_BYTES, Hello, Lane,
        ReadIndexReply, Status, WIRE_VERSION, kind,
    },
};

/// Most peer connections at a time; a cluster of seven needs about 30 of each member.
const CONNECTIONS_MAX: usize = 256;

/// Longest time until a greeting is complete.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for the rest of a frame that began.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection without a frame for this long is closed; clients reconnect before they use one
/// that old.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Requests of one connection handled at a time.
const REQUESTS_PER_CONNECTION_MAX: usize = 256;

/// Most bytes of a generic call and of its answer.
pub(crate) const CALL_BYTES_MAX: usize = 4 << 20;

/// Least time between two log lines about refused peers.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Answers calls of one kind on the leader.
pub type CallHandler = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>;

/// What the server side needs of its member.
pub(crate) struct PeerServer {
    pub(crate) cluster_id: u64,
    pub(crate) node_id: NodeId,
    pub(crate) raft: Raft,
    pub(crate) hub: Arc<Hub>,
    pub(crate) routes: Routes,
    pub(crate) handlers: RwLock<HashMap<u8, CallHandler>>,
    /// Of calls that any member answers, leader or not.
    pub(crate) member_handlers: RwLock<HashMap<u8, CallHandler>>,
    members: Members,
    hold: Arc<AtomicBool>,
    /// Peer URLs of the members this one was founded with.
    founders: Vec<String>,
    /// Locked while a snapshot comes in: one at a time.
    snapshots: tokio::sync::Mutex<SnapshotDir>,
    state: Arc<RwLock<StateMachine>>,
    connections: Arc<Semaphore>,
    refusals: Refusals,
}

/// Counts refused peers and logs at most one line an interval.
#[derive(Default)]
struct Refusals {
    since_log: AtomicU64,
    last_log: Mutex<Option<Instant>>,
}

impl Refusals {
    fn note(&self, address: &str, reason: &dyn std::fmt::Display) {
        let count = self.since_log.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let mut last = self.last_log.lock();
        if last.is_none_or(|last| now.duration_since(last) >= REFUSAL_LOG_INTERVAL) {
            *last = Some(now);
            self.since_log.store(0, Ordering::Relaxed);
            tracing::warn!(address, %reason, count, "refused a peer connection");
        }
    }
}

type Reader = FrameReader<ReadHalf<Box<dyn PeerStream>>>;
type Writer = WriteHalf<Box<dyn PeerStream>>;

impl PeerServer {
    #[expect(clippy::too_many_arguments, reason = "called once, where the parts are made")]
    pub(crate) fn new(
        cluster_id: u64,
        node_id: NodeId,
        raft: Raft,
        hub: Arc<Hub>,
        routes: Routes,
        members: Members,
        hold: Arc<AtomicBool>,
        founders: Vec<String>,
        snapshots: SnapshotDir,
        state: Arc<RwLock<StateMachine>>,
    ) -> Self {
        Self {
            cluster_id,
            node_id,
            raft,
            hub,
            routes,
            handlers: RwLock::default(),
            member_handlers: RwLock::default(),
            members,
            hold,
            founders,
            snapshots: tokio::sync::Mutex::new(snapshots),
            state,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            refusals: Refusals::default(),
        }
    }

    /// Serves one connection until it ends.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: Box<dyn PeerStream>,
        identity: PeerIdentity,
    ) {
        let Ok(_permit) = self.connections.clone().try_acquire_owned() else {
            self.refuse(&identity, &"too many peer connections");
            return;
        };
        if let Err(error) = self.serve_admitted(stream, &identity).await {
            self.refuse(&identity, &error);
        }
    }

    fn refuse(&self, identity: &PeerIdentity, reason: &dyn std::fmt::Display) {
        self.hub.queues.counters.peers_refused.fetch_add(1, Ordering::Relaxed);
        self.refusals.note(&identity.address, reason);
    }

    async fn serve_admitted(
        self: &Arc<Self>,
        mut stream: Box<dyn PeerStream>,
        identity: &PeerIdentity,
    ) -> io::Result<()> {
        let hello = timeout(HELLO_TIMEOUT, self.greet(&mut stream, identity))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no greeting in time"))??;
        tracing::debug!(from = hello.from, lane = ?hello.lane, address = identity.address, "peer connected");
        let stream = Counted::wrap(stream, self.hub.queues.peers.of(hello.from));
        let (reader, writer) = tokio::io::split(stream);
        let reader = FrameReader::new(reader);
        match hello.lane {
            Lane::Append => self.serve_append(reader, writer).await,
            Lane::Control | Lane::Forward => self.serve_requests(hello.from, reader, writer).await,
            Lane::Snapshot => self.serve_snapshots(reader, writer).await,
            Lane::Info => self.tell_info(writer).await,
        }
    }

    /// Reads the greeting and answers it; `Err` unless the peer may stay.
    async fn greet(
        &self,
        stream: &mut Box<dyn PeerStream>,
        identity: &PeerIdentity,
    ) -> io::Result<Hello> {
        let mut bytes = [0; HELLO_BYTES];
        stream.read_exact(&mut bytes).await?;
        let hello = Hello::decode(&bytes)?;
        if let Some(proof) = &identity.proof
            && !identity::owns_any(proof.as_ref(), &self.urls_of(hello.from)).await
        {
            // No answer: whoever this is learns nothing of the cluster.
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "its certificate is not for a host of the peer URLs of member {:x}",
                    hello.from
                ),
            ));
        }
        let status = if hello.version != WIRE_VERSION {
            Status::WrongVersion
        } else if hello.lane == Lane::Info {
            // Who asks has no identity yet.
            Status::Accepted
        } else if hello.cluster_id != self.cluster_id {
            Status::WrongCluster
        } else if hello.to != self.node_id {
            Status::WrongMember
        } else if self.hub.is_removed(hello.from) {
            Status::Removed
        } else {
            Status::Accepted
        };
        stream.write_all(&wire::encode_welcome(status, self.node_id)).await?;
        stream.flush().await?;
        if status == Status::Accepted {
            return Ok(hello);
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("member {:x} of cluster {:x}: {status:?}", hello.from, hello.cluster_id),
        ))
    }

    /// Tells what the cluster looks like from here; that is all of such a connection.
    async fn tell_info(&self, mut writer: Writer) -> io::Result<()> {
        let info = self.info();
        send(&mut writer, &reply_frame(0, &info)?).await
    }

    fn info(&self) -> ClusterInfo {
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let membership = membership.membership();
        let voters = voters(membership);
        let state = self.state.read();
        let member = |(id, peer): (&NodeId, &Peer)| {
            let name = state.member_attributes(*id).map(|found| found.name.clone());
            let member = ClusterMember {
                name: name.unwrap_or_default(),
                peer_urls: peer.peer_urls.clone(),
                is_learner: !voters.contains(id),
            };
            (*id, member)
        };
        ClusterInfo {
            cluster_id: self.cluster_id,
            members: membership.nodes().map(member).collect(),
            removed: self.hub.removed(),
        }
    }

    /// Peer URLs of a member, of all members if it is none of them (it may be one that this
    /// member has not heard of yet), of the founding members if there is no log yet.
    fn urls_of(&self, id: NodeId) -> Vec<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let member = membership.get_node(&id);
        let all = || membership.nodes().flat_map(|(_, peer)| peer.peer_urls.clone()).collect();
        let known = member.map_or_else(all, |peer| peer.peer_urls.clone());
        if known.is_empty() { self.founders.clone() } else { known }
    }

    /// Log entries: one request at a time, answered by the loop itself.
    async fn serve_append(&self, mut reader: Reader, mut writer: Writer) -> io::Result<()> {
        while let Some(frame) = next_frame(&mut reader).await? {
            if frame.kind != kind::APPEND {
                return Err(unexpected(frame.kind));
            }
            let request = wire::decode_append(frame.body)?;
            let Ok(reply) = self.raft.append_entries(request).await else { return Ok(()) };
            let bytes = reply_frame(frame.id, &reply)?;
            send(&mut writer, &bytes).await?;
        }
        Ok(())
    }

    /// Whole states, one after the other.
    async fn serve_snapshots(&self, mut reader: Reader, mut writer: Writer) -> io::Result<()> {
        while let Some(frame) = next_frame(&mut reader).await? {
            if frame.kind != kind::SNAPSHOT_BEGIN {
                return Err(unexpected(frame.kind));
            }
            let begin: Begin = decode(&frame.body)?;
            wire::check(Some(&begin.vote), [begin.meta.last_log_id])?;
            let Ok(dir) = self.snapshots.try_lock() else {
                let busy = Reply::Refused("another snapshot is coming in".into());
                send(&mut writer, &reply_frame(frame.id, &busy)?).await?;
                continue;
            };
            self.receive_snapshot(&dir, begin, frame.id, &mut reader, &mut writer).await?;
        }
        Ok(())
    }

    /// Receives and installs one snapshot. A fault of this member's disk is the sender's
    /// business only as a refusal; a fault of the data closes the connection.
    async fn receive_snapshot(
        &self,
        dir: &SnapshotDir,
        begin: Begin,
        first_id: u64,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> io::Result<()> {
        let vote = self.raft.with_raft_state(|state| *state.vote_ref()).await;
        let Ok(mine) = vote else { return Ok(()) };
        if begin.vote < mine {
            return send(writer, &reply_frame(first_id, &Reply::HigherVote(mine))?).await;
        }
        tracing::info!(log_id = ?begin.meta.last_log_id, "receives a snapshot");
        let dir = dir.clone();
        let incoming = tokio::task::spawn_blocking(move || dir.receive()).await;
        let mut incoming = incoming.map_err(io::Error::other)?.map_err(io::Error::other)?;
        send(writer, &reply_frame(first_id, &Reply::Continue)?).await?;
        loop {
            let frame = timeout(FRAME_TIMEOUT, next_frame(reader))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "a snapshot stopped"))??;
            let Some(frame) = frame else { return Ok(()) };
            match frame.kind {
                kind::SNAPSHOT_CHUNK => {
                    let written = tokio::task::spawn_blocking(move || {
                        let result = incoming.chunk(&frame.body);
                        (incoming, result)
                    });
                    let (returned, result) = written.await.map_err(io::Error::other)?;
                    result.map_err(io::Error::other)?;
                    incoming = returned;
                    send(writer, &reply_frame(frame.id, &Reply::Continue)?).await?;
                }
                kind::SNAPSHOT_END => {
                    let whole = tokio::task::spawn_blocking(move || incoming.complete()).await;
                    let (received, header) =
                        whole.map_err(io::Error::other)?.map_err(io::Error::other)?;
                    if !snapshot::is_of(&header, &begin.meta) {
                        return Err(io::Error::other("a snapshot of another log position"));
                    }
                    let data = SnapshotData::Received(received);
                    let whole = openraft::Snapshot { meta: begin.meta, snapshot: data };
                    let done = self.raft.install_full_snapshot(begin.vote, whole).await;
                    let Ok(done) = done else { return Ok(()) };
                    return send(writer, &reply_frame(frame.id, &Reply::Done(done.vote))?).await;
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Small requests: many at a time, answered in any order.
    async fn serve_requests(
        self: &Arc<Self>,
        from: NodeId,
        mut reader: Reader,
        mut writer: Writer,
    ) -> io::Result<()> {
        let (replies, mut queue) = mpsc::channel::<BytesMut>(REQUESTS_PER_CONNECTION_MAX);
        let writing = async move {
            while let Some(bytes) = queue.recv().await {
                send(&mut writer, &bytes).await?;
            }
            Ok(())
        };
        let (fault, mut faults) = mpsc::channel(1);
        let reading = async {
            let slots = Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION_MAX));
            while let Some(frame) = next_frame(&mut reader).await? {
                if self.hub.is_removed(from) {
                    // It hears why when it connects again.
                    return Ok(());
                }
                let slot = slots.clone().acquire_owned().await.expect("never closed");
                let (server, replies, fault) = (self.clone(), replies.clone(), fault.clone());
                tokio::spawn(async move {
                    match server.handle(frame).await {
                        Ok(Some(bytes)) => {
                            // A connection that is gone needs no answer.
                            let _ = replies.send(bytes).await;
                        }
                        Ok(None) => {}
                        Err(error) => {
                            // One fault is enough to close the connection.
                            let _ = fault.try_send(error);
                        }
                    }
                    drop(slot);
                });
            }
            Ok(())
        };
        tokio::select! {
            result = writing => result,
            result = reading => result,
            Some(error) = faults.recv() => Err(error),
        }
    }

    /// Answers one small request; `None` where consensus has stopped.
    async fn handle(&self, frame: Frame) -> io::Result<Option<BytesMut>> {
        let (id, body) = (frame.id, frame.body);
        let reply = match frame.kind {
            kind::APPEND => {
                let request = wire::decode_append(body)?;
                match self.raft.append_entries(request).await {
                    Ok(reply) => reply_frame(id, &reply)?,
                    Err(_) => return Ok(None),
                }
            }
            kind::VOTE => match self.raft.vote(wire::decode_vote(&body)?).await {
                Ok(reply) => reply_frame(id, &reply)?,
                Err(_) => return Ok(None),
            },
            kind::PRE_VOTE => match self.raft.pre_vote(wire::decode_vote(&body)?).await {
                Ok(reply) => reply_frame(id, &reply)?,
                Err(_) => return Ok(None),
            },
            kind::TRANSFER => {
                match self.raft.handle_transfer_leader(wire::decode_transfer(&body)?).await {
                    Ok(reply) => reply_frame(id, &reply)?,
                    Err(_) => return Ok(None),
                }
            }
            kind::FORWARD => reply_frame(id, &self.forwarded(body).await)?,
            kind::READ_INDEX => reply_frame(id, &self.read_index().await)?,
            kind::CALL => reply_frame(id, &self.called(body).await)?,
            kind::CALL_MEMBER => reply_frame(id, &answer_call(&self.member_handlers, body).await)?,
            kind::MEMBER => reply_frame(id, &self.members.change_here(decode(&body)?).await)?,
            kind::PROBE => wire::encode_frame(kind::REPLY, id, &[])?,
            other => return Err(unexpected(other)),
        };
        Ok(Some(reply))
    }

    /// Proposes another member's batch, if this member leads.
    async fn forwarded(&self, body: Bytes) -> ForwardReply {
        if *self.routes.borrow() != Route::Here || self.hold.load(Ordering::SeqCst) {
            return ForwardReply::NotLeader;
        }
        // Decoded now: what cannot be applied must not enter the log.
        let Ok(commands) = Batch::from_bytes(body.clone()).take_commands() else {
            return ForwardReply::Invalid;
        };
        match self.hub.queues.forward(Batch::decoded(body, commands)) {
            Some(reply) => reply.await.unwrap_or(ForwardReply::Stopped),
            None => ForwardReply::Stopped,
        }
    }

    /// An index for another member's reads, confirmed together with those that wait here.
    async fn read_index(&self) -> ReadIndexReply {
        if *self.routes.borrow() != Route::Here {
            return ReadIndexReply::NotLeader;
        }
        let (sender, receiver) = oneshot::channel();
        if let Err(error) = self.hub.queues.read(Dest::Remote(sender)) {
            return Err(error).into();
        }
        receiver.await.unwrap_or(Err(ReadError::Stopped)).into()
    }

    /// Answers a generic call, if this member leads.
    pub(crate) async fn called(&self, body: Bytes) -> CallReply {
        if *self.routes.borrow() != Route::Here {
            return CallReply::NotLeader;
        }
        answer_call(&self.handlers, body).await
    }
}

/// Answers a call by the handler of its kind.
async fn answer_call(handlers: &RwLock<HashMap<u8, CallHandler>>, body: Bytes) -> CallReply {
    let Some(&kind) = body.first() else { return CallReply::UnknownKind };
    if body.len() > CALL_BYTES_MAX {
        return CallReply::TooLarge;
    }
    let Some(handler) = handlers.read().get(&kind).cloned() else {
        return CallReply::UnknownKind;
    };
    let answer = handler(body.slice(1..)).await;
    if answer.len() > CALL_BYTES_MAX {
        return CallReply::TooLarge;
    }
    CallReply::Answer(answer)
}

/// The next frame, with deadlines for silence and for a frame that began.
async fn next_frame(reader: &mut Reader) -> io::Result<Option<Frame>> {
    let limit = if reader.is_inside_frame() { FRAME_TIMEOUT } else { IDLE_TIMEOUT };
    match timeout(limit, reader.next()).await {
        Ok(frame) => frame,
        Err(_) if reader.is_inside_frame() => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "a frame stopped half way"))
        }
        Err(_) => Ok(None),
    }
}

/// Writes a frame, with a deadline for peers that do not read.
async fn send(writer: &mut Writer, bytes: &[u8]) -> io::Result<()> {
    let write = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    timeout(FRAME_TIMEOUT, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn decode<T: DeserializeOwned>(body: &Bytes) -> io::Result<T> {
    codec::decode(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn reply_frame<T: Serialize>(id: u64, reply: &T) -> io::Result<BytesMut> {
    Ok(wire::encode_frame(kind::REPLY, id, &[&codec::encode(reply)])?)
}

fn unexpected(kind: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected message kind {kind}"))
}
