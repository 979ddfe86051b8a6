//! How large the answer of a write will be, before it is made.
//!
//! A transaction may read the same range a hundred times, so a request of a few hundred bytes could
//! make every member put together an answer of a hundred times the data; a delete may ask for the
//! previous values of all of it. Here the bytes are counted before anything is changed or read into
//! memory; what would answer more than [`TXN_ANSWER_BYTES_MAX`] is refused with
//! [`Rejected::AnswerTooLarge`].
//!
//! Invariants:
//! - the count is of what the state holds, never of what happens to be in memory, so that all
//!   members refuse alike;
//! - it is of the state before the transaction: what the transaction itself writes comes on top,
//!   and its own request bounds that;
//! - previous values count as a read of the same keys in that state, also where an earlier delete
//!   of the transaction has taken some of them.
//!
//! Absent on purpose: a put on its own, whose answer is one pair at most.

use std::{borrow::Cow, ops::Bound};

use super::{
    End, Store,
    range::{Hit, hit, is_filtered, sort_key},
};
use crate::{
    Error, Rejected,
    command::{DeleteRange, Range, Txn, TxnOp},
    types::Rev,
};

/// Bytes that the reads of one transaction may answer together, previous values of its puts and
/// deletes included; and those of one delete.
pub const TXN_ANSWER_BYTES_MAX: u64 = 256 << 20;
/// What a pair takes beside its key and value, in bytes.
const PAIR_BYTES: u64 = 160;
/// Reads of single keys that are taken without counting: with values of usual size they stay below
/// the limit.
const SINGLE_READS_FREE: usize = 128;

/// Whether the answer of a transaction may be longer than one value, whichever branches it takes.
#[must_use]
pub fn may_be_long(txn: &Txn) -> bool {
    fn count(txn: &Txn, singles: &mut usize) -> bool {
        txn.success.iter().chain(&txn.failure).any(|op| match op {
            TxnOp::Txn(child) => count(child, singles),
            op => read_of(op).is_some_and(|range| {
                *singles += 1;
                !range.range_end.is_empty() || *singles > 1
            }),
        })
    }
    count(txn, &mut 0)
}

impl Store {
    /// Refuses reads that answer too much together.
    pub(super) fn check_answer(&self, ops: &[&TxnOp]) -> super::Answer<()> {
        let ranges = || ops.iter().filter_map(|op| read_of(op));
        let all_single = ranges().all(|range| range.range_end.is_empty());
        if all_single && ranges().count() <= SINGLE_READS_FREE {
            return Ok(Ok(()));
        }
        Ok(self.answer_bytes(ops)?.map(drop))
    }

    /// Bytes of what the reads among `ops` answer in the present state.
    pub(super) fn answer_bytes(&self, ops: &[&TxnOp]) -> super::Answer<u64> {
        let mut bytes = 0;
        for range in ops.iter().filter_map(|op| read_of(op)) {
            bytes += self.range_bytes(&range, TXN_ANSWER_BYTES_MAX - bytes)?;
            if bytes > TXN_ANSWER_BYTES_MAX {
                return Ok(Err(Rejected::AnswerTooLarge));
            }
        }
        Ok(Ok(bytes))
    }

    /// Bytes of the previous values that a delete on its own answers in the present state.
    pub(crate) fn delete_answer_bytes(&self, delete: &DeleteRange) -> super::Answer<u64> {
        let Some(range) = previous_of(delete).filter(|range| !range.range_end.is_empty()) else {
            return Ok(Ok(0));
        };
        let bytes = self.range_bytes(&range, TXN_ANSWER_BYTES_MAX)?;
        Ok(if bytes > TXN_ANSWER_BYTES_MAX { Err(Rejected::AnswerTooLarge) } else { Ok(bytes) })
    }

    /// Bytes that `range` answers; counts no further once it is more than `max`.
    fn range_bytes(&self, range: &Range, max: u64) -> Result<u64, Error> {
        // A revision that is refused is refused elsewhere.
        let Ok(at) = self.check_revision(range.revision, self.revision) else { return Ok(0) };
        if is_filtered(range) || sort_key(range).is_some() {
            // Which pairs they are is known only once they are there.
            let answer = self.range(range, self.revision)?.unwrap_or_default();
            let pairs = answer.kvs.iter();
            return Ok(pairs.map(|kv| pair_bytes(kv.key.len() + kv.value.len())).sum());
        }
        let limit = usize::try_from(range.limit).ok().filter(|&limit| limit > 0);
        let (start, end) = (Bound::Included(&range.key[..]), End::new(&range.range_end));
        let hits = self.index.range(start, end).filter_map(|(key, entry)| hit(key, entry, at));
        let mut bytes = 0;
        let mut elsewhere: Vec<Rev> = Vec::new();
        for hit in hits.take(limit.unwrap_or(usize::MAX)) {
            match hit {
                Hit::Newest(key, _) if range.keys_only => bytes += pair_bytes(key.len()),
                Hit::Newest(_, version) if version.data.is_some() => {
                    bytes += PAIR_BYTES + version.data_len();
                }
                Hit::Newest(_, version) => elsewhere.push(version.rev()),
                Hit::Older(rev) => elsewhere.push(rev),
            }
            if bytes > max {
                return Ok(bytes);
            }
        }
        elsewhere.sort_unstable();
        self.history.get_many(elsewhere.into_iter(), |_, kv| {
            let value = if range.keys_only { 0 } else { kv.value.len() };
            bytes += pair_bytes(kv.key.len() + value);
        })?;
        Ok(bytes)
    }
}

/// The pairs that an operation answers with, as a read.
fn read_of(op: &TxnOp) -> Option<Cow<'_, Range>> {
    match op {
        TxnOp::Range(range) => (!range.count_only).then_some(Cow::Borrowed(range)),
        TxnOp::Put(put) if put.prev_kv => {
            Some(Cow::Owned(Range { key: put.key.clone(), ..Range::default() }))
        }
        TxnOp::DeleteRange(delete) => previous_of(delete).map(Cow::Owned),
        TxnOp::Put(_) | TxnOp::Txn(_) | TxnOp::Empty => None,
    }
}

/// The pairs that a delete answers with, as a read.
fn previous_of(delete: &DeleteRange) -> Option<Range> {
    let (key, range_end) = (delete.key.clone(), delete.range_end.clone());
    delete.prev_kv.then(|| Range { key, range_end, ..Range::default() })
}

fn pair_bytes(data: usize) -> u64 {
    PAIR_BYTES + data as u64
}
