//! Unary calls, and the checks that come before any call.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode};

use super::{
    Gateway, answer,
    answer::invalid,
    body::next_piece,
    body::{self, BodyError},
    context,
    routes::Route,
};
use crate::api::{
    json::{Documents, JsonError, Schema},
    service::{CallContext, Code, HttpBody, Status, Websocket},
};

/// Bytes of JSON from which an answer may be one of those that services bound.
const LONG_ANSWER_BYTES: usize = 2 << 20;
/// Answer to a certificate with a common name while authentication is on. Source: etcd 3.5.
const COMMON_NAME_REFUSED: &str = "CommonName of client sending a request against gateway will \
                                   be ignored and not used as expected";

impl Gateway {
    /// Answers a request to an RPC.
    pub(super) async fn call(
        &self,
        route: &'static Route,
        request: Request<HttpBody>,
        connection: CallContext,
    ) -> Response<HttpBody> {
        if request.method() != Method::POST {
            return answer::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        }
        if let Some(refused) = self.refuse_common_name(&connection) {
            return refused;
        }
        let (head, body) = request.into_parts();
        let context = match context::of_call(&head.headers, connection) {
            Ok(context) => context,
            Err(status) => return answer::failure(&status),
        };
        if route.method.client_streaming || route.method.server_streaming {
            return self.stream(route, body, context).await;
        }
        match self.unary(route, body, context).await {
            Ok(json) => answer::result(json),
            Err(status) => answer::failure(&status),
        }
    }

    /// The refusal of a client whose certificate names a user: he is none here.
    pub(super) fn refuse_common_name(&self, context: &CallContext) -> Option<Response<HttpBody>> {
        let names_user = context.certificate_cn.as_ref().is_some_and(|cn| !cn.is_empty());
        (names_user && self.health.auth_enabled())
            .then(|| answer::text(StatusCode::BAD_REQUEST, COMMON_NAME_REFUSED))
    }

    async fn unary(
        &self,
        route: &Route,
        mut body: HttpBody,
        context: CallContext,
    ) -> Result<Bytes, Status> {
        let request = self.single_request(route, &mut body, &context).await?;
        // Nothing more is read from it.
        drop(body);
        if self.services.method(route.method_path).is_none() {
            return Err(unknown_method(route));
        }
        let timeout = context.timeout;
        let call = self.services.unary(route.method_path, request, context);
        let response = within(timeout, call).await?;
        let mut json = Vec::new();
        Schema::etcd().encode(route.method.output, &response, &mut json).map_err(malformed)?;
        if json.len() < LONG_ANSWER_BYTES {
            return Ok(json.into());
        }
        // What the service's bytes stand for is in use until the text is sent.
        Ok(Bytes::from_owner(Translated { json, _answer: response }))
    }

    /// Reads and translates the one request of a call that takes one.
    pub(super) async fn single_request(
        &self,
        route: &Route,
        body: &mut HttpBody,
        context: &CallContext,
    ) -> Result<Bytes, Status> {
        let read = async {
            if context.websocket == Websocket::Open {
                return self.first_document(body).await;
            }
            match body::collect(body, self.config.json_bytes_max()).await {
                Ok(text) => Ok(text),
                Err(BodyError::TooLarge(length)) => {
                    body::discard(body).await;
                    Err(self.too_large(length))
                }
                Err(BodyError::Broken(error)) => Err(invalid(error.to_string())),
            }
        };
        let text = within(self.body_timeout(context), read).await?;
        let decoded = Schema::etcd().decode(route.method.input, &text);
        let request = decoded.map_err(|error| invalid(error.to_string()))?.wire;
        self.check_size(&request)?;
        Ok(request.into())
    }

    /// The first document of a body without end.
    async fn first_document(&self, body: &mut HttpBody) -> Result<Bytes, Status> {
        let mut documents = Documents::new(self.config.json_bytes_max());
        loop {
            match documents.next_document() {
                Ok(Some(document)) => return Ok(document),
                Ok(None) => {}
                Err(JsonError::TooLarge { limit }) => return Err(self.too_large(limit)),
                Err(error) => return Err(invalid(error.to_string())),
            }
            match next_piece(body).await {
                Ok(Some(piece)) => documents.push(&piece),
                Ok(None) => return Err(invalid(JsonError::UnexpectedEnd.to_string())),
                Err(error) => return Err(invalid(error.to_string())),
            }
        }
    }

    /// Time for what a call needs of its request before it starts. A websocket's client may keep
    /// it waiting, for the connection has limits of its own.
    pub(super) fn body_timeout(&self, context: &CallContext) -> Option<Duration> {
        (context.websocket != Websocket::Open).then_some(self.config.body_timeout)
    }

    /// Refuses what gRPC would refuse to receive.
    pub(super) fn check_size(&self, request: &[u8]) -> Result<(), Status> {
        if request.len() > self.config.wire_bytes_max() {
            return Err(self.too_large(request.len()));
        }
        Ok(())
    }

    pub(super) fn too_large(&self, length: usize) -> Status {
        let limit = self.config.wire_bytes_max();
        let text = format!("grpc: received message larger than max ({length} vs. {limit})");
        Status::new(Code::ResourceExhausted, text)
    }
}

/// The text of an answer, and the answer.
struct Translated {
    json: Vec<u8>,
    _answer: Bytes,
}

impl AsRef<[u8]> for Translated {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// Bounds a call's duration.
pub(super) async fn within<T>(
    timeout: Option<Duration>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match timeout {
        None => call.await,
        Some(timeout) => match tokio::time::timeout(timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(Status::new(Code::DeadlineExceeded, "context deadline exceeded")),
        },
    }
}

/// The refusal of an RPC that this server does not have.
pub(super) fn unknown_method(route: &Route) -> Status {
    let path = route.method_path.trim_start_matches('/');
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    let text = format!("unknown method {method} for service {service}");
    Status::new(Code::Unimplemented, text)
}

/// A service answered with bytes that are no message of its type.
pub(super) fn malformed(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, error.to_string())
}
