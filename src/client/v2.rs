//! The v2 tree by typed calls, and the leader's service that ends what is due.
//!
//! Deadlines are absolute and made here, from the clock of the member that takes a request;
//! the leader compares them with its own clock, so members' clocks should agree.
//!
//! Source: etcd v2 API; its SYNC every 500 ms.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tripod_raft::{Answer, Node, Port};
use tripod_storage::{
    command::{Command, Response},
    v2::{self, Change, Op, Write},
};

use super::{Client, Error};

/// Between two looks for nodes that are due, as etcd.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
const NS_OF_S: i64 = 1_000_000_000;

/// Why a v2 call did not go well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum V2Error {
    /// The tree refused it; nothing was changed.
    #[error(transparent)]
    Refused(#[from] v2::Error),
    /// It did not get to the tree, or its fate is unknown.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// A write into the tree.
#[derive(Clone, Debug)]
pub struct V2Write {
    /// The key.
    pub key: Bytes,
    /// What to do with it.
    pub op: Op,
    /// Seconds to live; `None`: for ever. Too large numbers run over, as in etcd.
    pub ttl_s: Option<u64>,
    /// Keep the value, and tell no watcher.
    pub refresh: bool,
}

/// Where tree and log were at an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct V2Position {
    /// The tree's index.
    pub index: u64,
    /// Raft index.
    pub raft_index: u64,
    /// Raft term.
    pub raft_term: u64,
}

impl Client {
    /// Changes the tree.
    ///
    /// # Errors
    /// [`V2Error`].
    pub async fn v2_write(&self, write: V2Write) -> Result<(v2::Event, V2Position), V2Error> {
        let V2Write { key, op, ttl_s, refresh } = write;
        let value_len = match &op {
            Op::Set { value, .. }
            | Op::Create { value, .. }
            | Op::Update { value }
            | Op::CompareAndSwap { value, .. } => value.len(),
            Op::Delete { .. } | Op::CompareAndDelete { .. } => 0,
        };
        self.check_size(key.len() + value_len)?;
        self.refuse_learner()?;
        let now_ns = now_ns();
        let expires_ns = ttl_s.map(|ttl_s| deadline_ns(now_ns, ttl_s));
        let change = Change::Write(Write { key, op, expires_ns, refresh, now_ns });
        let command = Command::V2(Box::new(change));
        if self.is_over_quota(&command) {
            return Err(self.raise_no_space().await.into());
        }
        // Without a caller: while authentication is on, apply refuses it whatever the front did.
        let answer = self.port.propose(command).await.map_err(Error::from)?;
        let Answer { applied, term, index } = answer;
        match applied.outcome.map_err(Error::from)? {
            Response::V2(outcome) => {
                let event = (*outcome)?;
                let index_after = event.node.modified;
                let position =
                    V2Position { index: index_after, raft_index: index, raft_term: term };
                Ok((event, position))
            }
            other => {
                tracing::error!(?other, "the state machine answered another kind of command");
                Err(Error::Stopped.into())
            }
        }
    }

    /// Reads a node; with `quorum` after a majority confirmed that nothing newer was
    /// acknowledged, otherwise this member's present state.
    ///
    /// # Errors
    /// [`V2Error`].
    pub async fn v2_get(
        &self,
        key: &[u8],
        recursive: bool,
        quorum: bool,
    ) -> Result<(v2::Event, V2Position), V2Error> {
        if quorum {
            self.refuse_learner()?;
            self.port.read_index().await.map_err(Error::from)?;
        } else {
            self.refuse_removed()?;
        }
        let (index, answer) = {
            let machine = self.node.state().read();
            let tree = machine.v2();
            (tree.index(), tree.get(key, recursive, now_ns()))
        };
        Ok((answer?, self.v2_position(index)))
    }

    /// Waits for events; see [`v2::Tree::watch`].
    ///
    /// # Errors
    /// [`V2Error`].
    pub fn v2_watch(
        &self,
        key: &[u8],
        recursive: bool,
        stream: bool,
        wait_index: u64,
    ) -> Result<(v2::Watch, V2Position), V2Error> {
        self.refuse_removed()?;
        let watch = self.node.state().read().v2().watch(key, recursive, stream, wait_index)?;
        let index = watch.start_index();
        Ok((watch, self.v2_position(index)))
    }

    /// How often the tree was asked for what, on this member.
    #[must_use]
    pub fn v2_stats(&self) -> v2::Stats {
        self.node.state().read().v2().stats()
    }

    fn v2_position(&self, index: u64) -> V2Position {
        let raft = self.node.status();
        V2Position { index, raft_index: raft.committed_index, raft_term: raft.term }
    }
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Runs over as etcd's does.
fn deadline_ns(now_ns: i64, ttl_s: u64) -> i64 {
    now_ns.wrapping_add(ttl_s.cast_signed().wrapping_mul(NS_OF_S))
}

/// Ends what is due while this member leads, and remembers since when who leads.
#[derive(Debug)]
pub struct V2Service {
    node: Node,
    port: Port,
    started_ns: i64,
    leader: Mutex<(Option<u64>, i64)>,
}

impl V2Service {
    /// A service over `node`; `port` must be driven by the caller.
    #[must_use]
    pub fn new(node: Node, port: Port) -> Arc<Self> {
        let started_ns = now_ns();
        Arc::new(Self { node, port, started_ns, leader: Mutex::new((None, started_ns)) })
    }

    /// Runs until the node stops.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.node.is_stopped() {
            ticks.tick().await;
            let _ = self.leader(); // remembers a change
            let cutoff_ns = now_ns();
            let due = self.node.state().read().v2().next_deadline_ns();
            if !self.node.is_leader() || due.is_none_or(|due_ns| due_ns > cutoff_ns) {
                continue;
            }
            let command = Command::V2(Box::new(Change::Expire { cutoff_ns }));
            if let Err(error) = self.port.propose(command).await {
                tracing::warn!(%error, "v2 keys that are due could not be ended yet");
            }
        }
    }

    /// Where the service's own proposals go.
    pub(crate) fn port(&self) -> &Port {
        &self.port
    }

    /// When this member started, in nanoseconds since 1970.
    #[must_use]
    pub fn started_ns(&self) -> i64 {
        self.started_ns
    }

    /// The leader, and since when this member has known it to lead, to half a second.
    #[must_use]
    pub fn leader(&self) -> (Option<u64>, i64) {
        let now = self.node.leader();
        let mut known = self.leader.lock();
        if known.0 != now {
            *known = (now, now_ns());
        }
        *known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_run_over_as_etcds() {
        let now = 1_700_000_000 * NS_OF_S;
        assert_eq!(deadline_ns(now, 5), now + 5 * NS_OF_S);
        assert_eq!(deadline_ns(now, u64::MAX), now - NS_OF_S);
        assert!(deadline_ns(now, 9_223_372_036) < 0);
    }
}
