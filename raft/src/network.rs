//! openraft's network over links: which request takes which lane, and its deadline.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::BytesMut;
use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    alias::SnapshotOf,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
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

    /// Forgets the connections to a member that is gone.
    pub(crate) fn forget(&self, target: NodeId) {
        self.shared.lock().retain(|(id, _), _| *id != target);
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

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let encode = |id: u64| -> Result<BytesMut, wire::Malformed> {
            wire::encode_append(id, &request)
        };
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
        _vote: Vote,
        _snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(Unreachable::from_string("snapshots are being written")))
    }
}
