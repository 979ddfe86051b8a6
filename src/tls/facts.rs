//! What a certificate says about its owner.

use std::{net::IpAddr, path::Path};

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::{Error, files};

/// Names, purposes and times of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The whole subject, for people.
    pub subject: String,
    /// Its last common name, as Go reads it.
    pub common_name: Option<String>,
    /// Host names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// It may sign others.
    pub is_ca: bool,
    /// Its extended key usage names clients (or any use). Absent usages name nobody.
    pub for_clients: bool,
    /// Its extended key usage names servers (or any use).
    pub for_servers: bool,
    /// First second of its life, since 1970.
    pub not_before: i64,
    /// Last second of its life, since 1970.
    pub not_after: i64,
    /// Serial number, hexadecimal.
    pub serial: String,
}

impl Facts {
    /// Reads a DER certificate; `None` if it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let usage = certificate.extended_key_usage().ok()?.map(|usage| usage.value);
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        if let Some(names) = certificate.subject_alternative_name().ok()? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => ips.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        let subject = certificate.subject();
        let validity = certificate.validity();
        Some(Self {
            subject: subject.to_string(),
            common_name: subject
                .iter_common_name()
                .last()
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            dns,
            ips,
            is_ca: certificate.is_ca(),
            for_clients: usage.is_some_and(|usage| usage.client_auth || usage.any),
            for_servers: usage.is_some_and(|usage| usage.server_auth || usage.any),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            serial: certificate.raw_serial_as_string().replace(':', ""),
        })
    }

    /// Whether the certificate is for `host`: an address among its addresses, or a name among
    /// its names, where `*` stands for one whole first label. The common name counts only if
    /// there is no other name.
    #[must_use]
    pub fn has_host(&self, host: &str) -> bool {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return self.ips.contains(&ip) || (self.is_nameless() && self.is_common_name(host));
        }
        self.dns.iter().any(|pattern| matches(pattern, host))
            || (self.is_nameless() && self.is_common_name(host))
    }

    fn is_nameless(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty()
    }

    fn is_common_name(&self, host: &str) -> bool {
        self.common_name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(host))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Whether a name of a certificate covers `host`.
fn matches(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let pattern = pattern.trim_end_matches('.');
    if host.is_empty() {
        return false;
    }
    match pattern.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(domain)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Facts of each certificate in a PEM file, in its order.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] if there is no certificate or one cannot be read.
pub fn read_facts(path: &Path) -> Result<Vec<Facts>, Error> {
    let of = |der: &CertificateDer<'_>| {
        Facts::read(der).ok_or_else(|| Error::File {
            path: path.to_owned(),
            why: "a certificate in it cannot be read".to_owned(),
        })
    };
    files::certificates(path)?.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(cn: &str, dns: &[&str], ips: &[&str]) -> Facts {
        Facts {
            subject: String::new(),
            common_name: Some(cn.to_owned()),
            dns: dns.iter().map(|&name| name.to_owned()).collect(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            is_ca: false,
            for_clients: true,
            for_servers: true,
            not_before: 0,
            not_after: 0,
            serial: String::new(),
        }
    }

    #[test]
    fn hosts_match_names_whole_labels_and_addresses() {
        let cases: [(&str, Facts, &str, bool); 12] = [
            ("address", facts("x", &[], &["127.0.0.1"]), "127.0.0.1", true),
            ("v6 in brackets", facts("x", &[], &["::1"]), "[::1]", true),
            ("other address", facts("x", &[], &["127.0.0.1"]), "127.0.0.2", false),
            ("address as name", facts("x", &["127.0.0.1"], &[]), "127.0.0.1", false),
            ("name, any case", facts("x", &["m1.Example"], &[]), "M1.example", true),
            ("wildcard", facts("x", &["*.example"], &[]), "m1.example", true),
            ("wildcard is one label", facts("x", &["*.example"], &[]), "a.m1.example", false),
            ("wildcard is not nothing", facts("x", &["*.example"], &[]), "example", false),
            ("suffix", facts("x", &["example"], &[]), "m1.example", false),
            ("common name alone", facts("m1", &[], &[]), "m1", true),
            ("common name beside others", facts("m1", &["other"], &[]), "m1", false),
            ("nothing", facts("", &[""], &[]), "", false),
        ];
        for (name, facts, host, want) in cases {
            assert_eq!(facts.has_host(host) && !host.is_empty(), want, "{name}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_give_no_facts() {
        assert_eq!(Facts::read(&[]), None);
        assert_eq!(Facts::read(b"\x30\x03\x02\x01\x01"), None);
    }
}
