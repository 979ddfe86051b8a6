//! Handshakes over real sockets: who gets in, who does not, and for how long one may try.

mod certificates;
mod deadlines;
mod reload;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;

/// Longest wait for anything; far above what a handshake takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
const DAY_S: i64 = 24 * 3600;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// A valid certificate for servers and clients on this machine.
fn subject(common_name: &str) -> Subject {
    Subject {
        common_name: common_name.to_owned(),
        hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        for_servers: true,
        for_clients: true,
        not_before: now() - DAY_S,
        not_after: now() + DAY_S,
    }
}

/// Files of an authority and what it issued.
struct Pki {
    dir: TempDir,
    authority: Authority,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(&subject("authority")).unwrap();
        let pki = Self { dir, authority };
        pki.authority.files().write(&pki.path("ca"), &pki.path("ca-key")).unwrap();
        pki.issue("server", &subject("server"));
        pki.issue("client", &subject("client"));
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.pem"))
    }

    /// Files `NAME.pem` and `NAME-key.pem`, replaced if they exist.
    fn issue(&self, name: &str, subject: &Subject) {
        write(self, name, &self.authority.issue(subject).unwrap());
    }

    fn serial(&self, name: &str) -> String {
        read_facts(&self.path(name)).unwrap().remove(0).serial
    }

    /// A CRL in `crl.pem`, put into place as a whole.
    fn revoke(&self, names: &[&str], next_update: i64) {
        let serials: Vec<String> = names.iter().map(|name| self.serial(name)).collect();
        let list = self.authority.revoke(&serials, now() - DAY_S, next_update).unwrap();
        replace(&self.path("crl"), list.as_bytes());
    }

    /// A listener that asks for certificates.
    fn settings(&self) -> Settings {
        Settings {
            cert_file: self.path("server"),
            key_file: self.path("server-key"),
            trusted_ca_file: self.path("ca"),
            ..Settings::default()
        }
    }

    /// A client that shows `NAME.pem`, or nothing.
    fn connector(&self, name: Option<&str>) -> Connector {
        let mut settings = Settings::default();
        if let Some(name) = name {
            settings.cert_file = self.path(name);
            settings.key_file = self.path(&format!("{name}-key"));
        }
        Connector::new(settings, Trust::File(self.path("ca"))).unwrap()
    }
}

fn write(pki: &Pki, name: &str, issued: &Issued) {
    replace(&pki.path(name), issued.cert_pem.as_bytes());
    replace(&pki.path(&format!("{name}-key")), issued.key_pem.as_bytes());
}

fn replace(path: &Path, bytes: &[u8]) {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes).unwrap();
    fs::rename(&temporary, path).unwrap();
}

/// Limits that make tests quick: files are looked at before each handshake.
fn quick(settings: Settings, timeout: Duration, handshakes_max: usize) -> Result<Acceptor, Error> {
    Acceptor::with_limits(settings, timeout, handshakes_max, Duration::ZERO)
}

/// A listener that echoes over TLS.
struct Server {
    address: std::net::SocketAddr,
    outcomes: tokio::sync::mpsc::UnboundedReceiver<Result<Option<Facts>, HandshakeError>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(acceptor: Acceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, outcomes) = tokio::sync::mpsc::unbounded_channel();
        let acceptor = Arc::new(acceptor);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    match acceptor.accept(socket).await {
                        Ok(Handshake { stream, client }) => {
                            let _ = sender.send(Ok(client));
                            let (mut reader, mut writer) = tokio::io::split(stream);
                            let _ = tokio::io::copy(&mut reader, &mut writer).await;
                        }
                        Err(error) => drop(sender.send(Err(error))),
                    }
                });
            }
        });
        Self { address, outcomes, task }
    }

    async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What the server made of one connection of `connector`.
    async fn judge(&mut self, connector: &Connector) -> Result<Option<Facts>, String> {
        let socket = self.socket().await;
        let client = async {
            // Its own view does not count: with TLS 1.3 it is done before it is judged.
            if let Ok(mut stream) = connector.connect(socket, "127.0.0.1").await {
                let _ = stream.write_all(b"x").await;
                let _ = stream.read(&mut [0]).await;
            }
        };
        let (outcome, ()) =
            tokio::time::timeout(LIMIT, async { tokio::join!(self.outcomes.recv(), client) })
                .await
                .expect("an outcome in time");
        outcome.unwrap().map_err(|error| error.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends a byte and gets it back.
async fn echo(stream: &mut tokio_rustls::client::TlsStream<TcpStream>) -> bool {
    let exchange = async {
        stream.write_all(b"!").await?;
        stream.flush().await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        std::io::Result::Ok(byte == *b"!")
    };
    tokio::time::timeout(LIMIT, exchange).await.is_ok_and(|done| done.unwrap_or(false))
}
