//! Any bytes from a client behind the HTTP/2 preface.

pub(crate) fn run(bytes: &[u8]) {
    let _ = tripod::api::h2::fuzz_connection(bytes);
}
