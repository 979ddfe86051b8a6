//! Any bytes from a client behind the HTTP/2 preface.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = tripod::api::h2::fuzz_connection(bytes);
});
