//! What sled costs as the store of history: CPU and disk per revision by block size.
//!
//! Workload: revisions of 256 pseudo-random bytes, packed N to a record under a growing
//! big-endian key, appended in batches of about 1 MB, synced every 8 MB; then the older half is
//! deleted, and the deleted amount written again, which shows whether space is reused.
//! `engine_cost [total_mb] [seed] [revisions_per_record segment_kb [cache_mb]]`, default 128 MB,
//! seed 1, every combination that matters, 64 MB of cache.
#![expect(clippy::print_stdout, reason = "the result of a measurement")]
#![expect(clippy::disallowed_methods, reason = "a measurement needs the clock")]

use std::{fs, path::Path, time::Instant};

use tripod_storage::engine::{Engine, SledEngine, SledOptions, WriteBatch};

const REVISION_BYTES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
const SYNC_BYTES: usize = 8 << 20;
/// sled holds every page that a batch touches until the batch is done.
const DELETES_MAX: usize = 128;
const CACHE_MB: u64 = 64;

/// CPU seconds of this process, user and system (clock ticks of 10 ms).
fn cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Peak resident memory of this process so far, in MB.
fn peak_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    let kb = line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

/// Bytes that this process has written so far.
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Seeded filler that does not compress.
struct Filler(u64);
impl Filler {
    fn fill(&mut self, bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes + 8);
        while out.len() < bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            out.extend_from_slice(&self.0.to_le_bytes());
        }
        out.truncate(bytes);
        out
    }
}

fn write_records(
    engine: &dyn Engine,
    filler: &mut Filler,
    records: std::ops::Range<u64>,
    per_record: usize,
) -> Result<(), tripod_storage::Error> {
    let (mut batch, mut batch_bytes, mut unsynced) = (WriteBatch::default(), 0, 0);
    for record in records {
        let key = (record * per_record as u64).to_be_bytes().to_vec();
        let value = filler.fill(per_record * REVISION_BYTES);
        batch_bytes += value.len();
        batch.appends.push((key, value.into()));
        if batch_bytes >= BATCH_BYTES {
            engine.write(std::mem::take(&mut batch))?;
            unsynced += std::mem::take(&mut batch_bytes);
        }
        if unsynced >= SYNC_BYTES {
            engine.sync()?;
            unsynced = 0;
        }
    }
    engine.write(batch)?;
    engine.sync()
}

fn run(total: usize, seed: u64, per_record: usize, options: &SledOptions) -> anyhow_lite::Result {
    let dir = tempfile::tempdir()?;
    let revisions = total / REVISION_BYTES;
    let records = (revisions / per_record) as u64;
    let mut filler = Filler(seed.max(1));
    let (cpu, wall, moved) = (cpu_s(), Instant::now(), written_bytes());
    let (write_cpu, write_s, moved, written, halved, rewritten, rss) = {
        let engine = SledEngine::open(dir.path(), options)?;
        write_records(&engine, &mut filler, 0..records, per_record)?;
        let (write_cpu, write_s) = (cpu_s() - cpu, wall.elapsed().as_secs_f64());
        let (written, moved) = (disk_bytes(dir.path()), written_bytes() - moved);
        let mut batch = WriteBatch::default();
        for record in 0..records / 2 {
            batch.writes.push(((record * per_record as u64).to_be_bytes().to_vec(), None));
            if batch.writes.len() >= DELETES_MAX {
                engine.write(std::mem::take(&mut batch))?;
            }
        }
        engine.write(batch)?;
        engine.sync()?;
        let halved = disk_bytes(dir.path());
        write_records(&engine, &mut filler, records..records + records / 2, per_record)?;
        (write_cpu, write_s, moved, written, halved, disk_bytes(dir.path()), peak_mb())
    };
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{per_record:>4} rev/record, {:>3} MB cache, {:>4} KB segments: {:>6.2} us CPU/rev {:>6.2} us wall/rev; \
         {:.2} bytes written a byte; disk MB: {:>6.1} (x{:.2}), half deleted {:>6.1}, refilled {:>6.1}; peak RSS {rss:>5.0} MB",
        options.cache_bytes >> 20,
        options.segment_bytes >> 10,
        write_cpu * 1e6 / revisions as f64,
        write_s * 1e6 / revisions as f64,
        moved as f64 / total as f64,
        mb(written),
        written as f64 / total as f64,
        mb(halved),
        mb(rewritten),
    );
    Ok(())
}

/// Any error ends the program with its text.
mod anyhow_lite {
    pub(crate) type Result = std::result::Result<(), Box<dyn std::error::Error>>;
}

fn filler_alone(total: usize, seed: u64) -> anyhow_lite::Result {
    use std::io::Write as _;
    let dir = tempfile::tempdir()?;
    let mut filler = Filler(seed.max(1));
    let (cpu, revisions) = (cpu_s(), total / REVISION_BYTES);
    let mut bytes = 0;
    for _ in 0..total / BATCH_BYTES {
        bytes += std::hint::black_box(filler.fill(BATCH_BYTES)).len();
    }
    let fill_cpu = cpu_s() - cpu;
    let (cpu, mut file) = (cpu_s(), fs::File::create(dir.path().join("plain"))?);
    for n in 1..=total / BATCH_BYTES {
        file.write_all(&filler.fill(BATCH_BYTES))?;
        if n % (SYNC_BYTES / BATCH_BYTES) == 0 {
            file.sync_data()?;
        }
    }
    println!(
        "made of {bytes} bytes, filler alone: {:.2} us CPU/rev; filler and append to a file: {:.2}",
        fill_cpu * 1e6 / revisions as f64,
        (cpu_s() - cpu) * 1e6 / revisions as f64
    );
    Ok(())
}

fn main() -> anyhow_lite::Result {
    let mut args = std::env::args().skip(1);
    let total = args.next().map_or(Ok(128), |mb| mb.parse::<usize>())? << 20;
    let seed = args.next().map_or(Ok(1), |seed| seed.parse())?;
    if let (Some(per_record), Some(segment_kb)) = (args.next(), args.next()) {
        let segment_bytes = segment_kb.parse::<usize>()? << 10;
        let cache_mb = args.next().map_or(Ok(CACHE_MB), |mb| mb.parse())?;
        let options = SledOptions { cache_bytes: cache_mb << 20, segment_bytes };
        return run(total, seed, per_record.parse()?, &options);
    }
    println!("{} MB in revisions of {REVISION_BYTES} bytes, seed {seed}", total >> 20);
    filler_alone(total, seed)?;
    for segment_kb in [512, 4096] {
        for per_record in [1, 8, 64, 256] {
            // A process each, so that memory is its own.
            let mut child = std::process::Command::new(std::env::current_exe()?);
            let numbers = [total >> 20, usize::try_from(seed)?, per_record, segment_kb];
            child.args(numbers.map(|number| number.to_string())).status()?;
        }
    }
    Ok(())
}
