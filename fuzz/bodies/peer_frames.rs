//! Any bytes from another member: decoding refuses, it never panics or allocates by a claim.

pub(crate) fn run(bytes: &[u8]) {
    tripod_raft::decode_untrusted(bytes);
}
