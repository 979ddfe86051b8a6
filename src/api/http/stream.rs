//! Streaming calls: watch, lease keep-alive, snapshot.
//!
//! The call runs as a task of the thread's `LocalSet`: it owns the service's future and the
//! request body. The HTTP answer owns the receiving end; when it goes, the task ends. Nothing is
//! sent, not even headers, before the service's first message or the end of the call.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::{LocalBoxFuture, poll_fn};
use http_body_util::BodyExt as _;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Gateway, answer,
    body::{self, next_piece},
    gateway::{malformed, unknown_method, within},
    routes::Route,
};
use crate::api::{
    json::{Documents, JsonError, MessageId, Schema},
    service::{
        CallContext, Code, HttpBody, STREAM_REQUESTS_MAX, STREAM_RESPONSES_MAX, Services, Status,
        Traffic, Websocket,
    },
};

/// JSON lines that are ready together are sent together up to about this many bytes.
const CHUNK_BYTES: usize = 32 * 1024;

impl Gateway {
    /// Runs a streaming call and answers with its first message, or with its failure.
    pub(super) async fn stream(
        &self,
        route: &'static Route,
        body: HttpBody,
        context: CallContext,
    ) -> Response<HttpBody> {
        let opened = if route.method.client_streaming {
            self.open_requests(route, body, &context).await
        } else {
            self.open_request(route, body, &context).await
        };
        let (first, rest) = match opened {
            Ok(opened) => opened,
            Err(status) => return answer::failure(&status),
        };
        let mut messages = self.start(route, first, rest, context);
        match poll_fn(|cx| messages.poll_next(cx)).await {
            Next::Message(wire) => {
                let lines = Lines { messages, first: Some(wire) };
                answer::with_metadata(answer::stream(StatusCode::OK, lines.boxed_unsync()))
            }
            Next::End(Ok(())) => {
                answer::stream(StatusCode::OK, Lines { messages, first: None }.boxed_unsync())
            }
            Next::End(Err(status)) => {
                let http = status.code.http_status();
                messages.end = End::Known(Err(status));
                answer::stream(http, Lines { messages, first: None }.boxed_unsync())
            }
        }
    }

    /// The request of a call that takes one.
    async fn open_request(
        &self,
        route: &Route,
        mut body: HttpBody,
        context: &CallContext,
    ) -> Result<(Option<Bytes>, Option<Requests>), Status> {
        let request = self.single_request(route, &mut body, context).await?;
        Ok((Some(request), None))
    }

    /// The first request of a call that takes many, read before the call starts: a malformed
    /// one fails the call with 3.5's odd code 2. A body without any request starts the call too.
    async fn open_requests(
        &self,
        route: &Route,
        body: HttpBody,
        context: &CallContext,
    ) -> Result<(Option<Bytes>, Option<Requests>), Status> {
        let mut requests = Requests {
            body,
            documents: Documents::new(self.config.json_bytes_max()),
            input: route.method.input,
        };
        let first = async {
            match requests.next().await {
                Err(error) => {
                    if context.websocket != Websocket::Open {
                        body::discard(&mut requests.body).await;
                    }
                    Err(match error {
                        JsonError::TooLarge { limit } => self.too_large(limit),
                        error => Status::new(Code::Unknown, error.to_string()),
                    })
                }
                Ok(first) => Ok(first),
            }
        };
        match within(self.body_timeout(context), first).await? {
            Some(first) => Ok((Some(first), Some(requests))),
            None => Ok((None, None)),
        }
    }

    /// Starts the call as a task.
    fn start(
        &self,
        route: &'static Route,
        first: Option<Bytes>,
        rest: Option<Requests>,
        context: CallContext,
    ) -> Messages {
        let (responses, received) = mpsc::channel(STREAM_RESPONSES_MAX);
        let (report, end) = oneshot::channel();
        let call = Call { gateway: self.clone(), route, context };
        tokio::task::spawn_local(call.run(first, rest, responses, report));
        let traffic = self.services.traffic(route.method_path);
        Messages { received, end: End::Awaited(end), output: route.method.output, traffic }
    }
}

/// One streaming call on its way.
struct Call {
    gateway: Gateway,
    route: &'static Route,
    context: CallContext,
}

impl Call {
    /// Runs the call to its end and reports it, or drops it when the client is gone.
    async fn run(
        self,
        first: Option<Bytes>,
        rest: Option<Requests>,
        responses: mpsc::Sender<Bytes>,
        mut report: oneshot::Sender<Result<(), Status>>,
    ) {
        let timeout = self.context.timeout;
        let (requests, receiver) = mpsc::channel(STREAM_REQUESTS_MAX);
        let services = Rc::clone(&self.gateway.services);
        let service = self.service(&*services, receiver, responses);
        let feed = self.feed(first, rest, requests);
        let call = async {
            tokio::select! {
                biased;
                end = service => end,
                status = feed => Err(status),
            }
        };
        let end = tokio::select! {
            biased;
            () = report.closed() => return,
            end = within(timeout, call) => end,
        };
        // The receiver may have gone in this very moment; then nobody wants to know.
        let _ = report.send(end);
    }

    fn service(
        &self,
        services: &dyn Services,
        requests: mpsc::Receiver<Bytes>,
        responses: mpsc::Sender<Bytes>,
    ) -> LocalBoxFuture<'static, Result<(), Status>> {
        if services.method(self.route.method_path).is_none() {
            let status = unknown_method(self.route);
            return Box::pin(async { Err(status) });
        }
        services.streaming(self.route.method_path, requests, responses, self.context.clone())
    }

    /// Hands the requests to the service. A malformed request closes the request side, as
    /// the end of the body does; only one that gRPC would not receive ends the call, and that is
    /// the only way this future ends.
    async fn feed(
        &self,
        first: Option<Bytes>,
        mut rest: Option<Requests>,
        requests: mpsc::Sender<Bytes>,
    ) -> Status {
        let traffic = self.gateway.services.traffic(self.route.method_path);
        let mut next = first;
        while let Some(request) = next {
            if let Err(status) = self.gateway.check_size(&request) {
                return status;
            }
            if let Some(traffic) = &traffic {
                traffic.received(request.len());
            }
            if requests.send(request).await.is_err() {
                break;
            }
            next = match &mut rest {
                None => None,
                Some(rest) => match rest.next().await {
                    Ok(request) => request,
                    Err(JsonError::TooLarge { limit }) => return self.gateway.too_large(limit),
                    Err(_) => None,
                },
            };
        }
        drop(requests);
        std::future::pending().await
    }
}

/// The requests in a body, one JSON document each.
struct Requests {
    body: HttpBody,
    documents: Documents,
    input: MessageId,
}

impl Requests {
    /// Reads the next request; `None` at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>, JsonError> {
        loop {
            if let Some(document) = self.documents.next_document()? {
                let decoded = Schema::etcd().decode(self.input, &document)?;
                return Ok(Some(decoded.wire.into()));
            }
            match next_piece(&mut self.body).await {
                Ok(Some(piece)) => self.documents.push(&piece),
                Ok(None) => return self.documents.finish().map(|()| None),
                Err(_) => return Err(JsonError::UnexpectedEnd),
            }
        }
    }
}

/// The responses of a call and how it ended.
struct Messages {
    received: mpsc::Receiver<Bytes>,
    end: End,
    output: MessageId,
    traffic: Option<Traffic>,
}

enum End {
    Awaited(oneshot::Receiver<Result<(), Status>>),
    Known(Result<(), Status>),
    Told,
}

enum Next {
    Message(Bytes),
    End(Result<(), Status>),
}

impl Messages {
    fn count(&self, wire: &Bytes) {
        if let Some(traffic) = &self.traffic {
            traffic.sent(wire.len());
        }
    }

    /// The next response; after the last one the end of the call, and then nothing but `Ok`.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Poll::Ready(Some(wire)) = self.received.poll_recv(cx) {
            self.count(&wire);
            return Poll::Ready(Next::Message(wire));
        }
        if let End::Awaited(end) = &mut self.end {
            let gone = || Err(Status::new(Code::Unavailable, "the call was dropped"));
            let end = ready!(Pin::new(end).poll(cx)).unwrap_or_else(|_| gone());
            self.end = End::Known(end);
        }
        // The call is over; what it sent last may have come after the look above.
        if let Ok(wire) = self.received.try_recv() {
            self.count(&wire);
            return Poll::Ready(Next::Message(wire));
        }
        Poll::Ready(Next::End(match std::mem::replace(&mut self.end, End::Told) {
            End::Known(end) => end,
            End::Told | End::Awaited(_) => Ok(()),
        }))
    }
}

/// The body of the answer: a line of JSON per message.
struct Lines {
    messages: Messages,
    /// The message that started the answer.
    first: Option<Bytes>,
}

impl Lines {
    /// Adds a line; false when the message is malformed, which ends the stream.
    fn add(&mut self, wire: &[u8], chunk: &mut Vec<u8>) -> bool {
        let start = chunk.len();
        chunk.extend_from_slice(b"{\"result\":");
        match Schema::etcd().encode(self.messages.output, wire, chunk) {
            Ok(()) => {
                chunk.extend_from_slice(b"}\n");
                true
            }
            Err(error) => {
                chunk.truncate(start);
                chunk.extend_from_slice(&malformed(error).json_stream_body());
                self.messages.received.close();
                self.messages.end = End::Told;
                false
            }
        }
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut chunk = Vec::new();
        if let Some(wire) = self.first.take() {
            self.add(&wire, &mut chunk);
        }
        while chunk.len() < CHUNK_BYTES {
            match self.messages.poll_next(cx) {
                Poll::Ready(Next::Message(wire)) => {
                    if !self.add(&wire, &mut chunk) {
                        break;
                    }
                }
                Poll::Ready(Next::End(Err(status))) => {
                    chunk.extend_from_slice(&status.json_stream_body());
                    break;
                }
                Poll::Ready(Next::End(Ok(()))) => break,
                Poll::Pending if chunk.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if chunk.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }
}
