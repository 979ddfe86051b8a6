//! gRPC over HTTP/2: message framing, timeouts, status texts.
//!
//! Source: gRPC over HTTP2, <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>;
//! texts are those a Go server sends, since clients compare them.

use std::time::Duration;

use bytes::Bytes;

use super::super::service::{Code, Status};

/// Bytes before each message: a compression flag and the length.
pub(super) const PREFIX_BYTES: usize = 5;
/// A long message's buffer starts with this many bytes and grows only as data arrives, so that
/// a length alone costs nothing.
const FIRST_RESERVE_BYTES: usize = 64 << 10;

/// Names of all services, to tell an unknown method from an unknown service.
const SERVICES: [&str; 11] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Whether a content type is gRPC's: `application/grpc` alone or with a suffix or parameters.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The value of `grpc-timeout` is not 1 to 8 digits and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadTimeout;

/// Reads a `grpc-timeout` value.
pub(super) fn timeout(value: &[u8]) -> Result<Duration, BadTimeout> {
    let (unit, digits) = value.split_last().ok_or(BadTimeout)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BadTimeout);
    }
    let number = digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(number * 3600)),
        b'M' => Ok(Duration::from_secs(number * 60)),
        b'S' => Ok(Duration::from_secs(number)),
        b'm' => Ok(Duration::from_millis(number)),
        b'u' => Ok(Duration::from_micros(number)),
        b'n' => Ok(Duration::from_nanos(number)),
        _ => Err(BadTimeout),
    }
}

/// The answer to a path no service has.
pub(super) fn unknown_method(path: &str) -> Status {
    let text = match path.strip_prefix('/').unwrap_or(path).rsplit_once('/') {
        None => format!("malformed method name: {path:?}"),
        Some((service, method)) if SERVICES.contains(&service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    };
    Status::new(Code::Unimplemented, text)
}

pub(super) fn unknown_encoding(name: &str) -> Status {
    let text = format!("grpc: Decompressor is not installed for grpc-encoding {name:?}");
    Status::new(Code::Unimplemented, text)
}

pub(super) fn bad_timeout() -> Status {
    Status::new(Code::Internal, "malformed grpc-timeout")
}

pub(super) fn deadline_exceeded() -> Status {
    Status::new(Code::DeadlineExceeded, "context deadline exceeded")
}

pub(super) fn no_message() -> Status {
    let text = "cardinality violation: received no request message from non-client-streaming RPC";
    Status::new(Code::Internal, text)
}

pub(super) fn many_messages() -> Status {
    let text =
        "cardinality violation: received multiple request messages for non-client-streaming RPC";
    Status::new(Code::Internal, text)
}

pub(super) fn cut_message() -> Status {
    Status::new(Code::Internal, "unexpected EOF")
}

pub(super) fn too_much_buffered() -> Status {
    let text = "grpc: connection holds too many unread request bytes";
    Status::new(Code::ResourceExhausted, text)
}

/// The prefix of an uncompressed message. Messages stay below 4 GiB.
pub(super) fn prefix(message: &[u8]) -> [u8; PREFIX_BYTES] {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let [a, b, c, d] = length.to_be_bytes();
    [0, a, b, c, d]
}

/// Percent-encodes a status text for `grpc-message`.
pub(super) fn percent_encoded(text: &str) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    // Edge spaces would be stripped as header whitespace; keep the text as it is.
    if let Some(last) = out.last().filter(|last| **last == b' ') {
        debug_assert_eq!(*last, b' ');
        out.pop();
        out.extend_from_slice(b"%20");
    }
    if out.first() == Some(&b' ') {
        out.splice(..1, *b"%20");
    }
    out
}

/// Cuts a stream's bytes into messages.
#[derive(Debug)]
pub(super) struct Deframer {
    message_bytes_max: usize,
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix is there.
    prefix_length: usize,
    /// Length of the current message, once the prefix is complete.
    want: usize,
    message: Vec<u8>,
}

impl Deframer {
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            prefix: [0; PREFIX_BYTES],
            prefix_length: 0,
            want: 0,
            message: Vec::new(),
        }
    }

    /// Whether the bytes so far end with a whole message.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.prefix_length == 0
    }

    /// Memory of the message that is on the way.
    pub(super) fn held_bytes(&self) -> usize {
        self.message.capacity()
    }

    /// Takes bytes from `input` up to the end of one message and returns that message, in
    /// memory of its own: a service may keep it without keeping the buffer it arrived in.
    ///
    /// # Errors
    /// ResourceExhausted above the size limit, Internal for a compressed or unknown format.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, Status> {
        if self.prefix_length == 0
            && let Some((prefix, rest)) = input.split_first_chunk()
        {
            let length = self.length(*prefix)?;
            if let Some((message, rest)) = rest.split_at_checked(length) {
                *input = rest;
                return Ok(Some(Bytes::copy_from_slice(message)));
            }
        }
        self.next_in_pieces(input)
    }

    fn next_in_pieces(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, Status> {
        if self.prefix_length < PREFIX_BYTES {
            let take = input.len().min(PREFIX_BYTES - self.prefix_length);
            let (head, rest) = input.split_at(take);
            let end = self.prefix_length + take;
            if let Some(part) = self.prefix.get_mut(self.prefix_length..end) {
                part.copy_from_slice(head);
            }
            self.prefix_length = end;
            *input = rest;
            if self.prefix_length < PREFIX_BYTES {
                return Ok(None);
            }
            self.want = self.length(self.prefix)?;
            self.message.reserve_exact(self.want.min(FIRST_RESERVE_BYTES));
        }
        let take = input.len().min(self.want - self.message.len());
        let (part, rest) = input.split_at(take);
        let spare = self.message.capacity() - self.message.len();
        if spare < take {
            // Doubles, but never past the message's end.
            let left = self.want - self.message.len();
            self.message.reserve_exact(self.message.len().max(take).min(left));
        }
        self.message.extend_from_slice(part);
        *input = rest;
        if self.message.len() < self.want {
            return Ok(None);
        }
        self.prefix_length = 0;
        Ok(Some(Bytes::from(std::mem::take(&mut self.message))))
    }

    fn length(&self, prefix: [u8; PREFIX_BYTES]) -> Result<usize, Status> {
        let [flag, length @ ..] = prefix;
        match flag {
            0 => {}
            1 => {
                let text = "grpc: compressed flag set with identity or empty encoding";
                return Err(Status::new(Code::Internal, text));
            }
            _ => {
                let text = format!("grpc: received unexpected payload format {flag}");
                return Err(Status::new(Code::Internal, text));
            }
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.message_bytes_max {
            let max = self.message_bytes_max;
            let text = format!("grpc: received message larger than max ({length} vs. {max})");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timeouts_of_every_unit_are_read() {
        let cases: [(&str, Option<Duration>); 10] = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789n", None),
            ("S", None),
            ("-1S", None),
            ("", None),
        ];
        for (value, want) in cases {
            assert_eq!(timeout(value.as_bytes()).ok(), want, "{value}");
        }
    }

    #[test]
    fn unknown_paths_get_the_texts_of_a_go_server() {
        let cases = [
            ("/a.B/C", "unknown service a.B"),
            ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
            ("/nope", "malformed method name: \"/nope\""),
        ];
        for (path, want) in cases {
            assert_eq!(unknown_method(path).message, want);
        }
    }

    #[test]
    fn status_texts_are_percent_encoded() {
        let cases = [("a b", "a b"), ("50%", "50%25"), ("é\n", "%C3%A9%0A"), (" x ", "%20x%20")];
        for (text, want) in cases {
            assert_eq!(percent_encoded(text), want.as_bytes());
        }
    }

    #[test]
    fn messages_that_break_a_rule_are_refused() {
        let cases: [(&[u8], Code, &str); 3] = [
            (
                &[0, 0, 0, 0, 11],
                Code::ResourceExhausted,
                "grpc: received message larger than max (11 vs. 10)",
            ),
            (
                &[1, 0, 0, 0, 1],
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            ),
            (&[7, 0, 0, 0, 1], Code::Internal, "grpc: received unexpected payload format 7"),
        ];
        for (mut input, code, text) in cases {
            let refused = Deframer::new(10).next(&mut input);
            assert_eq!(refused, Err(Status::new(code, text)));
        }
    }

    proptest! {
        #[test]
        fn messages_survive_any_split(messages: Vec<Vec<u8>>, cuts: Vec<u8>) {
            let mut wire = Vec::new();
            for message in &messages {
                wire.extend_from_slice(&prefix(message));
                wire.extend_from_slice(message);
            }
            let mut deframer = Deframer::new(1 << 20);
            let mut got = Vec::new();
            let mut rest = wire.as_slice();
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let cut = usize::from(*cuts.next().unwrap_or(&7)).clamp(1, rest.len());
                let (mut piece, tail) = rest.split_at(cut);
                rest = tail;
                while let Some(message) = deframer.next(&mut piece).unwrap() {
                    got.push(message.to_vec());
                }
                prop_assert!(piece.is_empty());
            }
            prop_assert!(deframer.is_at_boundary());
            prop_assert_eq!(got, messages);
        }
    }
}
