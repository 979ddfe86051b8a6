//! Users, roles, logins; and on whose behalf a client acts.
//!
//! Every operation of a [`Client`] is decided for its [`Caller`]: writes at apply, through the
//! envelope that [`Client::signed`] puts around a command; reads under the lock that reads. The
//! embedding program's own client acts as the system, which may do everything.

use std::sync::Arc;

use tripod_raft::Answer;
use tripod_storage::{
    Rejected,
    auth::{Ask, AuthChange, Caller, PasswordHash, Permission},
    command::Command,
};

use super::{Answered, Client, Error, Header};
use crate::auth::{Busy, Credentials, TokenError};

/// Password checks of one login, each undone by a change of users meanwhile.
const LOGIN_ATTEMPTS_MAX: usize = 10;
/// Bytes below which a new password is warned of. It is taken all the same, as by etcd: clients of
/// etcd rely on it, and a hash says nothing of its length.
const PASSWORD_BYTES_ADVISED: usize = 8;

/// State of authentication (etcd `AuthStatusResponse`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthStatus {
    /// It is on.
    pub enabled: bool,
    /// Counts changes of users and roles, from 1.
    pub revision: u64,
}

impl From<Busy> for Error {
    fn from(_: Busy) -> Self {
        Self::TooManyRequests
    }
}

impl From<TokenError> for Error {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl Client {
    /// The same client on behalf of somebody else.
    #[must_use]
    pub fn acting_for(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    /// On whose behalf this client acts.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Authentication is on, as far as this member has applied.
    #[must_use]
    pub fn auth_enabled(&self) -> bool {
        self.auth.is_enabled()
    }

    /// Who shows these credentials.
    pub(crate) async fn caller_of(&self, credentials: Credentials<'_>) -> Caller {
        self.auth.caller(credentials).await
    }

    /// Decides in this member's present state.
    ///
    /// # Errors
    /// [`Error::Rejected`] as `tripod_storage::auth` decides.
    pub(crate) fn permit(&self, ask: &Ask<'_>) -> Result<(), Error> {
        Ok(self.node.state().read().authorize(&self.caller, ask)?)
    }

    /// As [`Client::permit`], but what this member would refuse is decided again after it has
    /// caught up with the cluster: the right may have been given on another member.
    pub(super) async fn permit_caught_up(&self, ask: &Ask<'_>) -> Result<(), Error> {
        if self.permit(ask).is_ok() {
            return Ok(());
        }
        self.port.read_index().await?;
        self.permit(ask)
    }

    /// Puts the envelope around a command: always for the system, otherwise while
    /// authentication is on. What would be refused takes no log entry.
    pub(super) async fn signed(&self, command: Command) -> Result<Command, Error> {
        if self.caller != Caller::System {
            if !self.auth.is_enabled() {
                return Ok(command);
            }
            self.permit_caught_up(&Ask::Command(&command)).await?;
        }
        Ok(Command::As { caller: self.caller.clone(), command: Box::new(command) })
    }

    /// Proposes what this member does by itself, whoever the client acts for.
    pub(super) async fn propose_as_system(&self, command: Command) -> Result<Answer, Error> {
        let command = Command::As { caller: Caller::System, command: Box::new(command) };
        Ok(self.port.propose(command).await?)
    }

    async fn change_auth(&self, change: AuthChange) -> Answered<()> {
        let (header, _) = self.propose(Command::Auth(change)).await?;
        Ok((header, ()))
    }

    /// Reads the auth tables after a majority confirmed that this member is up to date.
    async fn read_auth<T>(
        &self,
        ask: Ask<'_>,
        read: impl FnOnce(&tripod_storage::apply::StateMachine) -> Result<T, Rejected>,
    ) -> Answered<T> {
        self.refuse_learner()?;
        self.port.read_index().await?;
        let (revision, answer) = {
            let machine = self.node.state().read();
            machine.authorize(&self.caller, &ask)?;
            (machine.revision(), read(&machine))
        };
        Ok((self.header(revision), answer?))
    }

    /// Switches authentication on; user and role root must be there.
    ///
    /// # Errors
    /// [`Rejected::RootUserMissing`], [`Rejected::RootRoleMissing`], the availability errors.
    pub async fn auth_enable(&self) -> Answered<()> {
        self.change_auth(AuthChange::Enable).await
    }

    /// Switches it off; all tokens end.
    ///
    /// # Errors
    /// The availability errors.
    pub async fn auth_disable(&self) -> Answered<()> {
        self.change_auth(AuthChange::Disable).await
    }

    /// Whether it is on.
    ///
    /// # Errors
    /// The availability errors.
    pub async fn auth_status(&self) -> Answered<AuthStatus> {
        let status = |machine: &tripod_storage::apply::StateMachine| {
            let (enabled, revision) = (machine.is_auth_enabled(), machine.auth_revision());
            Ok(AuthStatus { enabled, revision })
        };
        self.read_auth(Ask::Admin, status).await
    }

    /// Checks a password and makes a token, good on every member.
    ///
    /// # Errors
    /// [`Rejected::AuthFailed`], [`Rejected::AuthNotEnabled`], [`Rejected::NoPasswordUser`],
    /// [`Error::TooManyRequests`] while many log in, the availability errors.
    pub async fn authenticate(&self, name: &str, password: &str) -> Answered<String> {
        self.refuse_learner()?;
        self.port.read_index().await?;
        let (name, password): (Arc<str>, Arc<str>) = (name.into(), password.into());
        for _ in 0..LOGIN_ATTEMPTS_MAX {
            let (auth_revision, hash) = {
                let machine = self.node.state().read();
                (machine.auth_revision(), machine.password(&name)?)
            };
            if !self.auth.hasher().verify(password.clone(), hash).await? {
                return Err(Rejected::AuthFailed.into());
            }
            let ticket = self.auth.issue(&name, auth_revision)?;
            let (name, token) = (name.clone(), ticket.digest);
            let login = Command::Auth(AuthChange::Login { name, auth_revision, token });
            let Answer { applied, term, index } = self.port.propose(login).await?;
            match applied.outcome {
                Ok(_) => {
                    let header = Header { raft_term: term, ..self.header(applied.revision) };
                    return Ok((header, ticket.token(index)));
                }
                Err(Rejected::AuthOldRevision) => {}
                Err(rejected) => return Err(rejected.into()),
            }
        }
        Err(Error::TooManyRequests)
    }

    /// Adds a user; without a password he can use certificates only.
    ///
    /// # Errors
    /// [`Rejected::UserExists`], [`Rejected::UserEmpty`], the availability errors.
    pub async fn user_add(&self, name: &str, password: Option<&str>) -> Answered<()> {
        let password = match password {
            Some(password) => Some(self.hash_password(name, password).await?),
            None => None,
        };
        self.change_auth(AuthChange::UserAdd { name: name.to_owned(), password }).await
    }

    /// Changes a password; the user's tokens end.
    ///
    /// # Errors
    /// [`Rejected::UserNotFound`], the availability errors.
    pub async fn user_change_password(&self, name: &str, password: &str) -> Answered<()> {
        let hash = self.hash_password(name, password).await?;
        self.user_set_password_hash(name, Some(hash)).await
    }

    /// As [`Client::user_change_password`] with a bcrypt hash; `None` stands for bytes that
    /// cannot be one.
    ///
    /// # Errors
    /// [`Rejected::UserNotFound`], [`Rejected::NoPasswordUser`] for `None`, the availability
    /// errors.
    pub async fn user_set_password_hash(
        &self,
        name: &str,
        password: Option<PasswordHash>,
    ) -> Answered<()> {
        self.change_auth(AuthChange::UserChangePassword { name: name.to_owned(), password }).await
    }

    /// Only for whom may change users: others must not make the processor work.
    async fn hash_password(&self, name: &str, password: &str) -> Result<PasswordHash, Error> {
        self.permit_caught_up(&Ask::Admin).await?;
        if password.len() < PASSWORD_BYTES_ADVISED {
            tracing::warn!(
                name,
                "this user's new password is easy to guess: choose one of {PASSWORD_BYTES_ADVISED} \
                 bytes or more"
            );
        }
        Ok(self.auth.hasher().hash(password.to_owned()).await?)
    }

    /// Removes a user; his tokens end.
    ///
    /// # Errors
    /// [`Rejected::UserNotFound`], [`Rejected::InvalidAuthManagement`] for root while
    /// authentication is on, the availability errors.
    pub async fn user_delete(&self, name: &str) -> Answered<()> {
        self.change_auth(AuthChange::UserDelete { name: name.to_owned() }).await
    }

    /// Roles of a user by name.
    ///
    /// # Errors
    /// [`Rejected::UserNotFound`], the availability errors.
    pub async fn user_get(&self, name: &str) -> Answered<Vec<String>> {
        self.read_auth(Ask::User(name), |machine| machine.user_roles(name)).await
    }

    /// All users by name.
    ///
    /// # Errors
    /// The availability errors.
    pub async fn user_list(&self) -> Answered<Vec<String>> {
        self.read_auth(Ask::Admin, |machine| Ok(machine.users())).await
    }

    /// Gives a user a role.
    ///
    /// # Errors
    /// [`Rejected::UserNotFound`], [`Rejected::RoleNotFound`], the availability errors.
    pub async fn user_grant_role(&self, user: &str, role: &str) -> Answered<()> {
        let (user, role) = (user.to_owned(), role.to_owned());
        self.change_auth(AuthChange::UserGrantRole { user, role }).await
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// [`Rejected::UserNotFound`], [`Rejected::RoleNotGranted`],
    /// [`Rejected::InvalidAuthManagement`], the availability errors.
    pub async fn user_revoke_role(&self, user: &str, role: &str) -> Answered<()> {
        let (user, role) = (user.to_owned(), role.to_owned());
        self.change_auth(AuthChange::UserRevokeRole { user, role }).await
    }

    /// Adds a role without rights.
    ///
    /// # Errors
    /// [`Rejected::RoleExists`], [`Rejected::RoleEmpty`], the availability errors.
    pub async fn role_add(&self, name: &str) -> Answered<()> {
        self.change_auth(AuthChange::RoleAdd { name: name.to_owned() }).await
    }

    /// Removes a role, from its users too.
    ///
    /// # Errors
    /// [`Rejected::RoleNotFound`], [`Rejected::InvalidAuthManagement`], the availability errors.
    pub async fn role_delete(&self, name: &str) -> Answered<()> {
        self.change_auth(AuthChange::RoleDelete { name: name.to_owned() }).await
    }

    /// Permissions of a role by key.
    ///
    /// # Errors
    /// [`Rejected::RoleNotFound`], the availability errors.
    pub async fn role_get(&self, name: &str) -> Answered<Vec<Permission>> {
        self.read_auth(Ask::Role(name), |machine| machine.role_permissions(name)).await
    }

    /// All roles by name.
    ///
    /// # Errors
    /// The availability errors.
    pub async fn role_list(&self) -> Answered<Vec<String>> {
        self.read_auth(Ask::Admin, |machine| Ok(machine.roles())).await
    }

    /// Gives a role a right; `None` stands for a request without one.
    ///
    /// # Errors
    /// [`Rejected::RoleNotFound`], [`Rejected::PermissionNotGiven`],
    /// [`Rejected::InvalidAuthManagement`] for a range without keys, the availability errors.
    pub async fn role_grant_permission(
        &self,
        name: &str,
        permission: Option<Permission>,
    ) -> Answered<()> {
        let name = name.to_owned();
        self.change_auth(AuthChange::RoleGrantPermission { name, permission }).await
    }

    /// Takes a right from a role: that of exactly this key and end.
    ///
    /// # Errors
    /// [`Rejected::RoleNotFound`], [`Rejected::PermissionNotGranted`], the availability errors.
    pub async fn role_revoke_permission(
        &self,
        name: &str,
        key: impl Into<bytes::Bytes>,
        range_end: impl Into<bytes::Bytes>,
    ) -> Answered<()> {
        let (name, key, range_end) = (name.to_owned(), key.into(), range_end.into());
        self.change_auth(AuthChange::RoleRevokePermission { name, key, range_end }).await
    }
}
