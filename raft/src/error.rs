//! What callers of this crate can be told, split by what they may do next.

use std::io;

use crate::types::NodeId;

/// A failure of this member: it could not start, or it must stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Storage failed or holds what it must not.
    #[error(transparent)]
    Storage(#[from] tripod_storage::Error),
    /// A setting that cannot work.
    #[error("invalid raft configuration: {0}")]
    Config(String),
    /// The member cannot start as asked.
    #[error("cannot start member: {0}")]
    Bootstrap(String),
    /// The operating system refused something that is no storage.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Consensus stopped by itself; the fatal hook has the reason.
    #[error("consensus stopped: {0}")]
    Stopped(String),
}

/// Why a proposal has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Over [`crate::Config::request_bytes_max`]; not applied.
    #[error("request is too large")]
    TooLarge,
    /// Too many proposals wait here; not applied.
    #[error("too many requests")]
    Overloaded,
    /// No leader was known in time; not applied.
    #[error("no leader")]
    NoLeader,
    /// Not answered in time; it may still be applied.
    #[error("request timed out")]
    Timeout,
    /// The leader changed while it was on its way; it may have been applied.
    #[error("request timed out, possibly due to previous leader failure")]
    LeaderLost,
    /// This member stops; it may have been applied.
    #[error("server stopped")]
    Stopped,
}

/// Why a read cannot be linearizable now. Reading again is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Too many reads wait here.
    #[error("too many requests")]
    Overloaded,
    /// No leader was known in time.
    #[error("no leader")]
    NoLeader,
    /// No quorum confirmed the leader in time.
    #[error("request timed out")]
    Timeout,
    /// This member stops.
    #[error("server stopped")]
    Stopped,
}

/// Why a change of the membership or of the leader did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum MemberError {
    /// Ask the leader.
    #[error("not leader")]
    NotLeader {
        /// The leader known here.
        leader: Option<NodeId>,
    },
    /// A member of that id is or was in the cluster.
    #[error("member ID already exist")]
    IdExists,
    /// Another member has one of these peer URLs.
    #[error("peer URLs already exists")]
    PeerUrlExists,
    /// No such member.
    #[error("member not found")]
    NotFound,
    /// Only learners can be promoted.
    #[error("can only promote a learner member")]
    NotLearner,
    /// The learner is too far behind to become a voter.
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// The remaining voters could not reach a quorum.
    #[error("re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// A voter has not been heard of lately, so that the quorum would hang on the others.
    #[error("unhealthy cluster")]
    Unhealthy,
    /// The cluster has as many learners as it may.
    #[error("too many learner members in cluster")]
    TooManyLearners,
    /// Another change is under way.
    #[error("another membership change is in progress")]
    InProgress,
    /// The target of a leader transfer cannot take over now.
    #[error("leader transferee is not ready: {0}")]
    TransfereeNotReady(String),
    /// Leadership did not arrive at the target in time.
    #[error("request timed out, leader transfer took too long")]
    TransferTimeout,
    /// Not finished in time; the change may still happen.
    #[error("request timed out")]
    Timeout,
    /// This member stops.
    #[error("server stopped")]
    Stopped,
}

/// Why a call to the leader has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No leader was known in time.
    #[error("no leader")]
    NoLeader,
    /// Not answered in time; the leader may have acted.
    #[error("request timed out")]
    Timeout,
    /// The leader has no handler of that kind.
    #[error("unknown request kind {0}")]
    UnknownKind(u8),
    /// Request or answer is over the limit.
    #[error("request is too large")]
    TooLarge,
    /// This member stops.
    #[error("server stopped")]
    Stopped,
}
