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
