//! New certificates: an authority of one's own, what it issues, and self-signed ones.
//!
//! Keys are ECDSA P-256. Key files are readable by their owner alone, and no file is overwritten.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

use super::{Error, files};

/// Mode of key files.
const KEY_MODE: u32 = 0o600;
/// Mode of certificate files.
const CERT_MODE: u32 = 0o644;
/// Clocks of machines differ: a certificate is valid from a little before it was made.
const BACKDATE_S: i64 = 300;
/// Seconds of a year, as Go counts it in certificates of etcd.
const YEAR_S: i64 = 365 * 24 * 3600;

/// Whom a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common name; of a client, the user it stands for.
    pub common_name: String,
    /// Host names and addresses.
    pub hosts: Vec<String>,
    /// May be shown by servers.
    pub for_servers: bool,
    /// May be shown by clients.
    pub for_clients: bool,
    /// First second of its life, since 1970.
    pub not_before: i64,
    /// Last second of its life, since 1970.
    pub not_after: i64,
}

/// A certificate and its private key, PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// The key. Never log it.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Issued {
    /// Writes both files, which must not exist.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, cert_file: &Path, key_file: &Path) -> Result<(), Error> {
        files::write_new(key_file, self.key_pem.as_bytes(), KEY_MODE)?;
        files::write_new(cert_file, self.cert_pem.as_bytes(), CERT_MODE)
    }
}

fn failed(error: rcgen::Error) -> Error {
    Error::Generate(error.to_string())
}

fn time_of(seconds: i64) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| Error::Generate(format!("{seconds} s after 1970 is no time of a certificate")))
}

fn params(subject: &Subject) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(subject.hosts.clone()).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    if !subject.common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, subject.common_name.as_str());
    }
    params.not_before = time_of(subject.not_before)?;
    params.not_after = time_of(subject.not_after)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    if subject.for_servers {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if subject.for_clients {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    Ok(params)
}

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    files: Issued,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one. Only name and times of the subject count.
    ///
    /// # Errors
    /// [`Error::Generate`].
    pub fn new(subject: &Subject) -> Result<Self, Error> {
        let mut params = params(subject)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = Vec::new();
        params.use_authority_key_identifier_extension = false;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let files = Issued { cert_pem: certificate.pem(), key_pem: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), files })
    }

    /// One made earlier.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`].
    pub fn read(cert_file: &Path, key_file: &Path) -> Result<Self, Error> {
        let text = |path: &Path| {
            String::from_utf8(files::read(path)?).map_err(|_| Error::File {
                path: path.to_owned(),
                why: "is no PEM text".to_owned(),
            })
        };
        let wrong = |path: &Path, why: &str| Error::File { path: path.to_owned(), why: why.into() };
        let files = Issued { cert_pem: text(cert_file)?, key_pem: text(key_file)? };
        let key = KeyPair::from_pem(&files.key_pem)
            .map_err(|_| wrong(key_file, "holds no private key that can sign here"))?;
        let issuer = Issuer::from_ca_cert_pem(&files.cert_pem, key)
            .map_err(|_| wrong(cert_file, "holds no certificate of an authority"))?;
        Ok(Self { issuer, files })
    }

    /// Its own certificate and key.
    #[must_use]
    pub fn files(&self) -> &Issued {
        &self.files
    }

    /// Signs a new certificate.
    ///
    /// # Errors
    /// [`Error::Generate`], for example for a host that is no name.
    pub fn issue(&self, subject: &Subject) -> Result<Issued, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params(subject)?.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Issued { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A CRL in PEM that revokes serial numbers given in hexadecimal, as [`super::Facts`] has
    /// them.
    ///
    /// # Errors
    /// [`Error::Generate`], also for a serial number that is none.
    pub fn revoke(
        &self,
        serials: &[String],
        this_update: i64,
        next_update: i64,
    ) -> Result<String, Error> {
        let revocation_time = time_of(this_update)?;
        let revoked = serials
            .iter()
            .map(|serial| {
                let bytes = from_hex(serial).ok_or_else(|| {
                    Error::Generate(format!("{serial:?} is no serial number in hexadecimal"))
                })?;
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&bytes),
                    revocation_time,
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        CertificateRevocationListParams {
            this_update: revocation_time,
            next_update: time_of(next_update)?,
            crl_number: SerialNumber::from(u64::try_from(this_update).unwrap_or(0)),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .and_then(|list| list.pem())
        .map_err(failed)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

/// The self-signed certificate of `auto-tls` in `dir`, made if it is not there: `cert.pem` and
/// `key.pem`, as etcd names them.
///
/// # Errors
/// [`Error`]; also if only one of the two files exists.
pub fn self_signed(
    dir: &Path,
    hosts: &[String],
    years: u32,
    now: i64,
) -> Result<(PathBuf, PathBuf), Error> {
    let (cert_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
    match (cert_file.exists(), key_file.exists()) {
        (true, true) => return Ok((cert_file, key_file)),
        (false, false) => {}
        _ => {
            let why = "holds a certificate or a key, but not both: remove it".to_owned();
            return Err(Error::File { path: dir.to_owned(), why });
        }
    }
    fs::create_dir_all(dir).map_err(|source| Error::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    })?;
    let subject = Subject {
        common_name: String::new(),
        hosts: hosts.to_vec(),
        for_servers: true,
        for_clients: true,
        not_before: now - BACKDATE_S,
        not_after: now + i64::from(years) * YEAR_S,
    };
    let mut params = params(&subject)?;
    params.distinguished_name.push(DnType::OrganizationName, "tripod");
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let issued = Issued { cert_pem: certificate.pem(), key_pem: key.serialize_pem() };
    issued.write(&cert_file, &key_file)?;
    tracing::info!(file = %cert_file.display(), "made a self-signed certificate");
    Ok((cert_file, key_file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_self_signed_certificate_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("fixtures/client");
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (cert, key) = self_signed(&dir, &hosts, 1, 1_000_000).unwrap();
        let first = fs::read(&cert).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, KEY_MODE);
        let facts = crate::tls::read_facts(&cert).unwrap().remove(0);
        assert!(facts.has_host("127.0.0.1") && facts.has_host("localhost"));
        assert_eq!(facts.not_after, 1_000_000 + YEAR_S);
        self_signed(&dir, &hosts, 1, 2_000_000).unwrap();
        assert_eq!(fs::read(&cert).unwrap(), first);
        fs::remove_file(&key).unwrap();
        assert!(self_signed(&dir, &hosts, 1, 1_000_000).is_err(), "half a pair");
    }

    #[test]
    fn an_authority_read_back_signs_what_the_same_roots_verify() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("ca.pem"), dir.path().join("ca-key.pem"));
        let subject = Subject {
            common_name: "ca".into(),
            not_before: 0,
            not_after: 4_000_000_000,
            ..Subject::default()
        };
        Authority::new(&subject).unwrap().files().write(&cert, &key).unwrap();
        assert!(Authority::new(&subject).unwrap().files().write(&cert, &key).is_err());
        let authority = Authority::read(&cert, &key).unwrap();
        let leaf = authority.issue(&Subject { hosts: vec!["m1".into()], ..subject }).unwrap();
        let file = dir.path().join("leaf.pem");
        fs::write(&file, &leaf.cert_pem).unwrap();
        let facts = crate::tls::read_facts(&file).unwrap().remove(0);
        assert!(!facts.is_ca && !facts.for_clients && facts.dns == ["m1"]);
        let list = authority.revoke(std::slice::from_ref(&facts.serial), 0, 100).unwrap();
        let revoked = crate::tls::crl::Revoked::parse(list.as_bytes()).unwrap();
        assert_eq!(revoked.next_update, Some(100));
        let leaf = files::certificates(&file).unwrap().remove(0);
        let ca = files::certificates(&cert).unwrap().remove(0);
        assert!(revoked.contains(&leaf) && !revoked.contains(&ca));
    }
}
