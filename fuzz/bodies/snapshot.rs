//! A received snapshot of any chunks: refused or taken, never a panic.

pub(crate) fn run(chunks: &[&[u8]]) {
    tripod_storage::snapshot::fuzz_chunks(chunks);
}
