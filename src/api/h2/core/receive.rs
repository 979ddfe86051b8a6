//! What each frame of the client does.

use std::{rc::Rc, time::Instant};

use super::{
    super::{
        frame::{
            self, ErrorCode, FrameHead, PeerSettings, WINDOW_MAX, flag, kind, without_padding,
        },
        head::RequestHead,
    },
    Core, DRAIN_PING, Drain, Event, KEEPALIVE_PING, NO_TAG, RECENTLY_CLOSED_MAX, Violation,
    stream::Stream,
};

/// A header block that goes on in CONTINUATION frames.
pub(super) struct Assembly {
    stream: u32,
    end: bool,
    block: Vec<u8>,
    continuations: u32,
}

/// A header block that left the dynamic table alone, and its head.
pub(super) struct Memo {
    generation: u64,
    block: Box<[u8]>,
    head: Rc<RequestHead>,
}

/// Longest block worth remembering, in bytes.
const MEMO_BYTES_MAX: usize = 256;
/// Window updates below this many bytes are charged while they make us send in crumbs.
const WINDOW_CRUMB_BYTES: u32 = 256;
/// Streams adjusted for the price of one idle frame when the client changes all windows.
const STREAMS_PER_CHARGE: usize = 64;

const PROTOCOL: ErrorCode = ErrorCode::Protocol;
const FRAME_SIZE: ErrorCode = ErrorCode::FrameSize;

type Outcome<'i> = Result<Option<Event<'i>>, Violation>;

impl Core {
    pub(super) fn frame<'i>(
        &mut self,
        head: FrameHead,
        payload: &'i [u8],
        now: Instant,
    ) -> Outcome<'i> {
        if self.assembly.is_some() && head.kind != kind::CONTINUATION {
            return Err(Violation(PROTOCOL, "header block interrupted"));
        }
        if !self.settings_seen && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Violation(PROTOCOL, "settings must come first"));
        }
        match head.kind {
            kind::DATA => self.data(head, payload, now),
            kind::HEADERS => self.headers(head, payload, now),
            kind::CONTINUATION => self.continuation(head, payload, now),
            kind::RST_STREAM => self.rst_stream(head, payload, now),
            kind::WINDOW_UPDATE => self.window_update(head, payload, now),
            kind::SETTINGS => self.settings(head, payload, now).map(|()| None),
            kind::PING => self.pinged(head, payload, now).map(|()| None),
            kind::PRIORITY if head.stream == 0 => Err(Violation(PROTOCOL, "priority of nothing")),
            kind::PRIORITY if head.length != 5 => {
                self.guard.idle_frame(1, now)?;
                self.stream_error(head.stream, FRAME_SIZE, now)
            }
            kind::PUSH_PROMISE => Err(Violation(PROTOCOL, "clients do not push")),
            kind::GOAWAY if head.stream != 0 || head.length < 8 => {
                Err(Violation(PROTOCOL, "bad goaway"))
            }
            // Priorities are deprecated, a client's GOAWAY only concerns pushes, and unknown
            // types are for extensions.
            _ => Ok(self.guard.idle_frame(1, now).map(|()| None)?),
        }
    }

    fn headers<'i>(&mut self, head: FrameHead, payload: &'i [u8], now: Instant) -> Outcome<'i> {
        if head.stream.is_multiple_of(2) {
            return Err(Violation(PROTOCOL, "stream number must be odd"));
        }
        let mut block = without_padding(head, payload)
            .ok_or(Violation(PROTOCOL, "padding longer than the frame"))?;
        if head.has(flag::PRIORITY) {
            block = block.get(5..).ok_or(Violation(FRAME_SIZE, "headers too short"))?;
        }
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, end, block, now);
        }
        let block = block.to_vec();
        self.assembly = Some(Assembly { stream: head.stream, end, block, continuations: 0 });
        Ok(None)
    }

    fn continuation<'i>(
        &mut self,
        head: FrameHead,
        payload: &'i [u8],
        now: Instant,
    ) -> Outcome<'i> {
        let Some(mut assembly) = self.assembly.take_if(|open| open.stream == head.stream) else {
            return Err(Violation(PROTOCOL, "continuation of nothing"));
        };
        assembly.continuations += 1;
        assembly.block.extend_from_slice(payload);
        if assembly.continuations > self.limits.continuations_max
            || assembly.block.len() > self.limits.header_block_bytes_max
        {
            return Err(Violation(ErrorCode::EnhanceYourCalm, "header block too large"));
        }
        if head.has(flag::END_HEADERS) {
            return self.block(assembly.stream, assembly.end, &assembly.block, now);
        }
        self.assembly = Some(assembly);
        Ok(None)
    }

    /// A complete header block: a request, or trailers. Always decoded, since the tables of
    /// both sides must stay equal whatever becomes of the stream.
    fn block<'i>(&mut self, stream: u32, end: bool, block: &[u8], now: Instant) -> Outcome<'i> {
        if stream > self.last_stream {
            return self.request(stream, end, block, now);
        }
        self.decode(block)?;
        let Some(open) = self.streams.get_mut(&stream) else {
            return self.frame_of_closed(stream, now);
        };
        if !open.remote_open {
            return self.stream_error(stream, ErrorCode::StreamClosed, now);
        }
        if !end || open.content_left.is_some_and(|left| left > 0) {
            return self.stream_error(stream, PROTOCOL, now);
        }
        open.remote_open = false;
        Ok(Some(Event::Data { stream, tag: open.tag, bytes: &[], end: true }))
    }

    /// Decodes into `fields`; `false` when the list is too long.
    fn decode(&mut self, block: &[u8]) -> Result<bool, Violation> {
        self.fields.clear();
        self.generation_before = self.decoder.generation();
        self.decoder
            .decode(block, self.limits.header_list_bytes_max, &mut self.fields)
            .map_err(|_| Violation(ErrorCode::Compression, "bad header block"))
    }

    fn request<'i>(&mut self, stream: u32, end: bool, block: &[u8], now: Instant) -> Outcome<'i> {
        let remembered = self.remembered(block);
        if remembered.is_none() && !self.decode(block)? {
            self.last_stream = stream;
            self.guard.reset(now)?;
            self.refuse_long_list(stream, end);
            return Ok(None);
        }
        if self.drain == Drain::Final {
            return Ok(None); // above the GOAWAY's last stream: the client tries elsewhere
        }
        self.last_stream = stream;
        let head = match remembered {
            Some(head) => head,
            None => match RequestHead::from_fields(&self.fields) {
                Ok(head) => self.remember(block, head),
                Err(_) => return self.refuse(stream, PROTOCOL, now),
            },
        };
        if end && head.content_length.is_some_and(|length| length > 0) {
            return self.refuse(stream, PROTOCOL, now);
        }
        if self.streams.len() >= self.limits.streams_max as usize {
            return self.refuse(stream, ErrorCode::RefusedStream, now);
        }
        let open = Stream {
            tag: NO_TAG,
            remote_open: !end,
            head_sent: false,
            unary: false,
            whole: false,
            queued: false,
            wants_room: false,
            send_window: self.stream_send_window,
            receive_window: i64::from(self.limits.stream_window_bytes),
            owed: 0,
            content_left: head.content_length,
            pending: std::collections::VecDeque::new(),
            pending_bytes: 0,
            end: None,
        };
        self.streams.insert(stream, open);
        Ok(Some(Event::Request { stream, head, end }))
    }

    fn remembered(&self, block: &[u8]) -> Option<Rc<RequestHead>> {
        let generation = self.decoder.generation();
        let same = |memo: &&Memo| memo.generation == generation && *memo.block == *block;
        self.memos.iter().flatten().find(same).map(|memo| Rc::clone(&memo.head))
    }

    /// Shares the head, and keeps it for equal blocks when it does not depend on this one's
    /// place: the block was decoded just now without changing the table.
    fn remember(&mut self, block: &[u8], head: RequestHead) -> Rc<RequestHead> {
        let head = Rc::new(head);
        let generation = self.decoder.generation();
        if generation == self.generation_before && block.len() <= MEMO_BYTES_MAX {
            let memo = Memo { generation, block: block.into(), head: Rc::clone(&head) };
            if let Some(slot) = self.memos.get_mut(self.next_memo) {
                *slot = Some(memo);
            }
            self.next_memo = (self.next_memo + 1) % self.memos.len();
        }
        head
    }

    fn data<'i>(&mut self, head: FrameHead, payload: &'i [u8], now: Instant) -> Outcome<'i> {
        let stream = head.stream;
        if stream == 0 || stream > self.last_stream && self.drain != Drain::Final {
            return Err(Violation(PROTOCOL, "data without a stream"));
        }
        let bytes = without_padding(head, payload)
            .ok_or(Violation(PROTOCOL, "padding longer than the frame"))?;
        self.charge_connection(head.length)?;
        let end = head.has(flag::END_STREAM);
        if bytes.is_empty() && !end {
            self.guard.idle_frame(1, now)?;
        }
        let Some(open) = self.streams.get_mut(&stream) else {
            return self.frame_of_closed(stream, now);
        };
        if !open.remote_open {
            return self.stream_error(stream, ErrorCode::StreamClosed, now);
        }
        open.receive_window -= signed(head.length);
        if open.receive_window < 0 {
            return self.stream_error(stream, ErrorCode::FlowControl, now);
        }
        if let Some(left) = open.content_left {
            match left.checked_sub(bytes.len() as u64) {
                Some(left) if left == 0 || !end => open.content_left = Some(left),
                _ => return self.stream_error(stream, PROTOCOL, now),
            }
        }
        open.remote_open = !end;
        let tag = open.tag;
        if head.length > bytes.len() {
            self.release(stream, head.length - bytes.len());
        }
        Ok(Some(Event::Data { stream, tag, bytes, end }))
    }

    /// Counts received bytes against the connection's window and gives them back at once: what
    /// the streams hold is bounded by their own windows and by the owner's limits, and one
    /// stream that nobody reads must not stop the others.
    fn charge_connection(&mut self, length: usize) -> Result<(), Violation> {
        self.receive_window -= signed(length);
        if self.receive_window < 0 {
            return Err(Violation(ErrorCode::FlowControl, "connection window exceeded"));
        }
        self.owed += u32::try_from(length).unwrap_or_default();
        if self.owed >= self.limits.connection_window_bytes / 2 || self.owed >= 1 << 20 {
            frame::put_window_update(&mut self.out, 0, self.owed);
            self.receive_window += i64::from(self.owed);
            self.owed = 0;
        }
        Ok(())
    }

    fn rst_stream<'i>(&mut self, head: FrameHead, payload: &[u8], now: Instant) -> Outcome<'i> {
        if payload.len() != 4 {
            return Err(Violation(FRAME_SIZE, "reset of a wrong size"));
        }
        self.check_not_idle(head.stream)?;
        match self.drop_stream(head.stream) {
            Some(open) => {
                // One that had an answer is how a client ends a watch.
                if !open.head_sent {
                    self.guard.reset(now)?;
                }
                Ok((open.tag != NO_TAG).then_some(Event::Gone { tag: open.tag }))
            }
            None => Ok(self.guard.idle_frame(1, now).map(|()| None)?),
        }
    }

    fn window_update<'i>(&mut self, head: FrameHead, payload: &[u8], now: Instant) -> Outcome<'i> {
        let increment = match (payload.len(), frame::word(payload)) {
            (4, Some(word)) => word & 0x7fff_ffff,
            _ => return Err(Violation(FRAME_SIZE, "window update of a wrong size")),
        };
        if head.stream == 0 {
            match increment < WINDOW_CRUMB_BYTES {
                true if self.send_queue.is_empty() => self.guard.update(now)?,
                true => self.guard.idle_frame(1, now)?,
                false => {}
            }
            self.send_window += i64::from(increment);
            return match increment {
                0 => Err(Violation(PROTOCOL, "window update of nothing")),
                _ if self.send_window > WINDOW_MAX => {
                    Err(Violation(ErrorCode::FlowControl, "window too large"))
                }
                _ => Ok(None),
            };
        }
        self.check_not_idle(head.stream)?;
        let Some(open) = self.streams.get_mut(&head.stream) else {
            // A stream that ended meanwhile.
            return Ok(self.guard.update(now).map(|()| None)?);
        };
        if increment == 0 {
            return self.stream_error(head.stream, PROTOCOL, now);
        }
        match increment < WINDOW_CRUMB_BYTES {
            true if open.pending_bytes == 0 => self.guard.update(now)?,
            true => self.guard.idle_frame(1, now)?,
            false => {}
        }
        open.send_window += i64::from(increment);
        if open.send_window > WINDOW_MAX {
            return self.stream_error(head.stream, ErrorCode::FlowControl, now);
        }
        if open.pending_bytes > 0 && !open.queued {
            open.queued = true;
            self.send_queue.push_back(head.stream);
            self.held.opened(head.stream, now);
        }
        Ok(None)
    }

    fn check_not_idle(&self, stream: u32) -> Result<(), Violation> {
        if stream == 0 || stream > self.last_stream && self.drain != Drain::Final {
            return Err(Violation(PROTOCOL, "frame of an idle stream"));
        }
        Ok(())
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8], now: Instant) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(Violation(PROTOCOL, "settings of a stream"));
        }
        if head.has(flag::ACK) {
            return match head.length {
                0 => Ok(self.guard.idle_frame(1, now)?),
                _ => Err(Violation(FRAME_SIZE, "settings answer with content")),
            };
        }
        let settings =
            PeerSettings::parse(payload).map_err(|code| Violation(code, "bad settings"))?;
        if self.settings_seen {
            self.guard.idle_frame(1, now)?;
        }
        self.settings_seen = true;
        if let Some(bytes) = settings.header_table_bytes {
            self.encoder.set_table_bytes(bytes);
        }
        if let Some(bytes) = settings.frame_bytes {
            self.frame_bytes_max = bytes as usize;
        }
        if let Some(window) = settings.initial_window {
            self.change_windows(i64::from(window), now)?;
        }
        frame::put_settings_ack(&mut self.out);
        Ok(())
    }

    /// Applies a new initial window to all streams; windows may become negative.
    fn change_windows(&mut self, window: i64, now: Instant) -> Result<(), Violation> {
        let change = window - self.stream_send_window;
        self.stream_send_window = window;
        if change == 0 || self.streams.is_empty() {
            return Ok(());
        }
        let cost = u32::try_from(self.streams.len() / STREAMS_PER_CHARGE).unwrap_or(u32::MAX);
        self.guard.idle_frame(cost, now)?;
        for (&stream, open) in &mut self.streams {
            open.send_window += change;
            if open.send_window > WINDOW_MAX {
                return Err(Violation(ErrorCode::FlowControl, "window too large"));
            }
            if open.pending_bytes > 0 && !open.queued && open.send_window > 0 {
                open.queued = true;
                self.send_queue.push_back(stream);
                self.held.opened(stream, now);
            }
        }
        Ok(())
    }

    fn pinged(&mut self, head: FrameHead, payload: &[u8], now: Instant) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(Violation(PROTOCOL, "ping of a stream"));
        }
        let Ok(opaque) = <[u8; 8]>::try_from(payload) else {
            return Err(Violation(FRAME_SIZE, "ping of a wrong size"));
        };
        if !head.has(flag::ACK) {
            self.guard.ping(now)?;
            frame::put_ping(&mut self.out, opaque, true);
            return Ok(());
        }
        match opaque {
            DRAIN_PING if self.drain == Drain::Announced => self.finish_drain(),
            KEEPALIVE_PING => self.pongs = self.pongs.wrapping_add(1),
            _ => {}
        }
        Ok(self.guard.idle_frame(1, now)?)
    }

    /// A frame of a stream that is no more. Ours to ignore when we closed it: the client did not
    /// know yet.
    fn frame_of_closed<'i>(&mut self, stream: u32, now: Instant) -> Outcome<'i> {
        if stream > self.last_stream || self.recently_closed.contains(&stream) {
            return Ok(None);
        }
        self.guard.reset(now)?;
        self.reset_stream(stream, ErrorCode::StreamClosed);
        Ok(None)
    }

    /// Refuses a stream that never opened.
    fn refuse<'i>(&mut self, stream: u32, code: ErrorCode, now: Instant) -> Outcome<'i> {
        self.guard.reset(now)?;
        self.reset_stream(stream, code);
        Ok(None)
    }

    /// Resets a stream because of what the client sent.
    fn stream_error<'i>(&mut self, stream: u32, code: ErrorCode, now: Instant) -> Outcome<'i> {
        self.guard.reset(now)?;
        let open = self.drop_stream(stream);
        self.reset_stream(stream, code);
        let owned = open.filter(|open| open.tag != NO_TAG);
        Ok(owned.map(|open| Event::Gone { tag: open.tag }))
    }

    /// Sends a reset and remembers it.
    pub(super) fn reset_stream(&mut self, stream: u32, code: ErrorCode) {
        frame::put_reset(&mut self.out, stream, code);
        self.ignore_stream(stream);
    }

    /// Whatever still comes of a stream that is no more is ignored.
    pub(super) fn ignore_stream(&mut self, stream: u32) {
        if self.recently_closed.len() >= RECENTLY_CLOSED_MAX {
            self.recently_closed.pop_front();
        }
        self.recently_closed.push_back(stream);
    }
}

/// Frame lengths are below 2^24.
fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
