//! Websockets over a whole connection, in front of a handler that answers from a script. The client
//! is another implementation, or writes bytes that no client would.

use std::{cell::Cell, rc::Rc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, future::LocalBoxFuture};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::{Request, Response, StatusCode, body::Frame};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::LocalSet,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use super::{Accepted, accept, frame::tests::client_frame, is_asked};
use crate::api::{
    connection::{self, ConnectionInfo, Drain, Environment, Http1Limits},
    h2::Limits,
    http::{body::next_piece, tests::Running},
    service::{CallContext, HttpBody, HttpHandler, NoServices, Websocket},
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Payload of a message.
const MESSAGE_BYTES_MAX: usize = 100_000;

/// What the path asks for: `/echo` answers each piece of the body, `/once` the first piece without
/// a line's end, `/deaf` nothing and takes nothing, `/flood` lines without end,
/// `/endless` a line without end, `/silent` nothing.
#[derive(Default)]
struct Script {
    /// Calls under way.
    running: Rc<Cell<usize>>,
}

fn full(bytes: impl Into<Bytes>) -> HttpBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that calls `next` for each piece, and that counts as a call.
fn pieces<S: 'static>(
    running: Running,
    state: S,
    next: impl AsyncFn(&mut S) -> Option<Bytes> + 'static,
) -> HttpBody {
    // A body must be `Send`; what makes its pieces is not.
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    tokio::task::spawn_local(async move {
        let (_running, mut state) = (running, state);
        loop {
            let piece = tokio::select! {
                () = sender.closed() => return,
                piece = next(&mut state) => piece,
            };
            let Some(piece) = piece else { return };
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    let frames = futures::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    });
    StreamBody::new(frames).boxed_unsync()
}

impl HttpHandler for Script {
    fn handle(
        &self,
        request: Request<HttpBody>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>> {
        let running = Running::new(&self.running);
        Box::pin(async move {
            let (head, mut body) = request.into_parts();
            if context.websocket == Websocket::Possible && is_asked(&head.headers) {
                let Ok(headers) = accept(&head.method, &head.headers) else {
                    let mut refused = Response::new(full("no"));
                    *refused.status_mut() = StatusCode::BAD_REQUEST;
                    return refused;
                };
                let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
                let mut switching = Response::new(body);
                *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                switching.headers_mut().extend(headers);
                let accepted = Accepted { message_bytes_max: MESSAGE_BYTES_MAX };
                switching.extensions_mut().insert(accepted);
                return switching;
            }
            if context.websocket != Websocket::Open {
                return Response::new(full("plain"));
            }
            assert_eq!(head.method, "POST");
            let body = match head.uri.path() {
                "/once" => full(next_piece(&mut body).await.unwrap().unwrap()),
                "/deaf" => {
                    std::future::pending::<()>().await;
                    body
                }
                "/flood" => {
                    let mut line = vec![b'x'; 30_000];
                    line.push(b'\n');
                    let line = Bytes::from(line);
                    pieces(running, line, async |line| Some(line.clone()))
                }
                "/endless" => {
                    let part = Bytes::from(vec![b'x'; 30_000]);
                    pieces(running, part, async |part| Some(part.clone()))
                }
                "/silent" => pieces(running, body, async |_| std::future::pending().await),
                _ => pieces(running, body, async |body| next_piece(body).await.unwrap_or_default()),
            };
            Response::new(body)
        })
    }
}

/// Connections to a [`Script`].
struct Fixture {
    running: Rc<Cell<usize>>,
    environment: Rc<Environment>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Http1Limits::default(), Limits::default())
    }

    fn with(http1: Http1Limits, limits: Limits) -> Self {
        let script = Script::default();
        let running = Rc::clone(&script.running);
        let environment = Rc::new(Environment {
            services: Rc::new(NoServices("none here")),
            http: Rc::new(script),
            limits: Rc::new(limits),
            http1,
            drain: Rc::new(Drain::default()),
            held: Rc::default(),
        });
        Self { running, environment }
    }

    /// A connection that is served, and one end of it.
    fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(16 * 1024);
        let environment = Rc::clone(&self.environment);
        tokio::task::spawn_local(connection::serve(server, ConnectionInfo::default(), environment));
        client
    }

    async fn open(&self, path: &str) -> WebSocketStream<DuplexStream> {
        let url = format!("ws://a{path}");
        client_async(url, self.connect()).await.expect("a handshake").0
    }

    /// A websocket of bytes.
    async fn open_raw(&self, path: &str, early: &[u8]) -> DuplexStream {
        let mut client = self.connect();
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes();
        head.extend_from_slice(early);
        client.write_all(&head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(client.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        client
    }

    async fn until_idle(&self) {
        let idle = async {
            while self.running.get() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, idle).await.expect("the call ends");
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { timeout(3 * PATIENCE, test).await.expect("an end in time") };
    LocalSet::new().block_on(&runtime, test);
}

/// All bytes until the server closes.
async fn until_closed(mut client: DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut bytes)).await.expect("closed in time").unwrap();
    bytes
}

/// The code of the close frame that must come next.
async fn close_code(client: &mut WebSocketStream<DuplexStream>) -> CloseCode {
    match client.next().await {
        Some(Ok(Message::Close(Some(close)))) => close.code,
        other => panic!("no close frame: {other:?}"),
    }
}

#[test]
fn each_message_reaches_the_body_and_each_line_is_a_message() {
    run(async {
        let fixture = Fixture::new();
        let mut client = fixture.open("/echo").await;
        let long = "l".repeat(90_000);
        for text in ["one", "two", long.as_str()] {
            client.send(Message::text(text)).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), Message::text(text));
        }
        client.send(Message::binary(&b"a\n\nb"[..])).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("a"));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("b"));
        client.close(None).await.unwrap();
        assert!(matches!(client.next().await, Some(Ok(Message::Close(None)))));
        assert!(client.next().await.is_none());
        fixture.until_idle().await;
    });
}

#[test]
fn an_answer_that_ends_ends_the_websocket_though_more_messages_come() {
    run(async {
        let fixture = Fixture::new();
        let mut client = fixture.open("/once").await;
        for _ in 0..100 {
            client.feed(Message::text("again")).await.unwrap();
        }
        client.flush().await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("again"));
        assert_eq!(close_code(&mut client).await, CloseCode::Normal);
        fixture.until_idle().await;
    });
}

#[test]
fn a_long_line_goes_out_in_fragments_while_it_comes() {
    run(async {
        let fixture = Fixture::new();
        let mut client = fixture.open_raw("/endless", b"").await;
        let mut frame = vec![0; 4 + 30_000];
        for first in [0x01, 0x00, 0x00] {
            timeout(PATIENCE, client.read_exact(&mut frame)).await.expect("a frame").unwrap();
            assert_eq!(frame[..4], [first, 126, 0x75, 0x30], "30,000 bytes that do not end it");
        }
        drop(client);
        fixture.until_idle().await;
    });
}

#[test]
fn frames_sent_with_the_handshake_fragments_and_pings_among_them_are_taken() {
    run(async {
        let fixture = Fixture::new();
        let frames = [
            client_frame(0x01, b"he", [1, 2, 3, 4]),
            client_frame(0x89, b"there?", [5, 6, 7, 8]),
            client_frame(0x80, b"llo", [9; 4]),
            client_frame(0x8a, b"unasked", [9; 4]),
        ];
        let mut client = fixture.open_raw("/once", &frames.concat()).await;
        client.write_all(&client_frame(0x88, b"", [0; 4])).await.unwrap();
        let got = until_closed(client).await;
        // The pong goes out at once, the first piece of the body is the answer.
        assert!(got.starts_with(b"\x8a\x06there?"), "{got:?}");
        assert!(got.windows(4).any(|part| part == b"\x81\x02he"), "{got:?}");
        fixture.until_idle().await;
    });
}

#[test]
fn a_client_that_leaves_ends_the_call() {
    run(async {
        let fixture = Fixture::new();
        for path in ["/echo", "/silent", "/flood", "/deaf"] {
            let client = fixture.open_raw(path, b"").await;
            timeout(PATIENCE, async {
                while fixture.running.get() == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("a call");
            drop(client);
            fixture.until_idle().await;
        }
    });
}

#[test]
fn bytes_that_are_no_frame_end_the_websocket_with_the_reason() {
    run(async {
        let fixture = Fixture::new();
        for (bytes, want) in [
            (&b"\x81\x02{}"[..], &b"\x88\x15\x03\xeaincorrect mask flag"[..]),
            (b"GET / HTTP/1.1\r\n\r\n", b"\x88\x1a\x03\xeaunexpected reserved bits"),
            (
                &[0x82, 0xff, 0, 0, 0, 0, 0, 2, 0, 0, 1, 1, 1, 1],
                b"\x88\x13\x03\xf1message too large",
            ),
        ] {
            let mut client = fixture.open_raw("/silent", b"").await;
            client.write_all(bytes).await.unwrap();
            let got = until_closed(client).await;
            assert_eq!(got, want, "{}", String::from_utf8_lossy(&got));
            fixture.until_idle().await;
        }
    });
}

#[test]
fn a_silent_client_is_asked_and_then_given_up() {
    run(async {
        let idle = Duration::from_millis(200);
        let http1 = Http1Limits { websocket_idle: idle, ..Http1Limits::default() };
        let fixture = Fixture::with(http1, Limits::default());
        // It answers no ping.
        let client = fixture.open_raw("/silent", b"").await;
        assert_eq!(until_closed(client).await, b"\x89\x00");
        fixture.until_idle().await;
        // This one does, and stays.
        let mut client = fixture.open("/echo").await;
        for _ in 0..4 {
            assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
            client.flush().await.unwrap();
        }
        client.send(Message::text("here")).await.unwrap();
        loop {
            match client.next().await.unwrap().unwrap() {
                Message::Ping(_) => {}
                other => break assert_eq!(other, Message::text("here")),
            }
        }
    });
}

#[test]
fn a_client_that_reads_nothing_is_given_up_and_holds_back_the_call_meanwhile() {
    run(async {
        let stall = Duration::from_millis(300);
        let limits = Limits { write_stall_timeout: stall, ..Limits::default() };
        let fixture = Fixture::with(Http1Limits::default(), limits);
        let client = fixture.open_raw("/flood", b"").await;
        timeout(PATIENCE, async {
            while fixture.running.get() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("a call");
        fixture.until_idle().await;
        let got = until_closed(client).await;
        assert!(got.len() <= 32 * 1024, "no more than the connection holds: {}", got.len());
    });
}

#[test]
fn a_drain_says_goodbye() {
    run(async {
        let fixture = Fixture::new();
        let mut client = fixture.open("/silent").await;
        fixture.environment.drain.begin();
        assert_eq!(close_code(&mut client).await, CloseCode::Away);
        fixture.until_idle().await;
    });
}

#[test]
fn other_requests_are_answered_as_ever_on_the_same_connection() {
    run(async {
        let fixture = Fixture::new();
        let mut client = fixture.connect();
        for ask in [
            "GET /once HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /once HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        ] {
            client.write_all(ask.as_bytes()).await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"plain") {
                got.push(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap());
            }
            assert!(got.starts_with(b"HTTP/1.1 200 OK"));
        }
        client.write_all(b"GET /once HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n").await.unwrap();
        client.write_all(b"connection: upgrade\r\nsec-websocket-version: 8\r\n\r\n").await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"no") {
            got.push(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap());
        }
        assert!(got.starts_with(b"HTTP/1.1 400 "), "half a handshake is refused");
    });
}
