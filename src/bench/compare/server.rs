//! Starts and ends servers.
//!
//! Every process started is listed with a [`Supervisor`] until it has ended; a signal handler
//! ends all of the list. Processes have a group of their own, so that Ctrl-C reaches this
//! program alone and the order of ending is ours.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    super::{plan::Encryption, wire::Stream},
    certificates::Certificates,
};

/// Time between looks at a starting server.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Time one health request may take.
const HEALTH_MAX: Duration = Duration::from_millis(500);
/// Largest health answer read, in bytes.
const HEALTH_BYTES_MAX: u64 = 4096;
/// Lines of a server's log that are shown when it does not start.
const LOG_LINES: usize = 15;
/// Exit code after Ctrl-C, as shells have it.
const EXIT_INTERRUPTED: i32 = 130;
/// Place of the server's flags in a template.
const FLAGS: &str = "{flags}";

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The system refused something.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// The process ended or did not get healthy in time.
    #[error("{side} {why}; its log ends with:\n{log}")]
    Unhealthy {
        /// Which side.
        side: String,
        /// What happened.
        why: String,
        /// Last lines of its log.
        log: String,
    },
    /// A command template without a program.
    #[error("the candidate's command is empty")]
    NoProgram,
}

fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let action = action.into();
    move |source| StartError::Io { action, source }
}

/// One of the two programs compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Name in the report.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments; [`FLAGS`] stands for the server's flags.
    arguments: Vec<String>,
}

impl Side {
    /// The real etcd.
    pub(super) fn etcd(path: &Path) -> Self {
        Self { name: "etcd", program: path.to_owned(), arguments: vec![FLAGS.into()] }
    }

    /// A candidate from the words of its command; etcd's flags go where `{flags}` stands, at the end
    /// if it does not.
    ///
    /// # Errors
    /// An empty command.
    pub(super) fn candidate(words: &[String]) -> Result<Self, StartError> {
        let (program, arguments) = words.split_first().ok_or(StartError::NoProgram)?;
        let mut arguments = arguments.to_vec();
        if !arguments.iter().any(|word| word == FLAGS) {
            arguments.push(FLAGS.into());
        }
        Ok(Self { name: "candidate", program: program.into(), arguments })
    }

    fn command(&self, flags: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        for argument in &self.arguments {
            if argument == FLAGS {
                command.args(flags);
            } else {
                command.arg(argument);
            }
        }
        command
    }
}

/// Everything that has to be undone.
#[derive(Debug, Default)]
struct Running {
    children: Vec<Child>,
    dirs: Vec<PathBuf>,
}

impl Running {
    fn end_all(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
        for dir in self.dirs.drain(..) {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Ends everything when the program is told to end.
#[derive(Clone, Debug)]
pub(super) struct Supervisor {
    running: Arc<Mutex<Running>>,
}

impl Supervisor {
    /// Starts to listen for Ctrl-C and SIGTERM.
    pub(super) fn new() -> Result<Self, StartError> {
        let running = Arc::new(Mutex::new(Running::default()));
        let theirs = running.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io_error("listen for signals"))?;
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                if runtime.block_on(told_to_end()).is_ok() {
                    theirs.lock().end_all();
                    std::process::exit(EXIT_INTERRUPTED);
                }
            })
            .map_err(io_error("listen for signals"))?;
        Ok(Self { running })
    }

    fn spawn(&self, command: &mut Command) -> io::Result<u32> {
        // Under the lock, so that a signal finds either no process or a listed one.
        let mut running = self.running.lock();
        let child = command.process_group(0).spawn()?;
        let pid = child.id();
        running.children.push(child);
        Ok(pid)
    }

    /// The exit status of a process that has ended.
    fn ended(&self, pid: u32) -> Option<String> {
        let mut running = self.running.lock();
        let child = running.children.iter_mut().find(|child| child.id() == pid)?;
        child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    fn end(&self, pid: u32) {
        let mut running = self.running.lock();
        if let Some(at) = running.children.iter().position(|child| child.id() == pid) {
            let mut child = running.children.swap_remove(at);
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn add_dir(&self, dir: &Path) {
        self.running.lock().dirs.push(dir.to_owned());
    }

    fn remove_dir(&self, dir: &Path) {
        self.running.lock().dirs.retain(|other| other != dir);
        let _ = fs::remove_dir_all(dir);
    }
}

async fn told_to_end() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// A running cluster; dropping it ends its processes and removes its data.
#[derive(Debug)]
pub(super) struct Cluster {
    supervisor: Supervisor,
    dir: PathBuf,
    pids: Vec<u32>,
    endpoints: Vec<String>,
    encryption: Option<Encryption>,
}

impl Cluster {
    /// Starts a cluster on fresh data and waits until every member is healthy.
    pub(super) fn start(
        supervisor: &Supervisor,
        side: &Side,
        members: usize,
        certificates: Option<&Certificates>,
        parent: &Path,
        deadline: Duration,
    ) -> Result<Self, StartError> {
        let ports = free_ports(members * 2).map_err(io_error("find free ports"))?;
        let (client_ports, peer_ports) = ports.split_at(members);
        let dir = parent.join(format!("{}-{}", side.name, std::process::id()));
        // A run that was killed may have left something behind.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(io_error(format!("create {}", dir.display())))?;
        supervisor.add_dir(&dir);
        let mut cluster = Self {
            supervisor: supervisor.clone(),
            dir,
            pids: vec![],
            encryption: certificates.map(|certificates| certificates.encryption.clone()),
            endpoints: client_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
        };
        for member in 0..members {
            let tls = certificates.map(Certificates::flags).unwrap_or_default();
            let flags = flags(&cluster.dir, member, client_ports, peer_ports, &tls);
            cluster.spawn(side, member, &flags)?;
        }
        cluster.wait_healthy(side, deadline)?;
        Ok(cluster)
    }

    fn spawn(&mut self, side: &Side, member: usize, flags: &[String]) -> Result<(), StartError> {
        let log = self.log_path(member);
        let file = File::create(&log).map_err(io_error(format!("create {}", log.display())))?;
        let errors = file.try_clone().map_err(io_error("share a log file"))?;
        let mut command = side.command(flags);
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let pid = self
            .supervisor
            .spawn(&mut command)
            .map_err(io_error(format!("start {}", side.program.display())))?;
        self.pids.push(pid);
        Ok(())
    }

    fn wait_healthy(&self, side: &Side, deadline: Duration) -> Result<(), StartError> {
        let end = Instant::now() + deadline;
        for (member, endpoint) in self.endpoints.iter().enumerate() {
            while !healthy(endpoint, self.encryption.as_ref()) {
                let ended = self.supervisor.ended(self.pids[member]);
                if ended.is_none() && Instant::now() < end {
                    thread::sleep(POLL_EVERY);
                    continue;
                }
                let why = match ended {
                    Some(status) => format!("ended ({status}) before it was healthy"),
                    None => format!("was not healthy after {} s", deadline.as_secs()),
                };
                let log = self.log_end(member);
                return Err(StartError::Unhealthy { side: side.name.into(), why, log });
            }
        }
        Ok(())
    }

    fn log_path(&self, member: usize) -> PathBuf {
        self.dir.join(format!("member-{member}.log"))
    }

    fn log_end(&self, member: usize) -> String {
        let text = fs::read_to_string(self.log_path(member)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// `host:port` of each member.
    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Process ids of the members.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for &pid in &self.pids {
            self.supervisor.end(pid);
        }
        self.supervisor.remove_dir(&self.dir);
    }
}

/// etcd's own flags for a member. Nothing here weakens durability.
fn flags(
    dir: &Path,
    member: usize,
    client_ports: &[u16],
    peer_ports: &[u16],
    tls: &[String],
) -> Vec<String> {
    let name = |member: usize| format!("m{member}");
    let scheme = if tls.is_empty() { "http" } else { "https" };
    let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
    let cluster: Vec<String> = peer_ports
        .iter()
        .enumerate()
        .map(|(m, &port)| format!("{}={}", name(m), url(port)))
        .collect();
    let (client, peer) = (url(client_ports[member]), url(peer_ports[member]));
    let data = dir.join(name(member)).display().to_string();
    let pairs = [
        ("name", name(member)),
        ("data-dir", data),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster", cluster.join(",")),
        ("initial-cluster-state", "new".into()),
        ("initial-cluster-token", "bench".into()),
        ("log-level", "error".into()),
    ];
    let pairs = pairs.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
    pairs.chain(tls.iter().cloned()).collect()
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listeners =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

/// Whether `/health` says so.
fn healthy(endpoint: &str, encryption: Option<&Encryption>) -> bool {
    let ask = async {
        let mut stream = Stream::connect(endpoint, encryption.map(|tls| &tls.http)).await?;
        let request =
            format!("GET /health HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = String::new();
        // A server that just closes TCP has answered all the same.
        match stream.take(HEALTH_BYTES_MAX).read_to_string(&mut answer).await {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(answer),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.and_then(|runtime| {
        runtime.block_on(async { tokio::time::timeout(HEALTH_MAX, ask).await? })
    });
    answer.is_ok_and(|answer| {
        let compact: String = answer.split_whitespace().collect();
        compact.starts_with("HTTP/1.1200") && compact.contains("\"health\":\"true\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(command: &str) -> Result<Side, StartError> {
        Side::candidate(&command.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_template_puts_the_flags_where_it_says() {
        let line = |command: &str| {
            let side = candidate(command).unwrap();
            let built = side.command(&["--a".into(), "1".into()]);
            let words: Vec<_> =
                built.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
            format!("{} {}", built.get_program().to_string_lossy(), words.join(" "))
        };
        assert_eq!(line("tripod serve"), "tripod serve --a 1");
        assert_eq!(line("nice -n 5 etcd {flags} --x"), "nice -n 5 etcd --a 1 --x");
        assert!(matches!(candidate("  "), Err(StartError::NoProgram)));
    }

    #[test]
    fn no_flag_weakens_durability() {
        let flags = flags(Path::new("/d"), 1, &[1, 2, 3], &[4, 5, 6], &[]);
        assert!(!flags.iter().any(|flag| flag.contains("unsafe")));
        let cluster = "m0=http://127.0.0.1:4,m1=http://127.0.0.1:5,m2=http://127.0.0.1:6";
        assert!(flags.contains(&cluster.to_owned()));
        assert!(flags.contains(&"http://127.0.0.1:2".to_owned()));
    }

    #[test]
    fn a_cluster_that_cannot_get_healthy_is_ended_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor { running: Arc::default() };
        let script = dir.path().join("server.sh");
        fs::write(&script, "echo cannot bind\nexec sleep 600\n").unwrap();
        let side = candidate(&format!("sh {}", script.display())).unwrap();
        let started =
            Cluster::start(&supervisor, &side, 2, None, dir.path(), Duration::from_millis(300));
        let Err(StartError::Unhealthy { log, .. }) = started else { panic!("{started:?}") };
        assert_eq!(log, "cannot bind");
        assert!(supervisor.running.lock().children.is_empty(), "no process is left");
        assert!(supervisor.running.lock().dirs.is_empty(), "no data is left");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the script is left");
    }

    #[test]
    fn a_server_that_ends_at_once_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor { running: Arc::default() };
        let side = candidate("false").unwrap();
        let started =
            Cluster::start(&supervisor, &side, 1, None, dir.path(), Duration::from_secs(60));
        assert!(matches!(started, Err(StartError::Unhealthy { why, .. }) if why.contains("ended")));
    }
}
