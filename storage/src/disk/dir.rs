//! A directory of the real file system.

use std::{
    fs::{self, File, OpenOptions},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FlockOperation;

use super::{Disk, DiskFile, DiskLock};

/// File whose `flock` marks the directory as taken.
const LOCK_FILE: &str = "lock";

/// A directory of the file system.
#[derive(Debug)]
pub struct DirDisk {
    path: PathBuf,
    /// Open for its sync.
    dir: File,
}

impl DirDisk {
    /// Opens `path`, making it (and what leads to it) durably if need be.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            // Each level may be new; a sync of one that is not costs nothing.
            for level in path.ancestors().skip(1).filter(|level| !level.as_os_str().is_empty()) {
                File::open(level)?.sync_all()?;
            }
        }
        Ok(Self { path: path.to_owned(), dir: File::open(path)? })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// The lock goes with the open file.
#[derive(Debug)]
struct Flock(#[expect(dead_code, reason = "held, not used")] File);
impl DiskLock for Flock {}

impl Disk for DirDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is no text is not one of ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.at(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.at(name));
        Ok(Arc::new(RealFile(file?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn DiskLock>> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).clone();
        let file = options.open(self.at(LOCK_FILE))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(Flock(file)))
    }

    fn salt(&self) -> u64 {
        // std seeds this from the system's randomness.
        RandomState::new().build_hasher().finish()
    }

    fn allows_threads(&self) -> bool {
        true
    }

    fn path(&self) -> String {
        self.path.display().to_string()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}
