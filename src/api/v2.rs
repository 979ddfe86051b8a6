//! etcd's v2 HTTP API: keys, members, machines, statistics.
//!
//! Invariants:
//! - answers are those of etcd 3.5.1 with `--enable-v2`: statuses, headers, texts;
//! - what a request means is decided without I/O (`request`, `form`), the shell around it calls
//!   the client and translates back;
//! - a waiting client holds one queue and no thread, and is forgotten when it goes.
//!
//! While authentication is on everything here is refused: v2 has its own users in etcd, which
//! this server does not keep, and the v3 rules do not know v2 keys.
//!
//! Absent on purpose: v2 users and roles. `auth` answers what etcd does while there are none.

mod answer;
mod auth;
mod keys;
mod members;
mod request;
mod stats;
#[cfg(test)]
mod tests;
mod time;
mod wait;

use std::sync::Arc;

use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tripod_storage::v2::{Error, ErrorCode};

use super::{http::form, service::HttpBody};
use crate::client::{Client, v2::V2Service};

/// The v2 API over a member. One per front-end thread.
#[derive(Debug)]
pub struct V2 {
    client: Client,
    service: Arc<V2Service>,
    max_request_bytes: usize,
}

/// A request without its body.
struct Head<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
}

/// Whether a request may pass, by whether authentication is on.
fn v2_allowed(auth_enabled: bool) -> Result<(), Error> {
    if auth_enabled {
        let cause = "Insufficient credentials";
        return Err(Error::of_request(ErrorCode::Unauthorized, cause));
    }
    Ok(())
}

/// The decoded path of a request that is for this API, tidy or not.
pub(super) fn path_of(uri: &Uri) -> Option<Vec<u8>> {
    let path = form::decoded(uri.path().as_bytes(), false).ok()?;
    let is_ours = path.starts_with(b"/v2/") || path == b"/v2" || clean(&path).starts_with(b"/v2/");
    is_ours.then_some(path)
}

/// The tidy form of a path; a slash at the end stays.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut clean = tripod_storage::v2::path::clean(path).to_vec();
    if path.ends_with(b"/") && clean.len() > 1 {
        clean.push(b'/');
    }
    clean
}

impl V2 {
    /// The API in front of `client`.
    #[must_use]
    pub fn new(client: Client, service: Arc<V2Service>, max_request_bytes: usize) -> Self {
        Self { client, service, max_request_bytes }
    }

    /// Answers a request whose decoded path is `path` (see [`path_of`]).
    pub(super) async fn answer(
        &self,
        path: &[u8],
        request: Request<HttpBody>,
        auth_enabled: bool,
    ) -> Response<HttpBody> {
        let clean = clean(path);
        if clean != path {
            return answer::moved(request.method(), &clean, request.uri().query());
        }
        let (parts, body) = request.into_parts();
        let head = Head { method: &parts.method, uri: &parts.uri, headers: &parts.headers };
        let Some(rest) = path.strip_prefix(b"/v2/") else { return answer::not_found() };
        let (first, rest) = split_first(rest);
        if let Err(error) = v2_allowed(auth_enabled) {
            return match first {
                b"keys" => answer::error(&error, Some(self.client.identity().cluster_id)),
                _ => answer::message(StatusCode::UNAUTHORIZED, "Insufficient credentials"),
            };
        }
        match (first, rest) {
            (b"keys", rest) => self.keys(&head, rest.unwrap_or_default(), body).await,
            (b"members", rest) => self.members(&head, rest, body).await,
            (b"machines", None) => self.machines(&head),
            (b"stats", Some(b"self")) => self.self_stats(&head),
            (b"stats", Some(b"store")) => self.store_stats(&head),
            (b"stats", Some(b"leader")) => self.leader_stats(&head),
            (b"auth", Some(rest)) => auth::answer(&head, rest),
            _ => answer::not_found(),
        }
    }
}

/// The first part of a path without its slash, and what follows the slash after it.
fn split_first(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|&byte| byte == b'/') {
        Some(at) => (&path[..at], path.get(at + 1..)),
        None => (path, None),
    }
}
