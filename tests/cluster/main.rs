//! Tests of clusters of processes: faults, recovery, real clients.

#[path = "../support/mod.rs"]
mod support;
