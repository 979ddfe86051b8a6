//! A disk in memory that fails as real ones do, the same way for the same seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Disk, DiskFile, DiskLock};

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Faults to come. The default is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The power fails in the middle of this operation (1: the next). Everything fails from
    /// then on, until [`FaultDisk::power_cut`] brings the disk back.
    pub power_fails_at_operation: Option<u64>,
    /// This sync (1: the next), of a file or the directory, fails with `EIO`. The file's
    /// writes are forgotten as page caches do: readers see them, later syncs succeed without
    /// them.
    pub sync_fails_at: Option<u64>,
    /// Bytes that files may still grow by before the disk is full.
    pub free_bytes: Option<u64>,
}

/// A directory in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: u64,
    faults: Faults,
    powered: bool,
    /// Counts power cuts; handles from before one are dead.
    life: u64,
    locked: bool,
    operations: u64,
    syncs: u64,
    files: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
}

#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced_sectors: BTreeSet<usize>,
}

#[derive(Debug)]
enum NameChange {
    Set(String, u64),
    Move(String, String),
    Remove(String),
}

fn apply(change: NameChange, names: &mut BTreeMap<String, u64>) {
    match change {
        NameChange::Set(name, inode) => {
            names.insert(name, inode);
        }
        NameChange::Move(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
        NameChange::Remove(name) => {
            names.remove(&name);
        }
    }
}

fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

impl State {
    /// `SplitMix64`.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Counts an operation. `Ok(true)`: the power fails while it runs.
    fn operation(&mut self) -> io::Result<bool> {
        if !self.powered {
            return Err(input_output_error());
        }
        self.operations += 1;
        if let Some(left) = &mut self.faults.power_fails_at_operation {
            *left = left.saturating_sub(1);
            self.powered = *left > 0;
        }
        Ok(!self.powered)
    }

    /// As `operation`, for those that do nothing at all if the power fails.
    fn whole_operation(&mut self) -> io::Result<()> {
        if self.operation()? { Err(input_output_error()) } else { Ok(()) }
    }

    /// Counts a sync; true if it has to fail.
    fn sync_fails(&mut self) -> bool {
        self.syncs += 1;
        let Some(left) = &mut self.faults.sync_fails_at else { return false };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.faults.sync_fails_at = None;
            return true;
        }
        false
    }

    fn rename(&mut self, change: NameChange, missing: Option<&str>) -> io::Result<()> {
        self.whole_operation()?;
        if missing.is_some_and(|name| !self.names.contains_key(name)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let again = match &change {
            NameChange::Set(name, inode) => NameChange::Set(name.clone(), *inode),
            NameChange::Move(from, to) => NameChange::Move(from.clone(), to.clone()),
            NameChange::Remove(name) => NameChange::Remove(name.clone()),
        };
        apply(change, &mut self.names);
        self.unsynced_names.push(again);
        Ok(())
    }

    fn power_cut(&mut self) {
        // The file system's journal keeps name changes in order: some first ones survive.
        let changes = std::mem::take(&mut self.unsynced_names);
        let survive = self.random() % (changes.len() as u64 + 1);
        for (_, change) in (0..survive).zip(changes) {
            apply(change, &mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|inode, _| named.contains(inode));
        let mut files = std::mem::take(&mut self.files);
        for file in files.values_mut() {
            // Sectors reach the platter in any order, or not.
            let bias = self.random() % 3;
            for sector in std::mem::take(&mut file.unsynced_sectors) {
                let survives = match bias {
                    0 => self.random().is_multiple_of(2),
                    1 => self.random().is_multiple_of(8),
                    _ => !self.random().is_multiple_of(8),
                };
                if survives {
                    file.persist(sector);
                }
            }
            file.now = file.durable.clone();
        }
        self.files = files;
        self.life += 1;
        self.locked = false;
        self.powered = true;
        self.faults = Faults::default();
    }
}

impl Inode {
    fn persist(&mut self, sector: usize) {
        let start = (sector * SECTOR_BYTES).min(self.now.len());
        let end = (start + SECTOR_BYTES).min(self.now.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.now[start..end]);
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.unsynced_sectors.extend(offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }
}

impl FaultDisk {
    /// An empty disk; `seed` decides what a power cut spares.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: seed,
            faults: Faults::default(),
            powered: true,
            life: 0,
            locked: false,
            operations: 0,
            syncs: 0,
            files: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Replaces the faults to come.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// The power goes and comes back: what was not durable is torn or lost, open handles are
    /// dead, the lock is free, faults are over.
    pub fn power_cut(&self) {
        self.state().power_cut();
    }

    /// The process dies, the machine lives on: nothing is lost, open handles are dead.
    pub fn process_killed(&self) {
        let mut state = self.state();
        state.life += 1;
        state.locked = false;
        state.powered = true;
        state.faults = Faults::default();
    }

    /// Operations and syncs so far.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.operations, state.syncs)
    }

    /// Decay: flips one bit of a file. False if there is no such byte.
    pub fn flip_bit(&self, name: &str, offset: usize, bit: u32) -> bool {
        let mut state = self.state();
        let Some(&inode) = state.names.get(name) else { return false };
        let Some(file) = state.files.get_mut(&inode) else { return false };
        for bytes in [&mut file.now, &mut file.durable] {
            match bytes.get_mut(offset) {
                Some(byte) => *byte ^= 1 << (bit % 8),
                None => return false,
            }
        }
        true
    }

    /// The bytes of a file as a reader sees them now.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.files.get(state.names.get(name)?).map(|file| file.now.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, inode: u64, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(FaultFile { disk: self.clone(), inode, life })
    }
}

#[derive(Debug)]
struct HeldLock {
    disk: FaultDisk,
    life: u64,
}
impl DiskLock for HeldLock {}
impl Drop for HeldLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locked = false;
        }
    }
}

impl Disk for FaultDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.whole_operation()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.whole_operation()?;
        let inode = state.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(inode, state.life))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.next_inode;
        state.rename(NameChange::Set(name.to_owned(), inode), None)?;
        state.next_inode += 1;
        state.files.insert(inode, Inode::default());
        Ok(self.handle(inode, state.life))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state().rename(NameChange::Move(from.to_owned(), to.to_owned()), Some(from))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().rename(NameChange::Remove(name.to_owned()), Some(name))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.whole_operation()?;
        if state.sync_fails() {
            // Unlike a page, a change of names stays in the journal.
            return Err(input_output_error());
        }
        for change in std::mem::take(&mut state.unsynced_names) {
            apply(change, &mut state.durable_names);
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.state();
        state.whole_operation()?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(HeldLock { disk: self.clone(), life: state.life }))
    }

    fn salt(&self) -> u64 {
        self.state().random()
    }

    fn allows_threads(&self) -> bool {
        false
    }

    fn path(&self) -> String {
        "memory".to_owned()
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    inode: u64,
    life: u64,
}

impl FaultFile {
    /// Runs `act` on the live file; it learns whether the power fails meanwhile.
    fn with<T>(
        &self,
        act: impl FnOnce(&mut State, &mut Inode, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.life != self.life {
            return Err(input_output_error());
        }
        let fails = state.operation()?;
        let mut file = state.files.remove(&self.inode).ok_or_else(input_output_error)?;
        let result = act(&mut state, &mut file, fails);
        state.files.insert(self.inode, file);
        if fails { Err(input_output_error()) } else { result }
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = position(offset)?;
        self.with(|_, file, _| {
            let bytes = file.now.get(start..start + buffer.len());
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = position(offset)?;
        self.with(|state, file, fails| {
            let growth = (start + bytes.len()).saturating_sub(file.now.len()) as u64;
            match &mut state.faults.free_bytes {
                Some(free) if *free < growth => {
                    *free = 0;
                    file.write(&bytes[..bytes.len() / 2], start);
                    return Err(io::ErrorKind::StorageFull.into());
                }
                Some(free) => *free -= growth,
                None => {}
            }
            // At a power cut only a first part was handed over.
            let handed = if fails { bytes.len() / 2 } else { bytes.len() };
            file.write(&bytes[..handed], start);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, file, fails| {
            let failed = state.sync_fails();
            let mut sectors = std::mem::take(&mut file.unsynced_sectors);
            if failed {
                // The system forgets the pages it could not write.
                return Err(input_output_error());
            }
            if fails {
                // Half done: some are down, the others still at risk.
                let rest = sectors.len() / 2;
                let middle = sectors.iter().nth(rest).copied();
                file.unsynced_sectors = middle.map(|m| sectors.split_off(&m)).unwrap_or_default();
            }
            for sector in sectors {
                file.persist(sector);
            }
            if !fails && file.durable.len() != file.now.len() {
                file.durable.resize(file.now.len(), 0);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, file, _| Ok(file.now.len() as u64))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let bytes = position(bytes)?;
        self.with(|_, file, _| {
            file.now.resize(bytes, 0);
            Ok(())
        })
    }
}
