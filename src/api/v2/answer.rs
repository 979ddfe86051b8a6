//! Answers and their bodies.

use bytes::Bytes;
use hyper::{
    Method, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use tripod_storage::v2::{Action, Error, ErrorCode, Event, NodeView};

use super::time;
use crate::{
    api::{
        http::answer::{self, json},
        json::put_string,
        service::HttpBody,
    },
    client::v2::{V2Error, V2Position},
};

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const ETCD_INDEX: HeaderName = HeaderName::from_static("x-etcd-index");
const RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// As etcd's answer to a path that nothing serves.
pub(super) fn not_found() -> Response<HttpBody> {
    answer::text(StatusCode::NOT_FOUND, "404 page not found")
}

/// The refusal of a method; `allowed` as etcd lists them.
pub(super) fn wrong_method(allowed: &'static str) -> Response<HttpBody> {
    let mut response = answer::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    if !allowed.is_empty() {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    response
}

/// A redirect to the tidy form of a path.
pub(super) fn moved(method: &Method, path: &[u8], query: Option<&str>) -> Response<HttpBody> {
    let mut location = String::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-_.~/$&+,:;=@".contains(&byte) {
            location.push(char::from(byte));
        } else {
            location.push_str(&format!("%{byte:02X}"));
        }
    }
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    answer::moved(method, &location)
}

/// What `members`, `stats` and `auth` answer when something is wrong.
pub(super) fn message(status: StatusCode, text: &str) -> Response<HttpBody> {
    let mut body = b"{\"message\":".to_vec();
    put_string(&mut body, text.as_bytes());
    body.push(b'}');
    json(status, body)
}

fn insert(response: &mut Response<HttpBody>, name: HeaderName, value: impl Into<HeaderValue>) {
    response.headers_mut().insert(name, value.into());
}

fn insert_cluster(response: &mut Response<HttpBody>, cluster_id: u64) {
    if let Ok(value) = HeaderValue::from_str(&format!("{cluster_id:x}")) {
        insert(response, CLUSTER_ID, value);
    }
}

/// The headers that tell where tree and log are.
pub(super) fn with_position(
    mut response: Response<HttpBody>,
    cluster_id: u64,
    position: V2Position,
) -> Response<HttpBody> {
    insert_cluster(&mut response, cluster_id);
    insert(&mut response, ETCD_INDEX, position.index);
    insert(&mut response, RAFT_INDEX, position.raft_index);
    insert(&mut response, RAFT_TERM, position.raft_term);
    response
}

/// The failure of a request to a key.
pub(super) fn error(error: &Error, cluster_id: Option<u64>) -> Response<HttpBody> {
    let (number, text, status) = error.code.describe();
    let mut body = format!("{{\"errorCode\":{number},\"message\":").into_bytes();
    put_string(&mut body, text.as_bytes());
    if !error.cause.is_empty() {
        body.extend_from_slice(b",\"cause\":");
        put_string(&mut body, &error.cause);
    }
    body.extend_from_slice(format!(",\"index\":{}}}\n", error.index).as_bytes());
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, body);
    if let Some(cluster_id) = cluster_id {
        insert_cluster(&mut response, cluster_id);
    }
    insert(&mut response, ETCD_INDEX, error.index);
    response
}

/// The failure of a call.
pub(super) fn failure(failure: V2Error, cluster_id: u64) -> Response<HttpBody> {
    let refused = match failure {
        V2Error::Refused(refused) => refused,
        V2Error::Failed(failed) => Error::of_request(ErrorCode::RaftInternal, failed.to_string()),
    };
    error(&refused, Some(cluster_id))
}

/// An event as a line of JSON; without its nodes if `bare`.
pub(super) fn event_line(event: &Event, bare: bool) -> Bytes {
    let mut out = b"{\"action\":".to_vec();
    put_string(&mut out, event.action.name().as_bytes());
    if !bare {
        out.extend_from_slice(b",\"node\":");
        put_node(&mut out, &event.node);
        if let Some(prev) = &event.prev {
            out.extend_from_slice(b",\"prevNode\":");
            put_node(&mut out, prev);
        }
    }
    out.extend_from_slice(b"}\n");
    out.into()
}

/// Whether `noValueOnSuccess` leaves the nodes of such an answer out.
pub(super) fn can_be_bare(action: Action) -> bool {
    matches!(action, Action::Set | Action::Create | Action::Update | Action::CompareAndSwap)
}

/// Nesting is bounded by the depth of keys.
fn put_node(out: &mut Vec<u8>, node: &NodeView) {
    let start = out.len();
    let name = |out: &mut Vec<u8>, name: &str| {
        out.extend_from_slice(if out.len() == start { b"{\"" } else { b",\"" });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
    };
    if !node.key.is_empty() {
        name(out, "key");
        put_string(out, &node.key);
    }
    if let Some(value) = &node.value {
        name(out, "value");
        put_string(out, value);
    }
    if node.dir {
        name(out, "dir");
        out.extend_from_slice(b"true");
    }
    if let Some(expires_ns) = node.expires_ns {
        name(out, "expiration");
        put_string(out, time::rfc3339(expires_ns).as_bytes());
    }
    if node.ttl_s != 0 {
        name(out, "ttl");
        out.extend_from_slice(node.ttl_s.to_string().as_bytes());
    }
    if !node.nodes.is_empty() {
        name(out, "nodes");
        for (at, child) in node.nodes.iter().enumerate() {
            out.push(if at == 0 { b'[' } else { b',' });
            put_node(out, child);
        }
        out.push(b']');
    }
    for (field, index) in [("modifiedIndex", node.modified), ("createdIndex", node.created)] {
        if index != 0 {
            name(out, field);
            out.extend_from_slice(index.to_string().as_bytes());
        }
    }
    if out.len() == start {
        out.push(b'{');
    }
    out.push(b'}');
}
