//! The door for fuzzing: arbitrary chunks are refused or taken, never a panic.

use std::sync::Arc;

use super::{Importer, PAYLOAD_AT, seal_chunk};
use crate::engine::MemoryEngine;

/// Takes `chunks` in as a snapshot, twice: as they are, and with right numbers and checksums, so
/// that what lies behind the checksum is reached.
pub fn fuzz_chunks(chunks: &[&[u8]]) {
    import(chunks.iter().map(|chunk| chunk.to_vec()));
    let sealed = (0_u32..).zip(chunks).map(|(sequence, chunk)| {
        let kind = chunk.first().copied().unwrap_or_default();
        seal_chunk(kind, sequence, chunk.get(PAYLOAD_AT..).unwrap_or_default())
    });
    import(sealed);
}

fn import(chunks: impl Iterator<Item = Vec<u8>>) {
    let Ok(mut importer) = Importer::new(Arc::new(MemoryEngine::default())) else { return };
    for chunk in chunks {
        if importer.chunk(&chunk).is_err() {
            return;
        }
    }
    drop(importer.finish());
}
