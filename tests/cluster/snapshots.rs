//! Snapshots in etcd's format, both ways between the server under test and real etcd; and giving
//! space back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tempfile::TempDir;
use tripod::api::proto::etcdserverpb as pb;

use crate::support::{
    client::Client,
    cluster::{Cluster, Member, Options, START_LIMIT},
    program::tool,
    random::{Random, seed},
    wait,
};

/// Lease that every filled store has.
const LEASE: i64 = 0x1234_5678;

/// The program whose `snapshot` commands are under test.
fn tripod() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tripod"))
}

/// What a program printed on both outputs, whether it went well.
fn output(program: &Path, args: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(program)
        .env("ETCDCTL_API", "3")
        .args(args)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// What a program printed on standard output; it must go well.
fn run(program: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program).env("ETCDCTL_API", "3").args(args).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {args:?}: {errors}", program.display());
    Ok(String::from_utf8(output.stdout)?)
}

/// The error of a command that must fail.
fn refused(program: &Path, args: &[&str]) -> Result<String> {
    let (went_well, text) = output(program, args)?;
    ensure!(!went_well, "{args:?} went well: {text}");
    Ok(text)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Old versions, deletes, a transaction of several keys, leases, a compaction.
async fn fill(client: &Client, random: &mut Random, writes: usize) -> Result<()> {
    let grant = pb::LeaseGrantRequest { id: LEASE, ttl: 5_000 };
    client.lease().lease_grant(grant).await?;
    for at in 0..writes {
        let key = format!("key{}", random.below(writes / 4 + 1));
        if random.chance(15) {
            client.delete(key).await?;
        } else if random.chance(10) {
            let put = |key: String| pb::PutRequest {
                key: key.into(),
                value: vec![b'v'; at % 3000].into(),
                lease: LEASE,
                ..Default::default()
            };
            let op = |request| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(request)),
            };
            let other = format!("other{at}");
            let success = vec![op(put(key)), op(put(other))];
            client.kv().txn(pb::TxnRequest { success, ..Default::default() }).await?;
        } else {
            client.put(key, format!("value {at}")).await?;
        }
        if at == writes / 3 {
            let revision = client.revision().await?;
            let compact = pb::CompactionRequest { revision, physical: true };
            client.kv().compact(compact).await?;
        }
    }
    Ok(())
}

/// Key, value, create revision, version and lease.
type Pair = (Bytes, Bytes, i64, i64, i64);

/// What a store has at some revisions: their hashes and pairs; and its leases.
#[derive(Debug, PartialEq)]
struct Contents {
    revision: i64,
    at: Vec<(i64, u32, Vec<Pair>)>,
    leases: Vec<(i64, i64, Vec<Bytes>)>,
}

async fn contents(client: &Client) -> Result<Contents> {
    let revision = client.revision().await?;
    let compacted = client.hash_kv(0).await?.compact_revision;
    let mut at = Vec::new();
    let step = usize::try_from((revision - compacted) / 12).unwrap_or_default().max(1);
    for revision in (compacted + 1..=revision).rev().step_by(step) {
        let hash = client.hash_kv(revision).await?.hash;
        let kvs = client.everything(revision).await?.kvs;
        let pair = |kv: tripod::api::proto::mvccpb::KeyValue| {
            (kv.key, kv.value, kv.create_revision, kv.version, kv.lease)
        };
        at.push((revision, hash, kvs.into_iter().map(pair).collect()));
    }
    let mut leases = Vec::new();
    let ids = client.lease().lease_leases(pb::LeaseLeasesRequest {}).await?.into_inner();
    for id in ids.leases.into_iter().map(|lease| lease.id) {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let lease = client.lease().lease_time_to_live(request).await?.into_inner();
        let mut keys = lease.keys;
        keys.sort();
        leases.push((id, lease.granted_ttl, keys));
    }
    leases.sort();
    Ok(Contents { revision, at, leases })
}

/// Equal contents and, from the first revision on, equal events.
async fn check_equal(have: &Client, want: &Contents, events: usize) -> Result<()> {
    let found = contents(have).await?;
    ensure!(found.revision == want.revision, "{} is not {}", found.revision, want.revision);
    for (found, want) in found.at.iter().zip(&want.at) {
        ensure!(found == want, "at revision {}: {found:?}\n is not {want:?}", want.0);
    }
    ensure!(found == *want, "{:?} is not {:?}", found.leases, want.leases);
    let first = want.at.last().context("a revision")?.0;
    let found = have.events(first, want.revision).await?.len();
    ensure!(found == events, "{found} events since {first}, not {events}");
    Ok(())
}

/// Flags that name a member of a cluster that is not started yet.
fn identity(cluster: &Cluster, member: &Member) -> Vec<String> {
    let all: Vec<String> =
        cluster.members.iter().map(|one| format!("{}={}", one.name, one.peer_url())).collect();
    vec![
        format!("--name={}", member.name),
        format!("--data-dir={}", member.data_dir.display()),
        format!("--initial-cluster={}", all.join(",")),
        format!("--initial-advertise-peer-urls={}", member.peer_url()),
        "--initial-cluster-token=tripod-test".to_owned(),
    ]
}

/// Restores a file into every member of a cluster that is not started yet.
fn restore(program: &Path, file: &Path, cluster: &Cluster, more: &[&str]) -> Result<()> {
    for member in &cluster.members {
        let flags = identity(cluster, member);
        let mut args = vec!["snapshot", "restore", text(file)];
        args.extend(flags.iter().map(String::as_str));
        args.extend(more);
        run(program, &args)?;
    }
    Ok(())
}

async fn start(mut cluster: Cluster) -> Result<Cluster> {
    cluster.restart_missing().await?;
    Ok(cluster)
}

/// A filled store's file, saved by `program`, its contents and number of events.
async fn saved(
    options: Options,
    program: &Path,
    dir: &Path,
    writes: usize,
) -> Result<(PathBuf, Contents, usize)> {
    let seed = seed();
    eprintln!("snapshots: TRIPOD_TEST_SEED={seed}");
    let cluster = Cluster::start(options).await?;
    let client = cluster.members[0].client();
    fill(&client, &mut Random::new(seed), writes).await?;
    let want = contents(&client).await?;
    let events = client.events(want.at.last().context("a revision")?.0, want.revision).await?;
    let file = dir.join("saved.db");
    let endpoint = format!("--endpoints={}", cluster.members[0].client_url());
    run(program, &["snapshot", "save", text(&file), endpoint.as_str()])?;
    cluster.close()?;
    Ok((file, want, events.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_etcd_goes_on_from_a_snapshot_of_ours() -> Result<()> {
    let dir = TempDir::new()?;
    let etcdctl = tool("etcdctl")?;
    let (file, want, events) = saved(Options::candidate(1)?, &etcdctl, dir.path(), 400).await?;
    let etcdutl = tool("etcdutl")?;
    for form in ["simple", "json", "table", "fields"] {
        let args = ["snapshot", "status", text(&file), "-w", form];
        let (want, have) = (run(&etcdutl, &args)?, run(&tripod(), &args)?);
        ensure!(want == have, "{form}: {have} is not {want}");
        ensure!(form != "simple" || want.contains(", "), "{want}");
    }
    let restored = Cluster::prepare(Options::reference()?)?;
    restore(&etcdutl, &file, &restored, &[])?;
    let restored = start(restored).await?;
    check_equal(&restored.members[0].client(), &want, events).await?;
    restored.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_go_on_from_a_snapshot_of_real_etcd() -> Result<()> {
    three_members_go_on_from(Options::reference()?).await
}

/// Their records lack what later releases added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_go_on_from_a_snapshot_of_an_older_etcd() -> Result<()> {
    let older = Options::older_reference()?;
    ensure!(older.program.dialect < (3, 6), "{:?} is not older", older.program);
    three_members_go_on_from(older).await
}

async fn three_members_go_on_from(etcd: Options) -> Result<()> {
    let dir = TempDir::new()?;
    let ctl = tripod();
    let (file, want, events) = saved(etcd, &ctl, dir.path(), 400).await?;
    let cluster = Cluster::prepare(Options::candidate(3)?)?;
    restore(&ctl, &file, &cluster, &[])?;
    let mut cluster = start(cluster).await?;
    for member in &cluster.members {
        check_equal(&member.client(), &want, events).await?;
    }
    cluster.members[1].client().put("more", "x").await?;
    let revision = cluster.members[2].client().revision().await?;
    cluster.agree_at(revision).await?;
    for member in &mut cluster.members {
        member.kill()?;
    }
    cluster.restart_missing().await?;
    cluster.agree_at(revision).await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_joins_a_restored_cluster_gets_what_was_restored() -> Result<()> {
    let dir = TempDir::new()?;
    let (file, want, events) = saved(Options::candidate(1)?, &tripod(), dir.path(), 100).await?;
    let cluster = Cluster::prepare(Options::candidate(1)?)?;
    restore(&tripod(), &file, &cluster, &[])?;
    let mut cluster = start(cluster).await?;
    let newcomer = cluster.newcomer()?;
    let request = pb::MemberAddRequest {
        peer_ur_ls: vec![cluster.members[newcomer].peer_url()],
        is_learner: false,
    };
    cluster.members[0].client().cluster().member_add(request).await?;
    cluster.members[newcomer].start()?;
    cluster.members[newcomer].healthy_within(START_LIMIT).await?;
    check_equal(&cluster.members[newcomer].client(), &want, events).await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_not_restored_is_refused_by_those_that_were() -> Result<()> {
    let dir = TempDir::new()?;
    let (file, want, _) = saved(Options::candidate(1)?, &tripod(), dir.path(), 40).await?;
    let mut cluster = Cluster::prepare(Options::candidate(3)?)?;
    for at in [0, 1] {
        let flags = identity(&cluster, &cluster.members[at]);
        let mut args = vec!["snapshot", "restore", text(&file)];
        args.extend(flags.iter().map(String::as_str));
        run(&tripod(), &args)?;
    }
    for member in &mut cluster.members {
        member.start()?;
    }
    for at in [0, 1] {
        cluster.members[at].healthy_within(START_LIMIT).await?;
    }
    let revision = cluster.members[0].client().put("more", "x").await?.header;
    ensure!(revision.is_some_and(|header| header.revision == want.revision + 1));
    let status = cluster.members[0].client().status().await?;
    ensure!(status.leader != 0);
    let stranger = cluster.members[2].client();
    wait::eventually("the stranger says that it has no part in this", START_LIMIT, || async {
        let log = cluster.members[2].log() + &cluster.members[0].log();
        ensure!(log.contains("WrongCluster"), "not yet");
        Ok(())
    })
    .await?;
    ensure!(stranger.put("mine", "x").await.is_err(), "a member alone takes writes");
    cluster.hush();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bumped_revision_makes_old_watches_start_over() -> Result<()> {
    let dir = TempDir::new()?;
    let (file, want, _) = saved(Options::candidate(1)?, &tripod(), dir.path(), 60).await?;
    let cluster = Cluster::prepare(Options::candidate(1)?)?;
    restore(&tripod(), &file, &cluster, &["--bump-revision=1000", "--mark-compacted=true"])?;
    let cluster = start(cluster).await?;
    let client = cluster.members[0].client();
    ensure!(client.revision().await? == want.revision + 1000);
    let pairs = client.everything(0).await?.kvs.len();
    ensure!(pairs == want.at[0].2.len(), "{pairs} pairs");
    let mut watch = client.watch_everything(want.revision).await?;
    loop {
        let message = watch.message().await?.context("the watch ended without a word")?;
        if message.canceled {
            ensure!(message.compact_revision == want.revision + 1000, "{message:?}");
            break;
        }
    }
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_orders_that_cannot_be_restored_say_what_to_do() -> Result<()> {
    let dir = TempDir::new()?;
    let (file, ..) = saved(Options::candidate(1)?, &tripod(), dir.path(), 60).await?;
    let good = fs::read(&file)?;
    let path = |name: &str| dir.path().join(name);
    fs::write(path("cut"), &good[..good.len() / 2])?;
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(path("flipped"), flipped)?;
    fs::write(path("bare"), &good[..good.len() - 32])?;
    fs::write(path("text"), "no database")?;
    fs::create_dir(path("full"))?;
    fs::write(path("full/x"), "")?;
    let cases: [(&str, &[&str], &str); 9] = [
        ("cut", &[], "missing hash"),
        ("cut", &["--skip-hash-check"], "cut short"),
        ("flipped", &[], "save it again"),
        ("bare", &[], "--skip-hash-check"),
        ("text", &["--skip-hash-check"], "snapshot save"),
        ("absent", &[], "cannot open"),
        ("saved.db", &["--mark-compacted"], "--bump-revision"),
        ("saved.db", &["--bump-revision=5"], "--mark-compacted"),
        ("saved.db", &["--name=other"], "initial cluster"),
    ];
    for (name, more, want) in cases {
        let (file, target) = (path(name), path("target"));
        let data = format!("--data-dir={}", target.display());
        let mut args = vec!["snapshot", "restore", text(&file), data.as_str()];
        args.extend(more);
        let text = refused(&tripod(), &args)?;
        ensure!(text.contains(want), "{name} {more:?} says {text:?}, no {want:?}");
        ensure!(!target.join("member").exists(), "{name} left a member behind");
    }
    let full = format!("--data-dir={}", path("full").display());
    let said = refused(&tripod(), &["snapshot", "restore", text(&file), &full])?;
    ensure!(said.contains("not empty"), "{said}");
    let bare = format!("--data-dir={}", path("target").display());
    run(&tripod(), &["snapshot", "restore", text(&path("bare")), "--skip-hash-check", &bare])?;
    ensure!(refused(&tripod(), &["snapshot", "status", text(&path("cut"))])?.contains("cut short"));
    let nobody = ["--endpoints=127.0.0.1:1", "--dial-timeout=200ms"];
    let target = path("never");
    refused(&tripod(), &[&["snapshot", "save", text(&target)][..], &nobody].concat())?;
    ensure!(!target.exists() && !path("never.part").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_under_load_is_the_state_of_one_revision() -> Result<()> {
    let dir = TempDir::new()?;
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let client = cluster.members[0].client();
    fill(&client, &mut Random::new(seed()), 100).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (client, stop) = (cluster.members[0].client(), stop.clone());
            tokio::spawn(async move {
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.put(format!("load{writer}/{}", at % 50), vec![7_u8; 2000]).await?;
                    at += 1;
                }
                Ok::<_, anyhow::Error>(at)
            })
        })
        .collect();
    let endpoint = format!("--endpoints={}", cluster.members[0].client_url());
    let etcdctl = tool("etcdctl")?;
    let mut files = Vec::new();
    for at in 0..3 {
        let file = dir.path().join(format!("{at}.db"));
        let (etcdctl, endpoint) = (etcdctl.clone(), endpoint.clone());
        let target = file.clone();
        tokio::task::spawn_blocking(move || {
            run(&etcdctl, &[endpoint.as_str(), "snapshot", "save", text(&target)])
        })
        .await??;
        files.push(file);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        ensure!(writer.await?? > 0, "a writer wrote nothing");
    }
    for file in files {
        let status = run(&tool("etcdutl")?, &["snapshot", "status", text(&file), "-w", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let revision = status["revision"].as_i64().context("a revision")?;
        let restored = Cluster::prepare(Options::candidate(1)?)?;
        restore(&tripod(), &file, &restored, &[])?;
        let restored = start(restored).await?;
        let have = restored.members[0].client();
        ensure!(have.revision().await? == revision);
        ensure!(have.hash_kv(revision).await?.hash == client.hash_kv(revision).await?.hash);
        ensure!(have.everything(0).await?.kvs == client.everything(revision).await?.kvs);
        restored.close()?;
    }
    cluster.close()
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it is gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_follows_its_source_through_a_restart() -> Result<()> {
    let mut source = Cluster::start(Options::candidate(1)?).await?;
    let target = Cluster::start(Options::reference()?).await?;
    let client = source.members[0].client();
    for at in 0..300 {
        client.put(format!("a/{at}"), format!("{at}")).await?;
    }
    client.put("b", "not mirrored").await?;
    let mirror = Command::new(tripod())
        .arg("ctl")
        .arg(format!("--endpoints={}", source.members[0].client_url()))
        .args(["make-mirror", "--prefix=a/", "--dest-prefix=copy/"])
        .arg(target.members[0].client_url())
        .spawn()?;
    let _mirror = Running(mirror);
    let copy = target.members[0].client();
    let arrived = async |key: &str, count: i64| {
        let what = format!("{key} arrives");
        wait::eventually(&what, START_LIMIT, || async {
            let found = copy.get(key.to_owned()).await?.count;
            ensure!(found == count, "{found} of {key}");
            Ok(())
        })
        .await
    };
    arrived("copy/299", 1).await?;
    client.delete("a/7").await?;
    arrived("copy/7", 0).await?;
    source.members[0].kill()?;
    source.restart_missing().await?;
    let client = source.members[0].client();
    client.delete("a/8").await?;
    client.put("a/last", "x").await?;
    arrived("copy/last", 1).await?;
    arrived("copy/8", 0).await?;
    let pairs = copy.everything(0).await?.kvs;
    ensure!(pairs.len() == 299, "{} pairs", pairs.len());
    ensure!(pairs.iter().all(|pair| pair.key.starts_with(b"copy/")));
    target.close()?;
    source.close()
}

/// Most memory a process has had, in bytes.
fn peak_memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("VmHWM")?;
    let kilobytes = line.split_whitespace().nth(1).context("a number")?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes 600 MB; run it with --ignored after changes to snapshots"]
async fn a_snapshot_of_200_mb_takes_little_memory() -> Result<()> {
    let dir = TempDir::new()?;
    let mut cluster = Cluster::start(Options::candidate(1)?).await?;
    let client = cluster.members[0].client();
    for at in 0..4_000 {
        // Old versions: they are on disk only.
        client.put(format!("k{}", at % 40), vec![b'x'; 50_000]).await?;
    }
    client.maintenance().defragment(pb::DefragmentRequest {}).await?;
    // A fresh process: its peak is not the writes'.
    cluster.members[0].stop()?;
    cluster.restart_missing().await?;
    let pid = cluster.members[0].pid()?;
    let before = peak_memory(pid)?;
    let file = dir.path().join("large.db");
    let endpoint = format!("--endpoints={}", cluster.members[0].client_url());
    run(&tripod(), &["snapshot", "save", text(&file), endpoint.as_str()])?;
    let after = peak_memory(pid)?;
    let client = cluster.members[0].client();
    let size = fs::metadata(&file)?.len();
    eprintln!("large: {size} bytes of file, peak memory {before} became {after}");
    ensure!(size > 200_000_000, "{size} bytes");
    ensure!(after - before < 48 << 20, "peak memory went from {before} to {after}");
    let status = run(&tool("etcdutl")?, &["snapshot", "status", text(&file)])?;
    ensure!(status.contains("4001, "), "{status}");
    let restored = Cluster::prepare(Options::candidate(1)?)?;
    restore(&tripod(), &file, &restored, &[])?;
    let restored = start(restored).await?;
    let revision = client.revision().await?;
    let want = client.hash_kv(revision).await?.hash;
    ensure!(restored.members[0].client().hash_kv(revision).await?.hash == want);
    restored.close()?;
    cluster.close()
}

/// Root with a password, and authentication on.
fn lock_up(endpoint: &str) -> Result<()> {
    let etcdctl = tool("etcdctl")?;
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        run(&etcdctl, &[&[endpoint], args].concat())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_survive_both_ways_and_only_root_takes_snapshots() -> Result<()> {
    let dir = TempDir::new()?;
    let (etcdctl, etcdutl, ours) = (tool("etcdctl")?, tool("etcdutl")?, tripod());
    let ways = [
        (Options::reference()?, &ours, Options::candidate(1)?),
        (Options::candidate(1)?, &etcdutl, Options::reference()?),
    ];
    for (at, (from, restorer, to)) in ways.into_iter().enumerate() {
        let source = Cluster::start(from).await?;
        source.members[0].client().put("key", "value").await?;
        let endpoint = format!("--endpoints={}", source.members[0].client_url());
        lock_up(&endpoint)?;
        let file = dir.path().join(format!("{at}.db"));
        let save = ["snapshot", "save", text(&file), endpoint.as_str()];
        refused(&ours, &save)?;
        ensure!(!file.exists(), "somebody unknown got a snapshot");
        run(&etcdctl, &[&save[..], &["--user=root:secret"]].concat())?;
        source.close()?;
        let restored = Cluster::prepare(to)?;
        restore(restorer, &file, &restored, &[])?;
        let mut restored = start(restored).await?;
        let endpoint = format!("--endpoints={}", restored.members[0].client_url());
        let get = ["get", "key", "--print-value-only", endpoint.as_str()];
        refused(&etcdctl, &get)?;
        let value = run(&etcdctl, &[&get[..], &["--user=root:secret"]].concat())?;
        ensure!(value == "value\n", "{value}");
        restored.hush();
    }
    Ok(())
}
