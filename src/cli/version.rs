//! Version texts.

pub use crate::version::ETCD as ETCD_VERSION;

/// What `etcd --version` prints: the first line is read by test suites, the others by people.
pub(crate) fn etcd_text() -> String {
    let (os, arch) = (std::env::consts::OS, go_arch(std::env::consts::ARCH));
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: tripod-{}\nGo Version: none, written in Rust\n\
         Go OS/Arch: {os}/{arch}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// What `tripod --version` prints behind the program's name.
pub(crate) fn tripod_text() -> String {
    format!("{} (etcd {ETCD_VERSION} interface)", env!("CARGO_PKG_VERSION"))
}

/// Go's name of a processor.
fn go_arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}
