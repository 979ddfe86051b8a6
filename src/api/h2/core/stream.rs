//! The state of one stream and the table of them.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
};

use bytes::Bytes;

use super::super::{super::service::Status, grpc::PREFIX_BYTES};

/// The owner's number of a stream that has no owner any more.
pub(in super::super) const NO_TAG: u32 = u32::MAX;

/// Bytes to send on a stream: a message's prefix, then its body.
#[derive(Debug)]
pub(super) struct Chunk {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix already sent; all of them for a body without one.
    prefix_sent: usize,
    body: Bytes,
}

impl Chunk {
    pub(super) fn message(prefix: [u8; PREFIX_BYTES], body: Bytes) -> Self {
        Self { prefix, prefix_sent: 0, body }
    }

    pub(super) fn body(body: Bytes) -> Self {
        Self { prefix: [0; PREFIX_BYTES], prefix_sent: PREFIX_BYTES, body }
    }

    pub(super) fn len(&self) -> usize {
        PREFIX_BYTES - self.prefix_sent + self.body.len()
    }

    /// Moves up to `bytes` to `out`; returns how many.
    pub(super) fn move_to(&mut self, out: &mut Vec<u8>, bytes: usize) -> usize {
        let from_prefix = bytes.min(PREFIX_BYTES - self.prefix_sent);
        let end = self.prefix_sent + from_prefix;
        out.extend_from_slice(self.prefix.get(self.prefix_sent..end).unwrap_or_default());
        self.prefix_sent = end;
        let from_body = (bytes - from_prefix).min(self.body.len());
        out.extend_from_slice(&self.body.split_to(from_body));
        from_prefix + from_body
    }
}

/// How a stream's answer ends.
#[derive(Clone, Debug)]
pub(in super::super) enum End {
    /// gRPC trailers: OK or a failure.
    Trailers(Result<(), Status>),
    /// A plain body's end.
    Body,
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// The owner's number for it, or [`NO_TAG`].
    pub tag: u32,
    /// The client may still send.
    pub remote_open: bool,
    pub head_sent: bool,
    /// Counts against the limit of unary answers.
    pub unary: bool,
    /// Its answer is there as a whole, so the client alone decides how long it is held.
    pub whole: bool,
    /// In the send queue.
    pub queued: bool,
    /// The owner waits for `pending_bytes` to fall.
    pub wants_room: bool,
    pub send_window: i64,
    pub receive_window: i64,
    /// Bytes the owner took and the client has not been credited for.
    pub owed: u32,
    /// Bytes left of the announced `content-length`.
    pub content_left: Option<u64>,
    pub pending: VecDeque<Chunk>,
    pub pending_bytes: usize,
    pub end: Option<End>,
}

/// Hashes stream numbers, which a client chooses, with a key of this process.
#[derive(Clone)]
pub(super) struct StreamHash {
    key: u64,
}

impl StreamHash {
    pub(super) fn new() -> Self {
        thread_local! {
            static KEY: u64 = RandomState::new().hash_one(0) | 1;
        }
        Self { key: KEY.with(|key| *key) }
    }
}

impl BuildHasher for StreamHash {
    type Hasher = StreamHasher;

    fn build_hasher(&self) -> StreamHasher {
        StreamHasher { key: self.key, hash: 0 }
    }
}

pub(super) struct StreamHasher {
    key: u64,
    hash: u64,
}

impl Hasher for StreamHasher {
    #[expect(clippy::cast_possible_truncation, reason = "takes the halves")]
    fn write_u32(&mut self, number: u32) {
        let wide = u128::from(u64::from(number) ^ self.key) * u128::from(self.key);
        let [low, high] = [wide as u64, (wide >> 64) as u64];
        self.hash = low ^ high;
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

pub(super) type Streams = HashMap<u32, Stream, StreamHash>;
