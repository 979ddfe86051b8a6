//! Locks and elections across members: who owns, who comes next, and who has gone away.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::json;
use tripod::api::proto::{
    etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, RangeRequest},
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderRequest, ResignRequest,
        election_client::ElectionClient,
    },
    v3lockpb::{LockRequest, LockResponse, lock_client::LockClient},
};

use crate::support::{
    client::Client,
    cluster::{Cluster, Member, Options, START_LIMIT},
    http::Http,
    wait,
};

/// Longest wait of one lock in these tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a waiter is left alone before it is taken to be waiting.
const SOON: Duration = Duration::from_millis(300);

async fn lease(client: &Client, id: i64, ttl: i64) -> Result<i64> {
    Ok(client.lease().lease_grant(LeaseGrantRequest { ttl, id }).await?.into_inner().id)
}

async fn lock(url: String, name: &'static str, lease: i64) -> Result<LockResponse, tonic::Status> {
    let mut client = LockClient::connect(url)
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let request = LockRequest { name: Bytes::from_static(name.as_bytes()), lease };
    Ok(client.lock(request).await?.into_inner())
}

async fn campaign(url: String, lease: i64, value: &'static str) -> Result<CampaignResponse> {
    let value = Bytes::from_static(value.as_bytes());
    let request = CampaignRequest { name: Bytes::from_static(b"E"), lease, value };
    Ok(ElectionClient::connect(url).await?.campaign(request).await?.into_inner())
}

async fn keys(member: &Member, prefix: &'static str, end: &'static str) -> Result<Vec<String>> {
    let request = RangeRequest { key: prefix.into(), range_end: end.into(), ..Default::default() };
    let answer = member.client().kv().range(request).await?.into_inner();
    Ok(answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect())
}

async fn keys_become(member: &Member, want: &[&str]) -> Result<()> {
    wait::eventually(&format!("the queue is {want:?}"), START_LIMIT, || async {
        let keys = keys(member, "L/", "L0").await?;
        ensure!(keys == want, "it is {keys:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_goes_away_leaves_the_queue() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(3)?).await?;
    let (first, second) = (&cluster.members[0], &cluster.members[1]);
    for id in [10, 11, 12] {
        lease(&first.client(), id, 600).await?;
    }
    let held = lock(first.client_url(), "L", 10).await?;
    assert_eq!(held.key, "L/a");
    // Over gRPC: the stream is reset.
    let waiting = tokio::spawn(lock(second.client_url(), "L", 11));
    keys_become(second, &["L/a", "L/b"]).await?;
    waiting.abort();
    keys_become(second, &["L/a"]).await?;
    // Over HTTP: the connection closes.
    let port = second.client_port();
    tokio::task::spawn_blocking(move || {
        let body = json!({"name": "TA==", "lease": 12});
        Http::new(port).timeout(SOON).post("/v3/lock/lock", &body)
    })
    .await?
    .expect_err("the lock is held");
    keys_become(second, &["L/a"]).await?;
    // With a deadline.
    let mut impatient = LockClient::connect(second.client_url()).await?;
    let mut request = tonic::Request::new(LockRequest { name: "L".into(), lease: 12 });
    request.set_timeout(SOON);
    let refused = impatient.lock(request).await.expect_err("the lock is held");
    assert!(matches!(refused.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled));
    keys_become(second, &["L/a"]).await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_owners_lease_lets_the_next_one_in() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(3)?).await?;
    let [first, second, third] = &cluster.members[..] else { anyhow::bail!("three members") };
    // The owner's lease expires by itself, the one of a waiter behind it is revoked.
    lease(&first.client(), 10, 2).await?;
    lease(&first.client(), 11, 600).await?;
    lease(&first.client(), 12, 600).await?;
    lock(first.client_url(), "L", 10).await?;
    let revoked = tokio::spawn(lock(second.client_url(), "L", 11));
    keys_become(second, &["L/a", "L/b"]).await?;
    let next = tokio::spawn(lock(third.client_url(), "L", 12));
    keys_become(second, &["L/a", "L/b", "L/c"]).await?;
    first.client().lease().lease_revoke(LeaseRevokeRequest { id: 11 }).await?;
    let lost = tokio::time::timeout(PATIENCE, revoked).await??.expect_err("its key is gone");
    assert_eq!((lost.code(), lost.message()), (tonic::Code::Unknown, "mutex: session is expired"));
    let won = tokio::time::timeout(PATIENCE, next).await???;
    assert_eq!(won.key, "L/c");
    keys_become(first, &["L/c"]).await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_whose_key_went_away_is_not_told_that_it_leads() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let member = &cluster.members[0];
    lease(&member.client(), 10, 600).await?;
    lease(&member.client(), 11, 600).await?;
    let first = campaign(member.client_url(), 10, "one").await?;
    let second = tokio::spawn(campaign(member.client_url(), 11, "two"));
    wait::eventually("both stand", START_LIMIT, || async {
        ensure!(keys(member, "E/", "E0").await?.len() == 2);
        Ok(())
    })
    .await?;
    member.client().lease().lease_revoke(LeaseRevokeRequest { id: 11 }).await?;
    let mut election = ElectionClient::connect(member.client_url()).await?;
    election.resign(ResignRequest { leader: first.leader }).await?;
    let lost = tokio::time::timeout(PATIENCE, second).await??.expect_err("its key is gone");
    assert!(format!("{lost:#}").contains("election: not leader"), "{lost:#}");
    let nobody = election.leader(LeaderRequest { name: "E".into() }).await.expect_err("nobody");
    assert_eq!(nobody.message(), "election: no leader");
    cluster.close()
}

/// What every owner was told, checked against the history of the store: at the revision of its
/// answer its key was the oldest one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_own_a_lock_while_leaders_die() -> Result<()> {
    const OWNERS: i64 = 6;
    const ROUNDS: usize = 8;
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    for id in 1..=OWNERS {
        lease(&cluster.members[0].client(), id, 600).await?;
    }
    let urls: Vec<String> = cluster.members.iter().map(Member::client_url).collect();
    let owners: Vec<_> = (1..=OWNERS)
        .map(|id| {
            let urls = urls.clone();
            tokio::spawn(async move {
                let mut won: Vec<(i64, Bytes)> = Vec::new();
                let started = Instant::now();
                let mut at = usize::try_from(id).unwrap_or(0);
                while won.len() < ROUNDS {
                    ensure!(started.elapsed() < 4 * PATIENCE, "owner {id} won {won:?} only");
                    at += 1;
                    let url = urls[at % urls.len()].clone();
                    let Ok(Ok(held)) =
                        tokio::time::timeout(PATIENCE, lock(url.clone(), "L", id)).await
                    else {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    let revision = held.header.context("a header")?.revision;
                    won.push((revision, held.key.clone()));
                    wait::eventually("the lock is given back", PATIENCE, || {
                        at += 1;
                        let client = Client::with_limit(&urls[at % urls.len()], SOON * 4);
                        let key = held.key.clone();
                        async move { Ok(client.delete(key).await?) }
                    })
                    .await?;
                }
                Ok(won)
            })
        })
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(SOON).await;
        let leader = cluster.leader().await?;
        cluster.members[leader].kill()?;
        cluster.restart_missing().await?;
    }
    let mut wins = 0;
    for owner in owners {
        for (revision, key) in owner.await?? {
            let request = RangeRequest {
                key: "L/".into(),
                range_end: "L0".into(),
                revision,
                sort_order: 1,
                sort_target: 2,
                limit: 1,
                ..Default::default()
            };
            let answer = cluster.members[0].client().kv().range(request).await?.into_inner();
            let first = answer.kvs.first().map(|kv| kv.key.clone());
            assert_eq!(first, Some(key), "at revision {revision}");
            wins += 1;
        }
    }
    assert_eq!(wins, OWNERS * i64::try_from(ROUNDS)?);
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctl_locks_around_a_command_and_elects() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let endpoints = format!("--endpoints={}", cluster.endpoints());
    let printed = tokio::task::spawn_blocking(move || -> Result<Vec<(i32, String, String)>> {
        let ctl = |args: &[&str]| -> Result<(i32, String, String)> {
            let output = Command::new(env!("CARGO_BIN_EXE_tripod"))
                .args(["ctl", &endpoints])
                .args(args)
                .output()?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let code = output.status.code().unwrap_or(-1);
            Ok((code, text(&output.stdout), text(&output.stderr)))
        };
        Ok(vec![
            ctl(&["lock", "L", "sh", "-c", "echo $ETCD_LOCK_KEY $ETCD_LOCK_REV; exit 7"])?,
            ctl(&["lock", "L", "--ttl=5", "true"])?,
            ctl(&["lock"])?,
            ctl(&["elect", "E"])?,
            ctl(&["get", "L", "--prefix"])?,
        ])
    })
    .await??;
    let [failed, done, no_name, no_value, left] = printed.try_into().expect("five");
    assert_eq!(failed.0, 7, "{failed:?}");
    assert!(failed.1.starts_with("L/") && failed.1.ends_with(" 2\n"), "{failed:?}");
    assert_eq!((done.0, done.1.as_str()), (0, ""), "{done:?}");
    assert_eq!(
        (no_name.0, no_name.2.as_str()),
        (128, "Error: lock takes a lock name argument and an optional command to execute\n")
    );
    assert_eq!(
        (no_value.0, no_value.2.as_str()),
        (128, "Error: no proposal argument but -l not set\n")
    );
    assert_eq!(left.1, "", "the lock was given back");
    cluster.close()
}
