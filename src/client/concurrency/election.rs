//! Leader election among the holders of leases.

use bytes::Bytes;
use tripod_storage::{
    KeyValue, LeaseId, Revision,
    command::{EventKind, Put, Txn, TxnOp},
};

use super::{
    super::{
        Answered, Client, Error, Header, prefix_end,
        watch::{WatchEnd, WatchRequest, Watched, Watcher, hub::Filters},
    },
    Place, Withdrawal, created_at, first_under, prefix_of,
};

/// Proof of leadership (etcd `LeaderKey`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderKey {
    /// Name of the election.
    pub name: Bytes,
    /// The leader's key.
    pub key: Bytes,
    /// Revision that made it.
    pub revision: Revision,
    /// Lease it is attached to.
    pub lease: LeaseId,
}

impl Client {
    /// Waits until the holder of `lease` leads the election `name`; 0 makes a lease of 60 seconds
    /// that nobody renews. The leader publishes `value`. The header is that of the step which put
    /// the key.
    ///
    /// Dropping the call while it waits gives the place up.
    ///
    /// # Errors
    /// [`Error::NotElected`] if the lease or the key went away while waiting,
    /// [`Rejected::LeaseNotFound`](tripod_storage::Rejected::LeaseNotFound), the availability
    /// errors.
    ///
    /// Source: etcd `CampaignRequest`.
    pub async fn campaign(&self, name: &[u8], lease: LeaseId, value: Bytes) -> Answered<LeaderKey> {
        let lease = self.lease_or_new(lease).await?;
        let taken = self.take_place(name, lease, value.clone()).await?;
        let place = taken.place;
        let withdrawal = Withdrawal::new(self, &place);
        let Place { key, created, .. } = place.clone();
        let leader =
            LeaderKey { name: Bytes::copy_from_slice(name), key, revision: created, lease };
        if taken.before.is_some_and(|before| before.value != value) {
            self.publish(&leader, lease, value).await?;
        }
        if taken.first.is_some_and(|first| first.create_revision != created) {
            self.wait_for_turn(&place).await?;
            if self.own_key(&place).await?.1.is_none() {
                withdrawal.keep();
                return Err(Error::NotElected);
            }
        }
        withdrawal.keep();
        Ok((taken.header, leader))
    }

    /// Changes the value that a leader, or somebody who waits, has published.
    ///
    /// # Errors
    /// [`Error::NotElected`] if the key is gone or another one's, the availability errors.
    ///
    /// Source: etcd `ProclaimRequest`.
    pub async fn proclaim(&self, leader: &LeaderKey, value: Bytes) -> Answered<()> {
        let lease = self.lease_or_new(leader.lease).await?;
        self.publish(leader, lease, value).await
    }

    async fn publish(&self, leader: &LeaderKey, lease: LeaseId, value: Bytes) -> Answered<()> {
        let size = 2 * leader.key.len() + value.len();
        let put = Put { key: leader.key.clone(), value, lease, ..Put::default() };
        let txn = Txn {
            compare: vec![created_at(&leader.key, leader.revision)],
            success: vec![TxnOp::Put(put)],
            failure: Vec::new(),
        };
        let (header, response) = self.txn(txn, false, size).await?;
        if response.succeeded { Ok((header, ())) } else { Err(Error::NotElected) }
    }

    /// The leader's pair.
    ///
    /// # Errors
    /// [`Error::NobodyElected`], the availability errors.
    ///
    /// Source: etcd `LeaderRequest`.
    pub async fn election_leader(&self, name: &[u8]) -> Answered<KeyValue> {
        let (header, response) = self.range(first_under(&prefix_of(name)), false).await?;
        let first = response.kvs.into_iter().next().ok_or(Error::NobodyElected)?;
        Ok((header, first))
    }

    /// Gives leadership, or the wait for it, up. Somebody else's key stays; that is no error.
    ///
    /// # Errors
    /// The availability errors.
    ///
    /// Source: etcd `ResignRequest`.
    pub async fn resign(&self, leader: &LeaderKey) -> Answered<()> {
        // As etcd, which makes a session even here.
        self.lease_or_new(leader.lease).await?;
        let (header, _) = self.delete_created(&leader.key, leader.revision).await?;
        Ok((header, ()))
    }

    /// Follows the leaders of an election and what they publish.
    #[must_use]
    pub fn observe(&self, name: &[u8]) -> Observer {
        Observer { client: self.clone(), prefix: prefix_of(name), following: None }
    }
}

/// The leaders of an election as they come (etcd's `Observe`).
#[derive(Debug)]
pub struct Observer {
    client: Client,
    prefix: Bytes,
    /// Changes of the present leader's key.
    following: Option<Watcher>,
}

impl Observer {
    /// The present leader's pair at first; then each change of it, and each new leader.
    ///
    /// Values that a leader published in quick succession all come; between two leaders nothing
    /// is told.
    ///
    /// # Errors
    /// The availability errors.
    pub async fn next(&mut self) -> Result<Vec<(Header, KeyValue)>, Error> {
        loop {
            let Some(watcher) = &mut self.following else { return self.find_leader().await };
            let events = match watcher.next().await {
                Ok(Watched::Events(events)) => events,
                Ok(Watched::Progress(_)) => continue,
                // Looks at the present state again.
                Err(WatchEnd::Compacted { .. }) => {
                    self.following = None;
                    continue;
                }
                Err(WatchEnd::Refused(_)) => return Err(Error::TooManyRequests),
            };
            let header = self.client.header_now();
            let mut changes = Vec::new();
            for event in events {
                if event.kind == EventKind::Delete {
                    self.following = None;
                    break;
                }
                changes.push((header, event.kv));
            }
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// Waits until there is a leader and follows it.
    async fn find_leader(&mut self) -> Result<Vec<(Header, KeyValue)>, Error> {
        loop {
            let (header, response) = self.client.range(first_under(&self.prefix), false).await?;
            let found = match response.kvs.into_iter().next() {
                Some(kv) => Some((header, kv)),
                None => self.first_put(header.revision + 1).await?,
            };
            let Some((header, kv)) = found else { continue };
            self.following = Some(self.client.watch(WatchRequest {
                key: kv.key.clone(),
                start_revision: header.revision + 1,
                ..WatchRequest::default()
            }));
            return Ok(vec![(header, kv)]);
        }
    }

    /// The first key put under the prefix from revision `from` on; none to look again.
    async fn first_put(&self, from: Revision) -> Result<Option<(Header, KeyValue)>, Error> {
        let mut watcher = self.client.watch(WatchRequest {
            key: self.prefix.clone(),
            range_end: prefix_end(&self.prefix),
            start_revision: from,
            filters: Filters { no_put: false, no_delete: true },
            ..WatchRequest::default()
        });
        loop {
            match watcher.next().await {
                Ok(Watched::Events(events)) => {
                    let Some(event) = events.into_iter().next() else { continue };
                    let header = self.client.header(event.kv.mod_revision);
                    return Ok(Some((header, event.kv)));
                }
                Ok(Watched::Progress(_)) => {}
                Err(WatchEnd::Compacted { .. }) => return Ok(None),
                Err(WatchEnd::Refused(_)) => return Err(Error::TooManyRequests),
            }
        }
    }
}
