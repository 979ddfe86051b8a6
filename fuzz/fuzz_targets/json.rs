#![no_main]
#[path = "../bodies/json.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| body::run(input.0, input.1));
