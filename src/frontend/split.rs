//! What the connections of a listener are served with, when gRPC and HTTP have ports of their own.
//!
//! Source: etcd `--listen-client-http-urls`, <https://etcd.io/docs/latest/op-guide/configuration/>.

use std::rc::Rc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode};

use super::{Handlers, Serves};
use crate::api::{
    connection::{Drain, Environment, HeldAccount, Http1Limits},
    h2::Limits,
    service::{CallContext, HttpBody, HttpHandler, NoServices, Services},
};

/// Environments of one thread: they differ in the handlers and share limits and accounts.
pub(super) struct Environments {
    both: Rc<Environment>,
    grpc: Rc<Environment>,
    http: Rc<Environment>,
}

impl Environments {
    pub(super) fn new(handlers: Handlers, limits: Limits, http1: &Http1Limits) -> Self {
        let limits = Rc::new(limits);
        let drain = Rc::new(Drain::default());
        let held = Rc::new(HeldAccount::default());
        let environment = |services: Rc<dyn Services>, http: Rc<dyn HttpHandler>| {
            Rc::new(Environment {
                services,
                http,
                limits: Rc::clone(&limits),
                http1: http1.clone(),
                drain: Rc::clone(&drain),
                held: Rc::clone(&held),
            })
        };
        let Handlers { services, http, .. } = handlers;
        Self {
            both: environment(Rc::clone(&services), Rc::clone(&http)),
            grpc: environment(services, Rc::new(Elsewhere)),
            http: environment(Rc::new(NoServices(GRPC_ELSEWHERE)), http),
        }
    }

    pub(super) fn of(&self, serves: Serves) -> &Rc<Environment> {
        match serves {
            Serves::Both => &self.both,
            Serves::Grpc => &self.grpc,
            Serves::Http => &self.http,
        }
    }

    /// Tells the connections of all of them to end.
    pub(super) fn begin_drain(&self) {
        self.both.drain.begin();
    }
}

/// Refusal of gRPC where HTTP alone is served.
const GRPC_ELSEWHERE: &str = "this port serves HTTP alone; gRPC is at --listen-client-urls";

/// Answers HTTP on a listener of gRPC alone.
struct Elsewhere;

impl HttpHandler for Elsewhere {
    fn handle(
        &self,
        _request: Request<HttpBody>,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>> {
        let text = "this port serves gRPC alone; HTTP is at --listen-client-http-urls\n";
        let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {});
        let mut answer = Response::new(body.boxed_unsync());
        *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Box::pin(std::future::ready(answer))
    }
}
