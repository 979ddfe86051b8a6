//! HTTP/2 frames as bytes: the nine-byte head, padding, settings.
//!
//! Source: RFC 9113 sections 4 and 6.

/// What a client sends first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame head.
pub(super) const HEAD_BYTES: usize = 9;
/// Largest frame payload we accept, and the least any peer must: RFC 9113 section 4.2.
pub(super) const FRAME_BYTES_DEFAULT: usize = 16_384;
/// Largest frame payload a peer may allow.
const FRAME_BYTES_MAX: u32 = (1 << 24) - 1;
/// Window of streams and connection before settings and updates.
pub(super) const WINDOW_DEFAULT: i64 = 65_535;
/// Largest legal window.
pub(super) const WINDOW_MAX: i64 = (1 << 31) - 1;

/// Frame types.
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub(super) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings identifiers.
pub(super) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Error codes of RST_STREAM and GOAWAY. Source: RFC 9113 section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCode {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// A frame's first nine bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Payload bytes.
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHead {
    /// Reads a head; `None` when fewer than nine bytes are there.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        Some(Self {
            length: usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        })
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Appends the head. `length` is below 2^24 by construction of every caller.
    #[expect(clippy::cast_possible_truncation, reason = "takes the low bytes one by one")]
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let length = self.length;
        let (l0, l1, l2) = ((length >> 16) as u8, (length >> 8) as u8, length as u8);
        out.extend_from_slice(&[l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]);
    }
}

/// Appends a head whose length is filled in by [`close_frame`]; returns where it starts.
pub(super) fn open_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32) -> usize {
    let start = out.len();
    FrameHead { length: 0, kind, flags, stream }.put(out);
    start
}

/// Writes the payload length of the frame that starts at `start` and ends where `out` ends.
#[expect(clippy::cast_possible_truncation, reason = "takes the low bytes one by one")]
pub(super) fn close_frame(out: &mut [u8], start: usize) {
    let length = out.len() - start - HEAD_BYTES;
    if let Some([l0, l1, l2]) = out.get_mut(start..start + 3) {
        (*l0, *l1, *l2) = ((length >> 16) as u8, (length >> 8) as u8, length as u8);
    }
}

/// Appends a frame of four payload bytes.
fn put_word(out: &mut Vec<u8>, kind: u8, stream: u32, word: u32) {
    FrameHead { length: 4, kind, flags: 0, stream }.put(out);
    out.extend_from_slice(&word.to_be_bytes());
}

pub(super) fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put_word(out, kind::WINDOW_UPDATE, stream, increment);
}

pub(super) fn put_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    put_word(out, kind::RST_STREAM, stream, code as u32);
}

pub(super) fn put_ping(out: &mut Vec<u8>, opaque: [u8; 8], ack: bool) {
    let flags = if ack { flag::ACK } else { 0 };
    FrameHead { length: 8, kind: kind::PING, flags, stream: 0 }.put(out);
    out.extend_from_slice(&opaque);
}

pub(super) fn put_goaway(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode, debug: &str) {
    let start = open_frame(out, kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&(code as u32).to_be_bytes());
    out.extend_from_slice(debug.as_bytes());
    close_frame(out, start);
}

pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let start = open_frame(out, kind::SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    close_frame(out, start);
}

pub(super) fn put_settings_ack(out: &mut Vec<u8>) {
    FrameHead { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.put(out);
}

/// A big-endian word at the front of `payload`, when there is one.
pub(super) fn word(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The payload without its padding, or `None` when the padding is longer than the payload.
pub(super) fn without_padding(head: FrameHead, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(flag::PADDED) {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(padding))?)
}

/// What one SETTINGS frame asks for. Of a repeated setting the last value counts, so a frame
/// full of window changes costs no more than one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PeerSettings {
    pub header_table_bytes: Option<u32>,
    pub initial_window: Option<u32>,
    pub frame_bytes: Option<u32>,
}

impl PeerSettings {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, ErrorCode> {
        if !payload.len().is_multiple_of(6) {
            return Err(ErrorCode::FrameSize);
        }
        let mut settings = Self::default();
        for entry in payload.chunks_exact(6) {
            let &[i0, i1, v0, v1, v2, v3] = entry else { continue };
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([i0, i1]) {
                setting::HEADER_TABLE_SIZE => settings.header_table_bytes = Some(value),
                setting::ENABLE_PUSH if value > 1 => return Err(ErrorCode::Protocol),
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > WINDOW_MAX => {
                    return Err(ErrorCode::FlowControl);
                }
                setting::INITIAL_WINDOW_SIZE => settings.initial_window = Some(value),
                setting::MAX_FRAME_SIZE
                    if (value as usize) < FRAME_BYTES_DEFAULT || value > FRAME_BYTES_MAX =>
                {
                    return Err(ErrorCode::Protocol);
                }
                setting::MAX_FRAME_SIZE => settings.frame_bytes = Some(value),
                // The rest limits what a server does not do (push) or is advice.
                _ => {}
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_survives_the_wire() {
        let head = FrameHead { length: 0x01_02_03, kind: 1, flags: 5, stream: 0x7fff_ffff };
        let mut out = Vec::new();
        head.put(&mut out);
        assert_eq!(FrameHead::parse(&out), Some(head));
        assert_eq!(FrameHead::parse(&out[..8]), None);
    }

    #[test]
    fn padding_must_fit_the_payload() {
        let padded = FrameHead { length: 0, kind: 0, flags: flag::PADDED, stream: 1 };
        let cases: [(&[u8], Option<&[u8]>); 4] = [
            (&[2, b'a', 0, 0], Some(b"a")),
            (&[3, 0, 0, 0], Some(b"")),
            (&[4, 0, 0, 0], None),
            (&[], None),
        ];
        for (payload, want) in cases {
            assert_eq!(without_padding(padded, payload), want, "{payload:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let cases = [
            (setting::ENABLE_PUSH, 2, ErrorCode::Protocol),
            (setting::INITIAL_WINDOW_SIZE, 1 << 31, ErrorCode::FlowControl),
            (setting::MAX_FRAME_SIZE, 16_383, ErrorCode::Protocol),
            (setting::MAX_FRAME_SIZE, 1 << 24, ErrorCode::Protocol),
        ];
        for (id, value, want) in cases {
            let mut out = Vec::new();
            put_settings(&mut out, &[(id, value)]);
            assert_eq!(PeerSettings::parse(&out[HEAD_BYTES..]), Err(want), "{id} {value}");
        }
        assert_eq!(PeerSettings::parse(&[0; 5]), Err(ErrorCode::FrameSize));
    }
}
