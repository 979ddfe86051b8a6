//! etcd's strict reconfiguration check: which changes of the voters put the quorum at risk.
//!
//! Pure: how the voters stand comes in, a verdict goes out. Two differences from etcd, both
//! because a new voter here catches up before it votes: adding one cannot stop the cluster, and
//! removing one that does not vote yet needs no check.
//!
//! Source: etcd's `--strict-reconfig-check`, observed on 3.5.1.

use std::collections::BTreeMap;

use crate::{error::MemberError, types::NodeId};

/// One voter, or a member that will vote once it has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Voter {
    /// It has run at least once: it has published its name.
    pub(crate) started: bool,
    /// The leader has heard of it lately.
    pub(crate) active: bool,
}

/// How all voters stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing(BTreeMap<NodeId, Voter>);

impl Standing {
    pub(crate) fn new(voters: BTreeMap<NodeId, Voter>) -> Self {
        Self(voters)
    }

    /// May a member be added now?
    pub(crate) fn may_add(&self, is_learner: bool) -> Result<(), MemberError> {
        if !is_learner {
            // The new one is not started. A lone member may be joined all the same.
            let lone = self.started() == 1 && self.0.len() == 1;
            if !lone && self.started() < quorum(self.0.len() + 1) {
                return Err(MemberError::NotEnoughStarted);
            }
        }
        if self.all_active() { Ok(()) } else { Err(MemberError::Unhealthy) }
    }

    /// Nobody is missing.
    pub(crate) fn all_active(&self) -> bool {
        self.0.values().all(|voter| voter.active)
    }

    /// May a learner that is in sync, and so is started, become a voter now?
    pub(crate) fn may_promote(&self) -> Result<(), MemberError> {
        if self.started() + 1 < quorum(self.0.len() + 1) {
            return Err(MemberError::NotEnoughStarted);
        }
        Ok(())
    }

    /// May the voter `id` be removed now?
    pub(crate) fn may_remove(&self, id: NodeId) -> Result<(), MemberError> {
        let Some(leaving) = self.0.get(&id) else { return Ok(()) };
        let started = self.started() - usize::from(leaving.started);
        if started < quorum(self.0.len() - 1) {
            return Err(MemberError::NotEnoughStarted);
        }
        // One that is down takes nothing from the quorum.
        let active = self.0.values().filter(|voter| voter.active).count();
        if leaving.active && active - 1 < quorum(self.0.len() - 1) {
            return Err(MemberError::Unhealthy);
        }
        Ok(())
    }

    fn started(&self) -> usize {
        self.0.values().filter(|voter| voter.started).count()
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `u`: up; `d`: started but down; `n`: never started. Ids count from 1.
    fn standing(text: &str) -> Standing {
        let voter = |state: char| Voter { started: state != 'n', active: state == 'u' };
        Standing::new((1..).zip(text.chars().map(voter)).collect())
    }

    #[test]
    fn adding_needs_a_quorum_of_started_members_and_all_of_them_up() {
        use MemberError::{NotEnoughStarted, Unhealthy};
        let cases = [
            ("u", false, Ok(())),
            ("u", true, Ok(())),
            ("un", false, Err(NotEnoughStarted)),
            ("un", true, Err(Unhealthy)),
            ("uuu", false, Ok(())),
            ("uud", false, Err(Unhealthy)),
            ("uud", true, Err(Unhealthy)),
            ("uuun", false, Err(Unhealthy)),
            ("uunn", false, Err(NotEnoughStarted)),
        ];
        for (text, is_learner, want) in cases {
            assert_eq!(standing(text).may_add(is_learner), want, "{text} {is_learner}");
        }
    }

    #[test]
    fn removing_leaves_a_quorum_started_and_up() {
        use MemberError::{NotEnoughStarted, Unhealthy};
        let cases = [
            ("u", 1, Err(NotEnoughStarted)),
            ("uu", 2, Ok(())),
            ("ud", 2, Ok(())),
            ("ud", 1, Err(Unhealthy)),
            ("un", 1, Err(NotEnoughStarted)),
            ("uuu", 3, Ok(())),
            ("uud", 3, Ok(())),
            ("uud", 2, Err(Unhealthy)),
            ("uudd", 3, Ok(())),
            ("unn", 3, Err(NotEnoughStarted)),
            ("uuu", 9, Ok(())),
        ];
        for (text, id, want) in cases {
            assert_eq!(standing(text).may_remove(id), want, "{text} without {id}");
        }
    }

    #[test]
    fn promoting_needs_a_quorum_of_started_members() {
        let cases = [("u", true), ("un", true), ("uu", true), ("unn", false), ("udn", true)];
        for (text, ok) in cases {
            assert_eq!(standing(text).may_promote().is_ok(), ok, "{text}");
        }
    }
}
