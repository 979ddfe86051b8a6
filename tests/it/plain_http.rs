//! What can be done with nothing but an HTTP client: `/v2` and `/kv`, against one member.

mod kv;
mod users;
mod v2;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::support::{
    cluster::{Cluster, Options},
    http::Http,
};

/// A member for one test.
pub(crate) struct Server {
    pub(crate) cluster: Cluster,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start(flags: &[&str]) -> Result<Self> {
        Self::of(1, flags)
    }

    fn of(size: usize, flags: &[&str]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let options = Options::candidate(size)?;
        let options = flags.iter().fold(options, |options, flag| options.flag(*flag));
        let cluster = runtime.block_on(Cluster::start(options))?;
        Ok(Self { cluster, runtime })
    }

    pub(crate) fn port(&self) -> u16 {
        self.cluster.members[0].client_port()
    }

    pub(crate) fn http(&self) -> Http {
        Http::new(self.port())
    }

    /// Stops the member and starts it again.
    fn restart(&mut self) -> Result<()> {
        self.cluster.members[0].stop()?;
        self.runtime.block_on(self.cluster.restart_missing())
    }

    fn close(self) -> Result<()> {
        self.cluster.close()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}
