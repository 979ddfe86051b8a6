//! The engine on real sockets: an ordinary gRPC client, plain HTTP, and a raw client.

mod abuse;
mod calls;
mod plain;
mod raw;
mod services;
mod slow;

use std::{future::Future, net::SocketAddr, rc::Rc, time::Duration};

use services::TestServices;
use tokio::{net::TcpListener, task::LocalSet};

use super::{
    super::connection::{self, ConnectionInfo, Drain, Environment, Http1Limits},
    Limits,
};

/// No test takes longer unless it hangs.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A server on a loopback port of the test's own thread.
pub(super) struct Server {
    pub address: SocketAddr,
    pub services: Rc<TestServices>,
    pub drain: Rc<Drain>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let services = Rc::new(TestServices::default());
        let drain = Rc::new(Drain::default());
        let environment = Rc::new(Environment {
            services: Rc::new(Rc::clone(&services)),
            http: Rc::new(Rc::clone(&services)),
            limits: Rc::new(limits),
            http1: Http1Limits::default(),
            drain: Rc::clone(&drain),
            held: Rc::default(),
        });
        tokio::task::spawn_local(async move {
            while let Ok((socket, remote)) = listener.accept().await {
                let info = ConnectionInfo { remote: Some(remote), ..ConnectionInfo::default() };
                let environment = Rc::clone(&environment);
                let served = Rc::clone(&environment);
                tokio::task::spawn_local(connection::serve(socket, info, served));
            }
        });
        Self { address, services, drain }
    }

    /// A channel of an ordinary gRPC client.
    async fn channel(&self) -> tonic::transport::Channel {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.unwrap().connect().await.unwrap()
    }
}

/// Runs a test against a server with `limits`.
fn with_server<F: Future<Output = ()>>(limits: Limits, test: impl FnOnce(Server) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let server = Server::start(limits).await;
        tokio::time::timeout(TEST_TIMEOUT, test(server)).await.expect("test hangs");
    });
}

/// Waits until `condition` holds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect(what);
}
