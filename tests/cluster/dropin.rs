//! Our program under the name `etcd`, driven as etcd's own end-to-end framework drives it: its
//! flags, its URLs, its log line, its signals.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{cluster::START_LIMIT, http::Http, port::Port, program::tool, wait};

/// The only line that is awaited at a start.
const READY: &str = "ready to serve client requests";
/// Pause between two looks at a log.
const POLL: Duration = Duration::from_millis(20);
/// How long a stopped process may take.
const STOP_LIMIT: Duration = Duration::from_secs(15);

struct Process {
    name: String,
    arguments: Vec<String>,
    program: PathBuf,
    log: PathBuf,
    /// Log bytes of earlier runs.
    read: usize,
    child: Option<Child>,
    client: Port,
    _peer: Port,
}

impl Process {
    fn start(&mut self) -> Result<()> {
        self.read = self.said().len();
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env("ETCD_UNSUPPORTED_ARCH", "arm64")
            .env("ETCD_HEARTBEAT_INTERVAL", "50")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn await_line(&mut self, line: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let said = self.said();
            if said[self.read..].contains(line) {
                return Ok(());
            }
            let child = self.child.as_mut().context("started")?;
            let ended = child.try_wait()?;
            ensure!(ended.is_none(), "{} ended before {line:?}: {said}", self.name);
            ensure!(started.elapsed() < START_LIMIT, "{} never says {line:?}: {said}", self.name);
            std::thread::sleep(POLL);
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let mut child = self.child.take().context("started")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process id")?;
        kill_process(pid, signal)?;
        let ended = wait::eventually_blocking("the process ends", STOP_LIMIT, || {
            child.try_wait()?.context("still running")
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended.map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Errors mean that it is gone already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// `bin/etcd`, our program, beside the real `bin/etcdctl`.
fn install(dir: &Path) -> Result<PathBuf> {
    let bin = dir.join("bin");
    fs::create_dir(&bin)?;
    symlink(env!("CARGO_BIN_EXE_tripod"), bin.join("etcd"))?;
    symlink(tool("etcdctl")?, bin.join("etcdctl"))?;
    Ok(bin)
}

/// What the framework passes to every member of a cluster of `size`.
fn cluster(dir: &Path, bin: &Path, size: usize) -> Result<Vec<Process>> {
    let ports = (0..size)
        .map(|_| Ok((Port::claim()?, Port::claim()?)))
        .collect::<Result<Vec<(Port, Port)>>>()?;
    let url = |port: &Port| format!("http://localhost:{}", port.number);
    let named = |(at, (_, peer)): (usize, &(Port, Port))| format!("test-{at}={}", url(peer));
    let initial = ports.iter().enumerate().map(named).collect::<Vec<_>>().join(",");
    let process = |(at, (client, peer)): (usize, (Port, Port))| {
        let name = format!("test-{at}");
        let arguments = vec![
            format!("--name={name}"),
            format!("--listen-client-urls={}", url(&client)),
            format!("--advertise-client-urls={}", url(&client)),
            format!("--listen-peer-urls={}", url(&peer)),
            format!("--initial-advertise-peer-urls={}", url(&peer)),
            "--initial-cluster-token=new".to_owned(),
            format!("--data-dir={}", dir.join(&name).display()),
            "--snapshot-count=20".to_owned(),
            format!("--initial-cluster={initial}"),
            "--initial-cluster-state=new".to_owned(),
            "--quota-backend-bytes=100000000".to_owned(),
            "--strict-reconfig-check=false".to_owned(),
            "--experimental-watch-progress-notify-interval=100ms".to_owned(),
        ];
        let log = dir.join(format!("{name}.log"));
        let program = bin.join("etcd");
        Process { name, arguments, program, log, read: 0, child: None, client, _peer: peer }
    };
    Ok(ports.into_iter().enumerate().map(process).collect())
}

/// Runs `etcdctl` as the framework does.
fn ctl(bin: &Path, members: &[Process], arguments: &[&str]) -> Result<String> {
    let endpoints: Vec<String> = members
        .iter()
        .filter(|member| member.child.is_some())
        .map(|member| format!("http://localhost:{}", member.client.number))
        .collect();
    let output = Command::new(bin.join("etcdctl"))
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", endpoints.join(",")))
        .arg("--dial-timeout=7s")
        .args(arguments)
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "etcdctl {arguments:?}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

fn play(size: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bin = install(dir.path())?;
    let version = Command::new(bin.join("etcd")).arg("--version").output()?;
    let version = String::from_utf8(version.stdout)?;
    ensure!(version.starts_with("etcd Version: 3.6."), "{version}");

    let mut members = cluster(dir.path(), &bin, size)?;
    for member in &mut members {
        member.start()?;
    }
    for member in &mut members {
        member.await_line(READY)?;
    }
    ensure!(ctl(&bin, &members, &["put", "foo", "bar"])? == "OK\n");
    ensure!(ctl(&bin, &members, &["get", "foo"])? == "foo\nbar\n");
    let listed = ctl(&bin, &members, &["member", "list"])?;
    ensure!(listed.lines().count() == size && listed.contains("started, test-0"), "{listed}");
    for member in &members {
        let health = Http::new(member.client.number).get("/health")?;
        ensure!(health.status == 200 && health.text().contains("\"health\":\"true\""));
    }
    // Lines that single tests of the framework wait for.
    for at in 0..40 {
        ctl(&bin, &members, &["put", "churn", &at.to_string()])?;
    }
    ctl(&bin, &members, &["compaction", "20", "--physical"])?;
    for member in &mut members {
        member.await_line("finished scheduled compaction")?;
        member.await_line("saved snapshot")?;
    }
    // Stop and restart, kill and restart, one after the other.
    for signal in [Signal::TERM, Signal::KILL] {
        for at in 0..size {
            members[at].signal(signal)?;
            if size > 1 {
                ensure!(ctl(&bin, &members, &["put", "foo", "without"])? == "OK\n");
            }
            members[at].start()?;
            members[at].await_line(READY)?;
        }
        let kept = ctl(&bin, &members, &["get", "churn", "--print-value-only"])?;
        ensure!(kept == "39\n", "{kept}");
    }
    for member in &mut members {
        member.signal(Signal::TERM)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_stands_in_for_etcd_in_its_own_framework() -> Result<()> {
    tokio::task::spawn_blocking(|| play(1)).await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_stand_in_for_etcd_in_its_own_framework() -> Result<()> {
    tokio::task::spawn_blocking(|| play(3)).await?
}
