//! Transactions: all compares, then everything that can fail, then the operations.
//!
//! etcd's order: every compare of the whole tree is evaluated on the state before and fixes a
//! path; the operations on that path are checked (puts first, then ranges), again on the state
//! before; then they run in order, each seeing the ones before it. So a refused transaction has
//! changed nothing.
//!
//! Source: etcd `KV.Txn`, <https://etcd.io/docs/latest/learning/api/#transaction>; measured on
//! etcd 3.5.1.

use std::{collections::BTreeSet, ops::Bound};

use super::{Answer, End, Store, entry::Version, write::Writer};
use crate::{
    Error, Rejected, Revision,
    command::{Compare, CompareTarget, Put, Txn, TxnOp, TxnOpResponse, TxnResponse},
};

/// Transactions in transactions at most; deeper ones are refused. Bounds recursion here and in
/// every codec a transaction passes.
pub const TXN_DEPTH_MAX: usize = 32;

/// `Compare.CompareResult` numbers.
const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const LESS: i32 = 2;
const NOT_EQUAL: i32 = 3;

/// The branches taken, of a transaction and those nested in it in order of visit.
#[derive(Debug, Default)]
struct Path {
    taken: Vec<bool>,
}

impl Store {
    /// Runs a transaction that changes nothing; it may hold ranges only.
    pub(crate) fn read_txn(&self, txn: &Txn) -> Answer<TxnResponse> {
        let path = self.choose(txn)?;
        if let Err(rejected) = self.check(txn, &path)? {
            return Ok(Err(rejected));
        }
        let succeeded = path.taken.first().copied().unwrap_or_default();
        let mut responses = Vec::new();
        for op in branch(txn, succeeded) {
            // Anything else is answered as a key not found: it does not belong here.
            let TxnOp::Range(range) = op else { return Ok(Err(Rejected::KeyNotFound)) };
            match self.range(range, self.revision)? {
                Ok(response) => responses.push(TxnOpResponse::Range(response)),
                Err(rejected) => return Ok(Err(rejected)),
            }
        }
        Ok(Ok(TxnResponse { succeeded, responses }))
    }

    fn choose(&self, txn: &Txn) -> Result<Path, Error> {
        let mut path = Path::default();
        self.choose_into(txn, &mut path)?;
        Ok(path)
    }

    fn choose_into(&self, txn: &Txn, path: &mut Path) -> Result<(), Error> {
        let mut succeeded = true;
        for compare in &txn.compare {
            if !self.compare(compare)? {
                succeeded = false;
                break;
            }
        }
        path.taken.push(succeeded);
        for op in branch(txn, succeeded) {
            if let TxnOp::Txn(child) = op {
                self.choose_into(child, path)?;
            }
        }
        Ok(())
    }

    /// True where all keys of the range satisfy the compare; no key counts as one that is
    /// missing.
    fn compare(&self, compare: &Compare) -> Result<bool, Error> {
        let mut some = false;
        let range =
            self.index.range(Bound::Included(&compare.key[..]), End::new(&compare.range_end));
        for (key, entry) in range.filter(|(_, entry)| entry.is_live()) {
            some = true;
            if !self.compare_version(compare, key.len(), &entry.newest)? {
                return Ok(false);
            }
        }
        if some {
            return Ok(true);
        }
        // A missing key has no value to compare, not even with "!=".
        if matches!(compare.target, CompareTarget::Value(_)) {
            return Ok(false);
        }
        self.compare_version(compare, 0, &Version::default())
    }

    fn compare_version(
        &self,
        compare: &Compare,
        key_len: usize,
        found: &Version,
    ) -> Result<bool, Error> {
        let ordering = match &compare.target {
            CompareTarget::Version(operand) => found.version.cmp(operand),
            CompareTarget::Create(operand) => found.create.cmp(operand),
            CompareTarget::Mod(operand) => found.rev().main.cmp(operand),
            CompareTarget::Lease(operand) => found.lease.cmp(operand),
            CompareTarget::Unknown => std::cmp::Ordering::Equal,
            CompareTarget::Value(operand) => match &found.data {
                Some(data) => data[key_len..].cmp(operand),
                None => self.history.get(found.rev())?.value.cmp(operand),
            },
        };
        Ok(match compare.result {
            EQUAL => ordering.is_eq(),
            GREATER => ordering.is_gt(),
            LESS => ordering.is_lt(),
            NOT_EQUAL => ordering.is_ne(),
            _ => true,
        })
    }

    /// Everything that can be wrong with the operations on the path, on the state before.
    fn check(&self, txn: &Txn, path: &Path) -> Answer<()> {
        let mut ops = Vec::new();
        flatten(txn, &mut path.taken.iter().copied(), &mut ops);
        match self.check_ops(&ops) {
            Ok(()) => self.check_answer(&ops),
            Err(rejected) => Ok(Err(rejected)),
        }
    }

    /// Bytes that the reads of a transaction answer in the present state.
    pub(crate) fn txn_answer_bytes(&self, txn: &Txn) -> Answer<u64> {
        let path = self.choose(txn)?;
        let mut ops = Vec::new();
        flatten(txn, &mut path.taken.iter().copied(), &mut ops);
        self.answer_bytes(&ops)
    }

    fn check_ops(&self, ops: &[&TxnOp]) -> Result<(), Rejected> {
        for op in ops {
            match op {
                TxnOp::Put(put) => self.check_txn_put(put)?,
                TxnOp::Empty => return Err(Rejected::KeyNotFound),
                _ => {}
            }
        }
        self.check_kept_parts(ops)?;
        for op in ops {
            if let TxnOp::Range(range) = op {
                self.check_txn_range(range.revision)?;
                if !super::range::is_known_sort(range.sort_order, range.sort_target) {
                    return Err(Rejected::InvalidSortOption);
                }
            }
        }
        Ok(())
    }

    /// The check of a put inside a transaction: key before lease.
    fn check_txn_put(&self, put: &Put) -> Result<(), Rejected> {
        self.check_kept(put)?;
        self.check_lease(put)
    }

    /// The check of a put on its own: lease before key.
    pub(crate) fn check_put(&self, put: &Put) -> Result<(), Rejected> {
        self.check_lease(put)?;
        self.check_kept(put)
    }

    fn check_lease(&self, put: &Put) -> Result<(), Rejected> {
        if put.lease != 0 && !self.leases.contains(put.lease) {
            return Err(Rejected::LeaseNotFound);
        }
        Ok(())
    }

    fn check_kept(&self, put: &Put) -> Result<(), Rejected> {
        if (put.ignore_value || put.ignore_lease) && self.index.live(&put.key).is_none() {
            return Err(Rejected::KeyNotFound);
        }
        Ok(())
    }

    /// Unlike in plain reads a negative revision is not "now": it is compared as it is.
    fn check_txn_range(&self, revision: Revision) -> Result<(), Rejected> {
        if revision == 0 {
            Ok(())
        } else if revision > self.revision {
            Err(Rejected::FutureRevision)
        } else if revision < self.compact_revision {
            Err(Rejected::Compacted { compact_revision: self.compact_revision })
        } else {
            Ok(())
        }
    }

    /// A put that keeps a part of its key needs the key when its turn comes, and an earlier
    /// delete of the same path may take it (validation lets a delete up to the end of the key
    /// space pass). etcd stops working on that; here it is refused like any missing key.
    fn check_kept_parts(&self, ops: &[&TxnOp]) -> Result<(), Rejected> {
        let mut deletes = Vec::new();
        let mut written: BTreeSet<&[u8]> = BTreeSet::new();
        for op in ops {
            match op {
                TxnOp::DeleteRange(delete) => {
                    deletes.push((&delete.key[..], End::new(&delete.range_end)));
                    written.retain(|key| !deletes.last().is_some_and(|d| d.1.contains(d.0, key)));
                }
                TxnOp::Put(put) if deletes.is_empty() => {
                    written.insert(&put.key[..]);
                }
                TxnOp::Put(put) => {
                    let key = &put.key[..];
                    let keeps = put.ignore_value || put.ignore_lease;
                    let is_deleted = || deletes.iter().any(|d| d.1.contains(d.0, key));
                    if keeps && !written.contains(key) && is_deleted() {
                        return Err(Rejected::KeyNotFound);
                    }
                    written.insert(key);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Runs a transaction. An `Err` inside has changed nothing.
pub(crate) fn apply(store: &mut Store, txn: &Txn) -> Answer<TxnResponse> {
    if depth(txn) > TXN_DEPTH_MAX {
        return Ok(Err(Rejected::TooManyOps));
    }
    let path = store.choose(txn)?;
    if let Err(rejected) = store.check(txn, &path)? {
        return Ok(Err(rejected));
    }
    let mut writer = Writer::new(store);
    let answer = run(&mut writer, txn, &mut path.taken.iter().copied())?;
    writer.finish();
    Ok(Ok(answer))
}

fn run(
    writer: &mut Writer<'_>,
    txn: &Txn,
    path: &mut impl Iterator<Item = bool>,
) -> Result<TxnResponse, Error> {
    let succeeded = path.next().unwrap_or_default();
    let mut responses = Vec::new();
    for op in branch(txn, succeeded) {
        responses.push(match op {
            TxnOp::Put(put) => TxnOpResponse::Put(writer.put(put)?),
            TxnOp::DeleteRange(delete) => TxnOpResponse::DeleteRange(writer.delete_range(delete)?),
            TxnOp::Txn(child) => TxnOpResponse::Txn(run(writer, child, path)?),
            TxnOp::Range(range) => {
                // Checked before: what remains cannot be refused.
                writer.counts.ranges += 1;
                let answer = writer.store.range(range, writer.revision())?;
                TxnOpResponse::Range(answer.unwrap_or_default())
            }
            TxnOp::Empty => continue,
        });
    }
    Ok(TxnResponse { succeeded, responses })
}

fn branch(txn: &Txn, succeeded: bool) -> &[TxnOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// The operations on the path in the order they run, without the nested transactions.
fn flatten<'a>(txn: &'a Txn, path: &mut impl Iterator<Item = bool>, ops: &mut Vec<&'a TxnOp>) {
    for op in branch(txn, path.next().unwrap_or_default()) {
        match op {
            TxnOp::Txn(child) => flatten(child, path, ops),
            op => ops.push(op),
        }
    }
}

/// Levels of transactions, 1 for one without nested ones. Stops counting just above
/// [`TXN_DEPTH_MAX`].
pub(crate) fn depth(txn: &Txn) -> usize {
    let mut depth = 0;
    let mut level = vec![txn];
    while !level.is_empty() && depth <= TXN_DEPTH_MAX {
        depth += 1;
        level = (level.iter().flat_map(|txn| txn.success.iter().chain(&txn.failure)))
            .filter_map(|op| match op {
                TxnOp::Txn(child) => Some(child),
                _ => None,
            })
            .collect();
    }
    depth
}
