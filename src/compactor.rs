//! Automatic compaction: when to forget history, by age or by number of revisions.
//!
//! [`Compactor`] is plain data: revision samples and times in, a revision to compact out. The
//! leader runs it; compacting twice from two members would only fail the second time.
//!
//! Source: etcd `--auto-compaction-mode` and `--auto-compaction-retention`.

use std::{collections::VecDeque, time::Duration};

use tripod_storage::{Revision, command::Compact};

use crate::config::AutoCompaction;

/// Between two looks in revision mode, as etcd.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Longest time between two compactions in periodic mode, as etcd.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);
/// Samples in one periodic interval.
const SAMPLES_PER_INTERVAL: u32 = 10;

/// Decides when to compact, and to what.
#[derive(Debug)]
pub(crate) struct Compactor {
    retention: AutoCompaction,
    /// (time, revision then), oldest first; periodic mode only.
    samples: VecDeque<(Duration, Revision)>,
    compacted_at: Duration,
    compacted: Revision,
}

impl Compactor {
    /// Starts at time `now`, measured from any fixed point.
    #[must_use]
    pub(crate) fn new(retention: AutoCompaction, now: Duration) -> Self {
        Self { retention, samples: VecDeque::new(), compacted_at: now, compacted: 0 }
    }

    /// How long to wait between two calls of [`Compactor::tick`].
    #[must_use]
    pub(crate) fn interval(&self) -> Duration {
        match self.retention {
            AutoCompaction::Periodic(period) => {
                period.min(PERIODIC_INTERVAL_MAX) / SAMPLES_PER_INTERVAL
            }
            AutoCompaction::Revision(_) => REVISION_INTERVAL,
        }
    }

    /// The compaction that is due at `now`, the store being at `revision`.
    pub(crate) fn tick(&mut self, now: Duration, revision: Revision) -> Option<Compact> {
        let target = match self.retention {
            AutoCompaction::Revision(keep) => {
                revision - Revision::try_from(keep).unwrap_or(Revision::MAX)
            }
            AutoCompaction::Periodic(period) => self.sampled(now, revision, period)?,
        };
        if target <= self.compacted.max(0) {
            return None;
        }
        self.compacted = target;
        self.compacted_at = now;
        Some(Compact { revision: target })
    }

    /// Takes a sample; once an interval has passed, the revision of `period` ago.
    fn sampled(&mut self, now: Duration, revision: Revision, period: Duration) -> Option<Revision> {
        self.samples.push_back((now, revision));
        if now - self.compacted_at < period.min(PERIODIC_INTERVAL_MAX) {
            return None;
        }
        let horizon = now.checked_sub(period)?;
        let mut target = None;
        while self.samples.front().is_some_and(|(time, _)| *time <= horizon) {
            target = self.samples.pop_front().map(|(_, revision)| revision);
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn revision_mode_keeps_the_newest_revisions() {
        let mut compactor = Compactor::new(AutoCompaction::Revision(100), Duration::ZERO);
        assert_eq!(compactor.tick(REVISION_INTERVAL, 50), None, "nothing beyond the retention");
        let due = compactor.tick(REVISION_INTERVAL * 2, 350);
        assert_eq!(due, Some(Compact { revision: 250 }));
        assert_eq!(compactor.tick(REVISION_INTERVAL * 3, 350), None, "already compacted there");
    }

    #[test]
    fn periodic_mode_keeps_what_is_younger_than_the_period() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(HOUR), Duration::ZERO);
        let mut due = Vec::new();
        for step in 1..=40_u32 {
            let now = compactor.interval() * step;
            if let Some(compact) = compactor.tick(now, Revision::from(step) * 10) {
                due.push((step, compact.revision));
            }
        }
        assert_eq!(due, [(11, 10), (21, 110), (31, 210)], "an hour back, once an hour");
    }

    #[test]
    fn an_idle_store_is_not_compacted_again() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(HOUR), Duration::ZERO);
        let due: Vec<_> =
            (1..=100).filter_map(|step| compactor.tick(compactor.interval() * step, 7)).collect();
        assert_eq!(due, [Compact { revision: 7 }]);
    }
}
