//! Locks and elections: queues of keys, each attached to its owner's lease.
//!
//! An owner's key is `NAME/LEASE` with the lease in hexadecimal. The key with the lowest creation
//! revision under `NAME/` owns the lock or leads; everybody else waits for the deletion of the
//! key just before its own, so that one departure wakes one waiter.
//!
//! Invariants:
//! - whoever waited is told that it owns only after a linearizable read has shown its key, made
//!   by the same revision and attached to the same lease, and none before it. (A lease that ended
//!   while its owner waited takes the key with it; see the Jepsen report on etcd 3.4.3.)
//! - a call dropped while it waits takes its key back;
//! - nothing is decided in this process's memory: every member answers alike, and every step goes
//!   through the [`Client`] it is called on.
//!
//! What is deliberately absent: fencing. A holder may be paused past the end of its lease, so it
//! has to guard its effects by comparing the key's creation revision in its own transactions.
//!
//! Source: etcd `v3lock` and `v3election`, observed on 3.5.1.

mod election;
mod lock;

use std::time::Duration;

use bytes::Bytes;
use tripod_storage::{
    KeyValue, LeaseId, Revision,
    auth::Caller,
    command::{
        Compare, CompareTarget, DeleteRange, Put, Range, Txn, TxnOp, TxnOpResponse, TxnResponse,
    },
};

use super::{
    Answered, Client, Error, Header, prefix_end,
    watch::{WatchEnd, WatchRequest, Watched, hub::Filters},
};

pub use election::{LeaderKey, Observer};

/// TTL of the lease that a caller without one gets, in seconds, as etcd.
const DEFAULT_TTL_S: i64 = 60;
/// How long the key of a waiter that went away is tried to be taken back; its lease ends it in
/// any case.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(10);
/// etcd's numbers of comparison and order.
const EQUAL: i32 = 0;
const ASCEND: i32 = 1;
const DESCEND: i32 = 2;
const BY_CREATION: i32 = 2;

/// A caller's place in a queue.
#[derive(Clone, Debug)]
struct Place {
    /// `NAME/`.
    prefix: Bytes,
    /// `NAME/LEASE`.
    key: Bytes,
    lease: LeaseId,
    /// Revision that made the key.
    created: Revision,
}

/// What taking a place found.
struct Taken {
    header: Header,
    place: Place,
    /// The key that was there before, of the same lease.
    before: Option<KeyValue>,
    /// The key at the head of the queue.
    first: Option<KeyValue>,
}

fn prefix_of(name: &[u8]) -> Bytes {
    let mut prefix = name.to_vec();
    prefix.push(b'/');
    prefix.into()
}

/// The key of `lease` under `prefix`; negative ids have a sign, as Go prints them.
fn key_of(prefix: &[u8], lease: LeaseId) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let mut key = prefix.to_vec();
    key.extend_from_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
    key.into()
}

fn created_at(key: &Bytes, revision: Revision) -> Compare {
    Compare {
        result: EQUAL,
        target: CompareTarget::Create(revision),
        key: key.clone(),
        range_end: Bytes::new(),
    }
}

fn get(key: &Bytes) -> TxnOp {
    TxnOp::Range(Range { key: key.clone(), ..Range::default() })
}

/// The oldest key under `prefix`.
fn first_under(prefix: &Bytes) -> Range {
    Range {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: ASCEND,
        sort_target: BY_CREATION,
        ..Range::default()
    }
}

/// The youngest key under `prefix` that is older than `created`.
fn last_before(prefix: &Bytes, created: Revision) -> Range {
    Range { sort_order: DESCEND, max_create_revision: created - 1, ..first_under(prefix) }
}

/// The pair that the `at`th operation read.
fn pair(response: &TxnResponse, at: usize) -> Option<KeyValue> {
    match response.responses.get(at) {
        Some(TxnOpResponse::Range(range)) => range.kvs.first().cloned(),
        _ => None,
    }
}

impl Client {
    /// The lease of a caller: its own, or a new one that nobody renews.
    async fn lease_or_new(&self, lease: LeaseId) -> Result<LeaseId, Error> {
        if lease != 0 {
            return Ok(lease);
        }
        let (_, (id, _)) = self.lease_grant(0, DEFAULT_TTL_S).await?;
        Ok(id)
    }

    /// Puts the caller's key unless it is there, and reads the head of the queue.
    async fn take_place(&self, name: &[u8], lease: LeaseId, value: Bytes) -> Result<Taken, Error> {
        let prefix = prefix_of(name);
        let key = key_of(&prefix, lease);
        let size = 2 * key.len() + prefix.len() + value.len();
        let put = Put { key: key.clone(), value, lease, ..Put::default() };
        let first = TxnOp::Range(first_under(&prefix));
        let txn = Txn {
            compare: vec![created_at(&key, 0)],
            success: vec![TxnOp::Put(put), first.clone()],
            failure: vec![get(&key), first],
        };
        let (header, response) = self.txn(txn, false, size).await?;
        let before = pair(&response, 0);
        let created = before.as_ref().map_or(header.revision, |kv| kv.create_revision);
        let first = pair(&response, 1);
        Ok(Taken { header, place: Place { prefix, key, lease, created }, before, first })
    }

    /// Waits until no older key is in the queue.
    async fn wait_for_turn(&self, place: &Place) -> Result<(), Error> {
        loop {
            let (header, older) =
                self.range(last_before(&place.prefix, place.created), false).await?;
            let Some(older) = older.kvs.into_iter().next() else { return Ok(()) };
            self.wait_for_change(older.key, header.revision + 1, true).await?;
        }
    }

    /// Waits for one change of `key` from revision `from` on, a deletion if `deletion`.
    async fn wait_for_change(
        &self,
        key: Bytes,
        from: Revision,
        deletion: bool,
    ) -> Result<(), Error> {
        let mut watcher = self.watch(WatchRequest {
            key,
            start_revision: from,
            filters: Filters { no_put: deletion, no_delete: false },
            ..WatchRequest::default()
        });
        loop {
            match watcher.next().await {
                Ok(Watched::Events(_)) => return Ok(()),
                Ok(Watched::Progress(_)) => {}
                // Compacted meanwhile: the caller reads the present state again.
                Err(WatchEnd::Compacted { .. }) => return Ok(()),
                Err(WatchEnd::Refused(reason)) => {
                    tracing::warn!(reason, "a waiter's watch was refused");
                    return Err(Error::TooManyRequests);
                }
            }
        }
    }

    /// The caller's key, if it is still the one that waited.
    async fn own_key(&self, place: &Place) -> Result<(Header, Option<KeyValue>), Error> {
        let range = Range { key: place.key.clone(), ..Range::default() };
        let (header, response) = self.range(range, false).await?;
        let own = response.kvs.into_iter().next();
        let is_own = |kv: &KeyValue| kv.create_revision == place.created && kv.lease == place.lease;
        Ok((header, own.filter(is_own)))
    }

    /// Deletes `key` if it was made by revision `created`.
    async fn delete_created(&self, key: &Bytes, created: Revision) -> Answered<bool> {
        let delete = DeleteRange { key: key.clone(), ..DeleteRange::default() };
        let txn = Txn {
            compare: vec![created_at(key, created)],
            success: vec![TxnOp::DeleteRange(delete)],
            failure: Vec::new(),
        };
        let (header, response) = self.txn(txn, false, 2 * key.len()).await?;
        Ok((header, response.succeeded))
    }
}

/// Takes a waiter's key back unless told that it was kept: the caller may be gone at any await.
struct Withdrawal<'a> {
    client: &'a Client,
    place: &'a Place,
    kept: bool,
}

impl<'a> Withdrawal<'a> {
    fn new(client: &'a Client, place: &'a Place) -> Self {
        Self { client, place, kept: false }
    }

    /// The key stays, or is gone already.
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // It takes back what it wrote itself, whatever became of the caller's rights meanwhile.
        let (client, place) = (self.client.acting_for(Caller::System), self.place.clone());
        let task = move || -> futures::future::LocalBoxFuture<'static, ()> {
            Box::pin(async move {
                let delete = client.delete_created(&place.key, place.created);
                match tokio::time::timeout(WITHDRAW_TIMEOUT, delete).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a waiter's key stays until its lease ends");
                    }
                    Err(_) => tracing::debug!("a waiter's key stays until its lease ends"),
                }
            })
        };
        // A member that has stopped leaves it to the lease.
        let _ = self.client.node().spawn_on_consensus(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of etcd 3.5.1 for these leases.
    #[test]
    fn keys_carry_the_lease_as_go_prints_it() {
        let cases = [(1001, "L/3e9"), (-1001, "L/-3e9"), (i64::MIN, "L/-8000000000000000")];
        for (lease, want) in cases {
            assert_eq!(key_of(&prefix_of(b"L"), lease), want, "{lease}");
        }
    }
}
