//! From a request to a websocket: what the client has to say, and with whose token it speaks.
//!
//! Browsers let a page set no header of a websocket but its protocols, so a token may come as
//! `Sec-WebSocket-Protocol: Bearer, TOKEN`. There is no token from a cookie: a foreign page would
//! send it without knowing it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    Method, Request, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use sha1::{Digest as _, Sha1};

/// What the client's key is hashed with. Source: RFC 6455 section 1.3.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The only version there is.
const VERSION: &str = "13";
/// The protocol that carries a token.
const BEARER: &str = "Bearer";

/// An answer that makes its connection a websocket. Extension of a response with status 101.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct Accepted {
    /// Payload of one message, in bytes.
    pub(in crate::api) message_bytes_max: usize,
}

/// Whether a comma-separated header names `token`, in any case.
fn names(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|entry| entry.trim().eq_ignore_ascii_case(token))
}

/// Whether a request asks for a websocket.
pub(in crate::api) fn is_asked(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && names(headers, header::UPGRADE, "websocket")
        && names(headers, header::CONNECTION, "upgrade")
}

/// The headers of the answer to a request that asks.
///
/// # Errors
/// The status of the refusal.
pub(in crate::api) fn accept(
    method: &Method,
    headers: &HeaderMap,
) -> Result<Vec<(HeaderName, HeaderValue)>, StatusCode> {
    if *method != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !names(headers, header::SEC_WEBSOCKET_VERSION, VERSION) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty());
    let key = key.ok_or(StatusCode::BAD_REQUEST)?;
    let hash = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    let proof = HeaderValue::from_str(&STANDARD.encode(hash));
    let proof = proof.map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut answer = vec![
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, proof),
    ];
    if protocols(headers).starts_with(BEARER) {
        answer.push((header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER)));
    }
    Ok(answer)
}

/// The protocols the client offers, as one list.
fn protocols(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// The POST that a websocket stands for, without its body: same path and headers, and the token
/// from the protocols where there is one.
pub(super) fn post<B>(request: &Request<B>) -> Request<()> {
    let mut post = Request::new(());
    *post.method_mut() = Method::POST;
    *post.uri_mut() = request.uri().clone();
    *post.headers_mut() = request.headers().clone();
    let protocols = protocols(request.headers());
    let token = protocols.strip_prefix(BEARER).and_then(|rest| rest.strip_prefix(','));
    if let Some(Ok(token)) = token.map(|token| HeaderValue::from_str(token.trim())) {
        post.headers_mut().insert(header::AUTHORIZATION, token);
    }
    post
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/v3/watch?method=PUT");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const ASKED: [(&str, &str); 4] = [
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn both_headers_ask_for_a_websocket() {
        assert!(is_asked(request("GET", &ASKED).headers()));
        let others: [&[(&str, &str)]; 4] = [
            &[],
            &[("Upgrade", "websocket")],
            &[("Connection", "Upgrade")],
            &[("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings")],
        ];
        for headers in others {
            assert!(!is_asked(request("GET", headers).headers()), "{headers:?}");
        }
        let mixed = [("Upgrade", "h2c, WebSocket"), ("Connection", "UPGRADE")];
        assert!(is_asked(request("GET", &mixed).headers()));
    }

    /// RFC 6455 section 1.3 has the pair of key and proof.
    #[test]
    fn the_answer_proves_that_the_key_was_read() {
        let asked = request("GET", &ASKED);
        let answer = accept(asked.method(), asked.headers()).unwrap();
        let proof = answer.iter().find(|(name, _)| name == header::SEC_WEBSOCKET_ACCEPT);
        assert_eq!(proof.unwrap().1, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.len(), 3);
    }

    /// As etcd 3.5.1 refuses them.
    #[test]
    fn half_a_handshake_is_refused() {
        let without = |name: &str| {
            let kept: Vec<_> = ASKED.into_iter().filter(|(have, _)| *have != name).collect();
            request("GET", &kept)
        };
        let old = [ASKED[0], ASKED[1], ASKED[3], ("Sec-WebSocket-Version", "8")];
        for (request, want) in [
            (request("POST", &ASKED), StatusCode::METHOD_NOT_ALLOWED),
            (without("Sec-WebSocket-Key"), StatusCode::BAD_REQUEST),
            (without("Sec-WebSocket-Version"), StatusCode::BAD_REQUEST),
            (request("GET", &old), StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(accept(request.method(), request.headers()), Err(want), "{request:?}");
        }
    }

    #[test]
    fn a_token_comes_from_the_protocols_or_the_headers_and_never_from_a_cookie() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, bool);
        let cases: [Case<'_>; 8] = [
            (&[], None, false),
            (&[("sec-websocket-protocol", "Bearer, a.1")], Some("a.1"), true),
            (&[("sec-websocket-protocol", "Bearer,a.1 ")], Some("a.1"), true),
            (
                &[("sec-websocket-protocol", "Bearer"), ("sec-websocket-protocol", "a.1")],
                Some("a.1"),
                true,
            ),
            (&[("sec-websocket-protocol", "Bearer")], None, true),
            (&[("sec-websocket-protocol", "x, Bearer, a.1")], None, false),
            (&[("authorization", "b.2")], Some("b.2"), false),
            (&[("cookie", "token=a.1")], None, false),
        ];
        for (headers, token, echoed) in cases {
            let all: Vec<_> = ASKED.iter().chain(headers).copied().collect();
            let asked = request("GET", &all);
            let post = post(&asked);
            let got = post.headers().get(header::AUTHORIZATION);
            assert_eq!(got.map(HeaderValue::as_bytes), token.map(str::as_bytes), "{headers:?}");
            assert_eq!((post.method(), post.uri().path()), (&Method::POST, "/v3/watch"));
            let answer = accept(asked.method(), asked.headers()).unwrap();
            let protocol = answer.iter().find(|(name, _)| name == header::SEC_WEBSOCKET_PROTOCOL);
            assert_eq!(protocol.is_some_and(|(_, value)| value == BEARER), echoed, "{headers:?}");
        }
    }
}
