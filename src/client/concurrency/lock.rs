//! Mutual exclusion among the holders of leases.

use bytes::Bytes;
use tripod_storage::{LeaseId, command::DeleteRange};

use super::{
    super::{Answered, Client, Error},
    Withdrawal,
};

impl Client {
    /// Waits until the lock `name` belongs to `lease`; 0 makes a lease of 60 seconds that nobody
    /// renews. Answers the key that proves it: the lock is held for as long as the key exists,
    /// so compare its creation revision in the transactions that the lock guards.
    ///
    /// Asking again with a lease that holds or waits takes the same place. Dropping the call
    /// while it waits gives the place up.
    ///
    /// # Errors
    /// [`Error::LockLost`] if the lease or the key went away while waiting,
    /// [`Rejected::LeaseNotFound`](tripod_storage::Rejected::LeaseNotFound), the availability
    /// errors; then nothing is held.
    ///
    /// Source: etcd `LockRequest`.
    pub async fn lock(&self, name: &[u8], lease: LeaseId) -> Answered<Bytes> {
        let lease = self.lease_or_new(lease).await?;
        let taken = self.take_place(name, lease, Bytes::new()).await?;
        let place = taken.place;
        if taken.first.is_none_or(|first| first.create_revision == place.created) {
            return Ok((taken.header, place.key));
        }
        let withdrawal = Withdrawal::new(self, &place);
        self.wait_for_turn(&place).await?;
        let (header, own) = self.own_key(&place).await?;
        if own.is_none() {
            // What is there now, if anything, is not this call's to delete.
            withdrawal.keep();
            return Err(Error::LockLost);
        }
        withdrawal.keep();
        Ok((header, place.key))
    }

    /// Gives a lock's key back: a plain deletion of whatever key it is.
    ///
    /// # Errors
    /// As [`Client::delete_range`].
    ///
    /// Source: etcd `UnlockRequest`.
    pub async fn unlock(&self, key: Bytes) -> Answered<()> {
        let delete = DeleteRange { key, ..DeleteRange::default() };
        let (header, _) = self.delete_range(delete).await?;
        Ok((header, ()))
    }
}
