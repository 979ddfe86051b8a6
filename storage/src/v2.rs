//! The v2 key space: a tree of directories and files, one counter, one history, watchers.
//!
//! Invariants:
//! - separate from the revisioned key space: nothing here reads or moves a revision;
//! - the index grows by one with every change, expiry included, and with nothing else;
//! - apply takes no clock: deadlines and the time they are measured from arrive in the
//!   [`Change`], and a node ends only by [`Change::Expire`];
//! - a change that is refused changes nothing;
//! - every node but the root has a parent that is a directory and lists it.
//!
//! | room | what it does |
//! |---|---|
//! | `change` | what goes through the log, and how it changes the tree |
//! | `tree` | nodes, deadlines, reads |
//! | `history` | the latest events, for watchers that come late |
//! | `hub` | watchers of this member and which of them an event concerns |
//! | `rows` | the tree and its history as engine rows |
//! | `path` | tidy paths |
//!
//! Absent on purpose: etcd's own `/0` and `/2` folders (members and v2 users), so the index
//! starts where etcd's stands after it has written about its first member.
//!
//! Source: etcd v2 API, <https://etcd.io/docs/v2.3/api/>, and answers of etcd 3.5.1.

mod change;
mod event;
mod history;
mod hub;
pub mod path;
mod rows;
#[cfg(test)]
mod tests;
mod tree;

pub use change::{Change, Condition, Op, Write};
pub use event::{Action, Error, ErrorCode, Event, NodeView};
pub use hub::{WATCHERS_MAX, Watch};
pub use tree::{Stats, Tree};

/// Index of a tree nothing was written to: what etcd's is after it has started.
pub const FIRST_INDEX: u64 = 3;

/// Events kept for watchers that ask for the past, as etcd.
pub const HISTORY_EVENTS_MAX: usize = 1000;

/// Bytes of those events at most; beyond it older ones go early.
pub const HISTORY_BYTES_MAX: usize = 64 << 20;

/// Parts of a key at most: bounds how deep answers nest.
pub const PATH_DEPTH_MAX: usize = 256;

/// Deadlines before 2000-01-01 mean "never" where a node is made, as etcd: they come from
/// numbers that ran over.
const EXPIRES_NS_MIN: i64 = 946_684_800_000_000_000;
