//! Log entries as bytes: the same row goes to the write-ahead log and to followers.
//!
//! Layout: format (1), kind (1), term (8), index (8), all little endian, then the payload: nothing
//! for a blank entry, the batch bytes as they are, or the membership by the storage codec.

use bytes::Bytes;
use tripod_storage::codec;

use crate::types::{Batch, Entry, LogId, Membership, Payload, log_id};

/// Bytes before a row's payload.
pub(crate) const ROW_HEADER_BYTES: usize = 18;

const ROW_FORMAT: u8 = 1;
const KIND_BLANK: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// A row in two parts, so that the batch bytes are not copied.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) header: [u8; ROW_HEADER_BYTES],
    pub(crate) payload: Bytes,
}

impl Row {
    /// Bytes of both parts.
    pub(crate) fn len(&self) -> usize {
        ROW_HEADER_BYTES + self.payload.len()
    }
}

/// Bytes that are not a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed log entry: {0}")]
pub(crate) struct MalformedRow(String);

/// The row of `entry`. Cost: O(1) for a batch, whose bytes are shared.
pub(crate) fn encode(entry: &Entry) -> Row {
    let (kind, payload) = match &entry.payload {
        Payload::Blank => (KIND_BLANK, Bytes::new()),
        Payload::Normal(batch) => (KIND_BATCH, batch.bytes().clone()),
        Payload::Membership(membership) => (KIND_MEMBERSHIP, codec::encode(membership).into()),
    };
    let mut header = [0; ROW_HEADER_BYTES];
    header[0] = ROW_FORMAT;
    header[1] = kind;
    header[2..10].copy_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    header[10..18].copy_from_slice(&entry.log_id.index.to_le_bytes());
    Row { header, payload }
}

/// The log id in a row's header.
///
/// # Errors
/// [`MalformedRow`] if there is no header of this format.
pub(crate) fn log_id_of(row: &[u8]) -> Result<LogId, MalformedRow> {
    let header = row.first_chunk::<ROW_HEADER_BYTES>().ok_or(MalformedRow("cut short".into()))?;
    if header[0] != ROW_FORMAT {
        return Err(MalformedRow(format!("unknown format {}", header[0])));
    }
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    Ok(log_id(number(2), number(10)))
}

/// The entry of a row. Batch bytes are shared with `row`, not copied.
///
/// # Errors
/// [`MalformedRow`].
pub(crate) fn decode(row: Bytes) -> Result<Entry, MalformedRow> {
    let log_id = log_id_of(&row)?;
    let kind = row[1];
    let body = row.slice(ROW_HEADER_BYTES..);
    let payload = match kind {
        KIND_BLANK if body.is_empty() => Payload::Blank,
        KIND_BATCH => Payload::Normal(Batch::from_bytes(body)),
        KIND_MEMBERSHIP => {
            let membership: Membership =
                codec::decode(&body).map_err(|error| MalformedRow(error.to_string()))?;
            Payload::Membership(membership)
        }
        _ => return Err(MalformedRow(format!("unknown kind {kind}"))),
    };
    Ok(Entry { log_id, payload })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use tripod_storage::command::Command;

    use super::*;
    use crate::types::Peer;

    fn joined(row: &Row) -> Bytes {
        [&row.header[..], &row.payload[..]].concat().into()
    }

    #[test]
    fn every_kind_of_entry_survives_its_row() {
        let nodes = BTreeMap::from([(1, Peer::at("http://a:1")), (2, Peer::at("http://b:1"))]);
        let membership = Membership::new(vec![BTreeSet::from([1, 2])], nodes).unwrap();
        for payload in [
            Payload::Blank,
            Payload::Normal(Batch::of(vec![Command::Noop])),
            Payload::Membership(membership),
        ] {
            let entry = Entry { log_id: log_id(3, 9), payload };
            let row = encode(&entry);
            assert_eq!(decode(joined(&row)).unwrap(), entry);
            assert_eq!(log_id_of(&row.header).unwrap(), log_id(3, 9));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(bytes.into());
        }
    }
}
