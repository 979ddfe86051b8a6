//! What a drain of the log costs on this disk: `wal_sync [dir] [drains]`.
//!
//! Drains of 16 KB (16 rows of 1000 bytes) and of one row of 256 bytes, each ended by `sync`:
//! in the first segment, across segments made ahead, and in recycled ones. The same bytes
//! appended to a growing file with fdatasync stand beside them.
#![expect(clippy::print_stdout, reason = "the result of a measurement")]
#![expect(clippy::disallowed_methods, reason = "a measurement needs the clock")]

use std::{error::Error, fs, io::Write as _, path::Path, time::Instant};

use tripod_storage::log::{Wal, WalOptions};

/// Microseconds by rank, for a sorted list.
fn show(what: &str, mut micros: Vec<u128>) {
    micros.sort_unstable();
    let at = |permille: usize| micros.get(micros.len() * permille / 1000).copied().unwrap_or(0);
    let mean = micros.iter().sum::<u128>() / micros.len().max(1) as u128;
    println!(
        "{what:<44} mean {mean:>6} us, p50 {:>6}, p90 {:>6}, p99 {:>6}, max {:>7}",
        at(500),
        at(900),
        at(990),
        micros.last().copied().unwrap_or(0)
    );
}

struct Load {
    wal: Wal,
    index: u64,
}

impl Load {
    fn drains(
        &mut self,
        drains: usize,
        rows: u64,
        row: &[u8],
        purge: bool,
    ) -> Result<Vec<u128>, Box<dyn Error>> {
        let mut micros = Vec::with_capacity(drains);
        for drain in 0..drains {
            let start = Instant::now();
            for _ in 0..rows {
                self.index += 1;
                self.wal.append(self.index, &[row])?;
            }
            self.wal.sync()?;
            micros.push(start.elapsed().as_micros());
            if purge && drain % 1000 == 999 {
                self.wal.purge_to(self.index - 10, b"id")?;
                self.wal.sync()?;
            }
        }
        Ok(micros)
    }
}

fn growing(dir: &Path, drains: usize, bytes: usize) -> Result<Vec<u128>, Box<dyn Error>> {
    let mut file = fs::File::create(dir.join("growing"))?;
    let drain = vec![7; bytes];
    let mut micros = Vec::with_capacity(drains);
    for _ in 0..drains {
        let start = Instant::now();
        file.write_all(&drain)?;
        file.sync_data()?;
        micros.push(start.elapsed().as_micros());
    }
    fs::remove_file(dir.join("growing"))?;
    Ok(micros)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().unwrap_or_else(|| ".".to_owned());
    let drains = args.next().map_or(Ok(3000), |drains| drains.parse::<usize>())?;
    let dir = tempfile::tempdir_in(parent)?;
    let start = Instant::now();
    let wal = Wal::open(&dir.path().join("wal"), WalOptions::default())?;
    println!("a new log with a segment of 64 MB: {} ms", start.elapsed().as_millis());
    let mut load = Load { wal, index: 0 };
    let (row, small) = ([7; 1000], [7; 256]);
    show("16 KB, first segment", load.drains(drains, 16, &row, false)?);
    show("16 KB appended to a growing file", growing(dir.path(), drains, 16 << 10)?);
    show("one row of 256 bytes", load.drains(drains, 1, &small, false)?);
    show("256 bytes appended to a growing file", growing(dir.path(), drains, 256)?);
    show("16 KB, with segments made ahead", load.drains(3 * drains, 16, &row, false)?);
    show("16 KB, purged and recycled every 16 MB", load.drains(5 * drains, 16, &row, true)?);
    let bytes = load.wal.size_bytes();
    drop(load);
    let start = Instant::now();
    let wal = Wal::open(&dir.path().join("wal"), WalOptions::default())?;
    println!("opened again: {} MB of files, {} ms", bytes >> 20, start.elapsed().as_millis());
    drop(wal);
    Ok(())
}
