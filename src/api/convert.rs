//! Wire messages to internal types and back. No decisions here: validation and meaning live in
//! `tripod_storage::mvcc` and in [`crate::client`].

use tripod_storage::{
    KeyValue,
    command::{
        Compare, CompareTarget, DeleteRange, DeleteRangeResponse, Put, PutResponse, Range,
        RangeResponse, Txn, TxnOp, TxnOpResponse, TxnResponse,
    },
};

use super::proto::{
    etcdserverpb::{self as pb, compare::TargetUnion, request_op, response_op},
    mvccpb,
};

/// Headers of nested answers carry only a revision.
fn revision_header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

/// A stored version on the wire.
pub(super) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// A range request; `serializable` is read by the caller.
pub(super) fn range(request: pb::RangeRequest) -> Range {
    Range {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order: request.sort_order,
        sort_target: request.sort_target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    }
}

/// A put request.
pub(super) fn put(request: pb::PutRequest) -> Put {
    Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

/// A delete request.
pub(super) fn delete_range(request: pb::DeleteRangeRequest) -> DeleteRange {
    DeleteRange { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv }
}

/// A transaction with everything nested in it.
pub(super) fn txn(request: pb::TxnRequest) -> Txn {
    Txn {
        compare: request.compare.into_iter().map(compare).collect(),
        success: request.success.into_iter().map(op).collect(),
        failure: request.failure.into_iter().map(op).collect(),
    }
}

fn compare(request: pb::Compare) -> Compare {
    let int = || match request.target_union {
        Some(
            TargetUnion::Version(n)
            | TargetUnion::CreateRevision(n)
            | TargetUnion::ModRevision(n)
            | TargetUnion::Lease(n),
        ) => n,
        _ => 0,
    };
    // An operand of another target's field counts as absent, which is 0 or empty.
    let target = match (request.target, &request.target_union) {
        (0, Some(TargetUnion::Version(_)) | None) => CompareTarget::Version(int()),
        (0, _) => CompareTarget::Version(0),
        (1, Some(TargetUnion::CreateRevision(_)) | None) => CompareTarget::Create(int()),
        (1, _) => CompareTarget::Create(0),
        (2, Some(TargetUnion::ModRevision(_)) | None) => CompareTarget::Mod(int()),
        (2, _) => CompareTarget::Mod(0),
        (3, Some(TargetUnion::Value(value))) => CompareTarget::Value(value.clone()),
        (3, _) => CompareTarget::Value(bytes::Bytes::new()),
        (4, Some(TargetUnion::Lease(_)) | None) => CompareTarget::Lease(int()),
        (4, _) => CompareTarget::Lease(0),
        _ => CompareTarget::Unknown,
    };
    Compare { result: request.result, target, key: request.key, range_end: request.range_end }
}

fn op(request: pb::RequestOp) -> TxnOp {
    match request.request {
        Some(request_op::Request::RequestRange(r)) => TxnOp::Range(range(r)),
        Some(request_op::Request::RequestPut(r)) => TxnOp::Put(put(r)),
        Some(request_op::Request::RequestDeleteRange(r)) => TxnOp::DeleteRange(delete_range(r)),
        Some(request_op::Request::RequestTxn(r)) => TxnOp::Txn(txn(r)),
        None => TxnOp::Empty,
    }
}

/// The answer of a range, under `header`.
pub(super) fn range_response(
    header: Option<pb::ResponseHeader>,
    response: RangeResponse,
) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: response.kvs.into_iter().map(key_value).collect(),
        more: response.more,
        count: response.count,
    }
}

/// The answer of a put, under `header`.
pub(super) fn put_response(
    header: Option<pb::ResponseHeader>,
    response: PutResponse,
) -> pb::PutResponse {
    pb::PutResponse { header, prev_kv: response.prev_kv.map(key_value) }
}

/// The answer of a delete, under `header`.
pub(super) fn delete_range_response(
    header: Option<pb::ResponseHeader>,
    response: DeleteRangeResponse,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header,
        deleted: response.deleted,
        prev_kvs: response.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// The answer of a transaction, under `header`. A nested transaction has an empty header, as in
/// etcd; its operations carry their revision.
pub(super) fn txn_response(
    header: Option<pb::ResponseHeader>,
    response: TxnResponse,
) -> pb::TxnResponse {
    pb::TxnResponse {
        header,
        succeeded: response.succeeded,
        responses: response.responses.into_iter().map(op_response).collect(),
    }
}

fn op_response(response: TxnOpResponse) -> pb::ResponseOp {
    use response_op::Response;
    let response = match response {
        TxnOpResponse::Range(r) => {
            Response::ResponseRange(range_response(revision_header(r.revision), r))
        }
        TxnOpResponse::Put(r) => {
            Response::ResponsePut(put_response(revision_header(r.revision), r))
        }
        TxnOpResponse::DeleteRange(r) => {
            Response::ResponseDeleteRange(delete_range_response(revision_header(r.revision), r))
        }
        TxnOpResponse::Txn(r) => {
            Response::ResponseTxn(txn_response(Some(pb::ResponseHeader::default()), r))
        }
    };
    pb::ResponseOp { response: Some(response) }
}
