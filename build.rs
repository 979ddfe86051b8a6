//! Compiles the wire definitions under `src/api/proto` without protoc.
//!
//! Leaves three things in `OUT_DIR`: prost messages with `Bytes` fields, tonic clients (the
//! command line and the tests use them; the server has its own HTTP/2 front end), and
//! `descriptors.bin`, from which the JSON gateway builds its field tables.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PROTO_DIR: &str = "src/api/proto";
const PROTO_FILES: [&str; 8] = [
    "kv.proto",
    "auth.proto",
    "rpc.proto",
    "lock.proto",
    "election.proto",
    "health.proto",
    "reflection.proto",
    "reflection_v1alpha.proto",
];

const WITH_SECRET: [&str; 5] = [
    "authpb.User",
    "etcdserverpb.AuthenticateRequest",
    "etcdserverpb.AuthenticateResponse",
    "etcdserverpb.AuthUserAddRequest",
    "etcdserverpb.AuthUserChangePasswordRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(PROTO_FILES, [PROTO_DIR])?;
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_server(false)
        // Those with a password or a token get a form of debug output without it (`api/proto.rs`).
        .skip_debug(WITH_SECRET)
        .compile_fds(descriptors)?;
    Ok(())
}
