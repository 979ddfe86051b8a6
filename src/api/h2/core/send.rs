//! Answers: heads, bodies under flow control, trailers.

use std::time::Instant;

use bytes::Bytes;

use super::{
    super::{
        super::service::Status,
        frame::{self, ErrorCode, FrameHead, close_frame, flag, kind, open_frame},
        grpc::{self, PREFIX_BYTES},
        hpack::Encoder,
    },
    Core, End, NO_TAG, OUTPUT_BYTES_SOFT,
    stream::{Chunk, Stream},
};

/// Largest DATA frame we send even when the client allows more: other streams wait for it.
const DATA_FRAME_BYTES_MAX: usize = 32 << 10;
/// A DATA frame at `start..end` of the output that messages of its stream may join.
#[derive(Debug)]
pub(super) struct Growing {
    stream: u32,
    start: usize,
    end: usize,
}

/// Send queue entries of dropped streams tolerated before the queue is cleaned.
const STALE_QUEUE_ENTRIES: usize = 64;

impl Core {
    /// Names the owner's number of a stream that was just requested.
    pub(in super::super) fn attach(&mut self, stream: u32, tag: u32, unary: bool) {
        if let Some(open) = self.streams.get_mut(&stream) {
            (open.tag, open.unary, open.whole) = (tag, unary, unary);
        }
    }

    /// The answer of a stream that is not unary is there as a whole too.
    pub(in super::super) fn set_whole(&mut self, stream: u32) {
        if let Some(open) = self.streams.get_mut(&stream) {
            open.whole = true;
        }
    }

    /// The owner took `bytes` of a stream's data: the client may send as many again.
    pub(in super::super) fn release(&mut self, stream: u32, bytes: usize) {
        let Some(open) = self.streams.get_mut(&stream).filter(|open| open.remote_open) else {
            return;
        };
        open.owed = open.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if open.owed >= self.limits.stream_window_bytes / 2 {
            frame::put_window_update(&mut self.out, stream, open.owed);
            open.receive_window += i64::from(open.owed);
            open.owed = 0;
        }
    }

    /// Answers a unary call. The common case is three frames written at once.
    pub(in super::super) fn send_unary(&mut self, stream: u32, message: Bytes) {
        let length = PREFIX_BYTES + message.len();
        let Some(open) = self.streams.get_mut(&stream) else { return };
        let window = self.send_window.min(open.send_window);
        let fits = i64::try_from(length).is_ok_and(|length| length <= window)
            && length <= self.frame_bytes_max.min(DATA_FRAME_BYTES_MAX)
            && self.out.len() < OUTPUT_BYTES_SOFT
            && open.pending.is_empty();
        if !fits {
            self.send_message(stream, message);
            self.finish(stream, End::Trailers(Ok(())));
            return;
        }
        self.send_window -= i64::try_from(length).unwrap_or_default();
        let head_sent = open.head_sent;
        self.out.reserve(length + 128);
        if !head_sent {
            self.grpc_head(stream);
        }
        FrameHead { length, kind: kind::DATA, flags: 0, stream }.put(&mut self.out);
        self.out.extend_from_slice(&grpc::prefix(&message));
        self.out.extend_from_slice(&message);
        self.close_stream(stream, &End::Trailers(Ok(())));
    }

    /// Sends or queues one message of a streaming answer, after its head if that is due.
    pub(in super::super) fn send_message(&mut self, stream: u32, message: Bytes) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        if !open.head_sent {
            open.head_sent = true;
            self.grpc_head(stream);
        }
        let prefix = grpc::prefix(&message);
        if !self.send_at_once(stream, prefix, &message) {
            self.queue(stream, Chunk::message(prefix, message));
        }
    }

    /// Sends or queues one message of a streaming answer that has begun; the stream's tag, and
    /// whether it has room for another. `None`: its answer is over, and the message is not sent.
    pub(in super::super) fn send_left(
        &mut self,
        stream: u32,
        message: &[u8],
    ) -> Option<(u32, bool)> {
        let open = self.streams.get(&stream).filter(|open| open.tag != NO_TAG && open.head_sent)?;
        let (tag, prefix) = (open.tag, grpc::prefix(message));
        if !self.send_at_once(stream, prefix, message) {
            self.queue(stream, Chunk::message(prefix, Bytes::copy_from_slice(message)));
        }
        Some((tag, self.has_room(stream)))
    }

    /// Writes a message that need not wait for anything, as one frame; `false` if it must queue.
    fn send_at_once(&mut self, stream: u32, prefix: [u8; PREFIX_BYTES], message: &[u8]) -> bool {
        let length = PREFIX_BYTES + message.len();
        let Some(open) = self.streams.get_mut(&stream) else { return false };
        let window = self.send_window.min(open.send_window);
        let fits = i64::try_from(length).is_ok_and(|length| length <= window)
            && length <= self.frame_bytes_max.min(DATA_FRAME_BYTES_MAX)
            && self.out.len() < OUTPUT_BYTES_SOFT
            && self.send_queue.is_empty()
            && open.pending.is_empty()
            && !open.unary
            && !self.pressed;
        if !fits {
            return false;
        }
        let moved = i64::try_from(length).unwrap_or_default();
        (open.send_window, self.send_window) = (open.send_window - moved, self.send_window - moved);
        self.out.reserve(frame::HEAD_BYTES + length);
        let start = self.growing_frame(stream, length);
        let start = start.unwrap_or_else(|| open_frame(&mut self.out, kind::DATA, 0, stream));
        self.out.extend_from_slice(&prefix);
        self.out.extend_from_slice(message);
        close_frame(&mut self.out, start);
        self.growing = Some(Growing { stream, start, end: self.out.len() });
        self.guard.sent(length);
        true
    }

    /// Where the frame begins that a further message of this stream may join: the last of the
    /// output, of which nothing is written. Clients count small frames and end a connection that
    /// brings many of them.
    fn growing_frame(&self, stream: u32, length: usize) -> Option<usize> {
        let growing = self.growing.as_ref().filter(|growing| growing.stream == stream)?;
        let payload = self.out.len() - growing.start - frame::HEAD_BYTES + length;
        let fits = payload <= self.frame_bytes_max.min(DATA_FRAME_BYTES_MAX);
        let is_last = growing.end == self.out.len() && growing.start >= self.out_sent;
        (fits && is_last).then_some(growing.start)
    }

    /// Sends or queues a piece of a plain body.
    pub(in super::super) fn send_body(&mut self, stream: u32, body: Bytes) {
        if !body.is_empty() {
            self.queue(stream, Chunk::body(body));
        }
    }

    /// Sends the head of a plain answer.
    pub(in super::super) fn send_plain_head<'h>(
        &mut self,
        stream: u32,
        status: u16,
        fields: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    ) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        open.head_sent = true;
        self.put_headers(stream, false, |encoder, out| {
            encoder.plain_head(out, status);
            for (name, value) in fields {
                Encoder::field(out, name, value);
            }
        });
    }

    /// Ends a stream's answer once everything queued is sent. The owner is done with it.
    pub(in super::super) fn finish(&mut self, stream: u32, end: End) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        open.tag = NO_TAG;
        if open.pending_bytes == 0 {
            self.close_stream(stream, &end);
        } else {
            open.end = Some(end);
        }
    }

    /// Gives a stream up without an answer.
    pub(in super::super) fn abort(&mut self, stream: u32, code: ErrorCode) {
        if self.drop_stream(stream).is_some() {
            self.reset_stream(stream, code);
        }
    }

    /// Whether a streaming answer may be queued: the stream has little waiting, and nothing at
    /// all while the connection, or its thread, has too much.
    pub(in super::super) fn has_room(&self, stream: u32) -> bool {
        let pressed = self.pressed || self.queued_bytes >= self.limits.answer_bytes_max;
        let limit = if pressed { 1 } else { self.limits.stream_answer_bytes_max };
        self.streams.get(&stream).is_none_or(|open| open.pending_bytes < limit)
    }

    /// Whether the connections of the thread together hold too many answers.
    pub(in super::super) fn set_pressed(&mut self, pressed: bool) {
        self.pressed = pressed;
    }

    /// Asks for the stream's tag in [`Core::take_roomy`] once half of its answers are sent.
    pub(in super::super) fn want_room(&mut self, stream: u32) {
        if let Some(open) = self.streams.get_mut(&stream) {
            open.wants_room = true;
        }
    }

    /// Tags of streams that have room again.
    pub(in super::super) fn take_roomy(&mut self, tags: &mut Vec<u32>) {
        tags.append(&mut self.roomy);
    }

    /// Memory of answers the client has not taken.
    pub(in super::super) fn held_bytes(&self) -> usize {
        self.queued_bytes + self.output().len()
    }

    /// Bytes of unary answers not yet moved to the output.
    pub(in super::super) fn unary_pending_bytes(&self) -> usize {
        self.unary_pending_bytes
    }

    /// What must be written.
    pub(in super::super) fn output(&self) -> &[u8] {
        self.out.get(self.out_sent..).unwrap_or_default()
    }

    /// The first `bytes` of the output were written.
    pub(in super::super) fn written(&mut self, bytes: usize) {
        self.out_sent += bytes;
        if self.out_sent >= self.out.len() {
            self.out.clear();
            self.out_sent = 0;
            self.growing = None;
        } else if self.out_sent >= OUTPUT_BYTES_SOFT {
            self.out.drain(..self.out_sent);
            self.out_sent = 0;
            self.growing = None;
        }
    }

    /// Lends the output buffer's memory while the connection is idle.
    pub(in super::super) fn swap_buffer(&mut self, buffer: &mut Vec<u8>) {
        if self.out.is_empty() && buffer.is_empty() {
            std::mem::swap(&mut self.out, buffer);
        }
    }

    /// Moves queued bodies to the output, a frame per stream in turn, as far as windows and
    /// the output's size allow.
    pub(in super::super) fn pump(&mut self, now: Instant) {
        let before = self.queued_bytes;
        self.move_queued(now);
        // Below it only falls, by what is sent.
        self.held.moved(before - self.queued_bytes, !self.send_queue.is_empty(), now);
    }

    fn move_queued(&mut self, now: Instant) {
        while self.output().len() < OUTPUT_BYTES_SOFT
            && let Some(stream) = self.send_queue.pop_front()
        {
            let Some(open) = self.streams.get_mut(&stream) else { continue };
            if open.send_window <= 0 {
                open.queued = false; // a window update queues it again
                if open.whole {
                    self.held.closed(stream, now, self.limits.pace());
                }
                continue;
            }
            if self.send_window <= 0 {
                self.send_queue.push_front(stream);
                break;
            }
            let length = self.send_data(stream);
            self.held.took(stream, length.moved, now);
            self.unary_pending_bytes -= length.unary;
            match length.left {
                0 => self.sent_all(stream),
                _ => self.send_queue.push_back(stream),
            }
        }
    }

    /// Whether [`Core::pump`] would move something.
    pub(in super::super) fn has_queued(&self) -> bool {
        !self.send_queue.is_empty()
            && self.send_window > 0
            && self.output().len() < OUTPUT_BYTES_SOFT
    }

    fn send_data(&mut self, stream: u32) -> Sent {
        let Some(open) = self.streams.get_mut(&stream) else { return Sent::default() };
        let window = usize::try_from(self.send_window.min(open.send_window)).unwrap_or_default();
        let frame_max = self.frame_bytes_max.min(DATA_FRAME_BYTES_MAX);
        let length = open.pending_bytes.min(window).min(frame_max);
        let last = length == open.pending_bytes && matches!(open.end, Some(End::Body));
        let flags = if last { flag::END_STREAM } else { 0 };
        FrameHead { length, kind: kind::DATA, flags, stream }.put(&mut self.out);
        let mut left = length;
        while left > 0
            && let Some(chunk) = open.pending.front_mut()
        {
            left -= chunk.move_to(&mut self.out, left);
            if chunk.len() == 0 {
                open.pending.pop_front();
            }
        }
        let moved = i64::try_from(length).unwrap_or_default();
        (open.send_window, self.send_window) = (open.send_window - moved, self.send_window - moved);
        open.pending_bytes -= length;
        self.queued_bytes -= length;
        if open.wants_room && open.pending_bytes <= self.limits.stream_answer_bytes_max / 2 {
            open.wants_room = false;
            if open.tag != NO_TAG {
                self.roomy.push(open.tag);
            }
        }
        self.guard.sent(length);
        let unary = if open.unary { length } else { 0 };
        Sent { left: open.pending_bytes, moved: length, unary }
    }

    fn sent_all(&mut self, stream: u32) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        open.queued = false;
        match open.end.take() {
            Some(End::Body) => self.forget(stream),
            Some(end) => self.close_stream(stream, &end),
            None => {}
        }
    }

    fn queue(&mut self, stream: u32, chunk: Chunk) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        open.pending_bytes += chunk.len();
        self.queued_bytes += chunk.len();
        if open.unary {
            self.unary_pending_bytes += chunk.len();
        }
        open.pending.push_back(chunk);
        // With a closed window too: the pump notes what waits for the client then.
        if !open.queued {
            open.queued = true;
            self.send_queue.push_back(stream);
        }
    }

    /// Writes the end of a stream whose bodies are all sent, and forgets it.
    fn close_stream(&mut self, stream: u32, end: &End) {
        let Some(open) = self.streams.get(&stream) else { return };
        let head_sent = open.head_sent;
        match end {
            End::Trailers(Ok(())) if head_sent => {
                self.put_headers(stream, true, |encoder, out| encoder.trailers_ok(out));
            }
            End::Trailers(Ok(())) => self.put_headers(stream, true, |encoder, out| {
                encoder.grpc_head(out);
                Encoder::field(out, b"grpc-status", b"0");
            }),
            End::Trailers(Err(status)) => self.failure(stream, head_sent, status),
            End::Body => {
                let flags = flag::END_STREAM;
                FrameHead { length: 0, kind: kind::DATA, flags, stream }.put(&mut self.out);
            }
        }
        self.forget(stream);
    }

    fn failure(&mut self, stream: u32, head_sent: bool, status: &Status) {
        let code = (status.code as u8).to_string();
        let message = grpc::percent_encoded(&status.message);
        self.put_headers(stream, true, |encoder, out| {
            if head_sent {
                encoder.trailers(out, &code, &message);
                return;
            }
            encoder.grpc_head(out);
            Encoder::field(out, b"grpc-status", code.as_bytes());
            Encoder::field(out, b"grpc-message", &message);
            if status.code == super::super::super::service::Code::Unimplemented {
                Encoder::field(out, b"grpc-accept-encoding", b"identity");
            }
        });
    }

    /// The answer is complete. A client that still sends is told to stop, unless the rest is known
    /// to be so short that it needs no more window: clients (curl 7.88) take a reset in the middle
    /// of a short upload for a failure, and what is on its way is ignored anyhow.
    fn forget(&mut self, stream: u32) {
        if let Some(open) = self.drop_stream(stream).filter(|open| open.remote_open) {
            let window = u64::try_from(open.receive_window).unwrap_or_default();
            if open.content_left.is_some_and(|left| left <= window) {
                self.ignore_stream(stream);
            } else {
                self.reset_stream(stream, ErrorCode::NoError);
            }
        }
        self.guard.answered();
    }

    /// Removes a stream from the table and its bytes from the counts.
    pub(super) fn drop_stream(&mut self, stream: u32) -> Option<Stream> {
        let open = self.streams.remove(&stream)?;
        self.held.dropped(stream);
        self.queued_bytes -= open.pending_bytes;
        if open.unary {
            self.unary_pending_bytes -= open.pending_bytes;
        }
        if open.queued && self.send_queue.len() > 2 * self.streams.len() + STALE_QUEUE_ENTRIES {
            let streams = &self.streams;
            self.send_queue.retain(|stream| streams.contains_key(stream));
        }
        Some(open)
    }

    fn grpc_head(&mut self, stream: u32) {
        if let Some(open) = self.streams.get_mut(&stream) {
            open.head_sent = true;
        }
        self.put_headers(stream, false, |encoder, out| encoder.grpc_head(out));
    }

    /// Answers a header list above the limit.
    pub(super) fn refuse_long_list(&mut self, stream: u32, client_ended: bool) {
        self.put_headers(stream, true, |encoder, out| encoder.plain_head(out, 431));
        if !client_ended {
            self.reset_stream(stream, ErrorCode::NoError);
        }
    }

    /// Writes one header block, in several frames if it is long.
    fn put_headers(
        &mut self,
        stream: u32,
        end: bool,
        block: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) {
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        let start = open_frame(&mut self.out, kind::HEADERS, flags, stream);
        block(&mut self.encoder, &mut self.out);
        self.guard.sent(0);
        let body = start + frame::HEAD_BYTES;
        if self.out.len() - body <= self.frame_bytes_max {
            close_frame(&mut self.out, start);
        } else {
            let block = self.out.split_off(body);
            self.out.truncate(start);
            self.split_headers(stream, end, &block);
        }
    }

    fn split_headers(&mut self, stream: u32, end: bool, block: &[u8]) {
        let last = block.len().div_ceil(self.frame_bytes_max) - 1;
        for (index, part) in block.chunks(self.frame_bytes_max).enumerate() {
            let kind = if index == 0 { kind::HEADERS } else { kind::CONTINUATION };
            let mut flags = if index == 0 && end { flag::END_STREAM } else { 0 };
            if index == last {
                flags |= flag::END_HEADERS;
            }
            FrameHead { length: part.len(), kind, flags, stream }.put(&mut self.out);
            self.out.extend_from_slice(part);
        }
    }
}

/// What sending one frame left behind.
#[derive(Default)]
struct Sent {
    /// Bytes still queued on the stream.
    left: usize,
    /// Bytes moved to the output.
    moved: usize,
    /// Bytes that no longer count as waiting unary answers.
    unary: usize,
}
