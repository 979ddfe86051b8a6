//! Leaders that die or freeze: writes go on soon, and nothing old is ever read.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;

use crate::support::{
    client::Client,
    cluster::{Cluster, Options, START_LIMIT},
    wait,
};

/// Leaders killed in one run.
const KILLS: usize = 5;
/// Default election timeout is 1 s, drawn up to twice that, and a round of votes.
const USUAL_GAP: Duration = Duration::from_secs(3);
/// A split vote costs one more election.
const WORST_GAP: Duration = Duration::from_secs(5);
/// Limit of one attempt to write: short, as an attempt at a dying leader is lost time.
const ATTEMPT: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_within_three_seconds_of_a_leaders_death() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    let mut gaps = Vec::new();
    for kill in 0..KILLS {
        let leader = cluster.leader().await?;
        let acknowledged = format!("before {kill}");
        cluster.members[leader].client().put("kept", acknowledged.clone()).await?;
        cluster.members[leader].kill()?;
        let start = Instant::now();
        let survivor = first_write(&cluster, &format!("after {kill}")).await?;
        gaps.push(start.elapsed());
        let kept = cluster.members[survivor].client().get("kept").await?;
        let value = kept.kvs.first().map(|kv| kv.value.to_vec());
        assert_eq!(value, Some(acknowledged.into_bytes()), "lost with leader {leader}");
        cluster.restart_missing().await?;
    }
    gaps.sort_unstable();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    eprintln!("failover: {KILLS} leaders killed, no writes for median {median:?}, worst {worst:?}");
    assert!(median <= USUAL_GAP && worst <= WORST_GAP, "gaps {gaps:?}");
    cluster.close()
}

/// Writes at all started members until one acknowledges; its position.
async fn first_write(cluster: &Cluster, value: &str) -> Result<usize> {
    let attempts = cluster.members.iter().enumerate().filter(|(_, member)| member.is_started());
    let attempts = attempts.map(|(index, member)| {
        let client = Client::with_limit(&member.client_url(), ATTEMPT);
        Box::pin(async move {
            wait::eventually("a write succeeds", START_LIMIT, || async {
                client.put("probe", value.to_owned()).await.context("put")
            })
            .await
            .map(|_| index)
        })
    });
    let (index, _) = futures::future::select_ok(attempts).await?;
    Ok(index)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_serves_no_old_read_when_it_wakes() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    for round in 0..3 {
        let frozen = cluster.leader().await?;
        let client = cluster.members[frozen].client();
        let (old, fresh) = (format!("old {round}"), format!("new {round}"));
        client.put("k", old.clone()).await?;
        cluster.members[frozen].pause()?;
        // Asked before the fresh write: may see either value, or fail.
        let early = ask(&client);
        let survivor = (frozen + 1) % 3;
        let other = Client::with_limit(&cluster.members[survivor].client_url(), ATTEMPT);
        wait::eventually("the others elect a leader", START_LIMIT, || async {
            other.put("k", fresh.clone()).await.context("put")
        })
        .await?;
        // Asked after the fresh write was acknowledged, answered by the old leader as it wakes.
        let late = ask(&client);
        cluster.members[frozen].resume()?;
        let early = values(early).await?;
        let late = values(late).await?;
        assert!(early.iter().all(|value| [&old, &fresh].contains(&value)), "{early:?}");
        assert!(late.iter().all(|value| *value == fresh), "round {round}: {late:?}");
        cluster.healthy().await?;
        eprintln!(
            "frozen leader: round {round}: answered {} reads asked before, {} after",
            early.len(),
            late.len()
        );
    }
    cluster.close()
}

/// Many reads of `k`, under way when this returns.
fn ask(client: &Client) -> Vec<JoinHandle<Result<String>>> {
    let read = |client: Client| async move {
        let answer = client.get("k").await?;
        let kv = answer.kvs.first().context("the key is there")?;
        Ok(String::from_utf8_lossy(&kv.value).into_owned())
    };
    (0..20).map(|_| tokio::spawn(read(client.clone()))).collect()
}

/// The values of those reads that were answered.
async fn values(reads: Vec<JoinHandle<Result<String>>>) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for read in reads {
        values.extend(read.await?.ok());
    }
    Ok(values)
}
