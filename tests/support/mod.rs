//! What both test binaries share: processes, clients, recorded histories and their checker.
//!
//! The server under test is `tripod serve`, or the program named by `TRIPOD_SERVER_BIN` (any
//! program that takes etcd's flags, so that real etcd can stand in for it).
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod checker;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod port;
pub(crate) mod program;
pub(crate) mod random;
pub(crate) mod tls;
pub(crate) mod wait;
