//! Which certificates open a connection.

use super::*;

#[tokio::test]
async fn a_listener_accepts_only_current_client_certificates_of_its_authority() {
    let pki = Pki::new();
    let other = Pki::new();
    let name = "case";
    let issued = |subject: &Subject| Some(pki.authority.issue(subject).unwrap());
    let base = subject("alice");
    let self_made = {
        let dir = pki.dir.path().join("self");
        let (cert, key) = self_signed(&dir, &base.hosts, 1, now()).unwrap();
        Issued {
            cert_pem: fs::read_to_string(cert).unwrap(),
            key_pem: fs::read_to_string(key).unwrap(),
        }
    };
    // A good leaf with so many certificates behind it that no server should swallow them.
    let huge = {
        let leaf = pki.authority.issue(&base).unwrap();
        let filler = other.authority.files().cert_pem.repeat(400);
        Issued { cert_pem: format!("{}{filler}", leaf.cert_pem), key_pem: leaf.key_pem }
    };
    let cases: [(&str, Option<Issued>, bool); 12] = [
        ("a certificate as it should be", issued(&base), true),
        ("for clients alone", issued(&Subject { for_servers: false, ..base.clone() }), true),
        ("expired", issued(&Subject { not_after: now() - 60, ..base.clone() }), false),
        ("not yet valid", issued(&Subject { not_before: now() + 3600, ..base.clone() }), false),
        ("of another authority", Some(other.authority.issue(&base).unwrap()), false),
        ("self-signed", Some(self_made), false),
        (
            "a server's certificate used by a client (CVE-2018-16886)",
            issued(&Subject { for_clients: false, ..base.clone() }),
            false,
        ),
        ("the authority's own", Some(pki.authority.files().clone()), false),
        ("another authority's own", Some(other.authority.files().clone()), false),
        ("no certificate", None, false),
        ("a chain that never ends", Some(huge), false),
        ("no names at all", issued(&Subject { hosts: Vec::new(), ..base.clone() }), true),
    ];
    let mut server = Server::start(quick(pki.settings(), LIMIT, 8).unwrap()).await;
    for (what, issued, accepted) in cases {
        if let Some(issued) = &issued {
            write(&pki, name, issued);
        }
        let connector = pki.connector(issued.as_ref().map(|_| name));
        let outcome = server.judge(&connector).await;
        assert_eq!(outcome.is_ok(), accepted, "{what}: {outcome:?}");
        if accepted {
            let facts = outcome.unwrap().expect("a verified certificate");
            assert_eq!(facts.common_name.as_deref(), Some("alice"), "{what}");
        }
    }
}

/// etcd's gateway once took its own server certificate for a user (CVE-2018-16886).
#[tokio::test]
async fn a_certificate_that_names_no_use_is_no_identity() {
    let pki = Pki::new();
    let bare = Subject { for_servers: false, for_clients: false, ..subject("root") };
    pki.issue("bare", &bare);
    let mut server = Server::start(quick(pki.settings(), LIMIT, 8).unwrap()).await;
    // As in Go, a certificate without a list of uses may connect.
    let facts = server.judge(&pki.connector(Some("bare"))).await.unwrap().unwrap();
    assert!(!facts.for_clients, "so that nobody takes its name for a user's");
}

#[tokio::test]
async fn without_an_authority_nobody_is_asked_and_nobody_is_known() {
    let pki = Pki::new();
    let settings = Settings { trusted_ca_file: PathBuf::new(), ..pki.settings() };
    let mut server = Server::start(quick(settings, LIMIT, 8).unwrap()).await;
    for shown in [None, Some("client")] {
        assert_eq!(server.judge(&pki.connector(shown)).await, Ok(None));
    }
}

#[tokio::test]
async fn allow_lists_narrow_what_the_authority_signed() {
    let pki = Pki::new();
    pki.issue("m1", &Subject { hosts: vec!["m1.example".into()], ..subject("member") });
    pki.issue("user", &Subject { hosts: Vec::new(), ..subject("user") });
    let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
    let cases = [
        (list(&["member"]), list(&[]), true, false),
        (list(&["nobody", "user"]), list(&[]), false, true),
        (list(&[]), list(&["m1.example"]), true, false),
        (list(&[]), list(&["m2.example"]), false, false),
    ];
    for (allowed_cn, allowed_hostname, member, user) in cases {
        let what = format!("{allowed_cn:?} {allowed_hostname:?}");
        let settings = Settings { allowed_cn, allowed_hostname, ..pki.settings() };
        let mut server = Server::start(quick(settings, LIMIT, 8).unwrap()).await;
        assert_eq!(server.judge(&pki.connector(Some("m1"))).await.is_ok(), member, "{what}");
        assert_eq!(server.judge(&pki.connector(Some("user"))).await.is_ok(), user, "{what}");
    }
}

#[tokio::test]
async fn a_client_believes_only_the_host_it_dialed() {
    let pki = Pki::new();
    pki.issue("server", &Subject { hosts: vec!["m1.example".into()], ..subject("server") });
    let server = Server::start(quick(pki.settings(), LIMIT, 8).unwrap()).await;
    let connector = pki.connector(Some("client"));
    let hosts = [("m1.example", true), ("m2.example", false), ("127.0.0.1", false)];
    for (host, want) in hosts {
        let result = connector.connect(server.socket().await, host).await;
        assert_eq!(result.is_ok(), want, "{host}: {:?}", result.err());
    }
    let other = Pki::new();
    let stranger = other.connector(None).connect(server.socket().await, "m1.example").await;
    assert!(stranger.is_err(), "signed by an authority the client does not know");
    let anyone = Connector::new(Settings::default(), Trust::Anyone).unwrap();
    let settings = Settings { trusted_ca_file: PathBuf::new(), ..pki.settings() };
    let open = Server::start(quick(settings, LIMIT, 8).unwrap()).await;
    assert!(anyone.connect(open.socket().await, "m2.example").await.is_ok(), "auto-tls");
}

#[test]
fn files_that_cannot_be_used_are_named_and_keys_never_shown() {
    let pki = Pki::new();
    let refusal = |settings: Settings| Acceptor::new(settings).unwrap_err().with_causes();
    let key = fs::read_to_string(pki.path("server-key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    fs::write(pki.path("garbage"), "nonsense").unwrap();
    fs::write(pki.path("half"), &key[..key.len() / 2]).unwrap();
    let cases: [(&str, Settings, &str); 7] = [
        ("missing", Settings { cert_file: pki.path("no"), ..pki.settings() }, "No such file"),
        (
            "garbage",
            Settings { cert_file: pki.path("garbage"), ..pki.settings() },
            "no certificate",
        ),
        (
            "key for cert",
            Settings { cert_file: pki.path("server-key"), ..pki.settings() },
            "no certificate",
        ),
        (
            "cut key",
            Settings { key_file: pki.path("half"), ..pki.settings() },
            "no unencrypted private key",
        ),
        (
            "other key",
            Settings { key_file: pki.path("client-key"), ..pki.settings() },
            "not the private key",
        ),
        (
            "ca",
            Settings { trusted_ca_file: pki.path("garbage"), ..pki.settings() },
            "no certificate",
        ),
        ("crl", Settings { crl_file: pki.path("garbage"), ..pki.settings() }, "holds no CRL"),
    ];
    for (what, settings, want) in cases {
        let text = refusal(settings);
        assert!(text.contains(want) && text.contains(".pem"), "{what}: {text}");
        assert!(!text.contains(secret), "{what}: a key in a message");
    }
}

#[tokio::test]
async fn versions_and_suites_are_as_configured() {
    use rustls::{CipherSuite, ProtocolVersion};
    let pki = Pki::new();
    let suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305";
    let only12 = Versions { tls12: true, tls13: false };
    let only13 = Versions { tls12: false, tls13: true };
    let client = |versions| {
        let settings = Settings {
            cert_file: pki.path("client"),
            key_file: pki.path("client-key"),
            versions,
            ..Settings::default()
        };
        Connector::new(settings, Trust::File(pki.path("ca"))).unwrap()
    };
    let both = Versions::default();
    let cases = [
        (both, both, Some(ProtocolVersion::TLSv1_3)),
        (only12, both, Some(ProtocolVersion::TLSv1_2)),
        (both, only12, Some(ProtocolVersion::TLSv1_2)),
        (only13, only12, None),
        (only12, only13, None),
    ];
    for (of_server, of_client, want) in cases {
        let settings = Settings {
            versions: of_server,
            cipher_suites: vec![suite.to_owned()],
            ..pki.settings()
        };
        let server = Server::start(quick(settings, LIMIT, 8).unwrap()).await;
        let connected = client(of_client).connect(server.socket().await, "localhost").await;
        let got = connected.as_ref().ok().and_then(|stream| stream.get_ref().1.protocol_version());
        assert_eq!(got, want, "{of_server:?} {of_client:?}");
        if want == Some(ProtocolVersion::TLSv1_2) {
            let suite = connected.unwrap().get_ref().1.negotiated_cipher_suite().unwrap();
            let want = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
            assert_eq!(suite.suite(), want);
        }
    }
}

/// A hello of TLS 1.1 with a suite of its time gets a fatal alert and the end.
#[tokio::test]
async fn tls_1_1_is_refused() {
    let pki = Pki::new();
    let mut server = Server::start(quick(pki.settings(), LIMIT, 8).unwrap()).await;
    let mut hello = vec![3, 2];
    hello.extend([7; 32]); // random
    hello.push(0); // no session
    hello.extend([0, 2, 0xc0, 0x13]); // TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA
    hello.extend([1, 0]); // no compression
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut socket = server.socket().await;
    socket.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer.first().zip(answer.get(5)), Some((&0x15, &2)), "a fatal alert: {answer:?}");
    assert!(server.outcomes.recv().await.unwrap().is_err());
}
