//! A database file with changed bytes behind its meta pages: taken in or refused, never a panic.

use std::{
    io::Cursor,
    sync::{Arc, OnceLock},
};

use tripod_storage::{
    apply::Mark,
    bbolt::{Reader, Writer},
    engine::{Engine, MemoryEngine},
    etcd::{file_status, import},
};

/// Bytes of the meta pages, which are guarded by checksums.
const METAS: usize = 2 * 4096;

static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();

/// `changes` are places behind the meta pages and what is there instead.
pub(crate) fn run(changes: &[(u16, u8)]) {
    let mut bytes = SAMPLE.get_or_init(|| sample().expect("a sample in memory")).clone();
    for &(at, to) in changes {
        if let Some(byte) = bytes.get_mut(METAS + usize::from(at)) {
            *byte = to;
        }
    }
    let Ok(reader) = Reader::open(bytes) else { return };
    drop(file_status(&reader));
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let mark = Mark { index: 0, payload: Default::default() };
    drop(import(&reader, &engine, &mark, None));
}

fn sample() -> Option<Vec<u8>> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).ok()?;
    for bucket in ["alarm", "auth", "authUsers", "key", "lease", "meta"] {
        writer.bucket(bucket.as_bytes()).ok()?;
        for at in 2_u64..if bucket == "key" { 400 } else { 4 } {
            let key = [&at.to_be_bytes()[..], b"_", &[0; 8]].concat();
            writer.put(&key, b"\x0a\x02k2\x10\x03\x18\x03\x20\x01\x2a\x02v2").ok()?;
        }
    }
    Some(writer.finish().ok()?.0.into_inner())
}
