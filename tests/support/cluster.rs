//! Clusters of server processes on 127.0.0.1: start, signal, restart, and always clean up.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tripod::tls::Connector;

use super::{client::Client, http::Http, port::Port, program::Program, wait};

/// How long a start may take: election, catch-up and a busy machine included.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(40);
/// How long a graceful stop may take.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Log bytes shown of each member when a test fails.
const LOG_TAIL_BYTES: u64 = 6_000;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The server program.
    pub(crate) program: Program,
    /// Number of members.
    pub(crate) size: usize,
    /// Flags every member gets besides its addresses.
    pub(crate) flags: Vec<String>,
    /// Folder for the data, instead of a temporary one.
    pub(crate) data_root: Option<PathBuf>,
    /// How to reach the client ports if they speak TLS; peers speak it then, too.
    pub(crate) tls: Option<Arc<Connector>>,
    /// Limit of open files of each member, instead of this process's.
    pub(crate) files_max: Option<u64>,
}

impl Options {
    /// `size` members of the program under test.
    pub(crate) fn candidate(size: usize) -> Result<Self> {
        Ok(Self::of(Program::candidate()?, size))
    }

    /// One member of real etcd.
    pub(crate) fn reference() -> Result<Self> {
        Ok(Self::of(Program::reference()?, 1))
    }

    /// One member of an older etcd.
    pub(crate) fn older_reference() -> Result<Self> {
        Ok(Self::of(Program::older_reference()?, 1))
    }

    fn of(program: Program, size: usize) -> Self {
        Self { program, size, flags: Vec::new(), data_root: None, tls: None, files_max: None }
    }

    /// The same with one more flag.
    pub(crate) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }
}

/// One member: its addresses, its data and, while it runs, its process.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name in `--initial-cluster`.
    pub(crate) name: String,
    /// Its data folder.
    pub(crate) data_dir: PathBuf,
    log_path: PathBuf,
    client_port: Port,
    peer_port: Port,
    child: Option<Child>,
    /// Set once the test has passed: its log is of no interest any more.
    quiet: bool,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    program: Program,
    tls: Option<Arc<Connector>>,
    files_max: Option<u64>,
}

impl Member {
    /// `http://127.0.0.1:PORT` for clients, `https` in a cluster with TLS.
    pub(crate) fn client_url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.client_port.number)
    }

    /// The same for peers.
    pub(crate) fn peer_url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.peer_port.number)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Port of `client_url`.
    pub(crate) fn client_port(&self) -> u16 {
        self.client_port.number
    }

    /// Port of `peer_url`.
    pub(crate) fn peer_port(&self) -> u16 {
        self.peer_port.number
    }

    /// gRPC calls to this member.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.client_url())
    }

    /// HTTP calls to this member.
    pub(crate) fn http(&self) -> Http {
        Http::new(self.client_port.number)
    }

    /// True between a start and a stop or kill, whether or not it serves.
    pub(crate) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Process id while started.
    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the member is not started")?.id())
    }

    /// Starts with one more flag from now on; the last one of a name counts.
    pub(crate) fn add_flag(&mut self, flag: impl Into<String>) {
        self.flags.push(flag.into());
    }

    /// Takes flags that [`Member::add_flag`] gave away again.
    pub(crate) fn remove_flag(&mut self, flag: &str) {
        self.flags.retain(|given| given != flag);
    }

    /// Starts without `--initial-cluster` from now on.
    pub(crate) fn forget_initial_cluster(&mut self) {
        self.flags.retain(|flag| !flag.starts_with("--initial-cluster="));
    }

    /// Starts with this variable from now on.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Forgets all data of a stopped member.
    pub(crate) fn wipe(&self) -> Result<()> {
        ensure!(self.child.is_none(), "{} is running", self.name);
        Ok(std::fs::remove_dir_all(&self.data_dir)?)
    }

    /// Everything the member printed so far.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log_path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts the process and returns at once.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} is started already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log_path)?;
        let child = self
            .program
            .command_with_files(self.files_max)
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data_dir.display()))
            .arg(format!("--listen-client-urls={}", self.client_url()))
            .arg(format!("--advertise-client-urls={}", self.client_url()))
            .arg(format!("--listen-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
            .args(&self.flags)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends `signal` to the process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let raw = i32::try_from(self.pid()?)?;
        let pid = Pid::from_raw(raw).context("process ids are positive")?;
        Ok(kill_process(pid, signal)?)
    }

    /// `kill -9`: the process is gone when this returns.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the member is not started")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM and the exit status, which must come within [`STOP_LIMIT`].
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.exit_within(STOP_LIMIT)
    }

    /// Stops the process in its tracks (SIGSTOP).
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a paused process go on (SIGCONT).
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits for the process to end by itself.
    pub(crate) fn exit_within(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let child = self.child.as_mut().context("the member is not started")?;
        let what = format!("{name} ends");
        let status =
            wait::eventually_blocking(&what, limit, || child.try_wait()?.context("still running"))?;
        self.child = None;
        Ok(status)
    }

    /// Fails if the process has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        let name = self.name.clone();
        let child = self.child.as_mut().context("the member is not started")?;
        match child.try_wait()? {
            Some(status) => bail!("{name} ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// Waits until `/health` says true, which takes a leader and a linearizable read.
    pub(crate) async fn healthy_within(&mut self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            self.check_running()?;
            let port = self.client_port.number;
            let healthy = match &self.tls {
                Some(connector) => super::tls::is_healthy(connector, port).await,
                None => tokio::task::spawn_blocking(move || is_healthy(port)).await?,
            };
            if healthy {
                return Ok(());
            }
            ensure!(start.elapsed() < limit, "{} is not healthy after {limit:?}", self.name);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    fn log_tail(&self) -> String {
        let tail = || -> Result<String> {
            let mut file = File::open(&self.log_path)?;
            let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        tail().unwrap_or_else(|error| format!("no log: {error}"))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Errors mean that it is gone already.
            drop(child.kill());
            drop(child.wait());
        }
        if !self.quiet {
            eprintln!("---- last lines of {} ----\n{}", self.name, self.log_tail());
        }
    }
}

fn is_healthy(port: u16) -> bool {
    let answer = Http::new(port).timeout(Duration::from_secs(3)).get("/health");
    answer.is_ok_and(|answer| answer.status == 200 && answer.text().contains("true"))
}

/// A running cluster. Dropping it kills its processes and removes its data; unless
/// [`Cluster::close`] came first, the test has failed and the logs are shown.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The members, in the order of their names.
    pub(crate) members: Vec<Member>,
    options: Options,
    dir: TempDir,
}

impl Cluster {
    /// Starts all members and waits until each is healthy.
    pub(crate) async fn start(options: Options) -> Result<Self> {
        let mut cluster = Self::prepare(options)?;
        for member in &mut cluster.members {
            member.start()?;
        }
        cluster.healthy().await?;
        Ok(cluster)
    }

    /// Lays out members without starting them.
    pub(crate) fn prepare(options: Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tripod-test-").tempdir()?;
        let data_root = options.data_root.clone().unwrap_or_else(|| dir.path().to_owned());
        let mut members = (0..options.size)
            .map(|index| member(index, &options, dir.path(), &data_root))
            .collect::<Result<Vec<_>>>()?;
        let all: Vec<String> =
            members.iter().map(|member| format!("{}={}", member.name, member.peer_url())).collect();
        for member in &mut members {
            member.flags.insert(0, format!("--initial-cluster={}", all.join(",")));
        }
        Ok(Self { members, options, dir })
    }

    /// Lays out one more member, which joins the others; its position. Not started.
    pub(crate) fn newcomer(&mut self) -> Result<usize> {
        let index = self.members.len();
        let data_root =
            self.options.data_root.clone().unwrap_or_else(|| self.dir.path().to_owned());
        let mut newcomer = member(index, &self.options, self.dir.path(), &data_root)?;
        newcomer.flags.push("--initial-cluster-state=existing".to_owned());
        self.members.push(newcomer);
        let all: Vec<usize> = (0..=index).collect();
        self.name_members(index, &all);
        Ok(index)
    }

    /// Gives the member at `index` the `--initial-cluster` of the members at `positions`.
    pub(crate) fn name_members(&mut self, index: usize, positions: &[usize]) {
        let named = positions.iter().map(|at| &self.members[*at]);
        let list: Vec<String> =
            named.map(|member| format!("{}={}", member.name, member.peer_url())).collect();
        self.members[index].flags.push(format!("--initial-cluster={}", list.join(",")));
    }

    /// Ends a test that has passed: no started member may have ended by itself.
    pub(crate) fn close(mut self) -> Result<()> {
        for member in self.members.iter_mut().filter(|member| member.is_started()) {
            member.check_running()?;
        }
        self.hush();
        Ok(())
    }

    /// Shows no logs when dropped, for tests that report failures in their own way.
    pub(crate) fn hush(&mut self) {
        for member in &mut self.members {
            member.quiet = true;
        }
    }

    /// Waits until every started member is healthy.
    pub(crate) async fn healthy(&mut self) -> Result<()> {
        for member in self.members.iter_mut().filter(|member| member.is_started()) {
            member.healthy_within(START_LIMIT).await?;
        }
        Ok(())
    }

    /// Starts every member that is down and waits until all are healthy.
    pub(crate) async fn restart_missing(&mut self) -> Result<()> {
        for member in self.members.iter_mut().filter(|member| !member.is_started()) {
            member.start()?;
        }
        self.healthy().await
    }

    /// Client URLs of all members, comma separated.
    pub(crate) fn endpoints(&self) -> String {
        self.members.iter().map(Member::client_url).collect::<Vec<_>>().join(",")
    }

    /// Position of the leader, as a member that has one sees it.
    pub(crate) async fn leader(&self) -> Result<usize> {
        wait::eventually("a leader is known", START_LIMIT, || self.leader_now()).await
    }

    async fn leader_now(&self) -> Result<usize> {
        for (index, member) in self.members.iter().enumerate() {
            if !member.is_started() {
                continue;
            }
            let Ok(status) = member.client().status().await else { continue };
            let own = status.header.map_or(0, |header| header.member_id);
            if status.leader != 0 && status.leader == own {
                return Ok(index);
            }
        }
        bail!("no started member says that it leads")
    }

    /// Waits until all members have applied `revision` and answer the same hash for it.
    pub(crate) async fn agree_at(&self, revision: i64) -> Result<u32> {
        let mut first: Option<(String, u32)> = None;
        for member in &self.members {
            let client = member.client();
            let what = format!("{} answers HashKV at {revision}", member.name);
            let answer =
                wait::eventually(&what, START_LIMIT, || async { client.hash_kv(revision).await })
                    .await?;
            match &first {
                None => first = Some((member.name.clone(), answer.hash)),
                Some((name, hash)) => ensure!(
                    *hash == answer.hash,
                    "at revision {revision} {name} has hash {hash}, {} has {}",
                    member.name,
                    answer.hash
                ),
            }
        }
        Ok(first.context("a cluster has members")?.1)
    }
}

fn member(index: usize, options: &Options, dir: &Path, data_root: &Path) -> Result<Member> {
    let name = format!("m{index}");
    let mut flags = vec!["--initial-cluster-token=tripod-test".to_owned()];
    flags.push("--initial-cluster-state=new".to_owned());
    flags.extend(options.flags.iter().cloned());
    Ok(Member {
        data_dir: data_root.join(&name),
        log_path: dir.join(format!("{name}.log")),
        client_port: Port::claim()?,
        peer_port: Port::claim()?,
        child: None,
        quiet: false,
        flags,
        env: Vec::new(),
        program: options.program.clone(),
        tls: options.tls.clone(),
        files_max: options.files_max,
        name,
    })
}
