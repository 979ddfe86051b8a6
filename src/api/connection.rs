//! One client connection: tells HTTP/2 from HTTP/1.1 by the first bytes and serves it.
//!
//! HTTP/2 goes to our engine ([`super::h2`]), HTTP/1.1 to hyper with the plain handler. Both run
//! on the thread that accepted the connection and end gracefully when the front end drains.

use std::{
    cell::Cell,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};
use std::{
    cell::RefCell, convert::Infallible, future::Future, io, net::SocketAddr, pin::Pin, rc::Rc,
};

use futures::future::LocalBoxFuture;
use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::Sleep,
};

use super::{
    h2::{self, Limits, PREFACE},
    pace::Pace,
    service::{CallContext, HttpBody, HttpHandler, Services, Websocket},
    websocket::{self, Opening},
};

/// Limits of an HTTP/1.1 connection, and of the choice between the two protocols.
#[derive(Clone, Debug)]
pub struct Http1Limits {
    /// Time for a request's head, counted from the connection's start or the last answer.
    pub header_timeout: Duration,
    /// Bytes of a request's head.
    pub header_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Silence after which the client of a websocket is asked whether it is there; after as much
    /// again it is given up.
    pub websocket_idle: Duration,
}

impl Default for Http1Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            header_bytes_max: 64 << 10,
            headers_max: 100,
            websocket_idle: Duration::from_secs(30),
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    /// Peer address.
    pub remote: Option<SocketAddr>,
    /// Common name of the verified client certificate.
    pub certificate_cn: Option<Rc<str>>,
    /// It is encrypted.
    pub is_tls: bool,
}

/// What all connections of a thread share.
pub struct Environment {
    /// The gRPC services.
    pub services: Rc<dyn Services>,
    /// Everything else.
    pub http: Rc<dyn HttpHandler>,
    /// Limits of HTTP/2 connections.
    pub limits: Rc<Limits>,
    /// Limits of HTTP/1.1 connections.
    pub http1: Http1Limits,
    /// Tells connections to end.
    pub drain: Rc<Drain>,
    /// Memory the thread's HTTP/2 connections hold for their clients.
    pub held: Rc<HeldAccount>,
}

/// Bytes held for clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Of requests no service has taken.
    pub(crate) requests: usize,
    /// Of answers no client has taken.
    pub(crate) answers: usize,
}

/// What all connections of a thread hold together.
#[derive(Debug, Default)]
pub struct HeldAccount(Cell<Held>);

impl HeldAccount {
    pub(crate) fn get(&self) -> Held {
        self.0.get()
    }

    /// One connection holds `after` where it held `before`.
    pub(crate) fn change(&self, before: Held, after: Held) {
        let sum = self.0.get();
        self.0.set(Held {
            requests: sum.requests + after.requests - before.requests,
            answers: sum.answers + after.answers - before.answers,
        });
    }
}

/// Tells the connections of one thread to end gracefully.
#[derive(Debug, Default)]
pub struct Drain {
    draining: Cell<bool>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Drain {
    /// Starts the end of every connection.
    pub fn begin(&self) {
        self.draining.set(true);
        for waker in self.wakers.borrow().iter().flatten() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn ticket(self: &Rc<Self>) -> DrainTicket {
        DrainTicket { drain: Rc::clone(self), place: None }
    }
}

/// One connection's place in a [`Drain`].
pub(crate) struct DrainTicket {
    drain: Rc<Drain>,
    place: Option<usize>,
}

impl DrainTicket {
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.draining.get()
    }

    /// Sees to it that `waker` is woken when the drain begins.
    pub(crate) fn register(&mut self, waker: &Waker) {
        let mut wakers = self.drain.wakers.borrow_mut();
        let place = *self.place.get_or_insert_with(|| {
            self.drain.free.borrow_mut().pop().unwrap_or_else(|| {
                wakers.push(None);
                wakers.len() - 1
            })
        });
        if let Some(slot) = wakers.get_mut(place)
            && !slot.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            *slot = Some(waker.clone());
        }
    }

    /// Waits for the drain to begin.
    pub(crate) async fn begun(&mut self) {
        std::future::poll_fn(|context| {
            self.register(context.waker());
            if self.is_draining() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for DrainTicket {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            if let Some(slot) = self.drain.wakers.borrow_mut().get_mut(place) {
                *slot = None;
            }
            self.drain.free.borrow_mut().push(place);
        }
    }
}

/// Serves one connection until it ends.
pub async fn serve<IO>(mut io: IO, info: ConnectionInfo, environment: Rc<Environment>)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut ticket = environment.drain.ticket();
    let sniffed = {
        let sniff = tokio::time::timeout(environment.http1.header_timeout, sniff(&mut io));
        let mut sniff = std::pin::pin!(sniff);
        std::future::poll_fn(|context| {
            ticket.register(context.waker());
            if ticket.is_draining() {
                return Poll::Ready(None);
            }
            sniff.as_mut().poll(context).map(|read| read.ok().and_then(Result::ok))
        })
        .await
    };
    drop(ticket);
    match sniffed {
        Some(Sniffed { received, is_http2: true }) => {
            h2::serve(io, received, info, environment).await;
        }
        Some(Sniffed { received, is_http2: false }) => {
            let limits = Rc::clone(&environment.limits);
            let pace = Pace::default();
            let io = Rewound { received, taken: 0, io, limits, pace, stalled: None };
            serve_http1(io, info, environment).await;
        }
        None => {}
    }
}

/// The first bytes of a connection and what they say.
struct Sniffed {
    received: Vec<u8>,
    is_http2: bool,
}

/// Reads until the bytes differ from the HTTP/2 preface or contain all of it.
async fn sniff(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Sniffed> {
    let mut received = Vec::with_capacity(1024);
    loop {
        if io.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = received.len().min(PREFACE.len());
        if received.get(..length) != PREFACE.get(..length) {
            return Ok(Sniffed { received, is_http2: false });
        }
        if length == PREFACE.len() {
            return Ok(Sniffed { received, is_http2: true });
        }
    }
}

async fn serve_http1<IO>(io: Rewound<IO>, info: ConnectionInfo, environment: Rc<Environment>)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let http = Rc::clone(&environment.http);
    let opened = Opened::default();
    let opens = Rc::clone(&opened);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut context = CallContext {
            remote: info.remote,
            certificate_cn: info.certificate_cn.clone(),
            is_tls: info.is_tls,
            ..CallContext::default()
        };
        let opening = websocket::is_asked(request.headers()).then(|| {
            context.websocket = Websocket::Possible;
            (Box::new(Opening::of(&request, &context)), Rc::clone(&opens))
        });
        let request = request.map(|body| body.map_err(io::Error::other).boxed_unsync());
        Answering { answer: http.handle(request, context), opening }
    });
    let limits = &environment.http1;
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes_max)
        .max_headers(limits.headers_max)
        .serve_connection(TokioIo::new(io), service);
    let mut ticket = environment.drain.ticket();
    let mut deadline = None;
    let done = std::future::poll_fn(|context| {
        ticket.register(context.waker());
        if ticket.is_draining() {
            let deadline = deadline.get_or_insert_with(|| {
                Pin::new(&mut connection).graceful_shutdown();
                Box::pin(tokio::time::sleep(environment.limits.drain_timeout))
            });
            if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
        }
        // A failed connection is the client's business.
        connection.poll_without_shutdown(context).map(|done| Some(done.is_ok()))
    })
    .await;
    let Some(is_well) = done else { return };
    drop(ticket);
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let mut io = io.into_inner();
    match opened.take().filter(|_| is_well) {
        Some(opening) => {
            // Most connections never become one and should not carry its state.
            Box::pin(websocket::serve(io, read_buf, *opening, &environment)).await;
        }
        None => {
            let _ = tokio::time::timeout(environment.limits.drain_timeout, io.shutdown()).await;
        }
    }
}

/// Where a connection finds out that it has become a websocket.
type Opened = Rc<Cell<Option<Box<Opening>>>>;

/// The answer to a request, which may make the connection a websocket.
struct Answering {
    answer: LocalBoxFuture<'static, Response<HttpBody>>,
    opening: Option<(Box<Opening>, Opened)>,
}

impl Future for Answering {
    type Output = Result<Response<HttpBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.answer.as_mut().poll(context));
        if let Some((opening, opened)) = self.opening.take() {
            opened.set(opening.accepted(&answer).map(Box::new));
        }
        Poll::Ready(Ok(answer))
    }
}

/// A connection whose first bytes were read already, and that fails when its client takes none
/// of our bytes for too long, or too few.
struct Rewound<IO> {
    received: Vec<u8>,
    taken: usize,
    io: IO,
    limits: Rc<Limits>,
    pace: Pace,
    /// Set while the client takes nothing.
    stalled: Option<Stalled>,
}

/// Since when the client takes nothing, and what wakes us to look at it.
struct Stalled {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<IO> Rewound<IO> {
    /// Passes on what a write came to, or a failure once writes have waited too long.
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Ok(bytes)) => {
                self.stalled = None;
                self.pace.note(now(), bytes, false);
                polled
            }
            Poll::Ready(Err(_)) => polled,
            Poll::Pending => self.wait(context).map(Err),
        }
    }

    /// Passes on what a flush came to; after one, nothing waits for the client.
    fn flushed(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if polled.is_pending() {
            return self.wait(context).map(Err);
        }
        self.stalled = None;
        self.pace = Pace::default();
        polled
    }

    /// Waits until the client has had its time; [`AsyncWrite`] is polled again when it takes bytes.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let mut now = now();
        let rate = self.limits.pace();
        let stall_timeout = self.limits.write_stall_timeout;
        self.pace.note(now, 0, true);
        loop {
            let since = self.stalled.as_ref().map_or(now, |stalled| stalled.since);
            let stalled = now.saturating_duration_since(since) >= stall_timeout;
            if stalled || self.pace.is_too_slow(now, rate) {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            let due = since + stall_timeout;
            let due = self.pace.due(rate).map_or(due, |at| due.min(at)).into();
            let stalled = self.stalled.get_or_insert_with(|| Stalled {
                since,
                timer: Box::pin(tokio::time::sleep_until(due)),
            });
            if stalled.timer.deadline() != due {
                stalled.timer.as_mut().reset(due);
            }
            std::task::ready!(stalled.timer.as_mut().poll(context));
            now = self::now();
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = this.received.get(this.taken..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.io).poll_read(context, buffer);
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..length).unwrap_or_default());
        this.taken += length;
        if this.taken == this.received.len() {
            (this.received, this.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.wrote(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    // TLS takes bytes into a buffer of its own: what waits there for the client is seen here.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(context);
        self.flushed(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(context);
        self.flushed(context, polled)
    }
}
