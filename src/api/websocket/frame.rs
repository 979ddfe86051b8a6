//! Frames of RFC 6455: what a client's bytes mean, and the bytes of a server's frames. Pure.
//!
//! Payload of messages is handed on as it arrives and never collected; only control frames, of at
//! most [`CONTROL_BYTES_MAX`], wait until they are whole. After a [`Violation`] a decoder is of no
//! use.

use bytes::{Buf as _, Bytes, BytesMut};

/// Payload of a control frame, in bytes. Source: RFC 6455 section 5.5.
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// What a frame is. Numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// Why a websocket ends. Source: RFC 6455 section 7.4.1.
pub(super) mod code {
    pub(in super::super) const NORMAL: u16 = 1000;
    pub(in super::super) const GOING_AWAY: u16 = 1001;
    pub(in super::super) const PROTOCOL: u16 = 1002;
    pub(in super::super) const TOO_LARGE: u16 = 1009;
    pub(in super::super) const INTERNAL: u16 = 1011;
    pub(in super::super) const TRY_AGAIN: u16 = 1013;
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes of a message.
    Data {
        /// They follow those of the event before.
        bytes: Bytes,
        /// The message is whole.
        ends: bool,
    },
    /// A question, to be answered with the same bytes.
    Ping(Bytes),
    /// An answer.
    Pong,
    /// The end, with the reason's code if the client gives one.
    Close(Option<u16>),
}

/// Bytes that are no websocket's. The websocket ends with this code and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

/// A breach of the protocol.
fn breach(reason: &'static str) -> Violation {
    Violation { code: code::PROTOCOL, reason }
}

/// Turns bytes into events.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Payload of one message, in bytes.
    message_bytes_max: u64,
    /// What is announced of the message under way; `None` between messages.
    message: Option<u64>,
    /// The frame of a message under way.
    frame: Option<Payload>,
}

/// What is to come of a frame.
#[derive(Debug)]
struct Payload {
    left: u64,
    mask: [u8; 4],
    last: bool,
}

/// The start of a frame.
struct Head {
    last: bool,
    kind: Kind,
    length: u64,
    mask: [u8; 4],
    /// Bytes of the head itself.
    bytes: usize,
}

impl Decoder {
    /// A decoder of messages with at most `message_bytes_max` bytes each.
    pub(super) fn new(message_bytes_max: usize) -> Self {
        let message_bytes_max = u64::try_from(message_bytes_max).unwrap_or(u64::MAX);
        Self { message_bytes_max, message: None, frame: None }
    }

    /// Takes the next event off the front of `input`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`Violation`]: the websocket must end.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Violation> {
        if self.frame.is_none() {
            let Some(head) = Head::read(input)? else { return Ok(None) };
            if head.kind as u8 >= Kind::Close as u8 {
                return control(&head, input);
            }
            self.begin(&head)?;
            input.advance(head.bytes);
        }
        Ok(self.payload(input))
    }

    /// Starts a frame of a message.
    fn begin(&mut self, head: &Head) -> Result<(), Violation> {
        let before = match (head.kind, self.message) {
            (Kind::Continuation, None) => {
                return Err(breach("continuation after final message frame"));
            }
            (Kind::Continuation, Some(before)) => before,
            (_, None) => 0,
            (_, Some(_)) => return Err(breach("message start before final message frame")),
        };
        let message = before.saturating_add(head.length);
        if message > self.message_bytes_max {
            return Err(Violation { code: code::TOO_LARGE, reason: "message too large" });
        }
        self.message = Some(message);
        self.frame = Some(Payload { left: head.length, mask: head.mask, last: head.last });
        Ok(())
    }

    /// Takes what is there of the frame under way.
    fn payload(&mut self, input: &mut BytesMut) -> Option<Event> {
        let frame = self.frame.as_mut()?;
        let here = usize::try_from(frame.left).unwrap_or(usize::MAX).min(input.len());
        if here == 0 && frame.left > 0 {
            return None;
        }
        let mut bytes = input.split_to(here);
        unmask(&mut bytes, frame.mask);
        frame.mask.rotate_left(here % 4);
        frame.left -= u64::try_from(here).unwrap_or(frame.left);
        let whole = frame.left == 0;
        let ends = whole && frame.last;
        if whole {
            self.frame = None;
        }
        if ends {
            self.message = None;
        }
        Some(Event::Data { bytes: bytes.freeze(), ends })
    }
}

impl Head {
    /// Reads a head without taking it off; `None` when it is not all there.
    fn read(input: &[u8]) -> Result<Option<Self>, Violation> {
        let Some((&[first, second], rest)) = input.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let last = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(breach("unexpected reserved bits"));
        }
        let kind = match first & 0x0f {
            0 => Kind::Continuation,
            1 => Kind::Text,
            2 => Kind::Binary,
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => return Err(breach("unknown opcode")),
        };
        if second & 0x80 == 0 {
            return Err(breach("incorrect mask flag"));
        }
        let short = second & 0x7f;
        if kind as u8 >= Kind::Close as u8 {
            if usize::from(short) > CONTROL_BYTES_MAX {
                return Err(breach("control frame length > 125"));
            }
            if !last {
                return Err(breach("control frame not final"));
            }
        }
        let (length, rest) = match short {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        if length > u64::MAX / 2 {
            return Err(breach("frame length beyond 63 bits"));
        }
        let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let bytes = input.len() - rest.len();
        Ok(Some(Self { last, kind, length, mask: *mask, bytes }))
    }
}

/// Takes a whole control frame.
fn control(head: &Head, input: &mut BytesMut) -> Result<Option<Event>, Violation> {
    let length = usize::try_from(head.length).unwrap_or(usize::MAX);
    if input.len() - head.bytes < length {
        return Ok(None);
    }
    input.advance(head.bytes);
    let mut bytes = input.split_to(length);
    unmask(&mut bytes, head.mask);
    Ok(Some(match head.kind {
        Kind::Ping => Event::Ping(bytes.freeze()),
        Kind::Close => Event::Close(close_code(&bytes)?),
        _ => Event::Pong,
    }))
}

/// The code at the start of a close frame's payload. As in etcd, a single byte is none.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((number, reason)) = payload.split_first_chunk::<2>() else { return Ok(None) };
    let number = u16::from_be_bytes(*number);
    if !matches!(number, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(breach("invalid close code"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(breach("invalid utf8 payload in close frame"));
    }
    Ok(Some(number))
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Appends the head of a server's frame with `length` bytes of payload; `ends`: of the last or only
/// frame of its message.
pub(super) fn put_head(out: &mut Vec<u8>, kind: Kind, ends: bool, length: usize) {
    out.push(u8::from(ends) << 7 | kind as u8);
    if let Ok(short) = u8::try_from(length)
        && usize::from(short) <= CONTROL_BYTES_MAX
    {
        out.push(short);
    } else if let Ok(length) = u16::try_from(length) {
        out.push(126);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
    }
}

/// Appends a control frame. A payload that is too long is cut.
pub(super) fn put_control(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let payload = payload.get(..CONTROL_BYTES_MAX).unwrap_or(payload);
    put_head(out, kind, true, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a close frame, with no payload where there is no code.
pub(super) fn put_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let mut payload = Vec::with_capacity(CONTROL_BYTES_MAX);
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    put_control(out, Kind::Close, &payload);
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client's frame.
    pub(in super::super) fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut out = Vec::new();
        put_head(&mut out, Kind::Text, true, payload.len());
        out[0] = first;
        out[1] |= 0x80;
        out.extend_from_slice(&mask);
        let start = out.len();
        out.extend_from_slice(payload);
        unmask(&mut out[start..], mask);
        out
    }

    /// All events of some bytes that come in pieces of a size, with messages joined.
    fn events(bytes: &[u8], size: usize, limit: usize) -> Result<Vec<Event>, Violation> {
        let (mut decoder, mut input) = (Decoder::new(limit), BytesMut::new());
        let (mut events, mut message) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            input.extend_from_slice(piece);
            while let Some(event) = decoder.next(&mut input)? {
                match event {
                    Event::Data { bytes, ends } => {
                        message.extend_from_slice(&bytes);
                        if ends {
                            let bytes = std::mem::take(&mut message).into();
                            events.push(Event::Data { bytes, ends });
                        }
                    }
                    other => events.push(other),
                }
            }
            assert!(input.len() <= 14 + CONTROL_BYTES_MAX, "payload is held back");
        }
        Ok(events)
    }

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// RFC 6455 section 5.7 has the frames.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let whole = |bytes: &'static [u8]| Event::Data { bytes: bytes.into(), ends: true };
        for size in [1, 3, 11] {
            assert_eq!(events(&hello, size, 5), Ok(vec![whole(b"Hello")]));
        }
        let parts = [
            client_frame(0x01, b"Hel", MASK),
            client_frame(0x89, b"now", MASK),
            client_frame(0x80, b"lo", [0; 4]),
            client_frame(0x82, b"", MASK),
            client_frame(0x8a, b"", MASK),
            client_frame(0x88, b"\x03\xe8bye", MASK),
        ];
        let want = || {
            vec![
                Event::Ping(Bytes::from_static(b"now")),
                whole(b"Hello"),
                whole(b""),
                Event::Pong,
                Event::Close(Some(1000)),
            ]
        };
        for size in [1, 2, 7, 1000] {
            assert_eq!(events(&parts.concat(), size, 5), Ok(want()), "{size}");
        }
    }

    /// Texts are etcd's, which prints the bits and the opcode too.
    #[test]
    fn what_is_no_websockets_is_refused_at_its_first_bytes() {
        let unmasked = [0x81, 0x02, b'{', b'}'];
        let cases: [(&[u8], &str); 12] = [
            (&unmasked, "incorrect mask flag"),
            (&client_frame(0xc1, b"", MASK), "unexpected reserved bits"),
            (&client_frame(0x83, b"", MASK), "unknown opcode"),
            (&client_frame(0x8b, b"", MASK), "unknown opcode"),
            (&client_frame(0x80, b"", MASK), "continuation after final message frame"),
            (
                &[client_frame(0x01, b"{", MASK), client_frame(0x81, b"}", MASK)].concat(),
                "message start before final message frame",
            ),
            (&client_frame(0x09, b"", MASK), "control frame not final"),
            (&client_frame(0x89, &[b'x'; 126], MASK), "control frame length > 125"),
            (&client_frame(0x88, &[0, 1], MASK), "invalid close code"),
            (&client_frame(0x88, &1005_u16.to_be_bytes(), MASK), "invalid close code"),
            (&client_frame(0x88, b"\x03\xe8\xff", MASK), "invalid utf8 payload in close frame"),
            (&[&[0x82, 0xff][..], &[0xff; 12]].concat(), "frame length beyond 63 bits"),
        ];
        for (bytes, want) in cases {
            for size in [1, bytes.len()] {
                let got = events(bytes, size, 1 << 20).unwrap_err();
                assert_eq!(got, Violation { code: 1002, reason: want }, "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_message_above_the_limit_is_refused_before_it_comes() {
        let announced = [0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        let too_large = Violation { code: 1009, reason: "message too large" };
        assert_eq!(events(&announced, 14, 1 << 20), Err(too_large));
        let parts = [client_frame(0x01, &[0; 60], MASK), client_frame(0x80, &[0; 41], MASK)];
        assert_eq!(events(&parts.concat(), 7, 100), Err(too_large));
        assert!(events(&parts.concat(), 7, 101).is_ok());
        let many: Vec<u8> = (0..50).flat_map(|_| client_frame(0x81, &[0; 60], MASK)).collect();
        assert_eq!(events(&many, 64, 60).unwrap().len(), 50, "the limit is each message's");
    }

    #[test]
    fn heads_of_our_frames_have_the_shortest_length() {
        for (length, want) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            put_head(&mut out, Kind::Text, true, length);
            assert_eq!(out, want, "{length}");
        }
        let mut out = Vec::new();
        put_close(&mut out, Some(1000), &"x".repeat(200));
        assert_eq!(out.len(), 2 + CONTROL_BYTES_MAX);
    }

    proptest! {
        /// The pieces that bytes come in change nothing, whatever the bytes are.
        #[test]
        fn pieces_make_no_difference(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            size in 1_usize..40,
        ) {
            prop_assert_eq!(events(&bytes, size, 50), events(&bytes, 1, 50));
        }

        #[test]
        fn messages_come_out_as_they_went_in(
            payload in proptest::collection::vec(any::<u8>(), 0..70_000),
            mask in any::<[u8; 4]>(),
            size in 1_usize..5000,
        ) {
            let frame = client_frame(0x82, &payload, mask);
            let want = vec![Event::Data { bytes: payload.into(), ends: true }];
            prop_assert_eq!(events(&frame, size, 70_000), Ok(want));
        }
    }
}
