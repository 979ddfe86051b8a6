//! Tripod: an embedded, etcd-compatible key-value store on Raft.

pub mod api;
pub mod cli;
pub mod config;
pub mod member_id;
