//! What the clients of a member count, one set for each thread that has one.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::watch::hub::{Hub, HubReading};

/// Of one client; its copies share it.
#[derive(Debug)]
struct OfThread {
    hub: Arc<Hub>,
    ranges: AtomicU64,
}

/// The counters of a client, and those of all clients of the member.
#[derive(Clone, Debug)]
pub(super) struct Meters {
    own: Arc<OfThread>,
    all: Arc<Mutex<Vec<Weak<OfThread>>>>,
}

/// All clients of a member together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientReading {
    /// Ranges answered outside the log.
    pub ranges: u64,
    /// Watches; `lag` is the largest of any hub.
    pub watch: HubReading,
}

impl Meters {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self::among(hub, Arc::default())
    }

    /// Counters for another thread of the same member.
    pub(super) fn fork(&self, hub: Arc<Hub>) -> Self {
        Self::among(hub, Arc::clone(&self.all))
    }

    fn among(hub: Arc<Hub>, all: Arc<Mutex<Vec<Weak<OfThread>>>>) -> Self {
        let own = Arc::new(OfThread { hub, ranges: AtomicU64::new(0) });
        all.lock().push(Arc::downgrade(&own));
        Self { own, all }
    }

    pub(super) fn count_ranges(&self, ranges: usize) {
        self.own.ranges.fetch_add(ranges as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> ClientReading {
        let threads: Vec<_> = self.all.lock().iter().filter_map(Weak::upgrade).collect();
        let mut sum = ClientReading::default();
        for thread in threads {
            let hub = thread.hub.reading();
            sum.ranges += thread.ranges.load(Ordering::Relaxed);
            sum.watch = HubReading {
                streams: sum.watch.streams + hub.streams,
                watchers: sum.watch.watchers + hub.watchers,
                behind: sum.watch.behind + hub.behind,
                sent: sum.watch.sent + hub.sent,
                pending: sum.watch.pending + hub.pending,
                lag: sum.watch.lag.max(hub.lag),
            };
        }
        sum
    }
}
