//! Seeded faults against a cluster under load: nothing acknowledged is lost, nothing is read
//! that is older than what was acknowledged before, and all members end up equal.
//!
//! `CHAOS_SEED` and `CHAOS_SECONDS` choose the run.

#![allow(clippy::unwrap_used, missing_docs)]

#[expect(unreachable_pub, reason = "shared by several test programs")]
mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Cluster, eventually, get, put};
use tripod_raft::Node;

/// xorshift: the faults of a seed are the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

type Nodes = Arc<Mutex<BTreeMap<u64, Node>>>;

/// What one client wrote, each time a key of its own: a write without an answer may take effect
/// at any later time, so it must not overwrite an acknowledged one.
#[derive(Default)]
struct Written {
    acknowledged: Vec<u64>,
    attempted: u64,
}

fn key(client: u64, number: u64) -> String {
    format!("client-{client}-{number}")
}

/// Writes through changing members and reads back, linearizably, through the next one.
async fn client(
    id: u64,
    nodes: Nodes,
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<Written>>,
    reads: Arc<AtomicU64>,
) {
    let mut member = id;
    while !stop.load(Ordering::SeqCst) {
        member = member % 3 + 1;
        let node = nodes.lock().unwrap().get(&member).cloned();
        let Some(node) = node else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let next = {
            let mut written = written.lock().unwrap();
            written.attempted += 1;
            written.attempted
        };
        let put = node.propose(put(&key(id, next), "x"));
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), put).await {
            written.lock().unwrap().acknowledged.push(next);
        } else {
            continue;
        }
        let reader = nodes.lock().unwrap().get(&(member % 3 + 1)).cloned();
        let Some(reader) = reader else { continue };
        let read = tokio::time::timeout(Duration::from_secs(2), reader.read_index()).await;
        if let Ok(Ok(())) = read {
            let found = get(&reader, &key(id, next)).is_some();
            assert!(found, "{} was acknowledged before this read began", key(id, next));
            reads.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn acknowledged_writes_survive_cuts_crashes_and_lag() {
    let seed = environment("CHAOS_SEED", 1);
    let seconds = environment("CHAOS_SECONDS", 15);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut cluster = Cluster::tuned(3, seed, |config| {
        config.snapshot_count = 200;
        config.snapshot_catchup_entries = 50;
        config.flush_interval_ms = 50;
        config.engine_sync_interval_ms = 200;
    })
    .await;
    cluster.leader().await;
    let nodes: Nodes =
        Arc::new(Mutex::new(cluster.nodes().map(|(id, node)| (*id, node.clone())).collect()));
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for id in 1..=8 {
        let written = Arc::<Mutex<Written>>::default();
        let task =
            tokio::spawn(client(id, nodes.clone(), stop.clone(), written.clone(), reads.clone()));
        clients.push((id, written, task));
    }

    let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut counts = [0; 5];
    let mut leaders = 0;
    while tokio::time::Instant::now() < until {
        let victim = random.below(3) + 1;
        let others: Vec<u64> = (1..=3).filter(|id| *id != victim).collect();
        let kind = random.below(5);
        counts[usize::try_from(kind).unwrap()] += 1;
        let pause = Duration::from_millis(200 + random.below(2_500));
        match kind {
            0 => cluster.network.cut(&[victim], &others),
            1 => cluster.network.cut_one_way(victim, others[0]),
            2 => cluster.network.set_delay(Duration::ZERO, Duration::from_millis(30)),
            3 => cluster.network.set_breaks(20_000),
            _ => {
                nodes.lock().unwrap().remove(&victim);
                cluster.kill(victim).await;
            }
        }
        tokio::time::sleep(pause).await;
        cluster.network.heal();
        cluster.network.set_delay(Duration::ZERO, Duration::ZERO);
        cluster.network.set_breaks(0);
        if kind == 4 {
            cluster.start(victim);
            nodes.lock().unwrap().insert(victim, cluster.node(victim));
        }
        leaders = leaders.max(cluster.node(victim).metrics().leader_changes);
        tokio::time::sleep(Duration::from_millis(random.below(800))).await;
    }
    stop.store(true, Ordering::SeqCst);

    let leader = cluster.leader().await;
    let node = cluster.node(leader);
    node.propose(put("end", "x")).await.unwrap();
    node.read_index().await.unwrap();
    let (mut acknowledged, mut attempted) = (0, 0);
    for (id, written, task) in clients {
        task.await.unwrap();
        let written = written.lock().unwrap();
        for &number in &written.acknowledged {
            assert!(get(&node, &key(id, number)).is_some(), "lost: {}", key(id, number));
        }
        acknowledged += written.acknowledged.len();
        attempted += written.attempted;
    }
    let hash = |node: &Node| node.state().read().hash_kv(0).unwrap().unwrap();
    eventually("all members hold the same", || {
        let mut all = cluster.nodes().map(|(_, node)| hash(node));
        let first = all.next()?;
        all.all(|other| other == first).then_some(())
    })
    .await;
    let terms = node.status().term;
    eprintln!(
        "seed {seed}: cuts {}, one-way {}, lag {}, breaks {}, crashes {}; term {terms}, {} reads \
         checked, {acknowledged} writes acknowledged of {attempted}",
        counts[0],
        counts[1],
        counts[2],
        counts[3],
        counts[4],
        reads.load(Ordering::SeqCst)
    );
    nodes.lock().unwrap().clear();
    drop(node);
    cluster.shutdown().await;
}
