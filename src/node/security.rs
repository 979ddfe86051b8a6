//! From a configuration's certificate settings to what the ports are served with.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::StartError;
use crate::{
    config::{Config, TlsFiles, TlsVersion, Urls},
    frontend::ListenerTls,
    peer::{PeerSecurity, PeerTls},
    tls::{self, Acceptor, Settings, Versions},
};

/// Folder of generated certificates inside the data directory, as in etcd.
const GENERATED_DIR: &str = "fixtures";
/// What the client port speaks inside TLS.
const CLIENT_PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// TLS of the client listeners; none if no client URL asks for it.
pub(super) fn of_clients(config: &Config) -> Result<Option<ListenerTls>, StartError> {
    let listen = [&config.listen_client_urls, &config.listen_client_http_urls];
    warn_of_cleartext("client", &config.client_transport_security, &listen);
    client_tls(config, &listen)
}

/// TLS of the metrics listeners: certificates and rules of the client port, as in etcd, also where
/// that one is cleartext. None if no metrics URL asks for it.
pub(super) fn of_metrics(config: &Config) -> Result<Option<ListenerTls>, StartError> {
    client_tls(config, &[&config.listen_metrics_urls])
}

fn client_tls(config: &Config, listen: &[&Urls]) -> Result<Option<ListenerTls>, StartError> {
    let files = &config.client_transport_security;
    let advertised = [&config.listen_client_urls, &config.advertise_client_urls];
    let Some(settings) = settings(config, "client", files, listen, &advertised)? else {
        return Ok(None);
    };
    let settings = Settings { protocols: CLIENT_PROTOCOLS, ..settings };
    Ok(Some(ListenerTls {
        acceptor: Arc::new(Acceptor::new(settings)?),
        common_name_is_user: files.client_cert_auth,
    }))
}

/// TLS between peers; none if no peer URL asks for it.
pub(super) fn of_peers(config: &Config) -> Result<Option<Arc<dyn PeerSecurity>>, StartError> {
    let files = &config.peer_transport_security;
    warn_of_cleartext("peer", files, &[&config.listen_peer_urls]);
    let hosts = [&config.listen_peer_urls, &config.initial_advertise_peer_urls];
    let Some(settings) = settings(config, "peer", files, &[&config.listen_peer_urls], &hosts)?
    else {
        return Ok(None);
    };
    if files.skip_client_san_verification && !settings.trusted_ca_file.as_os_str().is_empty() {
        tracing::warn!(
            "--peer-skip-client-san-verification: any certificate of the peer authority may speak \
             for any member"
        );
    }
    Ok(Some(Arc::new(PeerTls::new(settings, !files.skip_client_san_verification)?)))
}

/// etcd's warnings about settings that a cleartext URL leaves without effect.
fn warn_of_cleartext(port: &str, files: &TlsFiles, listen: &[&Urls]) {
    let urls = listen.iter().flat_map(|urls| urls.iter());
    for url in urls.filter(|url| !url.scheme().is_secure()) {
        if files.has_certificate() {
            tracing::warn!(
                port,
                %url,
                "scheme is HTTP while key and cert files are present; ignoring key and cert files"
            );
        }
        if files.client_cert_auth {
            tracing::warn!(
                port,
                %url,
                "scheme is HTTP while client certificates are asked for; ignoring client \
                 cert auth for this URL"
            );
        }
    }
}

/// The settings of a port; none if none of the URLs it listens on is for TLS.
fn settings(
    config: &Config,
    port: &str,
    files: &TlsFiles,
    listen: &[&Urls],
    known_as: &[&Urls],
) -> Result<Option<Settings>, StartError> {
    if !listen.iter().flat_map(|urls| urls.iter()).any(|url| url.scheme().is_secure()) {
        return Ok(None);
    }
    let mut settings = from_files(config, files);
    if files.auto_tls && files.has_certificate() {
        tracing::warn!(port, "ignoring auto TLS since certs given");
    } else if files.auto_tls {
        let dir = config.data_dir.join(GENERATED_DIR).join(port);
        (settings.cert_file, settings.key_file) = generated(config, &dir, known_as)?;
        // Who made his own certificate has nobody to vouch for it.
        settings.self_signed = settings.trusted_ca_file.as_os_str().is_empty();
    }
    Ok(Some(settings))
}

fn from_files(config: &Config, files: &TlsFiles) -> Settings {
    Settings {
        cert_file: PathBuf::from(&files.cert_file),
        key_file: PathBuf::from(&files.key_file),
        client_cert_file: PathBuf::from(&files.client_cert_file),
        client_key_file: PathBuf::from(&files.client_key_file),
        trusted_ca_file: PathBuf::from(&files.trusted_ca_file),
        crl_file: PathBuf::from(&files.crl_file),
        allowed_cn: files.allowed_cn.clone(),
        allowed_hostname: files.allowed_hostname.clone(),
        self_signed: false,
        cipher_suites: config.cipher_suites.clone(),
        versions: Versions {
            tls12: config.tls_min_version == TlsVersion::Tls12,
            tls13: config.tls_max_version != Some(TlsVersion::Tls12),
        },
        protocols: &[],
    }
}

fn generated(
    config: &Config,
    dir: &Path,
    known_as: &[&Urls],
) -> Result<(PathBuf, PathBuf), tls::Error> {
    let hosts: BTreeSet<String> =
        known_as.iter().flat_map(|urls| urls.iter()).map(|url| url.host().to_owned()).collect();
    let hosts: Vec<String> = hosts.into_iter().collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    tls::self_signed(dir, &hosts, config.self_signed_cert_validity_years, now)
}
