//! Watches: the fan-out of applied events ([`hub`]) into mailboxes ([`mailbox`]), one stream of
//! watchers ([`session`]), and the typed form for programs ([`Watcher`]).

pub mod hub;
pub mod mailbox;
pub mod session;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tripod_storage::{Revision, command::Event};

use super::Client;
use session::{Message, Session};

pub use session::WatchRequest;

/// Time between progress messages while nothing happens, for [`Watcher`]s that ask for them.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);

/// Why a [`Watcher`] ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchEnd {
    /// The history it needs is gone: read the present state and watch from there.
    #[error(
        "required revision has been compacted; watch from revision {compact_revision} or later"
    )]
    Compacted {
        /// Oldest revision still readable.
        compact_revision: Revision,
    },
    /// The request was refused.
    #[error("{0}")]
    Refused(String),
}

/// What a [`Watcher`] sees next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Changes in order, whole revisions.
    Events(Vec<Event>),
    /// Nothing happened; everything up to this revision has been delivered.
    Progress(Revision),
}

/// A watch of one key or range. Dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    session: Session,
}

impl Watcher {
    /// Waits for the next changes. Cancel safe.
    ///
    /// # Errors
    /// [`WatchEnd`]; after it nothing more comes.
    pub async fn next(&mut self) -> Result<Watched, WatchEnd> {
        loop {
            match self.session.next().await {
                Message::Created { .. } => {}
                Message::Refused { reason, .. } => return Err(WatchEnd::Refused(reason.into())),
                Message::Canceled { compact_revision, .. } => {
                    return Err(WatchEnd::Compacted { compact_revision });
                }
                Message::Progress { revision, .. } => return Ok(Watched::Progress(revision)),
                Message::Events { events, prev_kvs, .. } => {
                    let mut prev_kvs = VecDeque::from(prev_kvs);
                    let events = events
                        .iter()
                        .map(|shared| Event {
                            prev_kv: prev_kvs.pop_front().flatten(),
                            ..Event::clone(&shared.event)
                        })
                        .collect();
                    return Ok(Watched::Events(events));
                }
            }
        }
    }
}

impl Client {
    /// Watches a key or range from a revision on (0: from now on).
    #[must_use]
    pub fn watch(&self, request: WatchRequest) -> Watcher {
        let mut session = self.watch_session(PROGRESS_INTERVAL);
        session.create(request);
        Watcher { session }
    }

    /// A stream that many watchers share.
    #[must_use]
    pub fn watch_session(&self, progress_interval: Duration) -> Session {
        let (node, hub) = (self.node.clone(), Arc::clone(&self.hub));
        Session::new(node, hub, progress_interval, self.caller.clone())
    }
}
