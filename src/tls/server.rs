//! The accepting end.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    HandshakeKind, ServerConfig, pki_types::UnixTime, server::danger::ClientCertVerifier,
    sign::SingleCertAndKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Error, Facts, Settings, files,
    half_open::{HANDSHAKES_MAX, HalfOpen},
    rejections::Rejections,
    suites,
    verify::ClientPolicy,
    watched::{RELOAD_INTERVAL, Watched},
};

/// Time for a whole handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A finished handshake.
#[derive(Debug)]
pub struct Handshake {
    /// The encrypted stream.
    pub stream: TlsStream<TcpStream>,
    /// What the verified client certificate says; none if none was asked for.
    pub client: Option<Facts>,
}

/// Why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// No handshake in time.
    #[error("the handshake was not finished in {0:?}")]
    Timeout(Duration),
    /// Too many unfinished handshakes, and this was the oldest.
    #[error("gave way to newer handshakes, too many are unfinished")]
    Evicted,
    /// Wrong bytes or a wrong certificate.
    #[error("{0}")]
    Failed(#[source] io::Error),
    /// A resumed session whose certificate is no longer good.
    #[error("the certificate of a resumed session is no longer accepted: {0}")]
    NoLongerAccepted(#[source] rustls::Error),
}

impl HandshakeError {
    /// The other side left before it had said enough, as load balancers do to see that the
    /// port is open.
    fn is_departure(&self) -> bool {
        matches!(self, Self::Failed(error) if matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ))
    }
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    policy: Option<Arc<ClientPolicy>>,
}

/// Does handshakes of one listener, or of several with the same certificates.
#[derive(Debug)]
pub struct Acceptor {
    watched: Watched<Loaded>,
    half_open: Arc<HalfOpen>,
    rejections: Rejections,
    timeout: Duration,
    asks_for_certificates: bool,
}

impl Acceptor {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`Error`] for the first file or setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Self::with_limits(settings, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, RELOAD_INTERVAL)
    }

    /// [`Acceptor::new`] with other limits than [`HANDSHAKE_TIMEOUT`], [`HANDSHAKES_MAX`] and
    /// [`RELOAD_INTERVAL`].
    ///
    /// # Errors
    /// As [`Acceptor::new`].
    pub fn with_limits(
        settings: Settings,
        timeout: Duration,
        handshakes_max: usize,
        reload_interval: Duration,
    ) -> Result<Self, Error> {
        let paths = vec![
            settings.cert_file.clone(),
            settings.key_file.clone(),
            settings.trusted_ca_file.clone(),
            settings.crl_file.clone(),
        ];
        let asks_for_certificates = !settings.trusted_ca_file.as_os_str().is_empty();
        let load = Box::new(move || Loaded::read(&settings));
        Ok(Self {
            watched: Watched::new(paths, reload_interval, Instant::now(), load)?,
            half_open: HalfOpen::new(handshakes_max),
            rejections: Rejections::default(),
            timeout,
            asks_for_certificates,
        })
    }

    /// Clients must show a certificate.
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.asks_for_certificates
    }

    /// Does the handshake of one connection, within the deadline. Nothing is allocated for it
    /// before it has a place among the unfinished ones and its first byte has come.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed then.
    pub async fn accept(&self, socket: TcpStream) -> Result<Handshake, HandshakeError> {
        let mut place = self.half_open.enter();
        let remote = socket.peer_addr().ok();
        let shake = tokio::time::timeout(self.timeout, self.shake(socket));
        let outcome = tokio::select! {
            biased;
            done = shake => done.unwrap_or(Err(HandshakeError::Timeout(self.timeout))),
            () = place.evicted() => Err(HandshakeError::Evicted),
        };
        if let Err(error) = &outcome
            && !error.is_departure()
            && let Some(count) = self.rejections.note(Instant::now())
        {
            let remote = remote.map(tracing::field::display);
            tracing::warn!(remote, %error, count, "rejected connection");
        }
        outcome
    }

    async fn shake(&self, socket: TcpStream) -> Result<Handshake, HandshakeError> {
        socket.readable().await.map_err(HandshakeError::Failed)?;
        let loaded = self.watched.current(Instant::now());
        let stream = TlsAcceptor::from(Arc::clone(&loaded.config))
            .accept(socket)
            .await
            .map_err(HandshakeError::Failed)?;
        let Some(policy) = &loaded.policy else { return Ok(Handshake { stream, client: None }) };
        let connection = stream.get_ref().1;
        let no_certificate =
            || HandshakeError::Failed(io::Error::other("no certificate was shown"));
        let (leaf, intermediates) = connection
            .peer_certificates()
            .and_then(<[_]>::split_first)
            .ok_or_else(no_certificate)?;
        // A resumption shows the certificate of the first handshake without judging it again.
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            policy
                .check(leaf, intermediates, UnixTime::now())
                .map_err(HandshakeError::NoLongerAccepted)?;
        }
        let client = Some(Facts::read(leaf).ok_or_else(no_certificate)?);
        Ok(Handshake { stream, client })
    }
}

impl Loaded {
    fn read(settings: &Settings) -> Result<Self, Error> {
        let provider = suites::provider(&settings.cipher_suites)?;
        let certified = files::certified_key(&settings.cert_file, &settings.key_file, &provider)?;
        let policy = if settings.trusted_ca_file.as_os_str().is_empty() {
            None
        } else {
            let roots = files::authorities(&settings.trusted_ca_file)?;
            Some(Arc::new(ClientPolicy::new(settings, roots, Arc::clone(&provider))?))
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&settings.versions.list())
            .map_err(|error| Error::Settings(error.to_string()))?;
        let builder = match &policy {
            Some(policy) => {
                builder.with_client_cert_verifier(Arc::clone(policy) as Arc<dyn ClientCertVerifier>)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = settings.protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self { config: Arc::new(config), policy })
    }
}
