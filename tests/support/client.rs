//! gRPC calls with deadlines, typed and raw. No retries: the tests must know what was sent.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes};
use futures::Stream;
use tonic::{
    Request, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tripod::api::proto::{
    etcdserverpb::{
        self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
        lease_client::LeaseClient, maintenance_client::MaintenanceClient,
        watch_client::WatchClient,
    },
    mvccpb,
};

/// Limit of one call; a member without a leader answers nothing for long.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Largest answer taken, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Everything from key `\0` on.
pub(crate) const EVERYTHING: (&[u8], &[u8]) = (b"\0", b"\0");

/// A gRPC client of one member. Connects at the first call, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// A client of the member at `url` with [`CALL_LIMIT`].
    pub(crate) fn new(url: &str) -> Self {
        Self::with_limit(url, CALL_LIMIT)
    }

    /// A client whose calls end after `limit`.
    pub(crate) fn with_limit(url: &str, limit: Duration) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL of this test");
        let endpoint = endpoint.connect_timeout(Duration::from_secs(1)).timeout(limit);
        Self { channel: endpoint.connect_lazy() }
    }

    /// The KV service.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The Auth service.
    pub(crate) fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }

    /// The Lease service.
    pub(crate) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The Watch service.
    pub(crate) fn watch_service(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The Cluster service.
    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    /// The Maintenance service.
    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Puts `value` and returns the whole answer.
    pub(crate) async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<pb::PutResponse, Status> {
        let request = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        Ok(self.kv().put(request).await?.into_inner())
    }

    /// A linearizable read of one key.
    pub(crate) async fn get(&self, key: impl Into<Bytes>) -> Result<pb::RangeResponse, Status> {
        let request = pb::RangeRequest { key: key.into(), ..Default::default() };
        Ok(self.kv().range(request).await?.into_inner())
    }

    /// Deletes one key.
    pub(crate) async fn delete(
        &self,
        key: impl Into<Bytes>,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        let request = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
        Ok(self.kv().delete_range(request).await?.into_inner())
    }

    /// All pairs, as this member has them (a local read).
    pub(crate) async fn everything(&self, revision: i64) -> Result<pb::RangeResponse, Status> {
        let request = pb::RangeRequest {
            key: Bytes::from_static(EVERYTHING.0),
            range_end: Bytes::from_static(EVERYTHING.1),
            revision,
            serializable: true,
            ..Default::default()
        };
        Ok(self.kv().range(request).await?.into_inner())
    }

    /// The newest revision, by a linearizable read.
    pub(crate) async fn revision(&self) -> Result<i64> {
        let answer = self.get("revision probe").await?;
        Ok(answer.header.context("an answer has a header")?.revision)
    }

    /// What the member says about itself.
    pub(crate) async fn status(&self) -> Result<pb::StatusResponse> {
        Ok(self.maintenance().status(pb::StatusRequest::default()).await?.into_inner())
    }

    /// Hash of this member's data as of `revision`.
    pub(crate) async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse> {
        let request = pb::HashKvRequest { revision };
        Ok(self.maintenance().hash_kv(request).await?.into_inner())
    }

    /// Opens a watch on all keys from `start_revision` on.
    pub(crate) async fn watch_everything(
        &self,
        start_revision: i64,
    ) -> Result<Streaming<pb::WatchResponse>> {
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(EVERYTHING.0),
            range_end: Bytes::from_static(EVERYTHING.1),
            start_revision,
            ..Default::default()
        };
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let requests = open_ended(vec![request]);
        Ok(self.watch_service().watch(requests).await?.into_inner())
    }

    /// Every event from `start_revision` up to `end_revision`, both included, which exists.
    pub(crate) async fn events(
        &self,
        start_revision: i64,
        end_revision: i64,
    ) -> Result<Vec<mvccpb::Event>> {
        let mut events = Vec::new();
        if start_revision > end_revision {
            return Ok(events);
        }
        let mut stream = self.watch_everything(start_revision).await?;
        loop {
            let message = tokio::time::timeout(CALL_LIMIT * 2, stream.message())
                .await
                .with_context(|| format!("no event up to {end_revision} in time"))??
                .context("the watch ended")?;
            if message.canceled {
                bail!("the watch was cancelled: {message:?}");
            }
            for event in message.events {
                let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                if revision > end_revision {
                    return Ok(events);
                }
                events.push(event);
            }
            let last = events.last().and_then(|event| event.kv.as_ref());
            // All events of one revision come in one message.
            if last.is_some_and(|kv| kv.mod_revision == end_revision) {
                return Ok(events);
            }
        }
    }

    /// A unary call with encoded messages.
    pub(crate) async fn unary(&self, path: &str, request: Bytes) -> Result<Bytes, Status> {
        let mut grpc = self.raw().await?;
        let path = path.parse().map_err(|_| Status::internal("path"))?;
        Ok(grpc.unary(Request::new(request), path, Encoded).await?.into_inner())
    }

    /// A bidirectional call with encoded messages.
    pub(crate) async fn stream(
        &self,
        path: &str,
        requests: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        let mut grpc = self.raw().await?;
        let path = path.parse().map_err(|_| Status::internal("path"))?;
        Ok(grpc.streaming(Request::new(requests), path, Encoded).await?.into_inner())
    }

    async fn raw(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}

/// These messages, and then a stream that stays open.
pub(crate) fn open_ended<T: Send + 'static>(items: Vec<T>) -> impl Stream<Item = T> + Send {
    use futures::StreamExt as _;
    futures::stream::iter(items).chain(futures::stream::pending())
}

/// Passes encoded messages through.
#[derive(Clone, Copy, Debug)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = source.remaining();
        Ok(Some(source.copy_to_bytes(length)))
    }
}
