//! `--initial-cluster`: which members start a cluster, `name=url,name=url,...`.

use std::{collections::BTreeMap, fmt, net::ToSocketAddrs, str::FromStr};

use super::url::{Url, UrlError, Urls};

/// Names and peer URLs of the first members. A name may stand several times, once per URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitialCluster(BTreeMap<String, Urls>);

/// Why members cannot start from an `--initial-cluster`. Texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum ClusterError {
    #[error("error setting up initial cluster: {0}")]
    Url(UrlError),
    #[error("error setting up initial cluster: empty URL given for {0:?}")]
    EmptyUrl(String),
    #[error("initial cluster unset and no discovery URL found")]
    Unset,
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    NoLocalName(String),
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    #[error(
        "--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={advertised}"
    )]
    NotAdvertised { missing: String, advertised: String },
    #[error(
        "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={initial}"
    )]
    NotInCluster { missing: String, initial: String },
}

impl InitialCluster {
    /// A cluster of one.
    #[must_use]
    pub fn single(name: &str, peer_urls: Urls) -> Self {
        Self(BTreeMap::from([(name.to_owned(), peer_urls)]))
    }

    /// Members in order of their names.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Urls)> {
        self.0.iter().map(|(name, urls)| (name.as_str(), urls))
    }

    /// Peer URLs of one member.
    #[must_use]
    pub fn peer_urls(&self, name: &str) -> Option<&Urls> {
        self.0.get(name)
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No member at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that the member `name` advertising `advertised` is one of these and that no URL
    /// belongs to two. URLs that differ in text are equal if their hosts resolve to the same
    /// address, as in etcd.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn check_local(&self, name: &str, advertised: &Urls) -> Result<(), ClusterError> {
        if self.is_empty() {
            return Err(ClusterError::Unset);
        }
        let Some(own) = self.peer_urls(name) else {
            return Err(ClusterError::NoLocalName(name.to_owned()));
        };
        self.check_duplicates()?;
        let equal = own.len() == advertised.len()
            && own.iter().all(|url| advertised.iter().any(|other| same_address(url, other)));
        if equal {
            return Ok(());
        }
        let missing = |of: &Urls, from: &Urls, prefix: &str| {
            let texts: Vec<String> = of
                .iter()
                .filter(|url| !from.contains(url))
                .map(|url| format!("{prefix}{url}"))
                .collect();
            texts.join(",")
        };
        let not_advertised = missing(own, advertised, &format!("{name}="));
        if not_advertised.is_empty() {
            return Err(ClusterError::NotInCluster {
                missing: missing(advertised, own, ""),
                initial: Self::single(name, own.clone()).to_string(),
            });
        }
        Err(ClusterError::NotAdvertised {
            missing: not_advertised,
            advertised: advertised.to_string(),
        })
    }

    /// Checks that no URL belongs to two members.
    ///
    /// # Errors
    /// [`ClusterError::DuplicateUrl`].
    pub fn check_duplicates(&self) -> Result<(), ClusterError> {
        let mut seen = std::collections::BTreeSet::new();
        for url in self.0.values().flatten() {
            if !seen.insert(url) {
                return Err(ClusterError::DuplicateUrl(self.to_string()));
            }
        }
        Ok(())
    }
}

/// Equal as text, or scheme and port are equal and the hosts resolve to the same first address.
fn same_address(a: &Url, b: &Url) -> bool {
    if a == b {
        return true;
    }
    if a.scheme() != b.scheme() || a.port() != b.port() || a.scheme().is_unix() {
        return false;
    }
    let first = |url: &Url| {
        let mut found: Vec<_> = url.authority().to_socket_addrs().ok()?.collect();
        found.sort_by_key(|address| !address.is_ipv4());
        found.first().copied()
    };
    match (first(a), first(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

impl FromStr for InitialCluster {
    type Err = ClusterError;

    fn from_str(text: &str) -> Result<Self, ClusterError> {
        let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for entry in text.split(',').filter(|entry| !entry.is_empty()) {
            let (name, url) = entry.split_once('=').unwrap_or((entry, ""));
            let (name, url) = (name.trim(), url.trim());
            if url.is_empty() && entry.contains('=') {
                return Err(ClusterError::EmptyUrl(name.to_owned()));
            }
            let url: Url = url.parse().map_err(ClusterError::Url)?;
            members.entry(name.to_owned()).or_default().push(url);
        }
        Ok(Self(members.into_iter().map(|(name, urls)| (name, Urls::new(urls))).collect()))
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, urls) in self.members() {
            for url in urls {
                if !std::mem::take(&mut first) {
                    f.write_str(",")?;
                }
                write!(f, "{name}={url}")?;
            }
        }
        Ok(())
    }
}

impl serde::Serialize for InitialCluster {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for InitialCluster {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_member_must_be_in_the_initial_cluster_with_its_urls() {
        let cases = [
            ("default=http://localhost:2380", "http://localhost:2380", ""),
            ("default=http://localhost:2380", "http://127.0.0.1:2380", ""),
            ("a=http://b:1,default=http://127.0.0.1:1", "http://127.0.0.1:1", ""),
            ("", "http://localhost:2380", "initial cluster unset and no discovery URL found"),
            (
                "foo=http://localhost:2380",
                "http://localhost:2380",
                "couldn't find local name \"default\" in the initial cluster configuration",
            ),
            (
                "default=http://localhost:2381",
                "http://localhost:2380",
                "--initial-cluster has default=http://localhost:2381 but missing from \
                 --initial-advertise-peer-urls=http://localhost:2380",
            ),
            (
                "default=http://127.0.0.1:1",
                "http://127.0.0.1:1,http://127.0.0.1:2",
                "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from \
                 --initial-cluster=default=http://127.0.0.1:1",
            ),
            (
                "b=http://127.0.0.1:1,default=http://127.0.0.1:1",
                "http://127.0.0.1:1",
                "initial cluster b=http://127.0.0.1:1,default=http://127.0.0.1:1 has duplicate url",
            ),
        ];
        for (cluster, advertised, want) in cases {
            let cluster: InitialCluster = cluster.parse().unwrap();
            let got = cluster.check_local("default", &advertised.parse().unwrap());
            assert_eq!(got.err().map(|e| e.to_string()).unwrap_or_default(), want, "{cluster}");
        }
    }

    #[test]
    fn wrong_entries_fail() {
        let cases = [
            (
                "default",
                "error setting up initial cluster: \
                 URL scheme must be http, https, unix, or unixs: ",
            ),
            ("a=", "error setting up initial cluster: empty URL given for \"a\""),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<InitialCluster>().unwrap_err().to_string(), want, "{text}");
        }
    }
}
