#![no_main]
#[path = "../bodies/snapshot.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|chunks: Vec<&[u8]>| body::run(&chunks));
