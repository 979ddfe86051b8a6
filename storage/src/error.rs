//! Errors, split by who must act: the client ([`Rejected`]) or this node ([`Error`]).

use crate::types::Revision;

/// A request the state machine refuses. It is part of the replicated answer: every replica
/// computes the same one, and the entry still counts as applied.
///
/// The texts are etcd's own (they are part of the interface: clients map errors by text).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Rejected {
    /// The history asked for is gone; read again at a newer revision.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The store's compact revision.
        compact_revision: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// A put names a lease that does not exist.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A grant names an id that is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// The database is over its quota.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// Members disagree about the data; writes are refused.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// Sort order or target is none of etcd's.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// Transactions nested deeper than anything that validation lets through.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// Authentication cannot be switched on without the user root.
    #[error("etcdserver: root user does not exist")]
    RootUserMissing,
    /// Authentication cannot be switched on while root lacks the role root.
    #[error("etcdserver: root user does not have root role")]
    RootRoleMissing,
    /// A user of that name exists.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// Nobody was named: no user to add, or no token while authentication is on.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// No such user.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// A role of that name exists.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// No such role.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// A role needs a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// Unknown user or wrong password.
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthFailed,
    /// A user without password cannot log in with one (etcd's text, which has no gRPC twin).
    #[error("auth: authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// A grant without a permission in it.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// The user may not do this.
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    /// The user does not have the role.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have the permission.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// There is nothing to log in to.
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    /// The token is unknown here, has expired, or was made with another key.
    #[error("etcdserver: invalid auth token")]
    InvalidAuthToken,
    /// The change would lock everybody out, or its range holds no key.
    #[error("etcdserver: invalid auth management")]
    InvalidAuthManagement,
    /// Users or roles have changed since the caller proved who he is: prove it again.
    #[error("etcdserver: revision of auth store is old")]
    AuthOldRevision,
    /// The reads of a transaction, or the previous values that a delete asks for, would answer more
    /// than [`TXN_ANSWER_BYTES_MAX`](crate::mvcc::answer::TXN_ANSWER_BYTES_MAX). etcd has no such
    /// limit.
    #[error(
        "etcdserver: the answer is too large: read page by page outside of a transaction, delete \
         in parts or without the previous values"
    )]
    AnswerTooLarge,
}

/// A failure of this node alone: it must stop serving, never answer, or replicas diverge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk refused or lost an operation.
    #[error("cannot {action}")]
    Io {
        /// What was attempted, with the path.
        action: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("{what} is corrupt: {detail}; restore this member from a peer or a backup")]
    Corrupt {
        /// File or table and position.
        what: String,
        /// What does not hold.
        detail: String,
    },
    /// The storage engine failed.
    #[error("storage engine cannot {action}")]
    Engine {
        /// What was attempted.
        action: String,
        /// The engine's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
