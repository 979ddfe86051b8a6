//! What happened to leases since somebody last looked: from apply to the leader's deadlines.

use crate::LeaseId;

/// Changes kept for a leader to take; a follower lets them go.
const CHANGES_MAX: usize = 65_536;

/// One change of the lease table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// A lease was made.
    Granted {
        /// Its id.
        id: LeaseId,
        /// Its TTL in seconds.
        ttl_s: i64,
    },
    /// A lease is gone.
    Revoked {
        /// Its id.
        id: LeaseId,
    },
    /// A lease's remaining time was noted.
    Checkpointed {
        /// Its id.
        id: LeaseId,
        /// Seconds left, 0 for the full TTL.
        remaining_s: i64,
    },
}

/// Bounded list of changes; an overflow is remembered instead of them.
#[derive(Debug)]
pub(crate) struct LeaseFeed {
    changes: Vec<LeaseChange>,
    overflown: bool,
}

impl Default for LeaseFeed {
    /// Nobody has read the table yet.
    fn default() -> Self {
        Self { changes: Vec::new(), overflown: true }
    }
}

impl LeaseFeed {
    pub(crate) fn push(&mut self, change: LeaseChange) {
        if self.overflown {
            return;
        }
        if self.changes.len() >= CHANGES_MAX {
            self.changes = Vec::new();
            self.overflown = true;
            return;
        }
        self.changes.push(change);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.overflown || !self.changes.is_empty()
    }

    pub(crate) fn take(&mut self) -> Option<Vec<LeaseChange>> {
        let changes = std::mem::take(&mut self.changes);
        (!std::mem::take(&mut self.overflown)).then_some(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_once_and_an_overflow_is_told_once() {
        let mut feed = LeaseFeed::default();
        assert_eq!(feed.take(), None, "nothing was read yet");
        assert!(!feed.is_waiting());
        feed.push(LeaseChange::Revoked { id: 1 });
        assert_eq!(feed.take(), Some(vec![LeaseChange::Revoked { id: 1 }]));
        for id in 0..=i64::try_from(CHANGES_MAX).unwrap() {
            feed.push(LeaseChange::Revoked { id });
        }
        assert_eq!(feed.take(), None);
        assert_eq!(feed.take(), Some(vec![]));
    }
}
