//! The state as an etcd backend: what `etcdctl snapshot save` writes and etcd starts from.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | main revision (8, big endian) `_` sub revision (8), and `t` for a delete | `mvccpb.KeyValue` |
//! | `lease` | lease id (8) | `leasepb.Lease` |
//! | `alarm` | `etcdserverpb.AlarmMember` | nothing |
//! | `auth` | `authEnabled`, `authRevision` | 1 byte, 8 bytes |
//! | `authUsers`, `authRoles` | name | `authpb.User`, `authpb.Role` |
//! | `cluster` | `clusterVersion` | text |
//! | `members`, `members_removed` | id (16 hexadecimal digits) | JSON |
//! | `meta` | `consistent_index`, `term` | 8 bytes |
//! | | `finishedCompactRev`, `scheduledCompactRev` | as a key of bucket `key` |
//! | | `confState` | JSON |
//!
//! Invariants:
//! - history from the compact revision on goes out and comes in change by change: equal pairs,
//!   revisions, versions and leases, so equal HashKV;
//! - a file is imported whole or the engine stays marked as incomplete.
//!
//! Source: files of etcd 3.5.1, observed; field numbers from etcd's `.proto` files.

mod auth;
mod export;
mod import;
mod status;
pub(crate) mod wire;

pub use self::{
    auth::{AuthTables, Permission, Role, User},
    export::{About, Backup, BackupMember, BackupWriter, Page},
    import::{Bump, ImportError, Imported, import},
    status::{FileStatus, file_status},
};

/// Buckets of every file, in order.
pub(crate) mod bucket {
    pub(crate) const ALARM: &[u8] = b"alarm";
    pub(crate) const AUTH: &[u8] = b"auth";
    pub(crate) const AUTH_ROLES: &[u8] = b"authRoles";
    pub(crate) const AUTH_USERS: &[u8] = b"authUsers";
    pub(crate) const CLUSTER: &[u8] = b"cluster";
    pub(crate) const KEY: &[u8] = b"key";
    pub(crate) const LEASE: &[u8] = b"lease";
    pub(crate) const MEMBERS: &[u8] = b"members";
    pub(crate) const MEMBERS_REMOVED: &[u8] = b"members_removed";
    pub(crate) const META: &[u8] = b"meta";
}

#[cfg(test)]
mod tests;
