//! `etcdserverpb.Maintenance`: status, hashes, alarms, leader transfer, snapshots.

use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tripod_storage::{
    auth::Ask,
    command::{AlarmAction, AlarmKind},
};

use super::{Shared, decode, encode, header, pb};
use crate::{
    api::service::{CallContext, Code, Status},
    client::{CLUSTER_VERSION, Client},
    version,
};

/// Bytes of the file in one message, as etcd.
const BLOB_BYTES: usize = 32 << 10;

pub(super) async fn status(
    client: &Client,
    _request: pb::StatusRequest,
    _size: usize,
) -> Result<pb::StatusResponse, Status> {
    let (head, status) = client.status()?;
    let mut errors: Vec<String> = Vec::new();
    if status.leader == 0 {
        errors.push("etcdserver: no leader".to_owned());
    }
    for (member_id, alarm) in &status.alarms {
        // With the trailing space that etcd's text form has.
        errors.push(format!("memberID:{member_id} alarm:{} ", alarm_name(*alarm)));
    }
    Ok(pb::StatusResponse {
        header: header(head),
        version: version::ETCD.to_owned(),
        db_size: status.db_size_bytes,
        leader: status.leader,
        raft_index: status.raft_index,
        raft_term: head.raft_term,
        raft_applied_index: status.raft_applied_index,
        errors,
        db_size_in_use: status.db_size_in_use_bytes,
        is_learner: status.is_learner,
        // The rest is new in 3.6 and left out: clients of 3.5 compare whole answers.
        ..Default::default()
    })
}

pub(super) async fn hash(
    client: &Client,
    _request: pb::HashRequest,
    _size: usize,
) -> Result<pb::HashResponse, Status> {
    let (head, hash) = client.hash_state().await?;
    Ok(pb::HashResponse { header: header(head), hash })
}

pub(super) async fn hash_kv(
    client: &Client,
    request: pb::HashKvRequest,
    _size: usize,
) -> Result<pb::HashKvResponse, Status> {
    let (head, hash) = client.hash_kv(request.revision).await?;
    Ok(pb::HashKvResponse {
        header: header(head),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.revision,
    })
}

/// Sends the state as a file: blobs, then their SHA-256. Without headers, as etcd.
pub(super) async fn snapshot(
    rpc: Rc<Shared>,
    mut requests: mpsc::Receiver<Bytes>,
    responses: mpsc::Sender<Bytes>,
    context: CallContext,
) -> Result<(), Status> {
    let Some(request) = requests.recv().await else { return Ok(()) };
    let _: pb::SnapshotRequest = decode(request)?;
    let acting = rpc.acting_for(&context).await;
    let client = acting.as_deref().unwrap_or(&rpc.client);
    let mut snapshot = tokio::select! {
        snapshot = client.snapshot() => snapshot?,
        () = responses.closed() => return Ok(()),
    };
    let mut left = snapshot.size_bytes();
    loop {
        let (rest, bytes) = snapshot.next().await?;
        snapshot = rest;
        let bytes = Bytes::from(bytes);
        if bytes.is_empty() {
            break;
        }
        for at in (0..bytes.len()).step_by(BLOB_BYTES) {
            let blob = bytes.slice(at..(at + BLOB_BYTES).min(bytes.len()));
            left -= blob.len() as u64;
            if responses.send(encode(&message(left, blob))).await.is_err() {
                return Ok(());
            }
        }
    }
    let checksum = Bytes::copy_from_slice(&snapshot.checksum());
    // A client that has gone needs no checksum.
    let _ = responses.send(encode(&message(0, checksum))).await;
    Ok(())
}

fn message(remaining_bytes: u64, blob: Bytes) -> pb::SnapshotResponse {
    let version = CLUSTER_VERSION.to_owned();
    pb::SnapshotResponse { header: None, remaining_bytes, blob, version }
}

/// Answers `{}` without a header, as etcd.
pub(super) async fn defragment(
    client: &Client,
    _request: pb::DefragmentRequest,
    _size: usize,
) -> Result<pb::DefragmentResponse, Status> {
    client.defragment().await?;
    Ok(pb::DefragmentResponse { header: None })
}

pub(super) async fn move_leader(
    client: &Client,
    request: pb::MoveLeaderRequest,
    _size: usize,
) -> Result<pb::MoveLeaderResponse, Status> {
    client.move_leader(request.target_id).await?;
    Ok(pb::MoveLeaderResponse { header: None })
}

pub(super) async fn downgrade(
    client: &Client,
    request: pb::DowngradeRequest,
    _size: usize,
) -> Result<pb::DowngradeResponse, Status> {
    const VALIDATE: i32 = pb::downgrade_request::DowngradeAction::Validate as i32;
    const ENABLE: i32 = pb::downgrade_request::DowngradeAction::Enable as i32;
    const CANCEL: i32 = pb::downgrade_request::DowngradeAction::Cancel as i32;
    let from = version::ETCD;
    let (head, ()) = match request.action {
        VALIDATE => client.downgrade_validate(from, &request.version).await?,
        ENABLE => client.downgrade_enable(from, &request.version).await?,
        CANCEL => client.downgrade_cancel().await?,
        _ => return Err(Status::new(Code::Unknown, "etcdserver: unknown method")),
    };
    Ok(pb::DowngradeResponse { header: header(head), version: version::ETCD.to_owned() })
}

pub(super) async fn alarm(
    client: &Client,
    request: pb::AlarmRequest,
    _size: usize,
) -> Result<pb::AlarmResponse, Status> {
    const GET: i32 = pb::alarm_request::AlarmAction::Get as i32;
    const ACTIVATE: i32 = pb::alarm_request::AlarmAction::Activate as i32;
    const DEACTIVATE: i32 = pb::alarm_request::AlarmAction::Deactivate as i32;
    let kind = match request.alarm {
        1 => Some(AlarmKind::NoSpace),
        2 => Some(AlarmKind::Corrupt),
        _ => None,
    };
    let action = match request.action {
        GET => None,
        ACTIVATE => Some(AlarmAction::Activate),
        DEACTIVATE => Some(AlarmAction::Deactivate),
        _ => return Err(Status::new(Code::Unknown, "etcdserver: unknown alarm action")),
    };
    let (head, alarms) = match (action, kind) {
        (None, kind) => client.alarms(kind)?,
        (Some(action), Some(kind)) => client.set_alarm(action, request.member_id, kind).await?,
        // The alarm "none" is neither raised nor cleared.
        (Some(_), None) => {
            client.permit(&Ask::Admin)?;
            (client.header_now(), Vec::new())
        }
    };
    let alarms = alarms
        .into_iter()
        .map(|(member_id, alarm)| pb::AlarmMember { member_id, alarm: alarm_number(alarm) })
        .collect();
    Ok(pb::AlarmResponse { header: header(head), alarms })
}

fn alarm_number(alarm: AlarmKind) -> i32 {
    match alarm {
        AlarmKind::NoSpace => pb::AlarmType::Nospace as i32,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt as i32,
    }
}

fn alarm_name(alarm: AlarmKind) -> &'static str {
    match alarm {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}
