//! Streams with and without a tap: the way around a stream changes nothing that its client sees.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    task::Poll,
};

use prost::Message as _;

use super::*;
use crate::{
    Tripod,
    api::{
        outlet::{Outlet, Tap},
        proto::etcdserverpb::watch_request::RequestUnion,
    },
};

/// A stream and its transport, which keeps the rules of `outlet`.
struct Stream {
    requests: mpsc::Sender<Bytes>,
    responses: mpsc::Receiver<Bytes>,
    call: LocalBoxFuture<'static, Result<(), Status>>,
    outlet: Arc<Outlet>,
    tap: Option<Arc<Tap>>,
    seen: Vec<pb::WatchResponse>,
    /// How many came around the call.
    around: usize,
}

impl Stream {
    fn open(rpc: &Rpc, is_tapped: bool) -> Self {
        let (requests, from_client) = mpsc::channel(64);
        let (to_client, responses) = mpsc::channel(4);
        let outlet = Arc::<Outlet>::default();
        let tap = is_tapped.then(|| Tap::new(Arc::clone(&outlet), 1, None));
        let context = CallContext { tap: tap.clone(), ..CallContext::default() };
        let call = rpc.streaming("/etcdserverpb.Watch/Watch", from_client, to_client, context);
        Self { requests, responses, call, outlet, tap, seen: vec![], around: 0 }
    }

    fn request(&self, union: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(union) };
        self.requests.try_send(request.encode_to_vec().into()).unwrap();
    }

    /// Runs until the client has seen what it waits for.
    async fn until(&mut self, seen: impl Fn(&[pb::WatchResponse]) -> bool) {
        let run = poll_fn(|context| {
            self.outlet.register(context.waker());
            if let Some(left) = self.outlet.take() {
                for (_, message) in left.iter() {
                    self.seen.push(pb::WatchResponse::decode(message).unwrap());
                    self.around += 1;
                }
            }
            assert!(self.call.as_mut().poll(context).is_pending(), "the stream ended");
            while let Poll::Ready(Some(answer)) = self.responses.poll_recv(context) {
                self.seen.push(pb::WatchResponse::decode(answer).unwrap());
            }
            if let Some(tap) = &self.tap {
                tap.set_open(true);
            }
            if seen(&self.seen) { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(20), run).await.expect("an answer in time");
    }

    /// Runs until everything there is has been seen, and checks that it came before the answer
    /// that says so.
    async fn catch_up(&mut self) {
        let before = self.seen.len();
        self.request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        self.until(|seen| seen[before..].iter().any(is_progress)).await;
        for at in 0..self.seen.len() {
            if is_progress(&self.seen[at]) {
                let revision = self.seen[at].header.unwrap().revision;
                // A watcher made later may read what was before.
                let after = self.seen[at..].iter().take_while(|answer| !answer.created);
                let late = after.flat_map(|answer| &answer.events);
                assert!(late.into_iter().all(|e| e.kv.as_ref().unwrap().mod_revision > revision));
            }
        }
    }

    /// What each watcher saw, in order; answers with several events taken apart.
    fn by_watcher(&self) -> BTreeMap<i64, Vec<String>> {
        let mut by_watcher = BTreeMap::<i64, Vec<String>>::new();
        for answer in self.seen.iter().filter(|answer| !is_progress(answer)) {
            let seen = by_watcher.entry(answer.watch_id).or_default();
            if answer.created || answer.canceled {
                seen.push(format!("created {} canceled {}", answer.created, answer.canceled));
            }
            seen.extend(answer.events.iter().map(|event| format!("{event:?}")));
        }
        by_watcher
    }
}

fn is_progress(answer: &pb::WatchResponse) -> bool {
    answer.watch_id == -1 && !answer.canceled
}

/// Repeatable numbers: a linear congruential generator, read at its better end.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

fn create(watch_id: i64, key: &'static str, more: pb::WatchCreateRequest) -> RequestUnion {
    RequestUnion::CreateRequest(pb::WatchCreateRequest { watch_id, key: key.into(), ..more })
}

fn creates() -> Vec<RequestUnion> {
    let plain = pb::WatchCreateRequest::default;
    let range = || pb::WatchCreateRequest { range_end: "z".into(), ..plain() };
    vec![
        create(1, "a", plain()),
        create(2, "a", range()),
        create(3, "a", pb::WatchCreateRequest { prev_kv: true, ..range() }),
        create(4, "b", pb::WatchCreateRequest { filters: vec![1], ..range() }),
        create(5, "a", pb::WatchCreateRequest { filters: vec![0], ..range() }),
        create(6, "b", pb::WatchCreateRequest { fragment: true, progress_notify: true, ..plain() }),
        create(7, "a", pb::WatchCreateRequest { start_revision: 2, ..range() }),
    ]
}

async fn change(client: &Client, dice: &mut Dice) {
    let mut key = || match dice.below(4) {
        0 => "a",
        1 => "b",
        2 => "c",
        _ => "d",
    };
    let (first, second) = (key(), key());
    let value = vec![b'v'; if dice.below(8) == 0 { 5000 } else { 10 }];
    match dice.below(4) {
        0 => drop(client.delete(first).await.unwrap()),
        1 if first != second => {
            let put = |key: &'static str| tripod_storage::command::TxnOp::Put(put(key, &value));
            let txn = tripod_storage::command::Txn {
                success: vec![put(first), put(second)],
                ..Default::default()
            };
            client.txn(txn, false, 0).await.unwrap();
        }
        _ => drop(client.put(put(first, &value)).await.unwrap()),
    }
}

fn put(key: &'static str, value: &[u8]) -> tripod_storage::command::Put {
    let value = Bytes::copy_from_slice(value);
    tripod_storage::command::Put { key: key.into(), value, ..Default::default() }
}

#[tokio::test]
async fn a_tapped_stream_shows_its_client_what_another_one_does() {
    let store = Tripod::builder().in_memory().start().await.unwrap();
    let local = tokio::task::LocalSet::new();
    local.run_until(check(&store)).await;
    drop(local);
    store.shutdown().await.unwrap();
}

async fn check(store: &Tripod) {
    let seed = RandomState::new().hash_one(0);
    let mut dice = Dice(seed);
    let client = store.client().fork();
    tokio::task::spawn_local(client.port().drive());
    tokio::task::spawn_local(client.hub().clone().run());
    let options = Options {
        slow_request: Duration::MAX,
        watch_progress_interval: Duration::from_secs(600),
        watch_fragment_bytes: 1 << 20,
    };
    let rpc = Rpc::new(client.clone(), options);
    let mut streams = [true, false].map(|is_tapped| Stream::open(&rpc, is_tapped));
    for round in 0..6 {
        for stream in &mut streams {
            creates().into_iter().for_each(|create| stream.request(create));
            let made = (round + 1) * creates().len();
            stream.until(|seen| seen.iter().filter(|a| a.created).count() == made).await;
        }
        for _ in 0..dice.below(40) {
            change(store.client(), &mut dice).await;
            // At times the streams fall behind, at times they see each change.
            if dice.below(2) == 0 {
                streams[0].until(|_| true).await;
            }
        }
        for stream in &mut streams {
            stream.catch_up().await;
        }
        for _ in 0..dice.below(10) {
            change(store.client(), &mut dice).await;
        }
        for stream in &mut streams {
            stream.catch_up().await;
            for watch_id in 1..=7 {
                let cancel = pb::WatchCancelRequest { watch_id };
                stream.request(RequestUnion::CancelRequest(cancel));
            }
            let ended = (round + 1) * 7;
            stream.until(|seen| seen.iter().filter(|a| a.canceled).count() == ended).await;
        }
        assert_eq!(streams[0].by_watcher(), streams[1].by_watcher(), "seed {seed}");
    }
    assert!(streams[0].around > 0 && streams[1].around == 0, "seed {seed}");
}
