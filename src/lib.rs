//! Tripod: an embedded, etcd-compatible key-value store on Raft.

pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
pub mod frontend;
pub mod member_id;
pub mod peer;
