//! A gRPC client over HTTP/2 that parses just enough of each frame.
//!
//! What is absent on purpose: TLS, priorities, push, and any table of half-closed streams. A
//! stream is known from its request to its end; frames of unknown streams are counted against
//! the connection window and dropped.
//!
//! Invariants:
//! - output never exceeds the windows the server granted: what does not fit waits, in order;
//! - header blocks are decoded in the order they came, even those of unknown streams, because
//!   the table is shared;
//! - a PING or SETTINGS frame is always acknowledged.
//!
//! Source: RFC 9113; gRPC over HTTP/2, <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::collections::VecDeque;

use super::{
    Event, Failure, METHODS, Method, Outcome, WireError,
    hpack::{Decoder, Encoder, Fields, TABLE_BYTES},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// Largest frame either side sends unless agreed otherwise; we agree nothing else.
const FRAME_BYTES_MAX: usize = 16_384;
/// A header block above this is refused: a status with its message is far smaller.
const HEADER_BLOCK_BYTES_MAX: usize = 256 * 1024;
/// Prefix of a gRPC message: a compression flag and a length.
pub(crate) const MESSAGE_PREFIX_BYTES: usize = 5;
/// Window both sides start with, in bytes (RFC 9113 section 6.9.2).
const DEFAULT_WINDOW_BYTES: i64 = 65_535;
/// What we let the server send on one stream ahead of us: no benchmark answer is larger.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// What we let the server send on the connection ahead of us.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// Streams a server that names no limit is asked for at most.
const STREAMS_MAX: usize = 1 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

const SETTING_TABLE_SIZE: u16 = 1;
const SETTING_PUSH: u16 = 2;
const SETTING_STREAMS: u16 = 3;
const SETTING_WINDOW: u16 = 4;

/// An open stream.
#[derive(Debug, Default)]
struct Stream {
    slot: u32,
    received: usize,
    /// Bytes received since the stream's window was last refilled.
    unacknowledged: u32,
    /// What we may still send.
    send_window: i64,
    fields: Fields,
}

/// A request body, or the rest of one, that waits for window.
#[derive(Debug)]
struct Waiting {
    id: u32,
    data: Vec<u8>,
    end: bool,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Grpc {
    /// Bytes to be written to the server.
    pub(crate) output: Vec<u8>,
    /// The start of a frame that has not arrived whole.
    rest: Vec<u8>,
    encoder: Encoder,
    authority: String,
    blocks: [Option<Vec<u8>>; METHODS],
    decoder: Decoder,
    /// A header block that goes on in CONTINUATION frames: stream, flags, bytes.
    unfinished_block: Option<(u32, u8, Vec<u8>)>,
    /// Open streams by (id - oldest) / 2; the front is always open.
    streams: VecDeque<Option<Stream>>,
    oldest_id: u32,
    next_id: u32,
    settings_seen: bool,
    streams_max: usize,
    stream_window: i64,
    send_window: i64,
    waiting: VecDeque<Waiting>,
    /// Bytes received since the connection's window was last refilled.
    unacknowledged: u32,
    /// Bodies by slot, kept only when capturing.
    captured: Option<Vec<Vec<u8>>>,
}

impl Grpc {
    /// A connection to `authority` (`host:port`); its preface is in the output.
    pub(crate) fn new(authority: &str) -> Self {
        let mut output = PREFACE.to_vec();
        let mut settings = vec![];
        for (name, value) in [(SETTING_PUSH, 0), (SETTING_WINDOW, STREAM_WINDOW_BYTES)] {
            settings.extend_from_slice(&u16::to_be_bytes(name));
            settings.extend_from_slice(&u32::to_be_bytes(value));
        }
        frame(&mut output, SETTINGS, 0, 0, &settings);
        frame(&mut output, WINDOW_UPDATE, 0, 0, &CONNECTION_WINDOW_BYTES.to_be_bytes());
        Self {
            output,
            rest: vec![],
            encoder: Encoder::new(authority, TABLE_BYTES),
            authority: authority.to_owned(),
            blocks: Default::default(),
            decoder: Decoder::default(),
            unfinished_block: None,
            streams: VecDeque::new(),
            oldest_id: 1,
            next_id: 1,
            settings_seen: false,
            streams_max: STREAMS_MAX,
            stream_window: DEFAULT_WINDOW_BYTES,
            send_window: DEFAULT_WINDOW_BYTES,
            waiting: VecDeque::new(),
            unacknowledged: 0,
            captured: None,
        }
    }

    /// Keeps the bodies of `slots` slots and reports [`Event::Data`].
    pub(crate) fn capturing(mut self, slots: usize) -> Self {
        self.captured = Some(vec![vec![]; slots]);
        self
    }

    /// The captured body of a slot; the caller removes what it has used.
    pub(crate) fn captured(&mut self, slot: u32) -> Option<&mut Vec<u8>> {
        self.captured.as_mut()?.get_mut(usize::try_from(slot).ok()?)
    }

    /// Whether the server's settings arrived.
    pub(super) fn ready(&self) -> bool {
        self.settings_seen
    }

    /// How many streams the server allows at a time.
    pub(super) fn streams_max(&self) -> usize {
        self.streams_max
    }

    /// Opens a stream and sends one message; `end` says that no other follows. Returns the
    /// stream's id for [`Grpc::send`].
    pub(crate) fn open(&mut self, slot: u32, method: Method, message: &[u8], end: bool) -> u32 {
        let id = self.next_id;
        self.next_id += 2;
        if self.streams.is_empty() {
            self.oldest_id = id;
        }
        self.streams.push_back(Some(Stream {
            slot,
            send_window: self.stream_window,
            ..Stream::default()
        }));
        self.send_headers(id, method);
        self.send(id, message, end);
        id
    }

    fn send_headers(&mut self, id: u32, method: Method) {
        if let Some(block) = &self.blocks[method.index()] {
            frame(&mut self.output, HEADERS, END_HEADERS, id, block);
            return;
        }
        let (block, changes_table) = self.encoder.block(method.grpc_path());
        frame(&mut self.output, HEADERS, END_HEADERS, id, &block);
        if changes_table {
            self.blocks = Default::default();
        } else {
            self.blocks[method.index()] = Some(block);
        }
    }

    /// Sends one more message on a stream.
    pub(crate) fn send(&mut self, id: u32, message: &[u8], end: bool) {
        let total = message.len() + MESSAGE_PREFIX_BYTES;
        let window = self.stream(id).map_or(0, |stream| stream.send_window).min(self.send_window);
        let mut prefix = [0; MESSAGE_PREFIX_BYTES];
        prefix[1..].copy_from_slice(&u32_of(message.len()).to_be_bytes());
        if self.waiting.is_empty() && total <= FRAME_BYTES_MAX && i64_of(total) <= window {
            frame_header(&mut self.output, total, DATA, if end { END_STREAM } else { 0 }, id);
            self.output.extend_from_slice(&prefix);
            self.output.extend_from_slice(message);
            self.spend(id, total);
            return;
        }
        let mut data = prefix.to_vec();
        data.extend_from_slice(message);
        self.waiting.push_back(Waiting { id, data, end });
        self.send_waiting();
    }

    /// Sends what the windows now allow. A stream without window does not hold up the others.
    fn send_waiting(&mut self) {
        let mut kept = VecDeque::new();
        while let Some(mut item) = self.waiting.pop_front() {
            // A stream that ended meanwhile needs nothing more.
            while let Some(window) = self.stream(item.id).map(|stream| stream.send_window) {
                let room = usize::try_from(window.min(self.send_window)).unwrap_or(0);
                let length = room.min(FRAME_BYTES_MAX).min(item.data.len());
                if length == 0 {
                    break;
                }
                let last = length == item.data.len();
                let flags = if last && item.end { END_STREAM } else { 0 };
                frame(&mut self.output, DATA, flags, item.id, &item.data[..length]);
                self.spend(item.id, length);
                item.data.drain(..length);
                if last {
                    break;
                }
            }
            if !item.data.is_empty() && self.stream(item.id).is_some() {
                kept.push_back(item);
            }
        }
        self.waiting = kept;
    }

    fn spend(&mut self, id: u32, bytes: usize) {
        self.send_window -= i64_of(bytes);
        if let Some(stream) = self.stream(id) {
            stream.send_window -= i64_of(bytes);
        }
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        let index = id.checked_sub(self.oldest_id)? / 2;
        self.streams.get_mut(usize::try_from(index).ok()?)?.as_mut()
    }

    /// Takes bytes from the server.
    pub(crate) fn feed(&mut self, input: &[u8], events: &mut Vec<Event>) -> Result<(), WireError> {
        if self.rest.is_empty() {
            let used = self.frames(input, events)?;
            self.rest.extend_from_slice(&input[used..]);
        } else {
            let mut whole = std::mem::take(&mut self.rest);
            whole.extend_from_slice(input);
            let used = self.frames(&whole, events)?;
            whole.drain(..used);
            self.rest = whole;
        }
        Ok(())
    }

    /// Handles all whole frames; returns the bytes used.
    fn frames(&mut self, input: &[u8], events: &mut Vec<Event>) -> Result<usize, WireError> {
        let mut used = 0;
        while let Some((header, after)) = input[used..].split_at_checked(FRAME_HEADER_BYTES) {
            let length =
                usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            if length > FRAME_BYTES_MAX {
                return Err(WireError::Protocol("frame larger than agreed"));
            }
            let Some(payload) = after.get(..length) else { break };
            let id = u32_at(header, 5) & 0x7fff_ffff;
            self.frame(header[3], header[4], id, payload, events)?;
            used += FRAME_HEADER_BYTES + length;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), WireError> {
        if self.unfinished_block.is_some() && kind != CONTINUATION {
            return Err(WireError::Protocol("header block interrupted"));
        }
        match kind {
            DATA => self.on_data(flags, id, payload, events),
            HEADERS => {
                let skip = if flags & PRIORITY != 0 { 5 } else { 0 };
                let block = unpad(flags, payload)?
                    .get(skip..)
                    .ok_or(WireError::Protocol("HEADERS cut off"))?;
                self.on_headers(flags, id, block, events)
            }
            CONTINUATION => {
                let (start_id, start_flags, mut block) = self
                    .unfinished_block
                    .take()
                    .filter(|(start_id, ..)| *start_id == id)
                    .ok_or(WireError::Protocol("CONTINUATION without a start"))?;
                block.extend_from_slice(payload);
                if block.len() > HEADER_BLOCK_BYTES_MAX {
                    return Err(WireError::Protocol("header block too large"));
                }
                self.on_headers(
                    start_flags & !END_HEADERS | flags & END_HEADERS,
                    start_id,
                    &block,
                    events,
                )
            }
            RST_STREAM => {
                if payload.len() != 4 {
                    return Err(WireError::Protocol("RST_STREAM of a wrong length"));
                }
                self.end(id, events, |_| Err(Box::new(Failure::Reset(u32_at(payload, 0)))));
                Ok(())
            }
            SETTINGS => self.on_settings(flags, payload),
            PING if flags & ACK == 0 => {
                if payload.len() != 8 {
                    return Err(WireError::Protocol("PING of a wrong length"));
                }
                frame(&mut self.output, PING, ACK, 0, payload);
                Ok(())
            }
            GOAWAY => {
                let code = payload.get(4..8).ok_or(WireError::Protocol("GOAWAY cut off"))?;
                Err(WireError::GoAway(u32_at(code, 0)))
            }
            WINDOW_UPDATE => self.on_window_update(id, payload),
            PUSH_PROMISE => Err(WireError::Protocol("push was switched off")),
            // PRIORITY, acknowledgements and kinds unknown to us.
            _ => Ok(()),
        }
    }

    fn on_data(
        &mut self,
        flags: u8,
        id: u32,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), WireError> {
        let data = unpad(flags, payload)?;
        self.unacknowledged += u32_of(payload.len());
        if self.unacknowledged >= CONNECTION_WINDOW_BYTES / 2 {
            let refill = std::mem::take(&mut self.unacknowledged);
            frame(&mut self.output, WINDOW_UPDATE, 0, 0, &refill.to_be_bytes());
        }
        let Some(stream) = self.stream(id) else { return Ok(()) };
        stream.received += data.len();
        stream.unacknowledged += u32_of(payload.len());
        let slot = stream.slot;
        let refill = (stream.unacknowledged >= STREAM_WINDOW_BYTES / 2)
            .then(|| std::mem::take(&mut stream.unacknowledged));
        if let Some(refill) = refill {
            frame(&mut self.output, WINDOW_UPDATE, 0, id, &refill.to_be_bytes());
        }
        if !data.is_empty()
            && let Some(body) = self.captured(slot)
        {
            body.extend_from_slice(data);
            events.push(Event::Data { slot });
        }
        if flags & END_STREAM != 0 {
            // gRPC ends in trailers; an end without them carries no status.
            self.end(id, events, verdict);
        }
        Ok(())
    }

    fn on_headers(
        &mut self,
        flags: u8,
        id: u32,
        block: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), WireError> {
        if flags & END_HEADERS == 0 {
            self.unfinished_block = Some((id, flags, block.to_vec()));
            return Ok(());
        }
        let mut fields = self.stream(id).map(|s| std::mem::take(&mut s.fields)).unwrap_or_default();
        self.decoder.decode(block, &mut fields)?;
        if let Some(stream) = self.stream(id) {
            stream.fields = fields;
        }
        if flags & END_STREAM != 0 {
            self.end(id, events, verdict);
        }
        Ok(())
    }

    fn end(&mut self, id: u32, events: &mut Vec<Event>, outcome: impl Fn(&Stream) -> Outcome) {
        let Some(index) = id.checked_sub(self.oldest_id).and_then(|d| usize::try_from(d / 2).ok())
        else {
            return;
        };
        let Some(stream) = self.streams.get_mut(index).and_then(Option::take) else { return };
        while let Some(None) = self.streams.front() {
            self.streams.pop_front();
            self.oldest_id += 2;
        }
        let (slot, received) = (stream.slot, stream.received);
        events.push(Event::Done { slot, received, outcome: outcome(&stream) });
    }

    fn on_settings(&mut self, flags: u8, payload: &[u8]) -> Result<(), WireError> {
        if flags & ACK != 0 {
            return Ok(());
        }
        if !payload.len().is_multiple_of(6) {
            return Err(WireError::Protocol("SETTINGS of a wrong length"));
        }
        for setting in payload.chunks_exact(6) {
            let value = u32_at(setting, 2);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                // Before the first request only: afterwards the table is in use, and a smaller
                // one would have to be announced.
                SETTING_TABLE_SIZE if self.next_id == 1 => {
                    let size = usize::try_from(value).unwrap_or(usize::MAX);
                    self.encoder = Encoder::new(&self.authority, size);
                }
                SETTING_STREAMS => {
                    self.streams_max =
                        usize::try_from(value).map_or(STREAMS_MAX, |v| v.min(STREAMS_MAX));
                }
                SETTING_WINDOW => {
                    let change = i64::from(value) - self.stream_window;
                    self.stream_window += change;
                    for stream in self.streams.iter_mut().flatten() {
                        stream.send_window += change;
                    }
                }
                _ => {}
            }
        }
        self.settings_seen = true;
        frame(&mut self.output, SETTINGS, ACK, 0, &[]);
        self.send_waiting();
        Ok(())
    }

    fn on_window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), WireError> {
        if payload.len() != 4 {
            return Err(WireError::Protocol("WINDOW_UPDATE of a wrong length"));
        }
        let granted = i64::from(u32_at(payload, 0) & 0x7fff_ffff);
        if id == 0 {
            self.send_window += granted;
        } else if let Some(stream) = self.stream(id) {
            stream.send_window += granted;
        }
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
        Ok(())
    }
}

/// How the server says a call ended.
fn verdict(stream: &Stream) -> Outcome {
    let fields = &stream.fields;
    match (fields.status, fields.grpc_status) {
        (Some(200), Some(0)) => Ok(()),
        (Some(200) | None, Some(code)) => {
            Err(Box::new(Failure::Grpc(code, fields.message.clone())))
        }
        (Some(200) | None, None) => Err(Box::new(Failure::Unfinished)),
        (Some(status), _) => Err(Box::new(Failure::Http(status, fields.message.clone()))),
    }
}

fn unpad(flags: u8, payload: &[u8]) -> Result<&[u8], WireError> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (&padding, data) = payload.split_first().ok_or(WireError::Protocol("padding cut off"))?;
    let length = data
        .len()
        .checked_sub(usize::from(padding))
        .ok_or(WireError::Protocol("more padding than payload"))?;
    Ok(&data[..length])
}

fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    frame_header(output, payload.len(), kind, flags, id);
    output.extend_from_slice(payload);
}

fn frame_header(output: &mut Vec<u8>, length: usize, kind: u8, flags: u8, id: u32) {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..3].copy_from_slice(&u32_of(length).to_be_bytes()[1..]);
    header[3] = kind;
    header[4] = flags;
    header[5..].copy_from_slice(&id.to_be_bytes());
    output.extend_from_slice(&header);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u32_of(length: usize) -> u32 {
    u32::try_from(length).expect("frames and messages are far below 4 GiB")
}

fn i64_of(length: usize) -> i64 {
    i64::try_from(length).expect("frames and messages are far below 2^63")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a server may send for three calls: one fine, one refused, one reset.
    fn session() -> Vec<u8> {
        let mut bytes = vec![];
        frame(&mut bytes, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0]);
        frame(&mut bytes, SETTINGS, ACK, 0, &[]);
        frame(&mut bytes, PING, 0, 0, b"01234567");
        // Literal with indexing: grpc-status 0 becomes entry 62.
        let mut trailers = vec![0x40, 11];
        trailers.extend_from_slice(b"grpc-status\x010");
        frame(&mut bytes, HEADERS, END_HEADERS, 1, &[0x88]);
        frame(&mut bytes, DATA, 0, 1, b"\0\0\0\0\x03ab");
        frame(&mut bytes, DATA, PADDED, 1, b"\x02c..");
        frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 1, &trailers);
        frame(&mut bytes, WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]);
        // Trailers only, over two frames, with a message.
        let mut refused = vec![0x88, 0x00, 11];
        refused.extend_from_slice(b"grpc-status\x0214\x00\x0cgrpc-message\x04busy");
        frame(&mut bytes, HEADERS, END_STREAM, 3, &refused[..9]);
        frame(&mut bytes, CONTINUATION, END_HEADERS, 3, &refused[9..]);
        frame(&mut bytes, RST_STREAM, 0, 5, &[0, 0, 0, 8]);
        // Frames of a stream that is gone are dropped.
        frame(&mut bytes, DATA, END_STREAM, 5, b"late");
        frame(&mut bytes, HEADERS, END_HEADERS, 7, &[0x88]);
        frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 7, &[0xbe]);
        bytes
    }

    fn client() -> Grpc {
        let mut wire = Grpc::new("h:1").capturing(4);
        for slot in 0..4 {
            wire.open(slot, Method::Put, b"request", true);
        }
        wire.output.clear();
        wire
    }

    fn done(events: Vec<Event>) -> Vec<(u32, usize, Outcome)> {
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::Done { slot, received, outcome } => Some((slot, received, outcome)),
                Event::Data { .. } => None,
            })
            .collect()
    }

    fn check(chunks: &[&[u8]]) {
        let mut wire = client();
        let mut events = vec![];
        for chunk in chunks {
            wire.feed(chunk, &mut events).unwrap();
        }
        let want = vec![
            (0, 8, Ok(())),
            (1, 0, Err(Box::new(Failure::Grpc(14, "busy".into())))),
            (2, 0, Err(Box::new(Failure::Reset(8)))),
            (3, 0, Ok(())),
        ];
        assert_eq!(done(events), want);
        assert_eq!(wire.captured(0).unwrap().as_slice(), b"\0\0\0\0\x03abc");
        assert_eq!(wire.streams_max(), 100);
        assert!(wire.streams.is_empty() && wire.rest.is_empty());
        let mut acknowledged = vec![];
        frame(&mut acknowledged, SETTINGS, ACK, 0, &[]);
        frame(&mut acknowledged, PING, ACK, 0, b"01234567");
        assert_eq!(wire.output, acknowledged);
    }

    #[test]
    fn answers_split_at_any_one_point_mean_the_same() {
        let bytes = session();
        for at in 0..=bytes.len() {
            check(&[&bytes[..at], &bytes[at..]]);
        }
        check(&bytes.chunks(1).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn answers_split_anywhere_mean_the_same(sizes in prop::collection::vec(1_usize..40, 1..60)) {
            let bytes = session();
            let mut rest = bytes.as_slice();
            let mut chunks = vec![];
            for size in sizes {
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            check(&chunks);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = client().feed(&bytes, &mut vec![]);
        }

        #[test]
        fn arbitrary_frames_never_panic(
            frames in prop::collection::vec(
                (0_u8..12, any::<u8>(), 0_u32..9, prop::collection::vec(any::<u8>(), 0..40)), 0..20)
        ) {
            let mut wire = client();
            for (kind, flags, id, payload) in frames {
                let mut bytes = vec![];
                frame(&mut bytes, kind, flags, id, &payload);
                if wire.feed(&bytes, &mut vec![]).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_body_above_the_window_waits_and_goes_out_in_order() {
        let mut wire = Grpc::new("h:1");
        wire.output.clear();
        let message = vec![7; 200_000];
        wire.open(0, Method::Put, &message, true);
        wire.open(1, Method::Put, b"small", true);
        let mut sent = data_frames(&wire.output);
        assert_eq!(sent.iter().map(|(.., data)| data.len()).sum::<usize>(), 65_535);
        while sent.iter().filter(|(id, flags, _)| *id == 1 && flags & END_STREAM != 0).count() == 0
        {
            wire.output.clear();
            let mut grant = vec![];
            frame(&mut grant, WINDOW_UPDATE, 0, 0, &50_000_u32.to_be_bytes());
            frame(&mut grant, WINDOW_UPDATE, 0, 1, &50_000_u32.to_be_bytes());
            wire.feed(&grant, &mut vec![]).unwrap();
            let more = data_frames(&wire.output);
            assert!(!more.is_empty(), "a grant lets something out");
            sent.extend(more);
        }
        let first: Vec<u8> = sent.iter().filter(|f| f.0 == 1).flat_map(|f| f.2.clone()).collect();
        assert_eq!(first[MESSAGE_PREFIX_BYTES..], message);
        assert!(
            sent.iter().any(|(id, flags, data)| *id == 3
                && *flags == END_STREAM
                && data.ends_with(b"small"))
        );
    }

    fn data_frames(mut bytes: &[u8]) -> Vec<(u32, u8, Vec<u8>)> {
        let mut frames = vec![];
        while bytes.len() >= FRAME_HEADER_BYTES {
            let length = usize::try_from(u32_at(&[0, bytes[0], bytes[1], bytes[2]], 0)).unwrap();
            let (whole, after) = bytes.split_at(FRAME_HEADER_BYTES + length);
            if whole[3] == DATA {
                frames.push((u32_at(whole, 5), whole[4], whole[FRAME_HEADER_BYTES..].to_vec()));
            }
            bytes = after;
        }
        frames
    }

    #[test]
    fn broken_framing_ends_the_connection() {
        let mut large = vec![];
        frame_header(&mut large, FRAME_BYTES_MAX + 1, DATA, 0, 1);
        let mut goaway = vec![];
        frame(&mut goaway, GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11]);
        let mut interrupted = vec![];
        frame(&mut interrupted, HEADERS, 0, 1, &[0x88]);
        frame(&mut interrupted, DATA, 0, 1, b"x");
        assert!(matches!(client().feed(&large, &mut vec![]), Err(WireError::Protocol(_))));
        assert_eq!(client().feed(&goaway, &mut vec![]), Err(WireError::GoAway(11)));
        assert!(matches!(client().feed(&interrupted, &mut vec![]), Err(WireError::Protocol(_))));
    }

    #[test]
    fn an_end_without_status_is_a_failure() {
        let mut wire = client();
        let mut bytes = vec![];
        frame(&mut bytes, HEADERS, END_HEADERS, 1, &[0x88]);
        frame(&mut bytes, DATA, END_STREAM, 1, b"\0\0\0\0\0");
        let mut events = vec![];
        wire.feed(&bytes, &mut events).unwrap();
        assert_eq!(done(events), vec![(0, 5, Err(Box::new(Failure::Unfinished)))]);
    }
}
