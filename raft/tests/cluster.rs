//! Whole members in one process over the in-memory network, with real logs on disk.

#![allow(clippy::unwrap_used, missing_docs)]

#[expect(unreachable_pub, reason = "shared by several test programs")]
mod common;

use std::time::Duration;

use common::{Cluster, get, put};

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
