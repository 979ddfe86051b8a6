//! Who belongs to the cluster: joining, leaving, going on alone, and never by accident.

#![allow(clippy::unwrap_used, missing_docs)]

#[expect(unreachable_pub, reason = "shared by several test programs")]
mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{Cluster, eventually, get, put};
use tripod_raft::{Bootstrap, ClusterInfo, MemberError, Node, testing::TestNetwork};

/// Seeds of the random membership changes.
const SEEDS: [u64; 3] = [1, 2, 3];
/// Changes tried with each of them.
const STEPS: usize = 40;
/// Ids used: the first one leads, the others come and go.
const IDS: u64 = 5;

fn url(id: u64, generation: u64) -> Vec<String> {
    // The first is the address in the test network, the second only makes them differ.
    vec![format!("mem://{id}"), format!("mem://x{id}-{generation}")]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Voter,
    Learner,
}

/// What the members should be: id, role and URLs.
type Model = BTreeMap<u64, (Role, Vec<String>)>;

fn members(node: &Node) -> Model {
    let role = |learner: bool| if learner { Role::Learner } else { Role::Voter };
    let status = node.status();
    status.members.into_iter().map(|(id, m)| (id, (role(m.is_learner), m.peer.peer_urls))).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// An update of URLs changes URLs: it makes no learner a voter (etcd 3.6.12) and no voter a
/// learner; a removed id never comes back; every refusal changes nothing.
#[tokio::test]
async fn members_are_what_a_model_says_after_every_change() {
    for seed in SEEDS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut cluster = Cluster::new(1, seed).await;
        cluster.leader().await;
        let leader = cluster.node(1);
        let mut model = members(&leader);
        let mut removed: Vec<u64> = Vec::new();
        for step in 0..STEPS {
            let id = 2 + random.below(IDS - 1);
            let generation = random.below(1_000_000);
            let context = format!("seed {seed}, step {step}, member {id}");
            let known = model.get(&id).cloned();
            match random.below(5) {
                0 | 1 => {
                    let peer = tripod_raft::Peer {
                        peer_urls: url(id, generation),
                        ..tripod_raft::Peer::default()
                    };
                    let added = leader.add_learner(id, peer).await;
                    if known.is_some() || removed.contains(&id) {
                        assert_eq!(added, Err(MemberError::IdExists), "{context}");
                    } else {
                        assert_eq!(added, Ok(()), "{context}");
                        model.insert(id, (Role::Learner, url(id, generation)));
                        cluster.start_as(id, Bootstrap::Join);
                    }
                }
                2 => {
                    let promoted = match known {
                        Some((Role::Learner, _)) => {
                            let wanted = leader.clone();
                            promote_when_ready(&wanted, id).await;
                            model.get_mut(&id).unwrap().0 = Role::Voter;
                            continue;
                        }
                        Some((Role::Voter, _)) => {
                            (leader.promote(id).await, MemberError::NotLearner)
                        }
                        None => (leader.promote(id).await, MemberError::NotFound),
                    };
                    assert_eq!(promoted.0, Err(promoted.1), "{context}");
                }
                3 => {
                    let updated = leader.update_urls(id, url(id, generation)).await;
                    match model.get_mut(&id) {
                        Some((_, urls)) => {
                            assert_eq!(updated, Ok(()), "{context}");
                            *urls = url(id, generation);
                        }
                        None => assert_eq!(updated, Err(MemberError::NotFound), "{context}"),
                    }
                }
                _ => {
                    let gone = leader.remove(id).await;
                    if known.is_some() {
                        assert_eq!(gone, Ok(()), "{context}");
                        model.remove(&id);
                        removed.push(id);
                        cluster.remove(id).await;
                    } else {
                        assert_eq!(gone, Err(MemberError::NotFound), "{context}");
                    }
                }
            }
            assert_eq!(members(&leader), model, "{context}");
        }
        cluster.shutdown().await;
    }
}

async fn promote_when_ready(leader: &Node, id: u64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match leader.promote(id).await {
            Ok(()) => return,
            Err(MemberError::LearnerNotReady) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => panic!("member {id} is not promoted: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stranger_is_told_who_is_in_the_cluster() {
    let cluster = Cluster::new(3, 7).await;
    let leader = cluster.leader().await;
    let peer = TestNetwork::peer(9);
    cluster.node(leader).add_learner(9, peer.clone()).await.unwrap();
    let transport = cluster.network.transport(100);
    let info = ClusterInfo::ask(&*transport, &TestNetwork::peer(leader).peer_urls).await.unwrap();
    assert_eq!(info.cluster_id, 77);
    assert_eq!(info.members.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 9]);
    assert_eq!(info.members[&9].peer_urls, peer.peer_urls);
    assert!(info.members[&9].is_learner && !info.members[&1].is_learner);
    assert!(ClusterInfo::ask(&*transport, &TestNetwork::peer(50).peer_urls).await.is_err());
    cluster.node(leader).remove(9).await.unwrap();
    let info = ClusterInfo::ask(&*transport, &TestNetwork::peer(leader).peer_urls).await.unwrap();
    assert!(info.removed.contains(&9));
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_survivor_goes_on_alone_with_all_it_had() {
    let mut cluster = Cluster::new(3, 8).await;
    let leader = cluster.leader().await;
    for at in 0..20 {
        cluster.node(leader).propose(put(&format!("k{at}"), "v")).await.unwrap();
    }
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    cluster.start_as(leader, Bootstrap::Alone);
    let alone = cluster.node(leader);
    alone.read_index().await.unwrap();
    for at in 0..20 {
        assert_eq!(get(&alone, &format!("k{at}")), Some("v".into()), "k{at}");
    }
    assert_eq!(members(&alone).keys().copied().collect::<Vec<_>>(), [leader]);
    alone.propose(put("after", "1")).await.unwrap();
    // The others may not come back, and a second start changes nothing.
    let other = if leader == 1 { 2 } else { 1 };
    let back = alone.add_learner(other, TestNetwork::peer(other)).await;
    assert_eq!(back, Err(MemberError::IdExists));
    let term = alone.term();
    cluster.kill(leader).await;
    cluster.start_as(leader, Bootstrap::Alone);
    let alone = cluster.node(leader);
    alone.read_index().await.unwrap();
    assert_eq!(get(&alone, "after"), Some("1".into()));
    assert!(alone.term() > term);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_member_that_is_removed_while_it_runs_stops() {
    let mut cluster = Cluster::new(3, 9).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    // One that runs hears of it, or is refused by all others from then on.
    cluster.node(leader).remove(others[0]).await.unwrap();
    let running = cluster.node(others[0]);
    eventually("the running member stops", || running.has_failed().then_some(())).await;
    cluster.remove(others[0]).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_member_removed_while_it_was_down_stops_when_it_is_started() {
    let mut cluster = Cluster::new(3, 10).await;
    let leader = cluster.leader().await;
    let away = if leader == 3 { 2 } else { 3 };
    cluster.kill(away).await;
    cluster.node(leader).remove(away).await.unwrap();
    cluster.start_as(away, Bootstrap::Existing);
    let started = cluster.node(away);
    eventually("the removed member stops", || started.has_failed().then_some(())).await;
    cluster.remove(away).await;
    cluster.node(leader).propose(put("undisturbed", "1")).await.unwrap();
    cluster.shutdown().await;
}
