//! Consensus glue: openraft over `tripod-storage`. The only crate that names openraft.
//!
//! One OS thread for each member runs consensus, the log's sync, applying and the peer
//! connections; front-end threads reach it through [`Port`]s, which collect the requests of all
//! connections into one Raft entry and bring answers back with one wake for a whole batch.
//!
//! | room | what it holds |
//! |---|---|
//! | `types`, `row` | the openraft type configuration; entries as bytes, encoded once |
//! | `log_store`, `state_machine`, `flusher` | openraft's storage over the storage crate |
//! | `queue`, `port`, `hub` | requests in, answers out |

pub mod config;
pub mod error;
mod fatal;
mod flusher;
mod hub;
mod log_store;
mod port;
mod queue;
mod row;
mod state_machine;
pub mod types;

pub use config::Config;
pub use error::{CallError, Error, MemberError, ProposeError, ReadError};
pub use fatal::FatalHook;
pub use port::{Answer, Port};
