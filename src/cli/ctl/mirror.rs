//! make-mirror: copies a prefix to another cluster and follows its changes.
//!
//! Invariants:
//! - the changes of one revision arrive together, unless they are more than one transaction takes;
//! - a broken watch goes on behind the last revision that arrived; a write to the destination that
//!   may have been lost is sent again, as it changes nothing the second time.
//!
//! Leases are not mirrored. Source: etcdctl 3.5.1 and 3.6, observed.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::sleep;

use super::{
    Session,
    args::{Global, MirrorArgs},
    client::{Client, Effect, is_lost},
    exit::{Exit, FAILED, INTERRUPTED, status_text},
    kv::{FROM_KEY, prefix_end},
};
use crate::api::proto::{
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
        WatchRequest, WatchResponse, kv_client::KvClient, request_op::Request,
        watch_client::WatchClient, watch_request::RequestUnion,
    },
    mvccpb::{Event, event::EventType},
};

/// Pairs read from the source at once.
const PAGE_KEYS: i64 = 256;
/// Bytes of pairs copied in one transaction, well below what a server takes.
const TXN_BYTES: usize = 512 << 10;
/// Time between lines that tell the number of pairs mirrored.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// Pause before a broken stream is opened again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What is copied, and where to.
struct Mirror<'a> {
    source: &'a Client,
    target: Client,
    prefix: Bytes,
    /// Replaces the prefix.
    target_prefix: Bytes,
    ops_max: usize,
    /// Pairs put so far.
    total: Cell<u64>,
}

/// Runs until interrupted.
pub(super) async fn run(session: &Session, global: &Global, args: MirrorArgs) -> Result<(), Exit> {
    let [destination] = args.destination.args.as_slice() else {
        return Err(Exit::args("make-mirror takes one destination argument"));
    };
    if args.no_dest_prefix && !args.dest_prefix.is_empty() {
        return Err(Exit::args(
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        ));
    }
    let of_target = Global {
        endpoints: vec![destination.clone()],
        user: args.dest_user.clone(),
        password: args.dest_password.clone(),
        cacert: args.dest_cacert.clone(),
        cert: args.dest_cert.clone(),
        key: args.dest_key.clone(),
        ..global.clone()
    };
    let prefix = Bytes::from(args.prefix.into_bytes());
    let target_prefix = match (args.no_dest_prefix, args.dest_prefix.is_empty()) {
        (true, _) => Bytes::new(),
        (false, true) => prefix.clone(),
        (false, false) => args.dest_prefix.into_bytes().into(),
    };
    let mirror = Mirror {
        source: &session.client,
        target: Client::new(&of_target, false)?,
        prefix,
        target_prefix,
        ops_max: usize::try_from(args.max_txn_ops).unwrap_or(usize::MAX).max(1),
        total: Cell::new(0),
    };
    tokio::select! {
        ended = mirror.run(args.rev) => ended,
        ended = mirror.report() => ended,
    }
}

impl Mirror<'_> {
    async fn run(&self, first: i64) -> Result<(), Exit> {
        let mut next = if first > 1 { first } else { self.copy().await? + 1 };
        loop {
            match self.follow(&mut next).await {
                Ok(why) => {
                    self.source.give_up(why);
                    sleep(RETRY_PAUSE).await;
                }
                Err(exit) => return Err(exit),
            }
        }
    }

    /// One line with the number of pairs, now and then.
    async fn report(&self) -> Result<(), Exit> {
        loop {
            sleep(REPORT_EVERY).await;
            super::write(format!("{}\n", self.total.get()).as_bytes())?;
        }
    }

    /// First key and end of what is mirrored.
    fn range(&self) -> (Bytes, Bytes) {
        if self.prefix.is_empty() {
            (Bytes::from_static(FROM_KEY), Bytes::from_static(FROM_KEY))
        } else {
            (self.prefix.clone(), prefix_end(&self.prefix))
        }
    }

    /// Copies what is there now; the revision of it.
    async fn copy(&self) -> Result<i64, Exit> {
        let (mut key, range_end) = self.range();
        let mut revision = 0;
        loop {
            let request = RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: PAGE_KEYS,
                revision,
                ..RangeRequest::default()
            };
            let page = self.source.call(Effect::Reads, async |connection| {
                KvClient::new(connection)
                    .max_decoding_message_size(usize::MAX)
                    .range(request.clone())
                    .await
            });
            let page = page.await?;
            if revision == 0 {
                revision = page.header.map(|header| header.revision).unwrap_or_default();
            }
            let last = page.kvs.last().map(|pair| pair.key.clone());
            let (mut ops, mut bytes) = (Vec::new(), 0);
            for pair in page.kvs {
                let more = pair.key.len() + pair.value.len();
                let is_full = ops.len() >= self.ops_max || bytes + more > TXN_BYTES;
                if is_full && !ops.is_empty() {
                    self.commit(std::mem::take(&mut ops)).await?;
                    bytes = 0;
                }
                bytes += more;
                ops.push(self.put(&pair.key, pair.value));
            }
            if !ops.is_empty() {
                self.commit(ops).await?;
            }
            let Some(last) = last.filter(|_| page.more) else { return Ok(revision) };
            key = [&last[..], &[0]].concat().into();
        }
    }

    /// Follows changes from `next` on; returns why the stream broke.
    async fn follow(&self, next: &mut i64) -> Result<String, Exit> {
        let connection = self.source.dial().await?;
        let (key, range_end) = self.range();
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: *next,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // One request, and then a stream that stays open.
        let requests = futures::stream::iter([request]).chain(futures::stream::pending());
        let mut client = WatchClient::new(connection).max_decoding_message_size(usize::MAX);
        let opened = client.watch(requests).await;
        let mut answers = match opened {
            Ok(answers) => answers.into_inner(),
            Err(status) if is_lost(&status) => return Ok(status_text(&status)),
            Err(status) => return Err(status.into()),
        };
        loop {
            match answers.message().await {
                Ok(Some(answer)) => self.apply(answer, next).await?,
                Ok(None) => return Ok("the server ended the stream".to_owned()),
                Err(status) if is_lost(&status) => return Ok(status_text(&status)),
                Err(status) => return Err(status.into()),
            }
        }
    }

    async fn apply(&self, answer: WatchResponse, next: &mut i64) -> Result<(), Exit> {
        if answer.compact_revision != 0 {
            let text = "etcdserver: mvcc: required revision has been compacted; begin anew \
                        without --rev";
            return Err(Exit::new(INTERRUPTED, text));
        }
        if answer.canceled {
            return Err(Exit::new(INTERRUPTED, "watch is canceled by the server"));
        }
        let mut ops = Vec::new();
        for event in answer.events {
            let revision = event.kv.as_ref().map(|pair| pair.mod_revision).unwrap_or_default();
            if revision >= *next && !ops.is_empty() || ops.len() >= self.ops_max {
                self.commit(std::mem::take(&mut ops)).await?;
            }
            ops.extend(self.operation(event));
            *next = revision + 1;
        }
        if ops.is_empty() { Ok(()) } else { self.commit(ops).await }
    }

    fn operation(&self, event: Event) -> Option<RequestOp> {
        let is_delete = event.r#type() == EventType::Delete;
        let pair = event.kv?;
        if is_delete {
            let delete = DeleteRangeRequest {
                key: self.renamed(&pair.key),
                ..DeleteRangeRequest::default()
            };
            return Some(RequestOp { request: Some(Request::RequestDeleteRange(delete)) });
        }
        Some(self.put(&pair.key, pair.value))
    }

    fn put(&self, key: &[u8], value: Bytes) -> RequestOp {
        self.total.set(self.total.get() + 1);
        let put = PutRequest { key: self.renamed(key), value, ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn renamed(&self, key: &[u8]) -> Bytes {
        renamed(key, &self.prefix, &self.target_prefix)
    }

    async fn commit(&self, success: Vec<RequestOp>) -> Result<(), Exit> {
        let request = TxnRequest { success, ..TxnRequest::default() };
        // Only this writes there, so a second time does nothing that the first did not.
        let committed = self.target.call(Effect::Reads, async |connection| {
            KvClient::new(connection).txn(request.clone()).await
        });
        committed.await.map(drop).map_err(|exit| {
            Exit::new(FAILED, format!("cannot write to the destination: {}", exit.message))
        })
    }
}

/// `key` with another prefix.
fn renamed(key: &[u8], prefix: &[u8], target: &[u8]) -> Bytes {
    let rest = key.strip_prefix(prefix).unwrap_or(key);
    [target, rest].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_changes_its_prefix_and_nothing_else() {
        let cases: [(&str, &str, &str, &str); 4] = [
            ("a/b/a/", "a/", "x/", "x/b/a/"),
            ("a/b", "a/", "a/", "a/b"),
            ("a/b", "a/", "", "b"),
            ("b", "", "z", "zb"),
        ];
        for (key, prefix, target, want) in cases {
            assert_eq!(renamed(key.as_bytes(), prefix.as_bytes(), target.as_bytes()), want);
        }
    }
}
