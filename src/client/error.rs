//! Why a request to the store did not go well, with etcd's texts (clients match them).

use tripod_raft::{CallError, MemberError, ProposeError, ReadError};
use tripod_storage::{Rejected, mvcc::validate::Invalid};

use crate::auth::TokenError;

/// Failure of a client call. Every text is what etcd answers in the same case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request itself is wrong; nothing was changed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The state machine refused it; nothing was changed.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The request is larger than `--max-request-bytes`.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// Too many requests wait already; try again later.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// No leader is known; the request was not proposed.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// No answer in time; a write may or may not have happened.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// The leader went away under the request; a write may or may not have happened.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    LeaderLost,
    /// The call must go to the leader and this member is not.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// A learner serves only status, snapshots and serializable reads.
    #[error("etcdserver: rpc not supported for learner")]
    Learner,
    /// This member is shutting down.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// The TTL asked for is beyond 9,000,000,000 seconds.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// The target of a leader transfer cannot lead.
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    /// Leadership did not arrive at the target in time.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    LeaderTransferTimeout,
    /// The waiter's own key went away, with its lease or by somebody's hand: it owns nothing.
    #[error("mutex: session is expired")]
    LockLost,
    /// The key of this leader is gone or is another one's by now.
    #[error("election: not leader")]
    NotElected,
    /// Nobody leads this election.
    #[error("election: no leader")]
    NobodyElected,
    /// A downgrade request was refused.
    #[error(transparent)]
    Downgrade(#[from] DowngradeRefused),
    /// This member could not write a snapshot; its log says why.
    #[error("etcdserver: snapshot failed; see the member's log, or ask another member")]
    Snapshot,
    /// This member could not rewrite its storage; its log says why.
    #[error("etcdserver: defragmentation failed; see the member's log")]
    Defragment,
    /// A membership change was refused.
    #[error(transparent)]
    Member(#[from] MemberRefused),
    /// The password was right, but a token cannot be made.
    #[error(transparent)]
    Token(TokenError),
}

/// Why a downgrade request was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DowngradeRefused {
    /// The target is no version.
    #[error("etcdserver: wrong downgrade target version format")]
    Format,
    /// The target is not one minor version below.
    #[error("etcdserver: invalid downgrade target version")]
    Target,
    /// A downgrade is prepared already.
    #[error("etcdserver: cluster has a downgrade job in progress")]
    InProgress,
    /// No downgrade is prepared.
    #[error("etcdserver: no inflight downgrade job")]
    NoneInProgress,
}

/// Why a membership change was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemberRefused {
    /// A URL without scheme http or https, or without host and port, or with a path.
    #[error("etcdserver: given member URLs are invalid")]
    BadUrls,
    /// A member of that id is or was in the cluster.
    #[error("etcdserver: member ID already exist")]
    IdExists,
    /// Another member has one of these peer URLs.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// No member has this id.
    #[error("etcdserver: member not found")]
    NotFound,
    /// Only learners can be promoted.
    #[error("etcdserver: can only promote a learner member")]
    NotLearner,
    /// The learner is too far behind to vote.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// The members that are started could not form a quorum afterwards.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// A voter has not been heard of lately.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    /// The cluster has as many learners as it may.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// Another change is under way.
    #[error("etcdserver: unhealthy cluster")]
    Busy,
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::TooLarge => Self::TooLarge,
            ProposeError::Overloaded => Self::TooManyRequests,
            ProposeError::NoLeader => Self::NoLeader,
            ProposeError::LeaderLost => Self::LeaderLost,
            ProposeError::Stopped => Self::Stopped,
            _ => Self::Timeout,
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Overloaded => Self::TooManyRequests,
            ReadError::NoLeader => Self::NoLeader,
            ReadError::Stopped => Self::Stopped,
            _ => Self::Timeout,
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoLeader => Self::NoLeader,
            CallError::Stopped => Self::Stopped,
            CallError::TooLarge => Self::TooLarge,
            _ => Self::Timeout,
        }
    }
}

impl From<MemberError> for Error {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::NotLeader { .. } => Self::NotLeader,
            MemberError::IdExists => MemberRefused::IdExists.into(),
            MemberError::PeerUrlExists => MemberRefused::PeerUrlExists.into(),
            MemberError::NotFound => MemberRefused::NotFound.into(),
            MemberError::NotLearner => MemberRefused::NotLearner.into(),
            MemberError::LearnerNotReady => MemberRefused::LearnerNotReady.into(),
            MemberError::NotEnoughStarted => MemberRefused::NotEnoughStarted.into(),
            MemberError::Unhealthy => MemberRefused::Unhealthy.into(),
            MemberError::TooManyLearners => MemberRefused::TooManyLearners.into(),
            MemberError::InProgress => MemberRefused::Busy.into(),
            MemberError::TransfereeNotReady(_) => Self::BadLeaderTransferee,
            MemberError::TransferTimeout => Self::LeaderTransferTimeout,
            MemberError::Stopped => Self::Stopped,
            _ => Self::Timeout,
        }
    }
}
