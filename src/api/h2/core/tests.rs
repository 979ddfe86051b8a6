//! The protocol core: rules of RFC 9113, arbitrary bytes, arbitrary splits.

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::{
        super::service::{Code, Status},
        frame::{FrameHead, HEAD_BYTES, flag, kind},
        fuzz::fuzz_connection,
    },
    *,
};

/// A frame with any content.
fn frame_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameHead { length: payload.len(), kind, flags, stream }.put(&mut out);
    out.extend_from_slice(payload);
    out
}

fn core_with(limits: Limits) -> Core {
    let mut core = Core::new(Rc::new(limits), Instant::now());
    let hello = [PREFACE.as_slice(), &frame_of(kind::SETTINGS, 0, 0, &[])].concat();
    assert_eq!(feed(&mut core, &hello), [] as [String; 0]);
    core.written(core.output().len());
    core
}

fn core() -> Core {
    core_with(Limits::default())
}

/// Feeds bytes; returns the events as text. Requests get their stream's number as tag.
fn feed(core: &mut Core, bytes: &[u8]) -> Vec<String> {
    let mut input = bytes;
    let mut events = Vec::new();
    loop {
        match core.next(&mut input, Instant::now()) {
            Step::Event(Event::Request { stream, head, end }) => {
                core.attach(stream, stream, true);
                events.push(format!("request {stream} {} {end}", head.path.value_text()));
            }
            Step::Event(Event::Data { stream, bytes, end, .. }) => {
                events.push(format!("data {stream} {} {end}", bytes.len()));
            }
            Step::Event(Event::Gone { tag }) => events.push(format!("gone {tag}")),
            Step::Starved | Step::Closed => return events,
        }
    }
}

/// Takes the output as text, one frame each.
fn output(core: &mut Core) -> Vec<String> {
    core.pump(Instant::now());
    let mut frames = Vec::new();
    let mut rest = core.output();
    while let Some(head) = FrameHead::parse(rest) {
        let (frame, tail) = rest.split_at(HEAD_BYTES + head.length);
        rest = tail;
        let payload = &frame[HEAD_BYTES..];
        let word = |at: usize| frame::word(payload.get(at..).unwrap_or_default());
        let end = if head.kind < 2 && head.has(flag::END_STREAM) { " end" } else { "" };
        frames.push(match head.kind {
            kind::DATA => format!("data {} {}{end}", head.stream, head.length),
            kind::HEADERS => format!("headers {}{end}", head.stream),
            kind::RST_STREAM => format!("reset {} {}", head.stream, word(0).unwrap()),
            kind::SETTINGS => format!("settings {}", head.flags),
            kind::PING => format!("ping {}", head.flags),
            kind::GOAWAY => format!("goaway {} {}", word(0).unwrap(), word(4).unwrap()),
            kind::WINDOW_UPDATE => format!("window {} {}", head.stream, word(0).unwrap()),
            other => format!("frame {other}"),
        });
    }
    assert!(rest.is_empty());
    core.written(core.output().len());
    frames
}

/// A request to `/`, from the static table.
const BLOCK: [u8; 3] = [0x83, 0x86, 0x84];
const HEADERS_DONE: u8 = flag::END_HEADERS;
const HEADERS_END: u8 = flag::END_HEADERS | flag::END_STREAM;

fn request(stream: u32, flags: u8) -> Vec<u8> {
    frame_of(kind::HEADERS, flags, stream, &BLOCK)
}

fn settings(id: u16, value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_settings(&mut out, &[(id, value)]);
    out
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_window_update(&mut out, stream, more);
    out
}

/// Violations after a valid start with stream 1 open and streams 3 finished by the client.
#[test]
fn connection_errors_are_those_of_the_rfc() {
    const PROTOCOL: u32 = 1;
    const FLOW_CONTROL: u32 = 3;
    const FRAME_SIZE: u32 = 6;
    const COMPRESSION: u32 = 9;
    let list: Vec<(&str, Vec<u8>, u32)> = vec![
        ("data on stream zero", frame_of(kind::DATA, 0, 0, b"x"), PROTOCOL),
        ("data on an idle stream", frame_of(kind::DATA, 0, 5, b"x"), PROTOCOL),
        ("data with too much padding", frame_of(kind::DATA, flag::PADDED, 1, &[9, 0]), PROTOCOL),
        ("headers on stream zero", request(0, HEADERS_END), PROTOCOL),
        ("headers on an even stream", request(2, HEADERS_END), PROTOCOL),
        ("headers too short for priority", frame_of(1, 0x24, 5, &[0]), FRAME_SIZE),
        ("bad header block", frame_of(kind::HEADERS, HEADERS_END, 5, &[0x80]), COMPRESSION),
        (
            "block interrupted",
            [request(5, 0), frame_of(kind::PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL,
        ),
        (
            "block continued on another stream",
            [request(5, 0), frame_of(kind::CONTINUATION, 4, 7, &BLOCK)].concat(),
            PROTOCOL,
        ),
        ("continuation of nothing", frame_of(kind::CONTINUATION, 4, 1, &BLOCK), PROTOCOL),
        ("priority of stream zero", frame_of(kind::PRIORITY, 0, 0, &[0; 5]), PROTOCOL),
        ("reset of stream zero", frame_of(kind::RST_STREAM, 0, 0, &[0; 4]), PROTOCOL),
        ("reset of an idle stream", frame_of(kind::RST_STREAM, 0, 5, &[0; 4]), PROTOCOL),
        ("reset too short", frame_of(kind::RST_STREAM, 0, 1, &[0; 3]), FRAME_SIZE),
        ("settings of a stream", frame_of(kind::SETTINGS, 0, 1, &[]), PROTOCOL),
        ("settings of a wrong size", frame_of(kind::SETTINGS, 0, 0, &[0; 7]), FRAME_SIZE),
        ("settings answer with content", frame_of(kind::SETTINGS, 1, 0, &[0; 6]), FRAME_SIZE),
        ("window above the limit by settings", settings(4, 1 << 31), FLOW_CONTROL),
        ("push promise", frame_of(kind::PUSH_PROMISE, 4, 1, &[0; 4]), PROTOCOL),
        ("ping of a stream", frame_of(kind::PING, 0, 1, &[0; 8]), PROTOCOL),
        ("ping too short", frame_of(kind::PING, 0, 0, &[0; 7]), FRAME_SIZE),
        ("goaway of a stream", frame_of(kind::GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("window update of nothing", window(0, 0), PROTOCOL),
        ("window update of an idle stream", window(5, 1), PROTOCOL),
        ("window update of a wrong size", frame_of(8, 0, 0, &[0; 5]), FRAME_SIZE),
        ("window above the limit", window(0, (1 << 31) - 1), FLOW_CONTROL),
        (
            "all windows above the limit",
            [window(1, (1 << 31) - 65_536), settings(4, 65_536)].concat(),
            FLOW_CONTROL,
        ),
        ("frame above the limit", frame_of(kind::DATA, 0, 1, &[0; 16_385]), FRAME_SIZE),
    ];
    for (name, bytes, code) in list {
        let mut core = core();
        feed(&mut core, &[request(1, HEADERS_DONE), request(3, HEADERS_END)].concat());
        feed(&mut core, &bytes);
        let last = output(&mut core).pop();
        let want = format!("goaway {} {code}", core.last_stream);
        assert_eq!(last, Some(want), "{name}");
        assert!(core.is_closed());
    }
}

#[test]
fn a_bad_start_ends_the_connection() {
    let cases: [(&str, Vec<u8>); 3] = [
        ("no preface", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("no settings", [PREFACE.as_slice(), &frame_of(kind::PING, 0, 0, &[0; 8])].concat()),
        ("settings answer first", [PREFACE.as_slice(), &frame_of(4, 1, 0, &[])].concat()),
    ];
    for (name, bytes) in cases {
        let mut core = Core::new(Rc::new(Limits::default()), Instant::now());
        feed(&mut core, &bytes);
        assert_eq!(output(&mut core).pop().as_deref(), Some("goaway 0 1"), "{name}");
    }
}

#[test]
fn stream_errors_leave_the_connection_alone() {
    let length_5 = [&BLOCK[..], &[0x0f, 0x0d, 1, b'5']].concat();
    let data = |stream, flags, length: usize| frame_of(kind::DATA, flags, stream, &vec![0; length]);
    let many = |stream| std::iter::repeat_n(data(stream, 0, 16_384), 65).flatten().collect();
    let list: Vec<(&str, Vec<u8>, u32, u32)> = vec![
        ("data after the client's end", data(3, 0, 1), 3, 5),
        ("headers after the client's end", request(3, HEADERS_END), 3, 5),
        ("trailers without an end", request(1, HEADERS_DONE), 1, 1),
        ("window update of nothing", window(1, 0), 1, 1),
        ("window above the limit", window(1, (1 << 31) - 1), 1, 3),
        ("data beyond the window", many(1), 1, 3),
        ("priority of a wrong size", frame_of(kind::PRIORITY, 0, 1, &[0; 4]), 1, 6),
        ("malformed head", frame_of(1, HEADERS_END, 5, &[0x83, 0x86]), 5, 1),
        ("length without a body", frame_of(1, HEADERS_END, 5, &length_5), 5, 1),
        (
            "body shorter than its length",
            [frame_of(1, HEADERS_DONE, 5, &length_5), data(5, 1, 4)].concat(),
            5,
            1,
        ),
        (
            "body longer than its length",
            [frame_of(1, HEADERS_DONE, 5, &length_5), data(5, 0, 6)].concat(),
            5,
            1,
        ),
    ];
    for (name, bytes, stream, code) in list {
        let mut core = core();
        feed(&mut core, &[request(1, HEADERS_DONE), request(3, HEADERS_END)].concat());
        feed(&mut core, &bytes);
        let frames = output(&mut core);
        assert!(frames.contains(&format!("reset {stream} {code}")), "{name}: {frames:?}");
        assert!(!core.is_closed(), "{name}");
    }
}

#[test]
fn frames_that_cross_our_reset_are_ignored() {
    let mut core = core();
    feed(&mut core, &request(1, HEADERS_DONE));
    core.finish(1, End::Trailers(Err(Status::new(Code::Internal, "no"))));
    assert_eq!(output(&mut core), ["headers 1 end", "reset 1 0"]);
    let late = [frame_of(kind::DATA, 0, 1, b"late"), window(1, 5), request(1, HEADERS_END)];
    assert_eq!(feed(&mut core, &late.concat()), [] as [String; 0]);
    assert_eq!(output(&mut core), [] as [String; 0]);
}

#[test]
fn padding_is_given_back() {
    let mut core = core();
    feed(&mut core, &request(1, HEADERS_DONE));
    let mut payload = vec![255; 256];
    payload[0] = 255;
    for _ in 0..2100 {
        let events = feed(&mut core, &frame_of(kind::DATA, flag::PADDED | 1, 1, &payload));
        if events == ["data 1 0 true"] {
            break;
        }
    }
    assert!(!core.is_closed());
    let open = &core.streams[&1];
    assert_eq!(open.owed, 0, "the client has ended");
    let mut core = core_with(Limits::default());
    feed(&mut core, &request(1, HEADERS_DONE));
    for _ in 0..4000 {
        feed(&mut core, &frame_of(kind::DATA, flag::PADDED, 1, &payload));
    }
    let credit = output(&mut core).iter().filter(|frame| frame.starts_with("window 1")).count();
    assert_eq!(credit, 1);
}

#[test]
fn equal_blocks_share_a_head_only_while_the_table_stays() {
    let mut core = core();
    // The first block puts `a: b` into the table, the second names it, the third puts `c: d`
    // in front, after which the second block means another field.
    let insert = |name: u8, value: u8| [&BLOCK[..], &[0x40, 1, name, 1, value]].concat();
    let named = [&BLOCK[..], &[0xbe]].concat();
    let value_of = |core: &mut Core, stream: u32, block: &[u8]| {
        let bytes = frame_of(kind::HEADERS, HEADERS_END, stream, block);
        match core.next(&mut bytes.as_slice(), Instant::now()) {
            Step::Event(Event::Request { head, .. }) => {
                String::from_utf8(head.fields[0].value().to_vec()).unwrap()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(value_of(&mut core, 1, &insert(b'a', b'b')), "b");
    assert_eq!(value_of(&mut core, 3, &named), "b");
    assert_eq!(value_of(&mut core, 5, &named), "b");
    assert_eq!(value_of(&mut core, 7, &insert(b'c', b'd')), "d");
    assert_eq!(value_of(&mut core, 9, &named), "d");
}

#[test]
fn streams_share_the_connection_window_in_turns() {
    let mut core = core();
    feed(&mut core, &[request(1, HEADERS_END), request(3, HEADERS_END)].concat());
    for stream in [1, 3] {
        core.send_unary(stream, Bytes::from(vec![0; 60_000]));
    }
    let frames = output(&mut core);
    let want =
        ["headers 1", "headers 3", "data 1 16384", "data 3 16384", "data 1 16384", "data 3 16383"];
    assert_eq!(frames, want);
    assert_eq!(core.unary_pending_bytes(), 2 * 60_005 - 65_535);
    feed(&mut core, &window(0, 1 << 20));
    let frames = output(&mut core);
    let ends = frames.iter().filter(|frame| frame.ends_with("end")).count();
    assert_eq!(ends, 2, "{frames:?}");
    assert_eq!(core.unary_pending_bytes(), 0);
    assert!(core.streams.is_empty());
}

#[test]
fn output_is_filled_only_as_it_is_written() {
    let mut core = core();
    let open = [settings(4, 100 << 20), window(0, 100 << 20), request(1, HEADERS_END)].concat();
    feed(&mut core, &open);
    core.send_unary(1, Bytes::from(vec![0; 10 << 20]));
    let mut sent = 0;
    while !core.streams.is_empty() {
        core.pump(Instant::now());
        assert!(core.output().len() <= OUTPUT_BYTES_SOFT + (64 << 10));
        let bytes = core.output().len().min(10_000);
        core.written(bytes);
        sent += bytes;
    }
    assert!(sent + core.output().len() > 10 << 20);
    assert!(core.out.capacity() <= 8 * OUTPUT_BYTES_SOFT);
}

#[test]
fn long_header_lists_are_refused_and_long_texts_are_split() {
    let mut core = core_with(Limits { header_list_bytes_max: 200, ..Limits::default() });
    let long = [&BLOCK[..], &[0, 1, b'a', 100], &[b'x'; 100]].concat();
    feed(&mut core, &frame_of(kind::HEADERS, HEADERS_END, 1, &long));
    assert_eq!(output(&mut core), ["headers 1 end"]);
    feed(&mut core, &request(3, HEADERS_END));
    let text = "x".repeat(40_000);
    core.finish(3, End::Trailers(Err(Status::new(Code::Internal, text))));
    assert_eq!(output(&mut core), ["headers 3 end", "frame 9", "frame 9"]);
}

#[test]
fn dropped_streams_leave_no_bytes_and_no_queue() {
    let mut core = core_with(Limits { resets_burst: 100_000, ..Limits::default() });
    feed(&mut core, &settings(4, 1 << 20));
    for n in 0..10_000 {
        let stream = 2 * n + 1;
        feed(&mut core, &request(stream, HEADERS_END));
        core.send_unary(stream, Bytes::from(vec![0; 20_000]));
        core.pump(Instant::now());
        core.written(core.output().len());
        feed(&mut core, &frame_of(kind::RST_STREAM, 0, stream, &[0; 4]));
    }
    assert_eq!(core.unary_pending_bytes(), 0);
    assert!(core.send_queue.len() <= 100, "{} stale entries", core.send_queue.len());
}

/// Whole frames of any kind, so that more than the first check is reached.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(BLOCK.to_vec()),
        Just(vec![0, 0, 0, 0]),
        Just(vec![0, 0, 0, 0, 3, 1, 2, 3]),
        Just(vec![0, 4, 0, 0, 0, 9]),
    ];
    (0..11_u8, any::<u8>(), 0..12_u32, payload)
        .prop_map(|(kind, flags, stream, payload)| frame_of(kind, flags, stream, &payload))
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = fuzz_connection(&bytes);
    }

    #[test]
    fn arbitrary_frames_never_panic(
        frames in proptest::collection::vec(any_frame(), 0..60),
        start in any::<bool>(),
    ) {
        let mut bytes = if start { frame_of(kind::SETTINGS, 0, 0, &[]) } else { Vec::new() };
        bytes.extend(frames.concat());
        let _ = fuzz_connection(&bytes);
    }

    #[test]
    fn splits_change_nothing(
        frames in proptest::collection::vec(any_frame(), 0..40),
        cuts in proptest::collection::vec(1..30_usize, 1..20),
    ) {
        let bytes = [
            PREFACE.as_slice(),
            &frame_of(kind::SETTINGS, 0, 0, &[]),
            &request(1, HEADERS_DONE),
            &frames.concat(),
        ].concat();
        let fresh = || Core::new(Rc::new(Limits::default()), Instant::now());
        let (mut whole, mut split) = (fresh(), fresh());
        let want = feed(&mut whole, &bytes);
        let (mut got, mut pending, mut rest) = (Vec::new(), Vec::new(), bytes.as_slice());
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            rest = tail;
            pending.extend_from_slice(piece);
            got.extend(feed_part(&mut split, &mut pending));
        }
        prop_assert_eq!(got, want);
        prop_assert_eq!(split.output(), whole.output());
    }
}

/// Feeds what `pending` has of whole frames and leaves the rest in it.
fn feed_part(core: &mut Core, pending: &mut Vec<u8>) -> Vec<String> {
    let mut input = pending.as_slice();
    let mut events = Vec::new();
    while let Step::Event(event) = core.next(&mut input, Instant::now()) {
        events.push(match event {
            Event::Request { stream, head, end } => {
                core.attach(stream, stream, true);
                format!("request {stream} {} {end}", head.path.value_text())
            }
            Event::Data { stream, bytes, end, .. } => {
                format!("data {stream} {} {end}", bytes.len())
            }
            Event::Gone { tag } => format!("gone {tag}"),
        });
    }
    let left = input.len();
    pending.drain(..pending.len() - left);
    events
}

/// Source: RFC 9113 section 8.1: a server may answer before it has the whole request.
#[test]
fn an_early_answer_stops_a_long_upload_and_waits_out_a_short_one() {
    let request_of = |stream, length: &str| {
        let mut block = BLOCK.to_vec();
        // `content-length` of the static table, not indexed.
        block.extend([0x0f, 0x0d, u8::try_from(length.len()).unwrap()]);
        block.extend(length.as_bytes());
        frame_of(kind::HEADERS, HEADERS_DONE, stream, &block)
    };
    let mut core = core();
    output(&mut core);
    for (stream, length, want) in [
        (1, "14", vec!["headers 1", "data 1 0 end"]),
        (3, "99999999999", vec!["headers 3", "data 3 0 end", "reset 3 0"]),
    ] {
        feed(&mut core, &request_of(stream, length));
        core.send_plain_head(stream, 405, std::iter::empty());
        core.finish(stream, End::Body);
        assert_eq!(output(&mut core), want, "{length} bytes");
        // What was on its way is ignored, and nobody is told anything.
        let rest = frame_of(kind::DATA, flag::END_STREAM, stream, &[0; 14]);
        assert_eq!(feed(&mut core, &rest), [""; 0]);
        assert_eq!(output(&mut core), [""; 0], "{length} bytes");
    }
}

/// Rust's h2 ends a connection with more than a hundred small frames that nobody has read yet.
#[test]
fn small_messages_of_a_stream_share_a_frame_until_it_is_written() {
    let mut core = core();
    feed(&mut core, &[request(1, HEADERS_END), request(3, HEADERS_END)].concat());
    core.attach(1, 1, false);
    core.attach(3, 3, false);
    let say = |core: &mut Core, stream, text: &'static str| core.send_message(stream, text.into());
    say(&mut core, 1, "first");
    say(&mut core, 1, "second");
    say(&mut core, 3, "other");
    say(&mut core, 1, "third");
    let (first, second, other, third) = (5 + 5, 5 + 6, 5 + 5, 5 + 5);
    let together = format!("data 1 {}", first + second);
    let want = ["headers 1", &together, "headers 3", &format!("data 3 {other}")];
    assert_eq!(output(&mut core), [&want[..], &[&format!("data 1 {third}")]].concat());
    // What has left, even in part, is not touched.
    say(&mut core, 1, "first");
    core.written(3);
    say(&mut core, 1, "second");
    assert_eq!(core.output().len(), 2 * HEAD_BYTES + first + second - 3);
    core.written(core.output().len());
    say(&mut core, 1, "first");
    assert_eq!(output(&mut core), [format!("data 1 {first}")]);
    // Nor does a frame grow beyond the largest.
    let large = Bytes::from(vec![b'x'; 9_000]);
    core.send_message(1, large.clone());
    core.send_message(1, large);
    assert_eq!(output(&mut core), ["data 1 9005", "data 1 9005"]);
}

#[test]
fn streams_that_were_answered_may_be_reset_in_any_number() {
    let limits = || Limits { resets_burst: 3, resets_per_s: 0, ..Limits::default() };
    let reset = |stream| frame_of(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    for (is_answered, is_ended) in [(true, false), (false, true)] {
        let mut core = core_with(limits());
        for number in 0..6 {
            let stream = 2 * number + 1;
            feed(&mut core, &request(stream, HEADERS_END));
            core.attach(stream, stream, false);
            if is_answered {
                core.send_message(stream, "made".into());
            }
            feed(&mut core, &reset(stream));
        }
        let ended = output(&mut core).iter().any(|frame| frame.starts_with("goaway"));
        assert_eq!(ended, is_ended, "answered: {is_answered}");
    }
}
