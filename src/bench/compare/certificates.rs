//! Certificates of a comparison with TLS: made once, used by both sides and the load.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::super::plan::{Encryption, TlsFiles};
use crate::tls::{Authority, Error, Subject};

/// Seconds around now in which they are valid.
const VALID_S: i64 = 7 * 24 * 3600;

/// An authority, and one certificate for members and load alike; gone with its folder.
#[derive(Debug)]
pub(super) struct Certificates {
    dir: folder::Dir,
    /// What the load connects with.
    pub(super) encryption: Encryption,
}

impl Certificates {
    /// Makes them in a folder of their own below `parent`.
    pub(super) fn make(parent: &Path) -> Result<Self, Error> {
        let dir = folder::Dir::create(parent.join(format!("tls-{}", std::process::id())))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX / 2);
        let subject = Subject {
            common_name: "bench".to_owned(),
            hosts: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            for_servers: true,
            for_clients: true,
            not_before: now - VALID_S,
            not_after: now + VALID_S,
        };
        let authority = Authority::new(&subject)?;
        let [ca, ca_key, cert, key] =
            ["ca.pem", "ca-key.pem", "cert.pem", "key.pem"].map(|name| dir.path().join(name));
        authority.files().write(&ca, &ca_key)?;
        authority.issue(&subject)?.write(&cert, &key)?;
        let files = TlsFiles { cacert: ca, cert, key, skip_verify: false };
        let encryption = Encryption::new(&files)?;
        Ok(Self { dir, encryption })
    }

    /// etcd's flags for clients and peers.
    pub(super) fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        ["", "peer-"]
            .into_iter()
            .flat_map(|port| {
                [
                    format!("--{port}cert-file={}", file("cert.pem")),
                    format!("--{port}key-file={}", file("key.pem")),
                    format!("--{port}trusted-ca-file={}", file("ca.pem")),
                    format!("--{port}client-cert-auth"),
                ]
            })
            .collect()
    }
}

/// A folder that is removed with its value.
mod folder {
    use super::{Error, Path, PathBuf};

    #[derive(Debug)]
    pub(super) struct Dir(PathBuf);

    impl Dir {
        pub(super) fn create(path: PathBuf) -> Result<Self, Error> {
            // A run that was killed may have left one behind.
            let _ = std::fs::remove_dir_all(&path);
            match std::fs::create_dir_all(&path) {
                Ok(()) => Ok(Self(path)),
                Err(source) => Err(Error::Io { action: "create", path, source }),
            }
        }

        pub(super) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
