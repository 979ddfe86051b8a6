//! A request over HTTP/2 that is not gRPC: the same handler as over HTTP/1.1.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{
    Request, Response, Uri,
    body::{Body, Frame},
    header::{self, HeaderName, HeaderValue},
    http::uri::PathAndQuery,
};
use tokio::sync::mpsc;

use super::{
    super::{
        connection::{ConnectionInfo, Environment},
        service::{CallContext, HttpBody, STREAM_REQUESTS_MAX, Status},
    },
    calls::Ran,
    core::{Core, End},
    frame::ErrorCode,
    head::RequestHead,
    inbox::Inbox,
};

/// Fields of HTTP/1.1 that have no place in HTTP/2: RFC 9113 section 8.2.2.
const HOP_FIELDS: [&str; 5] =
    ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"];

/// Where an answer is.
enum Answer {
    Awaited(LocalBoxFuture<'static, Response<HttpBody>>),
    Body(HttpBody),
}

/// One plain request and its answer.
pub(super) struct PlainCall {
    inbox: Inbox,
    answer: Answer,
    /// The client asked for the head alone; HTTP/2 allows no body then.
    head_only: bool,
}

impl PlainCall {
    pub(super) fn new(
        head: &RequestHead,
        ended: bool,
        environment: &Environment,
        info: &ConnectionInfo,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(STREAM_REQUESTS_MAX);
        let mut inbox = Inbox::new(sender, None);
        let body = if ended {
            let _ = inbox.feed(&[], true); // without messages nothing can be cut short
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        } else {
            request_body(receiver)
        };
        let context = CallContext {
            remote: info.remote,
            certificate_cn: info.certificate_cn.clone(),
            is_tls: info.is_tls,
            ..CallContext::default()
        };
        let answer = Answer::Awaited(environment.http.handle(request(head, body), context));
        Self { inbox, answer, head_only: head.method.value() == b"HEAD" }
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.inbox.backlog_bytes()
    }

    /// Takes body bytes; returns how many are used up.
    pub(super) fn feed(&mut self, bytes: &[u8], end: bool) -> Result<usize, Status> {
        self.inbox.feed(bytes, end)
    }

    /// Goes on as far as the handler, the client and the limits allow.
    pub(super) fn run(&mut self, stream: u32, core: &mut Core, waker: &Waker) -> Ran {
        let context = &mut Context::from_waker(waker);
        if let Ok(used) = self.inbox.poll(context) {
            core.release(stream, used);
        }
        if let Answer::Awaited(handler) = &mut self.answer {
            let Poll::Ready(response) = handler.as_mut().poll(context) else { return Ran::Waits };
            let (parts, body) = response.into_parts();
            let kept = |name: &&HeaderName| !HOP_FIELDS.contains(&name.as_str());
            let fields = parts.headers.iter().filter(|(name, _)| kept(name));
            let length = body.size_hint().exact().map(|length| length.to_string());
            if length.is_some() {
                core.set_whole(stream);
            }
            let length = length.filter(|_| !parts.headers.contains_key(header::CONTENT_LENGTH));
            core.send_plain_head(
                stream,
                parts.status.as_u16(),
                fields
                    .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
                    .chain(length.iter().map(|length| (&b"content-length"[..], length.as_bytes()))),
            );
            if self.head_only {
                core.finish(stream, End::Body);
                return Ran::Over;
            }
            self.answer = Answer::Body(body);
        }
        let Answer::Body(body) = &mut self.answer else { return Ran::Waits };
        while core.has_room(stream) {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Pending => return Ran::Waits,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        core.send_body(stream, data);
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    core.abort(stream, ErrorCode::Internal);
                    return Ran::Over;
                }
                Poll::Ready(None) => {
                    core.finish(stream, End::Body);
                    return Ran::Over;
                }
            }
        }
        core.want_room(stream);
        Ran::Waits
    }
}

fn request_body(mut receiver: mpsc::Receiver<Bytes>) -> HttpBody {
    let pieces = futures::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// The request as the handler knows it. Names and values were checked when they were decoded,
/// so that what the `http` types refuse is left out rather than answered.
fn request(head: &RequestHead, body: HttpBody) -> Request<HttpBody> {
    let mut request = Request::new(body);
    *request.version_mut() = hyper::Version::HTTP_2;
    if let Ok(method) = hyper::Method::from_bytes(head.method.value()) {
        *request.method_mut() = method;
    }
    if let Ok(path) = PathAndQuery::try_from(head.path.value()) {
        *request.uri_mut() = Uri::from(path);
    }
    let headers = request.headers_mut();
    for field in &head.fields {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name()), HeaderValue::from_bytes(field.value()))
        {
            headers.append(name, value);
        }
    }
    // What HTTP/1.1 handlers look for.
    if let Some(authority) = &head.authority
        && !headers.contains_key(header::HOST)
        && let Ok(value) = HeaderValue::from_bytes(authority.value())
    {
        headers.insert(header::HOST, value);
    }
    request
}
