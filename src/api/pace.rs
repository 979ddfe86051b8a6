//! The least rate at which a client must take what waits for it.
//!
//! A client that takes nothing at all is ended by `Limits::write_stall_timeout`. One that takes a
//! byte now and then would hold a long answer, and its part of the memory for long answers, for as
//! long as it likes. Here only the time counts in which something waits for the client: over each
//! `Limits::pace_window` of it the client must take `Limits::pace_bytes_min`.
//!
//! Invariants:
//! - a client for which nothing waits is never too slow;
//! - waiting that is interrupted goes on where it was, so crumbs at the right moment gain no time;
//! - at less than the least rate, at most one window of waiting passes before the verdict.
//!
//! Pure: time comes in as an argument.

use std::time::{Duration, Instant};

/// What must be taken in how much time of waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) window: Duration,
    pub(crate) bytes_min: usize,
}

/// How long something has waited in the present window, and what was taken meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waited: Duration,
    taken: usize,
    /// Set while something waits.
    since: Option<Instant>,
}

impl Pace {
    /// The client took `taken` bytes, and now something waits for it or not.
    pub(crate) fn note(&mut self, now: Instant, taken: usize, waits: bool) {
        self.taken = self.taken.saturating_add(taken);
        self.waited = self.waited_until(now);
        self.since = waits.then_some(now);
    }

    /// Whether the window is over and too little was taken in it. A window that was good enough is
    /// followed by another.
    pub(crate) fn is_too_slow(&mut self, now: Instant, rate: Rate) -> bool {
        if self.waited_until(now) < rate.window {
            return false;
        }
        let is_too_slow = self.taken < rate.bytes_min;
        *self = Self { since: self.since.map(|_| now), ..Self::default() };
        is_too_slow
    }

    /// When [`Pace::is_too_slow`] has something to say, if the client goes on to wait.
    pub(crate) fn due(&self, rate: Rate) -> Option<Instant> {
        self.since?.checked_add(rate.window.saturating_sub(self.waited))
    }

    fn waited_until(&self, now: Instant) -> Duration {
        let now = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.waited + now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { window: Duration::from_secs(120), bytes_min: 256 << 10 };

    /// Seconds until a client is ended that takes `bytes` every `every_s` seconds while something
    /// waits; `None` where it never is.
    fn ended_after_s(bytes: usize, every_s: u64) -> Option<u64> {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.note(start, 0, true);
        (1..100_000).find(|second| {
            let now = start + Duration::from_secs(*second);
            if second % every_s == 0 {
                pace.note(now, bytes, true);
            }
            pace.is_too_slow(now, RATE)
        })
    }

    #[test]
    fn crumbs_end_a_client_after_one_window_and_slow_lines_never_do() {
        let cases = [
            ("nothing", 0, 1, Some(120)),
            ("a byte just before each stall timeout", 1, 59, Some(120)),
            ("a kilobyte per second", 1_000, 1, Some(120)),
            ("33.6 kbit/s", 4_200, 1, None),
            ("64 kbit/s", 8_000, 1, None),
            ("64 kbit/s in lumps of 50 s, as full buffers make them", 400_000, 50, None),
        ];
        for (name, bytes, every_s, want) in cases {
            assert_eq!(ended_after_s(bytes, every_s), want, "{name}");
        }
    }

    #[test]
    fn a_burst_lasts_for_its_own_window_alone() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut pace = Pace::default();
        pace.note(at(0), 0, true);
        pace.note(at(1), 1 << 30, true);
        assert!(!pace.is_too_slow(at(120), RATE));
        assert!(!pace.is_too_slow(at(239), RATE) && pace.is_too_slow(at(240), RATE));
    }

    #[test]
    fn a_client_for_which_nothing_waits_has_all_the_time() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.note(start, 10, false);
        assert_eq!(pace.due(RATE), None);
        assert!(!pace.is_too_slow(start + Duration::from_secs(1 << 30), RATE));
    }

    proptest! {
        /// Whatever the client does: no window of waiting passes without the bytes.
        #[test]
        fn it_is_ended_by_the_waiting_time_alone(
            steps in prop::collection::vec((0_u64..50, 0_usize..200_000, any::<bool>()), 1..60),
        ) {
            let mut now = Instant::now();
            let (mut pace, mut waits, mut waited, mut taken) = (Pace::default(), false, 0, 0);
            for (seconds, bytes, then) in steps {
                now += Duration::from_secs(seconds);
                waited += if waits { seconds } else { 0 };
                taken += bytes;
                pace.note(now, bytes, then);
                waits = then;
                let over = waited >= RATE.window.as_secs();
                let want = over && taken < RATE.bytes_min;
                prop_assert_eq!(pace.is_too_slow(now, RATE), want);
                let due = now + RATE.window - Duration::from_secs(if over { 0 } else { waited });
                prop_assert_eq!(pace.due(RATE), waits.then_some(due));
                if over {
                    (waited, taken) = (0, 0);
                }
            }
        }
    }
}
