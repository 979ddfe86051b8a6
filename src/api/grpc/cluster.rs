//! `etcdserverpb.Cluster`: the member list and changes to it.

use super::{pb, header};
use crate::{
    api::service::Status,
    client::{Client, Header, MemberInfo},
};

/// Cluster answers have a header without a revision, as in etcd.
fn cluster_header(head: Header) -> Option<pb::ResponseHeader> {
    header(Header { revision: 0, ..head })
}

fn member(info: MemberInfo) -> pb::Member {
    pb::Member {
        id: info.id,
        name: info.name,
        peer_ur_ls: info.peer_urls,
        client_ur_ls: info.client_urls,
        is_learner: info.is_learner,
    }
}

fn members(infos: Vec<MemberInfo>) -> Vec<pb::Member> {
    infos.into_iter().map(member).collect()
}

pub(super) async fn list(
    client: &Client,
    request: pb::MemberListRequest,
    _size: usize,
) -> Result<pb::MemberListResponse, Status> {
    let (head, infos) = client.member_list(request.linearizable).await?;
    Ok(pb::MemberListResponse { header: cluster_header(head), members: members(infos) })
}

pub(super) async fn add(
    client: &Client,
    request: pb::MemberAddRequest,
    _size: usize,
) -> Result<pb::MemberAddResponse, Status> {
    let (head, (added, infos)) = client.member_add(request.peer_ur_ls, request.is_learner).await?;
    Ok(pb::MemberAddResponse {
        header: cluster_header(head),
        member: Some(member(added)),
        members: members(infos),
    })
}

pub(super) async fn remove(
    client: &Client,
    request: pb::MemberRemoveRequest,
    _size: usize,
) -> Result<pb::MemberRemoveResponse, Status> {
    let (head, infos) = client.member_remove(request.id).await?;
    Ok(pb::MemberRemoveResponse { header: cluster_header(head), members: members(infos) })
}

pub(super) async fn update(
    client: &Client,
    request: pb::MemberUpdateRequest,
    _size: usize,
) -> Result<pb::MemberUpdateResponse, Status> {
    let (head, infos) = client.member_update(request.id, request.peer_ur_ls).await?;
    Ok(pb::MemberUpdateResponse { header: cluster_header(head), members: members(infos) })
}

pub(super) async fn promote(
    client: &Client,
    request: pb::MemberPromoteRequest,
    _size: usize,
) -> Result<pb::MemberPromoteResponse, Status> {
    let (head, infos) = client.member_promote(request.id).await?;
    Ok(pb::MemberPromoteResponse { header: cluster_header(head), members: members(infos) })
}
