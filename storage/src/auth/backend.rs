//! The tables as an etcd backend has them, and back.

use super::{FIRST_REVISION, PasswordHash, Permission, tables};
use crate::etcd::{self, AuthTables};

impl tables::Auth {
    /// The tables for a backend.
    pub(crate) fn to_backend(&self) -> AuthTables {
        let user = |(name, user): (&String, &tables::User)| etcd::User {
            name: name.as_bytes().to_vec(),
            password_hash: user.password.as_ref().map(|hash| hash.0.to_vec()).unwrap_or_default(),
            roles: user.roles.clone(),
            no_password: user.password.is_none(),
            has_options: true,
        };
        let role = |(name, permissions): (&String, &Vec<Permission>)| etcd::Role {
            name: name.as_bytes().to_vec(),
            permissions: permissions.iter().map(to_backend).collect(),
        };
        AuthTables {
            enabled: self.enabled,
            revision: self.revision,
            users: self.users.iter().map(user).collect(),
            roles: self.roles.iter().map(role).collect(),
        }
    }

    /// The tables in a backend; `None` where they cannot be: a name that is no text, a kind of
    /// permission beyond any number etcd has.
    pub(crate) fn from_backend(backend: &AuthTables) -> Option<Self> {
        let mut auth = Self { enabled: backend.enabled, ..Self::default() };
        // A row is written from the first change on, so that there is one where there are users.
        let least = FIRST_REVISION + u64::from(!backend.is_empty());
        auth.revision = backend.revision.max(least);
        for role in &backend.roles {
            let permissions: Option<_> = role.permissions.iter().map(from_backend).collect();
            auth.roles.insert(text(&role.name)?, permissions?);
        }
        for user in &backend.users {
            let hash = PasswordHash::new(user.password_hash.clone());
            let mut roles = user.roles.clone();
            roles.sort_unstable();
            roles.dedup();
            let password = (!user.no_password).then_some(hash);
            let user_name = text(&user.name)?;
            auth.users.insert(user_name, tables::User { password, roles, ..Default::default() });
        }
        auth.complete();
        Some(auth)
    }
}

fn to_backend(permission: &Permission) -> etcd::Permission {
    etcd::Permission {
        kind: i64::from(permission.kind),
        key: permission.key.to_vec(),
        range_end: permission.range_end.to_vec(),
    }
}

fn from_backend(permission: &etcd::Permission) -> Option<Permission> {
    Some(Permission {
        kind: i32::try_from(permission.kind).ok()?,
        key: permission.key.clone().into(),
        range_end: permission.range_end.clone().into(),
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}
