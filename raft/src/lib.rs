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
//! | `snapshot` | whole states between members |
//! | `queue`, `port`, `hub` | requests in, answers out |
//! | `proposer`, `reads`, `members`, `sole` | what the consensus thread does with them |
//! | `wire`, `link`, `network`, `server`, `transport` | peers: frames, clients, connections served |
//! | `info` | what a member on its way in asks before it has an identity |
//! | `consensus`, `node` | the thread and its handle |

pub mod config;
mod consensus;
pub mod error;
mod fatal;
mod flusher;
mod hub;
mod identity;
mod info;
mod link;
mod log_store;
mod measures;
mod members;
mod network;
mod node;
mod port;
mod probe;
mod proposer;
mod queue;
mod reads;
mod restored;
mod route;
mod row;
mod samples;
mod server;
mod slow;
mod snapshot;
mod sole;
mod state_machine;
mod status;
#[cfg(test)]
mod storage_suite;
pub mod testing;
mod transport;
pub mod types;
mod wire;

pub use config::Config;
pub use error::{CallError, Error, MemberError, ProposeError, ReadError};
pub use fatal::FatalHook;
pub use info::{ClusterInfo, ClusterMember};
pub use measures::{Distribution, Histogram, Measured, PeerMeasured};
pub use node::{Bootstrap, Node, WeakNode};
pub use port::{Answer, Port};
pub use restored::found_restored;
pub use samples::sample_frames;
pub use server::CallHandler;
pub use slow::SlowSteps;
pub use status::{MemberStatus, Metrics, Status};
pub use transport::{PeerIdentity, PeerProof, PeerStream, PeerTransport};
pub use types::{NodeId, Peer};
pub use wire::{Lane, decode_untrusted};
