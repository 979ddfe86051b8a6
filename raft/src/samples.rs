//! What peers say, as examples: where a fuzzer of [`decode_untrusted`](crate::decode_untrusted)
//! starts.

use bytes::Bytes;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use tripod_storage::{
    codec,
    command::{Command, DeleteRange, Put},
};

use crate::{
    info::ClusterInfo,
    snapshot,
    types::{Batch, Entry, Payload, SnapshotMeta, TypeConfig, Vote, log_id},
    wire::{
        AppendRequest, CallReply, ForwardReply, Hello, Lane, ReadIndexReply, Status, WIRE_VERSION,
        encode_append, encode_frame, encode_welcome, kind,
    },
};

/// Valid greetings, bodies and frames of every kind. Bodies stand alone as well, as a changed frame
/// seldom passes its checksum.
#[must_use]
pub fn sample_frames() -> Vec<Vec<u8>> {
    let vote = Vote::new_committed(2, 1);
    let commands = vec![
        Command::Put(Put { key: "key".into(), value: "value".into(), ..Put::default() }),
        Command::DeleteRange(DeleteRange { key: "key".into(), ..DeleteRange::default() }),
        Command::LeaseGrant { id: 7, ttl_s: 60 },
        Command::Noop,
    ];
    let batch = Batch::of(commands);
    let append = AppendRequest {
        vote,
        prev_log_id: Some(log_id(1, 4)),
        leader_commit: Some(log_id(1, 4)),
        entries: vec![
            Entry { log_id: log_id(2, 5), payload: Payload::Blank },
            Entry { log_id: log_id(2, 6), payload: Payload::Normal(batch.clone()) },
        ],
    };
    let asked = VoteRequest::<TypeConfig>::new(vote, Some(log_id(1, 9)));
    let transfer = TransferLeaderRequest::<TypeConfig>::new(vote, 2, Some(log_id(1, 9)));
    let begin = snapshot::Begin { vote, meta: SnapshotMeta::default() };
    let bodies = [
        (kind::VOTE, codec::encode(&asked)),
        (kind::TRANSFER, codec::encode(&transfer)),
        (kind::SNAPSHOT_BEGIN, codec::encode(&begin)),
        (kind::REPLY, codec::encode(&snapshot::Reply::Done(vote))),
        (kind::REPLY, codec::encode(&ForwardReply::Applied(5))),
        (kind::REPLY, codec::encode(&ReadIndexReply::Index(9))),
        (kind::REPLY, codec::encode(&CallReply::Answer(Bytes::from_static(b"answer")))),
        (kind::REPLY, codec::encode(&ClusterInfo::default())),
    ];
    let hello = Hello { version: WIRE_VERSION, lane: Lane::Append, cluster_id: 9, from: 1, to: 2 };
    let mut samples = vec![hello.encode().to_vec(), encode_welcome(Status::Accepted, 7).to_vec()];
    let frames = bodies.iter().map(|(kind, body)| encode_frame(*kind, 3, &[body]));
    for frame in frames.chain([encode_append(3, &append)]).flatten() {
        samples.push(frame.get(crate::wire::FRAME_HEADER_BYTES..).unwrap_or_default().to_vec());
        samples.push(frame.to_vec());
    }
    samples.push(batch.bytes().to_vec());
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_body_is_what_its_decoder_takes() {
        let samples = sample_frames();
        // Two greetings, two of each body, one batch.
        assert_eq!(samples.len(), 2 + 2 * 9 + 1);
        let body = |at: usize| Bytes::copy_from_slice(&samples[2 + 2 * at]);
        assert!(crate::wire::decode_vote(&body(0)).is_ok());
        assert!(crate::wire::decode_transfer(&body(1)).is_ok());
        assert!(codec::decode::<snapshot::Begin>(&body(2)).is_ok());
        assert_eq!(
            crate::wire::decode_append(body(8)).map(|read| read.entries.len()).ok(),
            Some(2)
        );
    }
}
