//! The whole state as a file in etcd's format, for `Maintenance.Snapshot`.
//!
//! The file is written first, so that its size is known before the first byte goes out, then read
//! while it is sent. It has no name and is gone with the last handle, or with the process.
//!
//! Invariants:
//! - it is of one revision: the state's when it was begun;
//! - the state's lock is held for one page of changes at a time;
//! - at most [`SNAPSHOTS_MAX`] such files exist, and none goes on being written for nobody.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tripod_raft::Node;
use tripod_storage::{
    Revision,
    auth::Ask,
    bbolt,
    etcd::{About, Backup, BackupMember, BackupWriter},
};

use super::{Client, Error};

/// Snapshots that a member writes and sends at once: each takes as much disk as the data.
pub const SNAPSHOTS_MAX: usize = 4;

/// Cluster version in the file: from 3.5 on etcd starts from it.
pub const CLUSTER_VERSION: &str = "3.5.0";

/// Bytes of the file read at once.
const READ_BYTES: usize = 1 << 20;
const WRITE_BUFFER_BYTES: usize = 256 << 10;
/// Mode of files that hold a whole state.
const PRIVATE_MODE: u32 = 0o600;

/// Which snapshots are under way. Shared by all clients of a member.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    names: Arc<AtomicU64>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(SNAPSHOTS_MAX)), names: Arc::default() }
    }
}

/// A finished snapshot on its way out.
#[derive(Debug)]
pub struct Snapshot {
    file: File,
    revision: Revision,
    size_bytes: u64,
    left: u64,
    hash: Sha256,
    _slot: OwnedSemaphorePermit,
}

impl Snapshot {
    /// Revision of the state in it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Bytes of the file, without a checksum behind it.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The next bytes, 1 MiB but for the last; empty at the end.
    ///
    /// # Errors
    /// [`Error::Snapshot`]: the file cannot be read.
    pub async fn next(mut self) -> Result<(Self, Vec<u8>), Error> {
        let read = tokio::task::spawn_blocking(move || {
            let len = usize::try_from(self.left).unwrap_or(READ_BYTES).min(READ_BYTES);
            let mut bytes = vec![0; len];
            self.file.read_exact(&mut bytes)?;
            self.hash.update(&bytes);
            self.left -= len as u64;
            Ok::<_, io::Error>((self, bytes))
        });
        read.await.map_err(|_| Error::Stopped)?.map_err(|error| failed(&error))
    }

    /// SHA-256 of what was read so far: of all of it, at the end.
    #[must_use]
    pub fn checksum(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }
}

impl Client {
    /// Writes the state, users included, as of now into a file of etcd's format. Local: serves on
    /// every member.
    ///
    /// # Errors
    /// [`Error::Rejected`] for anybody but root while authentication is on: the file holds every
    /// key and password hash. [`Error::TooManyRequests`] while [`SNAPSHOTS_MAX`] are under way,
    /// [`Error::Snapshot`] where the file cannot be written.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.permit(&Ask::Admin)?;
        let slot = self.snapshots.free.clone().try_acquire_owned();
        let slot = slot.map_err(|_| Error::TooManyRequests)?;
        let name = self.snapshots.names.fetch_add(1, Ordering::Relaxed);
        let node = self.node.clone();
        let wanted = Arc::new(AtomicBool::new(true));
        let guard = Unwanted(wanted.clone());
        let written = tokio::task::spawn_blocking(move || write(&node, name, &wanted, slot));
        let snapshot = written.await.map_err(|_| Error::Stopped)?;
        drop(guard);
        snapshot
    }
}

/// Tells the writer that nobody waits for it any more.
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn failed(error: &dyn std::error::Error) -> Error {
    tracing::warn!(%error, "a snapshot failed");
    Error::Snapshot
}

/// Writes the file. Blocks.
fn write(
    node: &Node,
    name: u64,
    wanted: &AtomicBool,
    slot: OwnedSemaphorePermit,
) -> Result<Snapshot, Error> {
    if node.is_installing_snapshot() {
        return Err(Error::Snapshot);
    }
    let file = nameless(&node.config().data_dir, name).map_err(|error| failed(&error))?;
    let about = about(node);
    let mut backup = node.state().write().backup();
    let out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
    let mut writer = BackupWriter::begin(out, &backup, &about).map_err(|e| failed(&e))?;
    while let Some(page) = next_page(node, &mut backup)? {
        if !wanted.load(Ordering::Relaxed) || node.is_stopped() {
            return Err(Error::Stopped);
        }
        writer.page(&page).map_err(|error| failed(&error))?;
    }
    let (out, size_bytes) = writer.finish(&backup, &about).map_err(|error| failed(&error))?;
    let rewound = |out: BufWriter<File>| {
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.flush()?;
        file.seek(SeekFrom::Start(0))?;
        Ok::<_, io::Error>(file)
    };
    let file = rewound(out).map_err(|error| failed(&bbolt::Error::from(error)))?;
    let revision = backup.revision();
    Ok(Snapshot { file, revision, size_bytes, left: size_bytes, hash: Sha256::new(), _slot: slot })
}

fn next_page(
    node: &Node,
    backup: &mut Backup,
) -> Result<Option<tripod_storage::etcd::Page>, Error> {
    let machine = node.state().read();
    if !backup.is_of(&machine) {
        // The leader's snapshot has replaced the state under way.
        return Err(Error::Snapshot);
    }
    backup.next_page(&machine).map_err(|error| {
        node.fail(&error);
        Error::Stopped
    })
}

/// A file in `dir` without a name, which was never anybody else's to open.
fn nameless(dir: &Path, name: u64) -> io::Result<File> {
    let path = dir.join(format!("backup-{name}.part"));
    let file = private_file(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// A new, empty file that its owner alone may open, from its first moment on: it is to hold every
/// key and password hash. Whatever had that name is gone.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE_MODE).open(path)
}

fn about(node: &Node) -> About {
    let status = node.status();
    let members = status.members.into_iter().map(|(id, member)| BackupMember {
        id,
        peer_urls: member.peer.peer_urls,
        is_learner: member.is_learner,
    });
    About {
        term: status.term,
        cluster_version: CLUSTER_VERSION.to_owned(),
        members: members.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(file: &File) -> u32 {
        file.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_of_the_whole_state_is_its_owners_from_its_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.part");
        assert_eq!(mode(&private_file(&path).unwrap()), 0o600);
        // The remains of an earlier attempt, open to all and still held open by somebody.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let mut eve = File::open(&path).unwrap();
        let mut file = private_file(&path).unwrap();
        assert_eq!(mode(&file), 0o600);
        file.write_all(b"secret").unwrap();
        let mut seen = Vec::new();
        eve.read_to_end(&mut seen).unwrap();
        assert!(seen.is_empty(), "the old file was written into");
        // A link that somebody has put there is not followed.
        let victim = dir.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        private_file(&path).unwrap().write_all(b"secret").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
        let nameless = nameless(dir.path(), 7).unwrap();
        assert_eq!(mode(&nameless), 0o600);
        assert!(!dir.path().join("backup-7.part").exists());
    }
}
