//! Who the members or the servers are, by DNS SRV records, as in etcd.
//!
//! `_etcd-server-ssl._tcp.DOMAIN` and `_etcd-server._tcp.DOMAIN` name the first members with and
//! without TLS, `_etcd-client-ssl._tcp.DOMAIN` and `_etcd-client._tcp.DOMAIN` the servers of a
//! client. One of the two kinds is enough; both are put together.
//!
//! `assemble` decides; asking is around it. Absent on purpose: weights. All members are needed,
//! and a client tries its servers in turn.
//! Source: etcd `client/pkg/srv`, RFC 2782.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    name_server::TokioConnectionProvider,
    proto::xfer::Protocol,
};

use crate::config::{ClusterError, Config, InitialCluster, Urls};

/// Records of one service that are looked at; no cluster has as many members.
const RECORDS_MAX: usize = 64;
/// Time one question to a DNS server may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Times a question is asked.
const ATTEMPTS: usize = 2;

/// Why the records tell nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system's DNS settings cannot be read.
    #[error("cannot read the system's DNS settings ({0}); name a DNS server to ask")]
    Settings(String),
    /// Neither kind of service has records.
    #[error("dns lookup errors: {secure} and {cleartext}; are the SRV records there?")]
    NoRecords {
        /// What became of the question for TLS.
        secure: String,
        /// And of that for cleartext.
        cleartext: String,
    },
    /// None of the records is this member.
    #[error(
        "cannot find local etcd member {name:?} in SRV records: none of {found} is at \
         --initial-advertise-peer-urls={advertised}"
    )]
    NotListed {
        /// Its name.
        name: String,
        /// Members that the records name.
        found: String,
        /// Where it says that it is.
        advertised: String,
    },
    /// The records name what no member can be.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// What an SRV record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    priority: u16,
    /// Host without the dot at its end.
    host: String,
    port: u16,
    secure: bool,
}

impl Record {
    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme(), self.host, self.port)
    }
}

/// The first members as the records of `discovery_srv` name them. This member's own record is the
/// one at its advertised peer URL; the others get numbers for names.
///
/// # Errors
/// [`Error`].
pub async fn initial_cluster(config: &Config) -> Result<InitialCluster, Error> {
    let dns = Dns::new(config.dns_resolver)?;
    let records =
        dns.records("etcd-server", &config.discovery_srv, &config.discovery_srv_name).await?;
    let advertised = &config.initial_advertise_peer_urls;
    let hosts = records.iter().map(|record| record.host.as_str());
    let hosts = hosts.chain(advertised.iter().map(crate::config::Url::host));
    let addresses = dns.addresses(hosts).await;
    assemble(&config.name, advertised, &records, &addresses)
}

/// URLs of the servers that a domain's records name, those with TLS first.
///
/// # Errors
/// [`Error`].
pub async fn client_endpoints(
    domain: &str,
    service_name: &str,
    resolver: Option<SocketAddr>,
) -> Result<Vec<String>, Error> {
    let records = Dns::new(resolver)?.records("etcd-client", domain, service_name).await?;
    Ok(records.iter().map(ToString::to_string).collect())
}

/// Makes an initial cluster of records. Hosts without an address are in it as well: they may get
/// one later, and the members' ids follow from the texts.
fn assemble(
    name: &str,
    advertised: &Urls,
    records: &[Record],
    addresses: &BTreeMap<String, IpAddr>,
) -> Result<InitialCluster, Error> {
    let at = |host: &str, port: u16| addresses.get(host).map(|ip| SocketAddr::new(*ip, port));
    let is_own = |record: &Record| {
        advertised.iter().any(|url| {
            url.scheme().is_secure() == record.secure
                && url.port() == record.port
                && (url.host() == record.host
                    || at(url.host(), url.port())
                        .is_some_and(|own| at(&record.host, record.port) == Some(own)))
        })
    };
    let mut others = 0..;
    let mut own_found = false;
    let parts: Vec<String> = records
        .iter()
        .map(|record| {
            if is_own(record) {
                own_found = true;
                format!("{name}={record}")
            } else {
                format!("{}={record}", others.next().unwrap_or(0))
            }
        })
        .collect();
    if !own_found {
        let found: Vec<String> = records.iter().map(ToString::to_string).collect();
        return Err(Error::NotListed {
            name: name.to_owned(),
            found: found.join(","),
            advertised: advertised.to_string(),
        });
    }
    Ok(parts.join(",").parse()?)
}

/// Asks a DNS server.
struct Dns(TokioResolver);

impl Dns {
    /// Asks `server`, or those of the system.
    fn new(server: Option<SocketAddr>) -> Result<Self, Error> {
        let mut builder = match server {
            Some(server) => {
                let mut config = ResolverConfig::new();
                config.add_name_server(NameServerConfig::new(server, Protocol::Udp));
                config.add_name_server(NameServerConfig::new(server, Protocol::Tcp));
                TokioResolver::builder_with_config(config, TokioConnectionProvider::default())
            }
            None => TokioResolver::builder_tokio()
                .map_err(|error| Error::Settings(error.to_string()))?,
        };
        let options = builder.options_mut();
        (options.timeout, options.attempts) = (TIMEOUT, ATTEMPTS);
        Ok(Self(builder.build()))
    }

    /// Records of a service with and without TLS, in order of priority.
    async fn records(
        &self,
        service: &str,
        domain: &str,
        suffix: &str,
    ) -> Result<Vec<Record>, Error> {
        let suffix = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
        let secure = format!("_{service}-ssl{suffix}._tcp.{domain}");
        let cleartext = format!("_{service}{suffix}._tcp.{domain}");
        match tokio::join!(self.service(&secure, true), self.service(&cleartext, false)) {
            (Err(secure), Err(cleartext)) => Err(Error::NoRecords { secure, cleartext }),
            (secure, cleartext) => {
                let mut records = secure.unwrap_or_default();
                records.extend(cleartext.unwrap_or_default());
                Ok(records)
            }
        }
    }

    async fn service(&self, name: &str, secure: bool) -> Result<Vec<Record>, String> {
        let absolute = format!("{}.", name.trim_end_matches('.'));
        let found = self.0.srv_lookup(absolute).await;
        let found = found.map_err(|error| format!("lookup {name}: {error}"))?;
        let record = |srv: &hickory_resolver::proto::rr::rdata::SRV| Record {
            priority: srv.priority(),
            host: srv.target().to_string().trim_end_matches('.').to_owned(),
            port: srv.port(),
            secure,
        };
        let mut records: Vec<Record> = found.iter().take(RECORDS_MAX).map(record).collect();
        records.sort();
        if records.is_empty() {
            return Err(format!("lookup {name}: no records"));
        }
        Ok(records)
    }

    /// One address of each host that has one, IPv4 where there is a choice, as in etcd.
    async fn addresses(&self, hosts: impl Iterator<Item = &str>) -> BTreeMap<String, IpAddr> {
        let mut hosts: Vec<&str> = hosts.collect();
        hosts.sort_unstable();
        hosts.dedup();
        let found = hosts.into_iter().map(|host| async move {
            if let Ok(address) = host.parse() {
                return Some((host.to_owned(), address));
            }
            let found = self.0.lookup_ip(host).await;
            let found = found.inspect_err(|error| tracing::warn!(host, %error, "has no address"));
            let mut addresses: Vec<IpAddr> = found.ok()?.iter().collect();
            addresses.sort_unstable();
            Some((host.to_owned(), *addresses.first()?))
        });
        join_all(found).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
