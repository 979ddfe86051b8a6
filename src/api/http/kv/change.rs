//! Writes and deletions, conditional on the version a client has seen.

use hyper::{HeaderMap, StatusCode, header};

use super::{Answered, Call, Gateway, Refusal, answer, set, set_etag};
use crate::api::{
    http::body::{self, BodyError},
    proto::etcdserverpb::{
        self as pb,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op, response_op,
    },
    service::HttpBody,
};

const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// What must hold before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The key's newest version is of this revision.
    Is(i64),
    /// The key is there.
    Exists,
    /// The key is not there.
    Absent,
}

impl Condition {
    /// Reads `If-Match` and `If-None-Match`.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.as_bytes());
        match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
            (None, None) => Ok(None),
            (Some(b"*"), None) => Ok(Some(Self::Exists)),
            (None, Some(b"*")) => Ok(Some(Self::Absent)),
            (Some(tag), None) => {
                let tag = std::str::from_utf8(tag).unwrap_or_default();
                let number = tag.trim_matches('"').parse().ok().filter(|number| *number > 0);
                let number = number.ok_or_else(|| {
                    Refusal::bad("If-Match is \"MOD_REVISION\" as ETag gave it, or *")
                })?;
                Ok(Some(Self::Is(number)))
            }
            _ => Err(Refusal::bad("one of If-Match and If-None-Match: * is allowed")),
        }
    }

    fn compare(self, key: bytes::Bytes) -> pb::Compare {
        let (result, revision) = match self {
            Self::Is(revision) => (CompareResult::Equal, revision),
            Self::Exists => (CompareResult::Greater, 0),
            Self::Absent => (CompareResult::Equal, 0),
        };
        pb::Compare {
            result: result.into(),
            target: CompareTarget::Mod.into(),
            key,
            range_end: bytes::Bytes::new(),
            target_union: Some(TargetUnion::ModRevision(revision)),
        }
    }
}

impl Gateway {
    /// Writes the body as the value.
    pub(super) async fn kv_put(&self, call: &Call, mut body: HttpBody) -> Answered {
        let condition = Condition::of(&call.headers)?;
        let limit = self.config.max_request_bytes;
        let value = match body::collect(&mut body, limit).await {
            Ok(value) => value,
            Err(BodyError::TooLarge(_)) => {
                body::discard(&mut body).await;
                let text = "etcdserver: request is too large";
                return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, text.to_owned()));
            }
            Err(BodyError::Broken(error)) => return Err(Refusal::bad(error.to_string())),
        };
        let key = call.key.clone();
        let put = pb::PutRequest { key, value, lease: call.params.lease, ..Default::default() };
        let revision = match condition {
            None => {
                let done: pb::PutResponse = self.kv_call(PUT, &put, &call.context).await?;
                done.header.map_or(0, |header| header.revision)
            }
            Some(condition) => {
                self.kv_if(call, condition, request_op::Request::RequestPut(put)).await?
            }
        };
        let mut response = answer::empty(StatusCode::NO_CONTENT);
        set_etag(&mut response, revision);
        set(&mut response, "x-revision", revision);
        Ok(response)
    }

    /// Deletes a key, or all that begin with it.
    pub(super) async fn kv_delete(&self, call: &Call) -> Answered {
        let condition = Condition::of(&call.headers)?;
        let (key, range_end) = call.range();
        let delete = pb::DeleteRangeRequest { key, range_end, ..Default::default() };
        let (deleted, revision) = match condition {
            Some(_) if call.params.prefix => {
                return Err(Refusal::bad("a prefix cannot be deleted under a condition"));
            }
            Some(condition) => {
                let delete = request_op::Request::RequestDeleteRange(delete);
                (1, self.kv_if(call, condition, delete).await?)
            }
            None => {
                let done: pb::DeleteRangeResponse =
                    self.kv_call(DELETE, &delete, &call.context).await?;
                (done.deleted, done.header.map_or(0, |header| header.revision))
            }
        };
        let mut response = if deleted == 0 && !call.params.prefix {
            answer::text(StatusCode::NOT_FOUND, "no such key")
        } else {
            answer::plain(StatusCode::OK, format!("{deleted}\n"))
        };
        set(&mut response, "x-deleted", deleted);
        set(&mut response, "x-revision", revision);
        Ok(response)
    }

    /// A change under a condition; the revision it took.
    async fn kv_if(
        &self,
        call: &Call,
        condition: Condition,
        change: request_op::Request,
    ) -> Result<i64, Refusal> {
        let op = |request| pb::RequestOp { request: Some(request) };
        let look =
            pb::RangeRequest { key: call.key.clone(), keys_only: true, ..Default::default() };
        let txn = pb::TxnRequest {
            compare: vec![condition.compare(call.key.clone())],
            success: vec![op(change)],
            failure: vec![op(request_op::Request::RequestRange(look))],
        };
        let done: pb::TxnResponse = self.kv_call(TXN, &txn, &call.context).await?;
        if done.succeeded {
            return Ok(done.header.map_or(0, |header| header.revision));
        }
        let have = done.responses.into_iter().find_map(|op| match op.response {
            Some(response_op::Response::ResponseRange(range)) => {
                Some(range.kvs.first().map_or(0, |kv| kv.mod_revision))
            }
            _ => None,
        });
        let text = match have {
            Some(have) if have > 0 => {
                format!("the key is at mod_revision {have} now: read it and try again")
            }
            _ => "there is no such key".to_owned(),
        };
        Err(Refusal(StatusCode::PRECONDITION_FAILED, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_from_the_two_headers() {
        for (if_match, if_none_match, want) in [
            (None, None, Ok(None)),
            (Some("\"7\""), None, Ok(Some(Condition::Is(7)))),
            (Some("7"), None, Ok(Some(Condition::Is(7)))),
            (Some("*"), None, Ok(Some(Condition::Exists))),
            (None, Some("*"), Ok(Some(Condition::Absent))),
            (None, Some("\"7\""), Err(())),
            (Some("\"0\""), None, Err(())),
            (Some("\"1\", \"2\""), None, Err(())),
            (Some("*"), Some("*"), Err(())),
        ] {
            let mut headers = HeaderMap::new();
            for (name, text) in
                [(header::IF_MATCH, if_match), (header::IF_NONE_MATCH, if_none_match)]
            {
                if let Some(text) = text {
                    headers.insert(name, header::HeaderValue::from_static(text));
                }
            }
            let got = Condition::of(&headers).map_err(|_| ());
            assert_eq!(got, want, "{if_match:?} {if_none_match:?}");
        }
    }
}
