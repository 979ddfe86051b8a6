//! bcrypt, kept away from the threads that serve: slow by intent, so a flood of logins must not
//! take the processor from everybody else.
//!
//! At most half of the processors hash at a time; [`QUEUE_MAX`] logins wait, more are refused.
//! A caller who has gone away gives his place in the queue up.
//!
//! Like etcd 3.5, only the first 72 bytes of a password count.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;
use tripod_storage::auth::PasswordHash;

/// Logins that run or wait; about six seconds' worth at the default cost on one processor.
const QUEUE_MAX: usize = 64;

/// Too many passwords wait already; try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("etcdserver: too many requests")]
pub(crate) struct Busy;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hasher {
    cost: u32,
    slots: Arc<Semaphore>,
    inside: Arc<AtomicUsize>,
}

/// A place in the queue.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Hasher {
    pub(super) fn new(cost: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = Arc::new(Semaphore::new((processors / 2).max(1)));
        Self { cost, slots, inside: Arc::default() }
    }

    /// The hash of a password.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) async fn hash(&self, password: String) -> Result<PasswordHash, Busy> {
        let cost = self.cost;
        let hashed = self.run(move || bcrypt::hash(password, cost)).await?;
        // The cost was validated and the system's randomness does not end.
        hashed.map(PasswordHash::new).map_err(|_| Busy)
    }

    /// Whether the password is the one of the hash.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) async fn verify(
        &self,
        password: Arc<str>,
        hash: PasswordHash,
    ) -> Result<bool, Busy> {
        self.run(move || {
            let hash = hash.as_str().unwrap_or_default();
            bcrypt::verify(password.as_bytes(), hash).unwrap_or(false)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let place = self.take_place()?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| Busy)?;
        // What runs is not stopped when its caller goes away, so it keeps slot and place.
        let done = tokio::task::spawn_blocking(move || {
            let _held = (slot, place);
            work()
        });
        done.await.map_err(|_| Busy)
    }

    fn take_place(&self) -> Result<Place, Busy> {
        let place = Place(Arc::clone(&self.inside));
        if self.inside.fetch_add(1, Ordering::AcqRel) < QUEUE_MAX {
            return Ok(place);
        }
        drop(place);
        Err(Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_hash_alone() {
        let hasher = Hasher::new(4);
        for password in ["p", "", "a\0b", &"x".repeat(100)] {
            let hash = hasher.hash(password.to_owned()).await.unwrap();
            let verify = |password: &str| hasher.verify(password.into(), hash.clone());
            assert!(verify(password).await.unwrap());
            assert!(!verify("another").await.unwrap());
            assert!(!verify(&format!("a{password}")).await.unwrap());
        }
        for odd in ["", "$2b$10$", "no hash"] {
            let odd = PasswordHash::new(odd.to_owned());
            assert!(!hasher.verify("p".into(), odd).await.unwrap());
        }
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_those_who_leave_make_room() {
        fn noop() {}
        let hasher = Hasher::new(4);
        let all = Arc::clone(&hasher.slots)
            .acquire_many_owned(u32::try_from(hasher.slots.available_permits()).unwrap())
            .await
            .unwrap();
        let mut waiting: Vec<_> = (0..QUEUE_MAX).map(|_| Box::pin(hasher.run(noop))).collect();
        for login in &mut waiting {
            assert!(futures::poll!(login.as_mut()).is_pending());
        }
        assert_eq!(hasher.run(noop).await, Err(Busy));
        drop(waiting.pop());
        let mut next = Box::pin(hasher.run(noop));
        assert!(futures::poll!(next.as_mut()).is_pending(), "there is room again");
        drop(all);
        waiting.push(next);
        for done in futures::future::join_all(waiting).await {
            assert_eq!(done, Ok(()));
        }
        assert_eq!(hasher.inside.load(Ordering::Acquire), 0);
    }
}
