//! A connection that has become a websocket: the client's messages go into the body of a POST, the
//! lines of its answer come out as messages.
//!
//! Two directions run side by side. The reading one passes on payload and turns what it has to say
//! to the client into an order; the writing one alone writes, so that frames never mix. Each
//! waits for the other through a short queue, and the connection's write deadline ends both.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{future::LocalBoxFuture, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{Request, Response, body::Frame};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

use super::{
    frame::{self, Decoder, Event, Kind, code},
    handshake::{self, Accepted},
};
use crate::api::{
    connection::{DrainTicket, Environment},
    http::body::next_piece,
    service::{CallContext, HttpBody, Websocket},
};

/// Bytes read at once; also what a silent websocket holds.
const READ_BYTES: usize = 8 * 1024;
/// Pieces of messages that the call has not taken; then the client is not read from.
const PIECES_MAX: usize = 4;
/// Time a call may leave messages waiting.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Orders from the reading direction that wait to be written.
const ORDERS_MAX: usize = 4;
/// Longest part of a message that is kept for more, or copied together with others into one write, in
/// bytes.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// Time for the end: ours to be sent, the client's to come.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// What separates the messages in the body: JSON documents need not be, but may be, apart.
const SEPARATOR: Bytes = Bytes::from_static(b"\n");

/// A request whose connection becomes a websocket, if the answer says so.
pub(in crate::api) struct Opening {
    request: Request<()>,
    context: CallContext,
    message_bytes_max: usize,
}

impl Opening {
    /// What a request that asks for a websocket would open.
    pub(in crate::api) fn of<B>(request: &Request<B>, context: &CallContext) -> Self {
        let context = CallContext { websocket: Websocket::Open, ..context.clone() };
        Self { request: handshake::post(request), context, message_bytes_max: 0 }
    }

    /// The same once the answer is there; `None` where it keeps the connection as it is.
    pub(in crate::api) fn accepted(self, answer: &Response<HttpBody>) -> Option<Self> {
        let Accepted { message_bytes_max } = *answer.extensions().get::<Accepted>()?;
        Some(Self { message_bytes_max, ..self })
    }
}

/// Serves a websocket until it ends; `received` was read already.
pub(in crate::api) async fn serve<IO>(
    io: IO,
    received: Bytes,
    opening: Opening,
    environment: &Environment,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut ticket = environment.drain.ticket();
    let overdue = async {
        ticket.begun().await;
        tokio::time::sleep(environment.limits.drain_timeout).await;
    };
    tokio::select! {
        () = talk(io, received, opening, environment) => {}
        () = overdue => {}
    }
}

async fn talk<IO>(io: IO, received: Bytes, opening: Opening, environment: &Environment)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (pieces, body) = body();
    let Opening { request, context, message_bytes_max } = opening;
    let answer = environment.http.handle(request.map(|()| body), context);
    let (reader, writer) = tokio::io::split(io);
    let (orders, received_orders) = mpsc::channel(ORDERS_MAX);
    let mut reader = Reader {
        io: reader,
        input: received.into(),
        decoder: Decoder::new(message_bytes_max),
        idle: environment.http1.websocket_idle,
    };
    let mut writer = Writer { io: writer, out: Vec::new(), rest: Vec::new(), is_open: false };
    let ticket = environment.drain.ticket();
    let sent = tokio::select! {
        biased;
        // The client is gone.
        () = reader.run(pieces, orders) => return,
        sent = writer.run(Answer::of(answer), received_orders, ticket) => sent,
    };
    if sent.is_ok() {
        // The call is over. A connection closed with bytes unread would take our last ones back, so
        // the client closes first, if it does soon.
        let end = async {
            writer.io.shutdown().await?;
            reader.discard().await
        };
        let _ = timeout(CLOSE_TIMEOUT, end).await;
    }
}

/// A body and where its pieces come from.
fn body() -> (mpsc::Sender<Bytes>, HttpBody) {
    let (sender, mut receiver) = mpsc::channel(PIECES_MAX);
    let pieces = stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    });
    (sender, StreamBody::new(pieces).boxed_unsync())
}

/// What the reading direction wants said to the client.
enum Order {
    Ping,
    Pong(Bytes),
    Close(Option<u16>, &'static str),
}

/// The client's bytes.
struct Reader<IO> {
    io: IO,
    input: BytesMut,
    decoder: Decoder,
    /// Silence after which the client is asked, and again after which it is given up.
    idle: Duration,
}

impl<IO: AsyncRead + Unpin> Reader<IO> {
    /// Passes on what comes; returns when nobody is there any more, on either side.
    async fn run(&mut self, pieces: mpsc::Sender<Bytes>, orders: mpsc::Sender<Order>) {
        let close = self.until_close(pieces, &orders).await;
        if let Some((code, reason)) = close {
            let _ = orders.send(Order::Close(code, reason)).await;
            orders.closed().await;
        }
    }

    /// Passes on what comes until it is time to say why no more is taken; `None`: to nobody.
    async fn until_close(
        &mut self,
        pieces: mpsc::Sender<Bytes>,
        orders: &mpsc::Sender<Order>,
    ) -> Option<(Option<u16>, &'static str)> {
        let mut pieces = Some(pieces);
        loop {
            match self.decoder.next(&mut self.input) {
                Err(violation) => return Some((Some(violation.code), violation.reason)),
                Ok(None) => self.fill(orders).await?,
                Ok(Some(Event::Close(code))) => return Some((code, "")),
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Ping(payload))) => orders.send(Order::Pong(payload)).await.ok()?,
                Ok(Some(Event::Data { bytes, ends })) => {
                    // A call that wants no more gets none; what comes is dropped.
                    let Some(to) = &pieces else { continue };
                    match timeout(TAKE_TIMEOUT, pass(to, bytes, ends)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(Over)) => pieces = None,
                        Err(_) => {
                            let reason = "the call takes no more messages: try again later";
                            return Some((Some(code::TRY_AGAIN), reason));
                        }
                    }
                }
            }
        }
    }

    /// Reads more; `None` when the client has gone or says nothing though asked.
    async fn fill(&mut self, orders: &mpsc::Sender<Order>) -> Option<()> {
        let mut asked = false;
        loop {
            self.input.reserve(READ_BYTES);
            match timeout(self.idle, self.io.read_buf(&mut self.input)).await {
                Ok(read) => return read.ok().filter(|length| *length > 0).map(drop),
                Err(_) if asked => return None,
                Err(_) => {
                    asked = true;
                    orders.send(Order::Ping).await.ok()?;
                }
            }
        }
    }

    /// Reads and forgets until the client closes.
    async fn discard(&mut self) -> io::Result<()> {
        loop {
            self.input.clear();
            self.input.reserve(READ_BYTES);
            if self.io.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
        }
    }
}

/// The call takes nothing more.
struct Over;

async fn pass(to: &mpsc::Sender<Bytes>, bytes: Bytes, ends: bool) -> Result<(), Over> {
    if !bytes.is_empty() {
        to.send(bytes).await.map_err(|_| Over)?;
    }
    if ends {
        to.send(SEPARATOR).await.map_err(|_| Over)?;
    }
    Ok(())
}

/// The answer to the POST: its bytes, whatever its status is.
struct Answer {
    coming: Option<LocalBoxFuture<'static, Response<HttpBody>>>,
    body: Option<HttpBody>,
}

impl Answer {
    fn of(coming: LocalBoxFuture<'static, Response<HttpBody>>) -> Self {
        Self { coming: Some(coming), body: None }
    }

    /// The next piece; `None` at the end. Loses nothing when dropped.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(coming) = &mut self.coming {
            self.body = Some(coming.await.into_body());
            self.coming = None;
        }
        match &mut self.body {
            Some(body) => next_piece(body).await,
            None => Ok(None),
        }
    }
}

/// Our bytes.
struct Writer<IO> {
    io: IO,
    /// Frames not written yet.
    out: Vec<u8>,
    /// The start, or a later part, of a line whose end is to come; at most [`COPY_BYTES_MAX`].
    rest: Vec<u8>,
    /// A message has begun to go out whose end is to come.
    is_open: bool,
}

impl<IO: AsyncWrite + Unpin> Writer<IO> {
    /// Sends the answer and what is ordered, and last of all the end.
    async fn run(
        &mut self,
        mut answer: Answer,
        mut orders: mpsc::Receiver<Order>,
        mut ticket: DrainTicket,
    ) -> io::Result<()> {
        let (code, reason) = loop {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => match order {
                    Order::Ping => frame::put_control(&mut self.out, Kind::Ping, b""),
                    Order::Pong(payload) => {
                        frame::put_control(&mut self.out, Kind::Pong, &payload);
                    }
                    Order::Close(code, reason) => break (code, reason),
                },
                () = ticket.begun() => break (Some(code::GOING_AWAY), "the server stops"),
                piece = answer.next() => match piece {
                    Ok(Some(piece)) => self.lines(piece).await?,
                    Ok(None) => {
                        self.part(b"", true).await?;
                        break (Some(code::NORMAL), "");
                    }
                    Err(_) => break (Some(code::INTERNAL), "the answer was cut short"),
                },
            }
            self.flush().await?;
        };
        frame::put_close(&mut self.out, code, reason);
        self.flush().await
    }

    /// Sends the lines that are whole, and keeps a short start of the next.
    async fn lines(&mut self, mut piece: Bytes) -> io::Result<()> {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            self.part(&piece[..end], true).await?;
            piece = piece.slice(end + 1..);
        }
        self.part(&piece, false).await
    }

    /// Sends a part of a line, the last one if it `ends`. A line is a message; an empty one is none. A
    /// long one goes out in fragments as it comes, so that no answer is held here.
    async fn part(&mut self, bytes: &[u8], ends: bool) -> io::Result<()> {
        let length = self.rest.len() + bytes.len();
        if !ends && length <= COPY_BYTES_MAX {
            self.rest.extend_from_slice(bytes);
            return Ok(());
        }
        if length == 0 && !self.is_open {
            return Ok(());
        }
        let kind = if self.is_open { Kind::Continuation } else { Kind::Text };
        frame::put_head(&mut self.out, kind, ends, length);
        self.is_open = !ends;
        self.out.append(&mut self.rest);
        if bytes.len() > COPY_BYTES_MAX {
            self.write_out().await?;
            return self.io.write_all(bytes).await;
        }
        self.out.extend_from_slice(bytes);
        if self.out.len() > COPY_BYTES_MAX { self.write_out().await } else { Ok(()) }
    }

    async fn write_out(&mut self) -> io::Result<()> {
        self.io.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.write_out().await?;
        self.io.flush().await
    }
}
