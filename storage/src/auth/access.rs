//! May this caller do that? The only place that decides it.
//!
//! | what | needs |
//! |---|---|
//! | range, watch | READ on all of it |
//! | put | WRITE; READ with `prev_kv`; WRITE on what else hangs on its lease |
//! | delete | WRITE on all of it; READ with `prev_kv` |
//! | transaction | READ for compares; the above for the operations of **both** branches, nested ones too |
//! | lease revoke, keep-alive | WRITE on all its keys |
//! | lease keys, lease list | READ on all its keys, on all keys of all leases |
//! | lease grant, TTL, status, members, alarm list | any user |
//! | own user, own role | the user |
//! | all else | the role root |

use super::{Auth, AuthChange, Caller, ROOT, tables::User};
use crate::{
    Command, LeaseId, Rejected,
    command::{DeleteRange, Put, Range, Txn, TxnOp},
    lease::LeaseTable,
    mvcc::txn,
    v2,
};

/// What somebody wants.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Ask<'a> {
    /// To run a command.
    Command(&'a Command),
    /// To read.
    Range(&'a Range),
    /// To run a transaction of reads.
    Txn(&'a Txn),
    /// To see the changes of a key or range (in etcd's convention) from now on.
    Watch {
        /// First key.
        key: &'a [u8],
        /// Exclusive end; empty: one key; `\0`: no end.
        range_end: &'a [u8],
    },
    /// To keep a lease alive.
    LeaseRenew(LeaseId),
    /// To see the keys of a lease.
    LeaseKeys(LeaseId),
    /// To see all leases.
    LeaseList,
    /// Something open to every user.
    Known,
    /// Something for root only: members, maintenance, users and roles.
    Admin,
    /// To see the roles of a user.
    User(&'a str),
    /// To see the permissions of a role.
    Role(&'a str),
}

/// A caller that is a user, while authentication is on.
struct Access<'a> {
    auth: &'a Auth,
    leases: &'a LeaseTable,
    user: &'a User,
    name: &'a str,
    auth_revision: u64,
}

impl Auth {
    /// Decides whether `caller` may do `ask`.
    ///
    /// # Errors
    /// [`Rejected::UserEmpty`], [`Rejected::InvalidAuthToken`], [`Rejected::AuthOldRevision`],
    /// [`Rejected::PermissionDenied`].
    pub(crate) fn authorize(
        &self,
        leases: &LeaseTable,
        caller: &Caller,
        ask: &Ask<'_>,
    ) -> Result<(), Rejected> {
        if let Ask::Command(command) = ask {
            match (command, caller) {
                // What members do by themselves is never done for somebody.
                (internal, Caller::Anonymous) if is_internal(internal) => return Ok(()),
                (internal, _) if is_internal(internal) => return Err(Rejected::PermissionDenied),
                (Command::As { .. }, _) => return Err(Rejected::PermissionDenied),
                // Who logs in has no name yet; the password was checked, and the change checks
                // that nothing has changed since.
                (Command::Auth(AuthChange::Login { .. }), _) => return Ok(()),
                _ => {}
            }
        }
        if !self.enabled {
            return Ok(());
        }
        match caller {
            Caller::System => Ok(()),
            Caller::Anonymous => Err(Rejected::UserEmpty),
            Caller::InvalidToken => Err(Rejected::InvalidAuthToken),
            Caller::User { name, auth_revision } => {
                let user = self.users.get(&**name).ok_or(Rejected::PermissionDenied);
                if is_about_keys(ask) && *auth_revision < self.revision {
                    return Err(Rejected::AuthOldRevision);
                }
                let access =
                    Access { auth: self, leases, user: user?, name, auth_revision: *auth_revision };
                access.decide(ask)
            }
        }
    }
}

/// Commands that no client sends.
fn is_internal(command: &Command) -> bool {
    match command {
        Command::LeaseExpire { .. }
        | Command::LeaseCheckpoint { .. }
        | Command::MemberAttributes { .. }
        | Command::Noop => true,
        Command::V2(change) => matches!(**change, v2::Change::Expire { .. }),
        _ => false,
    }
}

/// Rights on keys are those of the revision that the caller has proven himself at; what needs
/// root or any user goes by the present tables, as in etcd.
fn is_about_keys(ask: &Ask<'_>) -> bool {
    match ask {
        Ask::Command(command) => matches!(
            command,
            Command::Put(_)
                | Command::DeleteRange(_)
                | Command::Txn(_)
                | Command::LeaseRevoke { .. }
        ),
        Ask::Range(_)
        | Ask::Txn(_)
        | Ask::Watch { .. }
        | Ask::LeaseRenew(_)
        | Ask::LeaseKeys(_)
        | Ask::LeaseList => true,
        Ask::Known | Ask::Admin | Ask::User(_) | Ask::Role(_) => false,
    }
}

impl Access<'_> {
    fn decide(&self, ask: &Ask<'_>) -> Result<(), Rejected> {
        debug_assert!(!is_about_keys(ask) || self.auth_revision >= self.auth.revision);
        if self.user.has_role(ROOT) {
            return Ok(());
        }
        match ask {
            Ask::Command(command) => self.command(command),
            Ask::Range(range) => self.read(&range.key, &range.range_end),
            Ask::Txn(txn) => self.txn(txn),
            Ask::Watch { key, range_end } => self.read(key, range_end),
            Ask::LeaseRenew(id) => self.write_lease(*id),
            Ask::LeaseKeys(id) => self.read_lease(*id),
            Ask::LeaseList => self.leases.iter().try_for_each(|lease| self.read_lease(lease.id)),
            Ask::Known => Ok(()),
            Ask::User(name) if *name == self.name => Ok(()),
            Ask::Role(name) if self.user.has_role(name) => Ok(()),
            Ask::Admin | Ask::User(_) | Ask::Role(_) => Err(Rejected::PermissionDenied),
        }
    }

    fn command(&self, command: &Command) -> Result<(), Rejected> {
        match command {
            Command::Put(put) => self.put(put),
            Command::DeleteRange(delete) => self.delete(delete),
            Command::Txn(txn) => self.txn(txn),
            Command::LeaseGrant { .. } => Ok(()),
            Command::LeaseRevoke { id } => self.write_lease(*id),
            _ => Err(Rejected::PermissionDenied),
        }
    }

    /// Deeper transactions than apply runs are refused, so the recursion is bounded.
    fn txn(&self, txn: &Txn) -> Result<(), Rejected> {
        if txn::depth(txn) > txn::TXN_DEPTH_MAX {
            return Err(Rejected::TooManyOps);
        }
        self.nested_txn(txn)
    }

    fn nested_txn(&self, txn: &Txn) -> Result<(), Rejected> {
        for compare in &txn.compare {
            self.read(&compare.key, &compare.range_end)?;
        }
        txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
            TxnOp::Range(range) => self.read(&range.key, &range.range_end),
            TxnOp::Put(put) => self.put(put),
            TxnOp::DeleteRange(delete) => self.delete(delete),
            TxnOp::Txn(child) => self.nested_txn(child),
            TxnOp::Empty => Ok(()),
        })
    }

    fn put(&self, put: &Put) -> Result<(), Rejected> {
        self.write(&put.key, b"")?;
        if put.prev_kv {
            self.read(&put.key, b"")?;
        }
        // Otherwise the lease would delete what this user may not write.
        if put.lease != 0 { self.write_lease(put.lease) } else { Ok(()) }
    }

    fn delete(&self, delete: &DeleteRange) -> Result<(), Rejected> {
        self.write(&delete.key, &delete.range_end)?;
        if delete.prev_kv { self.read(&delete.key, &delete.range_end) } else { Ok(()) }
    }

    fn write_lease(&self, id: LeaseId) -> Result<(), Rejected> {
        self.leases.keys(id).try_for_each(|key| self.write(key, b""))
    }

    fn read_lease(&self, id: LeaseId) -> Result<(), Rejected> {
        self.leases.keys(id).try_for_each(|key| self.read(key, b""))
    }

    fn read(&self, key: &[u8], range_end: &[u8]) -> Result<(), Rejected> {
        granted(self.user.reads.covers(key, range_end))
    }

    fn write(&self, key: &[u8], range_end: &[u8]) -> Result<(), Rejected> {
        granted(self.user.writes.covers(key, range_end))
    }
}

fn granted(covers: bool) -> Result<(), Rejected> {
    if covers { Ok(()) } else { Err(Rejected::PermissionDenied) }
}
