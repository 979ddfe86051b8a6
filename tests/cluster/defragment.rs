//! Giving the space of deleted data back, and crashes meanwhile.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use tripod::api::proto::etcdserverpb as pb;

use crate::support::{
    client::Client,
    cluster::{Cluster, Member, Options},
    random::{Random, seed},
};

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Bytes of files below a folder.
fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Files come and go meanwhile.
        bytes += match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()).unwrap_or_default(),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// Bytes of the engine's stores.
fn engine_bytes(member: &Member) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(member.data_dir.join("member"))? {
        let path = entry?.path();
        if path.is_dir()
            && path.file_name().is_some_and(|name| text(name.as_ref()).starts_with("db"))
        {
            bytes += bytes_below(&path)?;
        }
    }
    Ok(bytes)
}

/// Writes much and takes most of it away again.
async fn bloat(client: &Client) -> Result<()> {
    for at in 0..1_200 {
        client.put(format!("big{}", at % 300), vec![b'x'; 40_000]).await?;
    }
    let range = pb::DeleteRangeRequest {
        key: Bytes::from_static(b"big"),
        range_end: Bytes::from_static(b"bih"),
        ..Default::default()
    };
    client.kv().delete_range(range).await?;
    client.put("kept", "x").await?;
    let revision = client.revision().await?;
    client.kv().compact(pb::CompactionRequest { revision, physical: true }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defragmenting_gives_space_back_to_the_file_system() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(1)?).await?;
    let client = cluster.members[0].client();
    bloat(&client).await?;
    // The size is looked at once everything has reached the engine.
    client.maintenance().defragment(pb::DefragmentRequest {}).await?;
    bloat(&client).await?;
    let (before, size) = (engine_bytes(&cluster.members[0])?, client.status().await?.db_size);
    client.maintenance().defragment(pb::DefragmentRequest {}).await?;
    let after = engine_bytes(&cluster.members[0])?;
    let status = client.status().await?;
    eprintln!(
        "defragment: {before} bytes became {after}, db size {size} became {}",
        status.db_size
    );
    ensure!(after * 4 < before, "{before} bytes became {after}");
    ensure!(status.db_size * 4 < size, "the size told went from {size} to {}", status.db_size);
    let hash = client.hash_kv(0).await?;
    cluster.members[0].kill()?;
    cluster.restart_missing().await?;
    let client = cluster.members[0].client();
    ensure!(client.hash_kv(0).await?.hash == hash.hash);
    ensure!(client.get("kept").await?.count == 1);
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_during_defragmentation_loses_nothing() -> Result<()> {
    let mut random = Random::new(seed());
    let mut cluster = Cluster::start(Options::candidate(1)?).await?;
    for round in 0..4 {
        let client = cluster.members[0].client();
        for at in 0..300 {
            client.put(format!("k{}", at % 100), vec![b'x'; 20_000]).await?;
        }
        let hash = client.hash_kv(0).await?;
        let defragmenting = tokio::spawn(async move {
            // It may or may not get an answer.
            drop(client.maintenance().defragment(pb::DefragmentRequest {}).await);
        });
        let pause = random.between(0, 60).unsigned_abs();
        tokio::time::sleep(Duration::from_millis(pause)).await;
        cluster.members[0].kill()?;
        defragmenting.await?;
        cluster.restart_missing().await?;
        let found = cluster.members[0].client().hash_kv(0).await?;
        if found.hash != hash.hash {
            bail!("round {round}, killed after {pause} ms: {found:?} is not {hash:?}");
        }
        let stores = fs::read_dir(cluster.members[0].data_dir.join("member"))?
            .flatten()
            .filter(|entry| {
                entry.path().is_dir() && text(entry.file_name().as_ref()).starts_with("db")
            })
            .count();
        ensure!(stores == 1, "{stores} stores are left");
    }
    cluster.close()
}
