//! `etcdserverpb.Auth`: the switch, logins, users, roles, permissions.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tripod_storage::auth::{PasswordHash, Permission};

use super::{super::proto::authpb, header, pb};
use crate::{api::service::Status, client::Client};

/// Handlers whose answer is a header and nothing else.
macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident($request:ident: $Request:ident) -> $Response:ident = |$client:ident| $call:expr;)*) => {
        $($(#[$doc])*
        pub(super) async fn $name(
            $client: &Client,
            $request: pb::$Request,
            _size: usize,
        ) -> Result<pb::$Response, Status> {
            let (head, ()) = $call.await?;
            Ok(pb::$Response { header: header(head) })
        })*
    };
}

changes! {
    enable(_request: AuthEnableRequest) -> AuthEnableResponse = |client| client.auth_enable();
    disable(_request: AuthDisableRequest) -> AuthDisableResponse = |client| client.auth_disable();
    /// As in etcd 3.5, a hash that the client made is not taken: the server makes its own.
    user_add(request: AuthUserAddRequest) -> AuthUserAddResponse = |client| {
        let no_password = request.options.is_some_and(|options| options.no_password);
        let (name, password) = (request.name, request.password);
        async move { client.user_add(&name, (!no_password).then_some(&password)).await }
    };
    user_delete(request: AuthUserDeleteRequest) -> AuthUserDeleteResponse
        = |client| client.user_delete(&request.name);
    user_grant_role(request: AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse
        = |client| client.user_grant_role(&request.user, &request.role);
    user_revoke_role(request: AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse
        = |client| client.user_revoke_role(&request.name, &request.role);
    role_add(request: AuthRoleAddRequest) -> AuthRoleAddResponse
        = |client| client.role_add(&request.name);
    role_delete(request: AuthRoleDeleteRequest) -> AuthRoleDeleteResponse
        = |client| client.role_delete(&request.role);
    role_grant_permission(request: AuthRoleGrantPermissionRequest)
        -> AuthRoleGrantPermissionResponse
        = |client| client.role_grant_permission(&request.name, request.perm.map(permission));
    role_revoke_permission(request: AuthRoleRevokePermissionRequest)
        -> AuthRoleRevokePermissionResponse
        = |client| client.role_revoke_permission(&request.role, request.key, request.range_end);
}

/// A password goes before a hash; without a password, the hash is stored as it comes.
pub(super) async fn user_change_password(
    client: &Client,
    request: pb::AuthUserChangePasswordRequest,
    _size: usize,
) -> Result<pb::AuthUserChangePasswordResponse, Status> {
    let (head, ()) = if request.password.is_empty() {
        let hash = STANDARD.decode(&request.hashed_password).ok().map(PasswordHash::new);
        client.user_set_password_hash(&request.name, hash).await?
    } else {
        client.user_change_password(&request.name, &request.password).await?
    };
    Ok(pb::AuthUserChangePasswordResponse { header: header(head) })
}

pub(super) async fn status(
    client: &Client,
    _request: pb::AuthStatusRequest,
    _size: usize,
) -> Result<pb::AuthStatusResponse, Status> {
    let (head, status) = client.auth_status().await?;
    Ok(pb::AuthStatusResponse {
        header: header(head),
        enabled: status.enabled,
        auth_revision: status.revision,
    })
}

pub(super) async fn authenticate(
    client: &Client,
    request: pb::AuthenticateRequest,
    _size: usize,
) -> Result<pb::AuthenticateResponse, Status> {
    let (head, token) = client.authenticate(&request.name, &request.password).await?;
    Ok(pb::AuthenticateResponse { header: header(head), token })
}

pub(super) async fn user_get(
    client: &Client,
    request: pb::AuthUserGetRequest,
    _size: usize,
) -> Result<pb::AuthUserGetResponse, Status> {
    let (head, roles) = client.user_get(&request.name).await?;
    Ok(pb::AuthUserGetResponse { header: header(head), roles })
}

pub(super) async fn user_list(
    client: &Client,
    _request: pb::AuthUserListRequest,
    _size: usize,
) -> Result<pb::AuthUserListResponse, Status> {
    let (head, users) = client.user_list().await?;
    Ok(pb::AuthUserListResponse { header: header(head), users })
}

pub(super) async fn role_get(
    client: &Client,
    request: pb::AuthRoleGetRequest,
    _size: usize,
) -> Result<pb::AuthRoleGetResponse, Status> {
    let (head, permissions) = client.role_get(&request.role).await?;
    let perm = permissions.into_iter().map(wire_permission).collect();
    Ok(pb::AuthRoleGetResponse { header: header(head), perm })
}

pub(super) async fn role_list(
    client: &Client,
    _request: pb::AuthRoleListRequest,
    _size: usize,
) -> Result<pb::AuthRoleListResponse, Status> {
    let (head, roles) = client.role_list().await?;
    Ok(pb::AuthRoleListResponse { header: header(head), roles })
}

fn permission(wire: authpb::Permission) -> Permission {
    Permission { kind: wire.perm_type, key: wire.key, range_end: wire.range_end }
}

fn wire_permission(permission: Permission) -> authpb::Permission {
    let Permission { kind, key, range_end } = permission;
    authpb::Permission { perm_type: kind, key, range_end }
}
