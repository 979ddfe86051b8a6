#![no_main]
#[path = "../bodies/etcd_file.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|changes: Vec<(u16, u8)>| body::run(&changes));
