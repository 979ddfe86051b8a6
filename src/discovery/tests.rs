//! Discovery against a DNS server of a few lines on loopback.

use std::net::Ipv4Addr;

use tokio::{net::UdpSocket, task::JoinHandle};

use super::*;

const SRV: u16 = 33;
const A: u16 = 1;

/// A DNS server that knows some names; ends when dropped.
struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Zone = Vec<(String, u16, Vec<u8>)>;

fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn srv(name: &str, port: u16, target: &str) -> (String, u16, Vec<u8>) {
    let mut data = vec![0, 0, 0, 10];
    data.extend_from_slice(&port.to_be_bytes());
    data.extend(encode_name(target));
    (name.to_owned(), SRV, data)
}

fn a(name: &str, address: [u8; 4]) -> (String, u16, Vec<u8>) {
    (name.to_owned(), A, Ipv4Addr::from(address).octets().to_vec())
}

/// The answer to one question; NXDOMAIN for a name that is not in the zone.
fn answer(zone: &Zone, question: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let name = labels.join(".");
    let kind = u16::from_be_bytes([*question.get(at)?, *question.get(at + 1)?]);
    let is_known = zone.iter().any(|(known, ..)| *known == name);
    let found = zone.iter().filter(|(known, of, _)| *known == name && *of == kind);
    let found: Vec<&Vec<u8>> = found.map(|(.., data)| data).collect();
    let mut bytes = question.get(..2)?.to_vec();
    bytes.extend([0x85, if is_known { 0x80 } else { 0x83 }, 0, 1]);
    bytes.extend(u16::try_from(found.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend_from_slice(question.get(12..at + 4)?);
    for data in found {
        bytes.extend([0xc0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 60]);
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
    }
    Some(bytes)
}

async fn serve(zone: Zone) -> Server {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut question = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            if let Some(bytes) = answer(&zone, &question[..length]) {
                let _ = socket.send_to(&bytes, from).await;
            }
        }
    });
    Server { address, task }
}

fn config(server: &Server, name: &str, advertised: &str) -> Config {
    Config {
        name: name.to_owned(),
        discovery_srv: "example.test".to_owned(),
        dns_resolver: Some(server.address),
        initial_advertise_peer_urls: advertised.parse().unwrap(),
        ..Config::default()
    }
}

#[tokio::test]
async fn the_initial_cluster_is_what_the_records_say_with_the_own_name_at_the_own_address() {
    let server = serve(vec![
        srv("_etcd-server-ssl._tcp.example.test", 2380, "m1.example.test"),
        srv("_etcd-server-ssl._tcp.example.test", 2380, "m2.example.test"),
        srv("_etcd-server._tcp.example.test", 2381, "m3.example.test"),
        srv("_etcd-server-blue._tcp.example.test", 7, "m1.example.test"),
        a("m1.example.test", [10, 0, 0, 1]),
        a("m2.example.test", [10, 0, 0, 2]),
        a("m3.example.test", [10, 0, 0, 3]),
    ])
    .await;
    let all = |first: &str, second: &str, third: &str| {
        format!(
            "{first}=https://m1.example.test:2380,{second}=https://m2.example.test:2380,\
             {third}=http://m3.example.test:2381"
        )
    };
    let cases = [
        // By name, by address, in cleartext.
        ("https://m2.example.test:2380", all("0", "own", "1")),
        ("https://10.0.0.1:2380", all("own", "0", "1")),
        ("http://10.0.0.3:2381", all("0", "1", "own")),
    ];
    for (advertised, want) in cases {
        let found = initial_cluster(&config(&server, "own", advertised)).await.unwrap();
        let want: InitialCluster = want.parse().unwrap();
        assert_eq!(found, want, "{advertised}");
    }
    let mut blue = config(&server, "own", "http://10.0.0.1:7");
    blue.discovery_srv_name = "blue".to_owned();
    let found = initial_cluster(&blue).await.unwrap();
    assert_eq!(found.to_string(), "own=http://m1.example.test:7");
    // Another scheme or port is another member.
    for advertised in ["http://10.0.0.1:2380", "https://10.0.0.1:2379", "https://10.0.0.9:2380"] {
        let error = initial_cluster(&config(&server, "own", advertised)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot find local etcd member \"own\" in SRV records"), "{text}");
    }
}

#[tokio::test]
async fn no_records_are_an_error_that_names_the_services() {
    let server = serve(vec![a("m1.example.test", [10, 0, 0, 1])]).await;
    let error = initial_cluster(&config(&server, "own", "http://10.0.0.1:1")).await.unwrap_err();
    let text = error.to_string();
    for name in ["_etcd-server-ssl._tcp.example.test", "_etcd-server._tcp.example.test"] {
        assert!(text.contains(name), "{text}");
    }
}

#[tokio::test]
async fn a_client_finds_servers_with_and_without_tls() {
    let server = serve(vec![
        srv("_etcd-client-ssl._tcp.example.test", 2379, "s1.example.test"),
        srv("_etcd-client._tcp.example.test", 2379, "s2.example.test"),
        srv("_etcd-client-blue._tcp.example.test", 9, "s3.example.test"),
    ])
    .await;
    let at = Some(server.address);
    let found = client_endpoints("example.test", "", at).await.unwrap();
    assert_eq!(found, ["https://s1.example.test:2379", "http://s2.example.test:2379"]);
    let found = client_endpoints("example.test.", "blue", at).await.unwrap();
    assert_eq!(found, ["http://s3.example.test:9"]);
}
