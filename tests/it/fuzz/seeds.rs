//! Valid inputs of the fuzz targets.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use tripod::api::json::Schema;
use tripod_storage::{
    apply::{Mark, Options, StateMachine},
    command::{Command, DeleteRange, Put},
    engine::MemoryEngine,
    log::{Wal, WalOptions},
};

/// Bytes of a log segment, the least there are.
const SEGMENT_BYTES: u64 = 16 << 10;

/// Segments as the log writes them, and lists of records for the target to make one of.
pub(super) fn segments() -> Result<Vec<Vec<u8>>> {
    let dir = tempfile::tempdir()?;
    let mut wal = Wal::open(dir.path(), WalOptions { segment_bytes: SEGMENT_BYTES })?;
    for index in 0..40 {
        wal.append(index, &[&index.to_le_bytes(), &[b'.'; 700]])?;
    }
    wal.set_meta(1, b"vote")?;
    wal.truncate_after(Some(35))?;
    wal.append(36, &[b"another row"])?;
    wal.purge_to(3, b"purged id")?;
    wal.sync()?;
    drop(wal);
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(dir.path())? {
        seeds.push(std::fs::read(entry?.path())?);
    }
    seeds.retain(|bytes| bytes.len() as u64 >= SEGMENT_BYTES);
    ensure!(seeds.len() > 1, "no segments");
    // Sequence, then per record: kind, argument, index, wide, length of the payload, synced.
    let rows = |kinds: &[u8]| {
        let mut list = vec![1];
        for (index, kind) in (5_u8..).zip(kinds) {
            list.extend_from_slice(&[*kind, 1, index, 0, 4, 0, b'd', b'a', b't', b'a']);
        }
        list
    };
    seeds.extend([rows(&[4, 0, 0, 0, 1, 2, 0, 5]), rows(&[0, 0, 3, 0, 1]), rows(&[4, 3, 0, 2, 0])]);
    Ok(seeds)
}

/// Bodies of requests, each behind the number of its message.
pub(super) fn json() -> Vec<Vec<u8>> {
    let bodies = [
        (
            "RangeRequest",
            r#"{"key":"Zm9v","range_end":"Zm9w","limit":"10","sort_order":"DESCEND"}"#,
        ),
        ("RangeRequest", r#"{"key":"AA==","rangeEnd":"AA==","keys_only":true,"revision":7}"#),
        ("PutRequest", r#"{"key":"Zm9v","value":"YmFy","lease":"-5","prev_kv":true}"#),
        ("DeleteRangeRequest", r#"{"key":"Zm9v","range_end":"Zm9w","prevKv":false}"#),
        (
            "TxnRequest",
            r#"{"compare":[{"result":"EQUAL","target":"MOD","key":"Zm9v","mod_revision":"3"},
            {"target":"VALUE","key":"Zm9v","value":"YmFy"}],"success":[{"requestPut":{"key":"Zm9v",
            "value":"YmF6"}},{"request_txn":{"success":[{"request_range":{"key":"Zm9v"}}]}}],
            "failure":[{"request_delete_range":{"key":"Zm9v"}}]}"#,
        ),
        ("LeaseGrantRequest", r#"{"TTL":60,"ID":"7587862094705"}"#),
        (
            "LeaseLeasesResponse",
            r#"{"header":{"cluster_id":"14841639068965178418"},"leases":[{}]}"#,
        ),
        ("WatchRequest", r#"{"create_request":{"key":"Zm9v","filters":["NOPUT","NODELETE"]}}"#),
        ("WatchRequest", r#"{"cancelRequest":{"watch_id":1}}{"progress_request":{}}"#),
        ("AlarmRequest", r#"{"action":"ACTIVATE","memberID":"1","alarm":"NOSPACE"}"#),
        ("MemberAddRequest", r#"{"peerURLs":["http://127.0.0.1:2380"],"isLearner":true}"#),
        ("AuthUserAddRequest", r#"{"name":"\u00e9\ud83d\ude00","password":"x","options":null}"#),
        ("AuthRoleGrantPermissionRequest", r#"{"name":"r","perm":{"permType":2,"key":"AA=="}}"#),
        (
            "CompactionRequest",
            r#" { "revision" : 1e3 , "physical" : true , "unknown" : [1.5, {}] } "#,
        ),
    ];
    let schema = Schema::etcd();
    let numbered = bodies.iter().map(|(name, text)| {
        let id = schema.message(&format!("etcdserverpb.{name}")).expect(name);
        let number = schema.messages().position(|known| known == id).expect(name);
        [&[u8::try_from(number).expect("fewer messages")][..], text.as_bytes()].concat()
    });
    numbered.collect()
}

/// What JSON is made of.
pub(super) const JSON_WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"null",
    b"true",
    b"-",
    b"1e400",
    b"0.5",
    b"\\u0000",
    b"\\ud800",
    b"\"key\":",
    b"\"header\":{",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"\"NaN\"",
    b"{\"key\":\"",
    b"\xff",
    b"\xef\xbb\xbf",
    b"[[[[[[[[",
    b"====",
];

/// What clients send behind the preface.
pub(super) fn http2() -> Vec<Vec<u8>> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    // Method, scheme and path by index and as text, then fields with and without the table.
    let mut block = vec![0x83, 0x86, 0x44, 20];
    block.extend_from_slice(b"/etcdserverpb.KV/Put");
    block.extend_from_slice(b"\x40\x0ccontent-type\x10application/grpc\x00\x02te\x08trailers");
    let message = b"\x00\x00\x00\x00\x0a\x0a\x03key\x12\x03val";
    let settings = frame(4, 0, 0, &[0, 4, 0, 1, 0, 0, 0, 1, 0, 0, 16, 0]);
    let call = |stream| [frame(1, 4, stream, &block), frame(0, 1, stream, message)].concat();
    let (front, back) = block.split_at(9);
    vec![
        [settings.clone(), call(1), call(3), call(5), call(7)].concat(),
        [settings.clone(), frame(1, 0, 1, front), frame(9, 4, 1, back), frame(0, 0, 1, message)]
            .concat(),
        [settings.clone(), frame(6, 0, 0, b"pingpong"), frame(8, 0, 0, &[0, 1, 0, 0]), call(9)]
            .concat(),
        [
            settings.clone(),
            call(11),
            frame(8, 0, 11, &[0, 0, 0, 1]),
            frame(3, 0, 11, &[0, 0, 0, 8]),
        ]
        .concat(),
        // Padding, a priority, trailers, a goodbye.
        [
            settings,
            frame(1, 0x2c, 13, &[&[2, 0, 0, 0, 0, 9], &block[..], &[0, 0]].concat()),
            frame(0, 8, 13, &[&[3], &message[..], &[0; 3]].concat()),
            frame(1, 5, 13, b"\x00\x01a\x01b"),
            frame(7, 0, 0, &[0; 8]),
        ]
        .concat(),
    ]
}

/// Chunks of a whole state, each behind its length.
pub(super) fn snapshots() -> Result<Vec<Vec<u8>>> {
    let whole = |commands: Vec<Command>| -> Result<Vec<u8>> {
        let engine = Arc::new(MemoryEngine::default());
        let mut machine = StateMachine::open(engine, Options::default())?;
        let mark = Mark { index: 7, payload: Bytes::from_static(b"mark") };
        machine.apply(mark, commands)?;
        let mut export = machine.export();
        let mut out = Vec::new();
        while let Some(chunk) = export.next_chunk(&machine)? {
            out.extend_from_slice(&u32::try_from(chunk.len()).expect("short").to_le_bytes());
            out.extend_from_slice(&chunk);
        }
        Ok(out)
    };
    let put = |number: usize| {
        let key = format!("key{}", number % 20).into();
        Command::Put(Put { key, value: vec![b'v'; number].into(), ..Put::default() })
    };
    let mut commands = vec![Command::LeaseGrant { id: -3, ttl_s: 60 }];
    commands.extend((0..60).map(put));
    let delete = DeleteRange { key: "key1".into(), range_end: "key3".into(), prev_kv: false };
    commands.push(Command::DeleteRange(delete));
    Ok(vec![whole(Vec::new())?, whole(vec![put(3)])?, whole(commands)?])
}

/// Cuts what [`snapshots`] makes, also where the lengths were changed.
pub(super) fn pieces(mut input: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// Changes of a database file: a place in two bytes, then what is there instead.
pub(super) fn file_changes() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new()];
    for page in 0_u16..12 {
        // The fields of a page's header: its number, kind, entries and overflow.
        for field in [0, 8, 10, 12, 16, 20, 24] {
            for to in [0, 1, 2, 4, 0x10, 0xff] {
                let at = (page * 4096 + field).to_le_bytes();
                seeds.push([&at[..], &[to]].concat());
            }
        }
    }
    seeds
}
