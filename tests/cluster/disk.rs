//! Disks that fill up or lie: a clear end, and nothing acknowledged lost.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tonic::Code;

use crate::support::cluster::{Cluster, Options};

/// Room for the log's first segments and a little data.
const DISK_BYTES: &str = "256m";
/// Size of one value while the disk fills.
const VALUE_BYTES: usize = 256 * 1024;
/// Puts after which the disk must be full: more than the disk has room for.
const PUTS_MAX: usize = 2_000;
/// Time a server has to end once its disk is full or its log is damaged.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A small file system of its own; unmounted when dropped.
#[derive(Debug)]
struct SmallDisk {
    root: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts it; `None` without the right to.
    fn mount() -> Result<Option<Self>> {
        let root = tempfile::Builder::new().prefix("tripod-disk-").tempdir()?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"])
            .arg(root.path())
            .status()
            .context("cannot run mount")?;
        if status.success() {
            return Ok(Some(Self { root }));
        }
        // CI must never skip this in silence.
        ensure!(std::env::var_os("CI").is_none(), "mounting a tmpfs needs root");
        Ok(None)
    }

    /// Takes every free byte; the file that holds them.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.root.path().join("ballast");
        let mut file = fs::File::create(&path)?;
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![1; size];
            while file.write_all(&block).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.root.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_gives_a_clear_error_and_loses_nothing_acknowledged() -> Result<()> {
    let Some(disk) = SmallDisk::mount()? else {
        eprintln!("full disk: SKIPPED, mounting a tmpfs needs root");
        return Ok(());
    };
    let mut options = Options::candidate(1)?;
    options.data_root = Some(disk.root.path().to_owned());
    let mut cluster = Cluster::start(options).await?;
    let client = cluster.members[0].client();
    for number in 0..50 {
        client.put(format!("small/{number:02}"), number.to_string()).await?;
    }
    let ballast = disk.fill()?;
    let mut acknowledged = 0;
    let refused = loop {
        let mut value = format!("{acknowledged:08}").into_bytes();
        value.resize(VALUE_BYTES, b'x');
        match client.put(format!("large/{acknowledged:08}"), value).await {
            Ok(_) => acknowledged += 1,
            Err(status) => break status,
        }
        ensure!(acknowledged < PUTS_MAX, "the disk never filled up");
    };
    eprintln!("full disk: after {acknowledged} large puts: {refused}");
    // Either it answers that the disk is full, or it ends and says why in its log.
    let ended = cluster.members[0].exit_within(END_LIMIT);
    let told = refused.code() == Code::ResourceExhausted || says_full(refused.message());
    let logged = says_full(&cluster.members[0].log());
    eprintln!("full disk: ended {ended:?}, told {told}, logged {logged}");
    ensure!(told || logged, "neither answer nor log says that the disk is full: {refused}");
    match ended {
        Ok(status) => ensure!(!status.success(), "a failed disk is no success"),
        Err(_) => cluster.members[0].kill()?,
    }
    fs::remove_file(ballast)?;
    cluster.restart_missing().await?;
    let client = cluster.members[0].client();
    for number in 0..50 {
        let answer = client.get(format!("small/{number:02}")).await?;
        ensure!(answer.kvs.len() == 1, "small/{number:02} is lost");
    }
    for number in 0..acknowledged {
        let answer = client.get(format!("large/{number:08}")).await?;
        let kv = answer.kvs.first().with_context(|| format!("large/{number:08} is lost"))?;
        ensure!(kv.value.len() == VALUE_BYTES, "large/{number:08} is cut");
    }
    client.put("after", "1").await.context("no write after space came back")?;
    cluster.close()
}

fn says_full(text: &str) -> bool {
    let text = text.to_lowercase();
    ["no space left", "disk full", "disk is full", "enospc"].iter().any(|one| text.contains(one))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_middle_of_the_log_stops_the_start() -> Result<()> {
    const MARKER: &str = "marker that is flipped";
    let options = Options::candidate(1)?;
    let is_etcd = options.program.is_etcd();
    let mut cluster = Cluster::start(options).await?;
    let client = cluster.members[0].client();
    for number in 0..400 {
        client.put(format!("key/{number:03}"), format!("value {number}")).await?;
        if number == 200 {
            client.put("marked", MARKER).await?;
        }
    }
    cluster.members[0].kill()?;
    let file = flip(&cluster.members[0].data_dir, MARKER.as_bytes())?;
    let before = cluster.members[0].log().len();
    cluster.members[0].start()?;
    let status = cluster.members[0].exit_within(END_LIMIT)?;
    ensure!(!status.success(), "it ended as if nothing were wrong");
    let log = cluster.members[0].log()[before..].to_owned();
    let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
    eprintln!("flipped byte: {status}, names the file: {}", log.contains(&name));
    // etcd reports only the checksums; we want the file.
    ensure!(is_etcd || log.contains(&name), "the log does not name {name}");

    // The file is as it was found: putting the byte back brings everything back.
    flip_at(&file, MARKER.as_bytes(), flipped)?;
    cluster.restart_missing().await?;
    let answer = cluster.members[0].client().get("marked").await?;
    ensure!(answer.kvs.first().is_some_and(|kv| kv.value == MARKER), "the marked key is lost");
    let count = cluster.members[0].client().everything(0).await?.count;
    ensure!(count == 401, "{count} keys of 401");
    cluster.close()
}

/// Flips a byte of `marker` in the one log file that holds it; that file.
fn flip(data_dir: &Path, marker: &[u8]) -> Result<PathBuf> {
    let extension = std::env::var("TRIPOD_LOG_EXTENSION").unwrap_or_else(|_| "wal".to_owned());
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|have| *have == *extension)
                && flip_at(&path, marker, <[u8]>::to_vec).is_ok()
            {
                return Ok(path);
            }
        }
    }
    bail!("no *.{extension} file below {} holds the marker", data_dir.display())
}

/// Finds `searched(marker)` in a file and flips the lowest bit of its first byte.
fn flip_at(path: &Path, marker: &[u8], searched: fn(&[u8]) -> Vec<u8>) -> Result<()> {
    let wanted = searched(marker);
    let mut bytes = fs::read(path)?;
    let at = bytes.windows(wanted.len()).position(|window| window == wanted);
    let at = at.context("the marker is not in this file")?;
    bytes[at] ^= 1;
    fs::write(path, bytes)?;
    Ok(())
}

/// The marker as [`flip`] leaves it.
fn flipped(marker: &[u8]) -> Vec<u8> {
    let mut bytes = marker.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
    bytes
}
