//! HTTP/1.1 clients that take their time: heads and bodies that never end, answers never read.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    support::wait,
    target::{Target, mib},
};

/// Clients of each kind.
const CLIENTS: usize = 300;
/// Time a head or a body may take: `Http1Limits::header_timeout`, `http::BODY_TIMEOUT`.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// Time without a byte taken by a client that has an answer waiting (one that takes crumbs has two
/// minutes, see `h2::Limits::pace_window`):
/// `h2::Limits::write_stall_timeout`, which HTTP/1.1 has as well.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Time for that to be noticed.
const NOTICED_MAX: Duration = Duration::from_secs(15);
/// Memory for all of them, in bytes: an answer of about a megabyte for each that never reads.
const HELD_BYTES_MAX: u64 = 224 << 20;

/// Slow heads and slow bodies are given up after half a minute (etcd 3.6.14: no time limit of heads);
/// a byte now and then buys no more time. Clients that never read cost one answer each, however many
/// they ask for, and that for a minute.
#[test]
fn slow_heads_and_bodies_are_given_up() -> Result<()> {
    let target = Target::one(&[])?;
    let innocent = target.innocent();
    let before = target.resident()?;
    let body = "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"key\":";
    let range = "{\"key\":\"AA==\",\"range_end\":\"AA==\"}";
    target.fill("large", 200, &[b'v'; 4_096], 0)?;
    let unread = format!(
        "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{range}",
        range.len()
    )
    .repeat(20);
    let mut slow = Vec::new();
    let mut deaf = Vec::new();
    for _ in 0..CLIENTS {
        for start in ["GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ", body] {
            let mut stream = TcpStream::connect(("127.0.0.1", target.port()))?;
            stream.write_all(start.as_bytes())?;
            stream.set_nonblocking(true)?;
            slow.push(stream);
        }
    }
    for _ in 0..CLIENTS / 3 {
        let mut stream = TcpStream::connect(("127.0.0.1", target.port()))?;
        stream.set_nonblocking(true)?;
        // What is not taken at once is never sent.
        drop(stream.write_all(unread.as_bytes()));
        deaf.push(stream);
    }
    let start = Instant::now();
    let mut most = 0;
    while !slow.is_empty() {
        ensure!(start.elapsed() < REQUEST_MAX + NOTICED_MAX, "{} slow clients stay", slow.len());
        slow.retain_mut(|stream| {
            // One more byte, as slow clients do.
            drop(stream.write_all(b"x"));
            is_open(stream)
        });
        most = most.max(target.resident()?);
        std::thread::sleep(Duration::from_millis(500));
    }
    let grown = most.saturating_sub(before);
    eprintln!(
        "limits: {} slow clients gone after {:.1?}, {} MiB more at most",
        2 * CLIENTS,
        start.elapsed(),
        mib(grown)
    );
    ensure!(grown < HELD_BYTES_MAX, "{} MiB more", mib(grown));
    target.judge(innocent, "slow clients")?;
    let files = target.files()?;
    let all = deaf.len();
    wait::eventually_blocking(
        "clients that read nothing are gone",
        STALL_MAX + NOTICED_MAX,
        || {
            let open = target.files()?;
            ensure!(open + all < files + 20, "{open} files open, {files} with all of them");
            Ok(())
        },
    )?;
    eprintln!("limits: {all} clients that read nothing gone after {:.1?}", start.elapsed());
    drop(deaf);
    target.finish()
}

fn is_open(stream: &mut TcpStream) -> bool {
    let mut sink = [0; 1024];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}
