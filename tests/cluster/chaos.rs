//! Kills under load: nothing acknowledged is lost, answers stay linearizable, members agree.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    load::{Load, Watcher},
    support::{
        checker::{self, Summary},
        client::Client,
        cluster::{Cluster, Member, Options},
        history::{Change, History, Pair, text},
        random::{Random, number, seed},
    },
};

/// Rounds when `TRIPOD_CHAOS_ROUNDS` does not say otherwise.
const ROUNDS: u64 = 20;
/// Tasks that read and write.
const CLIENTS: usize = 8;
/// Every so many rounds all members die at once.
const ALL_AT_ONCE_EVERY: u64 = 5;
/// History kept behind when a round compacts, in revisions.
const COMPACT_BEHIND: i64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_members_are_killed_under_load() -> Result<()> {
    let seed = seed();
    let rounds = number("TRIPOD_CHAOS_ROUNDS").unwrap_or(ROUNDS);
    eprintln!("chaos: TRIPOD_TEST_SEED={seed} TRIPOD_CHAOS_ROUNDS={rounds}");
    let outcome = chaos(seed, rounds).await;
    let report = outcome.with_context(|| format!("seed {seed}"))?;
    eprintln!("chaos: {report:?}");
    ensure!(report.summary.answered > 100, "too little load to prove anything: {report:?}");
    ensure!(report.watch_reconnects > 0, "the watcher never had to reconnect: {report:?}");
    Ok(())
}

/// What a run did.
#[derive(Debug, Default)]
struct Report {
    kills: usize,
    leader_kills: usize,
    watch_reconnects: i64,
    slowest_recovery: Duration,
    summary: Summary,
}

async fn chaos(seed: u64, rounds: u64) -> Result<Report> {
    let mut random = Random::new(seed);
    // Few entries between snapshots, so that restarts and catch-up go through them too.
    let options = Options::candidate(3)?.flag("--snapshot-count=500");
    let mut cluster = Cluster::start(options).await?;
    let urls: Vec<String> = cluster.members.iter().map(Member::client_url).collect();
    let first = cluster.members[0].client().revision().await?;
    let load = Load::start(urls.clone(), CLIENTS, &mut random);
    let watcher = Watcher::start(urls, first + 1);
    let mut report = Report::default();
    let mut changes = Vec::new();
    for round in 1..=rounds {
        pause(300, 900, &mut random).await;
        kill_some(&mut cluster, round, &mut random, &mut report).await?;
        pause(0, 900, &mut random).await;
        let start = Instant::now();
        cluster.restart_missing().await.with_context(|| format!("round {round}: restart"))?;
        report.slowest_recovery = report.slowest_recovery.max(start.elapsed());

        let guard = load.quiet().await;
        let checked = verify(&cluster, first, &mut changes, &load, &mut random).await;
        report.summary = checked.with_context(|| format!("round {round}"))?;
        watcher.check(&changes).await.with_context(|| format!("round {round}"))?;
        if random.chance(30) {
            compact(&cluster, &changes, &mut random).await?;
        }
        drop(guard);
        eprintln!("chaos: round {round}: {:?}", report.summary);
    }
    load.finish().await?;
    report.watch_reconnects = watcher.reconnects();
    cluster.close()?;
    Ok(report)
}

async fn pause(low_ms: i64, high_ms: i64, random: &mut Random) {
    let time = random.between(low_ms, high_ms).unsigned_abs();
    tokio::time::sleep(Duration::from_millis(time)).await;
}

async fn kill_some(
    cluster: &mut Cluster,
    round: u64,
    random: &mut Random,
    report: &mut Report,
) -> Result<()> {
    if round.is_multiple_of(ALL_AT_ONCE_EVERY) {
        for member in &mut cluster.members {
            member.kill()?;
            report.kills += 1;
        }
        return Ok(());
    }
    let leader = cluster.leader().await?;
    let victim = if random.chance(40) { leader } else { random.below(cluster.members.len()) };
    cluster.members[victim].kill()?;
    report.kills += 1;
    report.leader_kills += usize::from(victim == leader);
    // Now and then a second one: no quorum until the restart.
    if random.chance(15) {
        cluster.members[(victim + 1) % 3].kill()?;
        report.kills += 1;
    }
    Ok(())
}

/// Compares what was acknowledged with what is there, on every member.
async fn verify(
    cluster: &Cluster,
    first: i64,
    changes: &mut Vec<Change>,
    load: &Load,
    random: &mut Random,
) -> Result<Summary> {
    let witness = random.pick(&cluster.members).client();
    let last = witness.revision().await?;
    let known = changes.last().map_or(first, |change| change.revision);
    for event in witness.events(known + 1, last).await? {
        changes.push(Change::from_event(&event).context("an event has a key")?);
    }
    cluster.agree_at(last).await?;
    let expected = replay(changes);
    for member in &cluster.members {
        let have = contents(&member.client(), last).await?;
        ensure!(have == expected, "{} differs from its history at {last}", member.name);
    }
    let history = History { operations: load.operations(), changes: changes.clone() };
    checker::check(&history, first).map_err(|violations| {
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("not linearizable:\n{}", lines.join("\n"))
    })
}

fn replay(changes: &[Change]) -> BTreeMap<String, Pair> {
    let mut state = BTreeMap::new();
    for Change { key, pair, .. } in changes {
        match pair {
            Some(pair) => state.insert(key.clone(), pair.clone()),
            None => state.remove(key),
        };
    }
    state
}

async fn contents(client: &Client, revision: i64) -> Result<BTreeMap<String, Pair>> {
    let answer = client.everything(revision).await?;
    Ok(answer.kvs.iter().map(|kv| (text(&kv.key), Pair::from(kv))).collect())
}

async fn compact(cluster: &Cluster, changes: &[Change], random: &mut Random) -> Result<()> {
    let Some(last) = changes.last() else { return Ok(()) };
    let revision = last.revision - COMPACT_BEHIND;
    if revision < 2 {
        return Ok(());
    }
    let request = tripod::api::proto::etcdserverpb::CompactionRequest { revision, physical: true };
    let member = random.pick(&cluster.members);
    match member.client().kv().compact(request).await {
        Ok(_) => Ok(()),
        // An earlier round may have compacted there already.
        Err(status) if status.message().contains("compacted") => Ok(()),
        Err(status) => Err(status.into()),
    }
}
