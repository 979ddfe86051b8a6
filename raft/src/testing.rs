//! A network in memory between members of one process, with seeded faults, for tests.
//!
//! Every connection is a pair of pipes with one pump for each direction. A pump delays, holds
//! back what crosses a cut (as TCP does, it arrives after healing), or breaks the connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    node::Node,
    transport::{PeerIdentity, PeerStream, PeerTransport},
    types::{NodeId, Peer},
    wire::Lane,
};

/// Bytes under way in one direction of a connection.
const PIPE_BYTES: usize = 256 << 10;

/// Bytes a pump moves at a time.
const PUMP_BYTES: usize = 64 << 10;

/// Scheme of this network's URLs.
const SCHEME: &str = "mem://";

/// What the network does to traffic.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Ordered pairs (from, to) that nothing crosses.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Shortest and longest delay of a piece of data.
    delay: (Duration, Duration),
    /// Of a million pieces of data, how many break their connection.
    breaks_per_million: u32,
}

/// The network of one test cluster.
#[derive(Debug)]
pub struct TestNetwork {
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    faults: watch::Sender<Faults>,
    random: Mutex<u64>,
}

impl TestNetwork {
    /// A network without faults; later faults are drawn from `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            nodes: Mutex::default(),
            faults: watch::Sender::new(Faults::default()),
            random: Mutex::new(seed | 1),
        })
    }

    /// The peer entry of member `id`.
    pub fn peer(id: NodeId) -> Peer {
        Peer::at(format!("{SCHEME}{id}"))
    }

    /// The transport of member `from`.
    pub fn transport(self: &Arc<Self>, from: NodeId) -> Arc<dyn PeerTransport> {
        Arc::new(TestTransport { network: self.clone(), from })
    }

    /// Lets others reach `node`.
    pub fn attach(&self, id: NodeId, node: Node) {
        self.nodes.lock().insert(id, node);
    }

    /// Nobody reaches member `id` from now on; open connections stay.
    pub fn detach(&self, id: NodeId) {
        self.nodes.lock().remove(&id);
    }

    /// Nothing passes between any member of `left` and any of `right`.
    pub fn cut(&self, left: &[NodeId], right: &[NodeId]) {
        self.faults.send_modify(|faults| {
            for &a in left {
                for &b in right {
                    faults.cut.extend([(a, b), (b, a)]);
                }
            }
        });
    }

    /// Nothing passes from `from` to `to`; the other way stays open.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.faults.send_modify(|faults| {
            faults.cut.insert((from, to));
        });
    }

    /// Everything passes again, also what was held back.
    pub fn heal(&self) {
        self.faults.send_modify(|faults| faults.cut.clear());
    }

    /// Delays every piece of data by something between `min` and `max`.
    pub fn set_delay(&self, min: Duration, max: Duration) {
        self.faults.send_modify(|faults| faults.delay = (min, max));
    }

    /// Breaks the connection of that many pieces of data in a million.
    pub fn set_breaks(&self, per_million: u32) {
        self.faults.send_modify(|faults| faults.breaks_per_million = per_million);
    }

    /// The next number of an xorshift generator.
    fn random(&self) -> u64 {
        let mut state = self.random.lock();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn delay(&self, (min, max): (Duration, Duration)) -> Duration {
        let spread = u64::try_from(max.saturating_sub(min).as_micros()).unwrap_or(0);
        if spread == 0 {
            return min;
        }
        min + Duration::from_micros(self.random() % spread)
    }
}

#[derive(Debug)]
struct TestTransport {
    network: Arc<TestNetwork>,
    from: NodeId,
}

impl PeerTransport for TestTransport {
    fn connect<'a>(
        &'a self,
        urls: &'a [String],
        _lane: Lane,
    ) -> BoxFuture<'a, io::Result<Box<dyn PeerStream>>> {
        Box::pin(async move {
            let to = urls
                .iter()
                .find_map(|url| url.strip_prefix(SCHEME)?.parse::<NodeId>().ok())
                .ok_or(io::ErrorKind::AddrNotAvailable)?;
            let mut faults = self.network.faults.subscribe();
            let (there, back) = ((self.from, to), (to, self.from));
            let open =
                |faults: &Faults| !faults.cut.contains(&there) && !faults.cut.contains(&back);
            faults.wait_for(open).await.map_err(|_| io::ErrorKind::NotConnected)?;
            let node = self.network.nodes.lock().get(&to).cloned();
            let node = node.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (near, near_pump) = duplex(PIPE_BYTES);
            let (far, far_pump) = duplex(PIPE_BYTES);
            let (near_read, near_write) = split(near_pump);
            let (far_read, far_write) = split(far_pump);
            tokio::spawn(pump(self.network.clone(), there, near_read, far_write));
            tokio::spawn(pump(self.network.clone(), back, far_read, near_write));
            let identity = PeerIdentity { address: format!("{SCHEME}{}", self.from), proof: None };
            let server = node.clone();
            node.spawn_on_consensus(move || {
                Box::pin(async move { server.serve_peer(Box::new(far), identity).await })
            })
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(near) as Box<dyn PeerStream>)
        })
    }
}

/// Moves bytes in one direction until the connection ends or breaks.
async fn pump(
    network: Arc<TestNetwork>,
    way: (NodeId, NodeId),
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
) {
    let mut faults = network.faults.subscribe();
    let mut buffer = vec![0; PUMP_BYTES];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let now = match faults.wait_for(|faults| !faults.cut.contains(&way)).await {
            Ok(faults) => faults.clone(),
            Err(_) => break,
        };
        let delay = network.delay(now.delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let breaks = u64::from(now.breaks_per_million);
        if breaks > 0 && network.random() % 1_000_000 < breaks {
            break;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            break;
        }
    }
    // The other side sees the end of the stream; an end that is gone needs none.
    let _ = to.shutdown().await;
}

/// Plain TCP on the loopback interface, for tests and measurements. URLs are `tcp://host:port`.
#[derive(Debug, Default)]
pub struct TcpTransport;

impl PeerTransport for TcpTransport {
    fn connect<'a>(
        &'a self,
        urls: &'a [String],
        _lane: Lane,
    ) -> BoxFuture<'a, io::Result<Box<dyn PeerStream>>> {
        Box::pin(async move {
            let url = urls.first().and_then(|url| url.strip_prefix("tcp://"));
            let stream = TcpStream::connect(url.ok_or(io::ErrorKind::AddrNotAvailable)?).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn PeerStream>)
        })
    }
}

/// Serves peers that connect to `listener` on the consensus thread of `node`.
///
/// # Errors
/// [`crate::Error`] if the listener cannot be used or the member has stopped.
pub fn serve_tcp(node: &Node, listener: std::net::TcpListener) -> Result<(), crate::Error> {
    listener
        .set_nonblocking(true)
        .map_err(|source| crate::Error::Io { action: "use the listener".into(), source })?;
    let server = node.clone();
    node.spawn_on_consensus(move || {
        Box::pin(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, address)) = listener.accept().await {
                let identity = PeerIdentity { address: address.to_string(), proof: None };
                // A connection that is gone already is noticed by its first read.
                let _ = stream.set_nodelay(true);
                let server = server.clone();
                tokio::task::spawn_local(async move {
                    server.serve_peer(Box::new(stream), identity).await;
                });
            }
        })
    })
}
