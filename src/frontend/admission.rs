//! Who gets a connection: a bound on all of them, and one on those of each source address.
//!
//! Source: Consul CVE-2020-7219, connections without bound from anybody.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{CONNECTIONS_MAX_DEFAULT, FILES_RESERVED};

/// Least time between two log lines about refused connections.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Connections open at once by default, given how many files the process may open.
pub(super) fn connections_max() -> usize {
    let files = getrlimit(Resource::Nofile).current;
    files.map_or(CONNECTIONS_MAX_DEFAULT, |files| {
        within_files(usize::try_from(files).unwrap_or(usize::MAX))
    })
}

/// Connections that leave [`FILES_RESERVED`] of `files`, or half of them where they are few.
fn within_files(files: usize) -> usize {
    let left = files.saturating_sub(FILES_RESERVED).max(files / 2);
    left.clamp(1, CONNECTIONS_MAX_DEFAULT)
}

/// The bounds, and what is open. Shared by all that accept.
pub(super) struct Admission {
    places: Arc<Semaphore>,
    per_source_max: usize,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    open: HashMap<IpAddr, usize>,
    refused: u64,
    logged: Option<Instant>,
}

/// A connection's place; gives it back when dropped.
pub(super) struct Place {
    admission: Arc<Admission>,
    source: IpAddr,
    _place: OwnedSemaphorePermit,
}

/// A source's share, before there is a place.
struct Share<'a> {
    admission: &'a Arc<Admission>,
    source: IpAddr,
    kept: bool,
}

impl Admission {
    pub(super) fn new(connections_max: usize, per_source_max: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { places, per_source_max, sources: Mutex::default() })
    }

    /// Waits for a place; at once `None` where the source has too many already.
    pub(super) async fn admit(self: &Arc<Self>, remote: SocketAddr) -> Option<Place> {
        let source = source_of(remote.ip());
        if !self.sources.lock().take(source, self.per_source_max, remote) {
            return None;
        }
        let mut share = Share { admission: self, source, kept: false };
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        share.kept = true;
        Some(Place { admission: Arc::clone(self), source, _place: place })
    }
}

impl Sources {
    /// Counts a connection, unless there are `max` from this source.
    fn take(&mut self, source: IpAddr, max: usize, remote: SocketAddr) -> bool {
        let open = self.open.entry(source).or_default();
        if *open < max {
            *open += 1;
            return true;
        }
        self.refused += 1;
        let now = Instant::now();
        if self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_INTERVAL) {
            self.logged = Some(now);
            let count = std::mem::take(&mut self.refused);
            tracing::warn!(%remote, max, count, "refused client connections: too many of one source");
        }
        false
    }

    fn give_back(&mut self, source: IpAddr) {
        if let Some(open) = self.open.get_mut(&source) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&source);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.sources.lock().give_back(self.source);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.admission.sources.lock().give_back(self.source);
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 that a host of IPv6 is given.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().expect("an address"), 1)
    }

    #[test]
    fn files_are_left_for_data_and_peers() {
        let cases = [(0, 1), (2, 1), (256, 128), (1024, 512), (20_000, 19_488), (1 << 20, 65_536)];
        for (files, want) in cases {
            assert_eq!(within_files(files), want, "{files}");
        }
    }

    #[tokio::test]
    async fn one_source_leaves_places_for_others_and_gets_its_own_back() {
        let admission = Admission::new(10, 2);
        let flood = remote("10.0.0.1");
        let first = admission.admit(flood).await;
        let second = admission.admit(flood).await;
        assert!(first.is_some() && second.is_some());
        assert!(admission.admit(flood).await.is_none());
        assert!(admission.admit(remote("10.0.0.2")).await.is_some());
        // The same address written as IPv6, and two hosts of one network.
        assert!(admission.admit(remote("::ffff:10.0.0.1")).await.is_none());
        let v6 = [
            admission.admit(remote("2001:db8::1")).await,
            admission.admit(remote("2001:db8::2")).await,
        ];
        assert!(v6.iter().all(Option::is_some));
        assert!(admission.admit(remote("2001:db8::3")).await.is_none());
        assert!(admission.admit(remote("2001:db8:0:1::3")).await.is_some());
        drop(first);
        assert!(admission.admit(flood).await.is_some());
        drop((second, v6));
        assert!(admission.sources.lock().open.is_empty());
    }

    #[tokio::test]
    async fn who_stops_waiting_for_a_place_gives_its_share_back() {
        let admission = Admission::new(1, 5);
        let only = admission.admit(remote("10.0.0.1")).await;
        {
            let waiting = admission.admit(remote("10.0.0.2"));
            assert!(futures::FutureExt::now_or_never(waiting).is_none());
        }
        drop(only);
        assert!(admission.sources.lock().open.is_empty());
    }
}
