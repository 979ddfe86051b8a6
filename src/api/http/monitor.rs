//! What the URLs of `--listen-metrics-urls` serve: metrics and health, nothing else.

use std::rc::Rc;

use futures::future::LocalBoxFuture;
use hyper::{Request, Response, StatusCode, header};

use super::{HealthSource, Observer, answer, health, observe};
use crate::api::service::{CallContext, HttpBody, HttpHandler};

/// Answers metrics and health. Without the headers for pages of other origins, as in etcd.
#[derive(Clone)]
pub struct Monitor {
    health: Rc<dyn HealthSource>,
    observer: Rc<dyn Observer>,
}

impl Monitor {
    /// A monitor of the node that both speak for.
    pub fn new(health: Rc<dyn HealthSource>, observer: Rc<dyn Observer>) -> Self {
        Self { health, observer }
    }

    async fn answer(self, request: Request<HttpBody>) -> Response<HttpBody> {
        let (method, uri) = (request.method(), request.uri());
        let mut response = match uri.path() {
            "/metrics" => observe::metrics(&*self.observer).await,
            "/health" => health::health(method, uri, &*self.health).await,
            path => match health::Probe::find(path) {
                Some(probe) => probe.answer(method, uri, &*self.health).await,
                None => answer::text(StatusCode::NOT_FOUND, "404 page not found"),
            },
        };
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_METHODS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
        ] {
            response.headers_mut().remove(name);
        }
        response
    }
}

impl HttpHandler for Monitor {
    fn handle(
        &self,
        request: Request<HttpBody>,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>> {
        Box::pin(self.clone().answer(request))
    }
}
