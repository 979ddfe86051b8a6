//! The one door for changes, and the reads beside it.
//!
//! Invariants:
//! - `apply` is total and deterministic: equal states and commands give equal answers, events
//!   and states on every member; what a client asks never makes it fail;
//! - data, small tables and the applied mark reach the engine in one atomic batch;
//! - a crash loses at most what was not flushed, and the log from the mark on restores it.
//!
//! The engine is written behind: `begin_flush` under the write lock (cheap), [`Flush::write`]
//! without any lock, `end_flush` under the write lock again.

mod flush;
mod open;
mod read;
mod tables;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;

pub(crate) use self::open::{FORMAT, encode_mark};
pub use self::{
    flush::Flush,
    read::{HashKv, HistoryPage},
};
use self::{flush::Maintenance, tables::Tables};
use crate::{
    Error, LeaseId, Rejected,
    auth::{Ask, Auth, AuthChange, Caller, LoginFeed},
    command::{AlarmAction, AlarmKind, Applied, Command, Response},
    lease::{LeaseChange, LeaseFeed},
    mvcc::{Answer, Store, compact::Pruning, txn, validate, write::Writer},
    v2,
};

/// How much the state machine holds in memory, and the quota.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most bytes of current keys and values held in memory; beyond it values are read from
    /// the engine.
    pub cache_bytes: u64,
    /// Events kept in memory for watchers.
    pub events_max: usize,
    /// Bytes of those events at most.
    pub events_bytes_max: usize,
    /// Quota of the database in bytes; 0 and below: none.
    pub quota_bytes: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 1 << 30,
            events_max: 10_000,
            events_bytes_max: 8 << 20,
            quota_bytes: 2 << 30,
        }
    }
}

/// How far the log is applied: an index and bytes that the raft crate encodes (log id and
/// membership). Stored in the same engine batch as the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Log index of the last applied entry.
    pub index: u64,
    /// Opaque here.
    pub payload: Bytes,
}

/// A lease as the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Lease id.
    pub id: LeaseId,
    /// Granted time to live in seconds.
    pub ttl_s: i64,
    /// Checkpointed remainder in seconds, `ttl_s` where none.
    pub remaining_s: i64,
}

/// What a member published about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAttributes {
    /// Human name.
    pub name: String,
    /// Advertised client URLs.
    pub client_urls: Vec<String>,
}

/// The replicated state of one member.
#[derive(Debug)]
pub struct StateMachine {
    store: Store,
    tables: Tables,
    v2: v2::Tree,
    options: Options,
    mark: Option<Mark>,
    /// The mark changed since the last flush began.
    mark_is_new: bool,
    pruning: Pruning,
    maintenance: Maintenance,
    lease_feed: LeaseFeed,
    auth: Auth,
    /// Whether authentication is on, for threads that do not hold the lock.
    auth_switch: Arc<AtomicBool>,
    login_feed: LoginFeed,
    /// Held by exports and hashes: compacted history stays while they do.
    pin: Arc<()>,
}

impl StateMachine {
    /// Lease changes wait to be taken.
    #[must_use]
    pub fn has_lease_changes(&self) -> bool {
        self.lease_feed.is_waiting()
    }

    /// Takes the lease changes applied since the last call, for the leader's deadlines; `None`
    /// where more happened than is kept: then read [`StateMachine::leases`].
    pub fn take_lease_changes(&mut self) -> Option<Vec<LeaseChange>> {
        self.lease_feed.take()
    }

    /// Applies one Raft entry: each command on its own, in order, each with an answer.
    ///
    /// # Errors
    /// [`Error`] stops the node: the engine failed or is corrupt. Never because of a command.
    pub fn apply(&mut self, mark: Mark, commands: Vec<Command>) -> Result<Vec<Applied>, Error> {
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            let outcome = self.apply_for(command, mark.index)?;
            answers.push(Applied { revision: self.store.revision, outcome });
        }
        self.mark = Some(mark);
        self.mark_is_new = true;
        Ok(answers)
    }

    /// Opens the envelope, decides whether its sender may, and applies.
    fn apply_for(&mut self, command: Command, index: u64) -> Answer<Response> {
        let (caller, command) = match command {
            Command::As { caller, command } => (caller, *command),
            command => (Caller::Anonymous, command),
        };
        if let Err(rejected) = self.authorize(&caller, &Ask::Command(&command)) {
            return Ok(Err(rejected));
        }
        self.apply_one(command, index)
    }

    fn apply_one(&mut self, command: Command, index: u64) -> Answer<Response> {
        if let Err(rejected) = self.check_alarms(&command) {
            return Ok(Err(rejected));
        }
        match command {
            Command::Put(put) => {
                if let Err(rejected) = self.store.check_put(&put) {
                    return Ok(Err(rejected));
                }
                let mut writer = Writer::new(&mut self.store);
                let response = writer.put(&put)?;
                writer.finish();
                Ok(Ok(Response::Put(response)))
            }
            Command::DeleteRange(delete) => {
                if let Err(rejected) = self.store.delete_answer_bytes(&delete)? {
                    return Ok(Err(rejected));
                }
                let mut writer = Writer::new(&mut self.store);
                let response = writer.delete_range(&delete)?;
                writer.finish();
                Ok(Ok(Response::DeleteRange(response)))
            }
            Command::Txn(txn) => Ok(txn::apply(&mut self.store, &txn)?.map(Response::Txn)),
            Command::Compact(compact) => {
                let answer = self.store.compact(compact);
                if answer.is_ok() {
                    self.tables.set_compact_revision(compact.revision);
                }
                Ok(answer.map(|()| Response::Done))
            }
            Command::LeaseGrant { id, ttl_s } => Ok(self.grant(id, ttl_s)),
            Command::LeaseRevoke { id } => self.revoke(id),
            Command::LeaseExpire { id, .. } => {
                let answer = self.revoke(id)?;
                self.store.counts.leases_expired += u64::from(answer.is_ok());
                Ok(answer)
            }
            Command::LeaseCheckpoint { remaining_s } => {
                for (id, remaining_s) in remaining_s {
                    if self.store.leases.checkpoint(id, remaining_s) {
                        self.lease_feed.push(LeaseChange::Checkpointed { id, remaining_s });
                        self.tables.set_lease(id, self.store.leases.row(id));
                    }
                }
                Ok(Ok(Response::Done))
            }
            Command::Alarm { action, member_id, alarm } => {
                Ok(Ok(Response::Alarm(self.change_alarm(action, member_id, alarm))))
            }
            Command::MemberAttributes { member_id, name, client_urls } => {
                self.tables.set_member(member_id, MemberAttributes { name, client_urls });
                Ok(Ok(Response::Done))
            }
            Command::Noop => Ok(Ok(Response::Done)),
            Command::Auth(change) => Ok(self.change_auth(change, index)),
            // Opened before; one inside another was refused.
            Command::As { .. } => Ok(Err(Rejected::PermissionDenied)),
            Command::V2(change) => Ok(Ok(match *change {
                v2::Change::Write(write) => Response::V2(Box::new(self.v2.write(&write))),
                v2::Change::Expire { cutoff_ns } => {
                    self.v2.expire(cutoff_ns);
                    Response::Done
                }
            })),
        }
    }

    /// What raised alarms refuse. Alarms are replicated, so every member decides alike.
    fn check_alarms(&self, command: &Command) -> Result<(), Rejected> {
        if let Command::Txn(txn) = command
            && txn::depth(txn) > txn::TXN_DEPTH_MAX
        {
            return Err(Rejected::TooManyOps);
        }
        let is_data = matches!(
            command,
            Command::Put(_)
                | Command::DeleteRange(_)
                | Command::Txn(_)
                | Command::Compact(_)
                | Command::LeaseGrant { .. }
                | Command::LeaseRevoke { .. }
                | Command::LeaseExpire { .. }
                | Command::V2(_)
        );
        if is_data && self.tables.is_raised(AlarmKind::Corrupt) {
            return Err(Rejected::Corrupt);
        }
        if self.tables.is_raised(AlarmKind::NoSpace) && validate::quota_cost_bytes(command) > 0 {
            return Err(Rejected::NoSpace);
        }
        Ok(())
    }

    fn grant(&mut self, id: LeaseId, ttl_s: i64) -> Result<Response, Rejected> {
        // Id 0 means "none" and is chosen by the leader before; apply stays total without it.
        if id == 0 {
            return Err(Rejected::LeaseNotFound);
        }
        if !self.store.leases.grant(id, ttl_s) {
            return Err(Rejected::LeaseExists);
        }
        self.store.counts.leases_granted += 1;
        self.tables.set_lease(id, self.store.leases.row(id));
        self.lease_feed.push(LeaseChange::Granted { id, ttl_s });
        Ok(Response::LeaseGrant { id, ttl_s })
    }

    fn revoke(&mut self, id: LeaseId) -> Answer<Response> {
        if !self.store.leases.contains(id) {
            return Ok(Err(Rejected::LeaseNotFound));
        }
        let keys = self.store.leases.keys_shared(id);
        let mut writer = Writer::new(&mut self.store);
        for key in &keys {
            writer.delete(key)?;
        }
        writer.counts.deletes = keys.len() as u64;
        writer.finish();
        self.store.counts.leases_revoked += 1;
        self.store.leases.remove(id);
        self.tables.set_lease(id, None);
        self.lease_feed.push(LeaseChange::Revoked { id });
        Ok(Ok(Response::Done))
    }

    fn change_auth(&mut self, change: AuthChange, index: u64) -> Result<Response, Rejected> {
        let effect = self.auth.change(change, index)?;
        for (key, row) in effect.rows {
            self.tables.set(key, row);
        }
        if let Some(change) = effect.login {
            self.login_feed.push(change);
        }
        self.auth_switch.store(self.auth.is_enabled(), Ordering::Release);
        Ok(Response::Done)
    }

    fn change_alarm(
        &mut self,
        action: AlarmAction,
        member_id: u64,
        alarm: AlarmKind,
    ) -> Vec<(u64, AlarmKind)> {
        let concerned = match action {
            AlarmAction::Activate => {
                self.tables.raise(member_id, alarm);
                true
            }
            AlarmAction::Deactivate => self.tables.clear(member_id, alarm),
        };
        if concerned { vec![(member_id, alarm)] } else { Vec::new() }
    }
}

#[cfg(test)]
pub(crate) mod tests;
