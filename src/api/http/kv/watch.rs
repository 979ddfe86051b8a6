//! Changes as server-sent events.
//!
//! The watch is the gRPC one. The id of an event is its revision, and only the last event of a
//! revision has one: a client that goes on from the id it saw last gets a broken-off revision
//! again rather than lose a part of it.
//!
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, StatusCode,
    body::{Body, Frame},
    header::{self, HeaderValue},
};
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior},
};

use super::{Answered, Call, Gateway, Refusal, answer, kv_json, set};
use crate::api::{
    json::put_string,
    proto::{
        etcdserverpb::{self as pb, watch_request::RequestUnion},
        mvccpb::{Event, event::EventType},
    },
    service::{STREAM_REQUESTS_MAX, STREAM_RESPONSES_MAX, Status},
};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Time between comments that keep proxies from closing a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl Gateway {
    /// Starts a watch and answers once it is set up.
    pub(super) async fn kv_watch(&self, call: &Call) -> Answered {
        let start_revision = start_revision(&call.headers, call.params.revision)?;
        let (key, range_end) = call.range();
        let create =
            pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let (requests, receiver) = mpsc::channel(STREAM_REQUESTS_MAX);
        let (responses, mut received) = mpsc::channel(STREAM_RESPONSES_MAX);
        let (report, mut end) = oneshot::channel::<Status>();
        let (services, context) = (Rc::clone(&self.services), call.context.clone());
        let first = Bytes::from(request.encode_to_vec());
        tokio::task::spawn_local(run(
            services,
            context,
            (requests, receiver),
            first,
            responses,
            report,
        ));
        let Some(wire) = received.recv().await else {
            let text = "the watch did not start: try again";
            let unavailable = Refusal(StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
            return Err(end.try_recv().map_or(unavailable, Refusal::from));
        };
        let created = pb::WatchResponse::decode(wire).map_err(super::malformed)?;
        if created.canceled && created.compact_revision == 0 {
            return Err(refused(&created.cancel_reason));
        }
        let revision = created.header.map_or(0, |header| header.revision);
        let mut keep_alive = tokio::time::interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first = format!(": watching at revision {revision}\n\n").into_bytes();
        let over = put_message(&mut first, &created);
        let events = Events { received, end: Some(end), first: Some(first), over, keep_alive };
        let mut response = answer::with_body(StatusCode::OK, events.boxed_unsync());
        set(&mut response, "x-revision", revision);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(response)
    }
}

/// Runs the call until it ends or the client is gone.
async fn run(
    services: Rc<dyn crate::api::service::Services>,
    context: crate::api::service::CallContext,
    (requests, receiver): (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>),
    first: Bytes,
    responses: mpsc::Sender<Bytes>,
    mut report: oneshot::Sender<Status>,
) {
    if requests.send(first).await.is_err() {
        return;
    }
    // The request side stays open, as a watch ends with it.
    let _requests = requests;
    let call = services.streaming(WATCH, receiver, responses, context);
    tokio::select! {
        biased;
        () = report.closed() => {}
        end = call => {
            if let Err(status) = end {
                // Nobody may want to know any more.
                let _ = report.send(status);
            }
        }
    }
}

/// The refusal of a watch, from the reason that the stream gave.
fn refused(reason: &str) -> Refusal {
    let status = match reason {
        _ if reason.contains("permission denied") => StatusCode::FORBIDDEN,
        _ if reason.contains("auth") => StatusCode::UNAUTHORIZED,
        _ => StatusCode::BAD_REQUEST,
    };
    Refusal(status, reason.to_owned())
}

/// Where to begin: after the last event the client has seen, at the revision it names, or now.
fn start_revision(headers: &HeaderMap, revision: Option<i64>) -> Result<i64, Refusal> {
    let Some(last) = headers.get("last-event-id") else { return Ok(revision.unwrap_or(0)) };
    let last = std::str::from_utf8(last.as_bytes()).ok().and_then(|last| last.parse().ok());
    let next = last.and_then(|last: i64| last.checked_add(1)).filter(|next| *next > 0);
    next.ok_or_else(|| Refusal::bad("Last-Event-ID is the revision that an event gave as its id"))
}

/// The body of the answer.
struct Events {
    received: mpsc::Receiver<Bytes>,
    end: Option<oneshot::Receiver<Status>>,
    first: Option<Vec<u8>>,
    over: bool,
    keep_alive: Interval,
}

impl Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first.into()))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let mut chunk = Vec::new();
        while chunk.is_empty() {
            match self.received.poll_recv(context) {
                Poll::Ready(Some(wire)) => {
                    self.over = match pb::WatchResponse::decode(wire) {
                        Ok(message) => put_message(&mut chunk, &message),
                        Err(error) => put_error(&mut chunk, &error.to_string(), 0),
                    };
                    if self.over && chunk.is_empty() {
                        return Poll::Ready(None);
                    }
                }
                Poll::Ready(None) => {
                    self.over = true;
                    let end = self.end.take().and_then(|mut end| end.try_recv().ok());
                    let text = end.map_or_else(|| "the server stops".to_owned(), |end| end.message);
                    put_error(&mut chunk, &text, 0);
                }
                Poll::Pending => {
                    ready!(self.keep_alive.poll_tick(context));
                    chunk.extend_from_slice(b": keep-alive\n\n");
                }
            }
        }
        self.keep_alive.reset();
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }
}

/// Appends what a message says; true where it is the last one.
fn put_message(out: &mut Vec<u8>, message: &pb::WatchResponse) -> bool {
    for (at, event) in message.events.iter().enumerate() {
        let next = message.events.get(at + 1);
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        put_event(out, event, next.is_none_or(|next| revision(next) != revision(event)));
    }
    if message.compact_revision > 0 {
        let text = "the revision asked for has been compacted: read the present state and watch \
                    from there";
        return put_error(out, text, message.compact_revision);
    }
    if message.canceled {
        return put_error(out, &message.cancel_reason, 0);
    }
    false
}

/// Appends an event; `is_last` of its revision.
fn put_event(out: &mut Vec<u8>, event: &Event, is_last: bool) {
    let Some(kv) = &event.kv else { return };
    let is_delete = event.r#type() == EventType::Delete;
    out.extend_from_slice(if is_delete { b"event: delete\n" } else { b"event: put\n" });
    if is_last {
        out.extend_from_slice(format!("id: {}\n", kv.mod_revision).as_bytes());
    }
    out.extend_from_slice(b"data: ");
    if is_delete {
        kv_json::put_deleted(out, kv);
    } else {
        kv_json::put_pair(out, kv, true);
    }
    out.extend_from_slice(b"\n\n");
}

/// Appends the event of a stream's end; true.
fn put_error(out: &mut Vec<u8>, text: &str, compact_revision: i64) -> bool {
    out.extend_from_slice(b"event: error\ndata: {\"message\":");
    put_string(out, text.as_bytes());
    if compact_revision > 0 {
        out.extend_from_slice(format!(",\"compact_revision\":{compact_revision}").as_bytes());
    }
    out.extend_from_slice(b"}\n\n");
    true
}
