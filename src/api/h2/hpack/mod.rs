//! Header compression: decoding of requests, encoding of answers.
//!
//! Source: RFC 7541.

mod decoder;
mod encoder;
mod field;
mod huffman;
mod static_table;

pub(super) use decoder::Decoder;
pub(super) use encoder::Encoder;
pub(super) use field::{Field, Known};
