//! The seam to the root crate: how a byte stream to a peer comes about.

use std::{fmt::Debug, io, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::wire::Lane;

/// A byte stream to or from a peer: plain TCP, TLS, or memory in tests.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static> PeerStream for T {}

/// What a peer proved about itself, a verified certificate most likely.
pub trait PeerProof: Debug + Send + Sync + 'static {
    /// It proved to be this host: a name, or an address.
    fn owns(&self, host: &str) -> bool;
}

/// What the transport knows about the other end, before any frame.
#[derive(Clone, Debug, Default)]
pub struct PeerIdentity {
    /// Address, for logs.
    pub address: String,
    /// What it proved. With a proof the peer must own the host of one of the peer URLs of the
    /// member it says it is; without one it is believed.
    pub proof: Option<Arc<dyn PeerProof>>,
}

/// Opens streams to peers. Called on the consensus thread, inside its tokio runtime.
pub trait PeerTransport: Debug + Send + Sync + 'static {
    /// Connects to one of `urls`, tried in order. The caller puts a deadline around it.
    fn connect<'a>(
        &'a self,
        urls: &'a [String],
        lane: Lane,
    ) -> BoxFuture<'a, io::Result<Box<dyn PeerStream>>>;
}
