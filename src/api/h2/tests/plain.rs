//! Requests that are not gRPC, over both protocols.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::{Request, Version, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    super::frame::{self, FrameHead, flag, kind},
    raw::RawClient,
    *,
};

/// HEADERS of a plain request.
fn head(stream: u32, method: &str, path: &str, end: bool) -> Vec<u8> {
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
