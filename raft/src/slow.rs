//! Which slow steps are worth a log line: the first, then at most one a second.
//!
//! Pure: the clock comes in. A member that is slow at everything must not become slower by
//! writing about it.

use std::time::{Duration, Instant};

/// Least time between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Watches how long one kind of step takes.
#[derive(Clone, Debug)]
pub struct SlowSteps {
    limit: Duration,
    last_line: Option<Instant>,
    unsaid: u64,
}

impl SlowSteps {
    /// Steps are slow that take longer than `limit`.
    #[must_use]
    pub fn longer_than(limit: Duration) -> Self {
        Self { limit, last_line: None, unsaid: 0 }
    }

    /// The time above which a step is slow.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Judges a step that took `took` and ended at `now`: `Some` if a line should say so, with
    /// the number of slow steps since the last line that went unsaid.
    pub fn note(&mut self, took: Duration, now: Instant) -> Option<u64> {
        if took <= self.limit {
            return None;
        }
        if self.last_line.is_some_and(|last| now.duration_since(last) < LINE_INTERVAL) {
            self.unsaid += 1;
            return None;
        }
        self.last_line = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_steps_are_said_once_a_second_with_the_number_of_the_others() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut slow = SlowSteps::longer_than(ms(100));
        let cases = [
            (100, 0, None),
            (101, 0, Some(0)),
            (500, 10, None),
            (500, 999, None),
            (50, 1000, None),
            (101, 1000, Some(2)),
            (101, 2500, Some(0)),
        ];
        for (took, at, want) in cases {
            assert_eq!(slow.note(ms(took), start + ms(at)), want, "{took} ms at {at} ms");
        }
    }
}
