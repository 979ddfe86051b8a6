//! Reads of the state machine.

use std::sync::{Arc, atomic::AtomicBool};

use bytes::Bytes;

use super::{LeaseInfo, Mark, MemberAttributes, Options, StateMachine};
use crate::{
    Error, KeyValue, LeaseId, Rejected, Revision,
    auth::{Ask, Caller, LoginChanges, PasswordHash, Permission},
    command::{AlarmKind, DeleteRange, Event, EventKind, Range, RangeResponse, Txn, TxnResponse},
    history::ChangeRef,
    mvcc::{Counts, End, RangePage, compact::Hashing},
    types::{KeyRange, Rev},
    v2::Tree,
};

/// Changes that one [`StateMachine::history`] call looks at, wanted or not: bounds the time a
/// reader holds the lock.
const HISTORY_CHANGES_MAX: usize = 20_000;
/// Bytes of keys and values after which a page of history ends, with the revision it is in.
const HISTORY_PAGE_BYTES: usize = 128 << 10;

/// What a watcher behind the ring reads from history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// Whole revisions only, ascending.
    pub events: Vec<Event>,
    /// Next revision to ask for; above the current one at the end.
    pub next: Revision,
}

/// A hash of the key space under way. While it is alive, compacted history is not pruned.
#[derive(Debug)]
pub struct HashKv {
    hashing: Hashing,
    _pin: Arc<()>,
}

impl HashKv {
    /// Hashes up to `changes_max` more changes of `machine`, the one it was begun on; it may
    /// change between steps. At the end (hash, revision hashed, compact revision).
    ///
    /// # Errors
    /// [`Error`]: the node must stop.
    pub fn step(
        &mut self,
        machine: &StateMachine,
        changes_max: u64,
    ) -> Result<Option<(u32, Revision, Revision)>, Error> {
        let Self { hashing, .. } = self;
        let is_done = machine.store.hash_step(hashing, changes_max)?;
        Ok(is_done.then_some((hashing.hash, hashing.revision, hashing.compact_revision)))
    }
}

impl StateMachine {
    /// The mark found in the engine at open, then that of the last applied entry.
    #[must_use]
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// What it was opened with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Main revision of the newest change; 1 for a fresh store.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.store.revision
    }

    /// Reads below it are refused; -1 where nothing was ever compacted.
    #[must_use]
    pub fn compact_revision(&self) -> Revision {
        self.store.compact_revision
    }

    /// Answers a range request from the present state.
    ///
    /// Cost: O(keys in range); values of the answer are read from the engine where they are
    /// not in memory.
    ///
    /// # Errors
    /// Outer: [`Error`], the node must stop. Inner: [`Rejected::FutureRevision`],
    /// [`Rejected::Compacted`], [`Rejected::InvalidSortOption`].
    pub fn range(&self, range: &Range) -> Result<Result<RangeResponse, Rejected>, Error> {
        self.store.range(range, self.store.revision)
    }

    /// Part of a large read: up to `keys_max` pairs of `range` at `revision` (0 and below:
    /// now), from `from_key` on (empty: from the start). Pages of one read must name the
    /// revision of the first.
    ///
    /// # Errors
    /// As [`StateMachine::range`].
    pub fn range_page(
        &self,
        range: &KeyRange,
        revision: Revision,
        from_key: &[u8],
        keys_max: usize,
    ) -> Result<Result<RangePage, Rejected>, Error> {
        self.store.range_page(range, revision, from_key, keys_max)
    }

    /// Answers a transaction of ranges only
    /// ([`validate::is_read_only`](crate::mvcc::validate::is_read_only)) from the present state.
    ///
    /// # Errors
    /// As [`StateMachine::range`].
    pub fn read_txn(&self, txn: &Txn) -> Result<Result<TxnResponse, Rejected>, Error> {
        self.store.read_txn(txn)
    }

    /// Bytes that the reads of a transaction answer in the present state, about.
    ///
    /// Cost: O(keys in its ranges); values that are not in memory are read from the engine.
    ///
    /// # Errors
    /// Outer: [`Error`], the node must stop. Inner: [`Rejected::AnswerTooLarge`].
    pub fn txn_answer_bytes(&self, txn: &Txn) -> Result<Result<u64, Rejected>, Error> {
        self.store.txn_answer_bytes(txn)
    }

    /// Bytes of the previous values that a delete answers in the present state, about.
    ///
    /// Cost, errors: as [`StateMachine::txn_answer_bytes`].
    pub fn delete_answer_bytes(
        &self,
        delete: &DeleteRange,
    ) -> Result<Result<u64, Rejected>, Error> {
        self.store.delete_answer_bytes(delete)
    }

    /// etcd HashKV at `revision` (0: now): (hash, revision hashed, compact revision), equal to
    /// etcd's for an equal history. Members
    /// with equal revisions and compact revisions have equal hashes, whatever they pruned.
    ///
    /// Cost: reads all history; [`StateMachine::begin_hash`] does it in steps.
    ///
    /// # Errors
    /// As [`StateMachine::range`].
    pub fn hash_kv(
        &self,
        revision: Revision,
    ) -> Result<Result<(u32, Revision, Revision), Rejected>, Error> {
        let mut hash = match self.begin_hash(revision) {
            Ok(hash) => hash,
            Err(rejected) => return Ok(Err(rejected)),
        };
        loop {
            if let Some(answer) = hash.step(self, u64::MAX)? {
                return Ok(Ok(answer));
            }
        }
    }

    /// Begins [`StateMachine::hash_kv`] in steps, so that no step holds a lock for long.
    ///
    /// # Errors
    /// [`Rejected::FutureRevision`], [`Rejected::Compacted`].
    pub fn begin_hash(&self, revision: Revision) -> Result<HashKv, Rejected> {
        let hashing = self.store.begin_hash(revision)?;
        Ok(HashKv { hashing, _pin: Arc::clone(&self.pin) })
    }

    /// A lease; `None` where there is no such lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.store.leases.info(id)
    }

    /// Keys attached to a lease, ascending.
    #[must_use]
    pub fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.store.leases.keys_shared(id)
    }

    /// All leases by id.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.store.leases.iter().collect()
    }

    /// Raised alarms by member.
    #[must_use]
    pub fn alarms(&self) -> Vec<(u64, AlarmKind)> {
        self.tables.alarms().collect()
    }

    /// Decides whether `caller` may do `ask` in the present state.
    ///
    /// # Errors
    /// [`Rejected::UserEmpty`], [`Rejected::InvalidAuthToken`], [`Rejected::AuthOldRevision`],
    /// [`Rejected::PermissionDenied`].
    pub fn authorize(&self, caller: &Caller, ask: &Ask<'_>) -> Result<(), Rejected> {
        self.auth.authorize(&self.store.leases, caller, ask)
    }

    /// Authentication is on.
    #[must_use]
    pub fn is_auth_enabled(&self) -> bool {
        self.auth.is_enabled()
    }

    /// Tells whether authentication is on without the lock of this state: true as soon as it is
    /// on, and for a moment longer perhaps.
    #[must_use]
    pub fn auth_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.auth_switch)
    }

    /// Changes of users and roles, from 1.
    #[must_use]
    pub fn auth_revision(&self) -> u64 {
        self.auth.revision()
    }

    /// The hash that a user's password must match.
    ///
    /// # Errors
    /// [`Rejected::AuthNotEnabled`], [`Rejected::AuthFailed`] for no such user,
    /// [`Rejected::NoPasswordUser`].
    pub fn password(&self, user: &str) -> Result<PasswordHash, Rejected> {
        self.auth.password(user)
    }

    /// All users by name.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        self.auth.user_names()
    }

    /// Roles of a user by name.
    ///
    /// # Errors
    /// [`Rejected::UserNotFound`].
    pub fn user_roles(&self, user: &str) -> Result<Vec<String>, Rejected> {
        self.auth.user_roles(user)
    }

    /// All roles by name.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        self.auth.role_names()
    }

    /// Permissions of a role by key.
    ///
    /// # Errors
    /// [`Rejected::RoleNotFound`].
    pub fn role_permissions(&self, role: &str) -> Result<Vec<Permission>, Rejected> {
        self.auth.permissions(role)
    }

    /// A hash of users, roles and the switch: equal on members that applied the same.
    #[must_use]
    pub fn auth_hash(&self) -> u32 {
        self.auth.rows().iter().fold(0, |hash, (key, row)| {
            let hash = crc32c::crc32c_append(hash, key);
            crc32c::crc32c_append(hash, row)
        })
    }

    /// Login changes wait to be taken.
    #[must_use]
    pub fn has_login_changes(&self) -> bool {
        self.login_feed.is_waiting()
    }

    /// Takes the login changes applied since the last call, for this member's tokens.
    pub fn take_login_changes(&mut self) -> LoginChanges {
        self.login_feed.take()
    }

    /// What a member published; `None` before it did.
    #[must_use]
    pub fn member_attributes(&self, member_id: u64) -> Option<&MemberAttributes> {
        self.tables.member(member_id)
    }

    /// The v2 tree.
    #[must_use]
    pub fn v2(&self) -> &Tree {
        &self.v2
    }

    /// What all members published: id, name and client URLs of each.
    #[must_use]
    pub fn all_member_attributes(&self) -> Vec<(u64, String, Vec<String>)> {
        let rows = self.tables.members();
        rows.map(|(id, member)| (id, member.name.clone(), member.client_urls.clone())).collect()
    }

    /// Bytes of live and historic data, about, for quota and status.
    #[must_use]
    pub fn size_in_use_bytes(&self) -> u64 {
        self.store.history.live_bytes + self.v2.bytes()
    }

    /// True where the quota leaves no room for `cost_bytes` more
    /// ([`validate::quota_cost_bytes`](crate::mvcc::validate::quota_cost_bytes)). A member's own
    /// view: it raises the NOSPACE alarm with it, and only the alarm decides at apply.
    #[must_use]
    pub fn is_over_quota(&self, cost_bytes: u64) -> bool {
        u64::try_from(self.options.quota_bytes)
            .is_ok_and(|quota| quota > 0 && self.size_in_use_bytes() + cost_bytes >= quota)
    }

    /// How often this member did what.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.store.counts
    }

    /// Goes on from `counts` of the state this one replaces.
    pub fn set_counts(&mut self, counts: Counts) {
        self.store.counts = counts;
    }

    /// Number of leases.
    #[must_use]
    pub fn leases_count(&self) -> usize {
        self.store.leases.len()
    }

    /// Keys in the index, deleted ones that compaction has not dropped yet included.
    #[must_use]
    pub fn keys_count(&self) -> usize {
        self.store.index.len()
    }

    /// Bytes of current keys and values held in memory.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.store.index.cached_bytes
    }

    /// Events with `from <= mod_revision`, whole revisions, at most about `max` events, from
    /// the ring; `None` when the ring no longer reaches back to `from`, or `from` is not above
    /// the compact revision (then use `history`, which knows what compaction dropped).
    ///
    /// An event without `prev_kv` may still have one that was not in memory: see
    /// [`StateMachine::event_prev`].
    #[must_use]
    pub fn recent_events(&self, from: Revision, max: usize) -> Option<Vec<Arc<Event>>> {
        if from <= self.store.compact_revision {
            return None;
        }
        self.store.ring.since(from, max)
    }

    /// The version that `event` replaced, for watchers that asked for it: absent for a create,
    /// and where it is compacted.
    ///
    /// # Errors
    /// [`Error`]: the node must stop.
    pub fn event_prev(&self, event: &Event) -> Result<Option<KeyValue>, Error> {
        let is_create = event.kind == EventKind::Put && event.kv.version == 1;
        if is_create || event.prev_kv.is_some() {
            return Ok(event.prev_kv.clone());
        }
        self.version_at(&event.kv.key, event.kv.mod_revision - 1)
    }

    /// The version of `key` visible at `revision`; `None` where there is none, also where it
    /// is compacted.
    ///
    /// # Errors
    /// [`Error`]: the node must stop.
    pub fn version_at(&self, key: &[u8], revision: Revision) -> Result<Option<KeyValue>, Error> {
        self.store.version_at(key, revision)
    }

    /// Events of `range` from history, for watchers behind the ring: those with
    /// `from <= mod_revision` that compaction keeps, whole revisions, about `max` at most.
    /// Bounded work: a page may be empty and still have a `next`.
    ///
    /// # Errors
    /// Outer: [`Error`], the node must stop. Inner: [`Rejected::Compacted`] where `from` is
    /// below the compact revision.
    pub fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        max: usize,
        prev_kv: bool,
    ) -> Result<Result<HistoryPage, Rejected>, Error> {
        let compact_revision = self.store.compact_revision;
        if from < compact_revision {
            return Ok(Err(Rejected::Compacted { compact_revision }));
        }
        let end = End::new(&range.end);
        let mut page = HistoryPage { events: Vec::new(), next: self.store.revision + 1 };
        let mut last = Rev::default();
        let (mut seen, mut bytes) = (0, 0);
        self.store.history.scan(Rev { main: from, sub: 0 }, |change| {
            let is_enough = page.events.len() >= max.max(1)
                || seen >= HISTORY_CHANGES_MAX
                || bytes >= HISTORY_PAGE_BYTES;
            if is_enough && change.rev.main != last.main {
                page.next = change.rev.main;
                return Ok(false);
            }
            last = change.rev;
            seen += 1;
            if end.contains(&range.key, change.key)
                && (self.store.is_kept(&change, compact_revision))
            {
                let event = event(&change);
                bytes += event.kv.key.len() + event.kv.value.len();
                page.events.push(event);
            }
            Ok(true)
        })?;
        if prev_kv {
            for event in &mut page.events {
                event.prev_kv = self.event_prev(event)?;
            }
        }
        page.next = page.next.max(from);
        Ok(Ok(page))
    }
}

fn event(change: &ChangeRef<'_>) -> Event {
    let kind = if change.tombstone { EventKind::Delete } else { EventKind::Put };
    Event { kind, kv: change.to_key_value(), prev_kv: None }
}
