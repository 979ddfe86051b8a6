//! What can be refused without looking at the state: pure, and done before anything is proposed.
//!
//! Source: texts and order of checks measured on etcd 3.5.1; sort numbers as later etcd.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{range::is_known_sort, txn};
use crate::{
    Command,
    command::{DeleteRange, Put, Range, Txn, TxnOp},
    v2,
};

pub use super::txn::TXN_DEPTH_MAX;

/// Operations in one branch of a transaction, or compares, at most (etcd `--max-txn-ops`).
pub const TXN_OPS_MAX: usize = 128;

/// What etcd counts for a put beyond key and value when it watches the quota, in bytes.
const PUT_OVERHEAD_BYTES: u64 = 256;

/// What etcd counts for a lease grant, in bytes.
const LEASE_GRANT_BYTES: u64 = 64;

/// Why a request is refused before it is proposed. The texts are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// No key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// Too many operations in a transaction, or transactions nested too deep.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// A key written twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// An operation without a request.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// Sort order or target is none of etcd's.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
}

/// Checks a range request.
///
/// # Errors
/// [`Invalid::EmptyKey`], [`Invalid::InvalidSortOption`].
pub fn range(range: &Range) -> Result<(), Invalid> {
    if range.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    if !is_known_sort(range.sort_order, range.sort_target) {
        return Err(Invalid::InvalidSortOption);
    }
    Ok(())
}

/// Checks a put request.
///
/// # Errors
/// [`Invalid::EmptyKey`], [`Invalid::ValueProvided`], [`Invalid::LeaseProvided`].
pub fn put(put: &Put) -> Result<(), Invalid> {
    if put.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(Invalid::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Invalid::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete request.
///
/// # Errors
/// [`Invalid::EmptyKey`].
pub fn delete_range(delete: &DeleteRange) -> Result<(), Invalid> {
    if delete.key.is_empty() { Err(Invalid::EmptyKey) } else { Ok(()) }
}

/// Checks a whole transaction; `ops_max` is usually [`TXN_OPS_MAX`].
///
/// Cost: O(n log n) in its operations.
///
/// # Errors
/// Any [`Invalid`].
pub fn txn(txn: &Txn, ops_max: usize) -> Result<(), Invalid> {
    if txn::depth(txn) > TXN_DEPTH_MAX {
        return Err(Invalid::TooManyOps);
    }
    shape(txn, ops_max)?;
    writes(&txn.success)?;
    writes(&txn.failure)?;
    Ok(())
}

/// Counts and single operations.
fn shape(txn: &Txn, ops_max: usize) -> Result<(), Invalid> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    // What a nested transaction may use is what this one leaves.
    let left = ops_max.checked_sub(ops).ok_or(Invalid::TooManyOps)?;
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Invalid::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            TxnOp::Range(op) => range(op)?,
            TxnOp::Put(op) => put(op)?,
            TxnOp::DeleteRange(op) => delete_range(op)?,
            TxnOp::Txn(child) => shape(child, left)?,
            TxnOp::Empty => return Err(Invalid::KeyNotFound),
        }
    }
    Ok(())
}

/// Keys that a list of operations puts and deletes, whichever branches are taken.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Spans<'a>,
}

/// Refuses a key put twice, or put and deleted, as etcd does:
/// - deletes of this level are collected first, then nested transactions in order, each
///   checked against what came before, then the puts of this level;
/// - the two branches of one nested transaction exclude each other, so that they may put the
///   same key;
/// - a nested delete does not see earlier puts.
fn writes(ops: &[TxnOp]) -> Result<Writes<'_>, Invalid> {
    let mut all = Writes::default();
    for op in ops {
        if let TxnOp::DeleteRange(delete) = op {
            all.deletes.insert(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        let TxnOp::Txn(child) = op else { continue };
        let then = writes(&child.success)?;
        let or_else = writes(&child.failure)?;
        let duplicate = |key: &&[u8]| all.puts.contains(key) || all.deletes.contains(key);
        if then.puts.iter().any(duplicate) || or_else.puts.iter().any(duplicate) {
            return Err(Invalid::DuplicateKey);
        }
        for mut writes in [then, or_else] {
            if writes.puts.len() > all.puts.len() {
                std::mem::swap(&mut writes.puts, &mut all.puts);
            }
            all.puts.extend(writes.puts);
            all.deletes.extend(writes.deletes);
        }
    }
    for op in ops {
        let TxnOp::Put(put) = op else { continue };
        if all.deletes.contains(&put.key) || !all.puts.insert(&put.key) {
            return Err(Invalid::DuplicateKey);
        }
    }
    Ok(all)
}

/// A union of half-open spans of keys; disjoint, by start.
#[derive(Default)]
struct Spans<'a> {
    spans: BTreeMap<&'a [u8], SpanEnd<'a>>,
}

/// Exclusive ends; a single key ends just behind itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SpanEnd<'a> {
    key: &'a [u8],
    included: bool,
}

impl SpanEnd<'_> {
    fn order(&self) -> (&[u8], bool) {
        (self.key, self.included)
    }

    fn is_above(&self, key: &[u8]) -> bool {
        if self.included { key <= self.key } else { key < self.key }
    }
}

impl<'a> Spans<'a> {
    /// Takes the range literally: an end of `\0` is an end below every key, so that a delete
    /// "from key on" covers nothing here. etcd does the same.
    fn insert(&mut self, start: &'a [u8], range_end: &'a [u8]) {
        let end = match range_end {
            [] => SpanEnd { key: start, included: true },
            end if end <= start => return,
            end => SpanEnd { key: end, included: false },
        };
        self.add(start, end);
    }

    fn add(&mut self, mut start: &'a [u8], mut end: SpanEnd<'a>) {
        let below = (Bound::Unbounded, Bound::Included(start));
        if let Some((&before, &before_end)) = self.spans.range::<[u8], _>(below).next_back()
            && before_end.is_above(start)
        {
            start = before;
            end = std::cmp::max_by(end, before_end, |a, b| a.order().cmp(&b.order()));
        }
        let from = (Bound::Included(start), Bound::Unbounded);
        let mut swallowed = Vec::new();
        for (&other, &other_end) in self.spans.range::<[u8], _>(from) {
            if !end.is_above(other) {
                break;
            }
            swallowed.push(other);
            end = std::cmp::max_by(end, other_end, |a, b| a.order().cmp(&b.order()));
        }
        for other in swallowed {
            self.spans.remove(other);
        }
        self.spans.insert(start, end);
    }

    fn extend(&mut self, mut other: Self) {
        if other.spans.len() > self.spans.len() {
            std::mem::swap(&mut self.spans, &mut other.spans);
        }
        for (start, end) in other.spans {
            self.add(start, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        let below = (Bound::Unbounded, Bound::Included(key));
        let found = self.spans.range::<[u8], _>(below).next_back();
        found.is_some_and(|(_, end)| end.is_above(key))
    }
}

/// True where a transaction needs no log entry: both branches hold only ranges (an empty
/// transaction too).
#[must_use]
pub fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, TxnOp::Range(_)))
}

/// Bytes that etcd's quota counts for a command before it runs: 0 for what is allowed when
/// space is short. Of a transaction the costlier branch counts, with what is nested.
#[must_use]
pub fn quota_cost_bytes(command: &Command) -> u64 {
    match command {
        Command::Put(put) => put_cost(put),
        Command::Txn(txn) => txn_cost(txn),
        Command::LeaseGrant { .. } => LEASE_GRANT_BYTES,
        Command::V2(change) => match &**change {
            v2::Change::Write(write) => write.cost_bytes(),
            v2::Change::Expire { .. } => 0,
        },
        _ => 0,
    }
}

fn put_cost(put: &Put) -> u64 {
    PUT_OVERHEAD_BYTES + put.key.len() as u64 + put.value.len() as u64
}

pub(crate) fn txn_cost(txn: &Txn) -> u64 {
    let branch = |ops: &[TxnOp]| -> u64 {
        let cost = |op: &TxnOp| match op {
            TxnOp::Put(put) => put_cost(put),
            TxnOp::Txn(child) => txn_cost(child),
            _ => 0,
        };
        ops.iter().map(cost).sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

#[cfg(test)]
mod tests;
