//! `/v2/auth` of a server that has no v2 users: answers as etcd while its v2 auth is off, and
//! refuses to make any.

use hyper::{Method, Response, StatusCode};

use super::{Head, answer, split_first};
use crate::api::{http::answer::json, service::HttpBody};

const ROOT: &str =
    "{\"role\":\"root\",\"permissions\":{\"kv\":{\"read\":[\"/*\"],\"write\":[\"/*\"]}}}";

/// Answers a request; `rest` is the path after `/v2/auth/`.
pub(super) fn answer(head: &Head<'_>, rest: &[u8]) -> Response<HttpBody> {
    let (first, name) = split_first(rest);
    let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
    match (first, name.as_str()) {
        (b"enable", "") if rest == b"enable" => enable(head.method),
        (b"users", "") => list(head.method, "{\"users\":null}\n".to_owned()),
        (b"roles", "") => list(head.method, format!("{{\"roles\":[{ROOT}]}}\n")),
        (b"roles", "root") if head.method == Method::GET => {
            json(StatusCode::OK, format!("{ROOT}\n"))
        }
        (b"users" | b"roles", name) if name.contains('/') => {
            answer::message(StatusCode::BAD_REQUEST, "Invalid path")
        }
        (b"users", name) => one(head.method, "User", name, "does not exist"),
        (b"roles", name) => one(head.method, "Role", name, "doesn't exist."),
        _ => answer::not_found(),
    }
}

fn enable(method: &Method) -> Response<HttpBody> {
    match *method {
        Method::GET => json(StatusCode::OK, "{\"enabled\":false}\n"),
        Method::PUT => {
            answer::message(StatusCode::CONFLICT, "auth: No root user available, please create one")
        }
        Method::DELETE => answer::message(StatusCode::CONFLICT, "auth: already disabled"),
        _ => answer::wrong_method("GET,PUT,DELETE"),
    }
}

fn list(method: &Method, body: String) -> Response<HttpBody> {
    if method == Method::GET { json(StatusCode::OK, body) } else { answer::wrong_method("GET") }
}

/// A user or role that is not there; `gone` is etcd's wording when it is to be deleted.
fn one(method: &Method, kind: &str, name: &str, gone: &str) -> Response<HttpBody> {
    match *method {
        Method::GET => {
            let text = format!("auth: {kind} {name} does not exist.");
            answer::message(StatusCode::NOT_FOUND, &text)
        }
        Method::DELETE => {
            answer::message(StatusCode::NOT_FOUND, &format!("auth: {kind} {name} {gone}"))
        }
        Method::PUT => answer::message(
            StatusCode::NOT_IMPLEMENTED,
            "v2 users and roles are not kept here: use v3 authentication, which closes the v2 API \
             while it is on",
        ),
        _ => answer::wrong_method("GET,PUT,DELETE"),
    }
}
