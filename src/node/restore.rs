//! A new member's data directory from a file of etcd's format.
//!
//! Each member of the new cluster restores the same file with its own name. All of them then
//! begin with the same state and membership, as if the log's first entry had brought both.
//!
//! Invariants:
//! - the directory appears whole or not at all: what was cut short is begun anew;
//! - the cluster's id depends on the file and how it was restored, so members that were restored
//!   differently, or not at all, refuse each other instead of diverging;
//! - the file is only read.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tripod_storage::{
    bbolt::{self, Reader},
    engine::{Engine, RewritableEngine, SledOptions},
    etcd::{self, Bump, FileStatus, ImportError, Imported},
};

use super::{ENGINE_DIR, MEMBER_DIR, identity, initial_peers, raft_config};
use crate::{
    config::{Config, ConfigError},
    member_id,
};

/// Bytes of a checksum behind the database.
const CHECKSUM_BYTES: u64 = 32;
/// A database is of whole pages, and they of whole sectors; what is beyond is a checksum.
const SECTOR_BYTES: u64 = 512;
const READ_BYTES: usize = 1 << 20;
/// The directory while it is being filled.
const PART_DIR: &str = "member.part";

/// What to restore, and how.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The file.
    pub file: PathBuf,
    /// Do not ask for a checksum: for a database copied from a data directory.
    pub skip_hash_check: bool,
    /// Raises the revision and counts everything below as compacted.
    pub bump: Option<Bump>,
}

/// Why a file was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The new cluster cannot be like this.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something is there already.
    #[error("data-dir {0:?} not empty or could not be read; name a new directory")]
    Exists(PathBuf),
    /// No checksum.
    #[error(
        "snapshot missing hash but --skip-hash-check=false; a file of `snapshot save` has one, a \
         copied database needs --skip-hash-check"
    )]
    NoChecksum,
    /// A wrong one.
    #[error("expected sha256 {expected}, got {found}: the file was changed; save it again")]
    Checksum {
        /// In the file.
        expected: String,
        /// Of the file.
        found: String,
    },
    /// The file is no sound database.
    #[error(transparent)]
    File(#[from] bbolt::Error),
    /// The engine could not take it.
    #[error(transparent)]
    Engine(#[from] tripod_storage::Error),
    /// The log could not be made.
    #[error(transparent)]
    Log(#[from] tripod_raft::Error),
    /// The system refused.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl From<ImportError> for RestoreError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::File(error) => Self::File(error),
            ImportError::Engine(error) => Self::Engine(error),
            other => Self::Io { action: "restore".into(), source: io::Error::other(other) },
        }
    }
}

fn io_error(action: &str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let action = format!("{action} {}", path.display());
    move |source| RestoreError::Io { action, source }
}

/// Hash and counts of a file. Blocks: reads all of it.
///
/// # Errors
/// [`RestoreError::Io`] where it cannot be opened, [`RestoreError::File`] where it is no sound
/// etcd database.
pub fn file_status(path: &Path) -> Result<FileStatus, RestoreError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    Ok(etcd::file_status(&Reader::open(file)?)?)
}

/// Makes the data directory of `config` (completed) from a file. `config` names the member and
/// the new cluster; ports are not used. Blocks: reads the file twice.
///
/// # Errors
/// [`RestoreError`]; there is no data directory that a member would start from then.
pub fn restore(config: &Config, restore: &Restore) -> Result<Imported, RestoreError> {
    config.validate_bootstrap()?;
    config.initial_cluster.check_duplicates().map_err(ConfigError::Cluster)?;
    refuse_existing(&config.data_dir)?;
    if let Some(dir) = config.separate_wal_dir() {
        refuse_existing(dir)?;
    }
    let mut file = File::open(&restore.file).map_err(io_error("open", &restore.file))?;
    let digest = checked(&mut file, restore)?;
    let reader = Reader::open(file)?;
    let part = config.data_dir.join(PART_DIR);
    match fs::remove_dir_all(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &part)(error));
        }
        _ => {}
    }
    fs::create_dir_all(&part).map_err(io_error("create", &part))?;
    let filled = fill(config, restore, &reader, &digest, &part);
    if filled.is_err() {
        // The reason matters more than what is left behind.
        let _ = fs::remove_dir_all(&part);
        return filled;
    }
    let member = config.data_dir.join(MEMBER_DIR);
    fs::rename(&part, &member).map_err(io_error("rename", &part))?;
    for dir in [Some(&*config.data_dir), config.data_dir.parent()].into_iter().flatten() {
        if !dir.as_os_str().is_empty() {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))?;
        }
    }
    filled
}

fn fill(
    config: &Config,
    restore: &Restore,
    reader: &Reader<File>,
    digest: &[u8],
    part: &Path,
) -> Result<Imported, RestoreError> {
    let members = initial_peers(config);
    let ids: Vec<u64> = members.keys().copied().collect();
    let cluster_id = restored_cluster_id(&ids, digest, restore);
    let identity =
        identity::write_restored(config, part, cluster_id).map_err(io_error("write", part))?;
    let mark = tripod_raft::found_restored(&raft_config(config, &identity, part.into()), members)?;
    let engine = RewritableEngine::open(&part.join(ENGINE_DIR), &SledOptions::default())?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let imported = etcd::import(reader, &engine, &mark, restore.bump)?;
    Ok(imported)
}

fn restored_cluster_id(ids: &[u64], digest: &[u8], restore: &Restore) -> u64 {
    let mut founding = digest.to_vec();
    founding.extend_from_slice(&restore.bump.map_or(0, |bump| bump.by).to_be_bytes());
    member_id::restored_cluster_id(ids, &founding)
}

/// etcd takes an empty directory, too.
fn refuse_existing(dir: &Path) -> Result<(), RestoreError> {
    let mut entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => return Err(RestoreError::Exists(dir.to_owned())),
        Ok(entries) => entries,
    };
    let is_left_over = |entry: &fs::DirEntry| entry.file_name() == PART_DIR;
    match entries.all(|entry| entry.is_ok_and(|entry| is_left_over(&entry))) {
        true => Ok(()),
        false => Err(RestoreError::Exists(dir.to_owned())),
    }
}

/// SHA-256 of the database, compared with the one behind it.
fn checked(file: &mut File, restore: &Restore) -> Result<Vec<u8>, RestoreError> {
    let read = io_error("read", &restore.file);
    let len = file.metadata().map(|meta| meta.len());
    let (len, digest, trailer) = match len.and_then(|len| digest(file, len)) {
        Ok(found) => found,
        Err(error) => return Err(read(error)),
    };
    if restore.skip_hash_check {
        return Ok(digest);
    }
    if len % SECTOR_BYTES != CHECKSUM_BYTES {
        return Err(RestoreError::NoChecksum);
    }
    if digest != trailer {
        return Err(RestoreError::Checksum { expected: hex(&trailer), found: hex(&digest) });
    }
    Ok(digest)
}

/// Length of the file, SHA-256 of what is before its checksum, and the checksum.
fn digest(file: &mut File, len: u64) -> io::Result<(u64, Vec<u8>, Vec<u8>)> {
    let has_trailer = len % SECTOR_BYTES == CHECKSUM_BYTES;
    let mut left = if has_trailer { len - CHECKSUM_BYTES } else { len };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    file.seek(SeekFrom::Start(0))?;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        file.read_exact(&mut buffer[..part])?;
        hash.update(&buffer[..part]);
        left -= part as u64;
    }
    let mut trailer = Vec::new();
    file.read_to_end(&mut trailer)?;
    Ok((len, hash.finalize().to_vec(), trailer))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
