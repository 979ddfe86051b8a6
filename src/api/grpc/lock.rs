//! `v3lockpb.Lock`.

use crate::{
    api::{
        proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse},
        service::{Code, Status},
    },
    client::{self, Client},
};

use super::header;

/// Failures of locks and elections: etcd's services are clients of their own server and pass its
/// errors on as plain texts, so every one has the code Unknown. What a member refuses before a
/// service sees the call keeps its code.
pub(super) fn plain(error: client::Error) -> Status {
    match error {
        client::Error::Learner => error.into(),
        error => Status::new(Code::Unknown, error.to_string()),
    }
}

pub(super) async fn lock(
    client: &Client,
    request: LockRequest,
    _size: usize,
) -> Result<LockResponse, Status> {
    let (head, key) = client.lock(&request.name, request.lease).await.map_err(plain)?;
    Ok(LockResponse { header: header(head), key })
}

pub(super) async fn unlock(
    client: &Client,
    request: UnlockRequest,
    _size: usize,
) -> Result<UnlockResponse, Status> {
    let (head, ()) = client.unlock(request.key).await.map_err(plain)?;
    Ok(UnlockResponse { header: header(head) })
}
