//! `v3electionpb.Election`.

use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Shared, decode, encode, header, lock::plain};
use crate::{
    api::{
        convert,
        proto::v3electionpb::{
            self as pb, CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse,
            ProclaimRequest, ProclaimResponse, ResignRequest, ResignResponse,
        },
        service::{CallContext, Code, Status},
    },
    client::{Client, Header, LeaderKey},
};

pub(super) async fn campaign(
    client: &Client,
    request: CampaignRequest,
    _size: usize,
) -> Result<CampaignResponse, Status> {
    let campaign = client.campaign(&request.name, request.lease, request.value);
    let (head, leader) = campaign.await.map_err(plain)?;
    let LeaderKey { name, key, revision, lease } = leader;
    let leader = pb::LeaderKey { name, key, rev: revision, lease };
    Ok(CampaignResponse { header: header(head), leader: Some(leader) })
}

pub(super) async fn proclaim(
    client: &Client,
    request: ProclaimRequest,
    _size: usize,
) -> Result<ProclaimResponse, Status> {
    let leader = leader_key(request.leader)?;
    let (head, ()) = client.proclaim(&leader, request.value).await.map_err(plain)?;
    Ok(ProclaimResponse { header: header(head) })
}

pub(super) async fn leader(
    client: &Client,
    request: LeaderRequest,
    _size: usize,
) -> Result<LeaderResponse, Status> {
    let (head, kv) = client.election_leader(&request.name).await.map_err(plain)?;
    Ok(leader_response(head, kv))
}

pub(super) async fn resign(
    client: &Client,
    request: ResignRequest,
    _size: usize,
) -> Result<ResignResponse, Status> {
    let leader = leader_key(request.leader)?;
    let (head, ()) = client.resign(&leader).await.map_err(plain)?;
    Ok(ResignResponse { header: header(head) })
}

/// Tells leaders and their values until the client is gone.
pub(super) async fn observe(
    rpc: Rc<Shared>,
    mut requests: mpsc::Receiver<Bytes>,
    responses: mpsc::Sender<Bytes>,
    context: CallContext,
) -> Result<(), Status> {
    let Some(request) = requests.recv().await else { return Ok(()) };
    let request: LeaderRequest = decode(request)?;
    let acting = rpc.acting_for(&context).await;
    let client = acting.as_deref().unwrap_or(&rpc.client);
    let mut observer = client.observe(&request.name);
    loop {
        let changes = tokio::select! {
            changes = observer.next() => changes.map_err(plain)?,
            () = responses.closed() => return Ok(()),
        };
        for (head, kv) in changes {
            if responses.send(encode(&leader_response(head, kv))).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn leader_response(head: Header, kv: tripod_storage::KeyValue) -> LeaderResponse {
    LeaderResponse { header: header(head), kv: Some(convert::key_value(kv)) }
}

fn leader_key(leader: Option<pb::LeaderKey>) -> Result<LeaderKey, Status> {
    let missing = || Status::new(Code::Unknown, "\"leader\" field must be provided");
    let pb::LeaderKey { name, key, rev, lease } = leader.ok_or_else(missing)?;
    Ok(LeaderKey { name, key, revision: rev, lease })
}
