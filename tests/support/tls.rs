//! Certificates of tests, and plain requests over TLS.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tripod::tls::{Authority, Connector, Settings, Subject, Trust, Versions, read_facts};

/// Limit of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);
const DAY_S: i64 = 24 * 3600;
/// File of a client certificate that names nobody.
pub(crate) const NAMELESS: &str = "nameless";

/// Now, since 1970, in seconds.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A folder with an authority (`ca.pem`), a member of 127.0.0.1 (`member.pem`), users `root` and
/// `eve`, and a client whose certificate has no name (`nameless.pem`), each with its key in
/// `NAME-key.pem`.
pub(crate) struct Certificates {
    dir: TempDir,
    authority: Authority,
}

impl Certificates {
    /// Makes all of them, valid around now.
    pub(crate) fn make() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tripod-tls-").tempdir()?;
        let subject = |name: &str, hosts: &[&str], for_servers| Subject {
            common_name: if name == NAMELESS { String::new() } else { name.to_owned() },
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            for_servers,
            for_clients: true,
            not_before: now() - DAY_S,
            not_after: now() + DAY_S,
        };
        let authority = Authority::new(&subject("test authority", &[], false))?;
        let made = Self { dir, authority };
        made.authority.files().write(&made.path("ca"), &made.path("ca-key"))?;
        let hosts = ["localhost", "127.0.0.1"];
        for (name, hosts, for_servers) in [
            ("member", &hosts[..], true),
            ("root", &[], false),
            ("eve", &[], false),
            (NAMELESS, &[], false),
        ] {
            let issued = made.authority.issue(&subject(name, hosts, for_servers))?;
            issued.write(&made.path(name), &made.path(&format!("{name}-key")))?;
        }
        made.revoke(&[])?;
        Ok(made)
    }

    /// `NAME.pem`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.pem"))
    }

    /// `NAME.pem` as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes `crl.pem` revoke exactly these.
    pub(crate) fn revoke(&self, names: &[&str]) -> Result<()> {
        let serials = names
            .iter()
            .map(|name| Ok(read_facts(&self.path(name))?.remove(0).serial))
            .collect::<Result<Vec<_>>>()?;
        let list = self.authority.revoke(&serials, now() - DAY_S, now() + DAY_S)?;
        replace(&self.path("crl"), &list)
    }

    /// etcd's flags for mutual TLS on both ports, with the CRL.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--client-crl-file={}", self.text("crl"))];
        for port in ["", "peer-"] {
            flags.push(format!("--{port}cert-file={}", self.text("member")));
            flags.push(format!("--{port}key-file={}", self.text("member-key")));
            flags.push(format!("--{port}trusted-ca-file={}", self.text("ca")));
            flags.push(format!("--{port}client-cert-auth"));
        }
        flags.push(format!("--peer-crl-file={}", self.text("crl")));
        flags
    }

    /// Connects with the certificate `name`, if any. With TLS 1.2, so that the handshake itself
    /// tells whether the server accepted it.
    pub(crate) fn connector(&self, name: Option<&str>) -> Result<Arc<Connector>> {
        let mut settings =
            Settings { versions: Versions { tls12: true, tls13: false }, ..Settings::default() };
        if let Some(name) = name {
            settings.cert_file = self.path(name);
            settings.key_file = self.path(&format!("{name}-key"));
        }
        Ok(Arc::new(Connector::new(settings, Trust::File(self.path("ca")))?))
    }
}

/// Replaces a file as a whole.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text)?;
    Ok(fs::rename(&temporary, path)?)
}

/// Whether the handshake succeeds.
pub(crate) async fn connects(connector: &Connector, port: u16) -> bool {
    let attempt = async {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        connector.connect(socket, "127.0.0.1").await
    };
    tokio::time::timeout(REQUEST_LIMIT, attempt).await.is_ok_and(|done| done.is_ok())
}

/// A GET over HTTP/1.1: status and body.
pub(crate) async fn get(connector: &Connector, port: u16, path: &str) -> Result<(u16, String)> {
    let attempt = async {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut stream = connector.connect(socket, "127.0.0.1").await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        // An end without farewell is an end as well.
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).context("no answer")?.parse()?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    };
    tokio::time::timeout(REQUEST_LIMIT, attempt).await.context("no answer in time")?
}

/// Whether `/health` says so.
pub(crate) async fn is_healthy(connector: &Connector, port: u16) -> bool {
    get(connector, port, "/health")
        .await
        .is_ok_and(|(status, body)| status == 200 && body.contains("true"))
}
