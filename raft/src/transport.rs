//! The seam to the root crate: how a byte stream to a peer comes about.

use std::{fmt::Debug, io};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::wire::Lane;

/// A byte stream to or from a peer: plain TCP, TLS, or memory in tests.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static> PeerStream for T {}

/// What the transport knows about the other end, before any frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Address, for logs.
    pub address: String,
    /// Names of the certificate it proved to own; empty without TLS.
    pub names: Vec<String>,
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
