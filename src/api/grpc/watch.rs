//! `etcdserverpb.Watch`: control messages in, answers out, split into fragments where asked.

use std::{rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use tokio::sync::mpsc;
use tripod_storage::{
    KeyValue,
    command::{Event, EventKind},
};

use super::{
    super::proto::{etcdserverpb::watch_request::RequestUnion, mvccpb},
    Shared, decode, encode, header, pb,
};
use crate::{
    api::{
        convert,
        service::{CallContext, Status, Tap},
    },
    client::{
        self, Headers,
        watch::{
            hub::Filters,
            mailbox::{Direct, Offer, SharedEvent},
            session::{Message, NO_WATCHER, Session, WatchRequest},
        },
    },
};

/// An answer above this size waits until the client has taken all before it.
const LARGE_ANSWER_BYTES: usize = 4 << 10;
/// `WatchResponse.watch_id` on the wire.
const WATCH_ID_FIELD: u32 = 2;
/// `WatchResponse.events` on the wire.
const EVENTS_FIELD: u32 = 11;

/// The longest varint.
const MAX_VARINT_BYTES: usize = 10;

/// Serves one watch stream until the client is gone. A half-closed request side leaves the
/// watchers alive: clients of the JSON gateway send one request and listen.
pub(super) async fn run(
    rpc: Rc<Shared>,
    mut requests: mpsc::Receiver<Bytes>,
    responses: mpsc::Sender<Bytes>,
    context: CallContext,
) -> Result<(), Status> {
    let require_leader = context.require_leader;
    let interval = rpc.options.watch_progress_interval;
    let mut session = rpc.client.watch_session(interval);
    if let Some(tap) = context.tap.clone() {
        session.send_through(Box::new(Tapped { tap, headers: rpc.client.headers() }));
    }
    let mut open = true;
    // Made once: a delivery only looks at them again.
    let (leader_lost, closed) = (rpc.client.leader_lost(), responses.closed());
    tokio::pin!(leader_lost, closed);
    let mut answers = Vec::new();
    loop {
        tokio::select! {
            request = requests.recv(), if open => match request {
                Some(request) => {
                    session.act_for(rpc.caller(&context).await);
                    control(&mut session, decode(request)?);
                }
                None => open = false,
            },
            message = session.next() => {
                write_answers(&rpc, message, &mut answers);
                for answer in answers.drain(..) {
                    if !send(&responses, answer).await {
                        return Ok(());
                    }
                }
            }
            () = &mut closed => return Ok(()),
            () = &mut leader_lost, if require_leader => {
                return Err(client::Error::NoLeader.into());
            }
        }
    }
}

/// Sends an answer; false when the client is gone. A large one goes alone, so that a client who
/// does not read holds one of them and not a whole channel full.
async fn send(responses: &mpsc::Sender<Bytes>, answer: Bytes) -> bool {
    if answer.len() <= LARGE_ANSWER_BYTES {
        return match responses.try_send(answer) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(answer)) => responses.send(answer).await.is_ok(),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        };
    }
    match responses.reserve_many(responses.max_capacity()).await {
        Ok(mut places) => {
            if let Some(place) = places.next() {
                place.send(answer);
            }
            true
        }
        Err(_) => false,
    }
}

fn control(session: &mut Session, request: pb::WatchRequest) {
    match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => session.create(watch_request(create)),
        Some(RequestUnion::CancelRequest(cancel)) => session.cancel(cancel.watch_id),
        Some(RequestUnion::ProgressRequest(_)) => session.request_progress(),
        None => {}
    }
}

fn watch_request(create: pb::WatchCreateRequest) -> WatchRequest {
    WatchRequest {
        key: create.key,
        range_end: create.range_end,
        start_revision: create.start_revision,
        watch_id: create.watch_id,
        prev_kv: create.prev_kv,
        progress_notify: create.progress_notify,
        filters: Filters {
            no_put: create.filters.contains(&0),
            no_delete: create.filters.contains(&1),
        },
        fragment: create.fragment,
    }
}

/// One message of the session as wire messages: one, or several fragments.
fn write_answers(rpc: &Shared, message: Message, answers: &mut Vec<Bytes>) {
    let head = |revision| header(rpc.client.header(revision));
    let answer = match message {
        Message::Created { watch_id, revision } => pb::WatchResponse {
            header: head(revision),
            watch_id,
            created: true,
            ..Default::default()
        },
        Message::Refused { revision, reason } => pb::WatchResponse {
            header: head(revision),
            watch_id: NO_WATCHER,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        },
        Message::Canceled { watch_id, revision, compact_revision } => pb::WatchResponse {
            header: head(revision),
            watch_id,
            canceled: true,
            compact_revision,
            ..Default::default()
        },
        Message::Progress { watch_id, revision } => {
            pb::WatchResponse { header: head(revision), watch_id, ..Default::default() }
        }
        Message::Events { watch_id, revision, events, prev_kvs, fragment } => {
            let limit = if fragment { rpc.options.watch_fragment_bytes } else { usize::MAX };
            let envelope =
                pb::WatchResponse { header: head(revision), watch_id, ..Default::default() };
            return event_answers(envelope, &events, prev_kvs, limit, answers);
        }
    };
    answers.push(encode(&answer));
}

/// Encodes `events` under `envelope`, starting a new fragment before `limit` bytes would be
/// passed; every fragment but the last says so.
fn event_answers(
    mut envelope: pb::WatchResponse,
    events: &[Arc<SharedEvent>],
    prev_kvs: Vec<Option<KeyValue>>,
    limit: usize,
    answers: &mut Vec<Bytes>,
) {
    if let ([shared], []) = (events, prev_kvs.as_slice()) {
        return answers.push(answer_with_events(&envelope, &[shared_bytes(shared)]));
    }
    let own: Vec<Bytes> = (events.iter().zip(prev_kvs))
        .map(|(shared, prev_kv)| encode(&event(&shared.event, prev_kv)))
        .collect();
    let encoded: Vec<&Bytes> = if own.is_empty() {
        events.iter().map(|shared| shared_bytes(shared)).collect()
    } else {
        own.iter().collect()
    };
    let (mut start, mut size) = (0, 0);
    envelope.fragment = true;
    for (at, bytes) in encoded.iter().enumerate() {
        if at > start && size + bytes.len() > limit {
            answers.push(answer_with_events(&envelope, &encoded[start..at]));
            (start, size) = (at, 0);
        }
        size += bytes.len();
    }
    envelope.fragment = false;
    answers.push(answer_with_events(&envelope, &encoded[start..]));
}

/// The way of small events around their stream: many watchers of a key get bytes that differ in
/// the watcher's id only.
#[derive(Debug)]
struct Tapped {
    tap: Arc<Tap>,
    headers: Headers,
}

impl Direct for Tapped {
    fn send(&self, watch_id: i64, offer: &Offer<'_>) -> bool {
        let (before, after) = offer
            .wire
            .get_or_init(|| around_id(header(self.headers.at(offer.revision)), offer.events));
        after.len() <= LARGE_ANSWER_BYTES
            && self.tap.leave(|out| put_around_id(watch_id, before, after, out))
    }
}

/// What comes before and after the watcher's id in an answer with `events`.
fn around_id(header: Option<pb::ResponseHeader>, events: &[Arc<SharedEvent>]) -> (Bytes, Bytes) {
    let events: Vec<&Bytes> = events.iter().map(|shared| shared_bytes(shared)).collect();
    let before = pb::WatchResponse { header, ..Default::default() };
    (encode(&before), answer_with_events(&pb::WatchResponse::default(), &events))
}

/// Adds a whole answer to `out`. An id of 0 is left out, as everywhere in protobuf.
fn put_around_id(watch_id: i64, before: &[u8], after: &[u8], out: &mut Vec<u8>) {
    out.reserve(before.len() + 1 + MAX_VARINT_BYTES + after.len());
    out.extend_from_slice(before);
    if watch_id != 0 {
        prost::encoding::int64::encode(WATCH_ID_FIELD, &watch_id, out);
    }
    out.extend_from_slice(after);
}

/// The encoding of an event without the version before it, made for the first who needs it.
fn shared_bytes(shared: &SharedEvent) -> &Bytes {
    shared.wire.get_or_init(|| encode(&event(&shared.event, None)))
}

/// Appends already encoded events to an encoded envelope: protobuf fields concatenate.
fn answer_with_events(envelope: &pb::WatchResponse, events: &[&Bytes]) -> Bytes {
    let event_bytes: usize =
        events.iter().map(|event| 1 + encoded_len_varint(event.len() as u64) + event.len()).sum();
    let mut out = BytesMut::with_capacity(envelope.encoded_len() + event_bytes);
    envelope.encode_raw(&mut out);
    for event in events {
        encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut out);
        encode_varint(event.len() as u64, &mut out);
        out.extend_from_slice(event);
    }
    out.freeze()
}

fn event(event: &Event, prev_kv: Option<KeyValue>) -> mvccpb::Event {
    mvccpb::Event {
        r#type: match event.kind {
            EventKind::Put => mvccpb::event::EventType::Put as i32,
            EventKind::Delete => mvccpb::event::EventType::Delete as i32,
        },
        kv: Some(convert::key_value(event.kv.clone())),
        prev_kv: prev_kv.map(convert::key_value),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key_value() -> impl Strategy<Value = KeyValue> {
        let bytes = prop::collection::vec(any::<u8>(), 0..40);
        (bytes.clone(), bytes, 0_i64..99, 0_i64..99).prop_map(|(key, value, version, lease)| {
            let (create_revision, mod_revision) = (version + 1, version + 7);
            let (key, value) = (key.into(), value.into());
            KeyValue { key, value, create_revision, mod_revision, version, lease }
        })
    }

    /// The answer as the whole message that its parts must add up to.
    fn plain(envelope: &pb::WatchResponse, events: Vec<mvccpb::Event>) -> pb::WatchResponse {
        pb::WatchResponse { events, ..envelope.clone() }
    }

    proptest! {
        #[test]
        fn shared_encodings_make_the_messages_that_plain_encoding_makes(
            kvs in prop::collection::vec((key_value(), any::<bool>()), 1..6),
            prev in prop::option::of(prop::option::of(key_value())),
            limit in prop::option::of(0_usize..300),
            watch_id in prop_oneof![0_i64..1000, any::<i64>()],
        ) {
            let events: Vec<Arc<SharedEvent>> = (kvs.into_iter())
                .map(|(kv, is_put)| {
                    let kind = if is_put { EventKind::Put } else { EventKind::Delete };
                    Arc::new(SharedEvent::from(Arc::new(Event { kind, kv, prev_kv: None })))
                })
                .collect();
            let prev_kvs = prev.map_or(vec![], |prev| vec![prev; events.len()]);
            let header = pb::ResponseHeader { cluster_id: 1, revision: 9, ..Default::default() };
            let envelope =
                pb::WatchResponse { header: Some(header), watch_id, ..Default::default() };
            let limit = limit.unwrap_or(usize::MAX);
            if prev_kvs.is_empty() {
                let (before, after) = around_id(envelope.header, &events);
                let mut around = vec![];
                put_around_id(watch_id, &before, &after, &mut around);
                let whole = events.iter().map(|shared| event(&shared.event, None)).collect();
                prop_assert_eq!(around, encode(&plain(&envelope, whole)));
            }
            // Twice, since the first time fills what is shared.
            for _ in 0..2 {
                let mut answers = vec![];
                event_answers(envelope.clone(), &events, prev_kvs.clone(), limit, &mut answers);
                let mut wanted = events.iter().enumerate().map(|(at, shared)| {
                    event(&shared.event, prev_kvs.get(at).cloned().flatten())
                }).peekable();
                let last = answers.len() - 1;
                for (at, answer) in answers.into_iter().enumerate() {
                    let got = pb::WatchResponse::decode(answer.clone()).unwrap();
                    let part: Vec<_> = wanted.by_ref().take(got.events.len()).collect();
                    let bytes: usize = part.iter().map(prost::Message::encoded_len).sum();
                    prop_assert!(part.len() == 1 || bytes <= limit);
                    if let Some(next) = wanted.peek() {
                        prop_assert!(bytes + next.encoded_len() > limit, "split too early");
                    }
                    let want = pb::WatchResponse { fragment: at < last, ..plain(&envelope, part) };
                    prop_assert_eq!(answer, encode(&want));
                }
                prop_assert!(wanted.next().is_none());
            }
        }
    }
}
