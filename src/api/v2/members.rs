//! `/v2/members` and `/v2/machines`.

use hyper::{Method, Response, StatusCode, header};
use serde::Deserialize;

use super::{Head, V2, answer};
use crate::{
    api::{
        http::{
            answer::{empty, json, plain},
            body::{self, BodyError},
        },
        json::put_string,
        service::HttpBody,
    },
    client::{Error, MemberInfo, MemberRefused},
    config::{UrlError, Urls},
};

/// Bytes of a request about a member.
const REQUEST_BYTES_MAX: usize = 64 << 10;

#[derive(Default, Deserialize)]
#[serde(default)]
struct MemberRequest {
    #[serde(rename = "peerURLs")]
    peer_urls: Option<Vec<String>>,
}

impl V2 {
    /// Answers a request to the members; `rest` is what follows the slash.
    pub(super) async fn members(
        &self,
        head: &Head<'_>,
        rest: Option<&[u8]>,
        mut body: HttpBody,
    ) -> Response<HttpBody> {
        let name = String::from_utf8_lossy(rest.unwrap_or_default()).into_owned();
        match *head.method {
            Method::GET => match name.as_str() {
                "" => self.list(),
                "leader" => self.leader(),
                _ => answer::message(StatusCode::NOT_FOUND, "Not found"),
            },
            Method::POST => match peer_urls(head, &mut body).await {
                Ok(urls) => match self.client.member_add(urls, false).await {
                    Ok((_, (added, _))) => with_line(StatusCode::CREATED, member_json(&added)),
                    Err(error) => refusal(&error, &name),
                },
                Err(response) => response,
            },
            Method::DELETE | Method::PUT if name.is_empty() => answer::wrong_method(""),
            Method::DELETE | Method::PUT => {
                let Some(id) = member_id(&name) else { return no_such_member(&name) };
                let done = if head.method == Method::DELETE {
                    self.client.member_remove(id).await
                } else {
                    match peer_urls(head, &mut body).await {
                        Ok(urls) => self.client.member_update(id, urls).await,
                        Err(response) => return response,
                    }
                };
                match done {
                    Ok(_) => empty(StatusCode::NO_CONTENT),
                    Err(error) => refusal(&error, &format!("{id:x}")),
                }
            }
            _ => answer::wrong_method("GET,POST,DELETE,PUT"),
        }
    }

    fn list(&self) -> Response<HttpBody> {
        let mut out = b"{\"members\":[".to_vec();
        for (at, member) in self.client.members().iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&member_json(member));
        }
        out.extend_from_slice(b"]}");
        with_line(StatusCode::OK, out)
    }

    fn leader(&self) -> Response<HttpBody> {
        let leader = self.service.leader().0;
        let members = self.client.members();
        match members.iter().find(|member| Some(member.id) == leader) {
            Some(member) => with_line(StatusCode::OK, member_json(member)),
            None => answer::message(StatusCode::SERVICE_UNAVAILABLE, "During election"),
        }
    }

    /// Client URLs of all members.
    pub(super) fn machines(&self, head: &Head<'_>) -> Response<HttpBody> {
        if head.method != Method::GET && head.method != Method::HEAD {
            return answer::wrong_method("GET,HEAD");
        }
        let members = self.client.members();
        let mut urls: Vec<&str> =
            members.iter().flat_map(|member| &member.client_urls).map(String::as_str).collect();
        urls.sort_unstable();
        plain(StatusCode::OK, urls.join(", "))
    }
}

fn with_line(status: StatusCode, mut body: Vec<u8>) -> Response<HttpBody> {
    body.push(b'\n');
    json(status, body)
}

fn member_json(member: &MemberInfo) -> Vec<u8> {
    let mut out = format!("{{\"id\":\"{:x}\",\"name\":", member.id).into_bytes();
    put_string(&mut out, member.name.as_bytes());
    for (name, urls) in [("peerURLs", &member.peer_urls), ("clientURLs", &member.client_urls)] {
        out.extend_from_slice(format!(",\"{name}\":[").as_bytes());
        for (at, url) in urls.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            put_string(&mut out, url.as_bytes());
        }
        out.push(b']');
    }
    out.push(b'}');
    out
}

/// A member id in hexadecimal digits.
fn member_id(text: &str) -> Option<u64> {
    let digits = !text.starts_with(['+', '-']);
    u64::from_str_radix(text, 16).ok().filter(|_| digits)
}

fn no_such_member(name: &str) -> Response<HttpBody> {
    answer::message(StatusCode::NOT_FOUND, &format!("No such member: {name}"))
}

fn refusal(error: &Error, name: &str) -> Response<HttpBody> {
    match error {
        Error::Member(MemberRefused::PeerUrlExists) => {
            answer::message(StatusCode::CONFLICT, "membership: peerURL exists")
        }
        Error::Member(MemberRefused::IdExists) => {
            answer::message(StatusCode::CONFLICT, "membership: ID exists")
        }
        Error::Member(MemberRefused::NotFound) => no_such_member(name),
        other => {
            tracing::warn!(error = %other, "a change of members by the v2 API failed");
            answer::message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        }
    }
}

/// The peer URLs in a request.
async fn peer_urls(
    head: &Head<'_>,
    body: &mut HttpBody,
) -> Result<Vec<String>, Response<HttpBody>> {
    let kind = head.headers.get(header::CONTENT_TYPE);
    let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
    let mut kind = kind.unwrap_or_default();
    if let Some((before, _)) = kind.split_once(';') {
        kind = before.to_ascii_lowercase().trim().to_owned();
    }
    if kind != "application/json" {
        let text = format!("Bad Content-Type {kind}, accept application/json");
        return Err(answer::message(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text));
    }
    let bad = |text: &str| answer::message(StatusCode::BAD_REQUEST, text);
    let text = match body::collect(body, REQUEST_BYTES_MAX).await {
        Ok(text) => text,
        Err(BodyError::TooLarge(_)) => return Err(bad("the request is too large")),
        Err(BodyError::Broken(error)) => return Err(bad(&error.to_string())),
    };
    // `null` is an empty request, as in Go.
    let request: Option<MemberRequest> = serde_json::from_slice(&text)
        .map_err(|error| bad(&format!("invalid character or field in JSON: {error}")))?;
    let urls: Result<Urls, UrlError> =
        request.and_then(|request| request.peer_urls).unwrap_or_default().join(",").parse();
    match urls {
        Ok(urls) if urls.texts().next().is_some() => Ok(urls.texts().map(str::to_owned).collect()),
        Ok(_) => Err(bad("no valid URLs given")),
        Err(error) => Err(bad(&error.to_string())),
    }
}
