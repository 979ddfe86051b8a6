//! Whether a peer's certificate is one of a member.
//!
//! An authority signs clients and other servers too, so a good signature alone must not let
//! anybody speak Raft. Source: Consul CVE-2021-37219.

use std::net::IpAddr;

use crate::transport::PeerProof;

/// Addresses of one host name that are looked at.
const ADDRESSES_MAX: usize = 16;

/// Whether the proof is for the host of one of `urls`, or for an address of such a host. Without
/// URLs nothing is known about the members, and the signature has to do.
pub(crate) async fn owns_any(proof: &dyn PeerProof, urls: &[String]) -> bool {
    if urls.is_empty() || urls.iter().any(|url| host_of(url).is_some_and(|host| proof.owns(host))) {
        return true;
    }
    let names = urls.iter().filter_map(|url| host_of(url));
    for name in names.filter(|host| host.parse::<IpAddr>().is_err()) {
        let Ok(addresses) = tokio::net::lookup_host((name, 0)).await else { continue };
        let mut addresses = addresses.take(ADDRESSES_MAX);
        if addresses.any(|address| proof.owns(&address.ip().to_string())) {
            return true;
        }
    }
    false
}

/// Host of a peer URL, without brackets.
fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']')?.0,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Names(&'static [&'static str]);

    impl PeerProof for Names {
        fn owns(&self, host: &str) -> bool {
            self.0.contains(&host)
        }
    }

    #[tokio::test]
    async fn a_proof_counts_for_the_hosts_of_peer_urls_and_their_addresses() {
        type Case = (&'static str, &'static [&'static str], &'static [&'static str], bool);
        let cases: [Case; 7] = [
            ("its name", &["m1"], &["https://m1:2380"], true),
            ("its address", &["10.0.0.1"], &["https://10.0.0.1:2380/"], true),
            ("its v6 address", &["::1"], &["https://[::1]:2380"], true),
            ("one of several URLs", &["b"], &["https://a:1", "https://b:1"], true),
            ("an address of its name", &["127.0.0.1"], &["https://localhost:1"], true),
            ("another name", &["client"], &["https://127.0.0.1:1"], false),
            ("a name at all", &[], &["https://127.0.0.1:1"], false),
        ];
        for (name, proved, urls, want) in cases {
            let urls: Vec<String> = urls.iter().map(|&url| url.to_owned()).collect();
            assert_eq!(owns_any(&Names(proved), &urls).await, want, "{name}");
        }
        assert!(owns_any(&Names(&[]), &[]).await, "nothing is known of the members yet");
    }
}
