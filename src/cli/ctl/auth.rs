//! auth, user, role: the switch of authentication, users, roles and their permissions.

use prost::Message;
use tonic::Response;

use super::{
    Session,
    args::{AuthCommand, Positional, RangeOfKeys, RoleCommand, UserCommand},
    client::{Connection, Effect},
    exit::Exit,
    kv::prefix_end,
    password,
    print::{Answer, range_text},
};
use crate::api::proto::{
    authpb::{Permission, UserAddOptions, permission::Type},
    etcdserverpb::{self as pb, auth_client::AuthClient},
};

/// The user and the role that may do everything.
const ROOT: &str = "root";
/// The end of a range without one, and the first key of all.
const ZERO: &str = "\0";

/// The only argument.
fn one<'a>(args: &'a Positional, missing: &str) -> Result<&'a str, Exit> {
    match args.args.as_slice() {
        [one] => Ok(one),
        _ => Err(Exit::args(missing)),
    }
}

fn none(args: &Positional, surplus: &str) -> Result<(), Exit> {
    if args.args.is_empty() { Ok(()) } else { Err(Exit::args(surplus)) }
}

/// Sends a request that changes something and prints its answer.
macro_rules! change {
    ($session:expr, $method:ident, $request:expr, $($text:tt)*) => {{
        let session: &Session = $session;
        let request = $request;
        let answer = session
            .client
            .call(Effect::Writes, async |connection| {
                AuthClient::new(connection).$method(request.clone()).await
            })
            .await?;
        session.show(&Answer::Changed {
            text: &format!($($text)*),
            header: &answer.header,
            message: &answer.encode_to_vec(),
        })
    }};
}

async fn read<T>(
    session: &Session,
    request: impl AsyncFn(AuthClient<Connection>) -> Result<Response<T>, tonic::Status>,
) -> Result<T, Exit> {
    let call = async |connection| request(AuthClient::new(connection)).await;
    session.client.call(Effect::Reads, call).await
}

/// Runs one of the commands of `auth`.
pub(super) async fn switch(session: &Session, command: AuthCommand) -> Result<(), Exit> {
    match command {
        AuthCommand::Enable(args) => {
            none(&args, "auth enable command does not accept any arguments")?;
            enable(session).await?;
            super::write(b"Authentication Enabled\n")
        }
        AuthCommand::Disable(args) => {
            none(&args, "auth disable command does not accept any arguments")?;
            session
                .client
                .call(Effect::Writes, async |connection| {
                    AuthClient::new(connection).auth_disable(pb::AuthDisableRequest {}).await
                })
                .await?;
            super::write(b"Authentication Disabled\n")
        }
        AuthCommand::Status(args) => {
            none(&args, "auth status command does not accept any arguments")?;
            let answer =
                read(session, async |mut auth| auth.auth_status(pb::AuthStatusRequest {}).await);
            session.show(&Answer::AuthStatus(&answer.await?))
        }
    }
}

/// Switches authentication on; gives root the role that is missing, as etcdctl does.
async fn enable(session: &Session) -> Result<(), Exit> {
    loop {
        let enabled = session
            .client
            .call(Effect::Writes, async |connection| {
                AuthClient::new(connection).auth_enable(pb::AuthEnableRequest {}).await
            })
            .await;
        match enabled {
            Err(exit) if exit.message == "etcdserver: root user does not have root role" => {}
            enabled => return enabled.map(drop),
        }
        session
            .client
            .call(Effect::Writes, async |connection| {
                let mut auth = AuthClient::new(connection);
                auth.role_add(pb::AuthRoleAddRequest { name: ROOT.to_owned() }).await?;
                let (user, role) = (ROOT.to_owned(), ROOT.to_owned());
                auth.user_grant_role(pb::AuthUserGrantRoleRequest { user, role }).await
            })
            .await?;
    }
}

/// Runs one of the commands of `user`.
pub(super) async fn user(session: &Session, command: UserCommand) -> Result<(), Exit> {
    match command {
        UserCommand::Add { name, interactive, new_user_password, no_password } => {
            let name = one(&name, "user add command requires user name as its argument")?;
            let (name, password) = match name.split_once(':') {
                _ if no_password => (name, String::new()),
                _ if !new_user_password.is_empty() => (name, new_user_password),
                Some(("", _)) => return Err(Exit::args("empty user name is not allowed")),
                Some((name, password)) => (name, password.to_owned()),
                None => (name, password::ask(name, interactive)?),
            };
            let request = pb::AuthUserAddRequest {
                name: name.to_owned(),
                password,
                options: Some(UserAddOptions { no_password }),
                hashed_password: String::new(),
            };
            change!(session, user_add, request, "User {name} created")
        }
        UserCommand::Delete(args) => {
            let name = one(&args, "user delete command requires user name as its argument")?;
            let request = pb::AuthUserDeleteRequest { name: name.to_owned() };
            change!(session, user_delete, request, "User {name} deleted")
        }
        UserCommand::Get { name, detail } => {
            let name = one(&name, "user get command requires user name as its argument")?;
            user_get(session, name, detail).await
        }
        UserCommand::List(args) => {
            none(&args, "user list command requires no arguments")?;
            let answer =
                read(session, async |mut auth| auth.user_list(pb::AuthUserListRequest {}).await);
            session.show(&Answer::Users(&answer.await?))
        }
        UserCommand::Passwd { name, interactive } => {
            let name = one(&name, "user passwd command requires user name as its argument")?;
            let password = password::ask(name, interactive)?;
            let (name, hashed_password) = (name.to_owned(), String::new());
            let request = pb::AuthUserChangePasswordRequest { name, password, hashed_password };
            change!(session, user_change_password, request, "Password updated")
        }
        UserCommand::GrantRole(args) => {
            let [user, role] = args.args.as_slice() else {
                let text = "user grant command requires user name and role name as its argument";
                return Err(Exit::args(text));
            };
            let request = pb::AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
            change!(session, user_grant_role, request, "Role {role} is granted to user {user}")
        }
        UserCommand::RevokeRole(args) => {
            let [name, role] = args.args.as_slice() else {
                let text = "user revoke-role requires user name and role name as its argument";
                return Err(Exit::args(text));
            };
            let request = pb::AuthUserRevokeRoleRequest { name: name.clone(), role: role.clone() };
            change!(session, user_revoke_role, request, "Role {role} is revoked from user {name}")
        }
    }
}

async fn user_get(session: &Session, name: &str, detail: bool) -> Result<(), Exit> {
    let request = pb::AuthUserGetRequest { name: name.to_owned() };
    let answer = read(session, async |mut auth| auth.user_get(request.clone()).await).await?;
    if !detail {
        return session.show(&Answer::User(name, &answer));
    }
    super::write(format!("User: {name}\n").as_bytes())?;
    for role in &answer.roles {
        super::write(b"\n")?;
        role_get(session, role).await?;
    }
    Ok(())
}

async fn role_get(session: &Session, role: &str) -> Result<(), Exit> {
    let request = pb::AuthRoleGetRequest { role: role.to_owned() };
    let answer = read(session, async |mut auth| auth.role_get(request.clone()).await).await?;
    session.show(&Answer::Role(role, &answer))
}

/// Runs one of the commands of `role`.
pub(super) async fn role(session: &Session, command: RoleCommand) -> Result<(), Exit> {
    match command {
        RoleCommand::Add(args) => {
            let name = one(&args, "role add command requires role name as its argument")?;
            let request = pb::AuthRoleAddRequest { name: name.to_owned() };
            change!(session, role_add, request, "Role {name} created")
        }
        RoleCommand::Delete(args) => {
            let role = one(&args, "role delete command requires role name as its argument")?;
            let request = pb::AuthRoleDeleteRequest { role: role.to_owned() };
            change!(session, role_delete, request, "Role {role} deleted")
        }
        RoleCommand::Get(args) => {
            let role = one(&args, "role get command requires role name as its argument")?;
            role_get(session, role).await
        }
        RoleCommand::List(args) => {
            none(&args, "role list command requires no arguments")?;
            let answer =
                read(session, async |mut auth| auth.role_list(pb::AuthRoleListRequest {}).await);
            session.show(&Answer::Roles(&answer.await?))
        }
        RoleCommand::GrantPermission(range) => {
            let [name, kind, key, rest @ ..] = range.args.as_slice() else {
                let text = "role grant command requires role name, permission type, and key \
                            [endkey] as its argument";
                return Err(Exit::args(text));
            };
            let kind_number = match kind.to_ascii_lowercase().as_str() {
                "read" => Type::Read,
                "write" => Type::Write,
                "readwrite" => Type::Readwrite,
                _ => return Err(Exit::args(format!("invalid permission type: {kind}"))),
            };
            let (key, range_end) = range_of(&range, key, rest)?;
            let permission =
                Permission { perm_type: kind_number.into(), key: key.into(), range_end };
            let (name, perm) = (name.clone(), Some(permission));
            let request = pb::AuthRoleGrantPermissionRequest { name: name.clone(), perm };
            change!(session, role_grant_permission, request, "Role {name} updated")
        }
        RoleCommand::RevokePermission(range) => revoke_permission(session, &range).await,
    }
}

async fn revoke_permission(session: &Session, range: &RangeOfKeys) -> Result<(), Exit> {
    let [role, named, rest @ ..] = range.args.as_slice() else {
        let text = "role revoke-permission command requires role name and key [endkey] as its \
                    argument";
        return Err(Exit::args(text));
    };
    let (key, range_end) = range_of(range, named, rest)?;
    let what = if range_end.is_empty() {
        format!("key {named}")
    } else {
        format!("range {}", range_text(named.as_bytes(), &range_end))
    };
    let role = role.clone();
    let request = pb::AuthRoleRevokePermissionRequest {
        role: role.clone(),
        key: key.to_owned().into(),
        range_end,
    };
    let text = format!("Permission of {what} is revoked from role {role}");
    change!(session, role_revoke_permission, request, "{text}")
}

/// Key and end that arguments and flags mean. The empty key stands for the first one.
fn range_of(
    range: &RangeOfKeys,
    key: &str,
    rest: &[String],
) -> Result<(String, bytes::Bytes), Exit> {
    let both = range.prefix && range.from_key;
    let exclusive = || Exit::args("--from-key and --prefix flags are mutually exclusive");
    if key.is_empty() {
        if both {
            return Err(exclusive());
        }
        let end = if range.prefix || range.from_key { ZERO } else { "" };
        return Ok((ZERO.to_owned(), end.into()));
    }
    let end = match rest.first() {
        None if both => return Err(exclusive()),
        None if range.prefix => prefix_end(key.as_bytes()),
        None if range.from_key => ZERO.into(),
        None => bytes::Bytes::new(),
        Some(_) if range.prefix => {
            return Err(Exit::args("unexpected endkey argument with --prefix flag"));
        }
        Some(_) if range.from_key => {
            return Err(Exit::args("unexpected endkey argument with --from-key flag"));
        }
        Some(end) => end.clone().into(),
    };
    Ok((key.to_owned(), end))
}
