//! Tripod: an embedded, etcd-compatible key-value store on Raft.

pub mod api;
pub mod auth;
pub mod bench;
pub mod cli;
pub mod client;
mod compactor;
pub mod config;
pub mod discovery;
mod embed;
pub mod frontend;
pub mod member_id;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod tls;
pub mod version;

pub use client::Client;
pub use embed::{Builder, Tripod};
pub use tripod_storage as storage;
