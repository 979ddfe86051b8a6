//! Clients that take their answers by crumbs, and slow ones that mean no harm.

use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    super::{
        super::proto::etcdserverpb as pb,
        frame::{self, flag, kind, setting},
    },
    plain::{Buffered, head, run},
    raw::{self, RANGE, RawClient, call_head, put},
    services::CHUNK_BYTES,
    *,
};

/// Bytes between the two ends of a connection in memory.
const PIPE_BYTES: usize = 1_024;
/// Pause between two crumbs.
const CRUMB_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of a long answer.
const LONG_BYTES: i64 = 1_000_000;
/// The largest window of HTTP/2.
const WIDE: u32 = (1 << 31) - 1;

const CALM: u32 = frame::ErrorCode::EnhanceYourCalm as u32;

fn limits() -> Limits {
    Limits {
        write_stall_timeout: TEST_TIMEOUT,
        pace_window: Duration::from_millis(400),
        pace_bytes_min: 16 << 10,
        ..Limits::default()
    }
}

fn call(stream: u32) -> Vec<u8> {
    let request = pb::RangeRequest { limit: LONG_BYTES, ..Default::default() };
    [call_head(stream, RANGE, &[], false), raw::message(stream, &request, true)].concat()
}

fn plain(stream: u32) -> Vec<u8> {
    head(stream, "GET", &format!("/big?{LONG_BYTES}"), true)
}

fn window(stream: u32, bytes: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_window_update(&mut out, stream, bytes);
    out
}

/// Preface, settings and windows that are never in the way, then `request`.
fn wide(request: &[u8]) -> Vec<u8> {
    let mut out = frame::PREFACE.to_vec();
    frame::put_settings(&mut out, &[(setting::INITIAL_WINDOW_SIZE, WIDE)]);
    [out, window(0, WIDE - 65_535), request.to_vec()].concat()
}

/// Sends `request` over `client` and takes a byte of the answer now and then, until the server
/// ends the connection at its other end, `io`.
async fn ended_by_crumbs<IO>(
    context: &str,
    request: &[u8],
    mut client: impl AsyncRead + AsyncWrite + Unpin + 'static,
    io: IO,
    limits: Limits,
) where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let window = limits.pace_window.min(limits.write_stall_timeout);
    let services = Rc::new(TestServices::default());
    let environment = Rc::new(Environment {
        services: Rc::new(Rc::clone(&services)),
        http: Rc::new(services),
        limits: Rc::new(limits),
        http1: Http1Limits::default(),
        drain: Rc::default(),
        held: Rc::default(),
    });
    let held = Rc::downgrade(&environment);
    client.write_all(request).await.unwrap();
    let crumbs = tokio::task::spawn_local(async move {
        while client.read_u8().await.is_ok() {
            tokio::time::sleep(CRUMB_PAUSE).await;
        }
    });
    let began = Instant::now();
    let served = connection::serve(io, ConnectionInfo::default(), environment);
    tokio::time::timeout(TEST_TIMEOUT / 4, served).await.expect(context);
    assert!(began.elapsed() >= window, "{context}: ended too early");
    assert_eq!(held.strong_count(), 0, "{context}: something of it is still there");
    crumbs.abort();
}

/// Bytes of a stream's answer up to its end.
async fn answered(client: &mut RawClient, stream: u32) -> usize {
    let mut bytes = 0;
    loop {
        let frame = client.frame().await.unwrap();
        match frame.head.kind {
            kind::DATA if frame.head.stream == stream => bytes += frame.head.length,
            kind::HEADERS if frame.head.stream == stream && frame.head.has(flag::END_STREAM) => {
                return bytes;
            }
            kind::RST_STREAM | kind::GOAWAY => panic!("ended after {bytes} bytes"),
            _ => {}
        }
    }
}

#[test]
fn a_client_that_reads_by_crumbs_is_ended_with_what_it_holds() {
    run(async {
        let http1 = format!("GET /big?{LONG_BYTES} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes();
        let requests = [("HTTP/1.1", http1), ("gRPC", wide(&call(1))), ("HTTP/2", wide(&plain(1)))];
        for (name, request) in requests {
            let (client, io) = tokio::io::duplex(PIPE_BYTES);
            ended_by_crumbs(name, &request, client, io, limits()).await;
            // As in TLS, where what the last flush passes on is not seen: it has the stall timeout.
            let (client, io) = tokio::io::duplex(PIPE_BYTES);
            let io = Buffered { io, waiting: Vec::new() };
            let limits = Limits { write_stall_timeout: Duration::from_millis(300), ..limits() };
            ended_by_crumbs(&format!("{name}, buffered"), &request, client, io, limits).await;
        }
    });
}

/// Asks and then opens the window of `crumbs` (a stream, or 0 for the connection) byte by byte
/// until `end`, a kind of frame, comes.
async fn open_by_crumbs(client: &mut RawClient, crumbs: u32, end: u8) -> raw::Frame {
    let began = Instant::now();
    let mut pause = tokio::time::interval(CRUMB_PAUSE);
    let wait = async {
        loop {
            tokio::select! {
                frame = client.frame() => {
                    let frame = frame.expect("the connection lives");
                    if frame.head.kind == end {
                        return frame;
                    }
                }
                _ = pause.tick() => client.send(&window(crumbs, 1)).await,
            }
        }
    };
    let frame = tokio::time::timeout(TEST_TIMEOUT / 4, wait).await.expect("it is ended");
    assert!(began.elapsed() >= limits().pace_window, "ended too early");
    frame
}

#[test]
fn an_answer_whose_window_is_opened_by_crumbs_is_ended_and_other_calls_go_on() {
    with_server(limits(), async |server| {
        for (name, request) in [("gRPC", call(1)), ("plain", plain(1))] {
            let settings = [(setting::INITIAL_WINDOW_SIZE, 100)];
            let mut client = RawClient::connect(server.address, &settings).await;
            client.send(&request).await;
            let reset = open_by_crumbs(&mut client, 1, kind::RST_STREAM).await;
            assert_eq!((reset.head.stream, frame::word(&reset.payload)), (1, Some(CALM)), "{name}");
            client.send(&put(3, "echo")).await;
            assert!(answered(&mut client, 3).await > 0, "{name}");
        }
    });
}

#[test]
fn an_answer_whose_window_is_never_opened_is_ended() {
    with_server(limits(), async |server| {
        let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
        let mut client = RawClient::connect(server.address, &settings).await;
        client.send(&call(1)).await;
        let reset = client.frame_of(kind::RST_STREAM).await.unwrap();
        assert_eq!((reset.head.stream, frame::word(&reset.payload)), (1, Some(CALM)));
    });
}

#[test]
fn a_connection_whose_window_is_opened_by_crumbs_is_ended() {
    with_server(limits(), async |server| {
        for request in [call(1), plain(1)] {
            let settings = [(setting::INITIAL_WINDOW_SIZE, WIDE)];
            let mut client = RawClient::connect(server.address, &settings).await;
            client.send(&request).await;
            let goaway = open_by_crumbs(&mut client, 0, kind::GOAWAY).await;
            assert_eq!(frame::word(&goaway.payload[4..]), Some(CALM));
            while client.frame().await.is_some() {}
        }
        assert_eq!(server.services.running.get(), 0);
    });
}

#[test]
fn crumbs_for_one_stream_and_for_the_connection_in_turn_gain_no_time() {
    with_server(limits(), async |server| {
        let settings = [(setting::INITIAL_WINDOW_SIZE, 65_535)];
        let mut client = RawClient::connect(server.address, &settings).await;
        client.send(&call(1)).await;
        // Both windows are used up; neither stays closed for as long as the limit.
        let pause = limits().pace_window / 2;
        let mut next = tokio::time::interval(pause);
        let mut turn = 0;
        let wait = async {
            loop {
                tokio::select! {
                    frame = client.frame() => match frame {
                        Some(frame) if ![kind::RST_STREAM, kind::GOAWAY].contains(&frame.head.kind) => {}
                        _ => return,
                    },
                    _ = next.tick() => {
                        turn += 1;
                        client.send(&window(turn % 2, 1)).await;
                    }
                }
            }
        };
        tokio::time::timeout(TEST_TIMEOUT / 4, wait).await.expect("it is ended");
    });
}

#[test]
fn a_slow_client_that_takes_enough_gets_its_whole_answer() {
    with_server(limits(), async |server| {
        let settings = [(setting::INITIAL_WINDOW_SIZE, 8_000)];
        let mut client = RawClient::connect(server.address, &settings).await;
        client.send(&[window(0, WIDE - 65_535), call(1)].concat()).await;
        let (began, mut got) = (Instant::now(), 0);
        loop {
            let frame = client.frame().await.unwrap();
            match frame.head.kind {
                kind::DATA => {
                    got += frame.head.length;
                    tokio::time::sleep(CRUMB_PAUSE).await;
                    let bytes = u32::try_from(frame.head.length).unwrap();
                    client.send(&window(1, bytes)).await;
                }
                kind::HEADERS if frame.head.has(flag::END_STREAM) => break,
                kind::RST_STREAM | kind::GOAWAY => panic!("ended after {got} bytes"),
                _ => {}
            }
        }
        assert!(got > usize::try_from(LONG_BYTES).unwrap());
        assert!(began.elapsed() > limits().pace_window, "too quick to tell");
    });
}

/// Etcd keeps a watch whose application does not read for as long as it lasts.
#[test]
fn a_streaming_call_whose_client_pauses_is_never_ended() {
    with_server(limits(), async |server| {
        let settings = [(setting::INITIAL_WINDOW_SIZE, 1_000)];
        let mut client = RawClient::connect(server.address, &settings).await;
        let request = pb::SnapshotRequest::default();
        let path = "/etcdserverpb.Maintenance/Snapshot";
        let mut out = call_head(1, path, &[], false);
        out.extend_from_slice(&raw::message(1, &request, true));
        client.send(&out).await;
        let mut got = 0;
        while got < 1_000 {
            got += client.frame_of(kind::DATA).await.unwrap().head.length;
        }
        tokio::time::sleep(3 * limits().pace_window).await;
        // Others of the connection are answered, and the call goes on where it was.
        client.send(&put(3, "echo")).await;
        assert!(answered(&mut client, 3).await > 0);
        client.send(&[window(0, WIDE - 65_535), window(1, WIDE - 1_000)].concat()).await;
        assert!(got + answered(&mut client, 1).await > 160 * CHUNK_BYTES);
    });
}
