//! Certificate revocation lists.
//!
//! A list revokes by serial number, whoever signed it, as in etcd. That errs on the safe side:
//! two authorities that give out equal serial numbers get both certificates refused.

use std::{collections::HashSet, path::Path};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList,
};

use super::{Error, files};

/// Serial numbers that are revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    serials: HashSet<Vec<u8>>,
    /// The earliest time by which one of the lists should have been replaced, since 1970.
    pub(super) next_update: Option<i64>,
}

impl Revoked {
    /// Reads a file of lists: PEM, any number, or one in DER.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&files::read(path)?)
            .ok_or_else(|| Error::File { path: path.to_owned(), why: "holds no CRL".to_owned() })
    }

    /// All lists in `bytes`; `None` if there is none or one is damaged.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lists = CertificateRevocationListDer::pem_slice_iter(bytes)
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        if lists.is_empty() {
            lists.push(bytes.to_vec().into());
        }
        let mut revoked = Self::default();
        for list in &lists {
            let (rest, list) = CertificateRevocationList::from_der(list).ok()?;
            if !rest.is_empty() {
                return None;
            }
            for entry in list.iter_revoked_certificates() {
                revoked.serials.insert(canonical(entry.raw_serial()));
            }
            let next = list.next_update().map(|time| time.timestamp());
            revoked.next_update = match (revoked.next_update, next) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        Some(revoked)
    }

    /// Whether a certificate is revoked. One that cannot be read counts as revoked.
    pub(super) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.serials.is_empty() {
            return false;
        }
        X509Certificate::from_der(certificate)
            .map_or(true, |(_, parsed)| self.serials.contains(&canonical(parsed.raw_serial())))
    }
}

/// A serial number without the zeros that only keep it positive.
fn canonical(serial: &[u8]) -> Vec<u8> {
    let first = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    serial.get(first..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_no_list() {
        for bytes in [&b""[..], b"x", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
            assert_eq!(Revoked::parse(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn serial_numbers_compare_without_leading_zeros() {
        assert_eq!(canonical(&[0, 0, 5, 0]), [5, 0]);
        assert_eq!(canonical(&[0]), [0_u8; 0]);
    }
}
