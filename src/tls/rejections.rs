//! Rejected connections in the log: anybody can cause them, so not one line each.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts rejections between lines.
#[derive(Debug, Default)]
pub(super) struct Rejections(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since_line: u64,
    last_line: Option<Instant>,
}

impl Rejections {
    /// Counts one; the number to log, this one included, if it is time for a line.
    pub(super) fn note(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        state.since_line += 1;
        let is_due =
            state.last_line.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if !is_due {
            return None;
        }
        state.last_line = Some(now);
        Some(std::mem::take(&mut state.since_line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_counts_what_had_none() {
        let (rejections, start) = (Rejections::default(), Instant::now());
        let at = |ms| rejections.note(start + Duration::from_millis(ms));
        assert_eq!(
            [at(0), at(1), at(999), at(1_000), at(5_000)],
            [Some(1), None, None, Some(3), Some(1)]
        );
    }
}
