//! What a benchmark run does: plain data, checked once.

use std::{net::ToSocketAddrs, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use crate::tls::{self, Connector, Settings, Trust};

/// Clients that share a connection unless told otherwise, as in etcd's own benchmark guide
/// (100 connections for 1,000 clients).
const CLIENTS_PER_CONNECTION: usize = 10;
/// Most clients of one run; each costs a slot and, in JSON mode, a socket.
pub const CLIENTS_MAX: usize = 100_000;
/// Largest value in bytes; etcd refuses requests above 1.5 MiB.
pub const VALUE_BYTES_MAX: usize = 1_400_000;
/// Threads that make load; more would take the server's cores.
pub const THREADS_MAX: usize = 2;

/// What each request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Write one key.
    Put,
    /// Read one key, linearizable.
    Get,
    /// Read one key from the member asked, possibly stale.
    Serializable,
    /// Reads (linearizable) and writes, in the proportion of [`Plan::read_percent`].
    Mixed,
    /// A transaction of one comparison and one write.
    Txn,
}

impl Op {
    /// Whether keys must exist before the run.
    pub fn reads(self) -> bool {
        matches!(self, Self::Get | Self::Serializable | Self::Mixed)
    }

    /// Whether the run writes keys.
    pub fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Mixed | Self::Txn)
    }
}

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// gRPC over HTTP/2, clients multiplexed on a few connections.
    Grpc,
    /// JSON over HTTP/1.1, one connection per client.
    Http,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// After this many measured requests.
    Total(u64),
    /// After this time of measuring.
    After(Duration),
}

/// Certificates of a run with TLS. Empty paths are unset.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities of the servers' certificates; unset: the system's.
    pub cacert: PathBuf,
    /// Client certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Believe any server.
    pub skip_verify: bool,
}

impl TlsFiles {
    /// What connects with these files and speaks `protocol` inside TLS.
    ///
    /// # Errors
    /// The first file that cannot be used.
    fn connector(&self, protocol: Protocol) -> Result<Arc<Connector>, tls::Error> {
        let trust = if self.skip_verify {
            Trust::Anyone
        } else if self.cacert.as_os_str().is_empty() {
            Trust::System
        } else {
            Trust::File(self.cacert.clone())
        };
        let settings = Settings {
            cert_file: self.cert.clone(),
            key_file: self.key.clone(),
            protocols: match protocol {
                Protocol::Grpc => &[b"h2"],
                Protocol::Http => &[b"http/1.1"],
            },
            ..Settings::default()
        };
        Connector::new(settings, trust).map(Arc::new)
    }
}

/// Connectors of a run with TLS; the server tells the protocols apart by what they negotiate.
#[derive(Clone, Debug)]
pub struct Encryption {
    /// For gRPC.
    pub grpc: Arc<Connector>,
    /// For JSON over HTTP/1.1.
    pub http: Arc<Connector>,
}

impl Encryption {
    /// Both connectors with these files.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn new(files: &TlsFiles) -> Result<Self, tls::Error> {
        let (grpc, http) = (files.connector(Protocol::Grpc)?, files.connector(Protocol::Http)?);
        Ok(Self { grpc, http })
    }

    /// The connector of a protocol.
    pub fn of(&self, protocol: Protocol) -> &Arc<Connector> {
        match protocol {
            Protocol::Grpc => &self.grpc,
            Protocol::Http => &self.http,
        }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `host:port` of each endpoint; connections are spread over them in turn.
    pub endpoints: Vec<String>,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<Encryption>,
    /// Clients, each with one request in flight.
    pub clients: usize,
    /// Connections of the gRPC mode; `None`: one for ten clients.
    pub connections: Option<usize>,
    /// Threads that make load.
    pub threads: usize,
    /// Time before measuring starts.
    pub warmup: Duration,
    /// When the run ends.
    pub stop: Stop,
    /// What requests do.
    pub op: Op,
    /// Share of reads in [`Op::Mixed`], in percent.
    pub read_percent: u8,
    /// How requests travel.
    pub protocol: Protocol,
    /// Number of keys.
    pub key_space: u64,
    /// Size of a value in bytes.
    pub value_bytes: usize,
    /// Keys in turn instead of at random.
    pub sequential: bool,
    /// Seed of keys and values.
    pub seed: u64,
    /// Requests per second of all clients together; `None`: as fast as answers come.
    pub rate: Option<f64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2379".into()],
            tls: None,
            clients: 256,
            connections: None,
            threads: 1,
            warmup: Duration::from_secs(1),
            stop: Stop::After(Duration::from_secs(10)),
            op: Op::Put,
            read_percent: 50,
            protocol: Protocol::Grpc,
            key_space: 10_000,
            value_bytes: 256,
            sequential: false,
            seed: 1,
            rate: None,
        }
    }
}

/// A plan that cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A number outside its bounds.
    #[error("{name} is {value}, it must be between {min} and {max}")]
    OutOfRange {
        /// The flag.
        name: &'static str,
        /// What it was set to.
        value: u128,
        /// Smallest value.
        min: u128,
        /// Largest value.
        max: u128,
    },
    /// No endpoint at all.
    #[error("no endpoint given")]
    NoEndpoint,
    /// An endpoint we cannot talk to.
    #[error("endpoint {endpoint:?}: {why}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// A rate that is no positive number.
    #[error("rate is {0}, it must be at least 1 request per second")]
    Rate(f64),
}

impl Plan {
    /// Checks all bounds.
    ///
    /// # Errors
    /// The first value out of bounds.
    pub fn validate(&self) -> Result<(), PlanError> {
        let range = |name, value: u128, min: u128, max: u128| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(PlanError::OutOfRange { name, value, min, max })
            }
        };
        range("clients", self.clients as u128, 1, CLIENTS_MAX as u128)?;
        range("conns", self.connections.unwrap_or(1) as u128, 1, self.clients as u128)?;
        range("threads", self.threads as u128, 1, THREADS_MAX as u128)?;
        range("key-space", self.key_space.into(), 1, 1_000_000_000_000)?;
        range("value-size", self.value_bytes as u128, 0, VALUE_BYTES_MAX as u128)?;
        range("read-percent", self.read_percent.into(), 0, 100)?;
        match self.stop {
            Stop::Total(total) => range("total", total.into(), 1, u64::MAX.into())?,
            Stop::After(time) => range("duration in ms", time.as_millis(), 100, 86_400_000)?,
        }
        if let Some(rate) = self.rate
            && !(rate >= 1.0 && rate.is_finite())
        {
            return Err(PlanError::Rate(rate));
        }
        if self.endpoints.is_empty() {
            return Err(PlanError::NoEndpoint);
        }
        Ok(())
    }

    /// Connections of the run: one per client in JSON mode.
    pub fn connection_count(&self) -> usize {
        match self.protocol {
            Protocol::Http => self.clients,
            Protocol::Grpc => {
                self.connections.unwrap_or(self.clients.div_ceil(CLIENTS_PER_CONNECTION))
            }
        }
    }

    /// Threads of the run: no more than connections.
    pub fn thread_count(&self) -> usize {
        self.threads.min(self.connection_count())
    }
}

/// Takes `http://host:port`, `https://host:port`, `host:port` or `host` apart into `host:port`.
///
/// # Errors
/// What is no endpoint, and names that do not resolve.
pub fn authority(endpoint: &str) -> Result<String, PlanError> {
    let fail = |why: &str| PlanError::Endpoint { endpoint: endpoint.into(), why: why.into() };
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| endpoint.strip_prefix(scheme))
        .unwrap_or(endpoint)
        .trim_end_matches('/');
    if rest.is_empty() || rest.contains(['/', ' ', '\r', '\n']) {
        return Err(fail("expected http://host:port"));
    }
    let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port { rest.to_owned() } else { format!("{rest}:2379") };
    match authority.to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(_)) => Ok(authority),
        Ok(None) => Err(fail("the name has no address")),
        Err(error) => Err(fail(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_host_and_port() {
        let cases = [
            ("http://127.0.0.1:2379", Some("127.0.0.1:2379")),
            ("127.0.0.1:1/", Some("127.0.0.1:1")),
            ("127.0.0.1", Some("127.0.0.1:2379")),
            ("http://[::1]:5", Some("[::1]:5")),
            ("https://127.0.0.1:2379", Some("127.0.0.1:2379")),
            ("http://", None),
            ("a b:1", None),
            ("127.0.0.1:99999", None),
        ];
        for (endpoint, want) in cases {
            assert_eq!(authority(endpoint).ok().as_deref(), want, "{endpoint}");
        }
    }

    #[test]
    fn ten_clients_share_a_connection_and_json_clients_none() {
        let plan = |clients, protocol, connections| {
            Plan { clients, protocol, connections, ..Plan::default() }.connection_count()
        };
        assert_eq!(plan(1, Protocol::Grpc, None), 1);
        assert_eq!(plan(64, Protocol::Grpc, None), 7);
        assert_eq!(plan(1000, Protocol::Grpc, None), 100);
        assert_eq!(plan(1000, Protocol::Grpc, Some(3)), 3);
        assert_eq!(plan(64, Protocol::Http, None), 64);
    }

    #[test]
    fn values_out_of_bounds_are_named() {
        let cases: [(Plan, &str); 6] = [
            (Plan { clients: 0, ..Plan::default() }, "clients"),
            (Plan { connections: Some(300), ..Plan::default() }, "conns"),
            (Plan { key_space: 0, ..Plan::default() }, "key-space"),
            (Plan { value_bytes: 2_000_000, ..Plan::default() }, "value-size"),
            (Plan { rate: Some(f64::NAN), ..Plan::default() }, "rate"),
            (Plan { endpoints: vec![], ..Plan::default() }, "no endpoint"),
        ];
        for (plan, want) in cases {
            let error = plan.validate().unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert!(Plan::default().validate().is_ok());
    }
}
