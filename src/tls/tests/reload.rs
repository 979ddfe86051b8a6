//! Files that change under a running listener.

use rustls::{ClientConfig, HandshakeKind, RootCertStore, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::*;

/// Revocation must hold on each connection, not only from the next start on (GHSA-3wh4 and
/// GHSA-h8g9 are about checks that some connections escaped).
#[tokio::test]
async fn a_certificate_revoked_while_connected_opens_no_new_connection() {
    let pki = Pki::new();
    pki.issue("other", &subject("other"));
    pki.revoke(&[], now() + DAY_S);
    let settings = Settings { crl_file: pki.path("crl"), ..pki.settings() };
    let mut server = Server::start(quick(settings, LIMIT, 8).unwrap()).await;
    let connector = pki.connector(Some("client"));
    let mut open = connector.connect(server.socket().await, "localhost").await.unwrap();
    assert!(echo(&mut open).await);
    server.outcomes.recv().await.unwrap().unwrap();
    pki.revoke(&["client"], now() + DAY_S);
    let refused = server.judge(&connector).await.unwrap_err();
    assert!(refused.contains("Revoked"), "{refused}");
    assert!(server.judge(&pki.connector(Some("other"))).await.is_ok(), "the others get in");
    assert!(echo(&mut open).await, "what was open stays open, as in etcd");
}

#[tokio::test]
async fn a_crl_that_goes_bad_leaves_the_last_good_one_in_force() {
    let pki = Pki::new();
    pki.issue("other", &subject("other"));
    pki.revoke(&["client"], now() + DAY_S);
    let settings = Settings { crl_file: pki.path("crl"), ..pki.settings() };
    let mut server = Server::start(quick(settings.clone(), LIMIT, 8).unwrap()).await;
    let (revoked, good) = (pki.connector(Some("client")), pki.connector(Some("other")));
    for state in ["good", "garbled", "missing"] {
        match state {
            "garbled" => replace(&pki.path("crl"), b"-----BEGIN X509 CRL-----\nAAAA"),
            "missing" => fs::remove_file(pki.path("crl")).unwrap(),
            _ => {}
        }
        assert!(server.judge(&revoked).await.is_err(), "{state}");
        assert!(server.judge(&good).await.is_ok(), "{state}");
        let starts = quick(settings.clone(), LIMIT, 8).is_ok();
        assert_eq!(starts, state == "good", "a start with a {state} CRL");
    }
    // An expired list still revokes: etcd does not look at its time either.
    pki.revoke(&["client"], now() - 60);
    let mut server = Server::start(quick(settings, LIMIT, 8).unwrap()).await;
    assert!(server.judge(&revoked).await.is_err());
    assert!(server.judge(&good).await.is_ok());
}

#[tokio::test]
async fn a_crl_in_der_and_of_another_authority_revokes_too() {
    let pki = Pki::new();
    let other = Pki::new();
    let list = other.authority.revoke(&[pki.serial("client")], now(), now() + DAY_S).unwrap();
    let settings = Settings { crl_file: pki.path("crl"), ..pki.settings() };
    replace(&pki.path("crl"), list.as_bytes());
    let mut server = Server::start(quick(settings, LIMIT, 8).unwrap()).await;
    assert!(server.judge(&pki.connector(Some("client"))).await.is_err());
    use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject as _};
    let der = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
    replace(&pki.path("crl"), &der);
    assert!(server.judge(&pki.connector(Some("client"))).await.is_err());
}

#[tokio::test]
async fn certificates_are_rotated_without_a_dropped_request() {
    let pki = Pki::new();
    let server = Server::start(quick(pki.settings(), LIMIT, 8).unwrap()).await;
    let connector = pki.connector(Some("client"));
    let mut kept = connector.connect(server.socket().await, "localhost").await.unwrap();
    let mut serials = std::collections::BTreeSet::new();
    for round in 0..10 {
        // The certificate first and its key a moment later, so that for a while they differ.
        let issued = pki.authority.issue(&subject("server")).unwrap();
        replace(&pki.path("server"), issued.cert_pem.as_bytes());
        let mut between = connector.connect(server.socket().await, "localhost").await.unwrap();
        replace(&pki.path("server-key"), issued.key_pem.as_bytes());
        let mut after = connector.connect(server.socket().await, "localhost").await.unwrap();
        for stream in [&mut kept, &mut between, &mut after] {
            assert!(echo(stream).await, "round {round}");
        }
        let shown = after.get_ref().1.peer_certificates().unwrap()[0].clone();
        let shown = Facts::read(&shown).unwrap().serial;
        assert_eq!(shown, pki.serial("server"), "round {round}: the new certificate is shown");
        serials.insert(shown);
    }
    assert_eq!(serials.len(), 10);
}

/// A client of its own kind, one that resumes sessions.
fn resuming(pki: &Pki) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(files::certificates(&pki.path("ca")).unwrap().remove(0)).unwrap();
    let key = files::certified_key(&pki.path("client"), &pki.path("client-key"), &provider);
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key.unwrap()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(resolver);
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn a_resumed_session_keeps_its_identity_until_its_certificate_is_revoked() {
    let pki = Pki::new();
    pki.revoke(&[], now() + DAY_S);
    let settings = Settings { crl_file: pki.path("crl"), ..pki.settings() };
    let mut server = Server::start(quick(settings, LIMIT, 8).unwrap()).await;
    let connector = resuming(&pki);
    let name = ServerName::try_from("localhost").unwrap();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let socket = server.socket().await;
        let mut stream = connector.connect(name.clone(), socket).await.unwrap();
        assert!(echo(&mut stream).await);
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        let facts = server.outcomes.recv().await.unwrap().unwrap().unwrap();
        assert_eq!(facts.common_name.as_deref(), Some("client"));
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    pki.revoke(&["client"], now() + DAY_S);
    let socket = server.socket().await;
    if let Ok(mut stream) = connector.connect(name, socket).await {
        assert!(!echo(&mut stream).await);
    }
    assert!(server.outcomes.recv().await.unwrap().is_err(), "a resumption is judged as well");
}
