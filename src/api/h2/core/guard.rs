//! What a client may do for nothing: token buckets and the ping rule.

use std::time::{Duration, Instant};

use super::super::limits::{Limits, PING_STRIKES_MAX};

/// Idle frames an answered stream gives back: some clients adjust windows with every call.
const IDLE_FRAMES_PER_ANSWER: u32 = 4;
/// Window updates that each frame sent allows: one of its stream, one of the connection.
const UPDATES_PER_FRAME: u32 = 2;
/// Most of them that a client may save up.
const UPDATES_MAX: u32 = 1 << 16;
/// Data sent that gives one idle frame back, in bytes.
const BYTES_PER_IDLE_FRAME: usize = 4096;

/// Tokens that come back with time, up to a burst.
#[derive(Debug)]
pub(super) struct Bucket {
    left: u32,
    burst: u32,
    per_s: u32,
    filled: Instant,
}

impl Bucket {
    fn new(burst: u32, per_s: u32, now: Instant) -> Self {
        Self { left: burst, burst, per_s, filled: now }
    }

    /// Takes `cost` tokens; `false` when there are not enough.
    fn take(&mut self, cost: u32, now: Instant) -> bool {
        if self.left < cost {
            let elapsed_ms = now.saturating_duration_since(self.filled).as_millis();
            let back = elapsed_ms.saturating_mul(u128::from(self.per_s)) / 1000;
            if back > 0 {
                self.left = u32::try_from(back)
                    .map_or(self.burst, |back| self.left.saturating_add(back).min(self.burst));
                self.filled = now;
            }
        }
        match self.left.checked_sub(cost) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }

    fn give(&mut self, tokens: u32) {
        self.left = self.left.saturating_add(tokens).min(self.burst);
    }
}

/// Decides when a client has done too much that brings nothing.
#[derive(Debug)]
pub(super) struct Guard {
    resets: Bucket,
    idle_frames: Bucket,
    ping_interval_min: Duration,
    ping_strikes: u32,
    last_ping: Option<Instant>,
    /// Headers or data were sent since the last ping: clients measure with pings then.
    traffic: bool,
    /// Data sent that has not given an idle frame back yet, in bytes.
    sent_bytes: usize,
    /// Window updates that are due for what was sent.
    updates_due: u32,
}

/// The client must be told to calm down, with this text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood(pub &'static str);

impl Guard {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            resets: Bucket::new(limits.resets_burst, limits.resets_per_s, now),
            idle_frames: Bucket::new(limits.idle_frames_burst, limits.idle_frames_per_s, now),
            ping_interval_min: limits.ping_interval_min,
            ping_strikes: 0,
            last_ping: None,
            traffic: false,
            sent_bytes: 0,
            updates_due: 0,
        }
    }

    /// A stream ended before its answer: cancelled, refused or malformed (CVE-2023-44487).
    pub(super) fn reset(&mut self, now: Instant) -> Result<(), Flood> {
        if self.resets.take(1, now) { Ok(()) } else { Err(Flood("too_many_resets")) }
    }

    /// A stream got its answer. Clients that work may also adjust windows and settings.
    pub(super) fn answered(&mut self) {
        self.resets.give(1);
        self.idle_frames.give(IDLE_FRAMES_PER_ANSWER);
    }

    /// A frame that costs work and carries no request.
    pub(super) fn idle_frame(&mut self, cost: u32, now: Instant) -> Result<(), Flood> {
        if self.idle_frames.take(cost, now) { Ok(()) } else { Err(Flood("too_many_frames")) }
    }

    /// Headers or `bytes` of data went out.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.traffic = true;
        self.updates_due = self.updates_due.saturating_add(UPDATES_PER_FRAME).min(UPDATES_MAX);
        self.sent_bytes += bytes;
        if self.sent_bytes >= BYTES_PER_IDLE_FRAME {
            let frames = self.sent_bytes / BYTES_PER_IDLE_FRAME;
            self.idle_frames.give(u32::try_from(frames).unwrap_or(u32::MAX));
            self.sent_bytes %= BYTES_PER_IDLE_FRAME;
        }
    }

    /// A window update on which nothing waits: free where it follows something sent.
    pub(super) fn update(&mut self, now: Instant) -> Result<(), Flood> {
        match self.updates_due.checked_sub(1) {
            Some(due) => {
                self.updates_due = due;
                Ok(())
            }
            None => self.idle_frame(1, now),
        }
    }

    /// A ping arrived. Pings after traffic are free; others may come once per interval, and
    /// two violations in a row are forgiven.
    pub(super) fn ping(&mut self, now: Instant) -> Result<(), Flood> {
        let last = self.last_ping.replace(now);
        if std::mem::take(&mut self.traffic) {
            self.ping_strikes = 0;
            return Ok(());
        }
        if last.is_some_and(|last| now.saturating_duration_since(last) < self.ping_interval_min) {
            self.ping_strikes += 1;
        }
        if self.ping_strikes > PING_STRIKES_MAX { Err(Flood("too_many_pings")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_time_and_answers() {
        let now = Instant::now();
        let limits = Limits { resets_burst: 2, resets_per_s: 10, ..Limits::default() };
        let mut guard = Guard::new(&limits, now);
        assert!(guard.reset(now).is_ok() && guard.reset(now).is_ok());
        assert_eq!(guard.reset(now), Err(Flood("too_many_resets")));
        guard.answered();
        assert!(guard.reset(now).is_ok());
        assert!(guard.reset(now + Duration::from_millis(50)).is_err());
        assert!(guard.reset(now + Duration::from_millis(100)).is_ok());
    }

    #[test]
    fn window_updates_are_free_for_what_was_sent_and_idle_frames_otherwise() {
        let now = Instant::now();
        let limits = Limits { idle_frames_burst: 3, idle_frames_per_s: 0, ..Limits::default() };
        let mut guard = Guard::new(&limits, now);
        for _ in 0..100 {
            guard.sent(10);
            assert!(guard.update(now).is_ok() && guard.update(now).is_ok());
        }
        assert!((0..3).all(|_| guard.update(now).is_ok()));
        assert_eq!(guard.update(now), Err(Flood("too_many_frames")));
    }

    #[test]
    fn pings_are_free_with_traffic_and_rare_without() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut guard = Guard::new(&Limits::default(), start);
        for ms in 0..100 {
            guard.sent(0);
            assert!(guard.ping(at(ms)).is_ok());
        }
        assert!(guard.ping(at(200)).is_ok() && guard.ping(at(300)).is_ok());
        assert_eq!(guard.ping(at(400)), Err(Flood("too_many_pings")));
        let mut slow = Guard::new(&Limits::default(), start);
        for n in 0..100 {
            assert!(slow.ping(at(n * 5000)).is_ok());
        }
    }
}
