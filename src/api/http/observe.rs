//! `/metrics` and `/debug`: what monitoring asks.
//!
//! `/debug/vars` and, with `--enable-pprof`, `/debug/pprof/` say what this program can know of
//! itself cheaply; there are no Go profiles here.

use futures::future::LocalBoxFuture;
use hyper::{Response, StatusCode, header};

use super::answer;
use crate::{api::service::HttpBody, metrics::CONTENT_TYPE};

/// Where the endpoints have their numbers from. The composition root implements it.
pub trait Observer: 'static {
    /// All metrics in the Prometheus text format.
    fn metrics(&self) -> LocalBoxFuture<'static, String>;

    /// A JSON document of variables.
    fn variables(&self) -> String;

    /// The report of this name; `None` where there is none. `index` lists them.
    fn profile(&self, name: &str) -> LocalBoxFuture<'static, Option<String>>;

    /// `--enable-pprof`.
    fn has_profiles(&self) -> bool;
}

const VARS: &str = "/debug/vars";
const PROFILES: &str = "/debug/pprof";

/// Answers `/metrics`, as etcd for every method.
pub(super) async fn metrics(observer: &dyn Observer) -> Response<HttpBody> {
    let mut response = answer::plain(StatusCode::OK, observer.metrics().await);
    let content_type = header::HeaderValue::from_static(CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Answers paths below `/debug/`; `None` for those that do not exist.
pub(super) async fn debug(observer: &dyn Observer, path: &str) -> Option<Response<HttpBody>> {
    if path == VARS {
        return Some(answer::json(StatusCode::OK, observer.variables()));
    }
    let rest = path.strip_prefix(PROFILES)?;
    let name = match rest.strip_prefix('/') {
        Some(name) => name,
        None if rest.is_empty() => "",
        None => return None,
    };
    if !observer.has_profiles() {
        let text = "404 page not found: start the member with --enable-pprof";
        return Some(answer::text(StatusCode::NOT_FOUND, text));
    }
    let name = if name.is_empty() { "index" } else { name };
    Some(match observer.profile(name).await {
        Some(report) => answer::no_sniff(answer::plain(StatusCode::OK, report)),
        None => {
            let text = format!(
                "404 page not found: there is no profile {name:?} here, see {PROFILES}/; \
                 for CPU profiles use perf record"
            );
            answer::text(StatusCode::NOT_FOUND, &text)
        }
    })
}
