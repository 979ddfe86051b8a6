//! Simple tokens: 16 random letters, a dot and the log index of the login.
//!
//! Each member knows all of them from the log, by digest; lifetimes are each member's own, as in
//! etcd. Pure but for [`random`]: time in milliseconds is an argument.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use ring::{
    digest::{SHA256, digest as ring_digest},
    rand::{SecureRandom as _, SystemRandom},
};
use tripod_storage::auth::{LoginChange, LoginChanges, TokenDigest};

/// Letters before the dot: more than 90 bits, beyond any search for a digest.
const LETTERS: usize = 16;
/// Tokens known at once; beyond it the one that would expire first goes.
const TOKENS_MAX: usize = 100_000;
/// A use moves the deadline only by steps of this many milliseconds.
const RENEW_STEP_MS: u64 = 1000;

#[derive(Debug)]
struct Token {
    name: Arc<str>,
    index: u64,
    expires_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tokens {
    ttl_ms: u64,
    known: HashMap<TokenDigest, Token>,
    by_expiry: BTreeSet<(u64, TokenDigest)>,
}

impl Tokens {
    pub(super) fn new(ttl: Duration) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Self { ttl_ms, known: HashMap::new(), by_expiry: BTreeSet::new() }
    }

    /// Takes in what happened to logins; after a gap no earlier token is trusted.
    pub(super) fn take_in(&mut self, taken: LoginChanges, now_ms: u64) {
        if taken.gap {
            self.clear();
        }
        for change in taken.changes {
            match change {
                LoginChange::Issued { name, token, index } => {
                    self.insert(token, name, index, now_ms);
                }
                LoginChange::Ended { name } => {
                    let Self { known, by_expiry, .. } = self;
                    known.retain(|digest, token| {
                        let stays = *token.name != *name;
                        if !stays {
                            by_expiry.remove(&(token.expires_ms, *digest));
                        }
                        stays
                    });
                }
                LoginChange::AllEnded => self.clear(),
            }
        }
    }

    fn clear(&mut self) {
        self.known.clear();
        self.by_expiry.clear();
    }

    fn insert(&mut self, digest: TokenDigest, name: Arc<str>, index: u64, now_ms: u64) {
        if self.known.len() >= TOKENS_MAX
            && let Some((_, first)) = self.by_expiry.pop_first()
        {
            self.known.remove(&first);
        }
        let expires_ms = now_ms.saturating_add(self.ttl_ms);
        if let Some(before) = self.known.insert(digest, Token { name, index, expires_ms }) {
            self.by_expiry.remove(&(before.expires_ms, digest));
        }
        self.by_expiry.insert((expires_ms, digest));
    }

    /// Whose token it is; using it gives it its whole lifetime again.
    pub(super) fn renew(
        &mut self,
        digest: &TokenDigest,
        index: u64,
        now_ms: u64,
    ) -> Option<Arc<str>> {
        let token = self.known.get_mut(digest)?;
        if token.index != index || token.expires_ms <= now_ms {
            return None;
        }
        let expires_ms = now_ms.saturating_add(self.ttl_ms);
        if expires_ms >= token.expires_ms.saturating_add(RENEW_STEP_MS) {
            self.by_expiry.remove(&(token.expires_ms, *digest));
            self.by_expiry.insert((expires_ms, *digest));
            token.expires_ms = expires_ms;
        }
        Some(Arc::clone(&token.name))
    }

    /// Lets go of expired tokens.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some(&(expires_ms, digest)) = self.by_expiry.first()
            && expires_ms <= now_ms
        {
            self.by_expiry.pop_first();
            self.known.remove(&digest);
        }
    }
}

/// What the log says about a token of these letters.
pub(super) fn digest(letters: &str) -> TokenDigest {
    let mut digest = [0; 32];
    for (to, from) in digest.iter_mut().zip(ring_digest(&SHA256, letters.as_bytes()).as_ref()) {
        *to = *from;
    }
    digest
}

/// The index behind the dot, in its one spelling.
pub(super) fn index(digits: &str) -> Option<u64> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain)
}

/// Fresh letters; `None` where the system has no randomness.
pub(super) fn random() -> Option<String> {
    const ALPHABET: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let source = SystemRandom::new();
    let mut letters = String::with_capacity(LETTERS);
    while letters.len() < LETTERS {
        let mut bytes = [0; 2 * LETTERS];
        source.fill(&mut bytes).ok()?;
        // Bytes from 208 on would make some letters likelier than others.
        let fair = bytes.iter().filter(|&&byte| byte < 208).map(|&byte| usize::from(byte) % 52);
        let left = LETTERS - letters.len();
        letters.extend(fair.take(left).filter_map(|at| ALPHABET.get(at)).map(|&c| char::from(c)));
    }
    Some(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(name: &str, token: u8, index: u64) -> LoginChange {
        LoginChange::Issued { name: name.into(), token: [token; 32], index }
    }

    fn taken(changes: Vec<LoginChange>) -> LoginChanges {
        LoginChanges { gap: false, changes }
    }

    fn tokens() -> Tokens {
        let mut tokens = Tokens::new(Duration::from_secs(10));
        tokens.take_in(taken(vec![issued("a", 1, 7), issued("a", 2, 7), issued("b", 3, 8)]), 0);
        tokens
    }

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let mut tokens = tokens();
        assert_eq!(tokens.renew(&[1; 32], 7, 9_000).as_deref(), Some("a"));
        assert_eq!(tokens.renew(&[1; 32], 8, 9_000), None, "the index is part of it");
        tokens.expire(10_000);
        assert_eq!(tokens.renew(&[2; 32], 7, 10_000), None, "never used");
        assert_eq!(tokens.renew(&[1; 32], 7, 18_999).as_deref(), Some("a"));
        assert_eq!(tokens.renew(&[1; 32], 7, 28_999), None, "expired, though not yet let go");
        tokens.expire(28_999);
        assert!(tokens.known.is_empty() && tokens.by_expiry.is_empty());
    }

    #[test]
    fn tokens_end_with_their_user_with_the_switch_and_with_a_gap() {
        let mut known = tokens();
        known.take_in(taken(vec![LoginChange::Ended { name: "a".into() }]), 0);
        assert_eq!(known.renew(&[1; 32], 7, 0), None);
        assert_eq!(known.renew(&[3; 32], 8, 0).as_deref(), Some("b"));
        assert_eq!(known.by_expiry.len(), 1);
        let gap = LoginChanges { gap: true, changes: vec![issued("c", 4, 9)] };
        for (changes, after) in [(taken(vec![LoginChange::AllEnded]), 0), (gap, 1)] {
            let mut tokens = tokens();
            tokens.take_in(changes, 0);
            assert_eq!(tokens.renew(&[3; 32], 8, 0), None);
            assert_eq!(tokens.by_expiry.len(), after, "what follows a gap is kept");
        }
    }

    #[test]
    fn letters_are_sixteen_and_never_the_same() {
        let letters = random().unwrap();
        assert_eq!(letters.len(), LETTERS);
        assert!(letters.bytes().all(|byte| byte.is_ascii_alphabetic()));
        assert_ne!(letters, random().unwrap());
        assert_ne!(digest("a"), digest("b"));
        assert_eq!(index("10"), Some(10));
        for wrong in ["", "010", "+1", "-1", "1x", "99999999999999999999"] {
            assert_eq!(index(wrong), None, "{wrong}");
        }
    }
}
