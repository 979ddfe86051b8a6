//! Which requests make their connection a websocket: those under `/v3/` that ask, from where a
//! request may come.
//!
//! Browsers send a websocket's handshake from any page and hand the page every answer, as if
//! `--cors` were `*`; so a handshake from an origin that `--cors` leaves out is refused.

use hyper::{
    Request, Response, StatusCode,
    header::{self, HeaderValue},
};

use super::{
    Gateway, access, answer,
    path::{self, Target},
};
use crate::api::{
    service::{CallContext, HttpBody, Websocket},
    websocket::{self, Accepted},
};

impl Gateway {
    /// The answer to a handshake; `None` for any other request, and for a path of which nothing
    /// could be asked over a websocket.
    pub(super) fn handshake(
        &self,
        request: &Request<HttpBody>,
        context: &CallContext,
    ) -> Option<Response<HttpBody>> {
        if context.websocket != Websocket::Possible
            || !self.config.grpc_gateway
            || !websocket::is_asked(request.headers())
        {
            return None;
        }
        let Target::Path(path) = path::resolve(request.uri().path()) else { return None };
        path.starts_with("/v3/").then(|| self.upgrade(request, context))
    }

    fn upgrade(&self, request: &Request<HttpBody>, context: &CallContext) -> Response<HttpBody> {
        if let Some(refused) = self.refuse_common_name(context) {
            return refused;
        }
        if let Some(refused) = access::refuse_origin(request.headers(), &self.config.cors) {
            return refused;
        }
        let headers = match websocket::accept(request.method(), request.headers()) {
            Ok(headers) => headers,
            Err(status) => {
                let reason = status.canonical_reason().unwrap_or_default();
                let mut refused = answer::text(status, reason);
                let version = HeaderValue::from_static("13");
                refused.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
                return refused;
            }
        };
        let mut switching = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
        *switching.headers_mut() = headers.into_iter().collect();
        let message_bytes_max = self.config.json_bytes_max();
        switching.extensions_mut().insert(Accepted { message_bytes_max });
        switching
    }
}
