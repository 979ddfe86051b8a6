//! `etcdserverpb.Lease`: grant, revoke, keep-alive stream, time to live, list.

use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Shared, decode, encode, header, pb};
use crate::{
    api::service::{CallContext, Status},
    client::Client,
};

pub(super) async fn grant(
    client: &Client,
    request: pb::LeaseGrantRequest,
    _size: usize,
) -> Result<pb::LeaseGrantResponse, Status> {
    let (head, (id, ttl_s)) = client.lease_grant(request.id, request.ttl).await?;
    Ok(pb::LeaseGrantResponse { header: header(head), id, ttl: ttl_s, error: String::new() })
}

pub(super) async fn revoke(
    client: &Client,
    request: pb::LeaseRevokeRequest,
    _size: usize,
) -> Result<pb::LeaseRevokeResponse, Status> {
    let (head, ()) = client.lease_revoke(request.id).await?;
    Ok(pb::LeaseRevokeResponse { header: header(head) })
}

pub(super) async fn time_to_live(
    client: &Client,
    request: pb::LeaseTimeToLiveRequest,
    _size: usize,
) -> Result<pb::LeaseTimeToLiveResponse, Status> {
    let (head, remaining) = client.lease_time_to_live(request.id, request.keys).await?;
    Ok(match remaining {
        Some(remaining) => pb::LeaseTimeToLiveResponse {
            header: header(head),
            id: request.id,
            ttl: remaining.remaining_s,
            granted_ttl: remaining.granted_s,
            keys: remaining.keys,
        },
        // Not an error in etcd: a lease that does not exist has -1 seconds to live.
        None => pb::LeaseTimeToLiveResponse {
            header: header(head),
            id: request.id,
            ttl: -1,
            ..Default::default()
        },
    })
}

pub(super) async fn leases(
    client: &Client,
    _request: pb::LeaseLeasesRequest,
    _size: usize,
) -> Result<pb::LeaseLeasesResponse, Status> {
    let (head, ids) = client.lease_list().await?;
    let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
    Ok(pb::LeaseLeasesResponse { header: header(head), leases })
}

/// Each request renews one lease and has one answer; a lease that does not exist has TTL 0.
pub(super) async fn keep_alive(
    rpc: Rc<Shared>,
    mut requests: mpsc::Receiver<Bytes>,
    responses: mpsc::Sender<Bytes>,
    context: CallContext,
) -> Result<(), Status> {
    while let Some(request) = requests.recv().await {
        let request: pb::LeaseKeepAliveRequest = decode(request)?;
        // etcd takes the header before it renews.
        let head = rpc.client.header_now();
        let acting = rpc.acting_for(&context).await;
        let client = acting.as_deref().unwrap_or(&rpc.client);
        let ttl = client.lease_keep_alive(request.id).await?.unwrap_or(0);
        let answer = pb::LeaseKeepAliveResponse { header: header(head), id: request.id, ttl };
        if responses.send(encode(&answer)).await.is_err() {
            break;
        }
    }
    Ok(())
}
