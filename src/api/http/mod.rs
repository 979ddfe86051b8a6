//! Plain HTTP on the client port: the JSON gateway and the endpoints around it.
//!
//! Invariants:
//! - every answer carries the CORS headers that `--cors` allows, `OPTIONS` is always 200;
//! - cleartext requests for hosts outside `--host-whitelist` are refused with 421;
//! - the gateway adds no meaning: it translates bodies, calls [`Services`] by gRPC path and
//!   translates back;
//! - a call ends when its client goes away;
//! - a websocket is a POST whose body goes on ([`Websocket::Open`]), and no other way in.
//!
//! Absent on purpose: everything that needs the cluster (see [`HealthSource`]).
//!
//! [`Websocket::Open`]: super::service::Websocket::Open
//! Source: recorded answers of etcd 3.5.1; `etcdhttp` of later releases for the probes.

mod access;
pub(in crate::api) mod answer;
pub(in crate::api) mod body;
mod context;
pub(in crate::api) mod form;
mod gateway;
mod health;
mod kv;
mod monitor;
mod observe;
mod path;
mod routes;
mod stream;
#[cfg(test)]
pub(super) mod tests;
mod version;
mod websocket;

use std::{rc::Rc, time::Duration};

use futures::future::LocalBoxFuture;
use hyper::{Method, Request, Response, StatusCode, header};

pub use self::{health::HealthSource, monitor::Monitor, observe::Observer};
use self::{
    path::Target,
    routes::{Route, Routes},
};
use super::{
    service::{CallContext, HttpBody, HttpHandler, Services},
    v2::{self, V2},
};

/// Room that gRPC leaves above the request limit for everything but the payload, in bytes.
/// Source: etcd's `grpcOverheadBytes`.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// JSON text of one request, as a multiple of the protobuf message it may make. Base64 takes
/// 4/3; the rest is room for escapes, names and spaces.
const JSON_EXPANSION: usize = 4;

/// Time a client has for the body of a request: for the largest at half a megabit per second.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an oversized body that are read and dropped so that the client, busy sending,
/// gets to read the answer; beyond this the connection is closed instead.
const DISCARD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the handler has to know about the server's configuration.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// `--max-request-bytes`: payload of one request, in bytes; the services enforce it, the
    /// gateway refuses what gRPC itself would refuse.
    pub max_request_bytes: usize,
    /// Time until the body of a request has come, for calls that stream until its first message.
    pub body_timeout: Duration,
    /// `--cors`: origins whose pages may read answers; `*` or none at all: any.
    pub cors: Vec<String>,
    /// `--host-whitelist`: hosts a cleartext request may be for; `*` or none at all: any.
    pub host_whitelist: Vec<String>,
    /// `--enable-grpc-gateway`: answer under `/v3/`.
    pub grpc_gateway: bool,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            max_request_bytes: 1536 * 1024,
            body_timeout: BODY_TIMEOUT,
            cors: Vec::new(),
            host_whitelist: Vec::new(),
            grpc_gateway: true,
        }
    }
}

impl GatewayConfig {
    /// Bytes of one protobuf request, as gRPC bounds it.
    fn wire_bytes_max(&self) -> usize {
        self.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES)
    }

    /// Bytes of one JSON request held in memory.
    fn json_bytes_max(&self) -> usize {
        self.wire_bytes_max().saturating_mul(JSON_EXPANSION)
    }
}

/// Answers everything on the client port that is not gRPC. One per front-end thread; cheap to
/// clone. Streaming calls are spawned on the thread's `LocalSet`.
#[derive(Clone)]
pub struct Gateway {
    services: Rc<dyn Services>,
    health: Rc<dyn HealthSource>,
    routes: &'static Routes,
    config: Rc<GatewayConfig>,
    v2: Option<Rc<V2>>,
    observer: Option<Rc<dyn Observer>>,
}

impl Gateway {
    /// A gateway to `services`; `health` answers for the node.
    pub fn new(
        services: Rc<dyn Services>,
        health: Rc<dyn HealthSource>,
        config: GatewayConfig,
    ) -> Self {
        let (routes, config) = (Routes::etcd(), Rc::new(config));
        Self { services, health, routes, config, v2: None, observer: None }
    }

    /// The same with `/metrics` and `/debug`; without an observer they do not exist.
    #[must_use]
    pub fn with_observer(self, observer: Rc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The same with the v2 API; without it its paths are unknown.
    #[must_use]
    pub fn with_v2(self, v2: Option<V2>) -> Self {
        Self { v2: v2.map(Rc::new), ..self }
    }

    /// Answers a request from where it is allowed to come.
    async fn admit(self, request: Request<HttpBody>, context: CallContext) -> Response<HttpBody> {
        if !context.is_tls
            && let Some(refused) =
                access::refuse_host(request.headers(), &self.config.host_whitelist)
        {
            return refused;
        }
        let config = Rc::clone(&self.config);
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = self.answer(request, context).await;
        access::limit_origin(&mut response, origin.as_ref(), &config.cors);
        response
    }

    /// The RPC behind a path; none without the gateway.
    fn route(&self, path: &str) -> Option<&'static Route> {
        self.routes.find(path).filter(|_| self.config.grpc_gateway)
    }

    async fn answer(self, request: Request<HttpBody>, context: CallContext) -> Response<HttpBody> {
        if request.method() == Method::OPTIONS {
            return answer::empty(StatusCode::OK);
        }
        if let Some(answer) = self.handshake(&request, &context) {
            return answer;
        }
        let path = request.uri().path();
        if let Some(route) = self.route(path) {
            return self.call(route, request, context).await;
        }
        if path.starts_with("/kv/") {
            return self.kv(request, context).await;
        }
        if let Some(v2) = &self.v2 {
            if let Some(path) = v2::path_of(request.uri()) {
                return v2.answer(&path, request, self.health.auth_enabled()).await;
            }
            if path.starts_with("/v2/") {
                // A broken escape.
                return answer::plain(StatusCode::BAD_REQUEST, "400 Bad Request".to_owned());
            }
        }
        let target = path::resolve(path);
        let path = match &target {
            Target::Path(path) => path.as_ref(),
            Target::Moved(location) => {
                let query = request.uri().query().map(|query| format!("?{query}"));
                let location = format!("{location}{}", query.unwrap_or_default());
                return answer::moved(request.method(), &location);
            }
        };
        if let Some(route) = self.route(path) {
            return self.call(route, request, context).await;
        }
        if let Some(observer) = &self.observer {
            if path == "/metrics" {
                return observe::metrics(&**observer).await;
            }
            if let Some(answer) = observe::debug(&**observer, path).await {
                return answer;
            }
        }
        // Other families of paths join here.
        match path {
            "/version" => version::answer(request.method(), &*self.health),
            "/health" => health::health(request.method(), request.uri(), &*self.health).await,
            _ if path.starts_with("/v3/") && self.config.grpc_gateway => {
                answer::text(StatusCode::NOT_FOUND, "Not Found")
            }
            _ => match health::Probe::find(path) {
                Some(probe) => probe.answer(request.method(), request.uri(), &*self.health).await,
                None => answer::text(StatusCode::NOT_FOUND, "404 page not found"),
            },
        }
    }
}

impl HttpHandler for Gateway {
    fn handle(
        &self,
        request: Request<HttpBody>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>> {
        let gateway = self.clone();
        Box::pin(gateway.admit(request, context))
    }
}
