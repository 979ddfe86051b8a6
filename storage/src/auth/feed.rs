//! What happened to logins since somebody last looked: from apply to a member's tokens.

use std::sync::Arc;

use super::TokenDigest;

/// Changes kept for the member to take.
const CHANGES_MAX: usize = 65_536;

/// One change of who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginChange {
    /// A token was handed out.
    Issued {
        /// To whom.
        name: Arc<str>,
        /// What it is known by.
        token: TokenDigest,
        /// Log index of the login: part of the token.
        index: u64,
    },
    /// A user's tokens end: his account or password changed.
    Ended {
        /// User name.
        name: String,
    },
    /// All tokens end: authentication was switched off.
    AllEnded,
}

/// What a member takes from the feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoginChanges {
    /// Changes before these are lost: no earlier token is to be trusted.
    pub gap: bool,
    /// Changes in their order.
    pub changes: Vec<LoginChange>,
}

/// Bounded list of changes; an overflow leaves a gap.
#[derive(Debug)]
pub(crate) struct LoginFeed(LoginChanges);

impl Default for LoginFeed {
    /// What happened before is not known.
    fn default() -> Self {
        Self(LoginChanges { gap: true, changes: Vec::new() })
    }
}

impl LoginFeed {
    pub(crate) fn push(&mut self, change: LoginChange) {
        if self.0.changes.len() >= CHANGES_MAX {
            *self = Self::default();
        }
        self.0.changes.push(change);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.0.gap || !self.0.changes.is_empty()
    }

    /// The changes since the last call.
    pub(crate) fn take(&mut self) -> LoginChanges {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_told_once_and_what_follows_it_is_kept() {
        let mut feed = LoginFeed::default();
        feed.push(LoginChange::AllEnded);
        let first = LoginChanges { gap: true, changes: vec![LoginChange::AllEnded] };
        assert_eq!(feed.take(), first, "a login right after a start or snapshot counts");
        assert!(!feed.is_waiting());
        for _ in 0..=CHANGES_MAX {
            feed.push(LoginChange::AllEnded);
        }
        assert_eq!(feed.take(), first);
        assert_eq!(feed.take(), LoginChanges::default());
    }
}
