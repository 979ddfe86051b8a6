//! The seam between transports and services.
//!
//! A transport (HTTP/2 gRPC, the JSON gateway) knows a method by its gRPC path and bodies as
//! protobuf bytes; a service turns those bytes into an answer. So each service is written once
//! and every transport has it.
//!
//! Everything here is thread-local (`!Send` futures): a connection lives and dies on one
//! front-end thread.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{Request, Response};
use tokio::sync::mpsc;

pub use super::outlet::Tap;
pub use crate::metrics::calls::Traffic;

/// gRPC status codes in use. Numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "gRPC's own names")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// The end of a call that did not go well: a gRPC code and etcd's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// gRPC code.
    pub code: Code,
    /// Text, as etcd prints it.
    pub message: String,
}

impl Status {
    /// A status from its parts.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What a transport knows about the caller. Cheap to clone.
#[derive(Clone, Default)]
pub struct CallContext {
    /// Value of the `token` or `authorization` metadata.
    pub token: Option<String>,
    /// `hasleader` metadata was `true`: fail at once without a leader.
    pub require_leader: bool,
    /// Deadline of the call relative to its arrival (`grpc-timeout`), if any.
    pub timeout: Option<std::time::Duration>,
    /// Peer address.
    pub remote: Option<SocketAddr>,
    /// Common name of a verified client certificate.
    pub certificate_cn: Option<Rc<str>>,
    /// The call came through the JSON gateway.
    pub from_gateway: bool,
    /// The connection is encrypted.
    pub is_tls: bool,
    /// What the request has to do with websockets.
    pub websocket: Websocket,
    /// A shorter way for messages of a streaming call, where the transport has one.
    pub tap: Option<Arc<Tap>>,
}

/// What a request has to do with websockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Websocket {
    /// Nothing.
    #[default]
    No,
    /// Its connection can become one.
    Possible,
    /// It is one: messages are its body, which goes on for as long as the client is there.
    Open,
}

impl std::fmt::Debug for CallContext {
    /// Without the token: whoever has it is its user.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallContext")
            .field("remote", &self.remote)
            .field("certificate_cn", &self.certificate_cn)
            .field("from_gateway", &self.from_gateway)
            .finish_non_exhaustive()
    }
}

/// Messages a client has not yet had read from one streaming call; then flow control stops it.
pub const STREAM_REQUESTS_MAX: usize = 16;
/// Messages a service may have waiting to be sent on one streaming call; then `send` waits.
pub const STREAM_RESPONSES_MAX: usize = 16;

/// How a method's messages flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// One request, one response.
    Unary,
    /// Either side may be a stream: Watch, LeaseKeepAlive, Snapshot.
    Streaming,
}

/// All services of a member behind one door. One instance per front-end thread.
pub trait Services: 'static {
    /// The kind of `path` (for example `/etcdserverpb.KV/Put`); `None` for an unknown method.
    fn method(&self, path: &str) -> Option<MethodKind>;

    /// Answers a unary call. The transport drops the future when the client goes away or the
    /// deadline passes; services must be safe to drop at any await.
    fn unary(
        &self,
        path: &str,
        request: Bytes,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<Bytes, Status>>;

    /// Where the transport counts the messages of a streaming call; `None`: nowhere.
    fn traffic(&self, _path: &str) -> Option<Traffic> {
        None
    }

    /// Runs a streaming call until it ends. `requests` closes when the client half-closes;
    /// `responses` is bounded and closes when the client is gone; nothing but the returned future
    /// sends there, and transports look into it after each poll. The context's tap may be used
    /// while the future has nothing to send. The returned status ends the stream (`Ok(())` is
    /// gRPC OK).
    fn streaming(
        &self,
        path: &str,
        requests: mpsc::Receiver<Bytes>,
        responses: mpsc::Sender<Bytes>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<(), Status>>;
}

/// No gRPC services, and why there are none on this port.
#[derive(Clone, Copy, Debug)]
pub struct NoServices(pub &'static str);

impl NoServices {
    fn refusal(self) -> Status {
        Status::new(Code::Unimplemented, self.0)
    }
}

impl Services for NoServices {
    fn method(&self, _path: &str) -> Option<MethodKind> {
        None
    }

    fn unary(
        &self,
        _path: &str,
        _request: Bytes,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Result<Bytes, Status>> {
        Box::pin(std::future::ready(Err(self.refusal())))
    }

    fn streaming(
        &self,
        _path: &str,
        _requests: mpsc::Receiver<Bytes>,
        _responses: mpsc::Sender<Bytes>,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Result<(), Status>> {
        Box::pin(std::future::ready(Err(self.refusal())))
    }
}

/// Body of plain HTTP requests and answers, streaming ones included.
pub type HttpBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Everything on the client port that is not gRPC: the JSON gateway, `/health`, `/version`, ...
/// Reached over HTTP/1.1 and, with the same meaning, over HTTP/2.
pub trait HttpHandler: 'static {
    /// Answers one request. The body is read by the handler, which bounds it.
    fn handle(
        &self,
        request: Request<HttpBody>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>>;
}

#[cfg(test)]
mod tests {
    use super::CallContext;

    /// CVE-2021-28235, GHSA-528j: a token in a log is a login for whoever reads it.
    #[test]
    fn a_calls_context_does_not_show_its_token() {
        let token = Some("S3cret.7".to_owned());
        let context =
            CallContext { token, certificate_cn: Some("alice".into()), ..CallContext::default() };
        let shown = format!("{context:?}");
        assert!(shown.contains("alice") && !shown.contains("S3cret"), "{shown}");
    }
}
