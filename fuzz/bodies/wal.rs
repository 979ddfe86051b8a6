//! A log segment of any bytes: recovery answers, it never panics.

pub(crate) fn run(bytes: &[u8]) {
    tripod_storage::log::fuzz_segment(bytes);
}
