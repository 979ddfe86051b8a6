//! TLS of a running server: every port, revocation, stalled handshakes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    cluster::{Cluster, Options},
    port::Port,
    tls::{self, Certificates},
    wait,
};

/// Unfinished handshakes that an attacker keeps open.
const HALF_OPEN: usize = 5_000;
/// Requests of the innocent client, each with a handshake of its own.
const INNOCENT_REQUESTS: usize = 50;
/// Longest wait of the innocent client; a quiet machine needs a hundredth of it.
const INNOCENT_LIMIT: Duration = Duration::from_secs(2);
/// Files are looked at once a second.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

async fn start(certificates: &Certificates, flags: &[String]) -> Result<Cluster> {
    let mut options = Options::candidate(1)?;
    options.tls = Some(certificates.connector(Some("root"))?);
    options.flags = certificates.flags();
    options.flags.extend(flags.iter().cloned());
    Cluster::start(options).await
}

/// GHSA-3wh4: the CRL was not looked at on the gRPC port once HTTP had a port of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_opens_none_of_the_ports_also_when_http_is_split_off() -> Result<()> {
    let certificates = Certificates::make()?;
    let http = Port::claim()?;
    let split = format!("--listen-client-http-urls=https://127.0.0.1:{}", http.number);
    let mut options = Options::candidate(1)?;
    options.tls = Some(certificates.connector(Some("root"))?);
    options.flags = certificates.flags();
    options.flags.push(split);
    // Health is on the HTTP port alone now.
    let mut cluster = Cluster::prepare(options)?;
    cluster.members[0].start()?;
    let root = certificates.connector(Some("root"))?;
    wait::eventually("the HTTP port is healthy", crate::support::cluster::START_LIMIT, || async {
        ensure!(tls::is_healthy(&root, http.number).await, "not yet");
        Ok(())
    })
    .await?;
    let member = &cluster.members[0];
    let (grpc, peer) = (member.client_port(), member.peer_port());
    let (status, body) = tls::get(&root, grpc, "/health").await?;
    ensure!(status == 415 && body.contains("gRPC alone"), "{status} {body}");
    let (eve, nobody) = (certificates.connector(Some("eve"))?, certificates.connector(None)?);
    for port in [grpc, http.number, peer] {
        ensure!(tls::connects(&eve, port).await, "{port}: refused though not revoked");
        ensure!(!tls::connects(&nobody, port).await, "{port}: let in without a certificate");
    }
    certificates.revoke(&["eve"])?;
    for port in [grpc, http.number, peer] {
        wait::eventually("the CRL is in force", RELOAD_LIMIT, || async {
            ensure!(!tls::connects(&eve, port).await, "{port}: a revoked certificate is let in");
            Ok(())
        })
        .await?;
        ensure!(tls::connects(&root, port).await, "{port}: the others are let in");
    }
    cluster.close()
}

/// GHSA-6vch-q96h-7gc3: handshakes without deadline or bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_do_not_delay_an_innocent_client() -> Result<()> {
    let certificates = Certificates::make()?;
    let cluster = start(&certificates, &[]).await?;
    let port = cluster.members[0].client_port();
    let root = certificates.connector(Some("root"))?;
    let innocent = async || -> Result<(Duration, Duration)> {
        let mut times = Vec::new();
        for _ in 0..INNOCENT_REQUESTS {
            let start = Instant::now();
            ensure!(tls::is_healthy(&root, port).await, "no answer for the innocent client");
            times.push(start.elapsed());
        }
        times.sort();
        Ok((times[INNOCENT_REQUESTS / 2], times[INNOCENT_REQUESTS - 1]))
    };
    let before = innocent().await?;
    let mut open = Vec::new();
    for number in 0..HALF_OPEN {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        // Half of them say nothing, half begin a hello.
        if number % 2 == 0 {
            // Whoever was the oldest may be closed already.
            let _ = socket.write_all(&[0x16, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3]).await;
        }
        open.push(socket);
    }
    let during = innocent().await?;
    eprintln!(
        "handshake and request of an innocent client, median and worst: {before:?} alone, \
         {during:?} beside {HALF_OPEN} half-open handshakes"
    );
    ensure!(during.1 < INNOCENT_LIMIT, "the innocent client waited {:?}", during.1);
    drop(open);
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleartext_on_a_tls_port_is_closed_and_mixed_listeners_work() -> Result<()> {
    let certificates = Certificates::make()?;
    let plain = Port::claim()?;
    let metrics = Port::claim()?;
    let more = format!("--listen-metrics-urls=http://127.0.0.1:{}", metrics.number);
    let cluster = {
        let mut options = Options::candidate(1)?;
        options.tls = Some(certificates.connector(Some("root"))?);
        options.flags = certificates.flags();
        options.flags.push(more);
        let mut cluster = Cluster::prepare(options)?;
        let member = &mut cluster.members[0];
        let urls = format!("{},http://127.0.0.1:{}", member.client_url(), plain.number);
        member.add_flag(format!("--listen-client-urls={urls}"));
        member.start()?;
        cluster.healthy().await?;
        cluster
    };
    let answer = tokio::task::spawn_blocking(move || {
        crate::support::http::Http::new(plain.number).get("/health")
    })
    .await??;
    ensure!(answer.status == 200, "the cleartext listener beside TLS: {}", answer.text());
    let port = cluster.members[0].client_port();
    let refused = tokio::task::spawn_blocking(move || {
        crate::support::http::Http::new(port).get("/health").map(|answer| answer.status)
    })
    .await?;
    ensure!(refused.is_err(), "cleartext on the TLS port: {refused:?}");
    drop(metrics);
    cluster.close()
}

/// A metrics URL has the certificates and rules of the client port, revocation included (GHSA-3wh4),
/// as in etcd: also where the client port itself is cleartext.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_over_tls_ask_for_client_certificates_whatever_the_client_port_speaks() -> Result<()>
{
    for clients_speak_tls in [false, true] {
        let certificates = Certificates::make()?;
        let metrics = Port::claim()?;
        let root = certificates.connector(Some("root"))?;
        let mut options = Options::candidate(1)?;
        options.tls = clients_speak_tls.then(|| root.clone());
        options.flags = certificates.flags();
        options.flags.push(format!("--listen-metrics-urls=https://127.0.0.1:{}", metrics.number));
        let cluster = Cluster::start(options).await?;
        let port = metrics.number;
        let context = format!("clients speak TLS: {clients_speak_tls}");
        for (path, want) in [
            ("/metrics", "etcd_server_has_leader 1"),
            ("/health", "\"health\":\"true\""),
            ("/readyz", "ok"),
        ] {
            let (status, body) = tls::get(&root, port, path).await?;
            ensure!(status == 200 && body.contains(want), "{context}: {path} {status} {body}");
        }
        let cleartext = tokio::task::spawn_blocking(move || {
            crate::support::http::Http::new(port).get("/metrics").map(|answer| answer.status)
        })
        .await?;
        ensure!(cleartext.is_err(), "{context}: cleartext is answered: {cleartext:?}");
        let nobody = certificates.connector(None)?;
        ensure!(!tls::connects(&nobody, port).await, "{context}: let in without a certificate");
        let eve = certificates.connector(Some("eve"))?;
        ensure!(tls::connects(&eve, port).await, "{context}: refused though not revoked");
        certificates.revoke(&["eve"])?;
        wait::eventually("the CRL is in force", RELOAD_LIMIT, || async {
            ensure!(!tls::connects(&eve, port).await, "{context}: a revoked one is let in");
            Ok(())
        })
        .await?;
        cluster.close()?;
    }
    Ok(())
}
