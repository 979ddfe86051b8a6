//! Every limit of a client connection, by name.

use std::time::Duration;

use super::super::pace::Rate;

/// Largest request a service sees by default, in bytes: etcd's `--max-request-bytes`.
pub const REQUEST_BYTES_MAX_DEFAULT: usize = 1_572_864;
/// What the wire message may have on top of it, in bytes: etcd's receive limit.
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// Streams of one connection, whatever the configuration allows: etcd's default of 2^32 - 1 would
/// let one client fill the memory with streams.
pub const STREAMS_MAX: u32 = 1 << 16;

/// Limits of one HTTP/2 connection. Units end the names.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest gRPC message received, in bytes; above it ResourceExhausted.
    pub message_bytes_max: usize,
    /// Streams open at once. etcd has no limit by default; this one bounds the tables, and the
    /// byte limits below bound what streams hold.
    pub streams_max: u32,
    /// Bytes of requests that no service has taken yet, over all streams of the connection.
    pub request_bytes_max: usize,
    /// Bytes of unary answers waiting for the client; above it no call is continued.
    pub answer_bytes_max: usize,
    /// Bytes of unread requests over all connections of a thread; above it each may hold
    /// `pressed_bytes_max`.
    pub thread_request_bytes_max: usize,
    /// Bytes of answers waiting over all connections of a thread; above it each may have
    /// `pressed_bytes_max` waiting before its calls stop.
    pub thread_answer_bytes_max: usize,
    /// What one connection may hold, of requests or of answers, while its thread has too much.
    pub pressed_bytes_max: usize,
    /// Bytes of one stream's messages waiting for the client; above it the service waits.
    pub stream_answer_bytes_max: usize,
    /// Window announced for each stream, in bytes.
    pub stream_window_bytes: u32,
    /// Window announced for the connection, in bytes.
    pub connection_window_bytes: u32,
    /// Header list of a request, counted as RFC 9113 section 6.5.2 does.
    pub header_list_bytes_max: usize,
    /// Compressed header block over HEADERS and CONTINUATION, in bytes.
    pub header_block_bytes_max: usize,
    /// CONTINUATION frames of one block.
    pub continuations_max: u32,
    /// Streams a client may cancel at once; each finished call gives one back.
    pub resets_burst: u32,
    /// Cancellations given back per second.
    pub resets_per_s: u32,
    /// Frames that cost us and bring nothing (settings, pings without traffic, empty data,
    /// unknown types, tiny window updates) a client may send at once.
    pub idle_frames_burst: u32,
    /// Such frames given back per second.
    pub idle_frames_per_s: u32,
    /// Least time between pings of a client that sends nothing else: etcd's
    /// `--grpc-keepalive-min-time`.
    pub ping_interval_min: Duration,
    /// Silence after which the server pings: etcd's `--grpc-keepalive-interval`.
    pub keepalive_interval: Duration,
    /// Wait for the answer to that ping: etcd's `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// Time a client has for its preface and first settings.
    pub preface_timeout: Duration,
    /// Time without a byte accepted by a client that has answers waiting.
    pub write_stall_timeout: Duration,
    /// Time of waiting over which a client must take `pace_bytes_min` of what waits for it: of the
    /// connection's answers, and of each whole answer whose stream it opens by crumbs.
    pub pace_window: Duration,
    /// Bytes that a client takes at least in each `pace_window`: a quarter of what a line of
    /// 64 kbit/s brings.
    pub pace_bytes_min: usize,
    /// Time running calls have after a drain began.
    pub drain_timeout: Duration,
}

impl Limits {
    /// The least rate at which answers are taken.
    pub(crate) fn pace(&self) -> Rate {
        Rate { window: self.pace_window, bytes_min: self.pace_bytes_min }
    }
}

/// Pings above the rate before the connection is closed, as grpc-go.
pub const PING_STRIKES_MAX: u32 = 2;

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: REQUEST_BYTES_MAX_DEFAULT + REQUEST_OVERHEAD_BYTES,
            streams_max: STREAMS_MAX,
            request_bytes_max: 64 << 20,
            answer_bytes_max: 8 << 20,
            thread_request_bytes_max: 256 << 20,
            thread_answer_bytes_max: 256 << 20,
            pressed_bytes_max: 64 << 10,
            stream_answer_bytes_max: 64 << 10,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            header_list_bytes_max: 64 << 10,
            header_block_bytes_max: 64 << 10,
            continuations_max: 32,
            resets_burst: 10_000,
            resets_per_s: 1_000,
            idle_frames_burst: 4_096,
            idle_frames_per_s: 256,
            ping_interval_min: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            preface_timeout: Duration::from_secs(10),
            write_stall_timeout: Duration::from_secs(60),
            pace_window: Duration::from_secs(120),
            pace_bytes_min: 256 << 10,
            drain_timeout: Duration::from_secs(10),
        }
    }
}
