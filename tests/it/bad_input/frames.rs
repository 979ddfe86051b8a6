//! Bytes that no good client sends, and good ones to spoil.

use crate::support::random::Random;

/// What an HTTP/2 connection starts with (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frame types of RFC 9113, section 6.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
// Flags of DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small payload");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A connection's start and these frames.
pub(crate) fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, b""));
    bytes.extend(frames.concat());
    bytes
}

/// A literal header field without indexing (RFC 7541, section 6.2.2); short names and values.
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127);
    let mut bytes = vec![0, length(name).expect("a short name")];
    bytes.extend(name.as_bytes());
    bytes.push(length(value).expect("a short value"));
    bytes.extend(value.as_bytes());
    bytes
}

/// The header block of a gRPC call.
pub(crate) fn call(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| header(name, value)).collect()
}

/// A message with gRPC's prefix.
pub(crate) fn message(compressed: u8, claimed_length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![compressed];
    bytes.extend(claimed_length.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A whole call: headers and one message.
fn whole_call(path: &str, compressed: u8, claimed_length: u32, payload: &[u8]) -> Vec<u8> {
    connection(&[
        frame(HEADERS, END_HEADERS, 1, &call(path)),
        frame(DATA, END_STREAM, 1, &message(compressed, claimed_length, payload)),
    ])
}

/// Frames of many streams, each by its odd number.
pub(crate) fn on_streams(count: u32, frames: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|index| frames(2 * index + 1)).collect()
}

pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Things that arrive on a port that the world can reach.
pub(crate) fn client_garbage() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = http1_garbage();
    all.extend(http2_garbage());
    all.extend(grpc_garbage());
    all
}

fn http1_garbage() -> Vec<(&'static str, Vec<u8>)> {
    let long = "x".repeat(2 << 20);
    let many: String = (0..20_000).map(|number| format!("h{number}: v\r\n")).collect();
    vec![
        ("zeros", vec![0; 65_536]),
        ("ones", vec![0xFF; 65_536]),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaa".to_vec()),
        ("text", b"hello there\n\n".to_vec()),
        ("an endless request line", format!("GET /{long}").into_bytes()),
        ("an endless header", format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n").into_bytes()),
        ("many headers", format!("GET / HTTP/1.1\r\n{many}\r\n").into_bytes()),
        ("a huge length", request("Content-Length: 18446744073709551615", "{}")),
        ("a negative length", request("Content-Length: -1", "{}")),
        ("two lengths", request("Content-Length: 2\r\nContent-Length: 20", "{}")),
        ("length and chunks", request("Content-Length: 2\r\nTransfer-Encoding: chunked", "{}")),
        ("a bad chunk size", request("Transfer-Encoding: chunked", "zz\r\n{}\r\n")),
        ("a huge chunk size", request("Transfer-Encoding: chunked", "FFFFFFFFFFFFFFFF\r\n{}")),
        (
            "a chunk size that wraps",
            request("Transfer-Encoding: chunked", "10000000000000001\r\n{"),
        ),
        ("an early end", request("Content-Length: 100", "{")),
        ("a bad version", b"POST /v3/kv/put HTTP/9.9\r\n\r\n".to_vec()),
        ("a zero in the path", b"POST /v3/kv/\0put HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("an absolute path", b"POST http://other/v3/kv/put HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a bad upgrade", request("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0", "")),
    ]
}

fn request(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /v3/kv/put HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}").into_bytes()
}

fn http2_garbage() -> Vec<(&'static str, Vec<u8>)> {
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &call(WATCH));
    let endless = |stream| frame(CONTINUATION, 0, stream, &header("x", "y"));
    let mut half = PREFACE.to_vec();
    half.truncate(PREFACE.len() - 3);
    let mut huge_frame = connection(&[]);
    huge_frame.extend([0xFF, 0xFF, 0xFF, DATA, 0, 0, 0, 0, 1]);
    let cases = vec![
        ("a cut preface", half),
        ("a frame of 16 MiB", huge_frame),
        ("settings of a bad size", connection(&[frame(SETTINGS, 0, 0, b"12345")])),
        ("settings on a stream", connection(&[frame(SETTINGS, 0, 1, b"")])),
        ("a window above the limit", connection(&[window(0, 0x7FFF_FFFF), window(0, 0x7FFF_FFFF)])),
        ("a window of zero", connection(&[window(0, 0)])),
        ("data on no stream", connection(&[frame(DATA, 0, 0, b"x")])),
        ("data on an idle stream", connection(&[frame(DATA, 0, 7, b"x")])),
        ("an even stream", connection(&[open(2)])),
        ("streams backwards", connection(&[open(5), open(3)])),
        ("a push", connection(&[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])])),
        ("padding above the payload", connection(&[frame(DATA, PADDED, 1, &[200, 1])])),
        ("a bad index", connection(&[frame(HEADERS, END_HEADERS, 1, &[0xFF; 20])])),
        ("a cut header", connection(&[frame(HEADERS, END_HEADERS, 1, &[0, 100, b'x'])])),
        (
            "a table of 4 GiB",
            connection(&[frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\xff\xff\x0f")]),
        ),
        (
            "bad Huffman",
            connection(&[frame(HEADERS, END_HEADERS, 1, b"\x00\x84\xff\xff\xff\xff\x00")]),
        ),
        ("no path", connection(&[frame(HEADERS, END_HEADERS, 1, &header(":method", "POST"))])),
        ("capital letters", connection(&[frame(HEADERS, END_HEADERS, 1, &header("Te", "x"))])),
        ("a continuation of nothing", connection(&[endless(1)])),
        ("a broken continuation", connection(&[frame(HEADERS, 0, 1, &call(PUT)), window(0, 1)])),
        ("an unknown frame", connection(&[frame(200, 0xFF, 1, b"whatever")])),
        ("a stream that depends on itself", connection(&[frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])])),
    ];
    let floods = vec![
        ("a flood of pings", on_streams(20_000, |_| frame(PING, 0, 0, b"12345678"))),
        ("a flood of settings", on_streams(20_000, |_| frame(SETTINGS, 0, 0, b""))),
        ("a flood of empty data", {
            let empty = on_streams(50_000, |_| frame(DATA, 0, 1, b""));
            [open(1), empty].concat()
        }),
        ("a flood of open streams", on_streams(5_000, open)),
        ("a flood of reset streams", {
            on_streams(20_000, |stream| {
                [open(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
        }),
        ("an endless header block", {
            let block = on_streams(100_000, |_| endless(1));
            [frame(HEADERS, 0, 1, &call(PUT)), block].concat()
        }),
    ];
    let floods = floods.into_iter().map(|(name, frames)| (name, connection(&[frames])));
    cases.into_iter().chain(floods).collect()
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn grpc_garbage() -> Vec<(&'static str, Vec<u8>)> {
    // A put whose key claims 2^63 bytes; and a txn that nests as deep as its bytes allow.
    let long_field = [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
    let deep = nested_txn(2_000);
    let deep_length = u32::try_from(deep.len()).expect("small");
    let many = on_streams(300, |stream| {
        let body = message(0, 7, b"\x0a\x01a\x12\x02bc");
        [frame(HEADERS, END_HEADERS, stream, &call(PUT)), frame(DATA, END_STREAM, stream, &body)]
            .concat()
    });
    vec![
        ("a message of 4 GiB", whole_call(PUT, 0, u32::MAX, b"x")),
        ("a compressed message", whole_call(PUT, 1, 1, b"x")),
        ("a bad flag", whole_call(PUT, 77, 1, b"x")),
        ("a cut message", whole_call(PUT, 0, 10, b"x")),
        ("two messages in a unary call", whole_call(PUT, 0, 0, &message(0, 0, b""))),
        ("no protobuf", whole_call(PUT, 0, 4, b"\xff\xff\xff\xff")),
        ("a field of 2^63 bytes", whole_call(PUT, 0, 10, &long_field)),
        ("a wrong wire type", whole_call(PUT, 0, 2, b"\x08\x01")),
        ("no such method", whole_call("/etcdserverpb.KV/Explode", 0, 0, b"")),
        ("no such service", whole_call("/nobody.Here/Put", 0, 0, b"")),
        ("an empty watch request", whole_call(WATCH, 0, 0, b"")),
        ("a watch that is no protobuf", whole_call(WATCH, 0, 3, b"\x0a\xff\xff")),
        ("a deep transaction", whole_call("/etcdserverpb.KV/Txn", 0, deep_length, &deep)),
        ("calls without reading answers", connection(&[many])),
    ]
}

/// Transactions inside each other, `depth` of them: TxnRequest.success[0].request_txn...
pub(crate) fn nested_txn(depth: usize) -> Vec<u8> {
    let field = |tag: u8, payload: &[u8]| {
        let mut bytes = vec![tag];
        let mut length = payload.len();
        while length > 0x7F {
            bytes.push(u8::try_from(length & 0x7F).expect("seven bits") | 0x80);
            length >>= 7;
        }
        bytes.push(u8::try_from(length).expect("seven bits"));
        bytes.extend(payload);
        bytes
    };
    (0..depth).fold(Vec::new(), |inner, _| field(0x12, &field(0x22, &inner)))
}

/// Things that arrive on a port meant for members.
pub(crate) fn peer_garbage() -> Vec<(&'static str, Vec<u8>)> {
    let mut long_frame = u32::MAX.to_be_bytes().to_vec();
    long_frame.extend([1; 100]);
    let mut long_frame_little = u64::MAX.to_le_bytes().to_vec();
    long_frame_little.extend([1; 100]);
    vec![
        ("a frame of 4 GiB", long_frame),
        ("a frame of 2^64 bytes", long_frame_little),
        ("frames of no bytes", vec![0; 4096]),
        (
            "a peer message of etcd",
            b"POST /raft HTTP/1.1\r\nHost: x\r\nX-Etcd-Cluster-ID: 1\r\nContent-Length: 4\r\n\r\n\xff\xff\xff\xff"
                .to_vec(),
        ),
        (
            "a peer snapshot of etcd",
            b"POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n\0\0\0"
                .to_vec(),
        ),
    ]
}

/// Requests that are right as they are.
pub(crate) fn valid_requests() -> Vec<Vec<u8>> {
    let json = |path: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    };
    vec![
        json("/v3/kv/put", r#"{"key":"c3BvaWw=","value":"djE=","prev_kv":true}"#),
        json("/v3/kv/range", r#"{"key":"c3BvaWw=","limit":"3","sort_order":"DESCEND"}"#),
        json(
            "/v3/kv/txn",
            r#"{"compare":[{"key":"c3BvaWw=","target":"MOD","mod_revision":"3"}],"success":[{"request_put":{"key":"c3BvaWw=","value":"eA=="}}]}"#,
        ),
        json("/v3/watch", r#"{"create_request":{"key":"c3BvaWw=","start_revision":"2"}}"#),
        json("/v3/lease/keepalive", r#"{"ID":7}"#),
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        whole_call(PUT, 0, 10, b"\x0a\x05spoil\x12\x01v"),
        whole_call("/etcdserverpb.KV/Range", 0, 7, b"\x0a\x05spoil"),
        whole_call(WATCH, 0, 9, b"\x0a\x07\x0a\x05spoil"),
        whole_call("/etcdserverpb.Lease/LeaseKeepAlive", 0, 2, b"\x08\x07"),
    ]
}

/// Flips, cuts, doubles, inserts: a few small damages. The kept keys cannot be named by them,
/// since no valid request names them.
pub(crate) fn mutate(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().max(1));
        match random.below(6) {
            _ if bytes.is_empty() => bytes.push(b'x'),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.bits().to_le_bytes()[0],
            2 => bytes.truncate(at),
            3 => drop(bytes.remove(at)),
            4 => bytes.insert(at, random.bits().to_le_bytes()[0]),
            _ => {
                let copy = bytes[at..].to_vec();
                bytes.extend(copy);
            }
        }
    }
    bytes
}
