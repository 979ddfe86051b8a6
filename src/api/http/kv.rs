//! `/kv/KEY`: the v3 key space as plain bytes, for `curl` and browsers.
//!
//! ```text
//! GET     the value; ?rev=N ?serializable          HEAD: its headers alone
//! GET     ?prefix: the keys, a line each, or JSON; ?limit=N ?keys_only
//! GET     ?watch: server-sent events; ?prefix ?rev=N, or Last-Event-ID to go on
//! PUT     the body becomes the value; ?lease=ID
//! DELETE  the key; ?prefix: all keys that begin with it
//! If-Match: "N" and If-None-Match: * make PUT and DELETE conditional on mod_revision
//! ```
//!
//! Invariants:
//! - everything after `/kv/` is the key, byte for byte once its escapes are resolved: no tidying;
//! - every call goes through [`Services`](crate::api::service::Services) as a gRPC call would,
//!   so authorization and limits are the same;
//! - failures are sentences in plain text.

mod change;
mod get;
mod kv_json;
mod params;
#[cfg(test)]
mod tests;
mod watch;

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use prost::Message;

use self::params::Params;
use super::{
    Gateway, answer, context, form,
    gateway::{malformed, within},
};
use crate::{
    api::service::{CallContext, Code, HttpBody, Status},
    client::prefix_end,
};

/// A request without its body.
struct Call {
    key: Bytes,
    params: Params,
    headers: HeaderMap,
    context: CallContext,
}

/// Why a request gets no answer of the store.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let http = match status.message.as_str() {
            "etcdserver: request is too large" => StatusCode::PAYLOAD_TOO_LARGE,
            _ => status.code.http_status(),
        };
        Self(http, status.message)
    }
}

impl From<Refusal> for Response<HttpBody> {
    fn from(refusal: Refusal) -> Self {
        answer::text(refusal.0, &refusal.1)
    }
}

type Answered = Result<Response<HttpBody>, Refusal>;

impl Gateway {
    /// Answers a request whose raw path after `/kv/` is `key`.
    pub(super) async fn kv(
        &self,
        request: Request<HttpBody>,
        connection: CallContext,
    ) -> Response<HttpBody> {
        self.kv_answer(request, connection).await.unwrap_or_else(Response::from)
    }

    async fn kv_answer(&self, request: Request<HttpBody>, connection: CallContext) -> Answered {
        let (parts, body) = request.into_parts();
        let allowed = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE];
        if !allowed.contains(&parts.method) {
            let text = "use GET, HEAD, PUT or DELETE";
            let mut response = answer::text(StatusCode::METHOD_NOT_ALLOWED, text);
            let allow = HeaderValue::from_static("GET,HEAD,PUT,DELETE");
            response.headers_mut().insert(header::ALLOW, allow);
            return Ok(response);
        }
        let raw = parts.uri.path().strip_prefix("/kv/").unwrap_or_default();
        let key = form::decoded(raw.as_bytes(), false).map_err(Refusal::bad)?;
        let params = Params::parse(&parts.method, parts.uri.query().unwrap_or_default())
            .map_err(Refusal::bad)?;
        if key.is_empty() && !params.prefix {
            return Err(Refusal::bad("a key is missing: ask for /kv/KEY, or /kv/?prefix for all"));
        }
        let context = context::of_call(&parts.headers, connection)?;
        let call = Call { key: key.into(), params, headers: parts.headers, context };
        match parts.method {
            Method::PUT => self.kv_put(&call, body).await,
            Method::DELETE => self.kv_delete(&call).await,
            _ if call.params.watch => self.kv_watch(&call).await,
            _ if call.params.prefix => self.kv_list(&call).await,
            _ => self.kv_get(&call).await,
        }
    }

    /// One gRPC call.
    async fn kv_call<M: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
        context: &CallContext,
    ) -> Result<M, Status> {
        let request = Bytes::from(request.encode_to_vec());
        self.check_size(&request)?;
        if self.services.method(path).is_none() {
            return Err(Status::new(Code::Unimplemented, "this server has no key space"));
        }
        let call = self.services.unary(path, request, context.clone());
        let response = within(context.timeout, call).await?;
        M::decode(response).map_err(malformed)
    }
}

impl Call {
    /// First key and end of what is asked for, as the wire has them.
    fn range(&self) -> (Bytes, Bytes) {
        if !self.params.prefix {
            (self.key.clone(), Bytes::new())
        } else if self.key.is_empty() {
            (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
        } else {
            (self.key.clone(), prefix_end(&self.key))
        }
    }

    fn wants_json(&self) -> bool {
        let accept = self.headers.get(header::ACCEPT).map(|accept| accept.as_bytes());
        accept.is_some_and(|accept| {
            accept.split(|&byte| byte == b',').any(|part| {
                let kind = part.split(|&byte| byte == b';').next().unwrap_or_default();
                kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
            })
        })
    }
}

/// Sets a header to a number.
fn set(response: &mut Response<HttpBody>, name: &'static str, value: i64) {
    response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from(value));
}

fn set_etag(response: &mut Response<HttpBody>, mod_revision: i64) {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{mod_revision}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
}
