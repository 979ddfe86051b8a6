//! `etcdserverpb.KV`: range, put, delete, transaction, compaction.

use bytes::Bytes;
use prost::Message as _;
use tripod_storage::mvcc::validate::Invalid;

use super::{super::proto::etcdserverpb::request_op, header, pb, undecodable};
use crate::{
    api::{convert, service::Status},
    client::{self, Budgeted, Client},
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
) -> Result<Budgeted<pb::DeleteRangeResponse>, Status> {
    let (head, Budgeted { answer, share }) =
        client.delete_range_budgeted(convert::delete_range(request)).await?;
    Ok(Budgeted { answer: convert::delete_range_response(header(head), answer), share })
}

/// What prost says of messages that are nested deeper than it follows, about 50 transactions.
const TOO_DEEP: &str = "recursion limit reached";

/// Reads a transaction. Nested deeper than the decoder goes it is also deeper than any that is run,
/// and gets the same answer, as from etcd, whose decoder has no bound.
pub(super) fn decode_txn(request: Bytes) -> Result<pb::TxnRequest, Status> {
    pb::TxnRequest::decode(request).map_err(|error| {
        let error = error.to_string();
        if error.ends_with(TOO_DEEP) {
            return client::Error::Invalid(Invalid::TooManyOps).into();
        }
        undecodable(&error)
    })
}

pub(super) async fn txn(
    client: &Client,
    request: pb::TxnRequest,
    size: usize,
) -> Result<Budgeted<pb::TxnResponse>, Status> {
    let serializable = request.success.iter().chain(&request.failure).all(|op| {
        matches!(&op.request, Some(request_op::Request::RequestRange(range)) if range.serializable)
    });
    let (head, Budgeted { answer, share }) =
        client.txn_budgeted(convert::txn(request), serializable, size).await?;
    Ok(Budgeted { answer: convert::txn_response(header(head), answer), share })
}

pub(super) async fn compact(
    client: &Client,
    request: pb::CompactionRequest,
    _size: usize,
) -> Result<pb::CompactionResponse, Status> {
    let (head, ()) = client.compact(request.revision, request.physical).await?;
    Ok(pb::CompactionResponse { header: header(head) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::service::Code;

    /// `core` inside of `depth` transactions.
    fn nested(depth: usize, core: &[u8]) -> Bytes {
        let wrapped = |tag: u8, body: Vec<u8>| {
            let mut out = vec![tag];
            prost::encoding::encode_varint(body.len() as u64, &mut out);
            out.extend(body);
            out
        };
        // `request_txn` of an operation, and that in `success`.
        (0..depth).fold(core.to_vec(), |body, _| wrapped(0x12, wrapped(0x22, body))).into()
    }

    /// Source: etcd 3.5.1.
    #[test]
    fn a_transaction_that_is_too_deep_to_read_has_too_many_operations() {
        assert!(decode_txn(nested(32, b"")).is_ok());
        for depth in [60, 129, 1_000, 20_000] {
            let status = decode_txn(nested(depth, b"")).unwrap_err();
            assert_eq!(status.code, Code::InvalidArgument, "{depth}");
            assert_eq!(status.message, "etcdserver: too many operations in txn request");
        }
        // Cut short is another thing.
        for bytes in [nested(3, b"\x12\xff"), Bytes::from_static(b"\x12\x05")] {
            let status = decode_txn(bytes).unwrap_err();
            assert_eq!(status.code, Code::Internal);
            assert!(status.message.starts_with("grpc: error unmarshalling request: "), "{status}");
        }
    }
}
