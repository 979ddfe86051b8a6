//! TLS of the connections to servers.

use std::{
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http::Uri};

use super::{args::Global, exit::Exit};
use crate::tls::{Connector, Settings, Trust};

/// Port of an `https` endpoint that names none.
const DEFAULT_PORT: u16 = 443;
/// What is spoken inside TLS.
const PROTOCOLS: &[&[u8]] = &[b"h2"];

/// Opens encrypted connections for gRPC.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    connector: Arc<Connector>,
    /// Name that the servers' certificates must be for, where it is not that of the endpoint.
    server_name: Option<String>,
}

/// Certificates or authorities are named, so an endpoint without a scheme is meant encrypted.
pub(super) fn names_files(global: &Global) -> bool {
    [&global.cacert, &global.cert, &global.key].iter().any(|file| !file.is_empty())
}

impl Dialer {
    /// A dialer with the certificates of the flags. Servers that DNS names must prove the domain
    /// that was asked for: their own names come from DNS, which proves nothing. As in etcdctl.
    ///
    /// # Errors
    /// Half a pair of certificate and key, or files that cannot be used.
    pub(super) fn new(global: &Global) -> Result<Self, Exit> {
        let server_name = Some(global.discovery_srv.clone()).filter(|domain| !domain.is_empty());
        Ok(Self { connector: Arc::new(connector(global, PROTOCOLS)?), server_name })
    }
}

/// TLS with the certificates of the flags, to speak one of `protocols`.
///
/// # Errors
/// Half a pair of certificate and key, or files that cannot be used.
pub(super) fn connector(
    global: &Global,
    protocols: &'static [&'static [u8]],
) -> Result<Connector, Exit> {
    if global.cert.is_empty() != global.key.is_empty() {
        return Err(Exit::args(format!(
            "KeyFile and CertFile must both be present[key: {}, cert: {}]",
            global.key, global.cert
        )));
    }
    let trust = if global.insecure_skip_tls_verify {
        Trust::Anyone
    } else if global.cacert.is_empty() {
        Trust::System
    } else {
        Trust::File(PathBuf::from(&global.cacert))
    };
    let settings = Settings {
        cert_file: PathBuf::from(&global.cert),
        key_file: PathBuf::from(&global.key),
        protocols,
        ..Settings::default()
    };
    Connector::new(settings, trust).map_err(|error| Exit::args(error.with_causes()))
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connector, name) = (Arc::clone(&self.connector), self.server_name.clone());
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(DEFAULT_PORT))).await?;
            socket.set_nodelay(true)?;
            connector.connect(socket, name.as_deref().unwrap_or(host)).await.map(TokioIo::new)
        })
    }
}
