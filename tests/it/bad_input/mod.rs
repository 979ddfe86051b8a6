//! Whatever arrives on a port, the server goes on: it answers with an error or closes, keeps its
//! data, serves other clients, and holds no memory for it.

mod frames;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    client::Client,
    cluster::{Cluster, Options},
    http::Http,
    random::{Random, seed},
    wait,
};

/// Keys written before the bad input; all must be there after it.
const KEPT: usize = 100;
/// Memory a member may hold after everything here, in bytes.
const RSS_MAX: u64 = 1 << 30;
/// Time an innocent client may have to wait for its answer.
const INNOCENT_LIMIT: Duration = Duration::from_secs(10);
/// Time to wait for what the server does with bad bytes: it may also do nothing.
const REACTION: Duration = Duration::from_millis(150);
/// Request size limit of etcd, in bytes.
const REQUEST_BYTES_MAX: usize = 1_572_864;
/// Above this gRPC itself refuses a message, in bytes.
const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX + 512 * 1024;

/// A member with data, and the means to see that it is well.
struct Target {
    runtime: tokio::runtime::Runtime,
    cluster: Cluster,
    probes: usize,
}

impl Target {
    fn start() -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let cluster = runtime.block_on(Cluster::start(Options::candidate(1)?))?;
        let mut http = cluster.members[0].http();
        for number in 0..KEPT {
            let key = STANDARD.encode(format!("kept/{number:03}"));
            let answer = http.post("/v3/kv/put", &json!({ "key": key, "value": "MQ==" }))?;
            ensure!(answer.status == 200, "{}", answer.text());
        }
        Ok(Self { runtime, cluster, probes: 0 })
    }

    fn client_port(&self) -> u16 {
        self.cluster.members[0].client_port()
    }

    /// A new client writes and reads, over both transports, in time.
    fn still_serves(&mut self, after: &str) -> Result<()> {
        self.cluster.members[0].check_running().with_context(|| format!("after {after}"))?;
        self.probes += 1;
        let value = STANDARD.encode(self.probes.to_string());
        let start = Instant::now();
        let probe = || -> Result<()> {
            let mut http = Http::new(self.client_port()).timeout(INNOCENT_LIMIT);
            http.post("/v3/kv/put", &json!({ "key": "cHJvYmU=", "value": value }))?;
            let answer = http.post("/v3/kv/range", &json!({ "key": "cHJvYmU=" }))?.json()?;
            let read = answer.pointer("/kvs/0/value").and_then(Value::as_str);
            ensure!(read == Some(&value), "{answer}");
            let url = self.cluster.members[0].client_url();
            self.runtime.block_on(async {
                let answer = Client::with_limit(&url, INNOCENT_LIMIT).get("probe").await?;
                ensure!(answer.kvs.len() == 1, "gRPC: {answer:?}");
                Ok(())
            })
        };
        probe().with_context(|| format!("after {after}"))?;
        ensure!(start.elapsed() < INNOCENT_LIMIT, "after {after}: {:?}", start.elapsed());
        Ok(())
    }

    /// Everything kept is there, now and after a restart, and memory is bounded.
    fn finish(mut self) -> Result<()> {
        let rss = resident_bytes(self.cluster.members[0].pid()?)?;
        ensure!(rss < RSS_MAX, "the server holds {} MiB", rss >> 20);
        eprintln!("bad input: {} probes, {} MiB resident", self.probes, rss >> 20);
        self.kept()?;
        self.cluster.members[0].kill()?;
        self.runtime.block_on(self.cluster.restart_missing())?;
        self.kept()?;
        self.cluster.close()
    }

    fn kept(&self) -> Result<()> {
        let mut http = self.cluster.members[0].http();
        let prefix = json!({ "key": "a2VwdC8=", "range_end": "a2VwdDA=", "count_only": true });
        let answer = http.post("/v3/kv/range", &prefix)?.json()?;
        ensure!(answer.get("count") == Some(&json!(KEPT.to_string())), "{answer}");
        Ok(())
    }
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * 4096)
}

#[test]
fn bad_json_is_answered_with_an_error() -> Result<()> {
    let mut target = Target::start()?;
    let deep_list = "[".repeat(200_000);
    let deep_txn = format!("{}{}", r#"{"success":[{"request_txn":"#.repeat(5_000), "1");
    let long_number = format!(r#"{{"key":"YQ==","limit":{}}}"#, "9".repeat(5_000));
    // Path, body, statuses that are right.
    let cases: [(&str, &str, &[u16]); 24] = [
        ("/v3/kv/range", r#"{"key":"#, &[400]),
        ("/v3/kv/range", r#"{"key":"YQ==""#, &[400]),
        ("/v3/kv/range", "key=YQ==", &[400]),
        ("/v3/kv/range", "[]", &[400]),
        ("/v3/kv/range", "\"text\"", &[400]),
        ("/v3/kv/range", "17", &[400]),
        ("/v3/kv/range", "{}", &[400]),
        ("/v3/kv/range", "", &[400]),
        ("/v3/kv/range", "\u{0}", &[400]),
        ("/v3/kv/range", r#"{"key":"not base64!"}"#, &[400]),
        ("/v3/kv/range", r#"{"key":5}"#, &[400]),
        ("/v3/kv/range", r#"{"key":["YQ=="]}"#, &[400]),
        ("/v3/kv/range", r#"{"key":"YQ==","limit":"many"}"#, &[400]),
        ("/v3/kv/range", r#"{"key":"YQ==","limit":9223372036854775808}"#, &[400]),
        ("/v3/kv/range", r#"{"key":"YQ==","serializable":"yes"}"#, &[400]),
        ("/v3/kv/range", r#"{"key":"YQ==","sort_order":"SIDEWAYS"}"#, &[400]),
        ("/v3/kv/txn", r#"{"success":{"request_put":{}}}"#, &[400]),
        ("/v3/kv/txn", r#"{"success":[{"request_put":{"key":""}}]}"#, &[400]),
        ("/v3/lease/grant", r#"{"TTL":{}}"#, &[400]),
        ("/v3/kv/range", &deep_list, &[400, 500]),
        ("/v3/kv/txn", &deep_txn, &[400, 500]),
        ("/v3/kv/range", &long_number, &[400]),
        ("/v3/no/such/path", "{}", &[404]),
        ("/no/such/path", "{}", &[404]),
    ];
    for (path, body, want) in cases {
        let name = format!("{path} {}", body.chars().take(60).collect::<String>());
        let mut http = target.cluster.members[0].http();
        let answer = http.call("POST", path, body.as_bytes()).with_context(|| name.clone())?;
        ensure!(want.contains(&answer.status), "{name}: {} {}", answer.status, answer.text());
        if path.starts_with("/v3/kv") {
            let body = answer.json().with_context(|| name.clone())?;
            ensure!(body.get("code").is_some_and(Value::is_number), "{name}: {body}");
        }
        target.still_serves(&name)?;
    }
    for method in ["GET", "PUT", "DELETE", "BREW"] {
        let answer = target.cluster.members[0].http().call(method, "/v3/kv/put", b"{}")?;
        ensure!(matches!(answer.status, 400..=405 | 501), "{method}: {}", answer.status);
        target.still_serves(method)?;
    }
    target.finish()
}

#[test]
fn requests_are_taken_up_to_the_size_limit_and_refused_above_it() -> Result<()> {
    let mut target = Target::start()?;
    // Bytes of the value; HTTP status, gRPC code and text of the answer.
    let cases = [
        ("just below the limit", REQUEST_BYTES_MAX - 512, 200, 0, ""),
        ("just above", REQUEST_BYTES_MAX + 1, 400, 3, "etcdserver: request is too large"),
        ("above what gRPC takes", MESSAGE_BYTES_MAX + 1, 429, 8, "larger than max"),
        ("far above", 8 * MESSAGE_BYTES_MAX, 429, 8, "larger than max"),
    ];
    for (name, bytes, status, code, text) in cases {
        let value = STANDARD.encode(vec![b'x'; bytes]);
        let body = json!({ "key": STANDARD.encode("big"), "value": value });
        let answer = target.cluster.members[0].http().post("/v3/kv/put", &body)?;
        ensure!(answer.status == status, "{name}: JSON {} {}", answer.status, answer.text());
        if status != 200 {
            let body = answer.json()?;
            ensure!(body.get("code") == Some(&json!(code)), "{name}: {body}");
            let message = body.get("message").and_then(Value::as_str).unwrap_or("");
            ensure!(message.contains(text), "{name}: {body}");
        }
        let url = target.cluster.members[0].client_url();
        let put = target.runtime.block_on(async {
            Client::with_limit(&url, INNOCENT_LIMIT).put("big", vec![b'y'; bytes]).await
        });
        match put {
            Ok(_) => ensure!(code == 0, "{name}: gRPC took it"),
            Err(status) => {
                ensure!(i32::from(status.code()) == code, "{name}: gRPC {status}");
                ensure!(status.message().contains(text), "{name}: gRPC {status}");
            }
        }
        target.still_serves(name)?;
    }
    let big = target.cluster.members[0].http().post("/v3/kv/range", &json!({ "key": "Ymln" }))?;
    let value = big.json()?.pointer("/kvs/0/value").and_then(Value::as_str).map(str::len);
    ensure!(value == Some((REQUEST_BYTES_MAX - 512).div_ceil(3) * 4), "stored {value:?}");
    target.finish()
}

#[test]
fn garbage_on_the_client_port_is_refused() -> Result<()> {
    let mut target = Target::start()?;
    for (name, bytes) in frames::client_garbage() {
        send(target.client_port(), &bytes);
        target.still_serves(name)?;
    }
    target.finish()
}

#[test]
fn garbage_on_the_peer_port_is_refused() -> Result<()> {
    let mut target = Target::start()?;
    let port = target.cluster.members[0].peer_port();
    let garbage = frames::peer_garbage().into_iter().chain(frames::client_garbage());
    for (name, bytes) in garbage {
        send(port, &bytes);
        target.still_serves(name)?;
    }
    target.finish()
}

#[test]
fn mutated_requests_never_hurt() -> Result<()> {
    let seed = seed();
    eprintln!("mutated requests: TRIPOD_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let mut target = Target::start()?;
    let (client, peer) = (target.client_port(), target.cluster.members[0].peer_port());
    let valid = frames::valid_requests();
    for round in 0..40 {
        // Many at once: what matters is the state of the server afterwards.
        std::thread::scope(|scope| {
            for _ in 0..16 {
                let bytes = frames::mutate(random.pick(&valid).clone(), &mut random);
                let port = if random.chance(75) { client } else { peer };
                scope.spawn(move || send(port, &bytes));
            }
        });
        target.still_serves(&format!("seed {seed}, round {round}"))?;
    }
    target.finish()
}

#[test]
fn many_half_open_connections_do_not_keep_others_out() -> Result<()> {
    let mut target = Target::start()?;
    let preface = frames::PREFACE;
    // What each says before it falls silent.
    let openings: [(&str, &[u8]); 5] = [
        ("nothing", b""),
        ("half a preface", &preface[..10]),
        ("a preface", preface),
        ("half a request head", b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Le"),
        (
            "half a body",
            b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"key\"",
        ),
    ];
    let mut open = Vec::new();
    for (name, bytes) in openings {
        for _ in 0..60 {
            let mut stream = connect(target.client_port())?;
            // The server may close at once; the point is that we do not.
            drop(stream.write_all(bytes));
            open.push(stream);
        }
        for _ in 0..20 {
            open.push(connect(target.cluster.members[0].peer_port())?);
        }
        target.still_serves(&format!("60 connections that send {name}"))?;
    }
    drop(open);
    target.still_serves("all of them gone")?;
    target.finish()
}

fn connect(port: u16) -> Result<TcpStream> {
    // A full backlog clears quickly; it is no failure of the server.
    wait::eventually_blocking("connect", Duration::from_secs(5), || {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?)
    })
}

/// Sends bytes and reads what comes, briefly. Refusals and resets are fine.
fn send(port: u16, bytes: &[u8]) {
    let exchange = || -> Result<()> {
        let mut stream = connect(port)?;
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(REACTION))?;
        stream.write_all(bytes)?;
        let mut sink = [0; 4096];
        let start = Instant::now();
        while start.elapsed() < REACTION && stream.read(&mut sink)? > 0 {}
        Ok(())
    };
    drop(exchange());
}
