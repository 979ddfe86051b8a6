//! Reading PEM files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::Error;

/// Largest file read, in bytes; real ones are far smaller.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Where systems keep the authorities they trust, the first that exists counts.
const SYSTEM_AUTHORITIES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn wrong(path: &Path, why: impl Into<String>) -> Error {
    Error::File { path: path.to_owned(), why: why.into() }
}

/// The bytes of a file of bounded size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    if fs::metadata(path).map_err(io)?.len() > FILE_BYTES_MAX {
        return Err(wrong(path, format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    fs::read(path).map_err(io)
}

/// All certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path)?;
    let list = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(path, format!("no certificates in PEM: {error}")))?;
    if list.is_empty() {
        return Err(wrong(path, "holds no certificate in PEM"));
    }
    Ok(list)
}

/// A certificate chain with the private key that belongs to it.
pub(super) fn certified_key(
    cert_file: &Path,
    key_file: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let chain = certificates(cert_file)?;
    let bytes = read(key_file)?;
    // Neither the parser's nor the signer's words are passed on: they stand near the key.
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| wrong(key_file, "holds no unencrypted private key in PEM"))?;
    let key = provider.key_provider.load_private_key(key).map_err(|_| {
        wrong(
            key_file,
            "a private key of a kind not known here: use ECDSA P-256 or P-384, Ed25519 or RSA",
        )
    })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(_) => Err(wrong(
            key_file,
            format!("not the private key of the certificate in {}", cert_file.display()),
        )),
    }
}

/// The authorities of a PEM file.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| wrong(path, format!("no authority: {error}")))?;
    }
    Ok(store)
}

/// Writes a new file; one that exists is left alone. Durable when it returns.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| Error::Io { action: "create", path: path.to_owned(), source })
}

/// The authorities that this system trusts.
pub(super) fn system_authorities() -> Result<RootCertStore, Error> {
    let found = SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|path| path.is_file());
    let Some(path) = found else {
        let text = "no authorities are trusted by this system: name a file of them";
        return Err(Error::Settings(text.to_owned()));
    };
    let mut store = RootCertStore::empty();
    // Bundles contain authorities with odd encodings; one of those is no reason to trust none.
    store.add_parsable_certificates(certificates(&path)?);
    Ok(store)
}
