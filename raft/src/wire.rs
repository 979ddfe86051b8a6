//! What peers say to each other: a greeting, then frames with length, checksum and request id.
//!
//! Layout of the greeting (40 bytes, little endian): magic (8), version (2), lane (1), zero (1),
//! cluster id (8), sender (8), intended receiver (8), crc32c of all before (4). The answer is
//! 24 bytes: magic (8), version (2), status (1), zero (1), receiver's id (8), crc32c (4).
//! Layout of a frame: body length (4), crc32c of what follows (4), kind (1), request id (8), body.
//!
//! Nothing here believes a length before the bytes are there, and no input panics.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tripod_storage::codec;

use crate::{
    error::{CallError, ReadError},
    row,
    types::{Entry, LogId, NodeId, TypeConfig, Vote},
};

/// Version of greeting and frames.
pub(crate) const WIRE_VERSION: u16 = 1;

/// First bytes of a connection.
const MAGIC: [u8; 8] = *b"TRIPODp\n";

/// Bytes of the greeting.
pub(crate) const HELLO_BYTES: usize = 40;
/// Bytes of its answer.
pub(crate) const WELCOME_BYTES: usize = 24;
/// Bytes before a frame's body.
pub(crate) const FRAME_HEADER_BYTES: usize = 17;

/// Most bytes of a frame's body: the largest batch, with room for its envelope.
pub(crate) const FRAME_BYTES_MAX: usize = crate::types::BATCH_BYTES_LIMIT + (8 << 20);

/// Memory set aside for a body before its bytes have come.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// What a connection is for, so that bulk never delays votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Lane {
    /// Log entries.
    Append,
    /// Votes, heartbeats, read index, small calls.
    Control,
    /// Proposals on their way to the leader.
    Forward,
    /// Whole states.
    Snapshot,
    /// What the cluster looks like, for a member that has yet to join it.
    Info,
}

impl Lane {
    fn to_byte(self) -> u8 {
        match self {
            Self::Append => 0,
            Self::Control => 1,
            Self::Forward => 2,
            Self::Snapshot => 3,
            Self::Info => 4,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Append, Self::Control, Self::Forward, Self::Snapshot, Self::Info]
            .get(usize::from(byte))
            .copied()
    }
}

/// Who calls whom, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) lane: Lane,
    pub(crate) cluster_id: u64,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
}

/// The receiver's verdict on a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Accepted,
    WrongCluster,
    WrongMember,
    WrongVersion,
    Removed,
    Busy,
    Unknown,
}

impl Status {
    const ALL: [(u8, Self); 6] = [
        (0, Self::Accepted),
        (1, Self::WrongCluster),
        (2, Self::WrongMember),
        (3, Self::WrongVersion),
        (4, Self::Removed),
        (5, Self::Busy),
    ];
}

/// Bytes that are not what the protocol says.
#[derive(Debug, thiserror::Error)]
#[error("malformed peer message: {0}")]
pub(crate) struct Malformed(&'static str);

impl From<Malformed> for io::Error {
    fn from(error: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl Hello {
    pub(crate) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        let mut at = &mut out[..];
        at.put_slice(&MAGIC);
        at.put_u16_le(self.version);
        at.put_u8(self.lane.to_byte());
        at.put_u8(0);
        at.put_u64_le(self.cluster_id);
        at.put_u64_le(self.from);
        at.put_u64_le(self.to);
        seal(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, Malformed> {
        let mut at = unseal(bytes)?;
        let version = at.get_u16_le();
        let lane = Lane::from_byte(at.get_u8()).ok_or(Malformed("unknown lane"))?;
        at.advance(1);
        Ok(Self {
            version,
            lane,
            cluster_id: at.get_u64_le(),
            from: at.get_u64_le(),
            to: at.get_u64_le(),
        })
    }
}

/// Encodes the answer to a greeting.
pub(crate) fn encode_welcome(status: Status, node_id: NodeId) -> [u8; WELCOME_BYTES] {
    let mut out = [0; WELCOME_BYTES];
    let mut at = &mut out[..];
    at.put_slice(&MAGIC);
    at.put_u16_le(WIRE_VERSION);
    let byte = Status::ALL.iter().find(|(_, other)| *other == status).map_or(u8::MAX, |(b, _)| *b);
    at.put_u8(byte);
    at.put_u8(0);
    at.put_u64_le(node_id);
    seal(&mut out);
    out
}

/// Reads the answer to a greeting: status and the receiver's id.
pub(crate) fn decode_welcome(bytes: &[u8; WELCOME_BYTES]) -> Result<(Status, NodeId), Malformed> {
    let mut at = unseal(bytes)?;
    at.advance(2);
    let byte = at.get_u8();
    let status = Status::ALL.iter().find(|(b, _)| *b == byte).map_or(Status::Unknown, |(_, s)| *s);
    at.advance(1);
    Ok((status, at.get_u64_le()))
}

/// Puts the checksum into the last four bytes.
fn seal(out: &mut [u8]) {
    let end = out.len() - 4;
    let crc = crc32c::crc32c(&out[..end]);
    out[end..].copy_from_slice(&crc.to_le_bytes());
}

/// Checks magic and checksum; returns what is between them.
fn unseal(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let (body, mut crc) = bytes.split_at(bytes.len() - 4);
    if !body.starts_with(&MAGIC) {
        return Err(Malformed("not a peer connection"));
    }
    if crc32c::crc32c(body) != crc.get_u32_le() {
        return Err(Malformed("checksum of the greeting"));
    }
    Ok(&body[MAGIC.len()..])
}

/// One message.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) id: u64,
    pub(crate) body: Bytes,
}

/// Kinds of frames. Numbers are never reused.
pub(crate) mod kind {
    pub(crate) const APPEND: u8 = 1;
    pub(crate) const VOTE: u8 = 2;
    pub(crate) const PRE_VOTE: u8 = 3;
    pub(crate) const TRANSFER: u8 = 4;
    pub(crate) const FORWARD: u8 = 5;
    pub(crate) const READ_INDEX: u8 = 6;
    pub(crate) const CALL: u8 = 7;
    pub(crate) const SNAPSHOT_BEGIN: u8 = 8;
    pub(crate) const SNAPSHOT_CHUNK: u8 = 9;
    pub(crate) const SNAPSHOT_END: u8 = 10;
    pub(crate) const MEMBER: u8 = 11;
    pub(crate) const CALL_MEMBER: u8 = 12;
    /// Asks only for an answer.
    pub(crate) const PROBE: u8 = 13;
    /// Any answer; what it holds follows from the request of the same id.
    pub(crate) const REPLY: u8 = 128;
}

/// A whole frame as bytes. Cost: one copy of `parts`.
///
/// # Errors
/// [`Malformed`] if the body is over [`FRAME_BYTES_MAX`].
pub(crate) fn encode_frame(kind: u8, id: u64, parts: &[&[u8]]) -> Result<BytesMut, Malformed> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if len > FRAME_BYTES_MAX {
        return Err(Malformed("frame is too long"));
    }
    let mut out = BytesMut::with_capacity(FRAME_HEADER_BYTES + len);
    out.put_u32_le(u32::try_from(len).expect("checked above"));
    out.put_u32_le(0);
    out.put_u8(kind);
    out.put_u64_le(id);
    for part in parts {
        out.put_slice(part);
    }
    let crc = crc32c::crc32c(&out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// Takes one whole frame off the front of `buffer`; `None` if more bytes are needed.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let Some(mut header) = buffer.first_chunk::<FRAME_HEADER_BYTES>().map(|h| &h[..]) else {
        return Ok(None);
    };
    let len = header.get_u32_le() as usize;
    if len > FRAME_BYTES_MAX {
        return Err(Malformed("frame is too long"));
    }
    let crc = header.get_u32_le();
    let (kind, id) = (header.get_u8(), header.get_u64_le());
    if buffer.len() < FRAME_HEADER_BYTES + len {
        return Ok(None);
    }
    let frame = buffer.split_to(FRAME_HEADER_BYTES + len).freeze();
    if crc32c::crc32c(&frame[8..]) != crc {
        return Err(Malformed("checksum of a frame"));
    }
    Ok(Some(Frame { kind, id, body: frame.slice(FRAME_HEADER_BYTES..) }))
}

/// Reads frames off a stream. Cancel safe: a partly read frame stays in the buffer.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(READ_AHEAD_BYTES / 4) }
    }

    /// The next frame; `None` at a clean end between frames.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < READ_AHEAD_BYTES / 16 {
                // Grows with what really arrives, not with what the header claims.
                self.buffer.reserve(READ_AHEAD_BYTES.min(self.buffer.len().max(4096)));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Part of a frame has arrived.
    pub(crate) fn is_inside_frame(&self) -> bool {
        !self.buffer.is_empty()
    }
}

/// Envelope of AppendEntries; the rows follow it in the frame.
#[derive(Debug, Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
    /// Length of each row.
    rows: Vec<u32>,
}

pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;

/// The frame of an AppendEntries request.
pub(crate) fn encode_append(id: u64, request: &AppendRequest) -> Result<BytesMut, Malformed> {
    let rows: Vec<_> = request.entries.iter().map(row::encode).collect();
    let lens = rows
        .iter()
        .map(|row| u32::try_from(row.len()).map_err(|_| Malformed("entry is too long")))
        .collect::<Result<_, _>>()?;
    let head = codec::encode(&AppendHead {
        vote: request.vote,
        prev_log_id: request.prev_log_id,
        leader_commit: request.leader_commit,
        rows: lens,
    });
    let head_len = u32::try_from(head.len()).map_err(|_| Malformed("too many entries"))?;
    let head_len = head_len.to_le_bytes();
    let mut parts: Vec<&[u8]> = Vec::with_capacity(2 + 2 * rows.len());
    parts.extend([&head_len[..], &head[..]]);
    for row in &rows {
        parts.extend([&row.header[..], &row.payload[..]]);
    }
    encode_frame(kind::APPEND, id, &parts)
}

/// Reads an AppendEntries request; entries share the frame's memory.
pub(crate) fn decode_append(mut body: Bytes) -> Result<AppendRequest, Malformed> {
    if body.len() < 4 {
        return Err(Malformed("append cut short"));
    }
    let head_len = body.get_u32_le() as usize;
    if head_len > body.len() {
        return Err(Malformed("append cut short"));
    }
    let head: AppendHead =
        codec::decode(&body.split_to(head_len)).map_err(|_| Malformed("append envelope"))?;
    let mut entries: Vec<Entry> = Vec::with_capacity(head.rows.len());
    check(Some(&head.vote), [head.prev_log_id, head.leader_commit])?;
    let first = head.prev_log_id.map_or(0, |log_id| log_id.index + 1);
    for (index, len) in (first..).zip(head.rows) {
        let len = len as usize;
        if len > body.len() {
            return Err(Malformed("append cut short"));
        }
        let entry = row::decode(body.split_to(len)).map_err(|_| Malformed("log entry"))?;
        if entry.log_id.index != index {
            return Err(Malformed("entries out of order"));
        }
        check(None, [Some(entry.log_id)])?;
        entries.push(entry);
    }
    if !body.is_empty() {
        return Err(Malformed("bytes left over"));
    }
    Ok(AppendRequest {
        vote: head.vote,
        prev_log_id: head.prev_log_id,
        leader_commit: head.leader_commit,
        entries,
    })
}

/// Terms and indexes above this are refused: nobody gets there, and consensus adds to them.
const NUMBER_MAX: u64 = u64::MAX / 4;

/// Refuses terms and indexes that could overflow.
pub(crate) fn check(
    vote: Option<&Vote>,
    log_ids: impl IntoIterator<Item = Option<LogId>>,
) -> Result<(), Malformed> {
    let mut numbers = log_ids.into_iter().flatten().flat_map(|id| [id.leader_id.term, id.index]);
    let term = vote.map_or(0, |vote| vote.leader_id.term);
    if term > NUMBER_MAX || numbers.any(|number| number > NUMBER_MAX) {
        return Err(Malformed("a term or index out of range"));
    }
    Ok(())
}

/// Reads a vote or pre-vote request.
pub(crate) fn decode_vote(body: &[u8]) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let request: VoteRequest<TypeConfig> =
        codec::decode(body).map_err(|_| Malformed("vote request"))?;
    check(Some(&request.vote), [request.last_log_id])?;
    Ok(request)
}

/// Reads a request to take over leadership.
pub(crate) fn decode_transfer(body: &[u8]) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let request: TransferLeaderRequest<TypeConfig> =
        codec::decode(body).map_err(|_| Malformed("transfer request"))?;
    check(Some(request.from_leader()), [request.last_log_id().copied()])?;
    Ok(request)
}

/// What became of a forwarded batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ForwardReply {
    /// Applied on the leader, at this index.
    Applied(u64),
    /// The receiver does not lead; nothing was appended.
    NotLeader,
    /// Appended, then leadership was lost; it may still be applied.
    LeaderLost,
    /// The bytes are no batch; nothing was appended.
    Invalid,
    /// The receiver stops; it may still be applied.
    Stopped,
}

/// Answer to a read index request: the index that a linearizable read must wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadIndexReply {
    Index(u64),
    NotLeader,
    Failed,
}

impl From<Result<u64, ReadError>> for ReadIndexReply {
    fn from(result: Result<u64, ReadError>) -> Self {
        match result {
            Ok(index) => Self::Index(index),
            Err(ReadError::NoLeader) => Self::NotLeader,
            Err(_) => Self::Failed,
        }
    }
}

/// Answer to a generic call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CallReply {
    Answer(Bytes),
    NotLeader,
    UnknownKind,
    TooLarge,
    Stopped,
}

impl CallReply {
    /// `Ok(None)`: ask the leader.
    pub(crate) fn into_result(self, kind: u8) -> Result<Option<Bytes>, CallError> {
        match self {
            Self::Answer(bytes) => Ok(Some(bytes)),
            Self::NotLeader => Ok(None),
            Self::UnknownKind => Err(CallError::UnknownKind(kind)),
            Self::TooLarge => Err(CallError::TooLarge),
            Self::Stopped => Err(CallError::Stopped),
        }
    }
}

/// Feeds `bytes` to every decoder that faces the network. Never panics, never allocates much
/// more than `bytes`: the door for fuzzing.
pub fn decode_untrusted(bytes: &[u8]) {
    if let Some(hello) = bytes.first_chunk::<HELLO_BYTES>() {
        let _ = Hello::decode(hello);
    }
    if let Some(welcome) = bytes.first_chunk::<WELCOME_BYTES>() {
        let _ = decode_welcome(welcome);
    }
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(frame)) = take_frame(&mut buffer) {
        decode_body(&frame.body);
    }
    // Also without a valid checksum in front, which a fuzzer seldom finds.
    decode_body(&Bytes::copy_from_slice(bytes));
}

fn decode_body(body: &Bytes) {
    if let Ok(request) = decode_append(body.clone()) {
        for entry in request.entries {
            if let crate::types::Payload::Normal(batch) = entry.payload {
                let _ = batch.take_commands();
            }
        }
    }
    let _ = decode_vote(body);
    let _ = decode_transfer(body);
    let _ = codec::decode::<crate::snapshot::Begin>(body);
    let _ = codec::decode::<crate::snapshot::Reply>(body);
    let _ = codec::decode::<ForwardReply>(body);
    let _ = codec::decode::<ReadIndexReply>(body);
    let _ = codec::decode::<CallReply>(body);
    let _ = codec::decode::<crate::info::ClusterInfo>(body);
    let _ = crate::types::Batch::from_bytes(body.clone()).take_commands();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tripod_storage::command::Command;

    use super::*;
    use crate::types::{Batch, Payload, log_id};

    fn request() -> AppendRequest {
        AppendRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(log_id(1, 4)),
            leader_commit: Some(log_id(1, 4)),
            entries: vec![
                Entry { log_id: log_id(2, 5), payload: Payload::Blank },
                Entry {
                    log_id: log_id(2, 6),
                    payload: Payload::Normal(Batch::of(vec![Command::Noop])),
                },
            ],
        }
    }

    #[test]
    fn greeting_and_answer_survive_encoding() {
        let hello = Hello { version: 1, lane: Lane::Forward, cluster_id: 9, from: 1, to: 2 };
        assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
        let (status, id) = decode_welcome(&encode_welcome(Status::Removed, 7)).unwrap();
        assert_eq!((status, id), (Status::Removed, 7));
    }

    #[tokio::test]
    async fn append_survives_a_stream_cut_anywhere() {
        let bytes = encode_append(3, &request()).unwrap();
        for cut in 0..bytes.len() {
            let (mut near, far) = tokio::io::duplex(16);
            let bytes = bytes.clone();
            let writer = tokio::spawn(async move {
                use tokio::io::AsyncWriteExt;
                near.write_all(&bytes[..cut]).await.unwrap();
                near.write_all(&bytes[cut..]).await.unwrap();
            });
            let frame = FrameReader::new(far).next().await.unwrap().unwrap();
            assert_eq!((frame.kind, frame.id), (kind::APPEND, 3));
            let decoded = decode_append(frame.body).unwrap();
            assert_eq!(decoded.entries, request().entries);
            writer.await.unwrap();
        }
    }

    /// CVE-2020-15106, for what peers send.
    #[tokio::test]
    async fn a_forged_length_neither_allocates_nor_passes() {
        let mut forged = BytesMut::new();
        forged.put_u32_le(u32::MAX);
        forged.put_bytes(0, 64);
        let error = FrameReader::new(&forged[..]).next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);

        let mut long = BytesMut::new();
        long.put_u32_le(u32::try_from(FRAME_BYTES_MAX).unwrap());
        long.put_bytes(0, 64);
        let mut reader = FrameReader::new(&long[..]);
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(reader.buffer.capacity() < 1 << 20, "{}", reader.buffer.capacity());
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let bytes = encode_append(3, &request()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(take_frame(&mut flipped), Ok(Some(_))), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            decode_untrusted(&bytes);
        }

        #[test]
        fn no_change_of_an_append_makes_decoding_panic(at in 0usize..200, to in any::<u8>()) {
            let mut bytes = encode_append(3, &request()).unwrap()[FRAME_HEADER_BYTES..].to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            decode_untrusted(&bytes);
        }
    }
}
