//! Handshakes that stall. Source: GHSA-6vch-q96h-7gc3 (no deadline, unbounded handshakes).

use std::time::Instant;

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use super::*;

/// Deadline of these tests.
const SHORT: Duration = Duration::from_millis(400);

/// A client by hand, whose bytes can be cut anywhere.
fn client(pki: &Pki) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(files::certificates(&pki.path("ca")).unwrap().remove(0)).unwrap();
    let key = files::certified_key(&pki.path("client"), &pki.path("client-key"), &provider);
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key.unwrap()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(resolver);
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

fn output(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Reads until the server closes.
async fn closed(socket: &mut TcpStream) {
    // An error is an end as well.
    let _ = socket.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_hello_cut_at_any_length_ends_by_the_deadline() {
    let pki = Pki::new();
    let mut server = Server::start(quick(pki.settings(), SHORT, 4096).unwrap()).await;
    let hello = output(&mut client(&pki));
    assert!(hello.len() > 100);
    let start = Instant::now();
    let mut sockets = Vec::new();
    for length in 0..hello.len() {
        let mut socket = server.socket().await;
        socket.write_all(&hello[..length]).await.unwrap();
        sockets.push(socket);
    }
    for socket in &mut sockets {
        tokio::time::timeout(LIMIT, closed(socket)).await.expect("closed in time");
    }
    eprintln!("{} cut hellos ended after {:?}", sockets.len(), start.elapsed());
    for _ in 0..hello.len() {
        let outcome = server.outcomes.recv().await.unwrap();
        assert!(matches!(outcome, Err(HandshakeError::Timeout(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_stops_half_way_ends_by_the_deadline() {
    let pki = Pki::new();
    let mut server = Server::start(quick(pki.settings(), SHORT, 4096).unwrap()).await;
    let mut stalled = 0;
    for part in 0..8 {
        let mut client = client(&pki);
        let mut socket = server.socket().await;
        socket.write_all(&output(&mut client)).await.unwrap();
        let mut flight = Vec::new();
        while flight.is_empty() {
            let mut chunk = [0; 16 * 1024];
            let count = socket.read(&mut chunk).await.unwrap();
            assert!(count > 0);
            client.read_tls(&mut &chunk[..count]).unwrap();
            client.process_new_packets().unwrap();
            if !client.is_handshaking() {
                flight = output(&mut client);
            } else {
                // Nothing is sent before the server's flight is whole, but a dummy record may be.
                let early = output(&mut client);
                socket.write_all(&early).await.unwrap();
            }
        }
        // All but the last byte at most: the whole of it would be a finished handshake.
        let length = (flight.len() - 1) * part / 7;
        socket.write_all(&flight[..length]).await.unwrap();
        tokio::time::timeout(LIMIT, closed(&mut socket)).await.expect("closed in time");
        let outcome = server.outcomes.recv().await.unwrap();
        assert!(matches!(outcome, Err(HandshakeError::Timeout(_))), "{length}: {outcome:?}");
        stalled += 1;
    }
    assert_eq!(stalled, 8);
}

#[tokio::test]
async fn bytes_that_trickle_do_not_extend_the_deadline() {
    let pki = Pki::new();
    let mut server = Server::start(quick(pki.settings(), SHORT, 8).unwrap()).await;
    let hello = output(&mut client(&pki));
    let mut socket = server.socket().await;
    let start = Instant::now();
    let trickle = async {
        for byte in hello.iter().take(hello.len() - 1).cycle() {
            if socket.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(SHORT / 40).await;
        }
    };
    let outcome = tokio::select! {
        outcome = server.outcomes.recv() => outcome.unwrap(),
        () = trickle => server.outcomes.recv().await.unwrap(),
    };
    assert!(matches!(outcome, Err(HandshakeError::Timeout(_))), "{outcome:?}");
    assert!(start.elapsed() >= SHORT);
}

#[tokio::test]
async fn the_oldest_unfinished_handshake_makes_room_and_an_innocent_gets_in() {
    let pki = Pki::new();
    let mut server = Server::start(quick(pki.settings(), LIMIT, 16).unwrap()).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(server.socket().await);
    }
    for _ in 0..48 {
        let outcome = server.outcomes.recv().await.unwrap();
        assert!(matches!(outcome, Err(HandshakeError::Evicted)), "{outcome:?}");
    }
    let connector = pki.connector(Some("client"));
    let mut stream = connector.connect(server.socket().await, "localhost").await.unwrap();
    assert!(echo(&mut stream).await);
    for socket in idle.iter_mut().take(48) {
        tokio::time::timeout(LIMIT, closed(socket)).await.expect("the oldest are closed");
    }
}
