//! `/version`.

use hyper::{Method, Response, StatusCode};

use super::{HealthSource, answer};
use crate::api::service::HttpBody;

/// The etcd release whose behaviour this server has.
pub(super) const SERVER_VERSION: &str = crate::version::ETCD;

/// What etcd prints before the members agreed on a version.
const NOT_DECIDED: &str = "not_decided";

/// Answers with the two fields that every client since 3.0 knows. 3.6 adds `storage`, the
/// version of its database file; there is no such file here, and leaving it out makes the answer
/// the one of 3.5.
pub(super) fn answer(method: &Method, node: &dyn HealthSource) -> Response<HttpBody> {
    if method != Method::GET {
        return answer::only_get();
    }
    let cluster = node.cluster_version();
    let cluster = cluster.as_deref().unwrap_or(NOT_DECIDED);
    let body = format!(r#"{{"etcdserver":"{SERVER_VERSION}","etcdcluster":"{cluster}"}}"#);
    answer::json(StatusCode::OK, body)
}
