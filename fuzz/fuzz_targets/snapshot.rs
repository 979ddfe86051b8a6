//! A received snapshot of any chunks: refused or taken, never a panic.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tripod_storage::{engine::MemoryEngine, snapshot::Importer};

fuzz_target!(|chunks: Vec<&[u8]>| {
    let Ok(mut importer) = Importer::new(Arc::new(MemoryEngine::default())) else { return };
    for chunk in chunks {
        if importer.chunk(chunk).is_err() {
            return;
        }
    }
    drop(importer.finish());
});
