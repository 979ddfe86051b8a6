//! Load generator and comparison: how many requests per second an etcd endpoint answers.
//!
//! The server under test and this generator share the machine's cores, so the generator has to be
//! lean: its own HTTP/2 and HTTP/1.1 clients (`wire`) cost one to a few microseconds of CPU per
//! request, where ordinary client libraries cost seventy and hide the server. What it costs is measured and
//! printed with each result.
//!
//! - [`load`] drives one workload, closed loop: each client has one request in flight;
//! - [`verify`] reads back what a run wrote;
//! - [`compare`] runs the real etcd and a candidate in alternation;
//! - [`watch`] measures the delivery of events to many watchers.
//!
//! Absent on purpose: authentication by password.

pub mod compare;
pub mod load;
pub mod output;
pub mod plan;
mod process;
pub(crate) mod progress;
mod render;
mod rpc;
mod stats;
pub mod verify;
pub mod watch;
mod wire;

pub use load::{Observer, run};
pub use plan::{Op, Plan, Protocol, Stop};
pub use progress::Progress;
pub use stats::{Failed, Latency, Summary};
