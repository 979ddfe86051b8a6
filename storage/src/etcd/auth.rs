//! Users and roles in an etcd backend.

use super::wire::{Value, fields, put_bytes, put_number};

/// The authentication tables of a backend, in order of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthTables {
    /// Authentication is on.
    pub enabled: bool,
    /// Counts changes of these tables.
    pub revision: u64,
    /// Users.
    pub users: Vec<User>,
    /// Roles.
    pub roles: Vec<Role>,
}

impl AuthTables {
    /// True where nothing was ever set up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.enabled && self.users.is_empty() && self.roles.is_empty()
    }
}

/// A user (etcd `authpb.User`).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: Vec<u8>,
    /// bcrypt hash of the password.
    pub password_hash: Vec<u8>,
    /// Names of roles.
    pub roles: Vec<String>,
    /// Logs in by certificate alone.
    pub no_password: bool,
    /// Whether the message has options at all, which makes a byte of difference.
    pub has_options: bool,
}

impl std::fmt::Debug for User {
    /// Without the hash: it must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("roles", &self.roles.len()).finish_non_exhaustive()
    }
}

impl User {
    /// The stored message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &self.name);
        put_bytes(&mut out, 2, &self.password_hash);
        for role in &self.roles {
            put_bytes(&mut out, 3, role.as_bytes());
        }
        match (self.has_options, self.no_password) {
            (_, true) => out.extend_from_slice(&[4 << 3 | 2, 2, 1 << 3, 1]),
            (true, false) => out.extend_from_slice(&[4 << 3 | 2, 0]),
            (false, false) => {}
        }
        out
    }

    /// Reads a stored message; `None` where it is malformed.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut user = Self::default();
        fields(message, |field, value| {
            match (field, value) {
                (1, Value::Bytes(name)) => user.name = name.to_vec(),
                (2, Value::Bytes(hash)) => user.password_hash = hash.to_vec(),
                (3, Value::Bytes(role)) => user.roles.push(text(role)?),
                (4, Value::Bytes(options)) => {
                    user.has_options = true;
                    fields(options, |field, value| {
                        user.no_password |= field == 1 && value == Value::Number(1);
                        Some(())
                    })?;
                }
                (1..=4, _) => return None,
                _ => {}
            }
            Some(())
        })?;
        Some(user)
    }
}

/// A role (etcd `authpb.Role`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Name.
    pub name: Vec<u8>,
    /// What it permits.
    pub permissions: Vec<Permission>,
}

/// What a role permits (etcd `authpb.Permission`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permission {
    /// 0 read, 1 write, 2 both.
    pub kind: i64,
    /// First key.
    pub key: Vec<u8>,
    /// Exclusive end in etcd's convention.
    pub range_end: Vec<u8>,
}

impl Role {
    /// The stored message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &self.name);
        for permission in &self.permissions {
            let mut inner = Vec::new();
            put_number(&mut inner, 1, permission.kind);
            put_bytes(&mut inner, 2, &permission.key);
            put_bytes(&mut inner, 3, &permission.range_end);
            if inner.is_empty() {
                out.extend_from_slice(&[2 << 3 | 2, 0]);
            } else {
                put_bytes(&mut out, 2, &inner);
            }
        }
        out
    }

    /// Reads a stored message; `None` where it is malformed.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut role = Self::default();
        fields(message, |field, value| {
            match (field, value) {
                (1, Value::Bytes(name)) => role.name = name.to_vec(),
                (2, Value::Bytes(permission)) => {
                    role.permissions.push(decode_permission(permission)?);
                }
                (1..=2, _) => return None,
                _ => {}
            }
            Some(())
        })?;
        Some(role)
    }
}

fn decode_permission(message: &[u8]) -> Option<Permission> {
    let mut permission = Permission::default();
    fields(message, |field, value| {
        match (field, value) {
            (1, Value::Number(kind)) => permission.kind = kind,
            (2, Value::Bytes(key)) => permission.key = key.to_vec(),
            (3, Value::Bytes(end)) => permission.range_end = end.to_vec(),
            (1..=3, _) => return None,
            _ => {}
        }
        Some(())
    })?;
    Some(permission)
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}
