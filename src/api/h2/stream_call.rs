//! A streaming gRPC call.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tokio::sync::mpsc;

use super::{
    super::{
        connection::Environment,
        outlet::{Outlet, Tap},
        service::{CallContext, STREAM_REQUESTS_MAX, STREAM_RESPONSES_MAX, Status, Traffic},
    },
    calls::Ran,
    core::{Core, End},
    grpc::Deframer,
    inbox::Inbox,
};

/// One streaming call, its two channels and its way around them.
pub(super) struct StreamCall {
    inbox: Inbox,
    answers: mpsc::Receiver<Bytes>,
    tap: Arc<Tap>,
    /// The service, until it ends.
    service: Option<LocalBoxFuture<'static, Result<(), Status>>>,
    traffic: Option<Traffic>,
    /// How it ended.
    result: Result<(), Status>,
}

impl StreamCall {
    pub(super) fn new(
        path: &str,
        (stream, outlet): (u32, &Arc<Outlet>),
        ended: bool,
        environment: &Environment,
        mut context: CallContext,
    ) -> Self {
        let (request_sender, requests) = mpsc::channel(STREAM_REQUESTS_MAX);
        let (answer_sender, answers) = mpsc::channel(STREAM_RESPONSES_MAX);
        let deframer = Deframer::new(environment.limits.message_bytes_max);
        let traffic = environment.services.traffic(path);
        let tap = Tap::new(Arc::clone(outlet), stream, traffic.clone());
        context.tap = Some(Arc::clone(&tap));
        let mut inbox = Inbox::new(request_sender, Some(deframer)).counted(traffic.clone());
        if ended {
            // Nothing came, so nothing can be cut short.
            let _ = inbox.feed(&[], true);
        }
        let service = environment.services.streaming(path, requests, answer_sender, context);
        Self { inbox, answers, tap, service: Some(service), traffic, result: Ok(()) }
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.inbox.backlog_bytes()
    }

    /// Takes request bytes; returns how many are used up.
    pub(super) fn feed(&mut self, bytes: &[u8], end: bool) -> Result<usize, Status> {
        self.inbox.feed(bytes, end)
    }

    /// Goes on as far as the service, the client and the limits allow.
    pub(super) fn run(&mut self, stream: u32, core: &mut Core, waker: &Waker) -> Ran {
        let context = &mut Context::from_waker(waker);
        match self.inbox.poll(context) {
            Ok(used) => core.release(stream, used),
            Err(status) => {
                core.finish(stream, End::Trailers(Err(status)));
                return Ran::Over;
            }
        }
        if let Some(service) = &mut self.service
            && let Poll::Ready(result) = service.as_mut().poll(context)
        {
            self.result = result;
            self.service = None;
            self.answers.close();
        }
        // Only the service sends, so there is nothing to wait for here but itself: a waker in the
        // channel would have the call run once more for each message.
        while core.has_room(stream) {
            match self.answers.try_recv() {
                Ok(answer) => {
                    if let Some(traffic) = &self.traffic {
                        traffic.sent(answer.len());
                    }
                    core.send_message(stream, answer);
                }
                Err(_) if self.service.is_none() => {
                    let result = std::mem::replace(&mut self.result, Ok(()));
                    core.finish(stream, End::Trailers(result));
                    return Ran::Over;
                }
                Err(_) => {
                    self.tap.set_open(self.service.is_some());
                    return Ran::Waits;
                }
            }
        }
        self.wait_for_room(stream, core);
        Ran::Waits
    }

    /// Nothing more for the stream until the client has taken some of it.
    pub(super) fn wait_for_room(&mut self, stream: u32, core: &mut Core) {
        self.tap.set_open(false);
        core.want_room(stream);
    }
}
