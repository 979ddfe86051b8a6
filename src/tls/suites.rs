//! TLS versions, and Go's cipher suite names in terms of rustls.

use std::sync::Arc;

use rustls::{CipherSuite, SupportedProtocolVersion, crypto::CryptoProvider, version};

use super::Error;

/// TLS versions spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
}

impl Default for Versions {
    fn default() -> Self {
        Self { tls12: true, tls13: true }
    }
}

impl Versions {
    pub(super) fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        let mut list = Vec::new();
        if self.tls13 {
            list.push(&version::TLS13);
        }
        if self.tls12 {
            list.push(&version::TLS12);
        }
        list
    }
}

/// Names and what they stand for. Go has two spellings of the ChaCha20 suites. TLS 1.3 suites
/// are all on and not a matter of choice, as in Go; their names are accepted.
const SUITES: [(&str, CipherSuite); 11] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
];

fn suite(name: &str) -> Result<CipherSuite, Error> {
    if let Some((_, suite)) = SUITES.iter().find(|(known, _)| *known == name) {
        return Ok(*suite);
    }
    let weak = ["_CBC_", "_RC4_", "_3DES_", "TLS_RSA_"].iter().any(|part| name.contains(part));
    Err(Error::Settings(if name.starts_with("TLS_") && weak {
        format!(
            "cipher suite {name} is weak and not spoken here: remove it, or name an ECDHE suite \
             with AES_128_GCM, AES_256_GCM or CHACHA20_POLY1305"
        )
    } else {
        format!("unexpected TLS cipher suite {name:?}")
    }))
}

/// Checks the names of `--cipher-suites`.
///
/// # Errors
/// [`Error::Settings`] for the first one that is unknown or weak.
pub fn check_cipher_suites(names: &[String]) -> Result<(), Error> {
    names.iter().try_for_each(|name| suite(name).map(drop))
}

/// Cryptography with the TLS 1.2 suites of `names`, all safe ones if there are none.
pub(super) fn provider(names: &[String]) -> Result<Arc<CryptoProvider>, Error> {
    let mut provider = rustls::crypto::ring::default_provider();
    if !names.is_empty() {
        let wanted = names.iter().map(|name| suite(name)).collect::<Result<Vec<_>, _>>()?;
        // Ours would otherwise win over the order given.
        let place = |suite: &rustls::SupportedCipherSuite| {
            wanted.iter().position(|wanted| *wanted == suite.suite())
        };
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || place(suite).is_some());
        provider
            .cipher_suites
            .sort_by_key(|suite| if suite.tls13().is_some() { None } else { place(suite) });
    }
    Ok(Arc::new(provider))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_names_are_known_and_weak_ones_refused_with_a_sentence() {
        let check = |name: &str| check_cipher_suites(&[name.to_owned()]).map_err(|e| e.to_string());
        for (name, _) in SUITES {
            assert_eq!(check(name), Ok(()));
        }
        for weak in [
            "TLS_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
            "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
            "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        ] {
            assert!(check(weak).unwrap_err().contains("is weak"), "{weak}");
        }
        assert_eq!(check("foo").unwrap_err(), "unexpected TLS cipher suite \"foo\"");
    }

    #[test]
    fn a_list_chooses_tls_1_2_suites_in_its_order_and_keeps_tls_1_3() {
        let names =
            ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
        let provider = provider(&names.map(str::to_owned)).unwrap();
        let suites = &provider.cipher_suites;
        assert_eq!(suites.iter().filter(|suite| suite.tls13().is_some()).count(), 3);
        let old: Vec<_> = suites
            .iter()
            .filter(|suite| suite.tls13().is_none())
            .map(rustls::SupportedCipherSuite::suite)
            .collect();
        assert_eq!(
            old,
            [
                CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            ]
        );
    }
}
