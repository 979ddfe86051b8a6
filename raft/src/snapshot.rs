//! Whole states between members and into the engine.
//!
//! A snapshot is exported when it is sent, in chunks, from the live state. The receiver checks
//! each chunk as it comes, keeps them in one file, and only a complete, verified, synced file is
//! renamed to [`INSTALL_FILE`]. From then on it *will* be installed: the engine is cleared and
//! filled from it, and a start that finds the file does that again. So a crash at any point
//! leaves the old state or the new one.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tripod_storage::{
    Error,
    apply::{Mark, StateMachine},
    engine::{Engine, WriteBatch},
    snapshot::{CHUNK_BYTES_MAX, Export, Header, Importer},
};

use crate::types::{SnapshotMeta, Vote};

/// Folder inside the data directory.
const DIR: &str = "snap";
/// A snapshot that is being received; worthless after a restart.
const PART_FILE: &str = "incoming.part";
/// A complete snapshot that will be installed.
const INSTALL_FILE: &str = "install.snap";

/// First message of a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
}

/// Answer to every message of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Send the next one.
    Continue,
    /// Installed or not needed; the receiver's vote.
    Done(Vote),
    /// The sender's leadership is over.
    HigherVote(Vote),
    /// Not now, or not like this.
    Refused(String),
}

/// The snapshot folder of one member.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
}

fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let action = action.into();
    move |source| Error::Io { action, source }
}

fn corrupt(detail: &str) -> Error {
    Error::Corrupt { what: "received snapshot".into(), detail: detail.into() }
}

impl SnapshotDir {
    /// Makes the folder and drops what an earlier run received in part.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(DIR);
        fs::create_dir_all(&path).map_err(io_error(format!("create {}", path.display())))?;
        let dir = Self { path };
        dir.remove(PART_FILE)?;
        Ok(dir)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes renames and removals durable.
    fn sync(&self) -> Result<(), Error> {
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(io_error(format!("sync {}", self.path.display())))
    }

    /// Completes an installation that a crash cut short. Call before the engine is used.
    pub(crate) fn recover(&self, engine: &Arc<dyn Engine>) -> Result<(), Error> {
        if self.path.join(INSTALL_FILE).exists() {
            tracing::warn!("an installation of a snapshot was cut short; installing it again");
            self.import(engine)?;
            self.finish()?;
        }
        Ok(())
    }

    /// Fills the engine from the file to install. The engine is durable then.
    pub(crate) fn import(&self, engine: &Arc<dyn Engine>) -> Result<Header, Error> {
        let path = self.path.join(INSTALL_FILE);
        let file = File::open(&path).map_err(io_error(format!("open {}", path.display())))?;
        let mut file = BufReader::with_capacity(256 << 10, file);
        let mut importer = Importer::new(engine.clone())?;
        while let Some(chunk) = read_chunk(&mut file)? {
            importer.chunk(&chunk)?;
        }
        importer.finish()
    }

    /// The installation is complete: the file is not needed any more.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        self.remove(INSTALL_FILE)?;
        self.sync()
    }

    /// Begins to receive. At most one at a time: the caller sees to that.
    pub(crate) fn receive(&self) -> Result<Incoming, Error> {
        let path = self.path.join(PART_FILE);
        let file = File::create(&path).map_err(io_error(format!("create {}", path.display())))?;
        let check = Importer::new(Arc::new(Discard))?;
        Ok(Incoming { dir: self.clone(), file: BufWriter::new(file), check })
    }
}

/// One length-prefixed chunk; `None` at the end.
fn read_chunk(file: &mut impl Read) -> Result<Option<Vec<u8>>, Error> {
    let mut len = [0; 4];
    match file.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result.map_err(io_error("read the received snapshot"))?,
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > CHUNK_BYTES_MAX {
        return Err(corrupt("a chunk is too long"));
    }
    let mut chunk = Vec::new();
    let read = file
        .take(len as u64)
        .read_to_end(&mut chunk)
        .map_err(io_error("read the received snapshot"))?;
    if read < len { Err(corrupt("it ends inside a chunk")) } else { Ok(Some(chunk)) }
}

/// A consistent view of a live state on its way out.
pub(crate) struct Outgoing {
    export: Export,
    state: Arc<RwLock<StateMachine>>,
}

impl Outgoing {
    /// The state as it is now.
    pub(crate) fn new(state: Arc<RwLock<StateMachine>>) -> Self {
        let export = state.write().export();
        Self { export, state }
    }

    /// The next chunk, `None` at the end. Blocks: reads history from the engine.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.export.next_chunk(&self.state.read())
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("header", self.export.header()).finish_non_exhaustive()
    }
}

/// A snapshot on its way in. Dropped before [`Incoming::complete`], it is forgotten.
#[derive(Debug)]
pub(crate) struct Incoming {
    dir: SnapshotDir,
    file: BufWriter<File>,
    /// Sees every chunk as an engine would, without one.
    check: Importer,
}

impl Incoming {
    /// Checks and keeps the next chunk.
    pub(crate) fn chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.check.chunk(chunk)?;
        let len = u32::try_from(chunk.len()).map_err(|_| corrupt("a chunk is too long"))?;
        self.file
            .write_all(&len.to_le_bytes())
            .and_then(|()| self.file.write_all(chunk))
            .map_err(io_error("write the received snapshot"))
    }

    /// The snapshot is whole: syncs it. Its header says what it is of.
    pub(crate) fn complete(self) -> Result<(Received, Header), Error> {
        let header = self.check.finish()?;
        let file = self
            .file
            .into_inner()
            .map_err(|error| io_error("write the received snapshot")(error.into_error()))?;
        file.sync_all().map_err(io_error("sync the received snapshot"))?;
        Ok((Received { dir: self.dir }, header))
    }
}

/// A whole, verified snapshot in the part file.
#[derive(Debug)]
pub(crate) struct Received {
    dir: SnapshotDir,
}

impl Received {
    /// From now on it will be installed, whatever happens.
    pub(crate) fn commit(self) -> Result<SnapshotDir, Error> {
        let (from, to) = (self.dir.path.join(PART_FILE), self.dir.path.join(INSTALL_FILE));
        fs::rename(&from, &to).map_err(io_error(format!("rename {}", from.display())))?;
        self.dir.sync()?;
        Ok(self.dir)
    }
}

/// An engine that keeps nothing: lets the importer check a snapshot without storing it.
#[derive(Debug)]
struct Discard;

impl Engine for Discard {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }

    fn scan(
        &self,
        _range: (Bound<&[u8]>, Bound<&[u8]>),
        _limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        Ok(Vec::new())
    }

    fn last_at_or_below(&self, _key: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        Ok(None)
    }

    fn write(&self, _batch: WriteBatch) -> Result<(), Error> {
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, Error> {
        Ok(0)
    }

    fn clear(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The snapshot is of the log position that its sender announced.
pub(crate) fn is_of(header: &Header, meta: &SnapshotMeta) -> bool {
    let index = header.mark.as_ref().map(|mark: &Mark| mark.index);
    index == meta.last_log_id.map(|log_id| log_id.index)
}

#[cfg(test)]
mod tests {
    use tripod_storage::{
        command::{Command, Put, Range},
        engine::MemoryEngine,
    };

    use super::*;

    fn filled() -> StateMachine {
        let engine = Arc::new(MemoryEngine::new());
        let mut state = StateMachine::open(engine, Default::default()).unwrap();
        for index in 0..100_u64 {
            let put = Put {
                key: format!("key-{index}").into(),
                value: vec![7; 30_000].into(),
                ..Put::default()
            };
            let mark = Mark { index, payload: Bytes::from_static(b"mark") };
            state.apply(mark, vec![Command::Put(put)]).unwrap();
        }
        state
    }

    fn chunks() -> Vec<Vec<u8>> {
        let mut state = filled();
        let mut export = state.export();
        let mut chunks = Vec::new();
        while let Some(chunk) = export.next_chunk(&state).unwrap() {
            chunks.push(chunk);
        }
        assert!(chunks.len() > 3, "{}", chunks.len());
        chunks
    }

    fn key_count(engine: Arc<MemoryEngine>) -> i64 {
        let state = StateMachine::open(engine, Default::default()).unwrap();
        let range = Range {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..Range::default()
        };
        state.range(&range).unwrap().unwrap().count
    }

    #[test]
    fn a_crash_at_any_point_of_an_installation_leaves_a_whole_state() {
        let chunks = chunks();
        let data = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::open(data.path()).unwrap();
        let engine = Arc::new(MemoryEngine::new());
        let dynamic: Arc<dyn Engine> = engine.clone();

        let mut incoming = dir.receive().unwrap();
        incoming.chunk(&chunks[0]).unwrap();
        drop(incoming);
        let dir = SnapshotDir::open(data.path()).unwrap();
        dir.recover(&dynamic).unwrap();
        assert_eq!(key_count(engine.clone()), 0, "a part of a snapshot is forgotten");

        let mut incoming = dir.receive().unwrap();
        for chunk in &chunks {
            incoming.chunk(chunk).unwrap();
        }
        let (received, header) = incoming.complete().unwrap();
        assert_eq!(header.mark.unwrap().index, 99);
        let dir = received.commit().unwrap();
        // Cut short after the engine was cleared and partly filled.
        let mut importer = Importer::new(dynamic.clone()).unwrap();
        importer.chunk(&chunks[0]).unwrap();
        importer.chunk(&chunks[1]).unwrap();
        drop(importer);
        engine.crash();
        drop(dir);
        let dir = SnapshotDir::open(data.path()).unwrap();
        dir.recover(&dynamic).unwrap();
        assert_eq!(key_count(engine.clone()), 100);
        dir.recover(&dynamic).unwrap();
        assert_eq!(key_count(engine), 100, "a second time there is nothing to do");
    }

    #[test]
    fn a_damaged_missing_or_repeated_chunk_is_refused_before_anything_changes() {
        let chunks = chunks();
        let data = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::open(data.path()).unwrap();
        let mut damaged = chunks[1].clone();
        damaged[100] ^= 1;
        for bad in [&damaged, &chunks[2], &chunks[0]] {
            let mut incoming = dir.receive().unwrap();
            incoming.chunk(&chunks[0]).unwrap();
            assert!(incoming.chunk(bad).is_err());
        }
        let mut incoming = dir.receive().unwrap();
        for chunk in &chunks[..chunks.len() - 1] {
            incoming.chunk(chunk).unwrap();
        }
        assert!(incoming.complete().is_err(), "its end is missing");
    }
}
