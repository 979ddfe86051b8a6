//! Which requests become websockets, and what a websocket's body is to a call.

use super::*;
use crate::api::service::Websocket;

/// A request for a websocket on a connection that can become one.
async fn handshake(
    fixture: &Fixture,
    method: &str,
    path: &str,
    context: CallContext,
) -> Response<HttpBody> {
    let mut request = request(method, path, full(""));
    for (name, value) in [
        ("host", "a"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = fixture.gateway.handle(request, context);
    tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")
}

#[test]
fn websockets_are_for_the_gateways_paths_and_pass_its_checks() {
    run(async {
        let possible = || CallContext { websocket: Websocket::Possible, ..CallContext::default() };
        let fixture = Fixture::new();
        for (method, path, want) in [
            ("GET", "/v3/watch", 101),
            ("GET", "/v3beta/watch", 101),
            ("GET", "/v3/nope", 101),
            ("POST", "/v3/watch", 405),
            ("OPTIONS", "/v3/watch", 200),
            ("GET", "/v3", 301),
            ("GET", "/v3//watch", 301),
            ("GET", "/version", 200),
            ("GET", "/nope", 404),
        ] {
            let answer = handshake(&fixture, method, path, possible()).await;
            assert_eq!(answer.status().as_u16(), want, "{method} {path}");
        }
        let refused = handshake(&fixture, "POST", "/v3/watch", possible()).await;
        assert_eq!(header(&refused, "sec-websocket-version"), Some("13"));
        let accepted = handshake(&fixture, "GET", "/v3/watch", possible()).await;
        assert_eq!(header(&accepted, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        // HTTP/2 and other connections that cannot.
        let answer = handshake(&fixture, "GET", "/v3/watch", CallContext::default()).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        let answer = handshake(&Fixture::without_gateway(), "GET", "/v3/watch", possible()).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        // CVE-2018-16886: a certificate's name is nobody here.
        let fixture = Fixture::with_node(Node { auth: true, ..Node::default() });
        let named = CallContext { certificate_cn: Some("root".into()), ..possible() };
        let answer = handshake(&fixture, "GET", "/v3/watch", named).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    });
}

#[test]
fn a_body_without_end_has_its_first_document_as_the_request() {
    run(async {
        let fixture = Fixture::new();
        let open = || CallContext { websocket: Websocket::Open, ..CallContext::default() };
        let (sender, body) = open_body();
        let answer = fixture.gateway.handle(request("POST", "/v3/kv/put", body), open());
        sender.send(Bytes::from_static(b"{\"lease\"")).unwrap();
        sender.send(Bytes::from_static(b":\"7\"}\n{\"lease\":\"8\"}")).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time");
        assert_eq!(text(answer).await, r#"{"header":{"revision":"7"}}"#);
        assert!(sender.is_closed(), "nobody waits for more");
    });
}
