//! JSON text to protobuf bytes and back, driven by the descriptors of the wire definitions.
//!
//! No message type is named here: [`Schema`] turns the descriptors into field tables once, and
//! both directions stream over their input without building a tree. A put costs about a
//! microsecond each way.
//!
//! Invariants:
//! - no input, however odd, panics; depth is bounded by [`MESSAGE_DEPTH_MAX`] and
//!   [`SKIP_DEPTH_MAX`], work is linear in the input;
//! - what etcd 3.5 or 3.6 accepts is accepted with 3.5's meaning, but for one case: an unknown
//!   enum name is refused as 3.5 does, never ignored as 3.6 does, because a misspelt
//!   `sort_order` must not answer in another order;
//! - the output is what 3.5 prints: declaration order, proto names, zero values left out,
//!   64-bit numbers as strings.
//!
//! Source: recorded answers of etcd 3.5.1 and the proto3 JSON mapping,
//! <https://protobuf.dev/programming-guides/json/>.

mod base64;
mod decode;
mod documents;
mod encode;
mod integer;
mod reader;
mod schema;
#[cfg(test)]
mod tests;
mod wire;

pub use decode::Decoded;
pub use documents::Documents;
pub use encode::WireError;
pub(in crate::api) use encode::put_string;
pub use reader::JsonError;
pub use schema::{MessageId, Method, Schema, SchemaError};

/// Nested messages below the outermost one, in either direction. Enough for the deepest
/// transaction etcd admits (128 nested ones, two messages each).
pub const MESSAGE_DEPTH_MAX: usize = 300;

/// Nested arrays and objects inside an unknown field; the same bound as Go's JSON parser.
pub const SKIP_DEPTH_MAX: usize = 10_000;
