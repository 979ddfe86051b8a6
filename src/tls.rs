//! Certificates and TLS: files in, rustls configurations and proved identities out.
//!
//! | module | holds |
//! |---|---|
//! | `files` | PEM files, the system's authorities |
//! | `suites` | TLS versions and cipher suites |
//! | `facts` | what a certificate says: names, purposes, times |
//! | `crl` | revoked serial numbers |
//! | `verify` | who may connect, and to whom we connect |
//! | `watched` | files read again when they change |
//! | `half_open`, `rejections` | bounds of unfinished handshakes and of log lines about failed ones |
//! | `server`, `client` | the two ends |
//! | `generate` | new certificates |
//!
//! Invariants:
//! - every connection is judged by the files as they are now (looked at once a second at most),
//!   resumed sessions too; a file that became unusable leaves the last good ones in force;
//! - a certificate revoked by any CRL given is refused on every port, whoever signed the CRL, as
//!   in etcd; an expired CRL still revokes, and is warned of;
//! - an identity comes only from a verified leaf certificate made for clients;
//! - an unfinished handshake ends by its deadline, and their number is bounded: the oldest goes.
//!
//! Absent: TLS 1.1 and older, renegotiation, cipher suites without forward secrecy, OCSP.
//! This part imports nothing of ours.

mod client;
mod crl;
mod facts;
mod files;
mod generate;
mod half_open;
mod rejections;
mod server;
mod suites;
#[cfg(test)]
mod tests;
mod verify;
mod watched;

use std::path::PathBuf;

pub use client::{Connector, Trust};
pub use facts::{Facts, read_facts};
pub use generate::{Authority, Issued, Subject, self_signed};
pub use half_open::HANDSHAKES_MAX;
pub use server::{Acceptor, HANDSHAKE_TIMEOUT, Handshake, HandshakeError};
pub use suites::{Versions, check_cipher_suites};
pub use watched::RELOAD_INTERVAL;

/// Certificates and rules of one port. Empty paths and lists are unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Certificate chain to show, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// Certificate chain to show when dialing; unset: `cert_file`.
    pub client_cert_file: PathBuf,
    /// Its private key.
    pub client_key_file: PathBuf,
    /// Authorities of the other side's certificates, PEM. Set on a listener, clients must show
    /// a certificate, as in etcd.
    pub trusted_ca_file: PathBuf,
    /// Revoked certificates, PEM or DER.
    pub crl_file: PathBuf,
    /// Common names of which a client certificate must have one; empty is any.
    pub allowed_cn: Vec<String>,
    /// Host names of which a client certificate must have one; empty is any.
    pub allowed_hostname: Vec<String>,
    /// The certificates are self-signed ones of `auto-tls`: encrypt, verify nobody.
    pub self_signed: bool,
    /// TLS 1.2 cipher suites by their names in Go and IANA; empty is all safe ones.
    pub cipher_suites: Vec<String>,
    /// TLS versions spoken.
    pub versions: Versions,
    /// Application protocols, most wanted first; empty is none.
    pub protocols: &'static [&'static [u8]],
}

/// Why certificates cannot be used. Secrets never get into the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Settings that cannot work together.
    #[error("{0}")]
    Settings(String),
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Generate(String),
}

impl Error {
    /// The text with the cause behind it, for a log line.
    #[must_use]
    pub fn with_causes(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}
