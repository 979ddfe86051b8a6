//! The door for fuzzing: arbitrary bytes against the protocol core.

use std::{rc::Rc, time::Instant};

use bytes::Bytes;

use super::{
    super::service::{Code, Status},
    core::{Core, End, Event, Step},
    frame::PREFACE,
    limits::Limits,
};

/// Feeds `bytes` to a fresh connection whose owner answers everything, in pieces whose sizes
/// come from `bytes` too. Must return, whatever the bytes are; returns the output's length.
#[must_use]
pub fn fuzz_connection(bytes: &[u8]) -> usize {
    let now = Instant::now();
    let mut core = Core::new(Rc::new(Limits::default()), now);
    let mut input = PREFACE.as_slice();
    let _ = core.next(&mut input, now);
    let mut pending = Vec::new();
    let mut output = 0;
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let (piece, tail) = rest.split_at(usize::from(first).clamp(1, rest.len()));
        rest = tail;
        pending.extend_from_slice(piece);
        let mut input = pending.as_slice();
        while let Step::Event(event) = core.next(&mut input, now) {
            answer(&mut core, &event);
        }
        core.pump(now);
        output += core.output().len();
        core.written(core.output().len());
        let left = input.len();
        pending.drain(..pending.len() - left);
    }
    output
}

/// Answers in a way that depends on the stream, so that every kind of answer comes.
fn answer(core: &mut Core, event: &Event<'_>) {
    match event {
        Event::Request { stream, .. } => core.attach(*stream, *stream, stream % 3 == 0),
        Event::Data { stream, bytes, end, .. } => {
            core.release(*stream, bytes.len());
            match stream % 8 {
                1 if *end => core.send_unary(*stream, Bytes::copy_from_slice(bytes)),
                3 => core.send_message(*stream, Bytes::copy_from_slice(bytes)),
                5 => {
                    let status = Status::new(Code::Internal, String::from_utf8_lossy(bytes));
                    core.finish(*stream, End::Trailers(Err(status)));
                }
                _ => {
                    core.send_plain_head(*stream, 404, std::iter::once((&b"a"[..], &b"b"[..])));
                    core.send_body(*stream, Bytes::copy_from_slice(bytes));
                    core.finish(*stream, End::Body);
                }
            }
        }
        Event::Gone { .. } => {}
    }
}
