//! Clients that send too much, or nonsense, or do not read.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::SinkExt as _;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use super::{PATIENCE, Socket, Told, base64, call, put};
use crate::support::{
    cluster::{Cluster, Options},
    http::Http,
    random::{Random, seed},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_and_the_next_is_served() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let port = cluster.members[0].client_port();
    let large = |bytes: usize| json!({"key": base64("k"), "value": base64(&"x".repeat(bytes))});
    let told = call(port, "/v3/kv/put", large(1 << 20)).await?;
    ensure!(matches!(&told[..], [Told::Json(_), Told::End(Some(1000))]), "{told:?}");
    let read = call(port, "/v3/kv/range", json!({"key": base64("k")})).await?;
    let [Told::Json(range), _] = &read[..] else { bail!("{}", read.len()) };
    ensure!(range["kvs"][0]["value"].as_str().is_some_and(|value| value.len() > 1 << 20));
    for bytes in [1_600_000, 2_500_000] {
        let told = call(port, "/v3/kv/put", large(bytes)).await?;
        let [Told::Json(error), Told::End(Some(1000))] = &told[..] else { bail!("{told:?}") };
        let want =
            tokio::task::block_in_place(|| Http::new(port).post("/v3/kv/put", &large(bytes)))?;
        assert_eq!(*error, want.json()?);
    }
    // More than any request may have, in one message and in one document of many messages.
    let mut socket = Socket::open(port, "/v3/kv/put").await?;
    let sent = socket.0.send(Message::binary(vec![b' '; 9 << 20])).await;
    match socket.next().await? {
        Told::End(Some(1009)) => {}
        other => bail!("{sent:?}, {other:?}"),
    }
    let mut socket = Socket::open(port, "/v3/watch").await?;
    socket.text("{\"create_request\":{\"key\":\"").await?;
    let piece = "A".repeat(1 << 20);
    for _ in 0..12 {
        if socket.text(&piece).await.is_err() {
            break;
        }
    }
    let Told::Json(error) = socket.next().await? else { bail!("no error") };
    ensure!(error["code"] == 8, "{error}");
    put(port, "k", "small").await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_own_websocket_alone() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let port = cluster.members[0].client_port();
    let mut innocent = Socket::open(port, "/v3/lease/keepalive").await?;
    let seed = seed();
    eprintln!("websocket: TRIPOD_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    for round in 0..40 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let head = "GET /v3/watch HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n";
        let mut bytes = head.as_bytes().to_vec();
        // An unmasked frame first, so that nothing of it can be a message.
        bytes.extend_from_slice(&[0x81, 0x7f & random.bits().to_le_bytes()[0]]);
        for _ in 0..round * 20 {
            bytes.extend_from_slice(&random.bits().to_le_bytes());
        }
        stream.write_all(&bytes).await?;
        let mut got = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut got)).await;
        ensure!(read.is_ok(), "round {round}: the connection stays");
        ensure!(got.starts_with(b"HTTP/1.1 101"), "round {round}");
        ensure!(got.ends_with(b"incorrect mask flag"), "round {round}");
    }
    innocent.json(json!({"ID": "5"})).await?;
    ensure!(innocent.result().await?["ID"] == "5");
    cluster.close()
}

/// Events that a client has not read wait where they are, not in memory made for them; all come.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_gets_every_event_and_delays_nobody() -> Result<()> {
    const PUTS: usize = 300;
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let port = cluster.members[0].client_port();
    let mut late = Socket::open(port, "/v3/watch").await?;
    late.json(json!({"create_request": {"key": base64("k")}})).await?;
    late.result().await?;
    let value = "v".repeat(64 << 10);
    for at in 0..PUTS {
        let value = format!("{at}:{value}");
        timeout(Duration::from_secs(5), put(port, "k", &value))
            .await
            .context("a put waits for the reader")??;
    }
    let mut next = 0;
    while next < PUTS {
        let message = late.result().await?;
        for event in message["events"].as_array().context("events")? {
            let want = base64(&format!("{next}:{value}"));
            ensure!(event["kv"]["value"] == want, "event {next}");
            next += 1;
        }
    }
    cluster.close()
}
