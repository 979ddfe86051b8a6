//! Websockets in front of the JSON gateway (RFC 6455).
//!
//! A websocket is one POST that goes on: the client's messages are the body of the request, one
//! JSON document after the other, and each line of the answer is a message to the client. So
//! everything that is checked for a POST is checked here, by the same code.
//!
//! | room | what it holds |
//! |---|---|
//! | `handshake` | who gets a websocket, and with whose token; pure |
//! | `frame` | bytes to events and back; pure |
//! | `bridge` | the connection: two directions, questions after silence, the end |
//!
//! Invariants:
//! - payload goes on as it arrives: an announced length makes nobody allocate, and a message in
//!   many small frames costs no more memory than one in a large frame;
//! - every wait has an end: a silent client is asked and then given up, one that takes nothing
//!   runs into the connection's write deadline, a call that takes no messages ends the websocket;
//! - whatever ends a websocket, its call is dropped with it.
//!
//! The codec is ours because the usual crates hand out whole messages: they reserve what a frame
//! announces, and hold a second copy of what the gateway collects anyway.
//!
//! Absent: extensions (compression), websockets over HTTP/2 (RFC 8441), and, as in etcd, a check that
//! a text is UTF-8 (the JSON reader does that).
//! Source: RFC 6455; recorded frames of etcd 3.5.1, whose gateway stands behind a proxy of this kind.

mod bridge;
mod frame;
mod handshake;
#[cfg(test)]
mod tests;

pub(super) use bridge::{Opening, serve};
pub(super) use handshake::{Accepted, accept, is_asked};
