//! What the log of this product holds: the openraft type configuration, peers and batches.
//!
//! Invariants:
//! - a batch is encoded once, by whoever proposes it; the same bytes go to the write-ahead log
//!   and to every follower;
//! - the proposing leader applies the decoded form it already has, everybody else decodes the
//!   bytes when the entry is applied; bytes that do not decode stop the member;
//! - leaders are identified by their term (standard Raft: at most one leader a term).

use std::{collections::BTreeSet, fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tripod_storage::{codec, command::Command};

/// Identity of a member. Never reused after a removal (openraft FAQ "reuse node id": a member
/// that lost its log but kept its id can split the cluster).
pub type NodeId = u64;

/// What the cluster knows about a member; part of the replicated membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// URLs that other members connect to, in order of preference.
    pub peer_urls: Vec<String>,
    /// Data center the member stands in; empty where none is configured.
    #[serde(default)]
    pub center: String,
    /// City the center stands in; empty where none is configured.
    #[serde(default)]
    pub site: String,
    /// A learner that becomes a voter by itself once it has caught up.
    #[serde(default)]
    pub promote: bool,
}

impl Peer {
    /// A peer at one URL, without placement.
    pub fn at(url: impl Into<String>) -> Self {
        Self { peer_urls: vec![url.into()], ..Self::default() }
    }
}

openraft::declare_raft_types!(
    /// Types of this product's Raft.
    pub TypeConfig:
        D = Batch,
        R = (),
        NodeId = NodeId,
        Node = Peer,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>,
);

pub(crate) type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Payload = openraft::EntryPayload<Batch, NodeId, Peer>;
pub(crate) type Membership = openraft::Membership<NodeId, Peer>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// The log id of `index` written by the leader of `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// All voters of every configuration of `membership`.
pub(crate) fn voters(membership: &Membership) -> BTreeSet<NodeId> {
    membership.voter_ids().collect()
}

/// Who proposed a batch: lets the proposer's own state machine find the callers that wait.
///
/// `incarnation` is drawn at every start, so that entries replayed after a restart meet nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct BatchId {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) sequence: u64,
}

/// Bytes before the first command of a batch: format, batch id, number of commands.
pub(crate) const BATCH_HEADER_BYTES: usize = 1 + 3 * 8 + 4;

/// First byte of a batch.
const BATCH_FORMAT: u8 = 1;

/// Most bytes of one batch that are accepted from a peer or the log. Batches are cut at
/// the queue's batch limit and may go over it by one request.
pub const BATCH_BYTES_LIMIT: usize = 16 << 20;

/// Largest place that a writer keeps for the next batch.
const WRITER_BYTES_KEPT: usize = 256 << 10;

/// Bytes that are not a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed batch: {0}")]
pub struct MalformedBatch(String);

/// The application payload of a log entry: commands in order, as bytes and perhaps decoded.
///
/// Clones share everything.
#[derive(Clone)]
pub struct Batch {
    inner: Arc<BatchInner>,
}

struct BatchInner {
    bytes: Bytes,
    /// The decoded commands until they are applied; `None` where only bytes arrived.
    commands: Mutex<Option<Vec<Command>>>,
}

impl Batch {
    /// A batch whose decoded form is at hand. `bytes` come from [`BatchWriter::finish`].
    pub(crate) fn decoded(bytes: Bytes, commands: Vec<Command>) -> Self {
        Self { inner: Arc::new(BatchInner { bytes, commands: Mutex::new(Some(commands)) }) }
    }

    /// A batch from the log or a peer; decoded when it is applied.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { inner: Arc::new(BatchInner { bytes, commands: Mutex::new(None) }) }
    }

    /// A batch of `commands` that nobody waits for (tests, tools).
    pub fn of(commands: Vec<Command>) -> Self {
        let mut writer = BatchWriter::default();
        for command in &commands {
            writer.push(&codec::encode(command));
        }
        Self::decoded(writer.finish(BatchId::default()), commands)
    }

    /// The encoded form.
    pub fn bytes(&self) -> &Bytes {
        &self.inner.bytes
    }

    /// The commands, for applying: the decoded form the first time where there is one.
    ///
    /// # Errors
    /// [`MalformedBatch`] if the bytes are not a batch.
    pub fn take_commands(&self) -> Result<Vec<Command>, MalformedBatch> {
        if let Some(commands) = self.inner.commands.lock().take() {
            return Ok(commands);
        }
        decode(&self.inner.bytes)
    }

    /// Who proposed it; `None` for malformed bytes.
    pub(crate) fn id(&self) -> Option<BatchId> {
        header(&self.inner.bytes).map(|(id, _)| id)
    }

    /// Number of commands; 0 for malformed bytes.
    pub(crate) fn len(&self) -> usize {
        header(&self.inner.bytes).map_or(0, |(_, count)| count)
    }
}

/// Batch id and number of commands.
fn header(bytes: &[u8]) -> Option<(BatchId, usize)> {
    if bytes.len() < BATCH_HEADER_BYTES || bytes[0] != BATCH_FORMAT {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let id = BatchId { node: number(1)?, incarnation: number(9)?, sequence: number(17)? };
    let count = u32::from_le_bytes(bytes.get(25..29)?.try_into().ok()?);
    Some((id, usize::try_from(count).ok()?))
}

/// Decodes a batch. Never allocates more than the bytes given account for.
///
/// # Errors
/// [`MalformedBatch`].
fn decode(bytes: &[u8]) -> Result<Vec<Command>, MalformedBatch> {
    let bad = |what: &str| MalformedBatch(what.to_string());
    let (_, count) = header(bytes).ok_or_else(|| bad("no header"))?;
    let mut rest = &bytes[BATCH_HEADER_BYTES..];
    // Each command takes at least its length prefix, so a forged count cannot over-allocate.
    if count > rest.len() / 4 {
        return Err(bad("more commands than bytes"));
    }
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk::<4>().ok_or_else(|| bad("cut short"))?;
        let len = u32::from_le_bytes(*len) as usize;
        let body = after.get(..len).ok_or_else(|| bad("cut short"))?;
        commands.push(codec::decode(body).map_err(|error| MalformedBatch(error.to_string()))?);
        rest = &after[len..];
    }
    if !rest.is_empty() {
        return Err(bad("bytes left over"));
    }
    Ok(commands)
}

/// Collects encoded commands into the bytes of one batch.
#[derive(Debug)]
pub(crate) struct BatchWriter {
    bytes: BytesMut,
    count: u32,
}

impl Default for BatchWriter {
    fn default() -> Self {
        let mut bytes = BytesMut::with_capacity(512);
        bytes.put_bytes(0, BATCH_HEADER_BYTES);
        Self { bytes, count: 0 }
    }
}

impl BatchWriter {
    /// Adds one command, encoded by the storage codec.
    pub(crate) fn push(&mut self, encoded: &[u8]) {
        let len = u32::try_from(encoded.len()).expect("requests are bounded far below 4 GiB");
        self.bytes.put_u32_le(len);
        self.bytes.put_slice(encoded);
        self.count += 1;
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of the batch, in a place of their size: the log's cache keeps them for a while.
    pub(crate) fn finish(&mut self, id: BatchId) -> Bytes {
        let mut header = &mut self.bytes[..BATCH_HEADER_BYTES];
        header.put_u8(BATCH_FORMAT);
        header.put_u64_le(id.node);
        header.put_u64_le(id.incarnation);
        header.put_u64_le(id.sequence);
        header.put_u32_le(self.count);
        Bytes::copy_from_slice(&self.bytes)
    }

    /// For the next batch, without what this one wrote; `None` where its place is too large.
    pub(crate) fn reused(mut self) -> Option<Self> {
        self.bytes.truncate(BATCH_HEADER_BYTES);
        self.count = 0;
        (self.bytes.capacity() <= WRITER_BYTES_KEPT).then_some(self)
    }
}

impl fmt::Debug for Batch {
    /// Counts only: keys and values stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} commands, {} bytes)", self.len(), self.inner.bytes.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.inner.bytes == other.inner.bytes
    }
}

/// Only so that openraft's `serde` bounds hold; entries travel as rows (`row.rs`).
impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.bytes.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_bytes(Bytes::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tripod_storage::command::Put;

    use super::*;

    fn put(key: &'static str) -> Command {
        Command::Put(Put { key: key.into(), value: "v".into(), ..Put::default() })
    }

    #[test]
    fn bytes_of_a_batch_decode_to_its_commands() {
        let commands = vec![put("a"), Command::Noop, put("b")];
        let batch = Batch::of(commands.clone());
        assert_eq!(batch.len(), 3);
        let copy = Batch::from_bytes(batch.bytes().clone());
        assert_eq!(copy.take_commands().unwrap(), commands);
        assert_eq!(batch.take_commands().unwrap(), commands, "the decoded form");
        assert_eq!(batch.take_commands().unwrap(), commands, "decoded again from bytes");
    }

    #[test]
    fn batch_id_survives_encoding() {
        let id = BatchId { node: 7, incarnation: u64::MAX, sequence: 3 };
        let batch = Batch::from_bytes(BatchWriter::default().finish(id));
        assert_eq!(batch.id(), Some(id));
        assert_eq!(batch.take_commands().unwrap(), vec![]);
    }

    #[test]
    fn a_reused_writer_keeps_nothing_of_the_batch_before_but_its_place() {
        let (first, second) = (vec![put("a"), put("b")], vec![put("c")]);
        let mut writer = BatchWriter::default();
        let mut batch_of = |commands: &[Command]| {
            commands.iter().for_each(|command| writer.push(&codec::encode(command)));
            let bytes = writer.finish(BatchId::default());
            writer = std::mem::take(&mut writer).reused().expect("a small one");
            Batch::from_bytes(bytes)
        };
        let batches = [batch_of(&first), batch_of(&second)];
        assert_eq!(batches[0].take_commands().unwrap(), first);
        assert_eq!(batches[1].take_commands().unwrap(), second);
        writer.push(&vec![0; WRITER_BYTES_KEPT]);
        assert!(writer.reused().is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Batch::from_bytes(bytes.into()).take_commands();
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0usize..80, to in any::<u8>()) {
            let mut bytes = Batch::of(vec![put("a"), put("b")]).bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = Batch::from_bytes(bytes.into()).take_commands();
        }
    }
}
