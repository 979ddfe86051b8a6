//! What clients see: events, nodes, and errors with etcd's numbers and texts.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "etcd's own names")]
pub enum Action {
    Get,
    Set,
    Create,
    Update,
    CompareAndSwap,
    Delete,
    CompareAndDelete,
    Expire,
}

impl Action {
    /// etcd's spelling.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Create => "create",
            Self::Update => "update",
            Self::CompareAndSwap => "compareAndSwap",
            Self::Delete => "delete",
            Self::CompareAndDelete => "compareAndDelete",
            Self::Expire => "expire",
        }
    }
}

/// A node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its path; empty for the root.
    pub key: Bytes,
    /// Its value; `None` for a directory and for what was deleted.
    pub value: Option<Bytes>,
    /// It is a directory.
    pub dir: bool,
    /// Deadline in nanoseconds since 1970.
    pub expires_ns: Option<i64>,
    /// Seconds to the deadline at that moment, rounded up; 0 without one.
    pub ttl_s: i64,
    /// Children, in order of their names; only in answers to reads.
    pub nodes: Vec<NodeView>,
    /// Index of the last write.
    pub modified: u64,
    /// Index of the creation.
    pub created: u64,
}

/// A change of one node, or the answer to a read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub action: Action,
    /// The node after it.
    pub node: NodeView,
    /// The node before it.
    pub prev: Option<NodeView>,
    /// A deadline was renewed and nothing else: watchers are not told.
    pub refresh: bool,
}

impl Event {
    /// The change made a node that was not there.
    #[must_use]
    pub fn is_created(&self) -> bool {
        self.action == Action::Create || self.action == Action::Set && self.prev.is_none()
    }
}

/// etcd's error numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the texts say it")]
#[non_exhaustive]
pub enum ErrorCode {
    KeyNotFound,
    CompareFailed,
    NotFile,
    NotDir,
    NodeExists,
    RootReadOnly,
    DirNotEmpty,
    Unauthorized,
    PrevValueRequired,
    TtlNotANumber,
    IndexNotANumber,
    InvalidField,
    InvalidForm,
    RefreshValue,
    RefreshTtlRequired,
    RaftInternal,
    EventIndexCleared,
}

impl ErrorCode {
    /// Number, text and HTTP status.
    #[must_use]
    pub fn describe(self) -> (u16, &'static str, u16) {
        match self {
            Self::KeyNotFound => (100, "Key not found", 404),
            Self::CompareFailed => (101, "Compare failed", 412),
            Self::NotFile => (102, "Not a file", 403),
            Self::NotDir => (104, "Not a directory", 400),
            Self::NodeExists => (105, "Key already exists", 412),
            Self::RootReadOnly => (107, "Root is read only", 400),
            Self::DirNotEmpty => (108, "Directory not empty", 403),
            Self::Unauthorized => (110, "The request requires user authentication", 401),
            Self::PrevValueRequired => (201, "PrevValue is Required in POST form", 400),
            Self::TtlNotANumber => (202, "The given TTL in POST form is not a number", 400),
            Self::IndexNotANumber => (203, "The given index in POST form is not a number", 400),
            Self::InvalidField => (209, "Invalid field", 400),
            Self::InvalidForm => (210, "Invalid POST form", 400),
            Self::RefreshValue => (211, "Value provided on refresh", 400),
            Self::RefreshTtlRequired => (212, "A TTL must be provided on refresh", 400),
            Self::RaftInternal => (300, "Raft Internal Error", 500),
            Self::EventIndexCleared => {
                (401, "The event in requested index is outdated and cleared", 400)
            }
        }
    }
}

/// A request that the tree refuses; part of the replicated answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Which.
    pub code: ErrorCode,
    /// The key concerned, or what did not match.
    pub cause: Bytes,
    /// The tree's index.
    pub index: u64,
}

impl Error {
    /// An error of a request that the tree never saw.
    pub fn of_request(code: ErrorCode, cause: impl Into<Bytes>) -> Self {
        Self { code, cause: cause.into(), index: 0 }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code.describe().1)
    }
}

impl std::error::Error for Error {}
