//! Watch fan-out: what it costs the server to deliver one write to many watchers.
//!
//! A few keys are put once each second, evenly spread over it, first without and then with
//! watchers. The difference in the servers' CPU, divided by the events delivered, is the cost of a
//! delivery. Every watcher has to see every put of its key once and in order.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use prost::{Message, bytes::Bytes};
use serde::Serialize;
use tokio::task::{JoinSet, LocalSet};

use super::{
    plan::{Encryption, Plan},
    render::{Action, Renderer, Stamp, field, key},
    rpc::{RpcError, Session, block_on},
    stats::{Latency, Tally},
    wire::{Event, MESSAGE_PREFIX_BYTES, Method},
};
use crate::api::proto::etcdserverpb::WatchResponse;

/// Time all watchers may take to be created.
const CREATE_MAX: Duration = Duration::from_secs(60);
/// Rest between the phases.
const SETTLE: Duration = Duration::from_secs(1);
/// Time the last events may take to arrive.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Time between looks at what has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a fan-out run does.
#[derive(Clone, Debug)]
pub struct WatchPlan {
    /// `host:port` of each endpoint; connections are spread over them in turn.
    pub endpoints: Vec<String>,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<Encryption>,
    /// Watchers; watcher n watches key n modulo the number of keys.
    pub watchers: usize,
    /// Watchers that share a stream.
    pub watchers_per_stream: usize,
    /// Streams that share a connection.
    pub streams_per_connection: usize,
    /// Keys, each put once a second.
    pub keys: u64,
    /// Seconds of each phase.
    pub seconds: u32,
    /// Size of a value in bytes.
    pub value_bytes: usize,
    /// Seed of the values.
    pub seed: u64,
}

impl Default for WatchPlan {
    fn default() -> Self {
        Self {
            endpoints: vec![],
            tls: None,
            watchers: 10_000,
            watchers_per_stream: 10,
            streams_per_connection: 20,
            keys: 100,
            seconds: 5,
            value_bytes: 256,
            seed: 1,
        }
    }
}

impl WatchPlan {
    fn streams(&self) -> usize {
        self.watchers.div_ceil(self.watchers_per_stream.max(1))
    }

    fn connections(&self) -> usize {
        self.streams().div_ceil(self.streams_per_connection.max(1))
    }

    /// Watchers of a key.
    fn watchers_of(&self, key: u64) -> u64 {
        let (watchers, keys) = (u64::try_from(self.watchers).unwrap_or(u64::MAX), self.keys.max(1));
        watchers / keys + u64::from(key < watchers % keys)
    }

    fn renderer(&self) -> Renderer {
        Renderer::new(&Plan { value_bytes: self.value_bytes, seed: self.seed, ..Plan::default() })
    }
}

/// What a fan-out run came to.
#[derive(Clone, Debug, Serialize)]
pub struct WatchSummary {
    /// Watchers created.
    pub watchers: usize,
    /// Streams they shared.
    pub streams: usize,
    /// Connections those shared.
    pub connections: usize,
    /// Keys, each put once a second.
    pub keys: u64,
    /// Events that should have arrived.
    pub expected: u64,
    /// Events that arrived.
    pub delivered: u64,
    /// Events out of order, twice, or for a key not watched.
    pub wrong: u64,
    /// Watchers the server ended.
    pub ended: u64,
    /// Puts that were refused.
    pub failed_puts: u64,
    /// Seconds the phase with watchers took.
    pub seconds: f64,
    /// Time from sending a put to the arrival of its event, in microseconds.
    pub latency_us: Latency,
    /// CPU of the servers with watchers, in seconds.
    pub server_cpu_s: Option<f64>,
    /// The same without watchers.
    pub server_cpu_without_watchers_s: Option<f64>,
    /// Seconds the phase without watchers took.
    pub seconds_without_watchers: f64,
    /// CPU of the servers per event delivered, less what the puts alone cost, in microseconds.
    pub server_cpu_us_per_delivery: Option<f64>,
}

impl WatchSummary {
    /// Figures by name, for a report.
    pub(crate) fn figures(&self) -> Vec<(&'static str, f64)> {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let mut figures = vec![
            ("watchers", self.watchers as f64),
            ("streams", self.streams as f64),
            ("keys", self.keys as f64),
            ("delivered_per_second", self.delivered as f64 / self.seconds),
        ];
        let percent = |cpu: Option<f64>, seconds: f64| cpu.map(|cpu| cpu / seconds * 100.0);
        let with = percent(self.server_cpu_s, self.seconds);
        let without = percent(self.server_cpu_without_watchers_s, self.seconds_without_watchers);
        figures.extend(with.map(|p| ("server_cpu_percent", p)));
        figures.extend(without.map(|p| ("server_cpu_percent_without_watchers", p)));
        figures
    }

    /// What went wrong.
    pub(crate) fn faults(&self) -> Vec<String> {
        let missing = self.expected.saturating_sub(self.delivered);
        [
            (missing, "events missing"),
            (self.wrong, "events out of order, twice or of another key"),
            (self.ended, "streams or watchers ended by the server"),
            (self.failed_puts, "puts failed"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
    }
}

/// Runs a fan-out; `cpu` tells the CPU time the servers have used so far.
///
/// # Errors
/// An endpoint cannot be reached or refuses a watcher.
pub fn run(plan: &WatchPlan, cpu: &dyn Fn() -> Option<Duration>) -> Result<WatchSummary, RpcError> {
    block_on(LocalSet::new().run_until(fan_out(plan, cpu)))
}

/// What the watchers of all connections share.
struct Shared {
    plan: WatchPlan,
    renderer: Renderer,
    created: Cell<usize>,
    delivered: Cell<u64>,
    wrong: Cell<u64>,
    ended: Cell<u64>,
    latency: RefCell<Tally>,
    /// When each put was sent: by round, by key.
    sent: RefCell<Vec<Instant>>,
    failure: RefCell<Option<RpcError>>,
}

async fn fan_out(
    plan: &WatchPlan,
    cpu: &dyn Fn() -> Option<Duration>,
) -> Result<WatchSummary, RpcError> {
    let shared = Rc::new(Shared {
        plan: plan.clone(),
        renderer: plan.renderer(),
        created: Cell::new(0),
        delivered: Cell::new(0),
        wrong: Cell::new(0),
        ended: Cell::new(0),
        latency: RefCell::default(),
        sent: RefCell::default(),
        failure: RefCell::default(),
    });
    let without = Phase::measure(&shared, cpu, 0).await?;
    let mut tasks = JoinSet::new();
    for connection in 0..plan.connections() {
        let endpoint = &plan.endpoints[connection % plan.endpoints.len()];
        let session = Session::with_slots(
            endpoint,
            plan.tls.as_ref().map(|tls| &tls.grpc),
            plan.streams_per_connection,
        )
        .await?;
        tasks.spawn_local(follow(shared.clone(), session, connection));
    }
    shared.wait(CREATE_MAX, || shared.created.get() >= plan.watchers).await?;
    tokio::time::sleep(SETTLE).await;
    let expected =
        (0..plan.keys).map(|key| plan.watchers_of(key)).sum::<u64>() * u64::from(plan.seconds);
    let with = Phase::measure(&shared, cpu, expected).await?;
    tasks.shutdown().await;
    Ok(summary(&shared, &without, &with, expected))
}

impl Shared {
    /// Waits until something is so, at most for `limit`; whether it is is for the caller to see.
    async fn wait(&self, limit: Duration, done: impl Fn() -> bool) -> Result<(), RpcError> {
        let end = Instant::now() + limit;
        while !done() && Instant::now() < end {
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// What one phase of puts cost.
struct Phase {
    seconds: f64,
    cpu: Option<Duration>,
    failed_puts: u64,
}

impl Phase {
    /// Puts every key once a second and waits until `events` have been delivered.
    async fn measure(
        shared: &Shared,
        cpu: &dyn Fn() -> Option<Duration>,
        events: u64,
    ) -> Result<Self, RpcError> {
        let (start, before) = (Instant::now(), cpu());
        shared.sent.borrow_mut().clear();
        let failed_puts = put_all(shared).await?;
        shared.wait(DRAIN_MAX, || shared.delivered.get() >= events).await?;
        let used = cpu().zip(before).and_then(|(after, before)| after.checked_sub(before));
        Ok(Self { seconds: start.elapsed().as_secs_f64(), cpu: used, failed_puts })
    }
}

/// Sends the puts of a phase; returns how many were refused.
async fn put_all(shared: &Shared) -> Result<u64, RpcError> {
    let plan = &shared.plan;
    let slots = usize::try_from(plan.keys).unwrap_or(usize::MAX);
    let mut session =
        Session::with_slots(&plan.endpoints[0], plan.tls.as_ref().map(|tls| &tls.grpc), slots)
            .await?;
    let total = plan.keys * u64::from(plan.seconds);
    let interval = Duration::from_secs(1) / u32::try_from(plan.keys).unwrap_or(u32::MAX);
    let (mut body, mut events) = (vec![], vec![]);
    let (mut sent, mut answered, mut failed) = (0, 0, 0);
    let start = Instant::now();
    while answered < total {
        let due = start + interval * u32::try_from(sent).unwrap_or(u32::MAX);
        let now = Instant::now();
        if sent < total && due <= now {
            // The sequence of a stamp is the round, so that watchers can tell order.
            let (key, round) = (sent % plan.keys, sent / plan.keys);
            let stamp = Stamp { key, ..shared.renderer.stamp(key, round, 0) };
            shared.renderer.body(&mut body, Action::Put, stamp);
            shared.sent.borrow_mut().push(now);
            session.wire.open(u32::try_from(key).unwrap_or(u32::MAX), Method::Put, &body, true);
            sent += 1;
            continue;
        }
        let wake = if sent < total { due } else { now + DRAIN_MAX };
        match tokio::time::timeout_at(wake.into(), session.exchange(&mut events)).await {
            Ok(result) => result?,
            Err(_) if sent < total => {}
            Err(_) => return Ok(failed + total - answered),
        }
        for event in events.drain(..) {
            let Event::Done { slot, outcome, .. } = event else { continue };
            if let Some(answer) = session.wire.captured(slot) {
                answer.clear();
            }
            answered += 1;
            failed += u64::from(outcome.is_err());
        }
    }
    Ok(failed)
}

/// One watcher: its key and the round it expects next.
#[derive(Clone)]
struct Watcher {
    key: u64,
    next_round: u64,
}

/// Creates the watchers of one connection and follows them until the task is ended.
async fn follow(shared: Rc<Shared>, mut session: Session, connection: usize) {
    let plan = &shared.plan;
    let per_connection = plan.streams_per_connection * plan.watchers_per_stream;
    let first = connection * per_connection;
    let mut watchers: Vec<Watcher> = (first..plan.watchers.min(first + per_connection))
        .map(|number| Watcher {
            key: u64::try_from(number).unwrap_or(0) % plan.keys,
            next_round: 0,
        })
        .collect();
    for (slot, stream) in (0..).zip(watchers.chunks(plan.watchers_per_stream)) {
        let mut id = None;
        for (watch_id, watcher) in (1..).zip(stream) {
            let body = create_request(watcher.key, watch_id);
            match id {
                None => id = Some(session.wire.open(slot, Method::Watch, &body, false)),
                Some(id) => session.wire.send(id, &body, false),
            }
        }
    }
    let mut events = vec![];
    loop {
        if let Err(error) = session.exchange(&mut events).await {
            shared.failure.borrow_mut().get_or_insert(error);
            return;
        }
        let now = Instant::now();
        for event in events.drain(..) {
            match event {
                Event::Data { slot } => {
                    let body = session.wire.captured(slot).map(std::mem::take).unwrap_or_default();
                    let rest = messages(&shared, &mut watchers, slot, &body, now);
                    if let Some(buffer) = session.wire.captured(slot) {
                        *buffer = rest;
                    }
                }
                Event::Done { .. } => shared.ended.set(shared.ended.get() + 1),
            }
        }
    }
}

/// Handles the whole messages in `body`; returns the start of the next one.
fn messages(
    shared: &Shared,
    watchers: &mut [Watcher],
    slot: u32,
    body: &[u8],
    now: Instant,
) -> Vec<u8> {
    let mut rest = body;
    while let Some((prefix, after)) = rest.split_at_checked(MESSAGE_PREFIX_BYTES) {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        let Some(message) = usize::try_from(length).ok().and_then(|length| after.get(..length))
        else {
            break;
        };
        rest = &after[message.len()..];
        // Bytes of one message are shared by its events instead of copied for each.
        match WatchResponse::decode(Bytes::copy_from_slice(message)) {
            Ok(response) => on_response(shared, watchers, slot, &response, now),
            Err(_) => shared.wrong.set(shared.wrong.get() + 1),
        }
    }
    rest.to_vec()
}

fn on_response(
    shared: &Shared,
    watchers: &mut [Watcher],
    slot: u32,
    response: &WatchResponse,
    now: Instant,
) {
    if response.canceled {
        shared.ended.set(shared.ended.get() + 1);
    } else if response.created {
        shared.created.set(shared.created.get() + 1);
    }
    let index = usize::try_from(response.watch_id - 1)
        .ok()
        .zip(usize::try_from(slot).ok())
        .map(|(id, slot)| slot * shared.plan.watchers_per_stream + id);
    let Some(watcher) = index.and_then(|index| watchers.get_mut(index)) else {
        shared.wrong.set(shared.wrong.get() + 1);
        return;
    };
    for event in &response.events {
        shared.delivered.set(shared.delivered.get() + 1);
        let value = event.kv.as_ref().map_or(&b""[..], |kv| &kv.value);
        match shared.renderer.check(watcher.key, value) {
            Ok(Some(stamp)) if stamp.sequence == watcher.next_round => {
                watcher.next_round += 1;
                let at = stamp.sequence * shared.plan.keys + stamp.key;
                let sent =
                    usize::try_from(at).ok().and_then(|at| shared.sent.borrow().get(at).copied());
                if let Some(sent) = sent {
                    shared.latency.borrow_mut().succeed(now.saturating_duration_since(sent));
                }
            }
            _ => shared.wrong.set(shared.wrong.get() + 1),
        }
    }
}

fn create_request(number: u64, watch_id: u8) -> Vec<u8> {
    // WatchCreateRequest { key = 1, watch_id = 7 } in WatchRequest { create_request = 1 }.
    let mut create = vec![];
    field(&mut create, 1, &key(number));
    create.extend_from_slice(&[7 << 3, watch_id & 0x7f]);
    let mut request = vec![];
    field(&mut request, 1, &create);
    request
}

fn summary(shared: &Shared, without: &Phase, with: &Phase, expected: u64) -> WatchSummary {
    let plan = &shared.plan;
    let delivered = shared.delivered.get();
    let seconds = |cpu: Option<Duration>| cpu.map(|cpu| cpu.as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let per_delivery = |cpu: f64| cpu * 1e6 / delivered as f64;
    WatchSummary {
        watchers: plan.watchers,
        streams: plan.streams(),
        connections: plan.connections(),
        keys: plan.keys,
        expected,
        delivered,
        wrong: shared.wrong.get(),
        ended: shared.ended.get(),
        failed_puts: without.failed_puts + with.failed_puts,
        seconds: with.seconds,
        latency_us: shared.latency.borrow().latencies(),
        server_cpu_s: seconds(with.cpu),
        server_cpu_without_watchers_s: seconds(without.cpu),
        seconds_without_watchers: without.seconds,
        server_cpu_us_per_delivery: seconds(with.cpu)
            .zip(seconds(without.cpu))
            .filter(|_| delivered > 0)
            .map(|(with, without)| per_delivery((with - without).max(0.0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto::etcdserverpb::{WatchRequest, watch_request::RequestUnion};

    #[test]
    fn create_requests_decode_as_etcd_messages() {
        let request = WatchRequest::decode(create_request(7, 5).as_slice()).unwrap();
        let Some(RequestUnion::CreateRequest(create)) = request.request_union else { panic!() };
        assert_eq!((create.key.as_ref(), create.watch_id), (&key(7)[..], 5));
    }

    #[test]
    fn watchers_are_dealt_out_over_keys_and_streams() {
        let plan = WatchPlan { watchers: 25, keys: 10, ..WatchPlan::default() };
        assert_eq!((plan.streams(), plan.connections()), (3, 1));
        assert_eq!((0..10).map(|key| plan.watchers_of(key)).sum::<u64>(), 25);
        assert_eq!((plan.watchers_of(4), plan.watchers_of(5)), (3, 2));
    }
}
