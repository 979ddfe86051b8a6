//! `etcdserverpb.KV`: range, put, delete, transaction, compaction.

use super::{super::proto::etcdserverpb::request_op, header, pb};
use crate::{
    api::{convert, service::Status},
    client::{Budgeted, Client},
};

pub(super) async fn range(
    client: &Client,
    request: pb::RangeRequest,
    _size: usize,
) -> Result<Budgeted<pb::RangeResponse>, Status> {
    let serializable = request.serializable;
    let (head, Budgeted { answer, share }) =
        client.range_budgeted(convert::range(request), serializable).await?;
    Ok(Budgeted { answer: convert::range_response(header(head), answer), share })
}

pub(super) async fn put(
    client: &Client,
    request: pb::PutRequest,
    _size: usize,
) -> Result<pb::PutResponse, Status> {
    let (head, response) = client.put(convert::put(request)).await?;
    Ok(convert::put_response(header(head), response))
}

pub(super) async fn delete_range(
    client: &Client,
    request: pb::DeleteRangeRequest,
    _size: usize,
) -> Result<pb::DeleteRangeResponse, Status> {
    let (head, response) = client.delete_range(convert::delete_range(request)).await?;
    Ok(convert::delete_range_response(header(head), response))
}

pub(super) async fn txn(
    client: &Client,
    request: pb::TxnRequest,
    size: usize,
) -> Result<pb::TxnResponse, Status> {
    let serializable = request.success.iter().chain(&request.failure).all(|op| {
        matches!(&op.request, Some(request_op::Request::RequestRange(range)) if range.serializable)
    });
    let (head, response) = client.txn(convert::txn(request), serializable, size).await?;
    Ok(convert::txn_response(header(head), response))
}

pub(super) async fn compact(
    client: &Client,
    request: pb::CompactionRequest,
    _size: usize,
) -> Result<pb::CompactionResponse, Status> {
    let (head, ()) = client.compact(request.revision, request.physical).await?;
    Ok(pb::CompactionResponse { header: header(head) })
}
