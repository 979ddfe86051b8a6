//! Listeners with TLS: who speaks through them, and what each is for.

use std::{path::PathBuf, time::SystemTime};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::tls::{
    Acceptor as TlsAcceptor, Authority, Connector, HANDSHAKE_TIMEOUT, Settings, Subject, Trust,
};

/// Answers with the user that the connection speaks for.
struct UserName;

impl HttpHandler for UserName {
    fn handle(
        &self,
        _request: Request<HttpBody>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>> {
        let name = context.certificate_cn.map_or_else(|| "-".to_owned(), |name| name.to_string());
        let body = Full::new(Bytes::from(name)).map_err(|never| match never {});
        Box::pin(std::future::ready(Response::new(body.boxed_unsync())))
    }
}

struct Files(TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An authority, a server, and users with and without the right to be one.
    fn make() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_secs()).unwrap();
        let subject = |name: &str, for_servers, for_clients| Subject {
            common_name: name.to_owned(),
            hosts: vec!["127.0.0.1".to_owned()],
            for_servers,
            for_clients,
            not_before: now - 3600,
            not_after: now + 3600,
        };
        let authority = Authority::new(&subject("ca", false, false)).unwrap();
        authority.files().write(&files.path("ca"), &files.path("ca-key")).unwrap();
        for (name, for_servers, for_clients) in
            [("server", true, false), ("alice", false, true), ("bare", false, false)]
        {
            let issued = authority.issue(&subject(name, for_servers, for_clients)).unwrap();
            issued.write(&files.path(name), &files.path(&format!("{name}-key"))).unwrap();
        }
        files
    }

    fn listen(&self, common_name_is_user: bool, serves: Serves) -> Listen {
        let settings = Settings {
            cert_file: self.path("server"),
            key_file: self.path("server-key"),
            trusted_ca_file: self.path("ca"),
            protocols: &[b"h2", b"http/1.1"],
            ..Settings::default()
        };
        let acceptor = Arc::new(TlsAcceptor::new(settings).unwrap());
        let tls = Some(ListenerTls { acceptor, common_name_is_user });
        Listen { tls, serves, ..loopback_listen() }
    }

    fn connector(&self, name: &str, protocols: &'static [&'static [u8]]) -> Connector {
        let settings = Settings {
            cert_file: self.path(name),
            key_file: self.path(&format!("{name}-key")),
            protocols,
            ..Settings::default()
        };
        Connector::new(settings, Trust::File(self.path("ca"))).unwrap()
    }
}

fn serve(listen: Vec<Listen>) -> FrontendHandle {
    let factory: HandlersFactory = Arc::new(|| Handlers {
        services: Rc::new(NoServices("HTTP alone")),
        http: Rc::new(UserName),
        connections: Arc::default(),
    });
    let distribution = Distribution::Acceptor { home: None, home_connections_max: 4 };
    Frontend { listen, distribution, ..loopback() }.bind().unwrap().run(factory).unwrap()
}

/// Status and body of a request over HTTP/1.1; none if the connection is refused.
fn ask(connector: &Connector, address: SocketAddr) -> Option<(u16, String)> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect(socket, "127.0.0.1").await.ok()?;
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().unwrap(), body.to_owned()))
    })
}

/// Identity comes only from a verified client certificate, and only where the configuration
/// says that certificates name users (CVE-2018-16886).
#[test]
fn a_user_is_named_only_by_a_client_certificate_and_where_that_is_asked_for() {
    let files = Files::make();
    let handle = serve(vec![files.listen(true, Serves::Both), files.listen(false, Serves::Both)]);
    let (named, unnamed) = (handle.addresses()[0], handle.addresses()[1]);
    let cases = [
        (named, "alice", Some("alice")),
        (named, "bare", Some("-")),
        (named, "server", None),
        (unnamed, "alice", Some("-")),
    ];
    for (address, certificate, want) in cases {
        let answer = ask(&files.connector(certificate, &[b"http/1.1"]), address);
        let want = want.map(|name| (200, name.to_owned()));
        assert_eq!(answer, want, "{certificate} at {address}");
    }
    handle.join().unwrap();
}

#[test]
fn clients_with_and_without_protocol_negotiation_are_understood() {
    let files = Files::make();
    let handle = serve(vec![files.listen(true, Serves::Both)]);
    let lists: [&'static [&'static [u8]]; 3] = [&[], &[b"http/1.1"], &[b"h2", b"http/1.1"]];
    for protocols in lists {
        // What is said counts, whatever was negotiated.
        let answer = ask(&files.connector("alice", protocols), handle.addresses()[0]);
        assert_eq!(answer, Some((200, "alice".to_owned())), "{protocols:?}");
    }
    let foreign = ask(&files.connector("alice", &[b"spdy/3"]), handle.addresses()[0]);
    assert_eq!(foreign, None, "nothing in common");
    handle.join().unwrap();
}

#[test]
fn a_port_for_grpc_alone_refuses_http_and_the_other_way_round() {
    let files = Files::make();
    let handle = serve(vec![files.listen(true, Serves::Grpc), files.listen(true, Serves::Http)]);
    let connector = files.connector("alice", &[]);
    let answers: Vec<u16> =
        handle.addresses().iter().map(|&address| ask(&connector, address).unwrap().0).collect();
    assert_eq!(answers, [415, 200]);
    handle.join().unwrap();
}

#[test]
fn a_shutdown_does_not_wait_for_handshakes() {
    let files = Files::make();
    let handle = serve(vec![files.listen(true, Serves::Both)]);
    let mut silent = TcpStream::connect(handle.addresses()[0]).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    silent.write_all(&[0x16, 3, 1]).unwrap();
    let start = Instant::now();
    thread::sleep(Duration::from_millis(50));
    handle.join().unwrap();
    assert!(start.elapsed() < HANDSHAKE_TIMEOUT / 2);
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
}
