//! Which etcd we are, and our own version.

/// The etcd release whose behaviour and flag names we present.
pub const ETCD: &str = "3.6.0";
/// Tripod's own.
pub const TRIPOD: &str = env!("CARGO_PKG_VERSION");
