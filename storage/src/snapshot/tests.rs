use std::sync::Arc;

use super::*;
use crate::{
    apply::{
        StateMachine,
        tests::{machine, options, put},
    },
    command::Command,
    engine::MemoryEngine,
};

fn chunks() -> Vec<Vec<u8>> {
    let mut machine = machine();
    machine.one(Command::LeaseGrant { id: -3, ttl_s: 60 });
    for at in 0..3000 {
        machine.one(Command::Put(put(&format!("key{}", at % 1000), &"v".repeat(1000))));
    }
    let mut export = machine.export();
    let mut chunks = Vec::new();
    while let Some(chunk) = export.next_chunk(&machine).unwrap() {
        chunks.push(chunk);
    }
    chunks
}

fn import(chunks: &[Vec<u8>]) -> Result<Header, Error> {
    let mut importer = Importer::new(Arc::new(MemoryEngine::default()))?;
    for chunk in chunks {
        importer.chunk(chunk)?;
    }
    importer.finish()
}

/// etcd 3.6.14: a snapshot's limit was so high that it was none.
#[test]
fn chunks_are_bounded_and_the_first_tells_what_it_is() {
    let chunks = chunks();
    assert!(chunks.len() > 4);
    assert!(chunks.iter().all(|chunk| chunk.len() < 2 * CHUNK_BYTES_FULL));
    let header = Header::of_chunk(&chunks[0]).unwrap();
    assert_eq!((header.revision, header.compact_revision), (3001, -1));
    assert_eq!(import(&chunks).unwrap(), header);
    assert!(Header::of_chunk(&chunks[1]).is_err());
}

#[test]
fn a_snapshot_that_is_damaged_cut_or_shuffled_is_refused() {
    let good = chunks();
    let flip = |chunk: usize, at: usize| {
        let mut bad = good.clone();
        let at = at % bad[chunk].len();
        bad[chunk][at] ^= 0x10;
        bad
    };
    let mut cases = vec![("cut at a chunk", good[..good.len() - 1].to_vec())];
    for (name, chunk, at) in [
        ("kind", 1, 0),
        ("sequence", 1, 2),
        ("checksum", 1, 6),
        ("payload", 1, 5000),
        ("header", 0, 12),
        ("trailer", good.len() - 1, 10),
    ] {
        cases.push((name, flip(chunk, at)));
    }
    let mut cut = good.clone();
    cut[1].truncate(900);
    cases.push(("cut inside a chunk", cut));
    let mut shuffled = good.clone();
    shuffled.swap(1, 2);
    cases.push(("shuffled", shuffled));
    let mut missing = good.clone();
    missing.remove(2);
    cases.push(("missing", missing));
    let mut twice = good.clone();
    twice.push(good[good.len() - 1].clone());
    cases.push(("goes on", twice));
    cases.push(("nothing", vec![]));
    for (name, chunks) in cases {
        assert!(matches!(import(&chunks), Err(Error::Corrupt { .. })), "{name}");
    }
}

#[test]
fn an_interrupted_import_is_noticed_at_open() {
    let chunks = chunks();
    for count in 0..chunks.len() {
        let engine = Arc::new(MemoryEngine::default());
        let mut importer = Importer::new(engine.clone()).unwrap();
        for chunk in &chunks[..count] {
            importer.chunk(chunk).unwrap();
        }
        drop(importer);
        engine.crash();
        assert!(StateMachine::open(engine, options()).is_err(), "after {count} chunks");
    }
}
