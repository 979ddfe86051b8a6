//! Any bytes from another member: decoding refuses, it never panics or allocates by a claim.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tripod_raft::decode_untrusted(bytes));
