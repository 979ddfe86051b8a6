//! The store inside another program.

use std::path::PathBuf;

use crate::{
    client::Client,
    config::{Config, TlsFiles, Urls},
    node::{EngineKind, Member, StartError},
};

/// Starts a [`Tripod`]. Everything has a default but the place of the data.
#[derive(Clone, Debug)]
pub struct Builder {
    config: Config,
    memory: bool,
}

/// A member of a cluster inside this program: alone, or together with members elsewhere.
///
/// Stop it with [`Tripod::shutdown`]; what was acknowledged is on disk in any case.
#[derive(Debug)]
pub struct Tripod {
    member: Member,
    /// Directory to remove at the end, of a store in memory.
    scratch: Option<PathBuf>,
}

impl Tripod {
    /// Describes a member: alone, without network ports.
    #[must_use]
    pub fn builder() -> Builder {
        let config = Config {
            name: "embedded".to_owned(),
            listen_client_urls: Urls::default(),
            advertise_client_urls: Urls::default(),
            listen_peer_urls: Urls::default(),
            ..Config::default()
        };
        Builder { config, memory: false }
    }

    /// A client of this member. Clone it freely.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.member.client()
    }

    /// Where the member serves network clients; empty without such.
    #[must_use]
    pub fn client_addrs(&self) -> Vec<std::net::SocketAddr> {
        self.member.client_addrs()
    }

    /// Ends when the member stops by itself (a disk error, say), with the reason.
    pub async fn failed(&self) -> String {
        self.member.failed().await
    }

    /// Stops the member in order.
    ///
    /// # Errors
    /// [`StartError::Io`] if the scratch directory of a store in memory cannot be removed.
    pub async fn shutdown(self) -> Result<(), StartError> {
        self.member.shutdown().await;
        let Some(scratch) = self.scratch else { return Ok(()) };
        std::fs::remove_dir_all(&scratch).map_err(|source| StartError::Io {
            action: format!("remove {}", scratch.display()),
            source,
        })
    }
}

impl Builder {
    /// Directory of all data.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.data_dir = dir.into();
        self
    }

    /// Keeps the data in memory; a log in a scratch directory goes at shutdown.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.memory = true;
        self
    }

    /// Name of the member, unique in its cluster.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Serves network clients at these URLs too, such as `http://127.0.0.1:2379`.
    #[must_use]
    pub fn client_urls(mut self, urls: Urls) -> Self {
        self.config.listen_client_urls = urls.clone();
        self.config.advertise_client_urls = urls;
        self
    }

    /// Founds a cluster with other members: this member's peer URL, and all members as
    /// `name=url,name=url`, itself among them.
    #[must_use]
    pub fn cluster(mut self, peer_urls: Urls, members: crate::config::InitialCluster) -> Self {
        self.config.listen_peer_urls = peer_urls.clone();
        self.config.initial_advertise_peer_urls = peer_urls;
        self.config.initial_cluster = members;
        self
    }

    /// Certificates of the client port, for `https` URLs in [`Builder::client_urls`]. With
    /// authorities in `trusted_ca_file` clients must show a certificate of theirs.
    #[must_use]
    pub fn client_tls(mut self, files: TlsFiles) -> Self {
        self.config.client_transport_security = files;
        self
    }

    /// Certificates between peers, for `https` URLs in [`Builder::cluster`].
    #[must_use]
    pub fn peer_tls(mut self, files: TlsFiles) -> Self {
        self.config.peer_transport_security = files;
        self
    }

    /// Every other setting: the same struct that the program fills from its flags.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts the member; returns once it answers, for which a quorum must run.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(mut self) -> Result<Tripod, StartError> {
        let mut scratch = None;
        if self.memory && self.config.data_dir.as_os_str().is_empty() {
            let dir = scratch_dir();
            self.config.data_dir.clone_from(&dir);
            scratch = Some(dir);
        }
        self.config.complete();
        let engine = if self.memory { EngineKind::Memory } else { EngineKind::Disk };
        let member = Member::start_with(self.config, engine).await?;
        Ok(Tripod { member, scratch })
    }
}

/// A directory that no other store of this or another process uses.
fn scratch_dir() -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tripod-{}-{number}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_embedded_member_serves_tls_and_refuses_half_a_setting() {
        let urls: Urls = "https://127.0.0.1:0".parse().unwrap();
        let generated = TlsFiles { auto_tls: true, ..TlsFiles::default() };
        let dir = tempfile::tempdir().unwrap();
        let builder = |files| {
            let data = dir.path().join("data");
            Tripod::builder().in_memory().data_dir(data).client_urls(urls.clone()).client_tls(files)
        };
        for (what, files) in [
            ("no certificate", TlsFiles::default()),
            ("nobody to verify clients", TlsFiles { client_cert_auth: true, ..generated.clone() }),
        ] {
            let refused = builder(files).start().await.unwrap_err();
            assert!(matches!(refused, StartError::Config(_)), "{what}: {refused}");
        }
        let tripod = builder(generated).start().await.unwrap();
        let address = tripod.client_addrs()[0];
        let connector =
            crate::tls::Connector::new(crate::tls::Settings::default(), crate::tls::Trust::Anyone);
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        connector.unwrap().connect(socket, "127.0.0.1").await.unwrap();
        tripod.shutdown().await.unwrap();
    }
}
