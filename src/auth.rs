//! Who is calling: from a token or a client certificate to a [`Caller`].
//!
//! | room | what it holds |
//! |---|---|
//! | `tokens` | the simple tokens this member knows, and their deadlines |
//! | `jwt` | signed tokens that prove themselves |
//! | `password` | bcrypt on a few threads with a bounded queue |
//!
//! What a caller may do is decided by the replicated tables (`tripod_storage::auth`), at apply for
//! writes and under the lock that reads for reads; nothing here grants anything.
//!
//! Invariants:
//! - the auth revision of a caller is read before his token is looked up, so that a change in
//!   between makes the revision old instead of the answer wrong;
//! - the log holds SHA-256 digests of tokens: whoever reads it cannot log in;
//! - a certificate names a user only on a connection that proved it, never through the gateway.
//!
//! Source: etcd's auth guide and the answers of etcd 3.5.1.

mod jwt;
mod password;
mod tokens;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tripod_raft::Node;
use tripod_storage::auth::{Caller, TokenDigest};

use crate::config::{AuthToken, Config};
use jwt::Jwt;
use password::Hasher;
use tokens::Tokens;

pub use jwt::KeyError;
pub(crate) use password::Busy;

/// Longest token looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How long a token of another member's login waits here for that login to be applied.
const LOGIN_WAIT_MAX: Duration = Duration::from_secs(3);
/// Between two looks for login changes and expired tokens.
const TICK: Duration = Duration::from_secs(1);

/// Settings of authentication.
#[derive(Clone, Debug)]
pub struct Options {
    /// Kind of tokens.
    pub token: AuthToken,
    /// Lifetime of a simple token after its last use.
    pub token_ttl: Duration,
    /// bcrypt's work factor.
    pub bcrypt_cost: u32,
    /// The common name of a client certificate is its user.
    pub certificates_name_users: bool,
}

impl Options {
    /// Those of a validated configuration.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            token: config.auth_token().unwrap_or(AuthToken::Simple),
            token_ttl: Duration::from_secs(config.auth_token_ttl_s),
            bcrypt_cost: config.bcrypt_cost,
            certificates_name_users: config.client_transport_security.client_cert_auth,
        }
    }
}

/// What a caller shows.
#[derive(Clone, Copy, Default)]
pub(crate) struct Credentials<'a> {
    /// A token.
    pub(crate) token: Option<&'a str>,
    /// Common name of the verified client certificate of the connection.
    pub(crate) certificate_cn: Option<&'a str>,
    /// The call came through the JSON gateway, where certificates name nobody.
    pub(crate) from_gateway: bool,
}

/// What proves a login that is still to be replicated.
pub(crate) struct Ticket {
    /// What the log says about the token.
    pub(crate) digest: Option<TokenDigest>,
    text: String,
}

/// Tokens cannot be made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Only a public key is configured. etcd's text.
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    /// The system gives no randomness, or the key fails.
    #[error("auth: a token cannot be made")]
    Failed,
}

/// One member's side of authentication; see the module.
#[derive(Debug)]
pub struct AuthService {
    node: Node,
    switch: Arc<AtomicBool>,
    kind: Kind,
    hasher: Hasher,
    certificates_name_users: bool,
    started: Instant,
}

#[derive(Debug)]
enum Kind {
    Simple(Mutex<Tokens>),
    Jwt(Box<Jwt>),
}

impl AuthService {
    /// A service beside `node`.
    ///
    /// # Errors
    /// [`KeyError`] where the keys of signed tokens cannot be used.
    pub fn new(node: Node, options: &Options) -> Result<Arc<Self>, KeyError> {
        let switch = node.state().read().auth_switch();
        let kind = match &options.token {
            AuthToken::Simple => Kind::Simple(Mutex::new(Tokens::new(options.token_ttl))),
            AuthToken::Jwt(jwt) => Kind::Jwt(Box::new(Jwt::load(jwt)?)),
        };
        Ok(Arc::new(Self {
            node,
            switch,
            kind,
            hasher: Hasher::new(options.bcrypt_cost),
            certificates_name_users: options.certificates_name_users,
            started: Instant::now(),
        }))
    }

    /// Takes in what happened to logins and lets go of expired tokens; returns when the node
    /// stops.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.node.is_stopped() {
            ticks.tick().await;
            match &self.kind {
                Kind::Simple(tokens) => {
                    let mut tokens = tokens.lock();
                    self.take_changes(&mut tokens);
                    tokens.expire(self.now_ms());
                }
                Kind::Jwt(_) => {
                    if self.node.state().read().has_login_changes() {
                        let _ = self.node.state().write().take_login_changes();
                    }
                }
            }
        }
    }

    /// Authentication is on, as far as this member has applied.
    pub(crate) fn is_enabled(&self) -> bool {
        self.switch.load(Ordering::Acquire)
    }

    /// Passwords in, hashes out.
    pub(crate) fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Who shows these credentials. A token goes before a certificate.
    pub(crate) async fn caller(&self, credentials: Credentials<'_>) -> Caller {
        if let Some(token) = credentials.token {
            return self.token_user(token).await.unwrap_or(Caller::InvalidToken);
        }
        let trusts_name = self.certificates_name_users && !credentials.from_gateway;
        match credentials.certificate_cn {
            Some(name) if trusts_name && !name.is_empty() => {
                Caller::User { name: name.into(), auth_revision: self.auth_revision() }
            }
            _ => Caller::Anonymous,
        }
    }

    fn auth_revision(&self) -> u64 {
        self.node.state().read().auth_revision()
    }

    async fn token_user(&self, token: &str) -> Option<Caller> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        match &self.kind {
            Kind::Jwt(jwt) => {
                let claims = jwt.verify(token, now_s())?;
                let (name, auth_revision) = (claims.username.into(), claims.revision);
                Some(Caller::User { name, auth_revision })
            }
            Kind::Simple(known) => {
                let (random, index) = token.rsplit_once('.')?;
                let index = tokens::index(index)?;
                self.wait_applied(index).await?;
                let auth_revision = self.auth_revision();
                let mut known = known.lock();
                self.take_changes(&mut known);
                let name = known.renew(&tokens::digest(random), index, self.now_ms())?;
                Some(Caller::User { name, auth_revision })
            }
        }
    }

    /// A token may be shown here before this member has heard of the login.
    async fn wait_applied(&self, index: u64) -> Option<()> {
        let mut applied = self.node.applied();
        if *applied.borrow() >= index {
            return Some(());
        }
        let there = applied.wait_for(|&applied| applied >= index);
        tokio::time::timeout(LOGIN_WAIT_MAX, there).await.ok()?.ok()?;
        Some(())
    }

    /// Under the lock of the tokens, so that changes are taken in in their order.
    fn take_changes(&self, tokens: &mut Tokens) {
        if !self.node.state().read().has_login_changes() {
            return;
        }
        let changes = self.node.state().write().take_login_changes();
        tokens.take_in(changes, self.now_ms());
    }

    /// Makes the token of a user whose password was right at `auth_revision`.
    pub(crate) fn issue(&self, name: &str, auth_revision: u64) -> Result<Ticket, TokenError> {
        match &self.kind {
            Kind::Simple(_) => {
                let text = tokens::random().ok_or(TokenError::Failed)?;
                Ok(Ticket { digest: Some(tokens::digest(&text)), text })
            }
            Kind::Jwt(jwt) => {
                let text = jwt.sign(name, auth_revision, now_s())?;
                Ok(Ticket { digest: None, text })
            }
        }
    }
}

impl Ticket {
    /// The token, once the login is applied at `index`.
    pub(crate) fn token(self, index: u64) -> String {
        if self.digest.is_some() { format!("{}.{index}", self.text) } else { self.text }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
