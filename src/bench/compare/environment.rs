//! Where and when a comparison ran.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::Side;
use crate::bench::stats::median;

/// Writes whose sync is timed.
const SYNCS: usize = 200;
/// Bytes per such write: a small WAL record's page.
const SYNC_BYTES: usize = 4096;

/// The machine, the programs, the time.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// Seconds since 1970.
    pub unix_time: u64,
    /// The same as a date, UTC.
    pub date: String,
    /// Cores this program may use.
    pub cores: usize,
    /// Model of the processor.
    pub cpu: String,
    /// Memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Kernel release.
    pub kernel: String,
    /// Load average of the last minute at the start: above the number of cores, figures are noisy.
    pub load_average: Option<f64>,
    /// File system of the data directories: device, type.
    pub disk: String,
    /// Median time of an fdatasync after a 4 KiB append there, in microseconds.
    pub fdatasync_us: Option<f64>,
    /// What each side says its version is.
    pub versions: Vec<(String, String)>,
    /// Seed of keys and values.
    pub seed: u64,
    /// The command that was run.
    pub command: String,
}

impl Environment {
    pub(super) fn read(dir: &Path, sides: &[Side], seed: u64) -> Self {
        let unix_time =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|rest| rest.trim_start_matches([':', ' ', '\t']).trim().to_owned())
        };
        let memory_kb = after(&file("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").trim().parse::<u64>().ok());
        Self {
            unix_time,
            date: date_of(unix_time),
            cores: thread::available_parallelism().map_or(1, usize::from),
            cpu: after(&file("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_bytes: memory_kb.map(|kb| kb * 1024),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: file("/proc/loadavg").split(' ').next().and_then(|t| t.parse().ok()),
            disk: disk_of(dir),
            fdatasync_us: fdatasync_us(dir),
            versions: sides.iter().map(|side| (side.name.into(), version_of(side))).collect(),
            seed,
            command: std::env::args().map(|word| quoted(&word)).collect::<Vec<_>>().join(" "),
        }
    }

    /// Whether syncing costs nothing on this disk, so that figures say nothing about a real one.
    pub fn volatile_disk(&self) -> bool {
        self.disk.contains("tmpfs") || self.disk.contains("ramfs")
    }
}

fn version_of(side: &Side) -> String {
    let output = Command::new(&side.program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let lines: Vec<String> =
        text.unwrap_or_default().lines().take(3).map(|line| line.trim().to_owned()).collect();
    if lines.is_empty() { "unknown".into() } else { lines.join(", ") }
}

/// Device and type of the file system a folder is on.
fn disk_of(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let _ = fs::create_dir_all(dir);
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut best: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(point), Some(kind)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if dir.starts_with(point) && best.as_ref().is_none_or(|(length, _)| point.len() >= *length)
        {
            best = Some((point.len(), format!("{device} {kind}")));
        }
    }
    best.map_or_else(|| "unknown".into(), |(_, text)| text)
}

fn fdatasync_us(dir: &Path) -> Option<f64> {
    let path = dir.join(format!("sync-probe-{}", std::process::id()));
    let probe = || -> std::io::Result<Vec<f64>> {
        let mut file = File::create(&path)?;
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            file.write_all(&[0x5a; SYNC_BYTES])?;
            let start = Instant::now();
            file.sync_data()?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    };
    let times = probe();
    let _ = fs::remove_file(&path);
    median(&times.ok()?)
}

/// A word as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// `YYYY-MM-DD hh:mm UTC` of seconds since 1970 (proleptic Gregorian calendar).
fn date_of(unix_time: u64) -> String {
    let (mut days, seconds) = (unix_time / 86_400, unix_time % 86_400);
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (seconds / 3600, seconds % 3600 / 60);
    format!("{year:04}-{month:02}-{:02} {hour:02}:{minute:02} UTC", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let cases = [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_735_689_600, "2025-01-01 00:00 UTC"),
            (4_102_444_799, "2099-12-31 23:59 UTC"),
        ];
        for (time, want) in cases {
            assert_eq!(date_of(time), want);
        }
    }

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        let cases = [("--only", "--only"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("", "''")];
        for (word, want) in cases {
            assert_eq!(quoted(word), want);
        }
    }

    #[test]
    fn the_machine_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::read(dir.path(), &[], 7);
        assert!(environment.cores > 0 && !environment.kernel.is_empty());
        assert!(environment.fdatasync_us.is_some_and(|us| us > 0.0));
        assert_ne!(environment.disk, "unknown");
    }
}
