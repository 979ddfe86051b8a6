//! Tripod: an embedded, etcd-compatible key-value store on Raft.

pub mod api;
pub mod bench;
pub mod cli;
