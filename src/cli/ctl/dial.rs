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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::Parser as _;
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::{super::args::Ctl, *};
    use crate::tls::{Acceptor, Authority, Subject};

    /// The years 2000 and 2100, in seconds since 1970.
    const BEGIN: i64 = 946_684_800;
    const END: i64 = 4_102_444_800;

    fn subject(name: &str, hosts: &[&str]) -> Subject {
        Subject {
            common_name: name.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            for_servers: true,
            for_clients: false,
            not_before: BEGIN,
            not_after: END,
        }
    }

    /// A server whose certificate of `authority` is for `hosts`; its port.
    async fn serve(dir: &Path, name: &str, authority: &Authority, hosts: &[&str]) -> u16 {
        let issued = authority.issue(&subject(name, hosts)).unwrap();
        let (cert_file, key_file) = (dir.join(name), dir.join(format!("{name}-key")));
        issued.write(&cert_file, &key_file).unwrap();
        let settings =
            Settings { cert_file, key_file, protocols: PROTOCOLS, ..Settings::default() };
        let acceptor = Acceptor::new(settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                drop(acceptor.accept(socket).await);
            }
        });
        port
    }

    /// A server that is reachable and speaks no TLS.
    async fn serve_cleartext() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                drop(socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
            }
        });
        port
    }

    /// CVE-2020-15136: etcd's gateway asked for certificates only of the servers that DNS had named;
    /// GHSA-j86v: it took a port that answers for a server. Every endpoint proves what it is,
    /// however it was found and in whatever order it is tried.
    #[tokio::test]
    async fn every_endpoint_proves_its_name_however_it_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (subject("ca", &[]), subject("other", &[]));
        let (ours, other) = (Authority::new(&ours).unwrap(), Authority::new(&other).unwrap());
        let ca = dir.path().join("ca.pem");
        fs::write(&ca, &ours.files().cert_pem).unwrap();
        let good = serve(dir.path(), "good", &ours, &["127.0.0.1"]).await;
        let stranger = serve(dir.path(), "stranger", &other, &["127.0.0.1"]).await;
        let misnamed = serve(dir.path(), "misnamed", &ours, &["s1.example.test"]).await;
        let of_domain = serve(dir.path(), "domain", &ours, &["example.test"]).await;
        let cleartext = serve_cleartext().await;
        let ca = ca.display().to_string();
        let given = [(stranger, false), (good, true), (misnamed, false), (cleartext, false)];
        let given = [&given[..], &[(of_domain, false), (good, true)]].concat();
        // From DNS, which proves nothing: they must be of the domain that was asked for.
        let found = vec![(of_domain, true), (misnamed, false), (good, false), (cleartext, false)];
        for (flags, endpoints) in [(vec![], given), (vec!["--discovery-srv=example.test"], found)] {
            let args =
                ["ctl", "get", "k", "--cacert", &ca].into_iter().chain(flags.iter().copied());
            let mut dialer = Dialer::new(&Ctl::try_parse_from(args).unwrap().global).unwrap();
            for (port, want) in endpoints {
                let uri: Uri = format!("https://127.0.0.1:{port}").parse().unwrap();
                let dialed = dialer.call(uri).await;
                assert_eq!(dialed.is_ok(), want, "{flags:?} {port}: {:?}", dialed.err());
            }
        }
    }
}
