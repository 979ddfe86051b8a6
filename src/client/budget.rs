//! Memory for long answers: what ranges over many keys may hold together.
//!
//! A range's answer is one message, so it is in memory as a whole until its client has taken it.
//! A hundred clients that each ask for a million keys would need a hundred times the data
//! (etcd issues 12342 and 12678). Here a long answer first takes a share of
//! [`LONG_ANSWERS_BYTES_MAX`]; without one it waits, holding nothing, in the order of arrival. Short
//! answers never wait. The reads of a transaction count together, with the previous values that its puts
//! and deletes ask for, and so do the previous values of a delete; the state machine refuses those
//! above its own limit for one of them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tripod_storage::command::{Range, RangeResponse};

/// Bytes of all long answers of a member together. One that is larger than this goes alone.
pub(super) const LONG_ANSWERS_BYTES_MAX: usize = 256 << 20;
/// What one permit stands for, in bytes.
const UNIT_BYTES: usize = 64 << 10;
/// What a pair takes beside its key and value while an answer is put together, in bytes.
const PAIR_BYTES: usize = 160;

/// Pairs looked at to guess the size of an answer that is sorted or filtered as a whole.
const SAMPLE_PAIRS: i64 = 100;
/// Bytes from which an answer is long: more than any single pair has.
const LONG_ANSWER_BYTES: usize = 2 << 20;

const UNITS: usize = LONG_ANSWERS_BYTES_MAX / UNIT_BYTES;

/// The memory for long answers.
#[derive(Clone, Debug)]
pub(crate) struct AnswerBudget {
    units: Arc<Semaphore>,
}

/// A part of the budget; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    /// None once the budget is gone, with the member.
    _units: Option<OwnedSemaphorePermit>,
}

/// An answer and its share of the budget, if it is long.
#[derive(Debug)]
pub(crate) struct Budgeted<T> {
    pub(crate) answer: T,
    pub(crate) share: Option<Share>,
}

impl<T> From<T> for Budgeted<T> {
    fn from(answer: T) -> Self {
        Self { answer, share: None }
    }
}

impl Default for AnswerBudget {
    fn default() -> Self {
        Self { units: Arc::new(Semaphore::new(UNITS)) }
    }
}

impl AnswerBudget {
    /// Waits for memory. Cancel safe.
    pub(crate) async fn take(&self, bytes: usize) -> Share {
        Share { _units: Arc::clone(&self.units).acquire_many_owned(units_of(bytes)).await.ok() }
    }

    /// As [`Self::take`], where nobody has to wait.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Share> {
        let units = Arc::clone(&self.units).try_acquire_many_owned(units_of(bytes)).ok()?;
        Some(Share { _units: Some(units) })
    }

    /// As [`Self::take`], but for short answers, which need no share.
    pub(crate) async fn take_if_long(&self, bytes: usize) -> Option<Share> {
        if bytes < LONG_ANSWER_BYTES { None } else { Some(self.take(bytes).await) }
    }

    /// Waits with an answer that is there already, if it is long: pairs share their bytes with the
    /// store, it is their encoding that takes memory.
    pub(crate) async fn admit(&self, answer: RangeResponse) -> Budgeted<RangeResponse> {
        let share = self.take_if_long(pair_bytes(&answer)).await;
        Budgeted { answer, share }
    }
}

fn units_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES).clamp(1, UNITS)).unwrap_or(1)
}

/// A cheap read that tells how much `range` without sorting and filters would find.
pub(crate) fn sample_of(range: &Range) -> Range {
    let (key, range_end) = (range.key.clone(), range.range_end.clone());
    Range { key, range_end, revision: range.revision, limit: SAMPLE_PAIRS, ..Range::default() }
}

/// Bytes that a range's answer of at most `limit` pairs (0: all) takes, by its first page.
pub(crate) fn estimate(page: &RangeResponse, limit: i64) -> usize {
    let bytes = pair_bytes(page);
    let matches = usize::try_from(page.count).unwrap_or_default().max(page.kvs.len());
    let limit = usize::try_from(limit).unwrap_or_default();
    let expected = if limit == 0 { matches } else { matches.min(limit) };
    (bytes / page.kvs.len().max(1)).saturating_mul(expected)
}

fn pair_bytes(page: &RangeResponse) -> usize {
    page.kvs.iter().map(|kv| kv.key.len() + kv.value.len() + PAIR_BYTES).sum()
}

impl Share {
    /// Encoded bytes that keep the share until the last of them is sent.
    pub(crate) fn around(self, encoded: Bytes) -> Bytes {
        Bytes::from_owner(Held { encoded, _share: self })
    }
}

struct Held {
    encoded: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.encoded
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tripod_storage::KeyValue;

    use super::*;

    #[test]
    fn long_answers_wait_until_there_is_memory_and_bytes_keep_it() {
        let budget = AnswerBudget::default();
        let half = LONG_ANSWERS_BYTES_MAX / 2;
        let first = budget.take(half).now_or_never().expect("half of it is free");
        let second = budget.take(half).now_or_never().expect("the other half too");
        assert!(budget.take(1).now_or_never().is_none());
        let bytes = first.around(Bytes::from_static(b"answer"));
        let rest = bytes.slice(3..);
        drop(bytes);
        assert_eq!(rest, "wer");
        assert!(budget.take(1).now_or_never().is_none());
        drop(rest);
        assert!(budget.take(half).now_or_never().is_some());
        drop(second);
        assert!(budget.take(usize::MAX).now_or_never().is_some(), "a larger one goes alone");
    }

    #[test]
    fn a_page_of_large_values_is_long_and_one_large_value_is_not() {
        let budget = AnswerBudget::default();
        let value = bytes::Bytes::from(vec![0; 1_572_000]);
        let kv = KeyValue { key: "key".into(), value, ..KeyValue::default() };
        for (pairs, want) in [(1, false), (10, true)] {
            let answer = RangeResponse { kvs: vec![kv.clone(); pairs], ..RangeResponse::default() };
            let admitted = budget.admit(answer).now_or_never().expect("all of it is free");
            assert_eq!(admitted.share.is_some(), want, "{pairs} pairs");
        }
    }

    #[test]
    fn the_estimate_grows_with_the_matches_up_to_the_limit() {
        let kv = KeyValue { key: "key".into(), value: vec![0; 837].into(), ..KeyValue::default() };
        let page = RangeResponse {
            kvs: vec![kv; 10],
            count: 1000,
            more: true,
            ..RangeResponse::default()
        };
        assert_eq!(estimate(&page, 0), 1_000_000);
        assert_eq!(estimate(&page, 500), 500_000);
        assert_eq!(estimate(&RangeResponse::default(), 0), 0);
    }
}
