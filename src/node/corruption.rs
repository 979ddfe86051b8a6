//! Do the members hold the same data? Hashes of the key space, compared at one revision.
//!
//! Three occasions, as in etcd: before a member serves (`initial-corrupt-check`, refuses the
//! start), from time to time on the leader (`corrupt-check-time`), and after compactions on the
//! leader (`compact-hash-check`). The last two raise the alarm CORRUPT for whoever differs from
//! the majority; from then on the cluster refuses writes until an operator has looked.
//!
//! Invariants:
//! - only hashes of equal revisions and equal compact revisions are compared, so that a member
//!   that is slow is never taken for a corrupt one;
//! - hashing takes no lock for long ([`hash_of`]).

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};
use tripod_raft::{Node, NodeId};
use tripod_storage::{
    Rejected, Revision,
    command::{AlarmAction, AlarmKind},
};

use crate::{
    client::{Client, Error, KvHash, hash_of},
    config::Config,
};

/// Kind of the call to a member (see [`Node::call_member`]).
const CALL_HASH: u8 = 1;
/// Longest time for one member's hash.
const HASH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a member that is asked for a revision ahead of it waits to get there.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for asking everybody before the start, where members may be down.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// This member's data differ from another one's at the same revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "found data inconsistency with peers: at revision {revision} this member has hash {own:08x}, \
     member {peer:x} has {theirs:08x}; compare with the others, then remove the odd one out and \
     add it again"
)]
pub struct Mismatch {
    /// Revision of both hashes.
    pub revision: Revision,
    /// Hash of this member.
    pub own: u32,
    /// The other member.
    pub peer: u64,
    /// Its hash.
    pub theirs: u32,
}

/// A member's answer on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Hash(KvHash),
    /// The revision is compacted, ahead, or the member cannot tell now.
    Unknown,
}

/// When the leader compares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checks {
    /// Between two comparisons of the present state.
    every: Option<Duration>,
    /// Between two comparisons at the newest compaction.
    compactions_every: Option<Duration>,
}

impl Checks {
    pub(super) fn of(config: &Config) -> Self {
        let every = config.corrupt_check_time;
        Self {
            every: (!every.is_zero()).then_some(every),
            compactions_every: config.compact_hash_check.then_some(config.compact_hash_check_time),
        }
    }
}

/// Lets other members ask for this one's hashes.
pub(super) fn answer_peers(node: &Node) {
    // The node owns the handler: a handle inside it would keep both alive for ever.
    let weak = node.downgrade();
    node.on_member_call(CALL_HASH, move |request| {
        let node = weak.upgrade();
        Box::pin(async move {
            let Some(node) = node else { return Bytes::new() };
            let revision = tripod_storage::codec::decode::<Revision>(&request).unwrap_or(0);
            let answer = match hash_when_there(&node, revision).await {
                Ok(hash) => Answer::Hash(hash),
                Err(_) => Answer::Unknown,
            };
            tripod_storage::codec::encode(&answer).into()
        })
    });
}

/// The hash at `revision`, after this member has applied it.
async fn hash_when_there(node: &Node, revision: Revision) -> Result<KvHash, Error> {
    let mut applied = node.applied();
    let there = async {
        while node.state().read().revision() < revision && applied.changed().await.is_ok() {}
    };
    if timeout(CATCH_UP_TIMEOUT, there).await.is_err() {
        return Err(Rejected::FutureRevision.into());
    }
    hash_of(node, revision).await
}

/// Asks all other members for their hash at `revision`; those that have one.
async fn ask_peers(node: &Node, revision: Revision) -> BTreeMap<NodeId, KvHash> {
    let status = node.status();
    let others = status.members.into_keys().filter(|id| *id != status.node_id);
    let request = tripod_storage::codec::encode(&revision);
    let ask = |id| {
        let request = &request;
        async move {
            let answer = node.call_member(id, CALL_HASH, request, HASH_TIMEOUT).await;
            match answer.map(|bytes| tripod_storage::codec::decode::<Answer>(&bytes)) {
                Ok(Ok(Answer::Hash(hash))) => Some((id, hash)),
                Ok(Ok(Answer::Unknown) | Err(_)) => None,
                Err(error) => {
                    tracing::debug!(peer = id, %error, "a member does not tell its hash");
                    None
                }
            }
        }
    };
    join_all(others.map(ask)).await.into_iter().flatten().collect()
}

/// Compares this member's data with those of whoever answers, before it serves.
///
/// # Errors
/// [`Mismatch`].
pub(super) async fn check_at_start(node: &Node) -> Result<(), Mismatch> {
    let Ok(own) = hash_of(node, 0).await else { return Ok(()) };
    let peers = timeout(START_TIMEOUT, ask_peers(node, own.revision)).await.unwrap_or_default();
    let compared = peers.len();
    match peers.into_iter().find(|(_, theirs)| differ(&own, theirs)) {
        Some((peer, theirs)) => {
            Err(Mismatch { revision: own.revision, own: own.hash, peer, theirs: theirs.hash })
        }
        None => {
            tracing::info!(revision = own.revision, compared, "initial corruption checking passed");
            Ok(())
        }
    }
}

fn are_comparable(a: &KvHash, b: &KvHash) -> bool {
    (a.revision, a.compact_revision) == (b.revision, b.compact_revision)
}

fn differ(a: &KvHash, b: &KvHash) -> bool {
    are_comparable(a, b) && a.hash != b.hash
}

/// Who differs from the majority of the members that can be compared with `own`; without a
/// majority whoever differs from this member, which leads.
fn odd_ones_out(own_id: NodeId, own: KvHash, peers: &BTreeMap<NodeId, KvHash>) -> Vec<NodeId> {
    let mut hashes: BTreeMap<NodeId, u32> = peers
        .iter()
        .filter(|(_, theirs)| are_comparable(&own, theirs))
        .map(|(id, theirs)| (*id, theirs.hash))
        .collect();
    hashes.insert(own_id, own.hash);
    let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
    for hash in hashes.values() {
        *votes.entry(*hash).or_default() += 1;
    }
    let majority = votes.iter().find(|(_, count)| **count * 2 > hashes.len());
    let right = majority.map_or(own.hash, |(hash, _)| *hash);
    hashes.into_iter().filter(|(_, hash)| *hash != right).map(|(id, _)| id).collect()
}

/// Compares as often as asked while this member leads; returns when it stops.
pub(super) async fn run(client: Client, checks: Checks) {
    let Checks { every, compactions_every } = checks;
    let never = Duration::from_secs(u64::from(u32::MAX));
    let next = |interval: Option<Duration>| Instant::now() + interval.unwrap_or(never);
    let (mut present, mut compaction) = (next(every), next(compactions_every));
    let mut checked: Revision = 0;
    while !client.node().is_stopped() && (every.is_some() || compactions_every.is_some()) {
        sleep_until(present.min(compaction)).await;
        let now = Instant::now();
        if now >= present {
            if client.node().is_leader() {
                compare(&client, 0).await;
            }
            present = next(every);
        }
        if now >= compaction {
            let revision = client.node().state().read().compact_revision();
            if client.node().is_leader() && revision > checked {
                if compare(&client, revision).await {
                    checked = revision;
                }
                tracing::info!(revision, "finished compaction hash check");
            }
            compaction = next(compactions_every);
        }
    }
}

/// Compares everybody's data at `revision` (0: now) and raises the alarm for who differs. True
/// if anybody could be compared.
async fn compare(client: &Client, revision: Revision) -> bool {
    let own_id = client.identity().member_id;
    // What this member has must be committed, or a deposed leader would accuse others.
    if client.port().read_index().await.is_err() {
        return false;
    }
    let Ok((_, own)) = client.hash_kv(revision).await else { return false };
    let peers = ask_peers(client.node(), own.revision).await;
    for member_id in odd_ones_out(own_id, own, &peers) {
        tracing::error!(member_id, revision = own.revision, "found hash mismatch");
        let raised = client.set_alarm(AlarmAction::Activate, member_id, AlarmKind::Corrupt).await;
        if let Err(error) = raised {
            tracing::error!(%error, member_id, "the alarm CORRUPT could not be raised");
        }
    }
    !peers.is_empty()
}

#[cfg(test)]
mod tests;
