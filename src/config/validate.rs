//! Checks of a completed configuration. Texts are etcd's where etcd has the check.

use std::time::Duration;

use super::{AuthTokenError, ClusterError, Config, TlsFiles, TlsVersion, UrlError, Urls, duration};

/// Longest election timeout, in milliseconds, as in etcd.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
/// Heartbeats that must fit into an election timeout, as in etcd.
const HEARTBEATS_PER_ELECTION_MIN: u64 = 5;
/// Longest life of a generated certificate, in years.
const SELF_SIGNED_YEARS_MAX: u32 = 1_000;
/// Range of bcrypt's work factor.
const BCRYPT_COST: std::ops::RangeInclusive<u32> = 4..=31;

/// A configuration that no member can start from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
#[non_exhaustive]
pub enum ConfigError {
    #[error("{0}")]
    Bind(UrlError),
    #[error("--{flag} must not be empty")]
    NoUrls { flag: &'static str },
    #[error("--initial-advertise-peer-urls {urls:?} must be \"host:port\" ({source})")]
    AdvertisePeer { urls: String, source: UrlError },
    #[error(
        "--advertise-client-urls {urls:?} must be in the format \"host:port\", \
         \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({source})"
    )]
    AdvertiseClient { urls: String, source: UrlError },
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    AdvertiseUnset,
    #[error("--heartbeat-interval must be >0 (set to {0}ms)")]
    HeartbeatZero(u64),
    #[error("--election-timeout must be >0 (set to {0}ms)")]
    ElectionZero(u64),
    #[error(
        "--election-timeout[{election_ms}ms] should be at least as 5 times as \
         --heartbeat-interval[{heartbeat_ms}ms]"
    )]
    ElectionTooShort { election_ms: u64, heartbeat_ms: u64 },
    #[error(
        "--election-timeout[{0}ms] is too long, and should be set less than \
         {ELECTION_TIMEOUT_MS_MAX}ms"
    )]
    ElectionTooLong(u64),
    #[error("error parsing CompactionRetention: {source}")]
    CompactionRetention { source: duration::DurationError },
    #[error("{0}")]
    AuthToken(AuthTokenError),
    #[error("--bcrypt-cost must be between 4 and 31 (set to {0})")]
    BcryptCost(u32),
    #[error("--auth-token-ttl must be >0")]
    AuthTokenTtl,
    #[error("--compact-hash-check-time must be >0 (set to {0})")]
    CompactHashCheckTime(String),
    #[error("--max-txn-ops must be >0")]
    MaxTxnOps,
    #[error("--max-request-bytes must be >0")]
    MaxRequestBytes,
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
    )]
    Bootstrap,
    #[error("--name must not be empty")]
    NoName,
    #[error("{0}")]
    Cluster(ClusterError),
    #[error("min version ({min}) is greater than max version ({max})")]
    TlsVersions { min: &'static str, max: &'static str },
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    CipherSuites,
    #[error("{0}")]
    CipherSuite(String),
    #[error("{port}: KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    HalfCertificate { port: &'static str, key: String, cert: String },
    #[error(
        "cannot listen on TLS for {url}: KeyFile and CertFile are not presented (give \
         --{prefix}cert-file and --{prefix}key-file, or --{prefix}auto-tls)"
    )]
    NoCertificate { prefix: &'static str, url: String },
    #[error(
        "{port}: AllowedCN and AllowedHostname are mutually exclusive (cn={cn:?}, hostname={hostname:?})"
    )]
    AllowedBoth { port: &'static str, cn: Vec<String>, hostname: Vec<String> },
    #[error(
        "{port}: {setting} judges client certificates, which takes authorities to verify them: \
         give --{prefix}trusted-ca-file"
    )]
    NoAuthority { port: &'static str, prefix: &'static str, setting: &'static str },
    #[error("--self-signed-cert-validity must be >0 years, at most {max} (set to {years})")]
    SelfSignedValidity { years: u32, max: u32 },
    #[error("unix sockets are not served: give --{flag} an http:// URL instead of {url}")]
    UnixSocket { flag: &'static str, url: String },
}

impl Config {
    /// Judges a configuration that [`Config::complete`] has filled.
    ///
    /// # Errors
    /// [`ConfigError`], the first thing found wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() {
            return Err(ConfigError::NoName);
        }
        if !self.initial_cluster.is_empty() && !self.discovery_srv.is_empty() {
            return Err(ConfigError::Bootstrap);
        }
        self.validate_urls()?;
        self.validate_timing()?;
        self.auto_compaction()?;
        self.validate_auth()?;
        self.initial_cluster.check_duplicates().map_err(ConfigError::Cluster)?;
        if self.max_txn_ops == 0 {
            return Err(ConfigError::MaxTxnOps);
        }
        if self.max_request_bytes == 0 {
            return Err(ConfigError::MaxRequestBytes);
        }
        if self.compact_hash_check_time == Duration::ZERO {
            let printed = duration::format(self.compact_hash_check_time);
            return Err(ConfigError::CompactHashCheckTime(printed));
        }
        self.validate_tls()
    }

    /// Judges what matters only while a member has no data yet: that it is one of the initial
    /// cluster, under the peer URLs it advertises. Resolves host names if texts differ.
    ///
    /// # Errors
    /// [`ConfigError::Cluster`].
    pub fn validate_bootstrap(&self) -> Result<(), ConfigError> {
        self.initial_cluster
            .check_local(&self.name, &self.initial_advertise_peer_urls)
            .map_err(ConfigError::Cluster)
    }

    /// The lists of URLs that this member binds, with their flags.
    fn listeners(&self) -> [(&'static str, &Urls); 4] {
        [
            ("listen-peer-urls", &self.listen_peer_urls),
            ("listen-client-urls", &self.listen_client_urls),
            ("listen-client-http-urls", &self.listen_client_http_urls),
            ("listen-metrics-urls", &self.listen_metrics_urls),
        ]
    }

    fn validate_urls(&self) -> Result<(), ConfigError> {
        for (flag, urls) in self.listeners() {
            for url in urls {
                url.check_bind().map_err(ConfigError::Bind)?;
                if url.scheme().is_unix() {
                    return Err(ConfigError::UnixSocket { flag, url: url.to_string() });
                }
            }
        }
        for (flag, urls) in [
            ("listen-peer-urls", &self.listen_peer_urls),
            ("listen-client-urls", &self.listen_client_urls),
            ("initial-advertise-peer-urls", &self.initial_advertise_peer_urls),
        ] {
            if urls.is_empty() {
                return Err(ConfigError::NoUrls { flag });
            }
        }
        if self.advertise_client_urls.is_empty() {
            return Err(ConfigError::AdvertiseUnset);
        }
        let advertised = |urls: &Urls| urls.iter().try_for_each(super::Url::check_advertise);
        advertised(&self.initial_advertise_peer_urls).map_err(|source| {
            let urls = self.initial_advertise_peer_urls.to_string();
            ConfigError::AdvertisePeer { urls, source }
        })?;
        advertised(&self.advertise_client_urls).map_err(|source| {
            let urls = self.advertise_client_urls.to_string();
            ConfigError::AdvertiseClient { urls, source }
        })
    }

    fn validate_timing(&self) -> Result<(), ConfigError> {
        let (heartbeat_ms, election_ms) = (self.heartbeat_interval_ms, self.election_timeout_ms);
        if heartbeat_ms == 0 {
            return Err(ConfigError::HeartbeatZero(heartbeat_ms));
        }
        if election_ms == 0 {
            return Err(ConfigError::ElectionZero(election_ms));
        }
        if heartbeat_ms.saturating_mul(HEARTBEATS_PER_ELECTION_MIN) > election_ms {
            return Err(ConfigError::ElectionTooShort { election_ms, heartbeat_ms });
        }
        if election_ms > ELECTION_TIMEOUT_MS_MAX {
            return Err(ConfigError::ElectionTooLong(election_ms));
        }
        Ok(())
    }

    fn validate_auth(&self) -> Result<(), ConfigError> {
        self.auth_token()?;
        if !BCRYPT_COST.contains(&self.bcrypt_cost) {
            return Err(ConfigError::BcryptCost(self.bcrypt_cost));
        }
        if self.auth_token_ttl_s == 0 {
            return Err(ConfigError::AuthTokenTtl);
        }
        Ok(())
    }

    /// Consistency of TLS settings. The files are read when the member starts.
    pub(crate) fn validate_tls(&self) -> Result<(), ConfigError> {
        let name = |version| match version {
            TlsVersion::Tls12 => "TLS1.2",
            TlsVersion::Tls13 => "TLS1.3",
        };
        if let Some(max) = self.tls_max_version.filter(|max| self.tls_min_version > *max) {
            return Err(ConfigError::TlsVersions {
                min: name(self.tls_min_version),
                max: name(max),
            });
        }
        if self.tls_min_version == TlsVersion::Tls13 && !self.cipher_suites.is_empty() {
            return Err(ConfigError::CipherSuites);
        }
        crate::tls::check_cipher_suites(&self.cipher_suites)
            .map_err(|error| ConfigError::CipherSuite(error.to_string()))?;
        let years = self.self_signed_cert_validity_years;
        if !(1..=SELF_SIGNED_YEARS_MAX).contains(&years) {
            return Err(ConfigError::SelfSignedValidity { years, max: SELF_SIGNED_YEARS_MAX });
        }
        let client_urls =
            [&self.listen_client_urls, &self.listen_client_http_urls, &self.listen_metrics_urls];
        validate_port("client", "", &self.client_transport_security, &client_urls)?;
        let peer_urls = [&self.listen_peer_urls];
        validate_port("peer", "peer-", &self.peer_transport_security, &peer_urls)
    }
}

/// Judges the certificate settings of one port.
fn validate_port(
    port: &'static str,
    prefix: &'static str,
    files: &TlsFiles,
    listen: &[&Urls],
) -> Result<(), ConfigError> {
    for (cert, key) in
        [(&files.cert_file, &files.key_file), (&files.client_cert_file, &files.client_key_file)]
    {
        if cert.is_empty() != key.is_empty() {
            let (key, cert) = (key.clone(), cert.clone());
            return Err(ConfigError::HalfCertificate { port, key, cert });
        }
    }
    let (cn, hostname) = (files.allowed_cn.clone(), files.allowed_hostname.clone());
    if !cn.is_empty() && !hostname.is_empty() {
        return Err(ConfigError::AllowedBoth { port, cn, hostname });
    }
    // Rules of a port without TLS are warned of at the start, as in etcd.
    let Some(url) = listen.iter().flat_map(|urls| urls.iter()).find(|url| url.scheme().is_secure())
    else {
        return Ok(());
    };
    if !files.has_certificate() && !files.auto_tls {
        return Err(ConfigError::NoCertificate { prefix, url: url.to_string() });
    }
    let rules = [
        ("client-cert-auth", files.client_cert_auth),
        ("crl-file", !files.crl_file.is_empty()),
        ("cert-allowed-cn", !cn.is_empty()),
        ("cert-allowed-hostname", !hostname.is_empty()),
    ];
    match rules.into_iter().find(|(_, set)| *set) {
        Some((setting, _)) if files.trusted_ca_file.is_empty() => {
            Err(ConfigError::NoAuthority { port, prefix, setting })
        }
        _ => Ok(()),
    }
}
