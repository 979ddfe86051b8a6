//! Users, roles and what they may: replicated tables, the rules of their changes, and the one
//! decision that every request passes.
//!
//! | room | what it holds |
//! |---|---|
//! | `tables` | users, roles, the switch and the auth revision; how commands change them |
//! | `backend` | the tables as an etcd backend has them |
//! | `access` | `Auth::authorize`: may this caller do that? |
//! | `spans` | key ranges granted to a user, merged |
//! | `feed` | what happened to logins since somebody last looked |
//!
//! Invariants:
//! - every change of a user or role, and switching off, raises the auth revision by one;
//!   what changes nothing raises nothing;
//! - the tables hold bcrypt hashes, never passwords, and digests of tokens, never tokens;
//! - while authentication is off everything is allowed but what only members do themselves;
//! - the user and the role `root` cannot be taken away while it is on.
//!
//! Absent: tokens and their lifetimes (they are the members' own), password hashing (slow, and
//! done before a command is proposed).
//!
//! Source: etcd's auth guide, <https://etcd.io/docs/latest/learning/design-auth-v3/>; answers
//! measured on etcd 3.5.1, holes closed as in later releases.

mod access;
mod backend;
mod feed;
mod spans;
mod tables;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::{
    access::Ask,
    feed::{LoginChange, LoginChanges},
};
pub(crate) use self::{feed::LoginFeed, tables::Auth};

/// Name of the user and of the role that may do everything.
pub const ROOT: &str = "root";

/// Revision of tables that nothing has changed yet.
pub(crate) const FIRST_REVISION: u64 = 1;

/// Who asks. Travels with a command, so that every member decides alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caller {
    /// Somebody who has not said who he is.
    #[default]
    Anonymous,
    /// Somebody with a token that means nothing here.
    InvalidToken,
    /// A user who has proven who he is.
    User {
        /// User name.
        name: Arc<str>,
        /// Auth revision that the proof is of.
        auth_revision: u64,
    },
    /// The program that the member is part of.
    System,
}

/// SHA-256 of the random part of a token.
pub type TokenDigest = [u8; 32];

/// A bcrypt hash in its printed form. Not shown in debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash(Bytes);

impl PasswordHash {
    /// Wraps a printed hash. Bytes that are none are taken too: no password will match them.
    #[must_use]
    pub fn new(hash: impl Into<Bytes>) -> Self {
        Self(hash.into())
    }

    /// The printed form; `None` where it is no text, and so no hash.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// A right on a key or range of keys (etcd `authpb.Permission`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// `Permission.Type` number: 0 read, 1 write, 2 both; any other grants nothing.
    pub kind: i32,
    /// First key.
    pub key: Bytes,
    /// Exclusive end; empty: one key; `\0`: no end.
    pub range_end: Bytes,
}

impl Permission {
    fn reads(&self) -> bool {
        matches!(self.kind, 0 | 2)
    }

    fn writes(&self) -> bool {
        matches!(self.kind, 1 | 2)
    }

    fn is_same_range(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.key == key && self.range_end == range_end
    }

    /// No key can lie in it. etcd refuses such since 3.5.8.
    fn is_empty(&self) -> bool {
        let ends_below = !matches!(&self.range_end[..], [] | [0]) && self.range_end <= self.key;
        self.key.is_empty() || ends_below
    }
}

/// One change of the auth tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AuthChange {
    /// Switch authentication on.
    Enable,
    /// Switch it off.
    Disable,
    /// A user has proven his password to a member, which hands out a token.
    Login {
        /// User name.
        name: Arc<str>,
        /// Auth revision that the password was checked at: another now, and it must be again.
        auth_revision: u64,
        /// What the token will be known by; none where tokens prove themselves.
        token: Option<TokenDigest>,
    },
    /// Add a user.
    UserAdd {
        /// User name, not empty.
        name: String,
        /// `None`: the user has no password and can use certificates only.
        password: Option<PasswordHash>,
    },
    /// Remove a user.
    UserDelete {
        /// User name.
        name: String,
    },
    /// Change a password.
    UserChangePassword {
        /// User name.
        name: String,
        /// `None`: what the client sent as a hash cannot be one.
        password: Option<PasswordHash>,
    },
    /// Give a user a role.
    UserGrantRole {
        /// User name.
        user: String,
        /// Role name.
        role: String,
    },
    /// Take a role from a user.
    UserRevokeRole {
        /// User name.
        user: String,
        /// Role name.
        role: String,
    },
    /// Add a role.
    RoleAdd {
        /// Role name, not empty.
        name: String,
    },
    /// Remove a role, from its users too.
    RoleDelete {
        /// Role name.
        name: String,
    },
    /// Give a role a right.
    RoleGrantPermission {
        /// Role name.
        name: String,
        /// The right.
        permission: Option<Permission>,
    },
    /// Take a right from a role.
    RoleRevokePermission {
        /// Role name.
        name: String,
        /// First key of the right.
        key: Bytes,
        /// End of the right.
        range_end: Bytes,
    },
}
