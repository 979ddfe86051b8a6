//! `TRIPOD_DNS_RESOLVER`: the DNS server that `--discovery-srv` asks, instead of the system's.
//!
//! For networks whose inner and outer names differ, and for tests. Only the look-ups of discovery
//! go there; members and servers are dialed by the system's names.

use std::net::{IpAddr, SocketAddr};

/// The variable.
const VARIABLE: &str = "TRIPOD_DNS_RESOLVER";
/// Port of an address without one.
const DNS_PORT: u16 = 53;

/// The DNS server of the environment, if it names one.
///
/// # Errors
/// A sentence, if it is no address.
pub(super) fn resolver() -> Result<Option<SocketAddr>, String> {
    parse(&std::env::var(VARIABLE).unwrap_or_default())
}

fn parse(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
    text.parse().or_else(bare).map(Some).map_err(|_| {
        format!("{VARIABLE} is {text:?}, and must be the address of a DNS server, IP or IP:PORT")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_an_address_with_or_without_a_port() {
        let cases = [
            ("10.0.0.1", "10.0.0.1:53"),
            ("10.0.0.1:5353", "10.0.0.1:5353"),
            ("::1", "[::1]:53"),
            ("[::1]:1", "[::1]:1"),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text).unwrap().map(|at| at.to_string()).as_deref(), Some(want));
        }
        assert_eq!(parse(""), Ok(None));
        assert!(parse("dns.example").is_err());
    }
}
