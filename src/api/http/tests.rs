//! The gateway in front of services that answer from a script.
//!
//! Texts, statuses and headers are recorded answers of etcd 3.5.1.

mod websocket;

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::LocalBoxFuture};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Frame},
};
use prost::Message as _;
use tokio::{sync::mpsc, task::LocalSet};

use super::{Gateway, GatewayConfig, HealthSource};
use crate::api::{
    proto::etcdserverpb as pb,
    service::{CallContext, Code, HttpBody, HttpHandler as _, MethodKind, Services, Status},
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Services that echo: a put answers with its lease as revision, a watch answers every request
/// and stays, a keep-alive answers every request and ends, a snapshot sends two blobs.
#[derive(Default)]
struct Script {
    /// Every call fails with this.
    failure: RefCell<Option<Status>>,
    /// The last context and request.
    seen: RefCell<Option<(CallContext, Bytes)>>,
    /// Calls under way.
    running: Rc<Cell<usize>>,
    /// Calls never answer.
    stuck: Cell<bool>,
    /// The last stream fails after its first message.
    fails_later: Cell<bool>,
}

/// Counts a call for as long as it lives.
pub(in crate::api) struct Running(Rc<Cell<usize>>);

impl Running {
    pub(in crate::api) fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Services for Script {
    fn method(&self, path: &str) -> Option<MethodKind> {
        match path {
            "/etcdserverpb.KV/Put" => Some(MethodKind::Unary),
            "/etcdserverpb.Watch/Watch"
            | "/etcdserverpb.Lease/LeaseKeepAlive"
            | "/etcdserverpb.Maintenance/Snapshot" => Some(MethodKind::Streaming),
            _ => None,
        }
    }

    fn unary(
        &self,
        _path: &str,
        request: Bytes,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<Bytes, Status>> {
        let running = Running::new(&self.running);
        *self.seen.borrow_mut() = Some((context, request.clone()));
        let (failure, stuck) = (self.failure.borrow().clone(), self.stuck.get());
        Box::pin(async move {
            let _running = running;
            if stuck {
                std::future::pending::<()>().await;
            }
            if let Some(status) = failure {
                return Err(status);
            }
            let put = pb::PutRequest::decode(request)
                .map_err(|error| Status::new(Code::Internal, error.to_string()))?;
            let header = pb::ResponseHeader { revision: put.lease, ..Default::default() };
            let response = pb::PutResponse { header: Some(header), prev_kv: None };
            Ok(response.encode_to_vec().into())
        })
    }

    fn streaming(
        &self,
        path: &str,
        mut requests: mpsc::Receiver<Bytes>,
        responses: mpsc::Sender<Bytes>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<(), Status>> {
        let running = Running::new(&self.running);
        *self.seen.borrow_mut() = Some((context, Bytes::new()));
        let failure = self.failure.borrow().clone();
        let fails_later = self.fails_later.get();
        let path = path.to_owned();
        Box::pin(async move {
            let _running = running;
            if let Some(status) = failure.filter(|_| !fails_later) {
                return Err(status);
            }
            if path.ends_with("Snapshot") {
                for blob in ["one", "two"] {
                    let part = pb::SnapshotResponse { blob: blob.into(), ..Default::default() };
                    let _ = responses.send(part.encode_to_vec().into()).await;
                }
                return Ok(());
            }
            let watch = path.ends_with("Watch");
            while let Some(request) = requests.recv().await {
                let answer = if watch {
                    let length = i64::try_from(request.len()).unwrap();
                    let response = pb::WatchResponse { watch_id: length, ..Default::default() };
                    response.encode_to_vec()
                } else {
                    let id = pb::LeaseKeepAliveRequest::decode(request).unwrap().id;
                    pb::LeaseKeepAliveResponse { id, ..Default::default() }.encode_to_vec()
                };
                let _ = responses.send(answer.into()).await;
                if fails_later {
                    return Err(Status::new(Code::Unavailable, "etcdserver: no leader"));
                }
            }
            if watch {
                responses.closed().await;
            }
            Ok(())
        })
    }
}

/// A node whose facts a test sets.
struct Node {
    alarms: Vec<pb::AlarmType>,
    leader: bool,
    reads: Result<(), Status>,
    learner: bool,
    auth: bool,
}

impl Default for Node {
    fn default() -> Self {
        Self { alarms: Vec::new(), leader: true, reads: Ok(()), learner: false, auth: false }
    }
}

impl HealthSource for Node {
    fn alarms(&self) -> Vec<pb::AlarmType> {
        self.alarms.clone()
    }
    fn has_leader(&self) -> bool {
        self.leader
    }
    fn linearizable_read(&self) -> LocalBoxFuture<'static, Result<(), Status>> {
        futures::future::ready(self.reads.clone()).boxed_local()
    }
    fn serializable_read(&self) -> LocalBoxFuture<'static, Result<(), Status>> {
        futures::future::ready(Ok(())).boxed_local()
    }
    fn is_learner(&self) -> bool {
        self.learner
    }
    fn auth_enabled(&self) -> bool {
        self.auth
    }
}

/// A gateway in front of a [`Script`].
struct Fixture {
    script: Rc<Script>,
    gateway: Gateway,
}

impl Fixture {
    fn new() -> Self {
        Self::with_node(Node::default())
    }

    fn with_node(node: Node) -> Self {
        let script = Rc::new(Script::default());
        let services: Rc<dyn Services> = script.clone();
        let gateway = Gateway::new(services, Rc::new(node), GatewayConfig::default());
        Self { script, gateway }
    }

    fn without_gateway() -> Self {
        let script = Rc::new(Script::default());
        let services: Rc<dyn Services> = script.clone();
        let config = GatewayConfig { grpc_gateway: false, ..GatewayConfig::default() };
        let gateway = Gateway::new(services, Rc::new(Node::default()), config);
        Self { script, gateway }
    }

    async fn send(&self, request: Request<HttpBody>) -> Response<HttpBody> {
        let answer = self.gateway.handle(request, CallContext::default());
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")
    }

    /// Sends a request and reads the whole answer.
    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let response = self.send(request(method, path, full(body.to_owned()))).await;
        let status = response.status().as_u16();
        (status, text(response).await)
    }

    async fn until_idle(&self) {
        let idle = async {
            while self.script.running.get() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.expect("the call ends");
    }
}

fn request(method: &str, path: &str, body: HttpBody) -> Request<HttpBody> {
    Request::builder().method(method).uri(path).body(body).unwrap()
}

fn full(body: impl Into<Bytes>) -> HttpBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that arrives as the test sends it.
fn open_body() -> (mpsc::UnboundedSender<Bytes>, HttpBody) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Bytes>();
    let pieces = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let frames = futures::StreamExt::map(pieces, |piece| Ok::<_, io::Error>(Frame::data(piece)));
    (sender, StreamBody::new(frames).boxed_unsync())
}

async fn text(response: Response<HttpBody>) -> String {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    let bytes = body.expect("a body in time").unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

/// The next piece of a streamed body; `None` at its end.
async fn piece(body: &mut HttpBody) -> Option<String> {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("a frame in time")?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().into()).unwrap())
}

fn header<'a>(response: &'a Response<HttpBody>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_unary_call_is_translated_both_ways() {
    run(async {
        let fixture = Fixture::new();
        let body = r#"{"key":"aw==","lease":"7"} trailing"#;
        let response = fixture.send(request("POST", "/v3/kv/put", full(body))).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert_eq!(header(&response, "grpc-metadata-content-type"), Some("application/grpc"));
        assert_eq!(text(response).await, r#"{"header":{"revision":"7"}}"#);
        let (context, wire) = fixture.script.seen.take().unwrap();
        assert!(context.from_gateway);
        assert_eq!(wire, &b"\x0a\x01k\x18\x07"[..]);
        let (status, body) = fixture.call("POST", "/v3beta/kv/put", r#"{"lease":1}"#).await;
        assert_eq!((status, body.as_str()), (200, r#"{"header":{"revision":"1"}}"#));
        for empty in ["", "null", "{}"] {
            assert_eq!(fixture.call("POST", "/v3/kv/put", empty).await.1, r#"{"header":{}}"#);
        }
    });
}

#[test]
fn failures_have_the_status_and_body_of_etcd_3_5() {
    run(async {
        let fixture = Fixture::new();
        let cases = [
            (Code::InvalidArgument, 400, "etcdserver: key is not provided"),
            (Code::NotFound, 404, "etcdserver: requested lease not found"),
            (Code::ResourceExhausted, 429, "etcdserver: mvcc: database space exceeded"),
            (Code::Unavailable, 503, "etcdserver: no leader"),
            (Code::Unauthenticated, 401, "etcdserver: invalid auth token"),
        ];
        for (code, http, message) in cases {
            *fixture.script.failure.borrow_mut() = Some(Status::new(code, message));
            let response = fixture.send(request("POST", "/v3/kv/put", full("{}"))).await;
            assert_eq!(response.status().as_u16(), http);
            assert_eq!(header(&response, "content-type"), Some("application/json"));
            assert_eq!(header(&response, "grpc-metadata-content-type"), None);
            let number = code as u8;
            let want = format!(r#"{{"error":"{message}","code":{number},"message":"{message}"}}"#);
            assert_eq!(text(response).await, want);
        }
        let (status, body) = fixture.call("POST", "/v3/kv/put", "{").await;
        assert_eq!(status, 400);
        assert_eq!(body, r#"{"error":"unexpected EOF","code":3,"message":"unexpected EOF"}"#);
        let (status, body) = fixture.call("POST", "/v3/auth/enable", "").await;
        assert_eq!(status, 501);
        assert!(body.contains(r#""code":12,"#), "{body}");
    });
}

#[test]
fn paths_and_methods_that_are_none_get_etcds_texts() {
    run(async {
        let fixture = Fixture::new();
        let cases = [
            ("POST", "/v3/kv/nope", 404, "Not Found\n"),
            ("GET", "/v3/kv/nope", 404, "Not Found\n"),
            ("POST", "/v3/kv/put/", 404, "Not Found\n"),
            ("POST", "/v3/", 404, "Not Found\n"),
            ("POST", "/nope", 404, "404 page not found\n"),
            ("POST", "/v3alpha/kv/put", 404, "404 page not found\n"),
            ("GET", "/", 404, "404 page not found\n"),
            ("GET", "/health/", 404, "404 page not found\n"),
            ("GET", "/readyz/nope", 404, "404 page not found\n"),
            ("GET", "/v3/kv/put", 405, "Method Not Allowed\n"),
            ("PUT", "/v3/kv/put", 405, "Method Not Allowed\n"),
            ("DELETE", "/v3/watch", 405, "Method Not Allowed\n"),
            ("POST", "/health", 405, "Method Not Allowed\n"),
            ("HEAD", "/version", 405, "Method Not Allowed\n"),
            ("POST", "/readyz", 405, "Method Not Allowed\n"),
            ("OPTIONS", "/v3/kv/put", 200, ""),
            ("OPTIONS", "/nope", 200, ""),
        ];
        for (method, path, status, body) in cases {
            let response = fixture.send(request(method, path, full(""))).await;
            assert_eq!(response.status().as_u16(), status, "{method} {path}");
            let error = status >= 400;
            let nosniff = header(&response, "x-content-type-options");
            assert_eq!(nosniff, error.then_some("nosniff"), "{method} {path}");
            let content_type = header(&response, "content-type");
            assert_eq!(content_type, error.then_some("text/plain; charset=utf-8"), "{path}");
            for (name, value) in [
                ("access-control-allow-origin", "*"),
                ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
                ("access-control-allow-headers", "accept, content-type, authorization"),
            ] {
                assert_eq!(header(&response, name), Some(value));
            }
            let only_get = status == 405 && !path.starts_with("/v3/");
            assert_eq!(header(&response, "allow"), only_get.then_some("GET"), "{method} {path}");
            assert_eq!(text(response).await, body, "{method} {path}");
        }
        let response = fixture.send(request("GET", "/v3//kv/range", full(""))).await;
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(header(&response, "location"), Some("/v3/kv/range"));
        let page = "<a href=\"/v3/kv/range\">Moved Permanently</a>.\n\n";
        assert_eq!(text(response).await, page);
    });
}

#[test]
fn oversized_requests_are_refused_as_grpc_refuses_them() {
    run(async {
        let fixture = Fixture::new();
        let put = |bytes: usize| format!(r#"{{"value":"{}"}}"#, "AAAA".repeat(bytes / 3));
        let limit = GatewayConfig::default().wire_bytes_max();
        assert_eq!(fixture.call("POST", "/v3/kv/put", &put(limit - 8)).await.0, 200);
        let (status, body) = fixture.call("POST", "/v3/kv/put", &put(2_600_001)).await;
        assert_eq!(status, 429);
        let text = "grpc: received message larger than max (2600006 vs. 2097152)";
        assert_eq!(body, format!(r#"{{"error":"{text}","code":8,"message":"{text}"}}"#));
        // Beyond what is held in memory: announced, and without a length.
        assert_eq!(fixture.call("POST", "/v3/kv/put", &put(9_000_000)).await.0, 429);
        for path in ["/v3/kv/put", "/v3/watch"] {
            let (sender, body) = open_body();
            let piece = Bytes::from(vec![b'{'; 1 << 20]);
            for _ in 0..20 {
                sender.send(piece.clone()).unwrap();
            }
            drop(sender);
            let response = fixture.send(request("POST", path, body)).await;
            assert_eq!(response.status().as_u16(), 429, "{path}");
        }
    });
}

#[test]
fn a_call_ends_with_its_deadline_or_its_client() {
    run(async {
        let fixture = Fixture::new();
        fixture.script.stuck.set(true);
        let mut timed = request("POST", "/v3/kv/put", full("{}"));
        timed.headers_mut().insert("grpc-timeout", "1m".parse().unwrap());
        let response = fixture.send(timed).await;
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert!(text(response).await.contains("context deadline exceeded"));
        assert_eq!(fixture.script.running.get(), 0);

        let call = request("POST", "/v3/kv/put", full("{}"));
        let mut call = fixture.gateway.handle(call, CallContext::default());
        assert!(futures::poll!(&mut call).is_pending());
        assert_eq!(fixture.script.running.get(), 1);
        drop(call);
        assert_eq!(fixture.script.running.get(), 0);
    });
}

#[test]
fn a_watch_answers_nothing_before_its_first_message_and_stays_open() {
    run(async {
        let fixture = Fixture::new();
        let (sender, body) = open_body();
        let call = request("POST", "/v3/watch", body);
        let mut call = fixture.gateway.handle(call, CallContext::default());
        for _ in 0..20 {
            assert!(futures::poll!(&mut call).is_pending(), "no headers yet");
            tokio::task::yield_now().await;
        }
        sender.send(r#"{"create_request":{}}{"create"#.into()).unwrap();
        let response = tokio::time::timeout(PATIENCE, call).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "grpc-metadata-content-type"), Some("application/grpc"));
        let mut body = response.into_body();
        assert_eq!(body.size_hint().exact(), None, "chunked");
        let line = "{\"result\":{\"watch_id\":\"2\"}}\n";
        assert_eq!(piece(&mut body).await.as_deref(), Some(line));
        sender.send("_request\":{\"key\":\"YQ==\"}}x".into()).unwrap();
        let line = "{\"result\":{\"watch_id\":\"5\"}}\n";
        assert_eq!(piece(&mut body).await.as_deref(), Some(line));
        // Rubbish closes only the request side, as the end of the body does.
        drop(sender);
        for _ in 0..20 {
            tokio::task::yield_now().await;
            assert!(futures::poll!(body.frame()).is_pending(), "the watch stays");
        }
        assert_eq!(fixture.script.running.get(), 1);
        drop(body);
        fixture.until_idle().await;
    });
}

#[test]
fn a_client_that_leaves_before_the_first_message_ends_the_call() {
    run(async {
        let fixture = Fixture::new();
        let call = request("POST", "/v3/watch", full(""));
        let mut call = fixture.gateway.handle(call, CallContext::default());
        while fixture.script.running.get() == 0 {
            assert!(futures::poll!(&mut call).is_pending());
            tokio::task::yield_now().await;
        }
        drop(call);
        fixture.until_idle().await;
    });
}

#[test]
fn a_keep_alive_ends_after_the_last_request() {
    run(async {
        let fixture = Fixture::new();
        let lines = |ids: &[u8]| {
            let line = |id| format!("{{\"result\":{{\"ID\":\"{id}\"}}}}\n");
            ids.iter().map(line).collect::<String>()
        };
        let cases = [
            (r#"{"ID":1}{"ID":"2"}"#, lines(&[1, 2])),
            ("{\"ID\":1}\n{\"ID\":2}\n", lines(&[1, 2])),
            (r#"{"ID":1}{"ID":"x"}{"ID":3}"#, lines(&[1])),
            (r#"{"ID":1}, {"ID":2}"#, lines(&[1])),
            ("", String::new()),
        ];
        for (body, want) in cases {
            let got = fixture.call("POST", "/v3/lease/keepalive", body).await;
            assert_eq!(got, (200, want), "{body}");
        }
        let many: String = (0..200).map(|_| "{\"ID\":5}").collect();
        let (_, body) = fixture.call("POST", "/v3/lease/keepalive", &many).await;
        assert_eq!(body, lines(&[5; 200]), "more than the channels hold");
        fixture.until_idle().await;
    });
}

#[test]
fn a_malformed_first_request_of_a_stream_is_code_2() {
    run(async {
        let fixture = Fixture::new();
        for body in ["{", "[]", "x", "[{\"ID\":1}]", r#"{"create_request":{"key":"!"}}"#] {
            let (status, answer) = fixture.call("POST", "/v3/watch", body).await;
            assert_eq!(status, 500, "{body}");
            assert!(answer.contains(r#","code":2,"message":""#), "{answer}");
        }
        let (status, answer) = fixture.call("POST", "/v3/maintenance/snapshot", "{").await;
        assert_eq!(status, 400);
        assert!(answer.contains(r#","code":3,"message":""#), "{answer}");
        assert_eq!(fixture.script.running.get(), 0);
    });
}

#[test]
fn a_stream_tells_its_failure_in_its_own_shape() {
    run(async {
        let fixture = Fixture::new();
        let failure = Status::new(Code::Unknown, "auth: user name is empty");
        *fixture.script.failure.borrow_mut() = Some(failure);
        let response = fixture.send(request("POST", "/v3/maintenance/snapshot", full("{}"))).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert_eq!(header(&response, "grpc-metadata-content-type"), None);
        assert_eq!(response.body().size_hint().exact(), None, "chunked");
        assert_eq!(
            text(response).await,
            r#"{"error":{"grpc_code":2,"http_code":500,"message":"auth: user name is empty","http_status":"Internal Server Error"}}"#
        );
        fixture.script.fails_later.set(true);
        let (status, body) = fixture.call("POST", "/v3/lease/keepalive", r#"{"ID":1}"#).await;
        assert_eq!(status, 200, "the first message decided");
        assert_eq!(
            body,
            "{\"result\":{\"ID\":\"1\"}}\n{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"etcdserver: no leader\",\"http_status\":\"Service Unavailable\"}}"
        );
    });
}

#[test]
fn a_snapshot_is_a_line_for_each_blob() {
    run(async {
        let fixture = Fixture::new();
        let got = fixture.call("POST", "/v3/maintenance/snapshot", "").await;
        let lines = "{\"result\":{\"blob\":\"b25l\"}}\n{\"result\":{\"blob\":\"dHdv\"}}\n";
        assert_eq!(got, (200, lines.to_owned()));
    });
}

#[test]
fn certificates_that_name_a_user_are_refused_while_auth_is_on() {
    run(async {
        for (auth, name, status) in [(true, "root", 400), (true, "", 200), (false, "root", 200)] {
            let fixture = Fixture::with_node(Node { auth, ..Node::default() });
            let context =
                CallContext { certificate_cn: Some(name.into()), ..CallContext::default() };
            let call = request("POST", "/v3/kv/put", full("{}"));
            let response = fixture.gateway.handle(call, context).await;
            assert_eq!(response.status().as_u16(), status, "{auth} {name}");
        }
    });
}

/// CVE-2018-1098: a page of anybody's could make a browser write here with what the browser sends
/// by itself. Cookies mean nothing, a certificate names nobody here (the test above), no answer asks
/// a browser to remember a login, and none lets a page send one along.
#[test]
fn nothing_that_a_browser_sends_by_itself_says_who_calls() {
    run(async {
        let browser = |method: &str, path: &str, kind: &str, body: &str| {
            let mut call = request(method, path, full(body.to_owned()));
            for (name, value) in [
                ("cookie", "token=stolen.1; authorization=stolen.1; grpc-metadata-token=stolen.1"),
                ("origin", "http://evil.example"),
                ("referer", "http://user:stolen.1@evil.example/?token=stolen.1"),
                ("sec-fetch-site", "cross-site"),
                ("content-type", kind),
            ] {
                call.headers_mut().insert(name, value.parse().unwrap());
            }
            call
        };
        let fixture = Fixture::with_node(Node { auth: true, ..Node::default() });
        // What a form or a script may send elsewhere without asking first.
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            for (method, path, is_call) in [
                ("POST", "/v3/kv/put", true),
                ("POST", "/v3/kv/put?token=stolen.1", true),
                ("PUT", "/kv/k", true),
                ("POST", "/v2/keys/k", false),
                ("GET", "/health", false),
                ("OPTIONS", "/v3/kv/put", false),
            ] {
                fixture.script.seen.take();
                let response = fixture.send(browser(method, path, kind, "{}")).await;
                let context = format!("{method} {path} as {kind}");
                let seen = fixture.script.seen.take();
                assert_eq!(seen.is_some(), is_call, "{context}: {}", response.status());
                if let Some((caller, _)) = seen {
                    assert_eq!(caller.token, None, "{context}");
                    assert!(caller.from_gateway, "{context}: a certificate would name a user");
                }
                for name in ["set-cookie", "www-authenticate", "access-control-allow-credentials"] {
                    assert_eq!(header(&response, name), None, "{context}");
                }
            }
        }
    });
}

#[test]
fn health_names_the_first_thing_that_is_wrong() {
    run(async {
        use pb::AlarmType::{Corrupt, Nospace};
        let alarmed = || Node { alarms: vec![Nospace, Corrupt], ..Node::default() };
        let lonely = || Node { leader: false, ..Node::default() };
        let slow = || Node {
            reads: Err(Status::new(Code::Unavailable, "etcdserver: request timed out")),
            ..Node::default()
        };
        let cases = [
            (Node::default(), "", None),
            (alarmed(), "", Some("ALARM NOSPACE")),
            (alarmed(), "?exclude=NOSPACE", Some("ALARM CORRUPT")),
            (alarmed(), "?exclude=NOSPACE&exclude=CORRUPT", None),
            (alarmed(), "?exclude=nospace", Some("ALARM NOSPACE")),
            (alarmed(), "?exclude=", Some("ALARM NOSPACE")),
            (lonely(), "", Some("RAFT NO LEADER")),
            (lonely(), "?serializable=true", None),
            (lonely(), "?serializable=1", Some("RAFT NO LEADER")),
            (slow(), "", Some("RANGE ERROR:etcdserver: request timed out")),
            (slow(), "?serializable=true", None),
        ];
        for (node, query, reason) in cases {
            let fixture = Fixture::with_node(node);
            let path = format!("/health{query}");
            let response = fixture.send(request("GET", &path, full(""))).await;
            let content_type = header(&response, "content-type");
            assert_eq!(content_type, Some("text/plain; charset=utf-8"));
            let want = match reason {
                None => (200, "{\"health\":\"true\",\"reason\":\"\"}".to_owned()),
                Some(why) => (503, format!("{{\"health\":\"false\",\"reason\":\"{why}\"}}\n")),
            };
            assert_eq!((response.status().as_u16(), text(response).await), want, "{query}");
        }
    });
}

#[test]
fn probes_run_their_checks() {
    run(async {
        let learner = || Node { learner: true, ..Node::default() };
        let corrupt = || Node { alarms: vec![pb::AlarmType::Corrupt], ..Node::default() };
        let slow = || Node {
            reads: Err(Status::new(Code::Unavailable, "etcdserver: request timed out")),
            ..Node::default()
        };
        let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
        let cases = [
            (Node::default(), "/livez", 200, "ok\n"),
            (Node::default(), "/livez?verbose", 200, "[+]serializable_read ok\nok\n"),
            (Node::default(), "/readyz", 200, "ok\n"),
            (Node::default(), "/readyz?verbose", 200, all),
            (Node::default(), "/readyz/non_learner", 200, "ok\n"),
            (Node::default(), "/livez/non_learner", 404, "404 page not found\n"),
            (slow(), "/livez", 200, "ok\n"),
            (slow(), "/readyz?exclude=linearizable_read", 200, "ok\n"),
            (
                slow(),
                "/readyz/linearizable_read",
                503,
                "[-]linearizable_read failed: etcdserver: request timed out\n\n",
            ),
            (
                learner(),
                "/readyz/non_learner",
                503,
                "[-]non_learner failed: not supported for learner\n\n",
            ),
            (
                corrupt(),
                "/readyz?exclude=linearizable_read&exclude=non_learner",
                503,
                "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\n",
            ),
        ];
        for (node, path, status, body) in cases {
            let got = Fixture::with_node(node).call("GET", path, "").await;
            assert_eq!(got, (status, body.to_owned()), "{path}");
        }
    });
}

#[test]
fn version_names_server_and_cluster() {
    run(async {
        let fixture = Fixture::new();
        let response = fixture.send(request(Method::GET.as_str(), "/version", full(""))).await;
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert_eq!(text(response).await, r#"{"etcdserver":"3.6.0","etcdcluster":"3.6.0"}"#);
    });
}

#[tokio::test]
async fn without_the_gateway_there_is_nothing_under_v3_and_the_rest_stays() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let fixture = Fixture::without_gateway();
            for path in ["/v3/kv/put", "/v3/watch", "/v3/nope", "/v3/../v3/kv/put"] {
                let (status, body) = fixture.call("POST", path, "{}").await;
                assert_ne!(status, 200, "{path}");
                assert!(status != 404 || body == "404 page not found\n", "{path}: {body}");
            }
            assert_eq!(fixture.call("POST", "/v3/kv/put", "{}").await.0, 404);
            assert_eq!(fixture.call("GET", "/version", "").await.0, 200);
        })
        .await;
}
