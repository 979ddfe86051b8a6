//! Members, status, hashes and alarms by typed calls.

use serde::{Deserialize, Serialize};
use tripod_raft::Node;
use tripod_storage::{
    Revision,
    auth::Ask,
    command::{AlarmAction, AlarmKind, Command, Response},
};

use super::{Answered, Client, Error, unexpected};

/// What a store without keys has in use, about: the rows of format, mark and members. etcd never
/// says 0 either.
const BOOKKEEPING_BYTES: u64 = 512;

/// One member of the cluster (etcd `Member`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberInfo {
    /// Member id.
    pub id: u64,
    /// Name it has published, empty before it started.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it, empty before it started.
    pub client_urls: Vec<String>,
    /// It has no vote.
    pub is_learner: bool,
}

/// How a member is (etcd `StatusResponse`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Leader's member id, 0 without one.
    pub leader: u64,
    /// Committed log index.
    pub raft_index: u64,
    /// Applied log index.
    pub raft_applied_index: u64,
    /// Bytes of the engine on disk.
    pub db_size_bytes: i64,
    /// Bytes of data in it.
    pub db_size_in_use_bytes: i64,
    /// Quota in bytes.
    pub quota_bytes: i64,
    /// This member has no vote.
    pub is_learner: bool,
    /// Alarms raised, by member.
    pub alarms: Vec<(u64, AlarmKind)>,
}

/// A hash of the key space (etcd `HashKVResponse`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvHash {
    /// crc32c of everything up to `revision` that compaction keeps.
    pub hash: u32,
    /// Revision hashed.
    pub revision: Revision,
    /// The store's compact revision.
    pub compact_revision: Revision,
}

/// Changes hashed under one read lock.
const HASH_STEP_CHANGES: u64 = 2_000;

/// See [`Client::hash_kv`].
pub(crate) async fn hash_of(node: &Node, revision: Revision) -> Result<KvHash, Error> {
    if node.is_installing_snapshot() {
        return Err(Error::Timeout);
    }
    let snapshots = node.metrics().snapshots_received;
    let mut hashing = node.state().read().begin_hash(revision)?;
    loop {
        let step = hashing.step(&node.state().read(), HASH_STEP_CHANGES);
        match step {
            Ok(None) => tokio::task::yield_now().await,
            Ok(Some((hash, revision, compact_revision))) => {
                return Ok(KvHash { hash, revision, compact_revision });
            }
            Err(error) => {
                node.fail(&error);
                return Err(Error::Stopped);
            }
        }
        // Another state: what was hashed of the old one means nothing.
        if node.is_installing_snapshot() || node.metrics().snapshots_received != snapshots {
            return Err(Error::Timeout);
        }
    }
}

impl Client {
    /// This member's view of itself. Local.
    ///
    /// # Errors
    /// [`Error::Rejected`] for callers that are no user.
    pub fn status(&self) -> Answered<Status> {
        self.permit(&Ask::Known)?;
        let raft = self.node.status();
        let (revision, in_use, alarms) = {
            let machine = self.node.state().read();
            (machine.revision(), machine.size_in_use_bytes(), machine.alarms())
        };
        let on_disk = self.engine.size_bytes().unwrap_or(0);
        let status = Status {
            leader: raft.leader.unwrap_or(0),
            raft_index: raft.committed_index,
            raft_applied_index: raft.applied_index,
            db_size_bytes: i64::try_from(on_disk).unwrap_or(i64::MAX),
            db_size_in_use_bytes: i64::try_from(in_use + BOOKKEEPING_BYTES).unwrap_or(i64::MAX),
            quota_bytes: self.limits.quota_bytes,
            is_learner: raft.is_learner,
            alarms,
        };
        Ok((self.header(revision), status))
    }

    /// Hash of the key space at `revision` (0: now), read in steps that hold no lock for long.
    /// Local; members agree at equal revisions and compact revisions.
    ///
    /// # Errors
    /// [`Error::Rejected`] for a compacted or future revision; [`Error::Timeout`] where a
    /// snapshot replaces the state meanwhile.
    pub async fn hash_kv(&self, revision: Revision) -> Answered<KvHash> {
        self.permit(&Ask::Admin)?;
        let hash = hash_of(&self.node, revision).await?;
        Ok((self.header_now(), hash))
    }

    /// Hash of everything here, users and roles included. Local; members that have applied the
    /// same agree.
    ///
    /// # Errors
    /// As [`Client::hash_kv`].
    pub async fn hash_state(&self) -> Answered<u32> {
        let (header, keys) = self.hash_kv(0).await?;
        let users = self.node.state().read().auth_hash();
        Ok((header, keys.hash ^ users))
    }

    /// Gives the space of deleted and compacted data back to the file system: waits until the
    /// engine has dropped it, then rewrites the engine's files. Reads and writes go on.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the member stops meanwhile, [`Error::Defragment`] where the disk
    /// has no room for the copy or refuses it; nothing is lost then.
    pub async fn defragment(&self) -> Result<(), Error> {
        self.permit(&Ask::Admin)?;
        self.node.compaction_done().await;
        let mut left = usize::MAX;
        loop {
            if !self.node.flush().await {
                return Err(Error::Stopped);
            }
            let now = self.node.state().read().maintenance_left();
            // A snapshot under way holds some of it back.
            if now == 0 || now >= left {
                break;
            }
            left = now;
        }
        let engine = self.engine.clone();
        let rewritten = tokio::task::spawn_blocking(move || engine.give_back_space()).await;
        rewritten.map_err(|_| Error::Stopped)?.map_err(|error| {
            tracing::warn!(%error, "the engine was not rewritten");
            Error::Defragment
        })
    }

    /// Alarms raised, of one kind or all. Local.
    ///
    /// # Errors
    /// [`Error::Rejected`] for callers that are no user.
    pub fn alarms(&self, kind: Option<AlarmKind>) -> Answered<Vec<(u64, AlarmKind)>> {
        let machine = self.node.state().read();
        machine.authorize(&self.caller, &Ask::Known)?;
        let mut alarms = machine.alarms();
        alarms.retain(|(_, alarm)| kind.is_none_or(|kind| kind == *alarm));
        Ok((self.header(machine.revision()), alarms))
    }

    /// Raises or clears an alarm; the alarms changed.
    ///
    /// # Errors
    /// The availability errors without a quorum.
    pub async fn set_alarm(
        &self,
        action: AlarmAction,
        member_id: u64,
        alarm: AlarmKind,
    ) -> Answered<Vec<(u64, AlarmKind)>> {
        let (header, response) = self.propose(Command::Alarm { action, member_id, alarm }).await?;
        match response {
            Response::Alarm(alarms) => Ok((header, alarms)),
            other => unexpected(&other),
        }
    }

    /// The members, after a quorum confirmed this member's view if `linearizable`.
    ///
    /// # Errors
    /// The availability errors for a linearizable list.
    pub async fn member_list(&self, linearizable: bool) -> Answered<Vec<MemberInfo>> {
        if linearizable {
            self.port.read_index().await?;
        }
        self.permit(&Ask::Known)?;
        Ok((self.header_now(), self.members()))
    }

    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        let raft = self.node.status();
        let machine = self.node.state().read();
        raft.members
            .into_iter()
            .map(|(id, member)| {
                let attributes = machine.member_attributes(id).cloned().unwrap_or_default();
                MemberInfo {
                    id,
                    name: attributes.name,
                    peer_urls: member.peer.peer_urls.clone(),
                    client_urls: attributes.client_urls,
                    // A voter that has yet to catch up is listed as what it will be.
                    is_learner: member.is_learner && !member.peer.promote,
                }
            })
            .collect()
    }

    /// Makes `target` the leader; only the leader can.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::BadLeaderTransferee`] for a learner or unknown member,
    /// [`Error::Timeout`] if it does not come about.
    pub async fn move_leader(&self, target: u64) -> Result<(), Error> {
        self.permit(&Ask::Admin)?;
        let raft = self.node.status();
        if raft.leader != Some(self.identity.member_id) {
            return Err(Error::NotLeader);
        }
        if raft.members.get(&target).is_none_or(|member| member.is_learner) {
            return Err(Error::BadLeaderTransferee);
        }
        Ok(self.node.transfer_leader(target).await?)
    }
}
