//! The seam between commands and a running member.
//!
//! The one place of the command line that knows how a member starts.

use std::net::SocketAddr;

use crate::config::Config;

/// A member that serves until it is told to stop.
pub(crate) trait Running {
    /// Where it serves clients.
    fn client_addrs(&self) -> Vec<SocketAddr>;

    /// Ends when the member stops by itself, with the reason; never, as long as it is well.
    fn failed(&self) -> impl Future<Output = anyhow::Error>;

    /// Stops it: no more requests, everything acknowledged is on disk.
    fn shutdown(self) -> impl Future<Output = ()>;
}

/// Starts the member that `config` describes and returns once it serves clients.
///
/// # Errors
/// Whatever keeps it from serving, such as an address in use or damaged data.
#[expect(clippy::unused_async, reason = "the composition root awaits here")]
pub(crate) async fn member(config: Config) -> anyhow::Result<impl Running> {
    Err::<NoMember, _>(anyhow::anyhow!("this build cannot start member {:?} yet", config.name))
}

/// Stands where the composition root's member goes.
struct NoMember;

impl Running for NoMember {
    fn client_addrs(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    fn failed(&self) -> impl Future<Output = anyhow::Error> {
        std::future::pending()
    }

    async fn shutdown(self) {}
}
