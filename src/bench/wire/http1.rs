//! A JSON client over one HTTP/1.1 keep-alive connection, one request at a time.
//!
//! Invariants:
//! - an answer counts when its whole body has arrived, by `content-length` or in chunks;
//! - bytes nobody asked for, and heads without a length, end the connection.
//!
//! Source: RFC 9112.

use super::{Event, Failure, METHODS, Method, WireError};

/// Largest head we accept, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// What is kept of the body of a refusal, in bytes.
const REFUSAL_BYTES_MAX: usize = 300;
/// Longest line of a chunk size or trailer, in bytes.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Where in an answer the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Head,
    /// Body by length: bytes left.
    Body(usize),
    ChunkSize,
    /// Bytes left of a chunk.
    Chunk(usize),
    /// The line break after a chunk.
    ChunkEnd,
    Trailers,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Json {
    /// Bytes to be written to the server.
    pub(super) output: Vec<u8>,
    /// A head or line that has not arrived whole.
    rest: Vec<u8>,
    /// Everything of a request's head up to the value of `content-length`.
    heads: [Vec<u8>; METHODS],
    state: State,
    slot: u32,
    status: u16,
    received: usize,
    refusal: Vec<u8>,
    close: bool,
}

impl Json {
    /// A connection to `authority` (`host:port`).
    pub(crate) fn new(authority: &str) -> Self {
        let head = |method: Method| {
            format!(
                "POST {} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\ncontent-length: ",
                method.json_path()
            )
            .into_bytes()
        };
        Self {
            output: vec![],
            rest: vec![],
            heads: [Method::Put, Method::Range, Method::Txn, Method::Watch, Method::Status]
                .map(head),
            state: State::Idle,
            slot: 0,
            status: 0,
            received: 0,
            refusal: vec![],
            close: false,
        }
    }

    /// Sends a request; the one before must have ended.
    pub(super) fn request(&mut self, slot: u32, method: Method, body: &[u8]) {
        debug_assert_eq!(self.state, State::Idle, "one request at a time");
        self.output.extend_from_slice(&self.heads[method.index()]);
        push_decimal(&mut self.output, body.len());
        self.output.extend_from_slice(b"\r\n\r\n");
        self.output.extend_from_slice(body);
        self.state = State::Head;
        self.slot = slot;
        self.received = 0;
        self.refusal.clear();
    }

    /// Takes bytes from the server.
    pub(super) fn feed(&mut self, input: &[u8], events: &mut Vec<Event>) -> Result<(), WireError> {
        if self.rest.is_empty() {
            let used = self.advance(input, events)?;
            self.rest.extend_from_slice(&input[used..]);
        } else {
            let mut whole = std::mem::take(&mut self.rest);
            whole.extend_from_slice(input);
            let used = self.advance(&whole, events)?;
            whole.drain(..used);
            self.rest = whole;
        }
        Ok(())
    }

    /// Goes as far as the input allows; returns the bytes used.
    fn advance(&mut self, input: &[u8], events: &mut Vec<Event>) -> Result<usize, WireError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self.state {
                State::Idle if rest.is_empty() => return Ok(used),
                State::Idle => return Err(WireError::Protocol("bytes nobody asked for")),
                State::Head => {
                    let Some(length) = end_of_head(rest) else {
                        return limited(rest, HEAD_BYTES_MAX, used);
                    };
                    used += length;
                    self.on_head(&rest[..length])?;
                    if self.state == State::Body(0) {
                        self.finish(events)?;
                    }
                }
                State::Body(left) | State::Chunk(left) => {
                    if rest.is_empty() {
                        return Ok(used);
                    }
                    let now = left.min(rest.len());
                    self.on_body(&rest[..now]);
                    used += now;
                    match self.state {
                        State::Body(_) if now == left => self.finish(events)?,
                        State::Body(_) => self.state = State::Body(left - now),
                        _ if now == left => self.state = State::ChunkEnd,
                        _ => self.state = State::Chunk(left - now),
                    }
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let Some(end) = rest.iter().position(|&b| b == b'\n') else {
                        return limited(rest, LINE_BYTES_MAX, used);
                    };
                    used += end + 1;
                    self.on_line(rest[..end].trim_ascii(), events)?;
                }
            }
        }
    }

    fn on_head(&mut self, head: &[u8]) -> Result<(), WireError> {
        self.status = head
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
            .ok_or(WireError::Protocol("no HTTP/1.1 status line"))?;
        if self.status < 200 {
            return Err(WireError::Protocol("interim answer that nobody asked for"));
        }
        let mut body = None;
        for line in head.split(|&b| b == b'\n').skip(1) {
            // The first byte decides cheaply: few fields matter.
            match line.first().map(u8::to_ascii_lowercase) {
                Some(b'c') => {
                    if let Some(value) = value_of(line, b"content-length:") {
                        let length = std::str::from_utf8(value).ok().and_then(|t| t.parse().ok());
                        body = Some(State::Body(
                            length.ok_or(WireError::Protocol("content-length is no number"))?,
                        ));
                    } else if let Some(value) = value_of(line, b"connection:") {
                        self.close = value.eq_ignore_ascii_case(b"close");
                    }
                }
                Some(b't')
                    if value_of(line, b"transfer-encoding:")
                        .is_some_and(|v| v.eq_ignore_ascii_case(b"chunked")) =>
                {
                    body = Some(State::ChunkSize);
                }
                _ => {}
            }
        }
        self.state = body.ok_or(WireError::Protocol("answer without a length"))?;
        Ok(())
    }

    fn on_body(&mut self, bytes: &[u8]) {
        self.received += bytes.len();
        if self.status != 200 {
            let room = REFUSAL_BYTES_MAX.saturating_sub(self.refusal.len());
            self.refusal.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn on_line(&mut self, line: &[u8], events: &mut Vec<Event>) -> Result<(), WireError> {
        match self.state {
            State::ChunkSize => {
                let digits = line.split(|&b| b == b';').next().unwrap_or(line).trim_ascii();
                let size = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|text| usize::from_str_radix(text, 16).ok())
                    .ok_or(WireError::Protocol("chunk size is no number"))?;
                self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err(WireError::Protocol("chunk longer than its size")),
            _ if line.is_empty() => self.finish(events)?,
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), WireError> {
        self.state = State::Idle;
        let (slot, received) = (self.slot, self.received);
        let outcome = if self.status == 200 {
            Ok(())
        } else {
            let text = String::from_utf8_lossy(&self.refusal).into_owned();
            Err(Box::new(Failure::Http(self.status, text)))
        };
        events.push(Event::Done { slot, received, outcome });
        if self.close { Err(WireError::Closed) } else { Ok(()) }
    }
}

/// Length of the head with its empty line, if it is all there.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&b| b == b'\r') {
        let at = from + at;
        match bytes.get(at..at + 4) {
            Some(b"\r\n\r\n") => return Some(at + 4),
            Some(_) => from = at + 2,
            None => return None,
        }
    }
    None
}

fn limited(rest: &[u8], limit: usize, used: usize) -> Result<usize, WireError> {
    if rest.len() > limit { Err(WireError::Protocol("head or line too long")) } else { Ok(used) }
}

/// The value of a header line if its name (lower case, with colon) is this one.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn push_decimal(output: &mut Vec<u8>, mut value: usize) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(value % 10).expect("a digit");
        value /= 10;
        if value == 0 {
            break;
        }
    }
    output.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &[u8], want: &[Event], end: &Result<(), WireError>) {
        for at in 0..=answer.len() {
            for chunks in [vec![&answer[..at], &answer[at..]], answer.chunks(1).collect()] {
                let mut wire = Json::new("h:1");
                wire.request(5, Method::Put, b"{}");
                let mut events = vec![];
                let mut result = Ok(());
                for chunk in chunks {
                    result = result.and_then(|()| wire.feed(chunk, &mut events));
                }
                assert_eq!(events, want, "split at {at}");
                assert_eq!(result, *end, "split at {at}");
            }
        }
    }

    fn done(received: usize, outcome: Result<(), Failure>) -> Event {
        Event::Done { slot: 5, received, outcome: outcome.map_err(Box::new) }
    }

    #[test]
    fn answers_split_at_any_point_mean_the_same() {
        check(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
            &[done(7, Ok(()))],
            &Ok(()),
        );
        check(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
            &[done(13, Ok(()))],
            &Ok(()),
        );
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", &[done(0, Ok(()))], &Ok(()));
        check(
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy",
            &[done(4, Err(Failure::Http(503, "busy".into())))],
            &Ok(()),
        );
        check(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
            &[done(2, Ok(()))],
            &Err(WireError::Closed),
        );
    }

    #[test]
    fn what_is_not_an_answer_ends_the_connection() {
        let cases: [&[u8]; 6] = [
            b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nmore",
        ];
        for bytes in cases {
            let mut wire = Json::new("h:1");
            wire.request(0, Method::Put, b"{}");
            assert!(wire.feed(bytes, &mut vec![]).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_request_carries_its_length() {
        let mut wire = Json::new("h:1");
        wire.request(0, Method::Range, b"{\"key\":\"YQ==\"}");
        let text = String::from_utf8(wire.output.clone()).unwrap();
        assert!(text.starts_with("POST /v3/kv/range HTTP/1.1\r\nhost: h:1\r\n"), "{text}");
        assert!(text.ends_with("content-length: 14\r\n\r\n{\"key\":\"YQ==\"}"), "{text}");
    }
}
