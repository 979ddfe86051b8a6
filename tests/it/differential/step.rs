//! One request of a trace: what is asked, by which method, over which transport.

use std::fmt;

use serde_json::{Value, json};

use super::play::Marks;

/// How a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The HTTP gateway.
    Json,
    /// gRPC.
    Grpc,
}

/// A unary method that traces use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Grant,
    Revoke,
    TimeToLive,
    Leases,
}

impl Method {
    /// JSON path, gRPC path, message name up to `Request`.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Range => ("/v3/kv/range", "KV/Range", "Range"),
            Self::Put => ("/v3/kv/put", "KV/Put", "Put"),
            Self::DeleteRange => ("/v3/kv/deleterange", "KV/DeleteRange", "DeleteRange"),
            Self::Txn => ("/v3/kv/txn", "KV/Txn", "Txn"),
            Self::Compact => ("/v3/kv/compaction", "KV/Compact", "Compaction"),
            Self::Grant => ("/v3/lease/grant", "Lease/LeaseGrant", "LeaseGrant"),
            Self::Revoke => ("/v3/lease/revoke", "Lease/LeaseRevoke", "LeaseRevoke"),
            Self::TimeToLive => {
                ("/v3/lease/timetolive", "Lease/LeaseTimeToLive", "LeaseTimeToLive")
            }
            Self::Leases => ("/v3/lease/leases", "Lease/LeaseLeases", "LeaseLeases"),
        }
    }

    /// Path of the HTTP gateway.
    pub(crate) fn json_path(self) -> &'static str {
        self.names().0
    }

    /// Path of the gRPC method.
    pub(crate) fn grpc_path(self) -> String {
        format!("/etcdserverpb.{}", self.names().1)
    }

    /// Full name of the request message.
    pub(crate) fn request(self) -> String {
        format!("etcdserverpb.{}Request", self.names().2)
    }

    /// Full name of the response message.
    pub(crate) fn response(self) -> String {
        format!("etcdserverpb.{}Response", self.names().2)
    }
}

/// A step. Bodies are JSON as the gateway takes it; revisions may be texts such as `@now-3` or
/// `@low+1`, so that a step keeps its meaning when others are left out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// One request, one answer.
    Call { transport: Transport, method: Method, body: Value },
    /// Renews leases on one stream.
    KeepAlive { transport: Transport, ids: Vec<i64> },
    /// Opens these watches on one stream, then puts and deletes the start of each range, and
    /// reads until those last events came.
    Watch { transport: Transport, creates: Vec<Value> },
}

impl Step {
    /// The step with its revisions filled in.
    pub(crate) fn resolve(&self, marks: Marks) -> Self {
        match self.clone() {
            Self::Call { transport, method, mut body } => {
                fill(&mut body, marks);
                Self::Call { transport, method, body }
            }
            Self::Watch { transport, mut creates } => {
                for create in &mut creates {
                    fill(create, marks);
                    keep_defined(create, marks);
                }
                Self::Watch { transport, creates }
            }
            other @ Self::KeepAlive { .. } => other,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { transport, method, body } => {
                write!(formatter, "{transport:?} {} {body}", method.json_path())
            }
            Self::KeepAlive { transport, ids } => {
                write!(formatter, "{transport:?} /v3/lease/keepalive {}", json!(ids))
            }
            Self::Watch { transport, creates } => {
                write!(formatter, "{transport:?} /v3/watch {}", json!(creates))
            }
        }
    }
}

fn fill(value: &mut Value, marks: Marks) {
    match value {
        Value::String(text) if text.starts_with('@') => {
            *value = Value::String(marks.revision(text).to_string());
        }
        Value::Object(fields) => fields.values_mut().for_each(|inner| fill(inner, marks)),
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, marks)),
        _ => {}
    }
}

/// Moves a start revision that releases of etcd treat differently: the compacted one, negatives.
fn keep_defined(create: &mut Value, marks: Marks) {
    let Some(start) = create.get_mut("start_revision") else { return };
    let revision = integer(start).unwrap_or(0).max(1);
    let defined = if revision == marks.low() { revision + 1 } else { revision };
    *start = Value::String(defined.to_string());
}

/// A 64-bit integer as JSON carries it: text or number.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_i64(),
        _ => None,
    }
}
