//! What waits for a client that could take it: the least rate of a connection and of its streams.
//!
//! Two things hold answers back that their client decides about: the connection as a whole (its
//! window, or a socket that does not drain), and the window of a single stream. The first is
//! judged by all data that goes out, so that many answers on a slow line share one least rate; the
//! second by the data of that stream, and only for the time in which its own window is closed.
//!
//! Only answers that are there as a whole are judged one by one. A streaming call with a closed window
//! holds little and waits for nobody: an application may stop reading a watch for as long as it
//! likes, as with etcd.

use std::{collections::HashMap, time::Instant};

use super::{
    super::{
        super::pace::{Pace, Rate},
        frame::ErrorCode,
    },
    Core, NO_TAG, Violation,
    stream::StreamHash,
};

/// Looks at the streams per `pace_window` at most: there may be many.
const LOOKS_PER_WINDOW: u32 = 16;

/// The pace of a connection and of its streams.
#[derive(Debug)]
pub(super) struct Held {
    connection: Pace,
    /// Whole answers whose stream was closed to them.
    streams: HashMap<u32, Pace, StreamHash>,
    /// No stream is due before this.
    next: Option<Instant>,
}

impl Default for Held {
    fn default() -> Self {
        let streams = HashMap::with_hasher(StreamHash::new());
        Self { connection: Pace::default(), streams, next: None }
    }
}

impl Held {
    /// The pump has moved `bytes`; `left` when more is queued, for which the connection waits.
    pub(super) fn moved(&mut self, bytes: usize, left: bool, now: Instant) {
        if left || !self.streams.is_empty() {
            self.connection.note(now, bytes, left);
        } else {
            self.connection = Pace::default();
        }
    }

    /// A stream whose window is closed has something waiting.
    pub(super) fn closed(&mut self, stream: u32, now: Instant, rate: Rate) {
        let pace = self.streams.entry(stream).or_default();
        pace.note(now, 0, true);
        if let Some(due) = pace.due(rate) {
            self.next = Some(self.next.map_or(due, |next| next.min(due)));
        }
    }

    /// The window of a stream is open again.
    pub(super) fn opened(&mut self, stream: u32, now: Instant) {
        if let Some(pace) = self.streams.get_mut(&stream) {
            pace.note(now, 0, false);
        }
    }

    /// Data of a stream with an open window was moved.
    pub(super) fn took(&mut self, stream: u32, bytes: usize, now: Instant) {
        if !self.streams.is_empty()
            && let Some(pace) = self.streams.get_mut(&stream)
        {
            pace.note(now, bytes, false);
        }
    }

    /// A stream is no more.
    pub(super) fn dropped(&mut self, stream: u32) {
        if !self.streams.is_empty() {
            self.streams.remove(&stream);
        }
    }

    /// Streams that are taken too slowly.
    fn slow_streams(&mut self, now: Instant, rate: Rate) -> Vec<u32> {
        if self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let streams = self.streams.iter_mut();
        let slow =
            streams.filter_map(|(&stream, pace)| pace.is_too_slow(now, rate).then_some(stream));
        let slow = slow.collect();
        let due = self.streams.values().filter_map(|pace| pace.due(rate)).min();
        self.next = due.map(|due| due.max(now + rate.window / LOOKS_PER_WINDOW));
        slow
    }
}

impl Core {
    /// Ends what the client takes too slowly: single answers, whose owners are in `tags`, or the
    /// connection.
    pub(in super::super) fn end_slow(&mut self, now: Instant, tags: &mut Vec<u32>) {
        let rate = self.limits.pace();
        if self.held.connection.is_too_slow(now, rate) {
            self.fail(Violation(ErrorCode::EnhanceYourCalm, "answers are taken too slowly"));
            return;
        }
        for stream in self.held.slow_streams(now, rate) {
            let tag = self.streams.get(&stream).map(|open| open.tag);
            tags.extend(tag.filter(|&tag| tag != NO_TAG));
            self.abort(stream, ErrorCode::EnhanceYourCalm);
        }
    }

    /// The earliest time at which [`Core::end_slow`] may have something to do.
    pub(in super::super) fn slow_due(&self) -> Option<Instant> {
        let connection = self.held.connection.due(self.limits.pace());
        [connection, self.held.next].into_iter().flatten().min()
    }
}
