//! `etcdserverpb.Watch`: control messages in, answers out, split into fragments where asked.

use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
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
        service::{CallContext, Status},
    },
    client::{
        self,
        watch::{
            hub::{Filters, SharedEvent},
            session::{Message, NO_WATCHER, Session, WatchRequest},
        },
    },
};

/// An answer above this size waits until the client has taken all before it.
const LARGE_ANSWER_BYTES: usize = 4 << 10;
/// `WatchResponse.events` on the wire.
const EVENTS_FIELD: u32 = 11;

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
    let mut open = true;
    let leader_lost = rpc.client.leader_lost();
    tokio::pin!(leader_lost);
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
                for answer in answers(&rpc, message) {
                    if !send(&responses, answer).await {
                        return Ok(());
                    }
                }
            }
            () = responses.closed() => return Ok(()),
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
        return responses.send(answer).await.is_ok();
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
fn answers(rpc: &Shared, message: Message) -> Vec<Bytes> {
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
            return event_answers(&envelope, &events, &prev_kvs, limit);
        }
    };
    vec![encode(&answer)]
}

/// Encodes `events` under `envelope`, starting a new fragment before `limit` bytes would be
/// passed; every fragment but the last says so.
fn event_answers(
    envelope: &pb::WatchResponse,
    events: &[std::sync::Arc<SharedEvent>],
    prev_kvs: &[Option<KeyValue>],
    limit: usize,
) -> Vec<Bytes> {
    let encoded: Vec<Bytes> = events
        .iter()
        .enumerate()
        .map(|(at, shared)| match prev_kvs.get(at) {
            Some(prev_kv) => encode(&event(&shared.event, prev_kv.clone())),
            None => shared.wire.get_or_init(|| encode(&event(&shared.event, None))).clone(),
        })
        .collect();
    let mut groups: Vec<&[Bytes]> = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (at, bytes) in encoded.iter().enumerate() {
        if at > start && size + bytes.len() > limit {
            groups.push(&encoded[start..at]);
            (start, size) = (at, 0);
        }
        size += bytes.len();
    }
    groups.push(&encoded[start..]);
    let last = groups.len() - 1;
    let group_answer = |(at, group): (usize, &&[Bytes])| {
        answer_with_events(&pb::WatchResponse { fragment: at < last, ..envelope.clone() }, group)
    };
    groups.iter().enumerate().map(group_answer).collect()
}

/// Appends already encoded events to an encoded envelope: protobuf fields concatenate.
fn answer_with_events(envelope: &pb::WatchResponse, events: &[Bytes]) -> Bytes {
    let event_bytes: usize =
        events.iter().map(|event| 1 + encoded_len_varint(event.len() as u64) + event.len()).sum();
    let mut out = BytesMut::with_capacity(envelope.encoded_len() + event_bytes);
    envelope.encode_raw(&mut out);
    for event in events {
        encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut out);
        encode_varint(event.len() as u64, &mut out);
        out.put_slice(event);
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
