//! Messages and clients generated from `src/api/proto/*.proto` at build time.
#![expect(missing_docs, reason = "generated; the .proto files carry the comments")]
#![allow(clippy::all, unreachable_pub, reason = "generated")]

/// Keys, values, events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
/// Users, roles, permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}
/// The v3 services.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
/// Locks.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}
/// Elections.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// gRPC's health checking.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
/// gRPC's server reflection.
pub mod reflection {
    tonic::include_proto!("grpc.reflection.v1");
}

/// The encoded `FileDescriptorSet` of all of the above, for the JSON gateway's tables.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Debug output that shows who, and not the password.
macro_rules! debug_without_password {
    ($($message:ty),*) => {
        $(impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($message)).field("name", &self.name).finish_non_exhaustive()
            }
        })*
    };
}

debug_without_password!(
    authpb::User,
    etcdserverpb::AuthenticateRequest,
    etcdserverpb::AuthUserAddRequest,
    etcdserverpb::AuthUserChangePasswordRequest
);

impl std::fmt::Debug for etcdserverpb::AuthenticateResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthenticateResponse").field("header", &self.header).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::etcdserverpb as pb;

    /// CVE-2021-28235, GHSA-528j: requests with passwords went into a debug log.
    #[test]
    fn messages_with_passwords_and_tokens_show_neither() {
        let (name, secret) = ("alice".to_owned(), "S3cret".to_owned());
        let shown = [
            format!(
                "{:?}",
                pb::AuthenticateRequest { name: name.clone(), password: secret.clone() }
            ),
            format!(
                "{:?}",
                pb::AuthUserAddRequest {
                    name: name.clone(),
                    password: secret.clone(),
                    hashed_password: secret.clone(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                pb::AuthUserChangePasswordRequest {
                    name: name.clone(),
                    password: secret.clone(),
                    hashed_password: secret.clone(),
                }
            ),
            format!(
                "{:?}",
                super::authpb::User {
                    name: name.as_bytes().to_vec().into(),
                    password: secret.as_bytes().to_vec().into(),
                    ..Default::default()
                }
            ),
        ];
        for text in shown {
            assert!(text.contains("alice") && !text.contains("S3cret"), "{text}");
        }
        let answer = pb::AuthenticateResponse { header: None, token: secret };
        assert!(!format!("{answer:?}").contains("S3cret"), "{answer:?}");
    }
}
