//! Data at rest: what Tripod stores, how a command changes it, and how it survives a crash.
//!
//! | room | what it holds |
//! |---|---|
//! | [`command`] | the whole replicated vocabulary: commands, answers, events |
//! | [`mvcc`] | the revisioned key space: index, range, transactions, compaction |
//! | `history` | every change in order of revision, many in one engine record |
//! | [`v2`] | the v2 keys API's tree, with its own index, history and watchers |
//! | [`lease`] | the replicated lease table and the leader's deadline book |
//! | [`auth`] | users, roles and permissions; the one decision who may do what |
//! | [`apply`] | [`apply::StateMachine`]: the one door for changes, and the reads beside it |
//! | [`watch`] | which watcher gets which event; the ring of recent events |
//! | [`log`] | the write-ahead log: segments, checksums, one sync per drain |
//! | [`disk`] | files below the log: a real directory, or one that fails on demand |
//! | [`engine`] | atomic batches on disk (sled) or in memory |
//! | [`snapshot`] | the whole state out and in, in checked chunks |
//! | [`bbolt`] | etcd's file format: pages in, pages out |
//! | [`etcd`] | the state as an etcd backend in such a file, and back |
//! | [`codec`], `keys` | the only places that know byte layouts |
//!
//! Pure but for [`log`], [`engine`] and [`bbolt`]: no tokio, no openraft, no clock, no randomness.

pub mod apply;
pub mod auth;
pub mod bbolt;
pub mod codec;
pub mod command;
pub mod disk;
pub mod engine;
pub mod error;
pub mod etcd;
mod history;
mod keys;
pub mod lease;
pub mod log;
pub mod mvcc;
pub mod snapshot;
pub mod types;
pub mod v2;
pub mod watch;

pub use command::Command;
pub use error::{Error, Rejected};
pub use types::{KeyValue, LeaseId, Revision};
