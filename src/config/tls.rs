//! Certificate settings of one port. Only data: reading the files is the TLS part's work.

use serde::{Deserialize, Serialize};

/// Files and rules of one port, in the shape of etcd's `client-transport-security` and
/// `peer-transport-security`. Empty texts are unset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert_file: String,
    /// Its private key, PEM.
    pub key_file: String,
    /// Certificate for dialing, if not `cert_file`.
    pub client_cert_file: String,
    /// Its private key.
    pub client_key_file: String,
    /// Ask for and verify a client certificate.
    pub client_cert_auth: bool,
    /// Authorities that sign client certificates, PEM.
    pub trusted_ca_file: String,
    /// Revoked client certificates, PEM.
    pub crl_file: String,
    /// Generate a self-signed certificate.
    pub auto_tls: bool,
    /// Common names a client certificate may have; empty is any.
    pub allowed_cn: Vec<String>,
    /// Host names of which a client certificate must have one; empty is any.
    pub allowed_hostname: Vec<String>,
    /// Do not compare a client certificate's addresses with the connection's.
    pub skip_client_san_verification: bool,
}

impl TlsFiles {
    /// A certificate or its key is named.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        !self.cert_file.is_empty() || !self.key_file.is_empty()
    }
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "TLS1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "TLS1.3")]
    Tls13,
}
