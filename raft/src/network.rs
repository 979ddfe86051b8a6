//! openraft's network over links: which request takes which lane, and its deadline.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use openraft::{
    RaftNetworkFactory, RaftNetworkV2, StorageError,
    alias::SnapshotOf,
    errors::{ErrorSource, NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tripod_storage::codec;

use crate::{
    link::{Dialer, Exclusive, LinkError, Shared},
    snapshot::{Begin, Outgoing, Reply},
    state_machine::SnapshotData,
    types::{NodeId, Peer, TypeConfig, Vote},
    wire::{self, AppendRequest, Lane, kind},
};

/// Makes clients for peers. Clones share the connections of the shared lanes.
#[derive(Clone)]
pub(crate) struct Network {
    dialer: Dialer,
    shared: Arc<Mutex<HashMap<(NodeId, Lane), Shared>>>,
    /// How long an AppendEntries with entries may take: the follower syncs its disk in it.
    append_timeout: Duration,
}

/// Longest time for one chunk of a snapshot, and for installing it at the end.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);

impl Network {
    pub(crate) fn new(dialer: Dialer, append_timeout: Duration) -> Self {
        Self { dialer, shared: Arc::default(), append_timeout }
    }

    /// The shared connection to `target` on `lane`.
    pub(crate) fn shared(&self, target: NodeId, lane: Lane) -> Shared {
        let mut shared = self.shared.lock();
        shared
            .entry((target, lane))
            .or_insert_with(|| Shared::new(self.dialer.clone(), target, lane))
            .clone()
    }

    fn client(&self, target: NodeId, peer: &Peer, purpose: Purpose) -> Client {
        let lane = match purpose {
            Purpose::Snapshot => Lane::Snapshot,
            Purpose::Replicate | Purpose::Heartbeat => Lane::Append,
        };
        let exclusive = Exclusive::new(self.dialer.clone(), target, peer.clone(), lane);
        Client { network: self.clone(), target, peer: peer.clone(), purpose, exclusive }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Replicate,
    Heartbeat,
    Snapshot,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Client {
        self.client(target, node, Purpose::Replicate)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Peer) -> Client {
        self.client(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Peer) -> Client {
        self.client(target, node, Purpose::Snapshot)
    }
}

/// openraft's client of one peer for one purpose.
pub(crate) struct Client {
    network: Network,
    target: NodeId,
    peer: Peer,
    purpose: Purpose,
    exclusive: Exclusive,
}

impl From<LinkError> for RPCError<TypeConfig> {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::NotSent(_) => Self::Unreachable(Unreachable::new(&error)),
            LinkError::NoAnswer(_) => Self::Network(NetworkError::new(&error)),
        }
    }
}

fn malformed(error: &codec::Error) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

impl Client {
    /// A small request on the control lane.
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: u8,
        request: &Q,
        timeout: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let body = codec::encode(request);
        let reply = self
            .network
            .shared(self.target, Lane::Control)
            .request(
                &self.peer,
                |id| wire::encode_frame(kind, id, &[&body]),
                Instant::now() + timeout,
            )
            .await?;
        codec::decode(&reply).map_err(|error| malformed(&error))
    }
}

impl Client {
    /// Sends a snapshot chunk by chunk, each after the answer to the one before.
    async fn send_snapshot(
        &mut self,
        begin: Begin,
        mut outgoing: Box<Outgoing>,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tracing::info!(target = self.target, log_id = ?begin.meta.last_log_id, "sends a snapshot");
        let head = codec::encode(&begin);
        if let Some(done) = self.snapshot_message(kind::SNAPSHOT_BEGIN, head, CHUNK_TIMEOUT).await?
        {
            return Ok(done);
        }
        loop {
            // Reads history from the engine: not on the consensus thread.
            let next = tokio::task::spawn_blocking(move || {
                let chunk = outgoing.next_chunk();
                (outgoing, chunk)
            });
            let (returned, chunk) = next.await.map_err(|error| storage_error(&error))?;
            outgoing = returned;
            let Some(chunk) = chunk.map_err(|error| storage_error(&error))? else { break };
            let sent = self.snapshot_message(kind::SNAPSHOT_CHUNK, chunk, CHUNK_TIMEOUT).await?;
            if let Some(done) = sent {
                return Ok(done);
            }
        }
        drop(outgoing);
        let end = self.snapshot_message(kind::SNAPSHOT_END, Vec::new(), INSTALL_TIMEOUT).await?;
        let done = end.ok_or_else(|| network_error("the snapshot's end was not understood"))?;
        let counters = &self.network.dialer.queues.counters;
        counters.snapshots_sent.fetch_add(1, Ordering::Relaxed);
        tracing::info!(target = self.target, "sent database snapshot");
        Ok(done)
    }

    /// Sends one message of a transfer; `Some` when the transfer is over.
    async fn snapshot_message(
        &mut self,
        kind: u8,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Option<SnapshotResponse<TypeConfig>>, StreamingError<TypeConfig>> {
        let encode = |id| wire::encode_frame(kind, id, &[&body]);
        let reply = self.exclusive.request(encode, Instant::now() + timeout).await;
        let reply = reply.map_err(RPCError::<TypeConfig>::from)?;
        match codec::decode(&reply) {
            Ok(Reply::Continue) => Ok(None),
            Ok(Reply::Done(vote) | Reply::HigherVote(vote)) => {
                Ok(Some(SnapshotResponse::new(vote)))
            }
            Ok(Reply::Refused(reason)) => {
                // Unreachable makes openraft wait before it tries again.
                Err(StreamingError::Unreachable(Unreachable::from_string(reason)))
            }
            Err(error) => Err(network_error(&error.to_string())),
        }
    }
}

fn network_error(text: &str) -> StreamingError<TypeConfig> {
    StreamingError::Network(NetworkError::from_string(text))
}

/// Reading the own state failed: openraft stops the member.
fn storage_error<E: std::error::Error + 'static>(error: &E) -> StreamingError<TypeConfig> {
    let source = openraft::impls::BoxedErrorSource::from_error(error);
    StreamingError::StorageError(StorageError::read_snapshot(None, source))
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let encode =
            |id: u64| -> Result<BytesMut, wire::Malformed> { wire::encode_append(id, &request) };
        let reply = if self.purpose == Purpose::Heartbeat {
            let control = self.network.shared(self.target, Lane::Control);
            control.request(&self.peer, encode, Instant::now() + option.hard_ttl()).await?
        } else {
            let deadline = Instant::now() + self.network.append_timeout;
            self.exclusive.request(encode, deadline).await?
        };
        codec::decode(&reply).map_err(|error| malformed(&error))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::VOTE, &request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::PRE_VOTE, &request, option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::TRANSFER, &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Export(export) = snapshot.snapshot else {
            let error = Unreachable::from_string("this snapshot cannot be sent");
            return Err(StreamingError::Unreachable(error));
        };
        let begin = Begin { vote, meta: snapshot.meta };
        tokio::select! {
            sent = self.send_snapshot(begin, export) => sent,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}
