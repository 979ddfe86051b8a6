//! When a sole voter may answer linearizable reads without asking anybody.
//!
//! Nobody else can commit while this member is the only voter, and answers are given after
//! applying; so whatever was acknowledged is in the local state. The danger is a change of the
//! membership: the permission is withdrawn *before* a change is proposed, and given again only
//! after consensus itself reported a configuration with this member alone, with no change begun
//! meanwhile.

use std::{collections::BTreeSet, sync::Arc};

use openraft::LinearizerOption;
use parking_lot::Mutex;

use crate::{
    hub::Hub,
    node::Raft,
    queue::Queues,
    types::{NodeId, StoredMembership},
};

pub(crate) struct Sole {
    queues: Arc<Queues>,
    state: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    /// Changes under way.
    running: u32,
    /// Grows with every change and every loss of leadership.
    generation: u64,
}

/// Held while a change is under way.
pub(crate) struct ChangeGuard<'a>(&'a Sole);

impl Drop for ChangeGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.running -= 1;
        state.generation += 1;
    }
}

impl Sole {
    pub(crate) fn new(queues: Arc<Queues>) -> Self {
        Self { queues, state: Mutex::default() }
    }

    /// Withdraws the permission until after the change.
    pub(crate) fn begin_change(&self) -> ChangeGuard<'_> {
        let mut state = self.state.lock();
        state.running += 1;
        state.generation += 1;
        self.queues.set_sole_voter(false);
        ChangeGuard(self)
    }

    /// Withdraws the permission: this member does not lead any more.
    pub(crate) fn withdraw(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        self.queues.set_sole_voter(false);
    }

    /// The permission is given now.
    pub(crate) fn is_given(&self) -> bool {
        self.queues.is_sole_voter()
    }

    /// Gives the permission if it holds. Asks consensus, so that every change proposed before is
    /// seen.
    pub(crate) async fn renew(&self, node_id: NodeId, raft: &Raft, hub: &Hub) {
        let generation = {
            let state = self.state.lock();
            if state.running > 0 {
                return;
            }
            state.generation
        };
        let alone = raft.with_raft_state(move |state| {
            let members = &state.membership_state;
            is_alone(node_id, members.effective()) && is_alone(node_id, members.committed())
        });
        if !matches!(alone.await, Ok(true)) {
            return;
        }
        // Fails unless this member leads; the index covers all that earlier leaders committed.
        let option = LinearizerOption::new(Some(std::time::Duration::ZERO), true);
        let Ok(linearizer) = raft.get_read_linearizer(option).await else { return };
        let index = linearizer.read_log_id().index();
        let mut applied = hub.watch_applied();
        while *applied.borrow_and_update() <= index {
            if applied.changed().await.is_err() {
                return;
            }
        }
        let state = self.state.lock();
        if state.running == 0 && state.generation == generation {
            self.queues.set_sole_voter(true);
        }
    }
}

/// `membership` has `node_id` as its only voter.
fn is_alone(node_id: NodeId, membership: &StoredMembership) -> bool {
    let configs = membership.membership().get_joint_config();
    configs.len() == 1 && configs[0] == BTreeSet::from([node_id])
}
