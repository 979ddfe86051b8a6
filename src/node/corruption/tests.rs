use anyhow::{Context as _, Result, ensure};
use tripod_storage::command::{Command, Put};

use super::*;
use crate::node::{EngineKind, Member};

fn hash(hash: u32, revision: Revision, compact_revision: Revision) -> KvHash {
    KvHash { hash, revision, compact_revision }
}

#[test]
fn the_minority_is_corrupt_and_a_slow_member_is_not() {
    let own = hash(1, 10, 5);
    type Case<'a> = (&'a str, &'a [(NodeId, KvHash)], &'a [NodeId]);
    let cases: [Case; 7] = [
        ("all equal", &[(2, hash(1, 10, 5)), (3, hash(1, 10, 5))], &[]),
        ("one differs", &[(2, hash(1, 10, 5)), (3, hash(9, 10, 5))], &[3]),
        ("the leader differs", &[(2, hash(9, 10, 5)), (3, hash(9, 10, 5))], &[1]),
        ("two differ among themselves", &[(2, hash(8, 10, 5)), (3, hash(9, 10, 5))], &[2, 3]),
        ("one to one: the leader's word", &[(2, hash(9, 10, 5))], &[2]),
        ("another revision", &[(2, hash(9, 11, 5))], &[]),
        ("another compaction", &[(2, hash(9, 10, 4))], &[]),
    ];
    for (name, peers, want) in cases {
        let peers = peers.iter().copied().collect();
        assert_eq!(odd_ones_out(1, own, &peers), want, "{name}");
    }
}

/// Three members in this process with their folders.
async fn cluster(dir: &std::path::Path, change: impl Fn(&mut Config)) -> Result<Vec<Member>> {
    let configs = configs(dir, change)?;
    let starts = configs.into_iter().map(|config| Member::start_with(config, EngineKind::Disk));
    Ok(futures::future::try_join_all(starts).await?)
}

fn configs(dir: &std::path::Path, change: impl Fn(&mut Config)) -> Result<Vec<Config>> {
    let ports: Vec<std::net::TcpListener> =
        (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let urls: Vec<String> = ports
        .iter()
        .map(|port| Ok(format!("http://{}", port.local_addr()?)))
        .collect::<std::io::Result<_>>()?;
    let named: Vec<String> =
        urls.iter().enumerate().map(|(at, url)| format!("m{at}={url}")).collect();
    let config = |(at, url): (usize, &String)| {
        let mut config = Config {
            name: format!("m{at}"),
            data_dir: dir.join(format!("m{at}")),
            listen_client_urls: crate::config::Urls::default(),
            listen_peer_urls: url.parse()?,
            initial_advertise_peer_urls: url.parse()?,
            initial_cluster: named.join(",").parse()?,
            ..Config::default()
        };
        change(&mut config);
        config.complete();
        Ok(config)
    };
    urls.iter().enumerate().map(config).collect()
}

/// Changes a value behind the back of consensus, in one member's state alone.
fn flip(member: &Member) -> Result<()> {
    write(member, "flipped")
}

/// Writes a value behind the back of consensus.
fn write(member: &Member, value: &'static str) -> Result<()> {
    let mut machine = member.client().node().state().write();
    let mark = machine.mark().cloned().context("something was applied")?;
    let put = Put { key: "k".into(), value: value.into(), ..Put::default() };
    machine.apply(mark, vec![Command::Put(put)])?;
    Ok(())
}

async fn leader(members: &[Member]) -> Result<usize> {
    for _ in 0..500 {
        if let Some(at) = members.iter().position(|member| member.client().node().is_leader()) {
            return Ok(at);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no leader")
}

async fn raised(members: &[Member]) -> Result<Vec<(u64, AlarmKind)>> {
    for _ in 0..1000 {
        let (_, alarms) = members[0].client().alarms(None).unwrap();
        if !alarms.is_empty() {
            return Ok(alarms);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no alarm")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_value_raises_the_alarm_and_stops_writes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let members =
        cluster(dir.path(), |config| config.corrupt_check_time = Duration::from_millis(300))
            .await?;
    members[0].client().set("k", "v").await?;
    let leader = leader(&members).await?;
    let odd = (leader + 1) % 3;
    flip(&members[odd])?;
    // The others reach the revision that the odd one is at already.
    members[leader].client().set("k", "w").await?;
    let alarms = raised(&members).await?;
    assert_eq!(alarms, [(members[odd].client().identity().member_id, AlarmKind::Corrupt)]);
    let refused = members[leader].client().set("k", "x").await;
    assert_eq!(refused.map_err(|e| e.to_string()), Err("etcdserver: corrupt cluster".to_owned()));
    assert!(members[leader].client().get("k").await?.is_some(), "reads go on");
    for member in members {
        member.shutdown().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_members_pass_all_checks_while_written_to() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tune = |config: &mut Config| {
        config.corrupt_check_time = Duration::from_millis(50);
        config.compact_hash_check = true;
        config.compact_hash_check_time = Duration::from_millis(50);
        config.initial_corrupt_check = true;
    };
    let members = cluster(dir.path(), tune).await?;
    for at in 0..300 {
        let client = members[at % 3].client();
        let revision = client.set(format!("k{}", at % 7), format!("{at}")).await?;
        if at % 50 == 49 {
            client.compact(revision - 5, false).await?;
        }
    }
    let (_, alarms) = members[0].client().alarms(None).unwrap();
    assert_eq!(alarms, []);
    for member in members {
        member.shutdown().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_data_differ_does_not_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let configs = configs(dir.path(), |config| config.initial_corrupt_check = true)?;
    let starts = configs.clone().into_iter();
    let starts = starts.map(|config| Member::start_with(config, EngineKind::Disk));
    let mut members = futures::future::try_join_all(starts).await?;
    members[0].client().set("k", "v").await?;
    // All at one revision, so that they stay comparable whenever the member catches up.
    write(&members[0], "right")?;
    write(&members[1], "right")?;
    flip(&members[2])?;
    // The flipped value reaches the engine with the next flush, the mark with it.
    members[2].client().defragment().await?;
    members.pop().context("three")?.shutdown().await;
    let again = Member::start_with(configs[2].clone(), EngineKind::Disk).await;
    let error = again.map(drop).expect_err("its data differ");
    ensure!(error.to_string().contains("found data inconsistency with peers"), "{error}");
    for member in members {
        member.shutdown().await;
    }
    Ok(())
}
