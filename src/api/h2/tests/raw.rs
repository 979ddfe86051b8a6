//! A client that speaks frames, and what an ordinary client does not let us see.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    super::{
        super::proto::etcdserverpb as pb,
        frame::{self, FrameHead, flag, kind},
        grpc,
        hpack::Decoder,
    },
    *,
};

/// A frame as received.
#[derive(Debug)]
pub(super) struct Frame {
    pub head: FrameHead,
    pub payload: Vec<u8>,
}

/// A connection on which a test sends whatever it likes.
pub(super) struct RawClient {
    socket: TcpStream,
    received: BytesMut,
    decoder: Decoder,
}

impl RawClient {
    /// Connects and sends preface and settings.
    pub(super) async fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut client = Self { socket, received: BytesMut::new(), decoder: Decoder::new() };
        let mut out = frame::PREFACE.to_vec();
        frame::put_settings(&mut out, settings);
        client.send(&out).await;
        client
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Sends until the server closes or `bytes` are sent.
    pub(super) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).await.is_ok()
    }

    /// The next frame; `None` at the connection's end.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = FrameHead::parse(&self.received)
                && self.received.len() >= frame::HEAD_BYTES + head.length
            {
                let bytes = self.received.split_to(frame::HEAD_BYTES + head.length);
                return Some(Frame { head, payload: bytes[frame::HEAD_BYTES..].to_vec() });
            }
            match self.socket.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next frame of one kind, others skipped.
    pub(super) async fn frame_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.head.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Code and text of the GOAWAY that ends the connection.
    pub(super) async fn goaway(&mut self) -> Option<(u32, String)> {
        let frame = self.frame_of(kind::GOAWAY).await?;
        let code = frame::word(&frame.payload[4..]).unwrap();
        Some((code, String::from_utf8_lossy(&frame.payload[8..]).into_owned()))
    }

    /// Fields of a HEADERS frame.
    pub(super) fn fields(&mut self, frame: &Frame) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        self.decoder.decode(&frame.payload, usize::MAX, &mut fields).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|field| (text(field.name()), text(field.value()))).collect()
    }

    /// Status code of the next trailers.
    pub(super) async fn grpc_status(&mut self) -> Option<(String, String)> {
        loop {
            let frame = self.frame_of(kind::HEADERS).await?;
            let fields = self.fields(&frame);
            let value = |name: &str| {
                let found = fields.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            if frame.head.has(flag::END_STREAM) {
                return Some((value("grpc-status"), value("grpc-message")));
            }
        }
    }
}

/// HEADERS of a call, without the table.
pub(super) fn call_head(stream: u32, path: &str, more: &[(&str, &str)], end: bool) -> Vec<u8> {
    let mut block = Vec::new();
    let fixed = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fixed.iter().chain(more) {
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

/// DATA with one message.
pub(super) fn message(stream: u32, message: &impl Message, end: bool) -> Vec<u8> {
    let message = message.encode_to_vec();
    let flags = if end { flag::END_STREAM } else { 0 };
    let mut out = Vec::new();
    FrameHead { length: message.len() + 5, kind: kind::DATA, flags, stream }.put(&mut out);
    out.extend_from_slice(&grpc::prefix(&message));
    out.extend_from_slice(&message);
    out
}

pub(super) fn put(stream: u32, key: &'static str) -> Vec<u8> {
    let request = pb::PutRequest { key: key.into(), ..Default::default() };
    [call_head(stream, PUT, &[], false), message(stream, &request, true)].concat()
}

pub(super) const PUT: &str = "/etcdserverpb.KV/Put";
pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

#[test]
fn a_deadline_ends_the_call_and_drops_it() {
    with_server(Limits::default(), async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        let metadata = [("grpc-timeout", "50m"), ("token", "secret"), ("hasleader", "true")];
        let request = pb::PutRequest { key: "sleep".into(), ..Default::default() };
        client.send(&call_head(1, PUT, &metadata, false)).await;
        client.send(&message(1, &request, true)).await;
        let status = client.grpc_status().await.unwrap();
        assert_eq!(status, ("4".to_owned(), "context deadline exceeded".to_owned()));
        assert_eq!(server.services.running.get(), 0);
        let context = server.services.context.take().unwrap();
        assert_eq!(context.timeout, Some(Duration::from_millis(50)));
        assert_eq!(context.token.as_deref(), Some("secret"));
        assert!(context.require_leader && context.remote.is_some() && !context.from_gateway);
    });
}

#[test]
fn a_reset_or_a_lost_connection_drops_the_call() {
    with_server(Limits::default(), async |server| {
        let running = &server.services.running;
        let mut client = RawClient::connect(server.address, &[]).await;
        client.send(&put(1, "sleep")).await;
        client.send(&call_head(3, KEEP_ALIVE, &[], false)).await;
        eventually("calls start", || running.get() == 2).await;
        let mut reset = Vec::new();
        frame::put_reset(&mut reset, 1, frame::ErrorCode::NoError);
        client.send(&reset).await;
        eventually("unary call is dropped", || running.get() == 1).await;
        drop(client);
        eventually("streaming call is dropped", || running.get() == 0).await;
    });
}

/// Name, path, metadata, body; code and text of the answer.
type RuleCase<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], &'a str, &'a str);

#[test]
fn calls_that_break_a_rule_of_grpc_get_a_status() {
    with_server(Limits::default(), async |server| {
        let ok = pb::PutRequest::default();
        let whole = message(1, &ok, true);
        let twice = [message(1, &ok, false), message(1, &ok, true)].concat();
        let mut cut = Vec::new();
        FrameHead { length: 3, kind: kind::DATA, flags: flag::END_STREAM, stream: 1 }.put(&mut cut);
        cut.extend_from_slice(&[0; 3]);
        let mut none = Vec::new();
        FrameHead { length: 0, kind: kind::DATA, flags: flag::END_STREAM, stream: 1 }
            .put(&mut none);
        let gzip = ("grpc-encoding", "gzip");
        let cases: [RuleCase<'_>; 8] = [
            ("fine", PUT, &[], &whole, "0", ""),
            ("identity", PUT, &[("grpc-encoding", "identity")], &whole, "0", ""),
            ("encoding", PUT, &[gzip], &whole, "12", "is not installed for grpc-encoding \"gzip\""),
            ("timeout", PUT, &[("grpc-timeout", "x")], &whole, "13", "malformed grpc-timeout"),
            ("two messages", PUT, &[], &twice, "13", "multiple request messages"),
            ("no message", PUT, &[], &none, "13", "no request message"),
            ("half a message", PUT, &[], &cut, "13", "unexpected EOF"),
            ("unknown service", "/a.B/C", &[], &whole, "12", "unknown service a.B"),
        ];
        for (name, path, metadata, body, code, text) in cases {
            let mut client = RawClient::connect(server.address, &[]).await;
            client.send(&call_head(1, path, metadata, false)).await;
            client.send(body).await;
            let (got_code, got_text) = client.grpc_status().await.unwrap();
            assert_eq!(got_code, code, "{name}: {got_text}");
            assert!(got_text.contains(text), "{name}: {got_text}");
        }
    });
}

#[test]
fn tiny_windows_are_honoured() {
    with_server(Limits::default(), async |server| {
        let settings = [(frame::setting::INITIAL_WINDOW_SIZE, 3)];
        let mut client = RawClient::connect(server.address, &settings).await;
        client.send(&call_head(1, RANGE, &[], false)).await;
        let request = pb::RangeRequest { limit: 1000, ..Default::default() };
        client.send(&message(1, &request, true)).await;
        let (mut granted, mut got) = (3, 0);
        loop {
            let frame = client.frame().await.unwrap();
            match frame.head.kind {
                kind::DATA => {
                    got += frame.head.length;
                    assert!(got <= granted, "{got} bytes with a window of {granted}");
                    let more = if granted < 20 { 1 } else { 300 };
                    let mut update = Vec::new();
                    frame::put_window_update(&mut update, 1, more);
                    granted += more as usize;
                    client.send(&update).await;
                }
                kind::HEADERS if frame.head.has(flag::END_STREAM) => break,
                _ => {}
            }
        }
        assert!(got > 1000);
    });
}

#[test]
fn a_window_taken_back_by_settings_is_honoured() {
    with_server(Limits::default(), async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        client.send(&call_head(1, RANGE, &[], false)).await;
        let request = pb::RangeRequest { limit: 1_000_000, ..Default::default() };
        client.send(&message(1, &request, true)).await;
        let mut got = 0;
        while got < 65_535 {
            got += client.frame_of(kind::DATA).await.unwrap().head.length;
        }
        let mut out = Vec::new();
        frame::put_window_update(&mut out, 0, 10_000_000);
        frame::put_settings(&mut out, &[(frame::setting::INITIAL_WINDOW_SIZE, 0)]);
        // The stream's window is -65,535 now; this makes it 1,000.
        frame::put_window_update(&mut out, 1, 66_535);
        client.send(&out).await;
        let frame = client.frame_of(kind::DATA).await.unwrap();
        assert_eq!(frame.head.length, 1000);
        let mut out = Vec::new();
        frame::put_settings(&mut out, &[(frame::setting::INITIAL_WINDOW_SIZE, 2_000_000)]);
        client.send(&out).await;
        assert_eq!(client.grpc_status().await.unwrap().0, "0");
    });
}

#[test]
fn a_drain_says_goaway_twice_and_lets_calls_finish() {
    with_server(Limits::default(), async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        client.send(&put(1, "nap")).await;
        eventually("call starts", || server.services.running.get() == 1).await;
        server.drain.begin();
        let first = client.frame_of(kind::GOAWAY).await.unwrap();
        assert_eq!(frame::word(&first.payload), Some((1 << 31) - 1));
        let ping = client.frame_of(kind::PING).await.unwrap();
        // A call that crossed the announcement still counts.
        let mut out = put(3, "echo");
        frame::put_ping(&mut out, ping.payload.try_into().unwrap(), true);
        out.extend_from_slice(&put(5, "echo"));
        client.send(&out).await;
        let mut statuses = 0;
        let mut last = None;
        while let Some(frame) = client.frame().await {
            match frame.head.kind {
                kind::HEADERS if frame.head.has(flag::END_STREAM) => statuses += 1,
                kind::GOAWAY => last = frame::word(&frame.payload),
                _ => {}
            }
        }
        assert_eq!((statuses, last), (2, Some(3)));
        assert_eq!(server.services.asked.get(), 2);
    });
}

#[test]
fn a_drain_ends_calls_that_do_not_finish() {
    let limits = Limits { drain_timeout: Duration::from_millis(50), ..Limits::default() };
    with_server(limits, async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        client.send(&put(1, "sleep")).await;
        eventually("call starts", || server.services.running.get() == 1).await;
        server.drain.begin();
        while client.frame().await.is_some() {}
        assert_eq!(server.services.running.get(), 0);
    });
}

#[test]
fn a_silent_client_is_pinged_and_then_dropped() {
    let limits = Limits {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    with_server(limits, async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        for _ in 0..3 {
            let ping = client.frame_of(kind::PING).await.unwrap();
            let mut pong = Vec::new();
            frame::put_ping(&mut pong, ping.payload.try_into().unwrap(), true);
            client.send(&pong).await;
        }
        while client.frame().await.is_some() {}
    });
}
