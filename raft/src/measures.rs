//! What a member measures about itself: distributions in atomic buckets, and peers.
//!
//! Observing costs a few nanoseconds and no lock, so that the sync path may do it. Reading sums
//! buckets one after the other: a reader may see an observation in the sum that is not in a
//! bucket yet, which the next reading shows.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{transport::PeerStream, types::NodeId};

/// Most buckets of a histogram, the last one without a bound not counted.
const BUCKETS_MAX: usize = 20;

/// Most peers measured apart; the id in a greeting is only a claim.
const PEERS_MAX: usize = 64;

/// Counts of values in buckets whose bounds double.
#[derive(Debug)]
pub struct Histogram {
    /// First bound; the unit is the caller's.
    first: u64,
    buckets: usize,
    counts: [AtomicU64; BUCKETS_MAX + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// `buckets` bounds from `first` on, each twice the one before; at most `BUCKETS_MAX`.
    #[must_use]
    pub fn new(first: u64, buckets: usize) -> Self {
        let counts = [const { AtomicU64::new(0) }; BUCKETS_MAX + 1];
        Self { first: first.max(1), buckets: buckets.min(BUCKETS_MAX), counts, sum: 0.into() }
    }

    /// For durations, in nanoseconds.
    #[must_use]
    pub fn of_time(first: Duration, buckets: usize) -> Self {
        Self::new(nanoseconds(first), buckets)
    }

    /// Counts one value. A bucket holds the values up to its bound.
    pub fn observe(&self, value: u64) {
        let steps = value.div_ceil(self.first).max(1).checked_next_power_of_two();
        let bucket = steps.map_or(self.buckets, |steps| steps.trailing_zeros() as usize);
        self.counts[bucket.min(self.buckets)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts one duration.
    pub fn observe_time(&self, value: Duration) {
        self.observe(nanoseconds(value));
    }

    /// The counts so far.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let bound = |bucket: usize| self.first.saturating_mul(1 << bucket);
        Distribution {
            buckets: (0..self.buckets).map(|b| (bound(b), get(&self.counts[b]))).collect(),
            above: get(&self.counts[self.buckets]),
            sum: get(&self.sum),
        }
    }
}

fn nanoseconds(value: Duration) -> u64 {
    u64::try_from(value.as_nanos()).unwrap_or(u64::MAX)
}

/// A histogram as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Upper bound and number of values above the bound before, ascending.
    pub buckets: Vec<(u64, u64)>,
    /// Values above the last bound.
    pub above: u64,
    /// Sum of all values.
    pub sum: u64,
}

impl Distribution {
    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }
}

/// What the log measures.
#[derive(Debug)]
pub(crate) struct LogMeasures {
    pub(crate) sync: Histogram,
    /// Of rows appended.
    pub(crate) bytes: AtomicU64,
}

impl Default for LogMeasures {
    fn default() -> Self {
        // Four steps below etcd's first bound of a millisecond.
        Self { sync: Histogram::of_time(Duration::from_nanos(62_500), 18), bytes: 0.into() }
    }
}

/// What is measured of one peer.
#[derive(Debug)]
pub(crate) struct PeerMeasures {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    pub(crate) send_failures: AtomicU64,
    round_trip: Histogram,
    last_probe: AtomicU8,
}

/// Outcomes of the last probe; 0 before the first one.
const ANSWERED: u8 = 1;
const UNANSWERED: u8 = 2;

impl Default for PeerMeasures {
    fn default() -> Self {
        Self {
            sent_bytes: 0.into(),
            received_bytes: 0.into(),
            send_failures: 0.into(),
            // etcd's bounds.
            round_trip: Histogram::of_time(Duration::from_micros(100), 14),
            last_probe: AtomicU8::new(0),
        }
    }
}

impl PeerMeasures {
    /// The last probe had no answer.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.last_probe.load(Ordering::Relaxed) == UNANSWERED
    }

    /// Notes how a probe went: the time to its answer, or none.
    pub(crate) fn probed(&self, round_trip: Option<Duration>) {
        let outcome = if round_trip.is_some() { ANSWERED } else { UNANSWERED };
        self.last_probe.store(outcome, Ordering::Relaxed);
        if let Some(round_trip) = round_trip {
            self.round_trip.observe_time(round_trip);
        }
    }
}

/// Peers by id. Made where first needed.
#[derive(Debug, Default)]
pub(crate) struct Peers(RwLock<BTreeMap<NodeId, Arc<PeerMeasures>>>);

impl Peers {
    /// The measures of `id`; beyond [`PEERS_MAX`] ones that nobody reads.
    pub(crate) fn of(&self, id: NodeId) -> Arc<PeerMeasures> {
        if let Some(known) = self.0.read().get(&id) {
            return known.clone();
        }
        let mut peers = self.0.write();
        if peers.len() >= PEERS_MAX {
            return Arc::default();
        }
        peers.entry(id).or_default().clone()
    }

    pub(crate) fn read(&self, wanted: impl Fn(NodeId) -> bool) -> Vec<PeerMeasured> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let read = |(&id, peer): (&NodeId, &Arc<PeerMeasures>)| PeerMeasured {
            id,
            sent_bytes: get(&peer.sent_bytes),
            received_bytes: get(&peer.received_bytes),
            send_failures: get(&peer.send_failures),
            round_trip: peer.round_trip.read(),
            reachable: peer.last_probe.load(Ordering::Relaxed) == ANSWERED,
        };
        self.0.read().iter().filter(|(id, _)| wanted(**id)).map(read).collect()
    }
}

/// One peer as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMeasured {
    /// The peer.
    pub id: NodeId,
    /// Bytes sent to it, on connections that either side opened; below TLS where there is TLS.
    pub sent_bytes: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// Requests to it that were not answered, attempts to connect included.
    pub send_failures: u64,
    /// Time from a probe to its answer in nanoseconds, the turn of the peer's consensus thread
    /// included.
    pub round_trip: Distribution,
    /// It answered the last probe.
    pub reachable: bool,
}

/// Everything measured, as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Syncs of the write-ahead log, in nanoseconds.
    pub wal_sync: Distribution,
    /// Bytes appended to the write-ahead log, record heads not counted.
    pub wal_bytes: u64,
    /// Batches handed to the engine, in nanoseconds, the sync included where one was made.
    pub engine_commit: Distribution,
    /// Syncs of the engine, in nanoseconds.
    pub engine_sync: Distribution,
    /// Applying one log entry, in nanoseconds.
    pub apply: Distribution,
    /// Entries whose applying took longer than [`Config::slow_apply`](crate::Config).
    pub slow_applies: u64,
    /// Commands in the batches made here.
    pub batch_commands: Distribution,
    /// Proposals without an answer.
    pub proposals_pending: u64,
    /// Bytes applied and not in the engine.
    pub flush_pending_bytes: u64,
    /// Entries applied and not durable in the engine.
    pub flush_lag_entries: u64,
    /// Linearizable reads a sole voter answered without asking anybody.
    pub sole_voter_reads: u64,
    /// Confirmations of leadership that failed or came too late, and were asked for again.
    pub slow_reads: u64,
    /// Groups of reads given up.
    pub failed_reads: u64,
    /// A snapshot from the leader is being installed.
    pub installing_snapshot: bool,
    /// The other members.
    pub peers: Vec<PeerMeasured>,
}

/// A peer connection whose bytes are counted.
pub(crate) struct Counted {
    stream: Box<dyn PeerStream>,
    peer: Arc<PeerMeasures>,
}

impl Counted {
    pub(crate) fn wrap(
        stream: Box<dyn PeerStream>,
        peer: Arc<PeerMeasures>,
    ) -> Box<dyn PeerStream> {
        Box::new(Self { stream, peer })
    }

    fn sent(&self, written: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.peer.sent_bytes.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        self.peer.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_values_up_to_its_bound() {
        let histogram = Histogram::new(10, 3); // 10, 20, 40, above
        for value in [0, 1, 10, 11, 20, 21, 40, 41, u64::MAX / 2] {
            histogram.observe(value);
        }
        let read = histogram.read();
        assert_eq!(read.buckets, [(10, 3), (20, 2), (40, 2)]);
        assert_eq!((read.above, read.count()), (2, 9));
        assert_eq!(read.sum, 144 + u64::MAX / 2);
        histogram.observe(u64::MAX);
        assert_eq!(histogram.read().above, 3, "also beyond every power of two");
    }

    #[test]
    fn claimed_ids_do_not_grow_the_table_for_ever() {
        let peers = Peers::default();
        for id in 0..1_000 {
            peers.of(id).send_failures.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(peers.read(|_| true).len(), PEERS_MAX);
        assert_eq!(peers.read(|id| id == 7)[0].send_failures, 1);
    }
}
