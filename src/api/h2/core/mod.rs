//! The HTTP/2 server protocol without I/O: bytes in, events and bytes out.
//!
//! The owner feeds received bytes to [`Core::next`] and takes events one by one, answers with
//! the `send_*` and `finish` methods, and writes what [`Core::output`] holds. Time comes in as an
//! argument, so everything here can be tested and fuzzed without a clock or a socket.
//!
//! Invariants:
//! - no byte sequence panics, and each costs work in proportion to its length;
//! - nothing is sent beyond the client's windows;
//! - a client that takes what waits for it below the least rate loses it (`held`);
//! - output grows past [`OUTPUT_BYTES_SOFT`] only by heads, trailers and control frames; the owner
//!   stops reading at [`OUTPUT_BYTES_HARD`];
//! - after a connection error the only output left is a GOAWAY.
//!
//! Source: RFC 9113.

mod guard;
mod held;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::Instant,
};

use guard::{Flood, Guard};
use held::Held;
use receive::{Assembly, Memo};
pub(super) use stream::{End, NO_TAG};
use stream::{StreamHash, Streams};

use super::{
    frame::{self, ErrorCode, FrameHead, PREFACE, setting},
    head::RequestHead,
    hpack::{Decoder, Encoder, Field},
    limits::Limits,
};

/// Bodies are not moved to the output above this size.
pub(super) const OUTPUT_BYTES_SOFT: usize = 128 << 10;
/// The owner does not read above this size: the client makes us answer and does not listen.
pub(super) const OUTPUT_BYTES_HARD: usize = 1 << 20;
/// Streams we closed lately, whose frames may still be on the way.
const RECENTLY_CLOSED_MAX: usize = 128;
/// Content of the ping between the two GOAWAYs of a drain.
const DRAIN_PING: [u8; 8] = *b"drain\0\0\0";
/// Content of keepalive pings.
const KEEPALIVE_PING: [u8; 8] = *b"alive\0\0\0";
/// The largest stream number, in a GOAWAY that refuses nothing yet.
const STREAM_MAX: u32 = (1 << 31) - 1;

/// Something the client did that the owner must act on.
#[derive(Debug)]
pub(super) enum Event<'i> {
    /// A new stream; the owner attaches its number with [`Core::attach`].
    Request { stream: u32, head: Rc<RequestHead>, end: bool },
    /// Body bytes, perhaps none, and perhaps the end of the client's side. The owner gives the
    /// bytes back with [`Core::release`] once they are taken.
    Data { stream: u32, tag: u32, bytes: &'i [u8], end: bool },
    /// The stream is gone; nothing more can be sent on it.
    Gone { tag: u32 },
}

/// What [`Core::next`] found.
#[derive(Debug)]
pub(super) enum Step<'i> {
    Event(Event<'i>),
    /// More bytes are needed; the rest of the input must come again with them.
    Starved,
    /// The connection is over: write the output and close.
    Closed,
}

/// A connection error: the code and text of the GOAWAY.
#[derive(Debug, PartialEq, Eq)]
struct Violation(ErrorCode, &'static str);

impl From<Flood> for Violation {
    fn from(Flood(text): Flood) -> Self {
        Self(ErrorCode::EnhanceYourCalm, text)
    }
}

/// How far a graceful end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// A GOAWAY that refuses nothing is out, followed by a ping.
    Announced,
    /// Streams above the last one are refused.
    Final,
}

/// One connection's protocol state.
pub(super) struct Core {
    limits: Rc<Limits>,
    preface_left: &'static [u8],
    settings_seen: bool,
    closed: bool,
    drain: Drain,
    decoder: Decoder,
    encoder: Encoder,
    fields: Vec<Rc<Field>>,
    memos: [Option<Memo>; 4],
    next_memo: usize,
    /// The dynamic table's generation before the latest block.
    generation_before: u64,
    assembly: Option<Assembly>,
    streams: Streams,
    last_stream: u32,
    recently_closed: VecDeque<u32>,
    guard: Guard,
    receive_window: i64,
    owed: u32,
    send_window: i64,
    /// Window of new streams, by the client's settings.
    stream_send_window: i64,
    frame_bytes_max: usize,
    send_queue: VecDeque<u32>,
    unary_pending_bytes: usize,
    /// Bytes of all streams not yet moved to the output.
    queued_bytes: usize,
    /// See [`Core::set_pressed`].
    pressed: bool,
    /// Tags of streams with room again.
    roomy: Vec<u32>,
    out: Vec<u8>,
    out_sent: usize,
    /// The frame that further messages may join.
    growing: Option<send::Growing>,
    pongs: u32,
    held: Held,
}

impl Core {
    /// A connection whose client has yet to send its preface.
    pub(super) fn new(limits: Rc<Limits>, now: Instant) -> Self {
        let mut out = Vec::new();
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, limits.streams_max),
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
            (
                setting::MAX_HEADER_LIST_SIZE,
                u32::try_from(limits.header_list_bytes_max).unwrap_or(u32::MAX),
            ),
        ];
        frame::put_settings(&mut out, &settings);
        let window = i64::from(limits.connection_window_bytes).max(frame::WINDOW_DEFAULT);
        if let Ok(more @ 1..) = u32::try_from(window - frame::WINDOW_DEFAULT) {
            frame::put_window_update(&mut out, 0, more);
        }
        Self {
            preface_left: PREFACE,
            settings_seen: false,
            closed: false,
            drain: Drain::No,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            fields: Vec::new(),
            memos: [const { None }; 4],
            next_memo: 0,
            generation_before: 0,
            assembly: None,
            streams: HashMap::with_hasher(StreamHash::new()),
            last_stream: 0,
            recently_closed: VecDeque::new(),
            guard: Guard::new(&limits, now),
            receive_window: window,
            owed: 0,
            send_window: frame::WINDOW_DEFAULT,
            stream_send_window: frame::WINDOW_DEFAULT,
            frame_bytes_max: frame::FRAME_BYTES_DEFAULT,
            send_queue: VecDeque::new(),
            unary_pending_bytes: 0,
            queued_bytes: 0,
            pressed: false,
            roomy: Vec::new(),
            out,
            out_sent: 0,
            growing: None,
            pongs: 0,
            held: Held::default(),
            limits,
        }
    }

    /// Reads frames from the front of `input` until one is an event for the owner.
    pub(super) fn next<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Step<'i> {
        while !self.closed {
            if !self.preface_left.is_empty() {
                if let Err(violation) = self.preface(input) {
                    self.fail(violation);
                    break;
                }
                if !self.preface_left.is_empty() {
                    return Step::Starved;
                }
            }
            let Some(head) = FrameHead::parse(input) else { return Step::Starved };
            if head.length > frame::FRAME_BYTES_DEFAULT {
                self.fail(Violation(ErrorCode::FrameSize, "frame too large"));
                break;
            }
            let end = frame::HEAD_BYTES + head.length;
            let Some((whole, rest)) = input.split_at_checked(end) else { return Step::Starved };
            *input = rest;
            let payload = whole.get(frame::HEAD_BYTES..).unwrap_or_default();
            match self.frame(head, payload, now) {
                Ok(Some(event)) => return Step::Event(event),
                Ok(None) => {}
                Err(violation) => self.fail(violation),
            }
        }
        *input = &[];
        Step::Closed
    }

    fn preface(&mut self, input: &mut &[u8]) -> Result<(), Violation> {
        let length = self.preface_left.len().min(input.len());
        let (want, left) = self.preface_left.split_at(length);
        let (got, rest) = input.split_at(length);
        if got != want {
            return Err(Violation(ErrorCode::Protocol, "bad preface"));
        }
        self.preface_left = left;
        *input = rest;
        Ok(())
    }

    /// Ends the connection with a GOAWAY; all streams are lost.
    fn fail(&mut self, Violation(code, text): Violation) {
        if self.closed {
            return;
        }
        frame::put_goaway(&mut self.out, self.last_stream, code, text);
        self.closed = true;
        self.streams.clear();
        self.send_queue.clear();
        self.held = Held::default();
        (self.unary_pending_bytes, self.queued_bytes) = (0, 0);
        self.assembly = None;
    }

    /// Whether the connection is over but for its output.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the client's preface and first settings arrived.
    pub(super) fn is_ready(&self) -> bool {
        self.settings_seen
    }

    /// Closes from our side, for example because the client is silent.
    pub(super) fn close(&mut self, text: &'static str) {
        self.fail(Violation(ErrorCode::NoError, text));
    }

    /// Begins a graceful end: the client is told, and what it has sent meanwhile still counts.
    pub(super) fn begin_drain(&mut self) {
        if self.drain == Drain::No && !self.closed {
            self.drain = Drain::Announced;
            frame::put_goaway(&mut self.out, STREAM_MAX, ErrorCode::NoError, "");
            frame::put_ping(&mut self.out, DRAIN_PING, false);
        }
    }

    /// Refuses further streams: the client answered our ping, or had its time.
    pub(super) fn finish_drain(&mut self) {
        if self.drain == Drain::Announced && !self.closed {
            self.drain = Drain::Final;
            frame::put_goaway(&mut self.out, self.last_stream, ErrorCode::NoError, "");
        }
    }

    /// Whether a drain was announced and nothing is refused yet.
    pub(super) fn is_announced(&self) -> bool {
        self.drain == Drain::Announced
    }

    /// Whether a drain is over: nothing runs and nothing can come.
    pub(super) fn is_drained(&self) -> bool {
        self.drain == Drain::Final && self.streams.is_empty()
    }

    /// Asks the client whether it is there; [`Core::pongs`] counts the answers.
    pub(super) fn ping(&mut self) {
        frame::put_ping(&mut self.out, KEEPALIVE_PING, false);
    }

    /// Answers to our keepalive pings so far.
    pub(super) fn pongs(&self) -> u32 {
        self.pongs
    }
}
