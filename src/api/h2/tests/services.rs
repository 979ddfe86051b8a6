//! Services that do as the test says.

use std::{cell::Cell, rc::Rc, time::Duration};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response};
use prost::Message;
use tokio::sync::mpsc;

use super::super::super::{
    proto::{etcdserverpb as pb, mvccpb},
    service::{CallContext, Code, HttpBody, HttpHandler, MethodKind, Services, Status},
};

/// Size of one message of the snapshot stream.
pub(in super::super) const CHUNK_BYTES: usize = 64 << 10;

/// Counts what happens to calls.
#[derive(Default)]
pub(in super::super) struct TestServices {
    /// Calls whose future exists.
    pub running: Cell<usize>,
    /// Calls that were asked for.
    pub asked: Cell<usize>,
    /// Messages handed over by streaming calls.
    pub sent: Cell<usize>,
    /// Messages read by streaming calls.
    pub read: Cell<usize>,
    /// Context of the latest call.
    pub context: Cell<Option<CallContext>>,
}

/// Counts a call while it lives.
struct Running(Rc<TestServices>);

impl Running {
    fn new(services: &Rc<TestServices>) -> Self {
        services.running.set(services.running.get() + 1);
        services.asked.set(services.asked.get() + 1);
        Self(Rc::clone(services))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

impl Services for Rc<TestServices> {
    fn method(&self, path: &str) -> Option<MethodKind> {
        match path {
            "/etcdserverpb.KV/Put" | "/etcdserverpb.KV/Range" => Some(MethodKind::Unary),
            "/etcdserverpb.Lease/LeaseKeepAlive" | "/etcdserverpb.Maintenance/Snapshot" => {
                Some(MethodKind::Streaming)
            }
            _ => None,
        }
    }

    fn unary(
        &self,
        path: &str,
        request: Bytes,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<Bytes, Status>> {
        let running = Running::new(self);
        self.context.set(Some(context));
        let is_put = path.ends_with("Put");
        Box::pin(async move {
            let _running = running;
            if is_put { put(request).await } else { range(&request) }
        })
    }

    fn streaming(
        &self,
        path: &str,
        requests: mpsc::Receiver<Bytes>,
        responses: mpsc::Sender<Bytes>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<(), Status>> {
        let running = Running::new(self);
        self.context.set(Some(context));
        if path.ends_with("Snapshot") {
            Box::pin(snapshot(running, requests, responses))
        } else {
            Box::pin(keep_alive(running, requests, responses))
        }
    }
}

/// `sleep` never answers, `nap` answers later, `fail` fails; others give the value back.
async fn put(request: Bytes) -> Result<Bytes, Status> {
    let request = pb::PutRequest::decode(request).unwrap();
    match request.key.as_ref() {
        b"sleep" => std::future::pending().await,
        b"nap" => tokio::time::sleep(Duration::from_millis(5)).await,
        b"fail" => return Err(Status::new(Code::Unavailable, "etcdserver: no leader: 100%")),
        _ => {}
    }
    let prev_kv = Some(mvccpb::KeyValue { value: request.value, ..Default::default() });
    Ok(pb::PutResponse { prev_kv, ..Default::default() }.encode_to_vec().into())
}

/// A value of `limit` bytes.
fn range(request: &Bytes) -> Result<Bytes, Status> {
    let request = pb::RangeRequest::decode(request.clone()).unwrap();
    let value = vec![b'v'; usize::try_from(request.limit).unwrap()].into();
    let kvs = vec![mvccpb::KeyValue { value, ..Default::default() }];
    Ok(pb::RangeResponse { kvs, ..Default::default() }.encode_to_vec().into())
}

/// 160 chunks of 64 KiB.
async fn snapshot(
    running: Running,
    mut requests: mpsc::Receiver<Bytes>,
    responses: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    requests.recv().await.unwrap();
    for left in (0..160_u64).rev() {
        let blob = vec![b's'; CHUNK_BYTES].into();
        let message = pb::SnapshotResponse { remaining_bytes: left, blob, ..Default::default() };
        responses.send(message.encode_to_vec().into()).await.unwrap();
        running.0.sent.set(running.0.sent.get() + 1);
    }
    Ok(())
}

/// Echoes; id 13 fails, id 99 reads no further.
async fn keep_alive(
    running: Running,
    mut requests: mpsc::Receiver<Bytes>,
    responses: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    while let Some(request) = requests.recv().await {
        running.0.read.set(running.0.read.get() + 1);
        let request = pb::LeaseKeepAliveRequest::decode(request).unwrap();
        match request.id {
            13 => return Err(Status::new(Code::NotFound, "etcdserver: requested lease not found")),
            99 => std::future::pending().await,
            _ => {}
        }
        let message = pb::LeaseKeepAliveResponse { id: request.id, ..Default::default() };
        responses.send(message.encode_to_vec().into()).await.unwrap();
        running.0.sent.set(running.0.sent.get() + 1);
    }
    Ok(())
}

impl HttpHandler for Rc<TestServices> {
    /// Echoes method, path and body; `/big` answers with as many bytes as the query says.
    fn handle(
        &self,
        request: Request<HttpBody>,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let answer = if parts.uri.path() == "/big" {
                let bytes = parts.uri.query().unwrap().parse().unwrap();
                Bytes::from(vec![b'b'; bytes])
            } else {
                let text = String::from_utf8_lossy(&body);
                format!("{} {} {text}", parts.method, parts.uri.path()).into()
            };
            Response::builder()
                .status(201)
                .header("content-type", "text/plain")
                .header("connection", "keep-alive")
                .body(Full::new(answer).map_err(|never| match never {}).boxed_unsync())
                .unwrap()
        })
    }
}
