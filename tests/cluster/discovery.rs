//! Clusters that find each other by DNS, and by two names of one place.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use tokio::{net::UdpSocket, task::JoinHandle};

use crate::{
    clients::run,
    support::cluster::{Cluster, Options},
};

/// Type of SRV records.
const SRV: u16 = 33;

/// Answers SRV questions of loopback from `records` (service, port at localhost).
async fn serve_dns(records: Vec<(String, u16)>) -> Result<(String, JoinHandle<()>)> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await?;
    let address = socket.local_addr()?.to_string();
    let task = tokio::spawn(async move {
        let mut question = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            if let Some(answer) = answer(&records, &question[..length]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    Ok((address, task))
}

fn answer(records: &[(String, u16)], question: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while let length @ 1.. = usize::from(*question.get(at)?) {
        labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let (name, kind) = (labels.join("."), question.get(at + 1..at + 3)?);
    let is_srv = kind == SRV.to_be_bytes();
    let found: Vec<u16> =
        records.iter().filter(|(of, _)| is_srv && *of == name).map(|(_, port)| *port).collect();
    let mut bytes = question.get(..2)?.to_vec();
    bytes.extend([0x85, if found.is_empty() { 0x83 } else { 0x80 }, 0, 1]);
    bytes.extend(u16::try_from(found.len()).ok()?.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend_from_slice(question.get(12..at + 5)?);
    for port in found {
        bytes.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 17, 0, 0, 0, 10]);
        bytes.extend(port.to_be_bytes());
        bytes.extend(b"\x09localhost\0");
    }
    Some(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_clients_find_the_cluster_by_srv_records() -> Result<()> {
    let mut cluster = Cluster::prepare(Options::candidate(3)?)?;
    let mut records = Vec::new();
    for member in &cluster.members {
        records.push(("_etcd-server._tcp.example.test".to_owned(), member.peer_port()));
        records.push(("_etcd-client._tcp.example.test".to_owned(), member.client_port()));
    }
    let (dns, task) = serve_dns(records).await?;
    for member in &mut cluster.members {
        member.forget_initial_cluster();
        member.add_flag("--discovery-srv=example.test");
        member.set_env("TRIPOD_DNS_RESOLVER", &dns);
        member.start()?;
    }
    cluster.healthy().await?;
    let members = cluster.members.len();
    tokio::task::spawn_blocking(move || -> Result<()> {
        let ctl = |arguments: &[&str]| {
            run(Command::new(env!("CARGO_BIN_EXE_tripod"))
                .env("TRIPOD_DNS_RESOLVER", &dns)
                .args(["ctl", "--discovery-srv=example.test"])
                .args(arguments))
        };
        ensure!(ctl(&["put", "foo", "bar"])? == "OK\n");
        ensure!(ctl(&["get", "foo"])? == "foo\nbar\n");
        let healthy = ctl(&["endpoint", "health"])?;
        ensure!(healthy.lines().count() == members, "{healthy}");
        let listed = ctl(&["member", "list"])?;
        ensure!(listed.matches("started").count() == members, "{listed}");
        let without = ctl(&[
            "--insecure-discovery=false",
            "--endpoints=127.0.0.1:1",
            "--command-timeout=1s",
            "endpoint",
            "health",
        ]);
        ensure!(without.is_err(), "cleartext servers are left out: {without:?}");
        Ok(())
    })
    .await??;
    // Its log knows the cluster from now on: no DNS is needed.
    task.abort();
    cluster.members[0].stop()?;
    cluster.restart_missing().await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_joins_by_other_names_of_the_same_places() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(1)?).await?;
    let index = cluster.newcomer()?;
    let by_name = |url: String| url.replace("127.0.0.1", "localhost");
    let (m0, m1) = (cluster.members[0].peer_url(), cluster.members[index].peer_url());
    run(Command::new(env!("CARGO_BIN_EXE_tripod"))
        .arg("ctl")
        .arg(format!("--endpoints={}", cluster.endpoints().split(',').next().unwrap_or("")))
        .args(["member", "add", "m1", &format!("--peer-urls={m1}")]))?;
    let list = format!("--initial-cluster=m0={},m1={}", by_name(m0), by_name(m1));
    cluster.members[index].add_flag(list);
    cluster.members[index].start()?;
    cluster.healthy().await?;
    cluster.close()
}

/// The effect of a warning is one line that names neither key nor value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_steps_are_said_without_keys_or_values() -> Result<()> {
    let options = Options::candidate(1)?
        .flag("--warning-apply-duration=1ns")
        .flag("--warning-unary-request-duration=1ns");
    let cluster = Cluster::start(options).await?;
    cluster.members[0].client().put("secret-key", "secret-value").await?;
    let limit = Duration::from_secs(10);
    crate::support::wait::eventually("both lines", limit, || async {
        cluster.members[0].client().put("secret-key", "secret-value").await?;
        let log = cluster.members[0].log();
        ensure!(log.contains("apply request took too long"), "{log}");
        let unary = log.lines().any(|line| {
            line.contains("request stats")
                && line.contains("kv::put")
                && line.contains("request-size")
                && line.contains("response-size")
        });
        ensure!(unary, "{log}");
        Ok(())
    })
    .await?;
    ensure!(!cluster.members[0].log().contains("secret-"), "a key or value is in the log");
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_performance_prints_a_verdict_and_leaves_nothing() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let endpoints = cluster.endpoints();
    tokio::task::spawn_blocking(move || -> Result<()> {
        let ctl = |arguments: &[&str]| {
            run(Command::new(env!("CARGO_BIN_EXE_tripod"))
                .args(["ctl", "--endpoints", &endpoints])
                .args(arguments))
        };
        let flags = ["--seconds=2", "--auto-compact", "--auto-defrag=true"];
        // A busy machine may be too slow; what is said is the same but for the verdict.
        let mut command = Command::new(env!("CARGO_BIN_EXE_tripod"));
        command.args(["ctl", "--endpoints", &endpoints, "check", "perf"]).args(flags);
        let printed = String::from_utf8(command.output()?.stdout)?;
        let lines: Vec<&str> = printed.lines().collect();
        ensure!(lines.len() == 8, "{printed}");
        for (line, want) in lines.iter().zip([
            "Compacting with revision ",
            "Compacted with revision ",
            "Defragmenting \"",
            "Defragmented \"",
        ]) {
            ensure!(line.starts_with(want), "{printed}");
        }
        ensure!(lines[4].contains("hroughput") && lines[4].ends_with(" writes/s"), "{printed}");
        ensure!(["PASS", "FAIL"].contains(&lines[7]), "{printed}");
        ensure!(ctl(&["get", "/etcdctl-check-perf/", "--prefix"])?.is_empty(), "keys are left");
        ctl(&["put", "/etcdctl-check-perf/x", "y"])?;
        let refused = ctl(&["check", "perf"]).expect_err("keys in the way").to_string();
        ensure!(refused.contains("has keys. Delete with"), "{refused}");
        let unknown = ctl(&["check", "datascale", "--load=q"]).expect_err("no such load");
        ensure!(unknown.to_string().contains("unknown load option q"), "{unknown}");
        Ok(())
    })
    .await??;
    cluster.close()
}
