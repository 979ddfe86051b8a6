//! snapshot: save from a server, status of a file, restore into a data directory.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use sha2::{Digest as _, Sha256};
use tripod_storage::etcd::Bump;

use super::{
    args::{Global, RestoreArgs, SnapshotCommand},
    client::Client,
    exit::{Exit, FAILED, INTERRUPTED},
    go::byte_size,
    print::{Answer, Style},
};
use crate::{
    api::proto::etcdserverpb::{SnapshotRequest, maintenance_client::MaintenanceClient},
    bench::progress::Progress,
    client::private_file,
    config::{Config, duration},
    node::restore::{self, Restore},
};

/// Bytes of the checksum that ends the stream.
const CHECKSUM_BYTES: usize = 32;

/// Saves a snapshot of the one endpoint that is given.
pub(super) async fn save(client: &Client, global: &Global, args: &[String]) -> Result<(), Exit> {
    let [path] = args else {
        return Err(Exit::args("snapshot save expects one argument"));
    };
    let [endpoint] = global.endpoints.as_slice() else {
        let text = "snapshot must be requested to one selected node, not multiple";
        let text = format!("{text} {:?}", global.endpoints);
        return Err(Exit::args(text));
    };
    let path = Path::new(path);
    let part = PathBuf::from(format!("{}.part", path.display()));
    let started = Instant::now();
    eprintln!("fetching snapshot from {endpoint}");
    let fetched = fetch(client, &part).await;
    let (bytes, version) = match fetched {
        Ok(fetched) => fetched,
        Err(exit) => {
            // The reason matters more than what is left behind.
            let _ = fs::remove_file(&part);
            return Err(exit);
        }
    };
    let renamed = fs::rename(&part, path).and_then(|()| sync_parent(path));
    renamed.map_err(|error| {
        Exit::new(FAILED, format!("could not rename {} ({error})", part.display()))
    })?;
    let took = duration::format(started.elapsed());
    eprintln!("fetched snapshot: {} in {took}", byte_size(bytes));
    super::write(format!("Snapshot saved at {}\n", path.display()).as_bytes())?;
    if version.is_empty() {
        return Ok(());
    }
    super::write(format!("Server version {version}\n").as_bytes())
}

/// Receives a snapshot into a file, which is whole and on disk then; its bytes and version.
async fn fetch(client: &Client, part: &Path) -> Result<(u64, String), Exit> {
    let failed = |action: &'static str| {
        move |error: std::io::Error| {
            Exit::new(FAILED, format!("cannot {action} {}: {error}", part.display()))
        }
    };
    let connection = client.dial().await?;
    let mut stream = MaintenanceClient::new(connection).snapshot(SnapshotRequest {}).await?;
    // Whoever reads a snapshot reads every secret in it.
    let mut file = private_file(part).map_err(failed("create"))?;
    let stream = stream.get_mut();
    let (mut hash, mut held) = (Sha256::new(), Vec::new());
    let (mut received, mut version) = (0_u64, String::new());
    let mut progress = Progress::new(0);
    while let Some(message) = stream.message().await? {
        received += message.blob.len() as u64;
        version = message.version;
        file.write_all(&message.blob).map_err(failed("write"))?;
        // The last bytes are the checksum, however the stream was cut.
        held.extend_from_slice(&message.blob);
        let body = held.len().saturating_sub(CHECKSUM_BYTES);
        hash.update(&held[..body]);
        held.drain(..body);
        let all = received + message.remaining_bytes;
        progress.set(received, all, || format!("{} of {}", byte_size(received), byte_size(all)));
    }
    progress.finish();
    if received % 512 != CHECKSUM_BYTES as u64 {
        let text = format!("sha256 checksum not found [bytes: {received}]; save it again");
        return Err(Exit::new(INTERRUPTED, text));
    }
    if hash.finalize().as_slice() != held.as_slice() {
        let text = "the checksum of what was received does not match; save it again";
        return Err(Exit::new(INTERRUPTED, text));
    }
    file.sync_all().map_err(failed("sync"))?;
    Ok((received, version))
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Runs a command that needs no server; `None` for one that does.
pub(super) fn run_offline(style: Style, command: &SnapshotCommand) -> Option<Result<(), Exit>> {
    match command {
        SnapshotCommand::Save(_) => None,
        SnapshotCommand::Status(args) => Some(status(style, &args.args)),
        SnapshotCommand::Restore(args) => Some(restore_file(args)),
    }
}

fn status(style: Style, args: &[String]) -> Result<(), Exit> {
    let [path] = args else {
        return Err(Exit::args("snapshot status requires exactly one argument"));
    };
    let status = restore::file_status(Path::new(path)).map_err(|error| explained(&error))?;
    super::write(&style.print(&Answer::File(&status))?)
}

fn restore_file(args: &RestoreArgs) -> Result<(), Exit> {
    let [file] = args.file.args.as_slice() else {
        return Err(Exit::args("snapshot restore requires exactly one argument"));
    };
    let bump = match (args.bump_revision, args.mark_compacted) {
        (0, false) => None,
        (0, true) => return Err(Exit::args("--mark-compacted required --bump-revision")),
        (_, false) => return Err(Exit::args("--bump-revision required --mark-compacted")),
        (by, true) => Some(Bump { by }),
    };
    let bad = |flag: &str, error: &dyn std::fmt::Display| Exit::args(format!("--{flag}: {error}"));
    let mut config = Config {
        name: args.name.clone(),
        data_dir: PathBuf::from(&args.data_dir),
        wal_dir: PathBuf::from(&args.wal_dir),
        initial_cluster_token: args.initial_cluster_token.clone(),
        initial_cluster: (args.initial_cluster.parse())
            .map_err(|error| bad("initial-cluster", &error))?,
        initial_advertise_peer_urls: (args.initial_advertise_peer_urls.parse())
            .map_err(|error| bad("initial-advertise-peer-urls", &error))?,
        ..Config::default()
    };
    config.complete();
    let order = Restore { file: file.into(), skip_hash_check: args.skip_hash_check, bump };
    let restored = restore::restore(&config, &order).map_err(|error| explained(&error))?;
    eprintln!(
        "restored {} at revision {}: {} changes, {} leases; start the member with --data-dir={}",
        file,
        restored.revision,
        restored.changes,
        restored.leases,
        config.data_dir.display()
    );
    if restored.auth_enabled {
        eprintln!("authentication is on, with the {} users of the file", restored.users);
    }
    if restored.orphans > 0 {
        eprintln!("warning: {} keys named leases that are not in the file", restored.orphans);
    }
    Ok(())
}

/// An error with its causes.
fn explained(error: &(dyn std::error::Error + 'static)) -> Exit {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Exit::new(FAILED, text)
}
