//! The dialing end.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, client::Resumption, pki_types::ServerName, sign::SingleCertAndKey};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Error, Settings, files, suites,
    verify::ServerPolicy,
    watched::{RELOAD_INTERVAL, Watched},
};

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those the authorities of this PEM file signed.
    File(PathBuf),
    /// Those the system's authorities signed.
    System,
    /// Anybody's: no protection against impostors.
    Anyone,
}

impl Trust {
    /// What settings of a port say about the servers it dials.
    fn of(settings: &Settings) -> Self {
        if settings.self_signed {
            Self::Anyone
        } else if settings.trusted_ca_file.as_os_str().is_empty() {
            Self::System
        } else {
            Self::File(settings.trusted_ca_file.clone())
        }
    }
}

/// Dials servers. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Connector {
    watched: Watched<Arc<ClientConfig>>,
}

impl Connector {
    /// Dials as the settings of a port say; for peers.
    ///
    /// # Errors
    /// [`Error`] for the first file that cannot be used.
    pub fn of_port(settings: Settings) -> Result<Self, Error> {
        let trust = Trust::of(&settings);
        Self::with_interval(settings, trust, RELOAD_INTERVAL)
    }

    /// Dials with this certificate (unless the files are unset) and trust; for clients.
    ///
    /// # Errors
    /// [`Error`] for the first file that cannot be used.
    pub fn new(settings: Settings, trust: Trust) -> Result<Self, Error> {
        Self::with_interval(settings, trust, RELOAD_INTERVAL)
    }

    fn with_interval(settings: Settings, trust: Trust, interval: Duration) -> Result<Self, Error> {
        let mut paths = vec![
            settings.cert_file.clone(),
            settings.key_file.clone(),
            settings.client_cert_file.clone(),
            settings.client_key_file.clone(),
            settings.crl_file.clone(),
        ];
        if let Trust::File(path) = &trust {
            paths.push(path.clone());
        }
        let load = Box::new(move || read(&settings, &trust));
        Ok(Self { watched: Watched::new(paths, interval, Instant::now(), load)? })
    }

    /// Secures a connection to `host`, a name or an address. The caller has the deadline.
    ///
    /// # Errors
    /// The server's certificate is not for `host` or not trusted, or the connection broke.
    pub async fn connect(&self, socket: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let config = Arc::clone(&self.watched.current(Instant::now()));
        TlsConnector::from(Arc::clone(&*config)).connect(name, socket).await
    }
}

fn read(settings: &Settings, trust: &Trust) -> Result<Arc<ClientConfig>, Error> {
    let provider = suites::provider(&settings.cipher_suites)?;
    let signed = |roots| ServerPolicy::signed_by(roots, settings, Arc::clone(&provider));
    let policy = match trust {
        Trust::File(path) => signed(files::authorities(path)?)?,
        Trust::System => signed(files::system_authorities()?)?,
        Trust::Anyone => ServerPolicy::anyone(Arc::clone(&provider)),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&settings.versions.list())
        .map_err(|error| Error::Settings(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(policy));
    let own = if settings.client_cert_file.as_os_str().is_empty() {
        (&settings.cert_file, &settings.key_file)
    } else {
        (&settings.client_cert_file, &settings.client_key_file)
    };
    let mut config = if own.0.as_os_str().is_empty() {
        builder.with_no_client_auth()
    } else {
        let certified = files::certified_key(own.0, own.1, &provider)?;
        builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
    };
    // A resumed session would not judge the server's certificate again.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = settings.protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}
