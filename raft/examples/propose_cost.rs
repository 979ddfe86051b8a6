//! Measures what a replicated put costs: one and three members in this process, real syncs.
//!
//! `cargo run --release -p tripod-raft --example propose_cost -- [members] [clients] [seconds]
//! [batches-in-flight] [consensus]` with `consensus` the clients run on the consensus thread.
//! Clients put 256-byte values over 100,000 keys and wait for each answer. CPU is that of the
//! whole process: members and clients.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::TcpListener,
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tripod_raft::{
    Bootstrap, Config, Node, Peer, Port,
    testing::{TcpTransport, serve_tcp},
};
use tripod_storage::{
    command::{Command, Put},
    engine::{SledEngine, SledOptions},
};

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 256;

fn argument(at: usize, default: u64) -> u64 {
    std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let (members, clients, seconds) = (argument(1, 1), argument(2, 256), argument(3, 5));
    let in_flight = usize::try_from(argument(4, 2)).unwrap();
    let on_consensus = std::env::args().nth(5).is_some_and(|word| word == "consensus");
    let dir = std::env::temp_dir().join(format!("propose-cost-{}", std::process::id()));
    let listeners: Vec<_> =
        (0..members).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers: BTreeMap<u64, Peer> = (1..=members)
        .zip(&listeners)
        .map(|(id, listener)| (id, Peer::at(format!("tcp://{}", listener.local_addr().unwrap()))))
        .collect();
    let mut nodes = Vec::new();
    for (id, listener) in (1..=members).zip(listeners) {
        let folder = dir.join(id.to_string());
        let engine = SledEngine::open(&folder.join("db"), &SledOptions::default()).unwrap();
        let mut config = Config::new(id, 1, folder);
        config.batches_in_flight = in_flight;
        config.state.quota_bytes = 0;
        let node = Node::start(
            config,
            Bootstrap::New { members: peers.clone() },
            Arc::new(engine),
            Arc::new(TcpTransport),
            Arc::new(|reason| panic!("{reason}")),
        )
        .unwrap();
        serve_tcp(&node, listener).unwrap();
        nodes.push(node);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let leader = runtime.block_on(nodes[0].wait_leader(Duration::from_secs(10))).unwrap();
    let leader = nodes[usize::try_from(leader).unwrap() - 1].clone();
    let latencies = Arc::new(Mutex::new(Vec::new()));
    for round in 0..2 {
        latencies.lock().unwrap().clear();
        let (before, begun) = (cpu_seconds(), Instant::now());
        let span = Duration::from_secs(if round == 0 { 1 } else { seconds });
        load(&runtime, &leader, clients, span, on_consensus, latencies.clone());
        if round == 0 {
            continue;
        }
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - before);
        let mut all = latencies.lock().unwrap();
        all.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let count = all.len() as f64;
        let at = |permille: usize| all[(all.len() - 1) * permille / 1000];
        println!(
            "{members} members, {clients} clients, {in_flight} in flight{}: {:.0} puts/s, \
             {:.1} us CPU per put, p50 {} us, p99 {} us, {:.1} puts per batch",
            if on_consensus { ", on consensus thread" } else { "" },
            count / wall,
            cpu * 1e6 / count,
            at(500),
            at(990),
            {
                let metrics = leader.metrics();
                #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
                let per_batch = metrics.proposals as f64 / metrics.batches as f64;
                per_batch
            },
        );
    }
    for node in &nodes {
        runtime.block_on(node.shutdown());
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Runs clients for `span` and collects their latencies in microseconds.
fn load(
    runtime: &tokio::runtime::Runtime,
    node: &Node,
    clients: u64,
    span: Duration,
    on_consensus: bool,
    latencies: Arc<Mutex<Vec<u64>>>,
) {
    let port = node.port();
    let work = clients_run(port, clients, span, latencies);
    if on_consensus {
        let (done, wait) = tokio::sync::oneshot::channel();
        node.spawn_on_consensus(move || {
            Box::pin(async move {
                work().await;
                let _ = done.send(());
            })
        })
        .unwrap();
        runtime.block_on(wait).unwrap();
    } else {
        let tasks = tokio::task::LocalSet::new();
        runtime.block_on(tasks.run_until(work()));
    }
}

fn clients_run(
    port: Port,
    clients: u64,
    span: Duration,
    latencies: Arc<Mutex<Vec<u64>>>,
) -> impl FnOnce() -> futures_util::future::LocalBoxFuture<'static, ()> + Send {
    move || {
        Box::pin(async move {
            let driver = tokio::task::spawn_local(port.drive());
            let until = Instant::now() + span;
            let seed = Rc::new(Cell::new(1_u64));
            let mut tasks = Vec::new();
            for _ in 0..clients {
                let (port, seed) = (port.clone(), seed.clone());
                tasks.push(tokio::task::spawn_local(async move {
                    let mut mine = Vec::new();
                    while Instant::now() < until {
                        let mut x = seed.get();
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                        seed.set(x);
                        let put = Put {
                            key: Bytes::from(format!("key-{:08}", x % KEYS)),
                            value: Bytes::from(vec![b'v'; VALUE_BYTES]),
                            ..Put::default()
                        };
                        let begun = Instant::now();
                        port.propose(Command::Put(put)).await.unwrap();
                        mine.push(u64::try_from(begun.elapsed().as_micros()).unwrap());
                    }
                    mine
                }));
            }
            for task in tasks {
                let mine = task.await.unwrap();
                latencies.lock().unwrap().extend(mine);
            }
            driver.abort();
        })
    }
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of /proc/self/stat, in ticks of a hundredth of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let ticks: u64 =
        after.split_whitespace().skip(11).take(2).map(|text| text.parse::<u64>().unwrap()).sum();
    #[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^52")]
    let seconds = ticks as f64 / 100.0;
    seconds
}
