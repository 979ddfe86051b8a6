//! Peer connections over TCP: the transport of the raft crate, and the acceptor for it.
//!
//! Both run on the member's consensus thread. What happens between TCP and the first frame is
//! behind [`PeerSecurity`]: nothing ([`Plaintext`]), or TLS ([`PeerTls`]).
//!
//! With TLS and authorities to verify against, a peer must show a certificate they signed for
//! clients, and the raft crate holds its names against the peer URLs of the membership. Dialing,
//! the certificate must be for the host of the URL.

use std::{fmt::Debug, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tripod_raft::{Error, Lane, Node, PeerIdentity, PeerProof, PeerStream, PeerTransport};

use crate::tls::{self, Acceptor, Connector, Facts, Settings};

/// Port of a peer URL that names none, as etcd.
const DEFAULT_PORT: u16 = 2380;

/// Questions of TCP without an answer after which a silent connection is dead.
const KEEPALIVE_PROBES: u32 = 3;
/// A silent peer is asked after this part of the time it may be silent; then as often as the
/// probes fit into the rest.
const KEEPALIVE_IDLE_PART: u32 = 5;
/// TCP counts these times in whole seconds.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

/// Pause after a failed accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection between peers may do nothing; zero is for ever. TCP itself keeps them:
/// it asks a silent machine whether it is there, and counts how long sent bytes go unacknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTimeouts {
    /// Time the other machine may be silent.
    pub read: Duration,
    /// Time written bytes may wait for an acknowledgement.
    pub write: Duration,
}

impl Default for PeerTimeouts {
    fn default() -> Self {
        Self { read: Duration::from_secs(5), write: Duration::from_secs(5) }
    }
}

/// A secured stream, and what its other end has proved; nothing if it did not have to.
pub type Accepted = (Box<dyn PeerStream>, Option<Arc<dyn PeerProof>>);

/// What is put on top of a TCP connection between peers.
pub trait PeerSecurity: Debug + Send + Sync + 'static {
    /// Secures a connection this member opened to `host`.
    fn connect(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>>;

    /// Secures a connection a peer opened; also gives what the peer proved. Must have a deadline
    /// of its own.
    fn accept(&self, stream: TcpStream) -> BoxFuture<'static, io::Result<Accepted>>;
}

/// No security: anybody who reaches the port is believed. For closed networks and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plaintext;

impl PeerSecurity for Plaintext {
    fn connect(
        &self,
        stream: TcpStream,
        _host: &str,
    ) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>> {
        Box::pin(async move { Ok(Box::new(stream) as Box<dyn PeerStream>) })
    }

    fn accept(&self, stream: TcpStream) -> BoxFuture<'static, io::Result<Accepted>> {
        Box::pin(async move { Ok((Box::new(stream) as Box<dyn PeerStream>, None)) })
    }
}

/// TLS, mutual if there are authorities to verify against.
#[derive(Debug)]
pub struct PeerTls {
    acceptor: Arc<Acceptor>,
    connector: Arc<Connector>,
    checks_membership: bool,
}

impl PeerTls {
    /// TLS with these certificates. With `checks_membership` a peer must own the host of a
    /// member's peer URL; without, any certificate that the settings accept will do.
    ///
    /// # Errors
    /// [`tls::Error`] for the first file that cannot be used.
    pub fn new(settings: Settings, checks_membership: bool) -> Result<Self, tls::Error> {
        Ok(Self {
            acceptor: Arc::new(Acceptor::new(settings.clone())?),
            connector: Arc::new(Connector::of_port(settings)?),
            checks_membership,
        })
    }
}

impl PeerSecurity for PeerTls {
    fn connect(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>> {
        let (connector, host) = (Arc::clone(&self.connector), host.to_owned());
        Box::pin(async move {
            let stream = connector.connect(stream, &host).await?;
            Ok(Box::new(stream) as Box<dyn PeerStream>)
        })
    }

    fn accept(&self, stream: TcpStream) -> BoxFuture<'static, io::Result<Accepted>> {
        let (acceptor, checks) = (Arc::clone(&self.acceptor), self.checks_membership);
        Box::pin(async move {
            let shaken = acceptor.accept(stream).await.map_err(io::Error::other)?;
            let proof = shaken.client.filter(|_| checks);
            let proof = proof.map(|facts| Arc::new(Certificate(facts)) as Arc<dyn PeerProof>);
            Ok((Box::new(shaken.stream) as Box<dyn PeerStream>, proof))
        })
    }
}

/// A verified certificate as proof of who a peer is.
#[derive(Debug)]
struct Certificate(Facts);

impl PeerProof for Certificate {
    fn owns(&self, host: &str) -> bool {
        self.0.has_host(host)
    }
}

/// Connects to peers by their URLs: `http` in cleartext, `https` with TLS.
#[derive(Debug)]
pub struct TcpTransport {
    tls: Option<Arc<dyn PeerSecurity>>,
    timeouts: PeerTimeouts,
}

impl TcpTransport {
    /// A transport with `tls` for `https` URLs, which are refused without.
    pub fn new(tls: Option<Arc<dyn PeerSecurity>>, timeouts: PeerTimeouts) -> Self {
        Self { tls, timeouts }
    }

    async fn connect_one(&self, url: &str) -> io::Result<Box<dyn PeerStream>> {
        let (security, scheme): (&dyn PeerSecurity, _) = match &self.tls {
            Some(tls) if url.starts_with("https://") => (tls.as_ref(), "https"),
            _ => (&Plaintext, "http"),
        };
        let (host, port) = host_and_port(url, scheme)?;
        let stream = TcpStream::connect((host, port)).await?;
        tune(&stream, self.timeouts)?;
        security.connect(stream, host).await
    }
}

impl PeerTransport for TcpTransport {
    fn connect<'a>(
        &'a self,
        urls: &'a [String],
        _lane: Lane,
    ) -> BoxFuture<'a, io::Result<Box<dyn PeerStream>>> {
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no peer URL");
            for url in urls {
                match self.connect_one(url).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

/// Host and port of a peer URL such as `http://10.0.0.1:2380` or `http://[::1]:2380`.
///
/// # Errors
/// `InvalidInput` if it has another scheme or is no URL.
fn host_and_port<'a>(url: &'a str, scheme: &str) -> io::Result<(&'a str, u16)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{url}: {what}"));
    let rest = url
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .ok_or_else(|| bad("unexpected scheme"))?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').ok_or_else(|| bad("unclosed bracket"))?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err(bad("no host"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port.parse().map_err(|_| bad("bad port"))?,
    };
    Ok((host, port))
}

/// No delay for small frames; dead peers are noticed.
fn tune(stream: &TcpStream, timeouts: PeerTimeouts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    if !timeouts.write.is_zero() {
        socket.set_tcp_user_timeout(Some(timeouts.write))?;
    }
    if timeouts.read.is_zero() {
        return Ok(());
    }
    let interval = (timeouts.read / KEEPALIVE_IDLE_PART).max(KEEPALIVE_MIN);
    let idle = timeouts.read.saturating_sub(interval * KEEPALIVE_PROBES).max(KEEPALIVE_MIN);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(idle)
        .with_interval(interval)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Serves peers that connect to `listener` for as long as the member runs. The number of
/// connections and the time until each has greeted are bounded by the raft crate.
///
/// # Errors
/// [`Error`] if the member has stopped or the listener cannot be used.
pub fn serve(
    node: &Node,
    listener: std::net::TcpListener,
    security: Arc<dyn PeerSecurity>,
    timeouts: PeerTimeouts,
) -> Result<(), Error> {
    let prepare = |source| Error::Io { action: "use the peer listener".into(), source };
    listener.set_nonblocking(true).map_err(prepare)?;
    let of_task = node.clone();
    node.spawn_on_consensus(move || {
        Box::pin(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(of_task, listener, security, timeouts).await,
                Err(error) => tracing::error!(%error, "cannot serve peers"),
            }
        })
    })
}

async fn accept(
    node: Node,
    listener: TcpListener,
    security: Arc<dyn PeerSecurity>,
    timeouts: PeerTimeouts,
) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if let Err(error) = tune(&stream, timeouts) {
                    tracing::debug!(%address, %error, "peer connection is gone already");
                    continue;
                }
                let connection = serve_one(node.clone(), stream, address, security.clone());
                tokio::task::spawn_local(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(
    node: Node,
    stream: TcpStream,
    address: SocketAddr,
    security: Arc<dyn PeerSecurity>,
) {
    match security.accept(stream).await {
        Ok((stream, proof)) => {
            let identity = PeerIdentity { address: address.to_string(), proof };
            node.serve_peer(stream, identity).await;
        }
        // Said by the acceptor, with a limit on the lines.
        Err(error) => tracing::debug!(%address, %error, "peer handshake failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_timeouts_of_peers_are_kept_by_their_sockets() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (seconds, second) = (Duration::from_secs, Duration::from_secs(1));
        // read, write; idle time, interval and patience with unacknowledged bytes
        let cases = [
            (5, 5, Some((seconds(2), second, seconds(5)))),
            (20, 7, Some((seconds(8), seconds(4), seconds(7)))),
            (1, 1, Some((second, second, second))),
            (0, 0, None),
        ];
        for (read, write, want) in cases {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let timeouts = PeerTimeouts { read: seconds(read), write: seconds(write) };
            tune(&stream, timeouts).unwrap();
            let socket = socket2::SockRef::from(&stream);
            assert_eq!(socket.keepalive().unwrap(), want.is_some(), "{timeouts:?}");
            let Some((idle, interval, patience)) = want else { continue };
            assert_eq!(socket.tcp_keepalive_time().unwrap(), idle, "{timeouts:?}");
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), interval, "{timeouts:?}");
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(patience), "{timeouts:?}");
        }
    }

    #[test]
    fn peer_urls_give_host_and_port() {
        let cases = [
            ("http://10.0.0.1:2380", Some(("10.0.0.1", 2380))),
            ("http://a.example:1/", Some(("a.example", 1))),
            ("http://a.example", Some(("a.example", 2380))),
            ("http://[::1]:9", Some(("::1", 9))),
            ("http://[::1]", Some(("::1", 2380))),
            ("https://10.0.0.1:2380", None),
            ("http://:2380", None),
            ("http://a:x", None),
            ("http://[::1:9", None),
            ("a:2380", None),
        ];
        for (url, want) in cases {
            assert_eq!(host_and_port(url, "http").ok(), want, "{url}");
        }
    }
}
