//! Tests of clusters of processes: faults, recovery, real clients.
//!
//! These start many processes. The runner should not run more than one or two at a time
//! (`.config/nextest.toml` says so for nextest; [`support::cluster::turn`] for cargo test).

#[path = "../support/mod.rs"]
mod support;

mod auth;
mod chaos;
mod clients;
mod concurrency;
mod defragment;
mod dev;
mod discovery;
mod disk;
mod dropin;
mod failover;
mod joining;
mod load;
mod plain_http;
mod recovery;
mod secured;
mod snapshots;
mod tls;
