//! A cluster of members in one process.

#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Once},
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tripod_raft::{Bootstrap, Config, Node, NodeId, testing::TestNetwork};
use tripod_storage::{
    command::{Command, Put, Range},
    engine::{Engine, MemoryEngine},
};

/// Members with their folders; ids from 1.
pub struct Cluster {
    pub network: Arc<TestNetwork>,
    dir: TempDir,
    nodes: BTreeMap<NodeId, Node>,
    engines: BTreeMap<NodeId, Arc<MemoryEngine>>,
    voters: u64,
    tune: Box<dyn Fn(&mut Config)>,
}

static LOGS: Once = Once::new();

impl Cluster {
    pub async fn new(voters: u64, seed: u64) -> Self {
        Self::tuned(voters, seed, |_| {}).await
    }

    /// A cluster whose members' settings `tune` changes.
    pub async fn tuned(voters: u64, seed: u64, tune: impl Fn(&mut Config) + 'static) -> Self {
        LOGS.call_once(|| {
            if let Ok(level) = std::env::var("TEST_LOG") {
                tracing_subscriber::fmt().with_env_filter(level).with_test_writer().init();
            }
        });
        eprintln!("seed {seed}");
        let mut cluster = Self {
            network: TestNetwork::new(seed),
            dir: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
            engines: BTreeMap::new(),
            voters,
            tune: Box::new(tune),
        };
        for id in 1..=voters {
            cluster.start(id);
        }
        cluster
    }

    pub fn start(&mut self, id: NodeId) {
        let members = (1..=self.voters).map(|id| (id, TestNetwork::peer(id))).collect();
        let bootstrap =
            if id <= self.voters { Bootstrap::New { members } } else { Bootstrap::Join };
        self.start_as(id, bootstrap);
    }

    pub fn start_as(&mut self, id: NodeId, bootstrap: Bootstrap) {
        let mut config = Config::new(id, 77, self.dir.path().join(id.to_string()));
        config.wal_segment_bytes = 1 << 20;
        // Two busy cores must not look like dead leaders.
        config.heartbeat_interval_ms = 100;
        config.election_timeout_ms = 1_000;
        // Members here publish no names, which is how the check tells who has started.
        config.strict_reconfiguration = false;
        (self.tune)(&mut config);
        let engine = self.engines.entry(id).or_default().clone();
        let node = Node::start(
            config,
            bootstrap,
            engine as Arc<dyn Engine>,
            self.network.transport(id),
            Arc::new(move |reason| eprintln!("member {id} must stop: {reason}")),
        )
        .unwrap();
        self.network.attach(id, node.clone());
        self.nodes.insert(id, node);
    }

    pub fn node(&self, id: NodeId) -> Node {
        self.nodes[&id].clone()
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter()
    }

    /// Ends a member as a crash of its process would: unsynced engine writes are lost.
    pub async fn kill(&mut self, id: NodeId) {
        self.network.detach(id);
        self.nodes.remove(&id).unwrap().kill().await;
        self.engines[&id].crash();
    }

    /// Ends a member that left the cluster.
    pub async fn remove(&mut self, id: NodeId) {
        self.network.detach(id);
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    pub async fn restart(&mut self, id: NodeId) {
        self.network.detach(id);
        self.nodes.remove(&id).unwrap().shutdown().await;
        self.start(id);
    }

    /// Forgets everything a member stored.
    pub fn wipe(&mut self, id: NodeId) {
        self.engines.remove(&id);
        let _ = std::fs::remove_dir_all(self.dir.path().join(id.to_string()));
    }

    /// A member that leads and that every running member agrees on.
    pub async fn leader(&self) -> NodeId {
        eventually("a leader that all agree on", || {
            let mut seen = self.nodes.values().map(Node::leader);
            let first = seen.next()??;
            (self.nodes.contains_key(&first) && seen.all(|other| other == Some(first)))
                .then_some(first)
        })
        .await
    }

    pub async fn shutdown(self) {
        for (id, node) in &self.nodes {
            self.network.detach(*id);
            node.shutdown().await;
            assert!(!node.has_failed(), "member {id} failed");
        }
    }
}

/// Polls until `check` gives something.
pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn put(key: &str, value: &str) -> Command {
    Command::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Put::default()
    })
}

/// What the member's state holds right now.
pub fn get(node: &Node, key: &str) -> Option<String> {
    let range = Range { key: Bytes::copy_from_slice(key.as_bytes()), ..Range::default() };
    let response = node.state().read().range(&range).unwrap().unwrap();
    response.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}
