//! Writers and readers that record everything, and a watcher that survives its members.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::{
    sync::{RwLock, RwLockWriteGuard},
    task::JoinHandle,
};
use tonic::Status;
use tripod::api::proto::etcdserverpb as pb;

use crate::support::{
    client::Client,
    history::{Action, Change, Operation, Outcome, Pair, Recorder, Seen},
    random::Random,
};

/// Keys the clients fight over.
const KEYS: usize = 12;
/// Limit of one operation: an answer that takes longer counts as unknown.
const OPERATION_LIMIT: Duration = Duration::from_secs(2);
/// Rest after an error, so that a dead member is not hammered.
const REST: Duration = Duration::from_millis(30);

/// Clients at work on a cluster.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    urls: Vec<String>,
    recorder: Recorder,
    values: AtomicU64,
    stop: AtomicBool,
    /// Clients hold it for reading during an operation; a check holds it for writing.
    gate: RwLock<()>,
}

impl Load {
    /// Starts `clients` tasks against the members at `urls`.
    pub(crate) fn start(urls: Vec<String>, clients: usize, random: &mut Random) -> Self {
        let shared = Arc::new(Shared {
            urls,
            recorder: Recorder::new(),
            values: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            gate: RwLock::new(()),
        });
        let tasks = (0..clients)
            .map(|id| tokio::spawn(client(id, random.fork(), Arc::clone(&shared))))
            .collect();
        Self { shared, tasks }
    }

    /// Waits for all running operations and holds back new ones until the guard is dropped.
    pub(crate) async fn quiet(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared.gate.write().await
    }

    /// Everything recorded so far.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.shared.recorder.operations()
    }

    /// Ends the clients and waits for them.
    pub(crate) async fn finish(self) -> Result<Vec<Operation>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await?;
        }
        Ok(self.shared.recorder.operations())
    }
}

async fn client(id: usize, mut random: Random, shared: Arc<Shared>) {
    let members: Vec<Client> =
        shared.urls.iter().map(|url| Client::with_limit(url, OPERATION_LIMIT)).collect();
    let mut at = random.below(members.len());
    let mut known = [0_i64; KEYS];
    while !shared.stop.load(Ordering::Relaxed) {
        let _open = shared.gate.read().await;
        let index = random.below(KEYS);
        let number = shared.values.fetch_add(1, Ordering::Relaxed);
        let action = choose(&mut random, index, known[index], number);
        let wants_previous = random.chance(50);
        let called_ns = shared.recorder.now_ns();
        let answer = perform(&members[at], &action, wants_previous).await;
        let returned_ns = shared.recorder.now_ns();
        let outcome = match answer {
            Ok((revision, seen)) => {
                known[index] = mod_revision_after(revision, &seen);
                Outcome::Answered { revision, seen }
            }
            Err(_) => {
                at = (at + 1) % members.len();
                tokio::time::sleep(REST).await;
                Outcome::Unknown
            }
        };
        shared.recorder.note(Operation { client: id, called_ns, returned_ns, action, outcome });
        if random.chance(2) {
            at = random.below(members.len());
        }
    }
}

fn choose(random: &mut Random, index: usize, known: i64, number: u64) -> Action {
    let key = format!("key/{index:02}");
    let value = format!("value {number}");
    match random.weighted(&[40, 10, 25, 25]) {
        0 => Action::Put { key, value },
        1 => Action::Delete { key },
        2 => Action::Read { key },
        _ => Action::Swap { key, expected: known, value },
    }
}

fn mod_revision_after(revision: i64, seen: &Seen) -> i64 {
    match seen {
        Seen::Wrote | Seen::Replaced(_) => revision,
        Seen::Deleted(_) => 0,
        Seen::Value(pair) => pair.as_ref().map_or(0, |pair| pair.mod_revision),
    }
}

/// Plays one action; the revision of the answer and what it said.
pub(crate) async fn perform(
    member: &Client,
    action: &Action,
    wants_previous: bool,
) -> Result<(i64, Seen), Status> {
    let mut kv = member.kv();
    match action {
        Action::Put { key, value } => {
            let request = put_request(key, value, wants_previous);
            let answer = kv.put(request).await?.into_inner();
            let previous = answer.prev_kv.as_ref().map(Pair::from);
            let seen = if wants_previous { Seen::Replaced(previous) } else { Seen::Wrote };
            Ok((revision(answer.header)?, seen))
        }
        Action::Delete { key } => {
            let answer = member.delete(Bytes::from(key.clone())).await?;
            Ok((revision(answer.header)?, Seen::Deleted(answer.deleted)))
        }
        Action::Read { key } => {
            let answer = member.get(Bytes::from(key.clone())).await?;
            Ok((revision(answer.header)?, Seen::Value(answer.kvs.first().map(Pair::from))))
        }
        Action::Swap { key, expected, value } => {
            let answer = kv.txn(swap_request(key, *expected, value)).await?.into_inner();
            if answer.succeeded {
                return Ok((revision(answer.header)?, Seen::Wrote));
            }
            let response = answer.responses.into_iter().next().and_then(|one| one.response);
            let Some(pb::response_op::Response::ResponseRange(range)) = response else {
                return Err(Status::internal("a refused swap answers a range"));
            };
            Ok((revision(answer.header)?, Seen::Value(range.kvs.first().map(Pair::from))))
        }
    }
}

fn revision(header: Option<pb::ResponseHeader>) -> Result<i64, Status> {
    Ok(header.ok_or_else(|| Status::internal("an answer has a header"))?.revision)
}

fn put_request(key: &str, value: &str, prev_kv: bool) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        prev_kv,
        ..Default::default()
    }
}

fn swap_request(key: &str, expected: i64, value: &str) -> pb::TxnRequest {
    use pb::{
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    };
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: Bytes::from(key.to_owned()),
        target_union: Some(TargetUnion::ModRevision(expected)),
        ..Default::default()
    };
    let read = pb::RangeRequest { key: Bytes::from(key.to_owned()), ..Default::default() };
    let put = Request::RequestPut(put_request(key, value, false));
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![pb::RequestOp { request: Some(put) }],
        failure: vec![pb::RequestOp { request: Some(Request::RequestRange(read)) }],
    }
}

/// A watch on everything that goes to another member when its member dies, and starts there
/// right after the last revision it has.
#[derive(Debug)]
pub(crate) struct Watcher {
    changes: Arc<std::sync::Mutex<Vec<Change>>>,
    reconnects: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Starts watching at `start_revision`.
    pub(crate) fn start(urls: Vec<String>, start_revision: i64) -> Self {
        let changes = Arc::default();
        let reconnects = Arc::new(AtomicI64::new(0));
        let task = tokio::spawn(watch_forever(
            urls,
            start_revision,
            Arc::clone(&changes),
            Arc::clone(&reconnects),
        ));
        Self { changes, reconnects, task }
    }

    /// What arrived so far.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.changes.lock().expect("no panic while noting").clone()
    }

    /// Times it had to open a new stream.
    pub(crate) fn reconnects(&self) -> i64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Checks that exactly `expected` arrived, in this order.
    pub(crate) async fn check(&self, expected: &[Change]) -> Result<()> {
        let limit = Duration::from_secs(20);
        crate::support::wait::eventually("the watcher has every change", limit, || async {
            let have = self.changes();
            ensure!(have.len() >= expected.len(), "{} of {} changes", have.len(), expected.len());
            Ok(())
        })
        .await?;
        let have = self.changes();
        let first_wrong = have.iter().zip(expected).position(|(have, want)| have != want);
        if let Some(index) = first_wrong {
            anyhow::bail!(
                "change {index} of the watch is {:?}, the store has {:?}",
                have[index],
                expected[index]
            );
        }
        ensure!(have.len() == expected.len(), "the watch has more changes than the store");
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch_forever(
    urls: Vec<String>,
    start_revision: i64,
    changes: Arc<std::sync::Mutex<Vec<Change>>>,
    reconnects: Arc<AtomicI64>,
) {
    let mut next = start_revision;
    for url in urls.iter().cycle() {
        // The reason does not matter: what counts is that nothing is missing in the end.
        drop(watch_once(url, &mut next, &changes).await);
        reconnects.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(REST).await;
    }
}

async fn watch_once(
    url: &str,
    next: &mut i64,
    changes: &std::sync::Mutex<Vec<Change>>,
) -> Result<()> {
    // A member may need a moment to start serving; then the next one is tried.
    let client = Client::new(url);
    let opened = client.watch_everything(*next);
    let mut stream = tokio::time::timeout(Duration::from_secs(1), opened).await??;
    while let Some(message) = stream.message().await? {
        ensure!(!message.canceled, "cancelled: {message:?}");
        for event in &message.events {
            let change = Change::from_event(event).context("an event has a key")?;
            *next = change.revision + 1;
            changes.lock().expect("no panic while noting").push(change);
        }
    }
    Ok(())
}
