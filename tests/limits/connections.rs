//! Floods on the client port: connections, streams, frames.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

use crate::{
    frames::{
        CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WATCH, call,
        connection, frame, header,
    },
    support::cluster::Options,
    target::{Target, mib, size},
};

/// Open files a member is allowed in the connection flood.
const FILES_MAX: u64 = 1_024;
/// What it leaves for data and peers of so few: half.
const CONNECTIONS_MAX: usize = 512;
/// Connections of one source: three quarters.
const PER_SOURCE_MAX: usize = 384;
/// Connections of the flood: in CI, and in full.
const FLOOD: (usize, usize) = (2_500, 15_000);
/// Where it comes from; the innocent client comes from 127.0.0.1.
const FLOOD_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Time until a refused connection is closed.
const CLOSE_MAX: Duration = Duration::from_secs(20);

fn connect_from(source: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(
        &SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(),
        Duration::from_secs(5),
    )?;
    Ok(socket.into())
}

/// Whether the other side has closed.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// Idle connections of one source are closed above its share; files stay within their limit, and
/// everybody else connects and is served (Consul CVE-2020-7219).
#[test]
fn a_flood_of_connections_keeps_nobody_else_out() -> Result<()> {
    let mut options = Options::candidate(1)?;
    options.files_max = Some(FILES_MAX);
    let target = Target::start(options)?;
    let innocent = target.innocent();
    let flood = size(FLOOD.0, FLOOD.1);
    let start = Instant::now();
    let mut open = Vec::new();
    for _ in 0..flood {
        let mut stream = connect_from(FLOOD_SOURCE, target.port())?;
        // Alive for ever, as far as HTTP/2 is concerned.
        drop(stream.write_all(&connection(&[])));
        stream.set_nonblocking(true)?;
        open.push(stream);
    }
    let (mut kept, deadline) = (flood, Instant::now() + CLOSE_MAX);
    while kept > PER_SOURCE_MAX {
        open.retain_mut(|stream| !is_closed(stream));
        kept = open.len();
        ensure!(Instant::now() < deadline, "{kept} connections of one source stay");
        std::thread::sleep(Duration::from_millis(20));
    }
    let files = target.files()?;
    eprintln!(
        "limits: {kept} of {flood} connections kept after {:.1?}, {files} files open",
        start.elapsed()
    );
    ensure!(kept >= PER_SOURCE_MAX / 2, "only {kept} are left");
    ensure!(files < CONNECTIONS_MAX + 128, "{files} files are open");
    // Newcomers from elsewhere, with the flood still there.
    for _ in 0..20 {
        let answer = target.cluster.members[0].http().get("/health")?;
        ensure!(answer.status == 200, "{}", answer.text());
    }
    drop(open);
    target.judge(innocent, "connection flood")?;
    target.finish()
}

/// One frame as received.
struct Received {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn receive(stream: &mut TcpStream) -> Result<Received> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    let number = u32::from_be_bytes(head[5..9].try_into()?);
    Ok(Received { kind: head[3], flags: head[4], stream: number, payload })
}

/// MAX_CONCURRENT_STREAMS (3) in a SETTINGS payload.
fn streams_announced(payload: &[u8]) -> Option<u32> {
    payload.as_chunks::<6>().0.iter().find_map(|[high, low, a, b, c, d]| {
        ([*high, *low] == [0, 3]).then(|| u32::from_be_bytes([*a, *b, *c, *d]))
    })
}

/// `--max-concurrent-streams` of the second case.
const STREAMS_MAX: u32 = 50;
/// What a connection may have without that flag; see `src/api/h2/limits.rs`.
const STREAMS_MAX_DEFAULT: u32 = 65_536;
/// RST_STREAM: REFUSED_STREAM.
const REFUSED_STREAM: u32 = 7;

#[test]
fn streams_above_the_announced_number_are_refused() -> Result<()> {
    let cases: [(&[&str], u32); 2] =
        [(&[], STREAMS_MAX_DEFAULT), (&["--max-concurrent-streams=50"], STREAMS_MAX)];
    for (flags, announced) in cases {
        let target = Target::one(flags)?;
        let innocent = target.innocent();
        let mut stream = TcpStream::connect(("127.0.0.1", target.port()))?;
        stream.set_read_timeout(Some(CLOSE_MAX))?;
        // A client that goes beyond by little is no abuser: its streams are refused, no more.
        let opened = announced + 100;
        let open: Vec<_> = (0..opened)
            .map(|index| frame(HEADERS, END_HEADERS, 2 * index + 1, &call(WATCH)))
            .collect();
        let mut writing = stream.try_clone()?;
        let writer = std::thread::spawn(move || writing.write_all(&connection(&open)));
        let first = receive(&mut stream)?;
        ensure!(first.kind == SETTINGS, "{}", first.kind);
        let told = streams_announced(&first.payload);
        ensure!(told == Some(announced), "announces {told:?}, not {announced}");
        let mut refused = Vec::new();
        while refused.len() < 100 {
            let frame = receive(&mut stream).context("waits for refusals")?;
            if frame.kind == RST_STREAM {
                let code = u32::from_be_bytes(frame.payload[..4].try_into()?);
                ensure!(code == REFUSED_STREAM, "stream {}: code {code}", frame.stream);
                refused.push(frame.stream);
            }
        }
        ensure!(refused[0] == 2 * announced + 1, "the first refused is {}", refused[0]);
        writer.join().expect("no panic")?;
        eprintln!(
            "limits: {announced} streams open, 100 refused, {} MiB resident",
            mib(target.resident()?)
        );
        ensure!(target.resident()? < 512 << 20, "{} MiB", mib(target.resident()?));
        target.judge(innocent, "stream flood")?;
        drop(stream);
        target.finish()?;
    }
    Ok(())
}

/// Time of each flood, at most: the server has its last word at once, and then reads on for a
/// second so that the word arrives.
const FLOOD_MAX: Duration = Duration::from_secs(10);
/// GOAWAY.
const GOAWAY: u8 = 7;
/// Its code for clients that overdo it.
const ENHANCE_YOUR_CALM: u32 = 11;

/// Sends `unit` again and again until the server closes; what its GOAWAY says, if that came.
fn flood(port: u16, mut start: Vec<u8>, unit: impl Fn(u32) -> Vec<u8>) -> Result<Option<u32>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(CLOSE_MAX))?;
    stream.set_write_timeout(Some(CLOSE_MAX))?;
    let mut reading = stream.try_clone()?;
    let reader = std::thread::spawn(move || {
        let mut goaway = None;
        while let Ok(frame) = receive(&mut reading) {
            if frame.kind == GOAWAY && frame.payload.len() >= 8 {
                let code = frame.payload[4..8].try_into().map_or(0, u32::from_be_bytes);
                goaway = Some(code);
            }
            // Flags of nothing that matters here.
            let _ = frame.flags;
        }
        goaway
    });
    let (mut sent, mut number) = (0, 0);
    let began = Instant::now();
    loop {
        while start.len() < 64 << 10 {
            start.extend(unit(number));
            number += 1;
        }
        match stream.write_all(&start) {
            Ok(()) => sent += start.len(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                bail!("the server neither reads nor closes")
            }
            Err(_) => break,
        }
        start.clear();
        ensure!(began.elapsed() < FLOOD_MAX, "{sent} bytes in {number} units were taken");
    }
    eprintln!("limits: closed after {} KiB, {:.1?}", sent >> 10, began.elapsed());
    Ok(reader.join().expect("no panic"))
}

/// Rapid reset (CVE-2023-44487), pings, settings, empty data, tiny windows and endless CONTINUATION
/// (CVE-2024-27316) end their connection early, and nobody else's.
#[test]
fn floods_of_frames_end_their_own_connection() -> Result<()> {
    let target = Target::one(&[])?;
    let innocent = target.innocent();
    let before = target.resident()?;
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &call(WATCH));
    type Unit = Box<dyn Fn(u32) -> Vec<u8>>;
    let floods: [(&str, Vec<u8>, Unit); 6] = [
        (
            "rapid reset",
            connection(&[]),
            Box::new(move |number| {
                let stream = 2 * number + 1;
                [open(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            }),
        ),
        ("pings", connection(&[]), Box::new(|_| frame(PING, 0, 0, b"12345678"))),
        ("settings", connection(&[]), Box::new(|_| frame(SETTINGS, 0, 0, b""))),
        ("empty data", connection(&[open(1)]), Box::new(|_| frame(DATA, 0, 1, b""))),
        ("tiny windows", connection(&[]), Box::new(|_| frame(8, 0, 0, &[0, 0, 0, 1]))),
        (
            "continuation",
            connection(&[frame(HEADERS, 0, 1, &call(WATCH))]),
            Box::new(|_| frame(CONTINUATION, 0, 1, &header("x", "y"))),
        ),
    ];
    for (name, start, unit) in floods {
        let code = flood(target.port(), start, unit).context(name)?;
        eprintln!("limits: flood of {name}: goaway {code:?}");
        // The last word may be lost when bytes of ours are still on the way.
        ensure!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{name}: {code:?}");
    }
    let grown = target.resident()?.saturating_sub(before);
    ensure!(grown < 128 << 20, "{} MiB stay behind", mib(grown));
    target.judge(innocent, "floods of frames")?;
    target.finish()
}

/// Heads above 64 KiB are refused on both protocols.
#[test]
fn heads_that_are_too_large_are_refused() -> Result<()> {
    let target = Target::one(&[])?;
    let long = "x".repeat(128 << 10);
    let head = format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n");
    let mut stream = TcpStream::connect(("127.0.0.1", target.port()))?;
    stream.set_read_timeout(Some(CLOSE_MAX))?;
    // The refusal may come before all is sent.
    drop(stream.write_all(head.as_bytes()));
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    ensure!(answer.is_empty() || text.starts_with("HTTP/1.1 431"), "{read:?} {text}");

    let mut block = call(WATCH);
    for _ in 0..1_200 {
        block.extend(header("x-long", &"y".repeat(100)));
    }
    let mut frames = vec![frame(HEADERS, 0, 1, &block[..16_000])];
    frames.extend(block[16_000..].chunks(16_000).map(|part| frame(CONTINUATION, 0, 1, part)));
    let mut stream = TcpStream::connect(("127.0.0.1", target.port()))?;
    stream.set_read_timeout(Some(CLOSE_MAX))?;
    drop(stream.write_all(&connection(&frames)));
    let refused = loop {
        match receive(&mut stream) {
            Ok(frame) if frame.kind == GOAWAY || frame.kind == RST_STREAM => break true,
            Ok(frame) if frame.kind == HEADERS => break frame.stream == 1,
            Ok(_) => {}
            Err(_) => break true,
        }
    };
    ensure!(refused, "a head of 130 KiB was taken");
    ensure!(PREFACE.len() == 24, "the preface is the RFC's");
    target.finish()
}
