//! A log segment of any bytes: recovery answers, it never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tripod_storage::log::fuzz_segment(bytes));
