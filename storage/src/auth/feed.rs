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

/// Bounded list of changes; an overflow is remembered instead of them.
#[derive(Debug)]
pub(crate) struct LoginFeed {
    changes: Vec<LoginChange>,
    overflown: bool,
}

impl Default for LoginFeed {
    /// What happened before is not known.
    fn default() -> Self {
        Self { changes: Vec::new(), overflown: true }
    }
}

impl LoginFeed {
    pub(crate) fn push(&mut self, change: LoginChange) {
        if self.overflown {
            // Whoever takes it ends all tokens: those of before, and this one.
            return;
        }
        if self.changes.len() >= CHANGES_MAX {
            self.changes = Vec::new();
            self.overflown = true;
            return;
        }
        self.changes.push(change);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.overflown || !self.changes.is_empty()
    }

    /// The changes since the last call; `None` where some are lost: end all tokens.
    pub(crate) fn take(&mut self) -> Option<Vec<LoginChange>> {
        let changes = std::mem::take(&mut self.changes);
        (!std::mem::take(&mut self.overflown)).then_some(changes)
    }
}
