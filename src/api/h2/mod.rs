//! Our own HTTP/2 server for gRPC.
//!
//! A general HTTP/2 stack costs more per request than a put does. This one does what a server
//! with small unary calls and some long streams needs, and answers many calls with one write:
//! - `core`: the protocol without I/O (frames, header compression, streams, flow control,
//!   abuse limits): bytes in, events and bytes out;
//! - `calls`: the calls of a connection, polled by its one task through reusable wakers;
//! - `driver`: reads, runs, writes, keeps time.
//!
//! Deliberately absent: server push, priorities, request compression (answered with
//! Unimplemented and `grpc-accept-encoding: identity`), upgrade from HTTP/1.1 (`h2c` is spoken
//! by prior knowledge only).

mod calls;
mod core;
mod driver;
mod frame;
mod fuzz;
mod grpc;
mod head;
mod hpack;
mod inbox;
mod limits;
mod plain;
mod stream_call;
#[cfg(test)]
mod tests;
mod wake;

pub(crate) use driver::serve;
pub(crate) use frame::PREFACE;
pub use fuzz::fuzz_connection;
pub use limits::{
    Limits, PING_STRIKES_MAX, REQUEST_BYTES_MAX_DEFAULT, REQUEST_OVERHEAD_BYTES, STREAMS_MAX,
};
