//! Which etcd we are, and our own version.

/// The etcd release whose behaviour and flag names we present.
pub const ETCD: &str = "3.6.0";
/// The cluster version that goes with it.
pub const ETCD_CLUSTER: &str = "3.6.0";
/// The storage version that goes with it.
pub const ETCD_STORAGE: &str = "3.6.0";
/// Tripod's own.
pub const TRIPOD: &str = env!("CARGO_PKG_VERSION");
