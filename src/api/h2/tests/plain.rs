//! Requests that are not gRPC, over both protocols.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Version, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    net::TcpStream,
};

use super::{
    super::frame::{self, FrameHead, flag, kind},
    raw::RawClient,
    *,
};

/// HEADERS of a plain request.
pub(super) fn head(stream: u32, method: &str, path: &str, end: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", method), (":scheme", "http"), (":path", path)] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
    let mut out = Vec::new();
    FrameHead { length: block.len(), kind: kind::HEADERS, flags, stream }.put(&mut out);
    out.extend_from_slice(&block);
    out
}

async fn answer(client: &mut RawClient) -> (Vec<(String, String)>, Vec<u8>) {
    let frame = client.frame_of(kind::HEADERS).await.unwrap();
    let fields = client.fields(&frame);
    let mut body = Vec::new();
    loop {
        let frame = client.frame().await.unwrap();
        if frame.head.kind == kind::DATA {
            body.extend_from_slice(&frame.payload);
            if frame.head.has(flag::END_STREAM) {
                return (fields, body);
            }
            let mut update = Vec::new();
            for stream in [0, frame.head.stream] {
                let bytes = u32::try_from(frame.head.length).unwrap();
                frame::put_window_update(&mut update, stream, bytes);
            }
            client.send(&update).await;
        }
    }
}

#[test]
fn plain_requests_over_http2_reach_the_handler() {
    with_server(Limits::default(), async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        client.send(&head(1, "GET", "/health", true)).await;
        let (fields, body) = answer(&mut client).await;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let want = [
            pair(":status", "201"),
            pair("content-type", "text/plain"),
            pair("content-length", "12"),
        ];
        assert_eq!(fields, want);
        assert_eq!(body, b"GET /health ");

        let mut out = head(3, "POST", "/v3/kv/put", false);
        for (flags, text) in [(0, "one,"), (flag::END_STREAM, "two")] {
            FrameHead { length: text.len(), kind: kind::DATA, flags, stream: 3 }.put(&mut out);
            out.extend_from_slice(text.as_bytes());
        }
        client.send(&out).await;
        assert_eq!(answer(&mut client).await.1, b"POST /v3/kv/put one,two");

        client.send(&head(7, "HEAD", "/health", true)).await;
        let (fields, body) = answer(&mut client).await;
        assert!(fields.contains(&pair("content-length", "13")) && body.is_empty());

        client.send(&head(9, "GET", "/big?1000000", true)).await;
        assert_eq!(answer(&mut client).await.1.len(), 1_000_000);
    });
}

#[test]
fn http1_requests_reach_the_handler_and_keep_the_connection() {
    with_server(Limits::default(), async |server| {
        let socket = TcpStream::connect(server.address).await.unwrap();
        let (mut client, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::task::spawn_local(connection);
        for n in 0..3 {
            let body = Full::new(bytes::Bytes::from(n.to_string()));
            let request = Request::post("/v3/kv/put").body(body).unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (201, Version::HTTP_11));
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, format!("POST /v3/kv/put {n}"));
        }
        server.drain.begin();
        eventually("connection ends", || client.is_closed()).await;
    });
}

#[test]
fn a_preface_in_pieces_is_recognised() {
    with_server(Limits::default(), async |server| {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut out = frame::PREFACE.to_vec();
        frame::put_settings(&mut out, &[]);
        for byte in out {
            socket.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 9];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(FrameHead::parse(&answer).unwrap().kind, kind::SETTINGS);
    });
}

#[test]
fn a_silent_connection_is_closed() {
    let limits = Limits { preface_timeout: Duration::from_millis(50), ..Limits::default() };
    with_server(limits, async |server| {
        // The preface without settings.
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(frame::PREFACE).await.unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
    });
}

/// Bytes between the two ends of a connection that hold no more.
const PIPE_BYTES: usize = 1_024;
/// Time without a byte taken, in these tests.
const STALL: Duration = Duration::from_millis(300);

fn stalling() -> (Rc<TestServices>, Rc<Environment>) {
    let services = Rc::new(TestServices::default());
    let environment = Environment {
        services: Rc::new(Rc::clone(&services)),
        http: Rc::new(Rc::clone(&services)),
        limits: Rc::new(Limits { write_stall_timeout: STALL, ..Limits::default() }),
        http1: Http1Limits::default(),
        drain: Rc::default(),
        held: Rc::default(),
    };
    (services, Rc::new(environment))
}

/// Takes everything at once and passes it on when flushed, as TLS does with its last record.
pub(super) struct Buffered {
    pub io: DuplexStream,
    pub waiting: Vec<u8>,
}

impl AsyncRead for Buffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.waiting.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.waiting.is_empty() {
            let taken =
                std::task::ready!(Pin::new(&mut this.io).poll_write(context, &this.waiting))?;
            this.waiting.drain(..taken);
        }
        Pin::new(&mut this.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Runs a test of one connection whose two ends are in memory.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// Etcd 3.6.14 bounds the time of heads; the time of answers needs a bound as well.
#[test]
fn a_client_that_takes_nothing_of_its_http1_answer_is_ended_with_what_it_holds() {
    run(async {
        // In the middle of an answer, and at its end where the rest waits below us, as in TLS.
        for (answer_bytes, is_buffered) in [(1_000_000, false), (1_000_000, true), (2_000, true)] {
            let (_services, environment) = stalling();
            let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
            let request = format!("GET /big?{answer_bytes} HTTP/1.1\r\nhost: a\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let held = Rc::downgrade(&environment);
            let began = Instant::now();
            let info = ConnectionInfo::default();
            let served: Pin<Box<dyn Future<Output = ()>>> = if is_buffered {
                let io = Buffered { io: server, waiting: Vec::new() };
                Box::pin(connection::serve(io, info, environment))
            } else {
                Box::pin(connection::serve(server, info, environment))
            };
            let context = format!("{answer_bytes} bytes, buffered: {is_buffered}");
            tokio::time::timeout(TEST_TIMEOUT / 4, served).await.expect(&context);
            assert!(began.elapsed() >= STALL, "{context}: ended too early");
            assert_eq!(held.strong_count(), 0, "{context}: something of it is still there");
            // The client is still there; it gets what was under way, and the end.
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert!(rest.starts_with(b"HTTP/1.1 201"), "{context}");
            assert!(rest.len() <= PIPE_BYTES, "{context}");
        }
    });
}

#[test]
fn a_client_that_reads_slowly_gets_its_whole_http1_answer() {
    run(async {
        let (_services, environment) = stalling();
        let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
        let served = connection::serve(server, ConnectionInfo::default(), environment);
        tokio::task::spawn_local(served);
        client.write_all(b"GET /big?12000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let (mut read, mut part) = (Vec::new(), [0; 512]);
        while read.len() < 12_000 {
            // Each pause is shorter than the limit, all together are longer.
            tokio::time::sleep(STALL / 10).await;
            let taken = client.read(&mut part).await.unwrap();
            assert!(taken > 0, "cut after {} bytes", read.len());
            read.extend_from_slice(&part[..taken]);
        }
        assert!(began.elapsed() > STALL, "too quick to tell");
    });
}
