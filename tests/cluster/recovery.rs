//! Stops, restarts and long absences: data, leases and watches go on where they were.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tripod::api::proto::etcdserverpb as pb;

use crate::{
    load::Watcher,
    support::{
        client::Client,
        cluster::{Cluster, Member, Options, START_LIMIT},
        history::Change,
        wait,
    },
};

/// Entries that etcd 3.5 always keeps behind a snapshot, without a flag to change it.
const KEPT_ENTRIES_35: usize = 5_000;
/// Time for a member to come back by a snapshot: below the 7 s of a request that is never answered,
/// as one would be that the snapshot already holds.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(6);
/// Writers that fill the log. Few: writes that wait together share an entry, and entries count here.
const WRITERS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_while_the_log_was_purged_catches_up_by_snapshot() -> Result<()> {
    let mut options = Options::candidate(3)?.flag("--snapshot-count=100");
    let mut writes = 6_000;
    if options.program.dialect >= (3, 6) {
        options = options.flag("--snapshot-catchup-entries=50");
    } else {
        writes += KEPT_ENTRIES_35;
    }
    let mut cluster = Cluster::start(options).await?;
    cluster.members[0].client().put("before", "1").await?;
    let away = (cluster.leader().await? + 1) % 3;
    cluster.members[away].kill()?;
    let before = cluster.members[away].log().len();
    let others: Vec<Client> =
        cluster.members.iter().filter(|one| one.is_started()).map(Member::client).collect();
    let start = Instant::now();
    fill(&others, writes).await?;
    eprintln!("catch-up: {writes} writes while away took {:?}", start.elapsed());

    let start = Instant::now();
    cluster.restart_missing().await?;
    let revision = cluster.members[away].client().revision().await?;
    cluster.agree_at(revision).await?;
    let caught_up = start.elapsed();
    eprintln!("catch-up: equal at revision {revision} {caught_up:?} after the start");
    // Real etcd may wait so.
    let is_ours = std::env::var_os("TRIPOD_SERVER_BIN").is_none();
    ensure!(caught_up < CAUGHT_UP_MAX || !is_ours, "it waits for what does not come");
    let log = cluster.members[away].log()[before..].to_lowercase();
    assert!(
        ["applied snapshot", "installed snapshot"].iter().any(|words| log.contains(words)),
        "the member caught up without a snapshot, so this proves nothing"
    );
    // What came by snapshot is on its own disk: it answers alone after another restart.
    cluster.members[away].kill()?;
    cluster.restart_missing().await?;
    cluster.agree_at(revision).await?;
    cluster.close()
}

/// Puts `count` values over a thousand keys from many tasks, each acknowledged.
async fn fill(members: &[Client], count: usize) -> Result<()> {
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = members[writer % members.len()].clone();
            tokio::spawn(async move {
                for number in (writer..count).step_by(WRITERS) {
                    let key = format!("fill/{:04}", number % 1_000);
                    let value = format!("{number} {}", "x".repeat(200));
                    client.put(key, value).await.context("put")?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_and_restart_of_all_members_keeps_everything() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    let client = cluster.members[0].client();
    let lease = grant(&client, 600).await?;
    for number in 0..300 {
        client.put(format!("key/{:02}", number % 40), number.to_string()).await?;
    }
    client.delete("key/07").await?;
    put_with_lease(&client, "leased", lease).await?;
    let compaction = pb::CompactionRequest { revision: 100, physical: true };
    client.kv().compact(compaction).await?;
    let revision = client.revision().await?;
    let (hash, pairs) = (cluster.agree_at(revision).await?, client.everything(0).await?.kvs);

    let start = Instant::now();
    for member in &cluster.members {
        member.signal(rustix::process::Signal::TERM)?;
    }
    for member in &mut cluster.members {
        let status = member.exit_within(crate::support::cluster::STOP_LIMIT)?;
        // etcd re-raises the signal once it has shut down; an exit code of 0 is as good.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
        ensure!(status.success() || by_signal, "{}: {status}", member.name);
    }
    let stopped = start.elapsed();
    let start = Instant::now();
    cluster.restart_missing().await?;
    eprintln!("restart: all stopped in {stopped:?}, healthy again in {:?}", start.elapsed());

    for member in &cluster.members {
        let client = member.client();
        ensure!(client.revision().await? == revision, "{}: another revision", member.name);
        ensure!(client.everything(0).await?.kvs == pairs, "{}: other pairs", member.name);
        let old = client.everything(99).await.err().context("compacted stays compacted")?;
        ensure!(old.message().contains("compacted"), "{old}");
        let events = client.events(101, revision).await?;
        ensure!(events.len() == usize::try_from(revision - 100)?, "{} events", events.len());
    }
    ensure!(cluster.agree_at(revision).await? == hash, "the hash changed");
    let client = cluster.members[1].client();
    let left = time_to_live(&client, lease).await?;
    ensure!(left.granted_ttl == 600 && left.ttl > 500, "lease: {left:?}");
    ensure!(left.keys == [Bytes::from_static(b"leased")], "lease: {left:?}");
    let next = client.put("next", "1").await?.header.map(|header| header.revision);
    ensure!(next == Some(revision + 1), "the next revision is {next:?}, not {revision} + 1");
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_survives_the_death_of_all_members_and_still_expires() -> Result<()> {
    const TTL_S: i64 = 3;
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    let client = cluster.members[0].client();
    let granted = Instant::now();
    let lease = grant(&client, TTL_S).await?;
    put_with_lease(&client, "short", lease).await?;
    client.put("forever", "1").await?;
    for member in &mut cluster.members {
        member.kill()?;
    }
    cluster.restart_missing().await?;
    let client = cluster.members[1].client();
    let early = client.get("short").await?;
    if granted.elapsed() < Duration::from_secs(TTL_S.unsigned_abs()) {
        ensure!(early.kvs.len() == 1, "the key went before its lease could expire");
    }
    wait::eventually("the lease expires", START_LIMIT, || async {
        ensure!(client.get("short").await?.kvs.is_empty(), "still there");
        Ok(())
    })
    .await?;
    let age = granted.elapsed();
    eprintln!("lease: {TTL_S} s lease with a restart in between was gone after {age:?}");
    ensure!(age >= Duration::from_secs(TTL_S.unsigned_abs()), "expired early");
    ensure!(client.get("forever").await?.kvs.len() == 1, "a key without lease went too");
    ensure!(time_to_live(&client, lease).await?.ttl == -1, "the lease is still known");
    let revision = client.revision().await?;
    cluster.agree_at(revision).await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_alive_lease_outlives_its_leader() -> Result<()> {
    const TTL_S: i64 = 4;
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    let leader = cluster.leader().await?;
    let client = cluster.members[(leader + 1) % 3].client();
    let lease = grant(&client, TTL_S).await?;
    put_with_lease(&client, "kept", lease).await?;
    cluster.members[leader].kill()?;
    let start = Instant::now();
    let mut renewals = 0;
    while start.elapsed() < Duration::from_secs(3 * TTL_S.unsigned_abs()) {
        renewals += usize::from(keep_alive(&client, lease).await.is_ok_and(|ttl| ttl > 0));
        if let Ok(answer) = client.get("kept").await {
            ensure!(answer.kvs.len() == 1, "gone after {:?}, {renewals} renewals", start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    ensure!(renewals > 5, "only {renewals} renewals went through");
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_at_another_member_without_a_gap() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    let first = cluster.members[0].client().revision().await?;
    let urls: Vec<String> = cluster.members.iter().map(Member::client_url).collect();
    let watcher = Watcher::start(urls, first + 1);
    for round in 0..6 {
        let down = round % 3;
        cluster.members[down].stop()?;
        let client = cluster.members[(down + 1) % 3].client();
        for number in 0..40 {
            // Without a leader for a moment the write may fail; then it is simply not expected.
            drop(client.put(format!("w/{number}"), format!("{round}/{number}")).await);
        }
        cluster.restart_missing().await?;
    }
    let client = cluster.members[0].client();
    let last = client.revision().await?;
    let events = client.events(first + 1, last).await?;
    let expected: Vec<Change> = events.iter().filter_map(Change::from_event).collect();
    ensure!(expected.len() > 100, "only {} changes", expected.len());
    watcher.check(&expected).await?;
    ensure!(watcher.reconnects() > 0, "the watch never lost its member");
    eprintln!("watch: {} changes over {} streams", expected.len(), watcher.reconnects() + 1);
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_stops_on_sigterm_while_clients_are_busy() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(1)?).await?;
    let client = cluster.members[0].client();
    let _watch = client.watch_everything(0).await?;
    let busy = tokio::spawn({
        let client = client.clone();
        async move {
            let mut acknowledged = 0_u64;
            while client.put("busy", (acknowledged + 1).to_string()).await.is_ok() {
                acknowledged += 1;
            }
            acknowledged
        }
    });
    wait::eventually("writes go through", START_LIMIT, || async {
        ensure!(!client.get("busy").await?.kvs.is_empty(), "no write yet");
        Ok(())
    })
    .await?;
    cluster.members[0].stop()?;
    let acknowledged = busy.await?;
    cluster.restart_missing().await?;
    let answer = cluster.members[0].client().get("busy").await?;
    let value = answer.kvs.first().context("the key is there")?.value.clone();
    let value: u64 = String::from_utf8_lossy(&value).parse()?;
    // The last write may have happened without its answer.
    ensure!((acknowledged..=acknowledged + 1).contains(&value), "{value}, not {acknowledged}");
    cluster.close()
}

async fn grant(client: &Client, ttl: i64) -> Result<i64> {
    let request = pb::LeaseGrantRequest { ttl, id: 0 };
    Ok(client.lease().lease_grant(request).await?.into_inner().id)
}

async fn put_with_lease(client: &Client, key: &'static str, lease: i64) -> Result<()> {
    let request = pb::PutRequest {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(b"leased"),
        lease,
        ..Default::default()
    };
    client.kv().put(request).await?;
    Ok(())
}

async fn time_to_live(client: &Client, id: i64) -> Result<pb::LeaseTimeToLiveResponse> {
    let request = pb::LeaseTimeToLiveRequest { id, keys: true };
    Ok(client.lease().lease_time_to_live(request).await?.into_inner())
}

/// One renewal on a stream of its own; the new TTL.
async fn keep_alive(client: &Client, id: i64) -> Result<i64> {
    let requests = futures::stream::iter([pb::LeaseKeepAliveRequest { id }]);
    let call = async {
        let mut lease = client.lease();
        let mut stream = lease.lease_keep_alive(requests).await?.into_inner();
        stream.message().await?.context("no answer").map(|answer| answer.ttl)
    };
    tokio::time::timeout(Duration::from_secs(2), call).await?
}
