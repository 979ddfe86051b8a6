//! v2 keys across three members: written here, seen and waited for there, alike after a crash.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::support::{
    cluster::{Cluster, Options},
    http::{Http, Lines},
    wait,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Every key of a member, and its index.
fn contents(port: u16) -> Result<(String, String)> {
    let all = Http::new(port).form("GET", "/v2/keys/?recursive=true", "")?;
    Ok((all.header("x-etcd-index").unwrap_or_default().to_owned(), all.text()))
}

fn write_here_wait_there(ports: &[u16], leader: usize) -> Result<()> {
    let (writer, waiter) = (ports[(leader + 1) % 3], ports[(leader + 2) % 3]);
    let mut lines = Lines::get(waiter, "/v2/keys/q?wait=true&recursive=true&stream=true", &[])?;
    ensure!(lines.opened(soon())? == 200);
    let mut http = Http::new(writer);
    for at in 0..5 {
        let posted = http.form("POST", "/v2/keys/q", &format!("value={at}"))?;
        ensure!(posted.status == 201, "{}", posted.text());
        let event = lines.next(soon())?.context("an event")?;
        assert_eq!(event, posted.json()?, "the waiter sees what the writer was told");
        let read = Http::new(ports[leader]).form("GET", "/v2/keys/q?quorum=true", "")?;
        let count = read.json()?["node"]["nodes"].as_array().map(Vec::len);
        assert_eq!(count, Some(at + 1), "a quorum read sees an acknowledged write");
    }
    let short = http.form("PUT", "/v2/keys/q/short", "value=1&ttl=1")?;
    ensure!(short.status == 201);
    for want in ["set", "expire", "expire"] {
        let event = lines.next(soon())?.context("an event")?;
        assert_eq!(event["action"], want);
        if want == "expire" {
            break;
        }
    }
    Ok(())
}

fn agree(ports: &[u16]) -> Result<()> {
    wait::eventually_blocking("members agree", Duration::from_secs(20), || {
        let first = contents(ports[0])?;
        for port in &ports[1..] {
            ensure!(contents(*port)? == first, "{port} differs");
        }
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_keys_are_one_tree_on_three_members() -> Result<()> {
    // Few entries kept: the member that was away needs a snapshot.
    let options =
        Options::candidate(3)?.flag("--snapshot-count=100").flag("--snapshot-catchup-entries=10");
    let mut cluster = Cluster::start(options).await?;
    let leader = cluster.leader().await?;
    let ports: Vec<u16> = cluster.members.iter().map(|member| member.client_port()).collect();
    let of_task = ports.clone();
    tokio::task::spawn_blocking(move || write_here_wait_there(&of_task, leader)).await??;

    let away = (leader + 1) % 3;
    cluster.members[away].kill()?;
    let port = ports[leader];
    tokio::task::spawn_blocking(move || -> Result<()> {
        let mut http = Http::new(port);
        for at in 0..400 {
            let set =
                http.form("PUT", &format!("/v2/keys/n/{}", at % 50), &format!("value={at}"))?;
            ensure!(set.status < 300, "{}", set.text());
        }
        Ok(())
    })
    .await??;
    let before = cluster.members[away].log().len();
    cluster.restart_missing().await?;
    tokio::task::spawn_blocking(move || agree(&ports)).await??;
    let log = cluster.members[away].log()[before..].to_lowercase();
    ensure!(log.contains("applied snapshot"), "it caught up without one: this proves nothing");
    cluster.close()
}
