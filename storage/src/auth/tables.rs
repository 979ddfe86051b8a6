//! The tables and the rules of their changes.

use std::collections::BTreeMap;

use super::{
    AuthChange, FIRST_REVISION, LoginChange, PasswordHash, Permission, ROOT, spans::Spans,
};
use crate::{
    Error, Rejected, codec,
    keys::{self, corrupt},
};

/// Rows of the engine: key and value, `None` to delete.
pub(crate) type Rows = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A user, with what his roles grant.
#[derive(Debug, Default)]
pub(super) struct User {
    /// `None`: no password.
    pub(super) password: Option<PasswordHash>,
    /// Ascending.
    pub(super) roles: Vec<String>,
    pub(super) reads: Spans,
    pub(super) writes: Spans,
}

impl User {
    pub(super) fn has_role(&self, role: &str) -> bool {
        self.roles.binary_search_by(|has| has.as_str().cmp(role)).is_ok()
    }
}

/// See the module [`crate::auth`].
#[derive(Debug)]
pub(crate) struct Auth {
    pub(super) users: BTreeMap<String, User>,
    /// Permissions by key; see [`sort_as_go`] for those of one key.
    pub(super) roles: BTreeMap<String, Vec<Permission>>,
    pub(super) enabled: bool,
    pub(super) revision: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            enabled: false,
            revision: FIRST_REVISION,
        }
    }
}

/// What a change left to do.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    /// Rows to write.
    pub(crate) rows: Rows,
    /// What it means for tokens.
    pub(crate) login: Option<LoginChange>,
}

impl Auth {
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn user_names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    pub(crate) fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    /// Roles of a user.
    pub(crate) fn user_roles(&self, name: &str) -> Result<Vec<String>, Rejected> {
        Ok(self.users.get(name).ok_or(Rejected::UserNotFound)?.roles.clone())
    }

    /// Permissions of a role.
    pub(crate) fn permissions(&self, role: &str) -> Result<Vec<Permission>, Rejected> {
        self.roles.get(role).cloned().ok_or(Rejected::RoleNotFound)
    }

    /// The hash that a password must match. Inner `None`: nothing matches.
    pub(crate) fn password(&self, name: &str) -> Result<PasswordHash, Rejected> {
        if !self.enabled {
            return Err(Rejected::AuthNotEnabled);
        }
        let user = self.users.get(name).ok_or(Rejected::AuthFailed)?;
        user.password.clone().ok_or(Rejected::NoPasswordUser)
    }

    /// Applies a change; `index` is the log's. A refused change has changed nothing.
    pub(crate) fn change(&mut self, change: AuthChange, index: u64) -> Result<Effect, Rejected> {
        let mut effect = Effect::default();
        match change {
            AuthChange::Enable => self.enable()?,
            AuthChange::Disable => {
                if self.enabled {
                    self.enabled = false;
                    self.revision += 1;
                    effect.login = Some(LoginChange::AllEnded);
                }
            }
            AuthChange::Login { name, auth_revision, token } => {
                self.check_login(&name, auth_revision)?;
                effect.login = token.map(|token| LoginChange::Issued { name, token, index });
                return Ok(effect);
            }
            AuthChange::UserAdd { name, password } => self.add_user(name, password, &mut effect)?,
            AuthChange::UserDelete { name } => {
                self.guard_root(&name)?;
                self.users.remove(&name).ok_or(Rejected::UserNotFound)?;
                effect.rows.push((keys::user_key(&name), None));
                effect.login = Some(LoginChange::Ended { name });
                self.revision += 1;
            }
            AuthChange::UserChangePassword { name, password } => {
                let user = self.users.get_mut(&name).ok_or(Rejected::UserNotFound)?;
                // A user without a password gets none this way, and that is no error in etcd.
                if user.password.is_some() {
                    user.password = Some(password.ok_or(Rejected::NoPasswordUser)?);
                }
                self.note_user(&name, &mut effect);
                effect.login = Some(LoginChange::Ended { name });
                self.revision += 1;
            }
            AuthChange::UserGrantRole { user, role } => {
                self.grant_role(&user, role, &mut effect)?;
            }
            AuthChange::UserRevokeRole { user, role } => {
                self.revoke_role(&user, &role, &mut effect)?;
            }
            AuthChange::RoleAdd { name } => {
                if name.is_empty() {
                    return Err(Rejected::RoleEmpty);
                }
                if self.roles.contains_key(&name) {
                    return Err(Rejected::RoleExists);
                }
                self.roles.insert(name.clone(), Vec::new());
                self.note_role(&name, &mut effect);
                self.revision += 1;
            }
            AuthChange::RoleDelete { name } => self.delete_role(&name, &mut effect)?,
            AuthChange::RoleGrantPermission { name, permission } => {
                self.grant_permission(&name, permission, &mut effect)?;
            }
            AuthChange::RoleRevokePermission { name, key, range_end } => {
                let role = self.roles.get_mut(&name).ok_or(Rejected::RoleNotFound)?;
                let before = role.len();
                role.retain(|permission| !permission.is_same_range(&key, &range_end));
                if role.len() == before {
                    return Err(Rejected::PermissionNotGranted);
                }
                self.note_role(&name, &mut effect);
                self.revision += 1;
            }
        }
        effect.rows.push((keys::AUTH_ROW.to_vec(), Some(self.switch_row())));
        Ok(effect)
    }

    fn enable(&mut self) -> Result<(), Rejected> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(Rejected::RootUserMissing)?;
        if !root.has_role(ROOT) {
            return Err(Rejected::RootRoleMissing);
        }
        self.enabled = true;
        Ok(())
    }

    fn check_login(&self, name: &str, auth_revision: u64) -> Result<(), Rejected> {
        if !self.enabled {
            return Err(Rejected::AuthNotEnabled);
        }
        if auth_revision != self.revision {
            return Err(Rejected::AuthOldRevision);
        }
        if self.users.contains_key(name) { Ok(()) } else { Err(Rejected::AuthFailed) }
    }

    fn add_user(
        &mut self,
        name: String,
        password: Option<PasswordHash>,
        effect: &mut Effect,
    ) -> Result<(), Rejected> {
        if name.is_empty() {
            return Err(Rejected::UserEmpty);
        }
        if self.users.contains_key(&name) {
            return Err(Rejected::UserExists);
        }
        self.users.insert(name.clone(), User { password, ..User::default() });
        self.note_user(&name, effect);
        self.revision += 1;
        Ok(())
    }

    /// While authentication is on, the user and the role root stay.
    fn guard_root(&self, name: &str) -> Result<(), Rejected> {
        if self.enabled && name == ROOT { Err(Rejected::InvalidAuthManagement) } else { Ok(()) }
    }

    fn grant_role(
        &mut self,
        name: &str,
        role: String,
        effect: &mut Effect,
    ) -> Result<(), Rejected> {
        let user = self.users.get_mut(name).ok_or(Rejected::UserNotFound)?;
        // The role root means something without being in the table.
        if role != ROOT && !self.roles.contains_key(&role) {
            return Err(Rejected::RoleNotFound);
        }
        let Err(at) = user.roles.binary_search(&role) else { return Ok(()) };
        user.roles.insert(at, role);
        self.note_user(name, effect);
        self.revision += 1;
        Ok(())
    }

    fn revoke_role(&mut self, name: &str, role: &str, effect: &mut Effect) -> Result<(), Rejected> {
        if name == ROOT && role == ROOT {
            self.guard_root(name)?;
        }
        let user = self.users.get_mut(name).ok_or(Rejected::UserNotFound)?;
        if !user.has_role(role) {
            return Err(Rejected::RoleNotGranted);
        }
        user.roles.retain(|has| has != role);
        self.note_user(name, effect);
        self.revision += 1;
        Ok(())
    }

    fn delete_role(&mut self, name: &str, effect: &mut Effect) -> Result<(), Rejected> {
        self.guard_root(name)?;
        self.roles.remove(name).ok_or(Rejected::RoleNotFound)?;
        effect.rows.push((keys::role_key(name), None));
        for user in self.names_with_role(name) {
            if let Some(user) = self.users.get_mut(&user) {
                user.roles.retain(|has| has != name);
            }
            self.note_user(&user, effect);
        }
        self.revision += 1;
        Ok(())
    }

    /// As every etcd release does, only the first permission of a key is replaced; the list
    /// stays ordered by key alone.
    fn grant_permission(
        &mut self,
        name: &str,
        permission: Option<Permission>,
        effect: &mut Effect,
    ) -> Result<(), Rejected> {
        let permission = permission.ok_or(Rejected::PermissionNotGiven)?;
        if permission.is_empty() {
            return Err(Rejected::InvalidAuthManagement);
        }
        let role = self.roles.get_mut(name).ok_or(Rejected::RoleNotFound)?;
        let first = role.partition_point(|has| has.key < permission.key);
        let (key, range_end) = (&permission.key, &permission.range_end);
        match role.get_mut(first).filter(|has| has.is_same_range(key, range_end)) {
            Some(has) => has.kind = permission.kind,
            None => {
                role.push(permission);
                sort_as_go(role);
            }
        }
        self.note_role(name, effect);
        self.revision += 1;
        Ok(())
    }

    fn names_with_role(&self, role: &str) -> Vec<String> {
        let has = |(_, user): &(&String, &User)| user.has_role(role);
        self.users.iter().filter(has).map(|(name, _)| name.clone()).collect()
    }

    /// A user changed: what his roles grant is merged anew, and his row is written.
    fn note_user(&mut self, name: &str, effect: &mut Effect) {
        self.merge(name);
        if let Some(user) = self.users.get(name) {
            effect.rows.push((keys::user_key(name), Some(user_row(user))));
        }
    }

    fn note_role(&mut self, name: &str, effect: &mut Effect) {
        let row = self.roles.get(name).map(codec::encode);
        effect.rows.push((keys::role_key(name), row));
        for user in self.names_with_role(name) {
            self.merge(&user);
        }
    }

    fn merge(&mut self, name: &str) {
        let Self { users, roles, .. } = self;
        let Some(user) = users.get_mut(name) else { return };
        let granted = |wanted: fn(&Permission) -> bool| {
            let permissions = user.roles.iter().filter_map(|role| roles.get(role)).flatten();
            Spans::of(permissions.filter(|p| wanted(p)).map(|p| (&p.key, &p.range_end)))
        };
        let (reads, writes) = (granted(Permission::reads), granted(Permission::writes));
        (user.reads, user.writes) = (reads, writes);
    }

    fn switch_row(&self) -> Vec<u8> {
        codec::encode(&(self.enabled, self.revision))
    }

    /// All rows, for a snapshot; none where nothing was ever changed.
    pub(crate) fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        if self.revision == FIRST_REVISION && !self.enabled {
            return Vec::new();
        }
        let users = self.users.iter().map(|(name, user)| (keys::user_key(name), user_row(user)));
        let roles = self.roles.iter().map(|(name, r)| (keys::role_key(name), codec::encode(r)));
        let switch = (keys::AUTH_ROW.to_vec(), self.switch_row());
        users.chain(roles).chain([switch]).collect()
    }

    /// Takes a stored row in; [`Auth::complete`] once all are.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(crate) fn load(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let bad = |detail: String| corrupt("auth row", detail);
        let malformed = |error: codec::Error| bad(error.to_string());
        let (&table, name) = key.split_first().ok_or_else(|| bad("it has no key".to_owned()))?;
        let name = || {
            let name = std::str::from_utf8(name).map_err(|error| bad(error.to_string()))?;
            Ok::<_, Error>(name.to_owned())
        };
        match table {
            keys::USER => {
                let (password, roles) = codec::decode(row).map_err(malformed)?;
                self.users.insert(name()?, User { password, roles, ..User::default() });
            }
            keys::ROLE => {
                let permissions = codec::decode(row).map_err(malformed)?;
                self.roles.insert(name()?, permissions);
            }
            _ => (self.enabled, self.revision) = codec::decode(row).map_err(malformed)?,
        }
        Ok(())
    }

    /// Merges what all roles grant, after the last row is loaded.
    pub(crate) fn complete(&mut self) {
        for name in self.user_names() {
            self.merge(&name);
        }
    }
}

/// Sorts by key. Permissions of one key come out as Go's sort of a short list leaves them, since
/// clients see the order: a pass over pairs six apart, then insertion.
fn sort_as_go(role: &mut [Permission]) {
    const GAP: usize = 6;
    let is_below = |role: &[Permission], at: usize, other: usize| {
        role.get(at).zip(role.get(other)).is_some_and(|(a, b)| a.key < b.key)
    };
    for at in GAP..role.len() {
        if is_below(role, at, at - GAP) {
            role.swap(at, at - GAP);
        }
    }
    for start in 1..role.len() {
        let mut at = start;
        while at > 0 && is_below(role, at, at - 1) {
            role.swap(at, at - 1);
            at -= 1;
        }
    }
}

fn user_row(user: &User) -> Vec<u8> {
    codec::encode(&(&user.password, &user.roles))
}
