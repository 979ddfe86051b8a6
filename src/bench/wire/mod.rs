//! Lean client protocols without I/O (but for [`Stream`]): bytes in, [`Event`]s and bytes out.
//!
//! A [`Wire`] is one connection carrying up to `slots` requests at a time, each named by its slot
//! (the index of the client that waits for it). The caller reads and writes the socket, so
//! parsing can be tested with input split anywhere, and one read or write serves many requests.
//!
//! Invariants:
//! - every request ends in exactly one [`Event::Done`], or the connection in a [`WireError`],
//!   after which every open slot counts as failed;
//! - a call is successful only if the server said so: `:status 200` and `grpc-status 0`, or an
//!   HTTP/1.1 status of 200 with its whole body.

mod h2;
mod hpack;
mod http1;
mod huffman;
mod stream;

pub(crate) use h2::{Grpc, MESSAGE_PREFIX_BYTES};
pub(crate) use http1::Json;
pub(crate) use stream::Stream;

/// How a request that did not succeed ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server answered with a gRPC status other than 0.
    Grpc(u32, String),
    /// The server answered with an HTTP status other than 200; the start of the body.
    Http(u16, String),
    /// The server reset the stream with this HTTP/2 error code.
    Reset(u32),
    /// The answer ended without saying whether it succeeded.
    Unfinished,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Grpc(code, message) => write!(f, "grpc-status {code}: {message}"),
            Self::Http(status, body) => write!(f, "HTTP status {status}: {}", body.trim_end()),
            Self::Reset(code) => write!(f, "stream reset with HTTP/2 error {code}"),
            Self::Unfinished => write!(f, "answer without a status"),
        }
    }
}

/// Outcome of one request; boxed because failures are rare and events are many.
pub(crate) type Outcome = Result<(), Box<Failure>>;

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Bytes were added to the captured body of a slot (only while capturing).
    Data {
        /// Which request.
        slot: u32,
    },
    /// A request ended.
    Done {
        /// Which request.
        slot: u32,
        /// Length of its answer's body in bytes.
        received: usize,
        /// Whether it succeeded.
        outcome: Outcome,
    },
}

/// The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// A header block broke RFC 7541.
    #[error("malformed header block: {0}")]
    Hpack(&'static str),
    /// A frame or message broke the protocol.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    /// The server ends the connection.
    #[error("server sent GOAWAY with HTTP/2 error {0}")]
    GoAway(u32),
    /// The server closes the connection after its last answer.
    #[error("server closed the connection after an answer")]
    Closed,
}

/// The methods used here: their gRPC path and their JSON path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Put,
    Range,
    Txn,
    Watch,
    Status,
}

/// How many methods there are.
pub(super) const METHODS: usize = 5;

impl Method {
    /// Index into per-method tables.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Put => 0,
            Self::Range => 1,
            Self::Txn => 2,
            Self::Watch => 3,
            Self::Status => 4,
        }
    }

    /// The gRPC path.
    pub(super) const fn grpc_path(self) -> &'static str {
        match self {
            Self::Put => "/etcdserverpb.KV/Put",
            Self::Range => "/etcdserverpb.KV/Range",
            Self::Txn => "/etcdserverpb.KV/Txn",
            Self::Watch => "/etcdserverpb.Watch/Watch",
            Self::Status => "/etcdserverpb.Maintenance/Status",
        }
    }

    /// The path of the JSON gateway.
    pub(super) const fn json_path(self) -> &'static str {
        match self {
            Self::Put => "/v3/kv/put",
            Self::Range => "/v3/kv/range",
            Self::Txn => "/v3/kv/txn",
            Self::Watch => "/v3/watch",
            Self::Status => "/v3/maintenance/status",
        }
    }
}

/// One connection of either protocol.
#[derive(Debug)]
pub(crate) enum Wire {
    /// gRPC over HTTP/2.
    Grpc(Box<Grpc>),
    /// JSON over HTTP/1.1.
    Json(Box<Json>),
}

impl Wire {
    /// Whether requests may be sent: the handshake, if any, is over.
    pub(crate) fn ready(&self) -> bool {
        match self {
            Self::Grpc(wire) => wire.ready(),
            Self::Json(_) => true,
        }
    }

    /// How many requests the server allows at a time.
    pub(crate) fn slots_max(&self) -> usize {
        match self {
            Self::Grpc(wire) => wire.streams_max(),
            Self::Json(_) => 1,
        }
    }

    /// Adds a request to the output.
    pub(crate) fn request(&mut self, slot: u32, method: Method, body: &[u8]) {
        match self {
            Self::Grpc(wire) => {
                wire.open(slot, method, body, true);
            }
            Self::Json(wire) => wire.request(slot, method, body),
        }
    }

    /// Takes bytes from the server, adds what happened to `events`.
    pub(crate) fn feed(&mut self, input: &[u8], events: &mut Vec<Event>) -> Result<(), WireError> {
        match self {
            Self::Grpc(wire) => wire.feed(input, events),
            Self::Json(wire) => wire.feed(input, events),
        }
    }

    /// Bytes to be written to the server; the caller drains them.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Grpc(wire) => &mut wire.output,
            Self::Json(wire) => &mut wire.output,
        }
    }
}
