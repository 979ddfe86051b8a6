//! gRPC's health checking: whether this member takes calls.
//!
//! It does while it runs and knows a leader that lives. The store's services share one answer; a balancer
//! that asks for "" or for a service by name leaves out a member that was cut off.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use tokio::{sync::mpsc, time::sleep};

use super::{Shared, decode, encode, reflection};
use crate::{
    api::{
        proto::health::{
            HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
        },
        service::{Code, Status},
    },
    client::Client,
};

/// Time between two looks of a watcher: leadership is followed closely enough, and a thousand
/// watchers cost next to nothing.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

fn serving(client: &Client) -> ServingStatus {
    let node = client.node();
    if node.is_stopped() || node.live_leader().is_none() {
        ServingStatus::NotServing
    } else {
        ServingStatus::Serving
    }
}

fn is_known(service: &str) -> bool {
    service.is_empty() || reflection::services().any(|known| known == service)
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

pub(super) async fn check(
    client: &Client,
    request: HealthCheckRequest,
    _size: usize,
) -> Result<HealthCheckResponse, Status> {
    if !is_known(&request.service) {
        return Err(Status::new(Code::NotFound, "unknown service"));
    }
    Ok(answer(serving(client)))
}

/// Tells the state and its changes until the client leaves or the member stops.
pub(super) async fn watch(
    rpc: Rc<Shared>,
    mut requests: mpsc::Receiver<Bytes>,
    responses: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    let Some(request) = requests.recv().await else { return Ok(()) };
    let request: HealthCheckRequest = decode(request)?;
    let is_known = is_known(&request.service);
    let mut told = None;
    loop {
        let now = if is_known { serving(&rpc.client) } else { ServingStatus::ServiceUnknown };
        if told.replace(now) != Some(now) && responses.send(encode(&answer(now))).await.is_err() {
            return Ok(());
        }
        if rpc.client.node().is_stopped() {
            return Err(Status::new(Code::Unavailable, "etcdserver: server stopped"));
        }
        tokio::select! {
            () = sleep(WATCH_INTERVAL) => {}
            () = responses.closed() => return Ok(()),
        }
    }
}
