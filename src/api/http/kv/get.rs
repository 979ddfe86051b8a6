//! Reads: one value, or a list.

use hyper::{
    Response, StatusCode,
    header::{self, HeaderValue},
};

use super::{Answered, Call, Gateway, Refusal, answer, kv_json, set, set_etag};
use crate::api::{
    proto::{etcdserverpb as pb, mvccpb::KeyValue},
    service::HttpBody,
};

/// Keys in one list, where the request names no limit.
const LIST_KEYS_DEFAULT: i64 = 10_000;

const RANGE: &str = "/etcdserverpb.KV/Range";
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl Gateway {
    /// The value of a key.
    pub(super) async fn kv_get(&self, call: &Call) -> Answered {
        if call.params.limit.is_some() || call.params.keys_only {
            return Err(Refusal::bad("limit and keys_only go with prefix"));
        }
        let request = pb::RangeRequest {
            key: call.key.clone(),
            revision: call.params.revision.unwrap_or(0),
            serializable: call.params.serializable,
            ..Default::default()
        };
        let found: pb::RangeResponse = self.kv_call(RANGE, &request, &call.context).await?;
        let revision = found.header.map_or(0, |header| header.revision);
        let mut response = match found.kvs.into_iter().next() {
            Some(kv) => one(call, kv),
            None => answer::text(StatusCode::NOT_FOUND, "no such key"),
        };
        set(&mut response, "x-revision", revision);
        Ok(response)
    }

    /// The keys that begin with a prefix.
    pub(super) async fn kv_list(&self, call: &Call) -> Answered {
        let (key, range_end) = call.range();
        let json = call.wants_json();
        let request = pb::RangeRequest {
            key,
            range_end,
            revision: call.params.revision.unwrap_or(0),
            serializable: call.params.serializable,
            limit: call.params.limit.unwrap_or(LIST_KEYS_DEFAULT),
            keys_only: call.params.keys_only || !json,
            ..Default::default()
        };
        let found: pb::RangeResponse = self.kv_call(RANGE, &request, &call.context).await?;
        let revision = found.header.map_or(0, |header| header.revision);
        let mut body = Vec::new();
        let mut response = if json {
            let (count, more) = (found.count, found.more);
            let head =
                format!("{{\"revision\":{revision},\"count\":{count},\"more\":{more},\"kvs\":[");
            body.extend_from_slice(head.as_bytes());
            for (at, kv) in found.kvs.iter().enumerate() {
                if at > 0 {
                    body.push(b',');
                }
                kv_json::put_pair(&mut body, kv, !call.params.keys_only);
            }
            body.extend_from_slice(b"]}\n");
            answer::json(StatusCode::OK, body)
        } else {
            for kv in &found.kvs {
                kv_json::put_line(&mut body, &kv.key);
            }
            answer::plain(StatusCode::OK, String::from_utf8_lossy(&body).into_owned())
        };
        set(&mut response, "x-revision", revision);
        set(&mut response, "x-count", found.count);
        if found.more {
            response.headers_mut().insert("x-more", HeaderValue::from_static("true"));
        }
        Ok(response)
    }
}

/// A pair: the value as the body, the rest as headers.
fn one(call: &Call, kv: KeyValue) -> Response<HttpBody> {
    let etag = format!("\"{}\"", kv.mod_revision);
    let known = call.headers.get(header::IF_NONE_MATCH);
    let is_known = known.is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let mut response = if is_known {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else if call.wants_json() {
        let mut body = Vec::new();
        kv_json::put_pair(&mut body, &kv, true);
        body.push(b'\n');
        answer::json(StatusCode::OK, body)
    } else {
        let mut response = answer::full(StatusCode::OK, kv.value);
        response.headers_mut().insert(header::CONTENT_TYPE, BYTES);
        response
    };
    set_etag(&mut response, kv.mod_revision);
    set(&mut response, "x-mod-revision", kv.mod_revision);
    set(&mut response, "x-create-revision", kv.create_revision);
    set(&mut response, "x-version", kv.version);
    set(&mut response, "x-lease", kv.lease);
    response
}
