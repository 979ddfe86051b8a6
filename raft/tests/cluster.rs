//! Whole members in one process over the in-memory network, with real logs on disk.

#![allow(clippy::unwrap_used, missing_docs)]

#[expect(unreachable_pub, reason = "shared by several test programs")]
mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{Cluster, eventually, get, put};
use tripod_raft::{
    Bootstrap, CallError, Config, MemberError, Node, Peer, ProposeError, ReadError,
    testing::{TcpTransport, TestNetwork, serve_tcp},
};
use tripod_storage::engine::{SledEngine, SledOptions};

#[tokio::test]
async fn one_member_applies_and_reads_what_it_was_told() {
    let mut cluster = Cluster::new(1, 1).await;
    let node = cluster.node(1);
    node.wait_leader(Duration::from_secs(5)).await.unwrap();
    let first = node.propose(put("a", "1")).await.unwrap();
    let second = node.propose(put("a", "2")).await.unwrap();
    assert!(second.index > first.index);
    assert_eq!(second.applied.revision, first.applied.revision + 1);
    node.read_index().await.unwrap();
    assert_eq!(get(&node, "a"), Some("2".into()));
    let status = node.status();
    assert_eq!(status.leader, Some(1));
    assert_eq!(status.applied_index, second.index);
    cluster.restart(1).await;
    let node = cluster.node(1);
    node.read_index().await.unwrap();
    assert_eq!(get(&node, "a"), Some("2".into()));
    cluster.kill(1).await;
    cluster.start(1);
    let node = cluster.node(1);
    node.read_index().await.unwrap();
    assert_eq!(get(&node, "a"), Some("2".into()));
    cluster.shutdown().await;
}

/// Whoever asks all members right after a start must not find none.
#[tokio::test]
async fn a_member_that_starts_again_knows_its_cluster_at_once() {
    let mut cluster = Cluster::new(3, 1).await;
    cluster.node(1).propose(put("a", "1")).await.unwrap();
    for _ in 0..20 {
        cluster.kill(1).await;
        cluster.start(1);
        assert_eq!(cluster.node(1).status().members.len(), 3);
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn three_members_take_writes_anywhere_and_go_on_without_their_leader() {
    let mut cluster = Cluster::new(3, 2).await;
    let leader = cluster.leader().await;
    for id in 1..=3 {
        let node = cluster.node(id);
        let key = format!("from-{id}");
        node.propose(put(&key, "x")).await.unwrap();
        // Read your own write on the same member, without asking anybody.
        assert_eq!(get(&node, &key), Some("x".into()));
    }
    cluster.kill(leader).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let begun = std::time::Instant::now();
    cluster.node(others[0]).propose(put("after", "y")).await.unwrap();
    let gap = begun.elapsed();
    assert!(gap < Duration::from_secs(4), "writes went on after {gap:?}");
    let other = cluster.node(others[1]);
    other.read_index().await.unwrap();
    assert_eq!(get(&other, "after"), Some("y".into()));
    cluster.start(leader);
    let back = cluster.node(leader);
    back.read_index().await.unwrap();
    assert_eq!(get(&back, "after"), Some("y".into()));
    cluster.shutdown().await;
}

/// Writes `count` values under numbered keys, many at a time.
async fn fill(node: &Node, prefix: &str, count: u64) {
    let port = node.port();
    let driver = tokio::spawn(port.drive());
    let puts: Vec<_> =
        (0..count).map(|at| port.propose(put(&format!("{prefix}{at}"), "filled"))).collect();
    for put in puts {
        put.await.unwrap();
    }
    driver.abort();
}

fn hash(node: &Node) -> (u32, i64) {
    let (hash, revision, _) = node.state().read().hash_kv(0).unwrap().unwrap();
    (hash, revision)
}

/// Waits until all running members hold the same.
async fn agree(cluster: &Cluster) {
    let leader = cluster.leader().await;
    cluster.node(leader).propose(put("agreed", "now")).await.unwrap();
    eventually("all members hold the same", || {
        let mut hashes = cluster.nodes().map(|(_, node)| hash(node));
        let first = hashes.next()?;
        hashes.all(|other| other == first).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_follower_away_while_the_log_was_cut_catches_up_by_snapshot() {
    let mut cluster = Cluster::tuned(3, 3, |config| {
        config.snapshot_count = 50;
        config.snapshot_catchup_entries = 10;
        config.batches_in_flight = 1;
    })
    .await;
    let leader = cluster.leader().await;
    let away = if leader == 3 { 2 } else { 3 };
    fill(&cluster.node(leader), "before-", 10).await;
    cluster.kill(away).await;
    let node = cluster.node(leader);
    // One entry each: the log is cut by entries, not by bytes.
    for at in 0..300 {
        node.propose(put(&format!("while-away-{at}"), "x")).await.unwrap();
    }
    cluster.start(away);
    let back = cluster.node(away);
    eventually("a snapshot is installed", || (back.metrics().snapshots_received > 0).then_some(()))
        .await;
    back.read_index().await.unwrap();
    assert_eq!(get(&back, "while-away-299"), Some("x".into()));
    assert_eq!(get(&back, "before-0"), Some("filled".into()));
    // What was installed survives a crash, and the member goes on from there.
    drop(back);
    cluster.kill(away).await;
    cluster.start(away);
    cluster.node(away).read_index().await.unwrap();
    assert_eq!(get(&cluster.node(away), "while-away-299"), Some("x".into()));
    agree(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn members_are_added_promoted_and_removed_for_ever() {
    let mut cluster = Cluster::new(1, 4).await;
    let first = cluster.node(1);
    first.wait_leader(Duration::from_secs(5)).await.unwrap();
    fill(&first, "k", 100).await;

    first.add_learner(2, TestNetwork::peer(2)).await.unwrap();
    assert_eq!(first.add_learner(2, TestNetwork::peer(9)).await, Err(MemberError::IdExists));
    assert_eq!(first.add_learner(9, TestNetwork::peer(2)).await, Err(MemberError::PeerUrlExists));
    assert_eq!(first.promote(2).await, Err(MemberError::LearnerNotReady), "not started");
    // A learner that is not there costs nothing.
    first.propose(put("alone", "x")).await.unwrap();
    cluster.start(2);
    let second = cluster.node(2);
    eventually("the learner has caught up", || (get(&second, "alone").is_some()).then_some(()))
        .await;
    assert!(second.status().is_learner);
    assert!(first.status().members[&2].is_learner);
    // Asked on the learner, done by the leader.
    until_ok("promote", || second.promote(2)).await;
    assert_eq!(first.promote(2).await, Err(MemberError::NotLearner));
    eventually("the second member votes", || (!second.status().is_learner).then_some(())).await;
    first.read_index().await.unwrap();
    second.read_index().await.unwrap();

    // A voter added before it was started does not endanger the quorum of two.
    first.add_voter(3, TestNetwork::peer(3)).await.unwrap();
    first.propose(put("still", "quorate")).await.unwrap();
    cluster.start(3);
    let third = cluster.node(3);
    eventually("the third member votes", || {
        let status = third.status();
        (status.members.len() == 3 && !status.is_learner).then_some(())
    })
    .await;
    agree(&cluster).await;

    first.remove(2).await.unwrap();
    assert_eq!(first.remove(2).await, Err(MemberError::NotFound));
    assert_eq!(
        first.add_learner(2, TestNetwork::peer(2)).await,
        Err(MemberError::IdExists),
        "ids are not reused"
    );
    cluster.remove(2).await;
    first.propose(put("two", "left")).await.unwrap();
    third.read_index().await.unwrap();
    assert_eq!(get(&third, "two"), Some("left".into()));

    first.update_urls(3, vec!["mem://3".into(), "mem://33".into()]).await.unwrap();
    assert_eq!(first.status().members[&3].peer.peer_urls.len(), 2);
    // Down to one voter, the local read shortcut comes back only then.
    first.remove(3).await.unwrap();
    cluster.remove(3).await;
    first.propose(put("one", "left")).await.unwrap();
    first.read_index().await.unwrap();
    assert_eq!(first.remove(1).await, Err(MemberError::NotEnoughStarted), "the last one stays");
    cluster.shutdown().await;
}

/// Repeats a change until it is accepted.
async fn until_ok<F: Future<Output = Result<(), MemberError>>>(what: &str, make: impl Fn() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match make().await {
            Ok(()) => return,
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{what}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[tokio::test]
async fn leadership_moves_on_request_and_only_to_who_can_take_it() {
    let mut cluster = Cluster::new(3, 5).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let load = {
        let node = cluster.node(leader);
        tokio::spawn(async move {
            for at in 0..300 {
                if let Err(error) = node.propose(put(&format!("load-{at}"), "x")).await {
                    return Err((at, error));
                }
            }
            Ok(())
        })
    };
    // Asked on a follower while writes go on.
    until_ok("transfer", || async { cluster.node(others[0]).transfer_leader(others[1]).await })
        .await;
    assert_eq!(cluster.leader().await, others[1]);
    load.await.unwrap().unwrap();
    let new_leader = cluster.node(others[1]);
    new_leader.propose(put("moved", "x")).await.unwrap();

    cluster.kill(others[0]).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let refused = new_leader.transfer_leader(others[0]).await;
    assert!(matches!(refused, Err(MemberError::TransfereeNotReady(_))), "{refused:?}");
    // Refusing did not disturb the leader.
    new_leader.propose(put("undisturbed", "x")).await.unwrap();
    assert_eq!(new_leader.leader(), Some(others[1]));
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_serves_no_linearizable_read() {
    let cluster = Cluster::new(3, 6).await;
    let old = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let deposed = cluster.node(old);
    deposed.propose(put("x", "old")).await.unwrap();
    cluster.network.cut(&[old], &others);
    // Begun while it still believes to lead: must wait, whatever happens.
    let read = tokio::spawn({
        let node = deposed.clone();
        async move {
            node.read_index().await?;
            Ok::<_, ReadError>(get(&node, "x"))
        }
    });
    let write = tokio::spawn({
        let node = deposed.clone();
        async move { node.propose(put("lost", "x")).await }
    });
    let next = cluster.node(others[0]);
    next.propose(put("x", "new")).await.unwrap();
    assert!(!read.is_finished(), "a read was answered without a quorum");
    assert_eq!(get(&deposed, "x"), Some("old".into()), "a serializable read may be old");
    cluster.network.heal();
    match read.await.unwrap() {
        Ok(value) => assert_eq!(value, Some("new".into())),
        Err(error) => assert_eq!(error, ReadError::Timeout),
    }
    // Its own write was never committed by it; it is lost or committed later, but never both
    // acknowledged and lost.
    if write.await.unwrap().is_ok() {
        next.read_index().await.unwrap();
        assert_eq!(get(&next, "lost"), Some("x".into()));
    }
    agree(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn garbage_on_the_peer_port_is_refused_and_disturbs_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cluster = Cluster::new(3, 7).await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader);
    let knock = |bytes: Vec<u8>| {
        let node = node.clone();
        async move {
            let (mut near, far) = tokio::io::duplex(1 << 16);
            let server = node.clone();
            node.spawn_on_consensus(move || {
                Box::pin(async move { server.serve_peer(Box::new(far), Default::default()).await })
            })
            .unwrap();
            near.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            let read = near.read_to_end(&mut answer);
            tokio::time::timeout(Duration::from_secs(8), read).await.expect("closed").unwrap();
            answer
        }
    };
    let greeting = |cluster_id: u64, lane: u8, to: u64| {
        let mut hello = b"TRIPODp\n".to_vec();
        hello.extend_from_slice(&1_u16.to_le_bytes());
        hello.extend_from_slice(&[lane, 0]);
        for number in [cluster_id, 2, to] {
            hello.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&hello);
        hello.extend_from_slice(&crc.to_le_bytes());
        hello
    };
    let cases = [
        ("http", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n0123456789abcdef".to_vec()),
        ("zeros", vec![0; 4096]),
        ("half a greeting, then silence", greeting(77, 1, leader)[..20].to_vec()),
        ("another cluster", greeting(78, 1, leader)),
        ("another member", greeting(77, 1, 99)),
        ("unknown lane", greeting(77, 9, leader)),
        ("a frame that is too long", [greeting(77, 0, leader), vec![0xff; 64]].concat()),
        ("a frame with a bad checksum", {
            let frame = [&10_u32.to_le_bytes()[..], &[1; 23]].concat();
            [greeting(77, 1, leader), frame].concat()
        }),
        ("an unknown message", {
            let rest = [&[200_u8][..], &7_u64.to_le_bytes()].concat();
            let crc = crc32c::crc32c(&rest);
            let frame = [&0_u32.to_le_bytes()[..], &crc.to_le_bytes(), &rest].concat();
            [greeting(77, 1, leader), frame].concat()
        }),
    ];
    let before = node.metrics().peers_refused;
    for ((name, bytes), refused) in cases.into_iter().zip(1..) {
        let answer = knock(bytes).await;
        assert!(answer.len() <= 24, "{name}: at most a refusal, got {} bytes", answer.len());
        eventually(name, || (node.metrics().peers_refused >= before + refused).then_some(())).await;
        node.propose(put(name, "x")).await.unwrap();
    }
    assert_eq!(node.leader(), Some(leader), "still the leader");
    agree(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn calls_reach_the_leader_from_everywhere() {
    let cluster = Cluster::new(3, 8).await;
    cluster.leader().await;
    for (&id, node) in cluster.nodes() {
        node.on_call(7, move |request| {
            Box::pin(async move { [&request[..], &id.to_be_bytes()].concat().into() })
        });
    }
    let leader = cluster.leader().await;
    for (_, node) in cluster.nodes() {
        let answer = node.call_leader(7, "hello".into()).await.unwrap();
        assert_eq!(answer, [b"hello", &leader.to_be_bytes()[..]].concat());
        assert_eq!(node.call_leader(8, "x".into()).await, Err(CallError::UnknownKind(8)));
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn dropped_futures_and_refused_requests_leave_nothing_behind() {
    let cluster = Cluster::new(1, 9).await;
    let node = cluster.node(1);
    node.wait_leader(Duration::from_secs(5)).await.unwrap();
    let port = node.port();
    let driver = tokio::spawn(port.drive());
    for at in 0..1_000 {
        let future = port.propose(put(&format!("dropped-{at}"), "x"));
        if at % 3 == 0 {
            drop(future);
        } else {
            drop(tokio::spawn(future));
        }
        drop(port.read_index());
    }
    let huge = "x".repeat(2 << 20);
    assert_eq!(port.propose(put("huge", &huge)).await, Err(ProposeError::TooLarge));
    port.propose(put("last", "x")).await.unwrap();
    assert_eq!(get(&node, "dropped-0"), Some("x".into()), "a dropped proposal still happens");
    assert_eq!(get(&node, "huge"), None);
    let waiting = port.propose(put("at-the-end", "x"));
    cluster.shutdown().await;
    assert!(matches!(waiting.await, Ok(_) | Err(ProposeError::Stopped)));
    driver.await.unwrap();
    assert_eq!(port.propose(put("after", "x")).await, Err(ProposeError::Stopped));
    assert_eq!(node.read_index().await, Err(ReadError::Stopped));
}

#[tokio::test]
async fn members_on_tcp_and_sled_restart_from_disk_and_survive_their_leader() {
    let dir = tempfile::tempdir().unwrap();
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses: Vec<_> = (0..3).map(|_| listen().local_addr().unwrap()).collect();
    let peers: BTreeMap<u64, Peer> =
        (1..=3).zip(&addresses).map(|(id, at)| (id, Peer::at(format!("tcp://{at}")))).collect();
    let start = |id: u64, bootstrap: Bootstrap| {
        let folder = dir.path().join(id.to_string());
        let engine = SledEngine::open(&folder.join("db"), &SledOptions::default()).unwrap();
        let mut config = Config::new(id, 5, folder);
        config.wal_segment_bytes = 1 << 20;
        let hook = Arc::new(|reason: &str| eprintln!("must stop: {reason}"));
        let node =
            Node::start(config, bootstrap, Arc::new(engine), Arc::new(TcpTransport), hook).unwrap();
        let at = addresses[usize::try_from(id - 1).unwrap()];
        let listener = std::net::TcpListener::bind(at).unwrap();
        serve_tcp(&node, listener).unwrap();
        node
    };
    let mut nodes: BTreeMap<u64, Node> =
        (1..=3).map(|id| (id, start(id, Bootstrap::New { members: peers.clone() }))).collect();
    let leader = nodes[&1].wait_leader(Duration::from_secs(10)).await.unwrap();
    for (id, node) in &nodes {
        node.propose(put(&format!("from-{id}"), "x")).await.unwrap();
    }
    nodes.remove(&leader).unwrap().kill().await;
    let begun = std::time::Instant::now();
    let rest = nodes.values().next().unwrap().clone();
    rest.propose(put("after", "x")).await.unwrap();
    eprintln!("writes went on after {:?}", begun.elapsed());
    drop(rest);
    for node in std::mem::take(&mut nodes).into_values() {
        node.shutdown().await;
    }
    // All from disk, the killed one too.
    nodes = (1..=3).map(|id| (id, start(id, Bootstrap::Existing))).collect();
    for node in nodes.values() {
        node.wait_leader(Duration::from_secs(10)).await.unwrap();
        node.read_index().await.unwrap();
        for key in ["from-1", "from-2", "from-3", "after"] {
            assert_eq!(get(node, key), Some("x".into()), "{key}");
        }
    }
    for node in nodes.into_values() {
        node.shutdown().await;
        assert!(!node.has_failed());
    }
}
