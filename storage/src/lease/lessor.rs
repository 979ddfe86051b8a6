//! The leader's deadlines: volatile, pure, time in milliseconds is an argument.
//!
//! Source: etcd `lessor`: full TTL after a leader change unless checkpointed, expiry through a
//! revoke, checkpoints every five minutes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{LeaseId, apply::LeaseInfo};

/// Time between checkpoints of one lease in milliseconds (etcd's five minutes).
pub const CHECKPOINT_INTERVAL_MS: u64 = 5 * 60 * 1000;

/// A lease handed out as expired is handed out again after this many milliseconds, should the
/// revoke have been lost.
pub const EXPIRED_RETRY_MS: u64 = 3000;

/// Remaining time to replicate.
pub type Checkpoint = (LeaseId, i64);

/// What a renewal finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed. With `clear_checkpoint` a checkpoint of 0 seconds should be proposed first:
    /// the table still remembers a shorter remainder.
    Renewed {
        /// The full TTL in seconds.
        ttl_s: i64,
        /// The table holds a checkpoint.
        clear_checkpoint: bool,
    },
    /// Its deadline has passed and its revoke is under way: wait for that, then answer as
    /// unknown.
    Expired,
    /// No such lease.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    ttl_s: i64,
    expires_ms: u64,
    /// When `expired` shows it (again).
    due_ms: u64,
    checkpoint_ms: u64,
    checkpointed: bool,
}

/// Deadlines of all leases while this member leads.
#[derive(Debug, Default)]
pub struct Lessor {
    primary: bool,
    deadlines: BTreeMap<LeaseId, Deadline>,
    by_due: BTreeSet<(u64, LeaseId)>,
    by_checkpoint: BTreeSet<(u64, LeaseId)>,
}

impl Lessor {
    /// A lessor that does not lead.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// True between [`Lessor::promote`] and [`Lessor::demote`].
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Begins to lead: each lease gets its remaining time, plus `extend_ms` (the election
    /// timeout: its holder may have been unable to renew meanwhile).
    pub fn promote(
        &mut self,
        now_ms: u64,
        extend_ms: u64,
        leases: impl IntoIterator<Item = LeaseInfo>,
    ) {
        self.demote();
        self.primary = true;
        for lease in leases {
            let left_ms = seconds_ms(lease.remaining_s).saturating_add(extend_ms);
            let checkpointed = lease.remaining_s < lease.ttl_s;
            self.set(lease.id, lease.ttl_s, now_ms, left_ms, checkpointed);
        }
    }

    /// Ends leading and forgets all deadlines.
    pub fn demote(&mut self) {
        *self = Self::default();
    }

    /// A lease was granted. Without effect unless leading.
    pub fn granted(&mut self, id: LeaseId, ttl_s: i64, now_ms: u64) {
        if self.primary {
            self.set(id, ttl_s, now_ms, seconds_ms(ttl_s), false);
        }
    }

    /// A lease was revoked.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(deadline) = self.deadlines.remove(&id) {
            self.by_due.remove(&(deadline.due_ms, id));
            self.by_checkpoint.remove(&(deadline.checkpoint_ms, id));
        }
    }

    /// A checkpoint was applied: `remaining_s` 0 clears.
    pub fn checkpointed(&mut self, id: LeaseId, remaining_s: i64) {
        if let Some(deadline) = self.deadlines.get_mut(&id) {
            deadline.checkpointed = remaining_s > 0;
        }
    }

    fn set(&mut self, id: LeaseId, ttl_s: i64, now_ms: u64, left_ms: u64, checkpointed: bool) {
        self.revoked(id);
        let expires_ms = now_ms.saturating_add(left_ms);
        // A lease shorter than a checkpoint step never needs one.
        let checkpoint_ms = if left_ms > CHECKPOINT_INTERVAL_MS {
            now_ms.saturating_add(CHECKPOINT_INTERVAL_MS)
        } else {
            u64::MAX
        };
        let deadline =
            Deadline { ttl_s, expires_ms, due_ms: expires_ms, checkpoint_ms, checkpointed };
        self.deadlines.insert(id, deadline);
        self.by_due.insert((expires_ms, id));
        if checkpoint_ms < u64::MAX {
            self.by_checkpoint.insert((checkpoint_ms, id));
        }
    }

    /// Gives a lease its full TTL again.
    pub fn renew(&mut self, id: LeaseId, now_ms: u64) -> Renewal {
        let Some(&deadline) = self.deadlines.get(&id) else { return Renewal::Unknown };
        if deadline.expires_ms <= now_ms {
            return Renewal::Expired;
        }
        let ttl_s = deadline.ttl_s;
        self.set(id, ttl_s, now_ms, seconds_ms(ttl_s), deadline.checkpointed);
        Renewal::Renewed { ttl_s, clear_checkpoint: deadline.checkpointed }
    }

    /// Whole seconds left, rounded down, 0 once expired; `None` for an unknown lease.
    #[must_use]
    pub fn remaining_s(&self, id: LeaseId, now_ms: u64) -> Option<i64> {
        let left_ms = self.deadlines.get(&id)?.expires_ms.saturating_sub(now_ms);
        i64::try_from(left_ms / 1000).ok()
    }

    /// Up to `max` expired leases, earliest first; each is shown again only after
    /// [`EXPIRED_RETRY_MS`].
    pub fn expired(&mut self, now_ms: u64, max: usize) -> Vec<LeaseId> {
        let due: Vec<_> =
            self.by_due.iter().take_while(|(at, _)| *at <= now_ms).take(max).copied().collect();
        for &(at, id) in &due {
            let again_ms = now_ms.saturating_add(EXPIRED_RETRY_MS);
            self.by_due.remove(&(at, id));
            self.by_due.insert((again_ms, id));
            if let Some(deadline) = self.deadlines.get_mut(&id) {
                deadline.due_ms = again_ms;
            }
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Up to `max` checkpoints that are due; each lease's next is a step later.
    pub fn checkpoints_due(&mut self, now_ms: u64, max: usize) -> Vec<Checkpoint> {
        let due: Vec<_> = (self.by_checkpoint.iter())
            .take_while(|(at, _)| *at <= now_ms)
            .take(max)
            .copied()
            .collect();
        let mut checkpoints = Vec::new();
        for (at, id) in due {
            self.by_checkpoint.remove(&(at, id));
            let Some(deadline) = self.deadlines.get_mut(&id) else { continue };
            let left_ms = deadline.expires_ms.saturating_sub(now_ms);
            deadline.checkpoint_ms = u64::MAX;
            if left_ms > CHECKPOINT_INTERVAL_MS {
                deadline.checkpoint_ms = now_ms.saturating_add(CHECKPOINT_INTERVAL_MS);
                self.by_checkpoint.insert((deadline.checkpoint_ms, id));
            }
            if left_ms > 0 {
                checkpoints.push((id, i64::try_from(left_ms.div_ceil(1000)).unwrap_or(i64::MAX)));
            }
        }
        checkpoints
    }

    /// All leases, soonest to expire first.
    #[must_use]
    pub fn by_expiry(&self) -> Vec<LeaseId> {
        let mut all: Vec<_> =
            self.deadlines.iter().map(|(&id, deadline)| (deadline.expires_ms, id)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// When [`Lessor::expired`] or [`Lessor::checkpoints_due`] next has something to say.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        let first = |set: &BTreeSet<(u64, LeaseId)>| set.first().map(|&(at, _)| at);
        first(&self.by_due).into_iter().chain(first(&self.by_checkpoint)).min()
    }
}

fn seconds_ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or_default().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: LeaseId, ttl_s: i64, remaining_s: i64) -> LeaseInfo {
        LeaseInfo { id, ttl_s, remaining_s }
    }

    #[test]
    fn a_new_leader_gives_the_remaining_time_and_the_extension() {
        let mut lessor = Lessor::new();
        lessor.granted(9, 10, 0);
        assert_eq!(lessor.renew(9, 0), Renewal::Unknown, "not leading: nothing is known");
        lessor.promote(1000, 500, [lease(1, 10, 10), lease(2, 100, 7)]);
        assert_eq!(lessor.remaining_s(1, 1000), Some(10));
        assert_eq!(lessor.remaining_s(2, 1000), Some(7));
        assert_eq!(lessor.by_expiry(), [2, 1]);
        assert_eq!(lessor.expired(8499, 10), []);
        assert_eq!(lessor.expired(8500, 10), [2]);
        assert_eq!(lessor.renew(1, 2000), Renewal::Renewed { ttl_s: 10, clear_checkpoint: false });
        assert_eq!(lessor.remaining_s(1, 2001), Some(9), "rounded down");
    }

    #[test]
    fn expired_leases_come_in_order_bounded_and_again_later() {
        let mut lessor = Lessor::new();
        lessor.promote(0, 0, []);
        for id in 1..=5 {
            lessor.granted(id, 6 - id, 0);
        }
        assert_eq!(lessor.expired(10_000, 2), [5, 4]);
        assert_eq!(lessor.expired(10_000, 9), [3, 2, 1]);
        assert_eq!(lessor.expired(10_000, 9), []);
        assert_eq!(lessor.renew(5, 10_000), Renewal::Expired);
        lessor.revoked(4);
        assert_eq!(lessor.expired(10_000 + EXPIRED_RETRY_MS, 9), [1, 2, 3, 5]);
        assert_eq!(lessor.remaining_s(5, 10_000), Some(0));
        assert_eq!(lessor.remaining_s(4, 10_000), None);
    }

    #[test]
    fn long_leases_are_checkpointed_every_step_and_short_ones_never() {
        let mut lessor = Lessor::new();
        lessor.promote(0, 0, []);
        lessor.granted(1, 1000, 0);
        lessor.granted(2, 300, 0);
        assert_eq!(lessor.checkpoints_due(CHECKPOINT_INTERVAL_MS - 1, 9), []);
        assert_eq!(lessor.checkpoints_due(CHECKPOINT_INTERVAL_MS, 9), [(1, 700)]);
        assert_eq!(lessor.checkpoints_due(CHECKPOINT_INTERVAL_MS, 9), []);
        lessor.checkpointed(1, 700);
        assert_eq!(lessor.checkpoints_due(2 * CHECKPOINT_INTERVAL_MS, 9), [(1, 400)]);
        assert_eq!(
            lessor.renew(1, 2 * CHECKPOINT_INTERVAL_MS),
            Renewal::Renewed { ttl_s: 1000, clear_checkpoint: true }
        );
    }
}
