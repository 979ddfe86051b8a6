//! Watchers: very many, slow ones, and ones that come and go.
//!
//! The policy for a watcher whose client does not keep up: a bounded mailbox for each stream takes
//! what happens first; when it is full the watcher is taken off the live events, holds nothing, and
//! reads history once its client has room again, so that it misses no event and sees none twice.
//! If that history has been compacted meanwhile, the watcher is canceled with the compact revision.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use socket2::{Domain, Socket, Type};
use tonic::Streaming;
use tripod::api::proto::etcdserverpb::{
    self as pb, WatchRequest, WatchResponse, watch_request::RequestUnion,
};

use crate::{
    frames::{DATA, END_HEADERS, HEADERS, WATCH, call, connection, frame, message},
    support::{
        client::{Client, open_ended},
        wait,
    },
    target::{Peak, Target, mib, size},
};

/// Connections of clients that never read: in CI, and in full.
const STALLED_CONNECTIONS: (usize, usize) = (40, 100);
/// Streams of each.
const STREAMS: u32 = 25;
/// Watchers of each stream: with the connections above 9,000 watchers in CI, 10,000 in full.
const WATCHERS: (usize, usize) = (9, 4);
/// Watchers of clients that read.
const READERS: usize = 40;
/// Events: in CI, and in full.
const EVENTS: (usize, usize) = (400, 5_000);
/// Bytes of a value.
const VALUE_BYTES: usize = 8 << 10;
/// Memory a member may take for all of them, in bytes: above all 64 KiB of queue and as much on the
/// way to it for each of the stalled streams.
const WATCHED_BYTES_MAX: u64 = 768 << 20;
/// Receive buffer of a client that never reads, in bytes.
const RECEIVE_BYTES: usize = 8 << 10;
/// Time for any of the waits here.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn create(key: &str, start_revision: i64) -> WatchRequest {
    let create =
        pb::WatchCreateRequest { key: key.to_owned().into(), start_revision, ..Default::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// A client that makes watchers, reads that they were made, and then never reads again.
fn stalled(port: u16, watchers: usize) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(WAIT_MAX))?;
    let request = create("hot", 0).encode_to_vec();
    let request = message(0, u32::try_from(request.len())?, &request);
    let frames: Vec<_> = (0..STREAMS)
        .flat_map(|index| {
            let number = 2 * index + 1;
            let open = frame(HEADERS, END_HEADERS, number, &call(WATCH));
            [open, frame(DATA, 0, number, &request.repeat(watchers))]
        })
        .collect();
    stream.write_all(&connection(&frames))?;
    let mut created = 0;
    while created < STREAMS as usize * watchers {
        created += messages_in_next_frame(&mut stream)?;
    }
    Ok(stream)
}

/// Reads one frame; how many gRPC messages start in it. They are small here and never cut.
fn messages_in_next_frame(stream: &mut TcpStream) -> Result<usize> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    let mut count = 0;
    let mut at = 0;
    while head[3] == DATA && at + 5 <= length {
        let size = u32::from_be_bytes(payload[at + 1..at + 5].try_into()?);
        at += 5 + size as usize;
        count += 1;
    }
    Ok(count)
}

/// Opens a watch and waits until it is made.
async fn open(client: &Client, request: WatchRequest) -> Result<Streaming<WatchResponse>> {
    let mut stream = client.watch_service().watch(open_ended(vec![request])).await?.into_inner();
    let created = stream.message().await?.context("created")?;
    ensure!(created.created && !created.canceled, "{created:?}");
    Ok(stream)
}

/// Numbers in the events of `stream` until `count` have come; they must be `first..`.
async fn expect(stream: &mut Streaming<WatchResponse>, first: usize, count: usize) -> Result<()> {
    let mut next = first;
    while next < first + count {
        let message = tokio::time::timeout(WAIT_MAX, stream.message())
            .await
            .with_context(|| format!("no event {next}"))??
            .context("the watch ended")?;
        ensure!(!message.canceled, "canceled before {next}: {message:?}");
        for event in message.events {
            ensure!(
                number_of(&event)? == next,
                "event {} where {next} was next",
                number_of(&event)?
            );
            next += 1;
        }
    }
    Ok(())
}

fn number_of(event: &tripod::api::proto::mvccpb::Event) -> Result<usize> {
    let value = &event.kv.as_ref().context("an event has a pair")?.value;
    Ok(std::str::from_utf8(value.get(..9).context("value")?)?.parse()?)
}

/// A value that starts with a number.
fn value(number: usize) -> Vec<u8> {
    let mut value = format!("{number:09}").into_bytes();
    value.resize(VALUE_BYTES, b'v');
    value
}

/// Most of 9,000 watchers never read. The writer and the innocent client go on, watchers that read
/// get everything in order, and memory stays bounded.
#[test]
fn very_many_watchers_that_never_read_are_held_within_bounds() -> Result<()> {
    let target = Target::one(&[])?;
    let connections = size(STALLED_CONNECTIONS.0, STALLED_CONNECTIONS.1);
    let watchers = size(WATCHERS.0, WATCHERS.1);
    let started = Instant::now();
    let stalled: Vec<_> =
        (0..connections).map(|_| stalled(target.port(), watchers)).collect::<Result<_>>()?;
    let total = connections * STREAMS as usize * watchers;
    eprintln!("limits: {total} watchers made in {:.1?}", started.elapsed());
    let before = target.resident()?;
    let peak = Peak::watch(target.cluster.members[0].pid()?);
    let innocent = target.innocent();
    let events = size(EVENTS.0, EVENTS.1);
    target.run(async {
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let mut stream = open(&target.client(), create("hot", 0)).await?;
            readers.push(tokio::spawn(async move { expect(&mut stream, 0, events).await }));
        }
        let client = target.client();
        let mut slowest = Duration::ZERO;
        for number in 0..events {
            let start = Instant::now();
            client.put("hot", value(number)).await?;
            slowest = slowest.max(start.elapsed());
        }
        for reader in readers {
            reader.await??;
        }
        eprintln!("limits: {events} writes to {total} watchers, the slowest took {slowest:.1?}");
        ensure!(slowest < crate::target::INNOCENT_MAX, "a write took {slowest:?}");
        Ok(())
    })?;
    target.judge(innocent, "watchers that never read")?;
    let most = peak.bytes();
    eprintln!("limits: {} MiB before, {} MiB at most", mib(before), mib(most));
    ensure!(most < WATCHED_BYTES_MAX, "{} MiB", mib(most));
    drop(stalled);
    target.finish()
}

/// Events while the slow ones sleep: more than mailbox, queues and windows take together.
const SLEPT_THROUGH: usize = 2_500;

/// One slow watcher reads again and gets every event in order. For another the history is compacted
/// while it sleeps: it gets a gapless start and then word of the compact revision.
#[test]
fn a_slow_watcher_catches_up_in_order_or_is_told_of_the_compaction() -> Result<()> {
    let target = Target::one(&[])?;
    let innocent = target.innocent();
    let client = target.client();
    target.run(async {
        let mut slow = open(&target.client(), create("slow", 0)).await?;
        for number in 0..SLEPT_THROUGH {
            client.put("slow", value(number)).await?;
        }
        expect(&mut slow, 0, SLEPT_THROUGH).await?;
        // It is live again.
        client.put("slow", value(SLEPT_THROUGH)).await?;
        expect(&mut slow, SLEPT_THROUGH, 1).await?;

        let mut late = open(&target.client(), create("late", 0)).await?;
        for number in 0..SLEPT_THROUGH {
            client.put("late", value(number)).await?;
        }
        let revision = client.revision().await?;
        client.kv().compact(pb::CompactionRequest { revision, physical: true }).await?;
        let mut next = 0;
        let canceled = loop {
            let message = tokio::time::timeout(WAIT_MAX, late.message())
                .await
                .context("no end")??
                .context("the stream ended without a reason")?;
            for event in &message.events {
                ensure!(number_of(event)? == next, "event {} after {next}", number_of(event)?);
                next += 1;
            }
            if message.canceled {
                break message;
            }
            ensure!(next < SLEPT_THROUGH, "everything was held in memory");
        };
        ensure!(canceled.compact_revision == revision, "{canceled:?}, compacted {revision}");
        eprintln!("limits: the late watcher had {next} of {SLEPT_THROUGH} events, then its end");
        Ok(())
    })?;
    target.judge(innocent, "slow watchers")?;
    target.finish()
}

/// Watchers made and canceled on one stream, and streams made and dropped: in CI, and in full.
const CHURN: (usize, usize) = (20_000, 500_000);
const STREAM_CHURN: (usize, usize) = (2_000, 50_000);
const WATCHERS_METRIC: &str = "etcd_debugging_mvcc_watcher_total ";
/// What may stay behind, in bytes.
const LEFT_BYTES_MAX: u64 = 96 << 20;

/// Watchers that come and go leave nothing: memory returns, and writes cost what they did (Consul
/// CVE-2020-13250: a cache that every new request grew).
#[test]
fn watchers_that_come_and_go_leave_nothing() -> Result<()> {
    let target = Target::one(&[])?;
    let innocent = target.innocent();
    let client = target.client();
    let before = target.resident()?;
    let files = target.files()?;
    let start = Instant::now();
    let (churn, streams) = (size(CHURN.0, CHURN.1), size(STREAM_CHURN.0, STREAM_CHURN.1));
    target.run(async {
        let requests = (0..churn).flat_map(|number| {
            let watch_id = i64::try_from(number).unwrap_or_default();
            let cancel = pb::WatchCancelRequest { watch_id };
            let cancel = WatchRequest { request_union: Some(RequestUnion::CancelRequest(cancel)) };
            [create("churn", 0), cancel]
        });
        let requests = futures::stream::iter(requests);
        let requests = futures::StreamExt::chain(requests, futures::stream::pending());
        let mut stream = client.watch_service().watch(requests).await?.into_inner();
        let (mut created, mut canceled) = (0, 0);
        while canceled < churn {
            let message =
                tokio::time::timeout(WAIT_MAX, stream.message()).await??.context("end")?;
            ensure!(message.events.is_empty(), "{message:?}");
            created += usize::from(message.created);
            canceled += usize::from(message.canceled);
        }
        ensure!(created == churn, "{created} created, {canceled} canceled");
        let grown = target.resident()?.saturating_sub(before);
        eprintln!("limits: {} MiB more after {churn} watchers of one stream", mib(grown));
        for _ in 0..streams {
            // Only a stream whose requests have ended, too, is reset when its answers are dropped.
            let (requests, mut waiting) = tokio::sync::mpsc::channel(1);
            requests.send(create("churn", 0)).await?;
            let waiting = futures::stream::poll_fn(move |context| waiting.poll_recv(context));
            let mut stream = client.watch_service().watch(waiting).await?.into_inner();
            let message = stream.message().await?.context("created")?;
            ensure!(message.created && !message.canceled, "{message:?}");
        }
        Ok(())
    })?;
    // The first stream has no watcher left, and the last of the others may be on its way.
    wait::eventually_blocking("all watchers are gone", WAIT_MAX, || {
        let text = target.http().get("/metrics")?.text();
        let line = text.lines().find(|line| line.starts_with(WATCHERS_METRIC));
        let watchers = line.and_then(|line| line.rsplit(' ').next()).context("no such metric")?;
        ensure!(watchers == "0", "{watchers} watchers are left");
        Ok(())
    })?;
    let grown = target.resident()?.saturating_sub(before);
    eprintln!(
        "limits: {churn} watchers and {streams} streams came and went in {:.1?}, {} MiB stay",
        start.elapsed(),
        mib(grown)
    );
    ensure!(grown < LEFT_BYTES_MAX, "{} MiB stay behind", mib(grown));
    ensure!(target.files()? <= files + 8, "files stay open");
    target.judge(innocent, "watchers that come and go")?;
    target.finish()
}
