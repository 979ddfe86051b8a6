//! URLs of members, as etcd's flags take them: `scheme://host:port` without a path.
//!
//! Error texts are etcd's (`client/pkg/types`), since operators and tests match them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// URLs in one list; far above any real member, it bounds what one request or file can hold.
const URLS_MAX: usize = 64;

/// What is wrong with a URL or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL at all.
    #[error("parse {0:?}: invalid URL")]
    Syntax(String),
    /// Another scheme, or none.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// No port, or no host.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// Something follows the port.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// An empty list where one is needed.
    #[error("no valid URLs given")]
    Empty,
    /// Too many in one list.
    #[error("{0} URLs given, more than {URLS_MAX}")]
    TooMany(usize),
    /// A listen URL names a host that is no address.
    #[error("expected IP in URL for binding ({0})")]
    NotAnAddress(Url),
    /// An advertised URL that nobody could dial.
    #[error("unexpected empty host ({0})")]
    EmptyHost(Url),
}

/// Scheme of a member URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Cleartext TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// Unix socket.
    Unix,
    /// TLS over a Unix socket.
    Unixs,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }

    /// TLS is spoken.
    #[must_use]
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::Unixs)
    }

    /// The address is a socket file.
    #[must_use]
    pub fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::Unixs)
    }
}

/// One URL. Its text form is the text given, with the scheme in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Url {
    /// Scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host name or address, without brackets; the path of a Unix socket.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port; 0 lets the system choose, and for a Unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `host:port` ready to bind or dial, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Checks that a listener can bind here: an address, `localhost`, or a socket file.
    pub(super) fn check_bind(&self) -> Result<(), UrlError> {
        let is_address = self.scheme.is_unix()
            || self.host.is_empty()
            || self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok();
        // etcd refuses the empty host too: Go parses it as no address.
        if is_address && (!self.host.is_empty() || self.scheme.is_unix()) {
            Ok(())
        } else {
            Err(UrlError::NotAnAddress(self.clone()))
        }
    }

    /// Checks that another machine has a host to dial.
    pub(super) fn check_advertise(&self) -> Result<(), UrlError> {
        if self.host.is_empty() && !self.scheme.is_unix() {
            return Err(UrlError::EmptyHost(self.clone()));
        }
        Ok(())
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let owned = || text.to_owned();
        if text.contains(|c: char| c.is_control() || c == ' ') {
            return Err(UrlError::Syntax(owned()));
        }
        let Some((scheme_text, rest)) = text.split_once(':') else {
            return Err(UrlError::Scheme(owned()));
        };
        let scheme = match scheme_text.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(UrlError::Scheme(owned())),
        };
        let canonical = format!("{}:{rest}", scheme.name());
        let address = rest.strip_prefix("//").unwrap_or(rest);
        if scheme.is_unix() {
            let host = address.to_owned();
            return Ok(Self { text: canonical, scheme, host, port: 0 });
        }
        if !rest.starts_with("//") {
            return Err(UrlError::HostPort(owned()));
        }
        let (authority, tail) = match address.find(['/', '?', '#']) {
            Some(at) => address.split_at(at),
            None => (address, ""),
        };
        let (host, port) = split_host_port(authority).ok_or_else(|| UrlError::HostPort(owned()))?;
        if !tail.is_empty() {
            return Err(UrlError::Path(owned()));
        }
        Ok(Self { text: canonical, scheme, host: host.to_owned(), port })
    }
}

/// Splits `host:port` or `[v6]:port`. An empty port reads as 0, as Go's listener takes it.
fn split_host_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = if port.is_empty() { 0 } else { port.parse().ok()? };
    Some((host, port))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A list of URLs, sorted and without repeats as etcd keeps it. Text form: comma separated.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urls(Vec<Url>);

impl Urls {
    /// Sorts and removes repeats.
    #[must_use]
    pub fn new(mut urls: Vec<Url>) -> Self {
        urls.sort();
        urls.dedup();
        Self(urls)
    }

    /// The texts, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Url::as_str)
    }

    /// Adds one, keeping order.
    pub fn push(&mut self, url: Url) {
        if let Err(at) = self.0.binary_search(&url) {
            self.0.insert(at, url);
        }
    }
}

impl std::ops::Deref for Urls {
    type Target = [Url];

    fn deref(&self) -> &[Url] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Urls {
    type Item = &'a Url;
    type IntoIter = std::slice::Iter<'a, Url>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FromStr for Urls {
    type Err = UrlError;

    /// The empty text is the empty list.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let urls: Vec<Url> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        if urls.len() > URLS_MAX {
            return Err(UrlError::TooMany(urls.len()));
        }
        Ok(Self::new(urls))
    }
}

impl fmt::Display for Urls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, url) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(&url.text)?;
        }
        Ok(())
    }
}

impl Serialize for Urls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of etcd 3.5.1 for `--listen-client-urls=...`.
    #[test]
    fn wrong_urls_fail_with_etcds_words() {
        let cases = [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            (
                "ftp://127.0.0.1:1",
                "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1",
            ),
            (
                "http://127.0.0.1",
                "URL address does not have the form \"host:port\": http://127.0.0.1",
            ),
            ("http://::1:80", "URL address does not have the form \"host:port\": http://::1:80"),
            ("http://127.0.0.1:1/path", "URL must not contain a path: http://127.0.0.1:1/path"),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Url>().unwrap_err().to_string(), want, "{text}");
        }
    }

    #[test]
    fn a_url_knows_its_parts() {
        let cases = [
            ("http://localhost:2379", "localhost", 2379, "localhost:2379"),
            (" https://[::1]:80", "::1", 80, "[::1]:80"),
            ("HTTP://0.0.0.0:0", "0.0.0.0", 0, "0.0.0.0:0"),
            ("unix:///run/etcd.sock", "/run/etcd.sock", 0, "/run/etcd.sock:0"),
        ];
        for (text, host, port, authority) in cases {
            let url: Url = text.parse().unwrap();
            assert_eq!(
                (url.host(), url.port(), url.authority()),
                (host, port, authority.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn listen_urls_must_be_addresses() {
        let cases = [
            ("http://127.0.0.1:1", true),
            ("http://localhost:1", true),
            ("http://[::]:1", true),
            ("http://example.com:1", false),
            ("http://:1", false),
        ];
        for (text, ok) in cases {
            assert_eq!(text.parse::<Url>().unwrap().check_bind().is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn a_list_is_sorted_and_has_no_repeats() {
        let urls: Urls = "http://b:1,http://a:1,http://b:1".parse().unwrap();
        assert_eq!(urls.to_string(), "http://a:1,http://b:1");
        assert_eq!("".parse::<Urls>().unwrap(), Urls::default());
    }
}
