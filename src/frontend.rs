//! The front end: threads that accept client connections and serve them.
//!
//! Each worker is a thread with a runtime of its own; a connection lives and dies on one of
//! them, with services built there. Connections come to the workers in one of two ways
//! ([`Distribution`]): each worker accepts on a socket of its own that shares the port, or one
//! acceptor hands them out, the first few to a thread of the caller's choice.
//!
//! Invariants:
//! - at most `connections_max` connections are served, half-open ones included; one more per
//!   listener is accepted and waits, the rest wait in the kernel's backlog;
//! - one source address has at most `connections_per_source_max` of them, so that it cannot keep
//!   the others out; more from there are closed at once;
//! - a port another process listens on is refused, though our own sockets share it, unless
//!   sharing is asked for;
//! - TLS handshakes are done on the worker threads, never on the home thread, and have a deadline
//!   and a bound of their own ([`tls::Acceptor`]);
//! - after a shutdown began no connection is accepted, and every one ends within the drain
//!   timeout.

mod admission;
mod listener;
mod split;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    thread,
};

use admission::Admission;
use futures::future::LocalBoxFuture;
use tokio::{
    runtime::Builder,
    sync::{mpsc, watch},
};
use worker::{Acceptor, Listener, Source, Target, Worker};

pub(crate) use listener::listen;

use crate::{
    api::{
        connection::Http1Limits,
        h2::Limits,
        service::{HttpHandler, Services},
    },
    tls,
};

/// Most worker threads of a front end.
pub const WORKERS_MAX: usize = 64;
/// Connections open at once by default; fewer where the process may open fewer files.
pub const CONNECTIONS_MAX_DEFAULT: usize = 65_536;
/// Files a member needs for its data and its peers; the rest is for clients.
pub const FILES_RESERVED: usize = 512;
/// Of all connections, those that one source address may have by default: 3 of 4.
const SOURCE_SHARE: (usize, usize) = (3, 4);
/// Connections served by the home thread by default: few, so that it stays free for its work.
pub const HOME_CONNECTIONS_MAX_DEFAULT: usize = 4;
/// Connections on the way from the acceptor to one thread.
const HANDOVER_MAX: usize = 256;

/// What answers the requests of one thread.
pub struct Handlers {
    /// The gRPC services.
    pub services: Rc<dyn Services>,
    /// Everything else on the client port.
    pub http: Rc<dyn HttpHandler>,
    /// Counts the connections open.
    pub connections: Arc<AtomicUsize>,
}

/// Builds the handlers of a thread, on that thread.
pub type HandlersFactory = Arc<dyn Fn() -> Handlers + Send + Sync>;

/// Something to run on a thread that was already there.
pub type LocalTask = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// Runs tasks on another thread, inside a `LocalSet` with I/O and time enabled.
pub type HomeExecutor = Arc<dyn Fn(LocalTask) + Send + Sync>;

/// How connections come to threads.
#[derive(Clone, Default)]
pub enum Distribution {
    /// Every worker accepts for itself; the kernel chooses.
    #[default]
    Shared,
    /// One acceptor chooses the thread with the fewest connections.
    Acceptor {
        /// A thread that serves the first connections itself, typically the one with the data:
        /// a lone client then pays for no change of thread.
        home: Option<HomeExecutor>,
        /// How many connections that thread serves at once.
        home_connections_max: usize,
    },
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and HTTP.
    #[default]
    Both,
    /// gRPC; HTTP has a listener of its own.
    Grpc,
    /// HTTP; gRPC has a listener of its own.
    Http,
}

/// TLS of a listener.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// Does the handshakes. Listeners with the same one share its bound of unfinished ones.
    pub acceptor: Arc<tls::Acceptor>,
    /// The common name of a client's certificate is the user it speaks for.
    pub common_name_is_user: bool,
}

/// One address of the client port.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where. Port 0 lets the system choose.
    pub address: SocketAddr,
    /// Encrypted; `None` is cleartext.
    pub tls: Option<ListenerTls>,
    /// What it is for.
    pub serves: Serves,
}

impl From<SocketAddr> for Listen {
    /// Cleartext, for everything.
    fn from(address: SocketAddr) -> Self {
        Self { address, tls: None, serves: Serves::Both }
    }
}

/// What a connection inherits from its listener.
#[derive(Clone, Debug)]
struct Entrance {
    tls: Option<ListenerTls>,
    serves: Serves,
}

/// Configuration of a front end.
#[derive(Clone, Default)]
pub struct Frontend {
    /// The client port.
    pub listen: Vec<Listen>,
    /// Worker threads; `None` is one per core. At most [`WORKERS_MAX`].
    pub workers: Option<NonZeroUsize>,
    /// Connections open at once; `None` is [`CONNECTIONS_MAX_DEFAULT`], or what the limit of open
    /// files allows.
    pub connections_max: Option<usize>,
    /// Connections from one source address; `None` is three quarters of all.
    pub connections_per_source_max: Option<usize>,
    /// How connections come to threads.
    pub distribution: Distribution,
    /// Limits of HTTP/2 connections.
    pub limits: Limits,
    /// Limits of HTTP/1.1 connections.
    pub http1: Http1Limits,
    /// Share the port with other processes of this user (`SO_REUSEPORT`).
    pub reuse_port: bool,
}

/// Why a front end does not start or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No address to listen on.
    #[error("no client address to listen on: set --listen-client-urls")]
    NoAddress,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}; {hint}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What to do about it.
        hint: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The system refuses a thread or its runtime.
    #[error("cannot start front-end thread {name}; check the limit of processes and open files")]
    Start {
        /// The thread.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A thread panicked.
    #[error("front-end thread {name} panicked")]
    Panicked {
        /// The thread.
        name: String,
    },
}

impl Frontend {
    /// Binds all addresses, so that a failure shows before anything is served.
    ///
    /// # Errors
    /// [`Error::NoAddress`], [`Error::Listen`].
    pub fn bind(self) -> Result<BoundFrontend, Error> {
        if self.listen.is_empty() {
            return Err(Error::NoAddress);
        }
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = self.workers.map_or(cores, NonZeroUsize::get).clamp(1, WORKERS_MAX);
        let sockets = match self.distribution {
            Distribution::Shared => workers,
            Distribution::Acceptor { .. } => 1,
        };
        let mut addresses = Vec::new();
        // One list of listeners per accepting thread.
        let mut listeners: Vec<Vec<Listener>> = (0..sockets).map(|_| Vec::new()).collect();
        for listen in &self.listen {
            let bound = listener::bind(listen.address, sockets, self.reuse_port)?;
            addresses.push(bound.address);
            let entrance = Entrance { tls: listen.tls.clone(), serves: listen.serves };
            for (list, socket) in listeners.iter_mut().zip(bound.listeners) {
                list.push(Listener { socket, entrance: entrance.clone() });
            }
        }
        Ok(BoundFrontend { config: self, workers, addresses, listeners })
    }
}

/// A front end that listens and does not serve yet.
pub struct BoundFrontend {
    config: Frontend,
    workers: usize,
    addresses: Vec<SocketAddr>,
    listeners: Vec<Vec<Listener>>,
}

impl BoundFrontend {
    /// The addresses listened on, in the configuration's order, with the ports chosen.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Names the thread that serves the first connections; without effect unless connections
    /// are handed out by an acceptor.
    #[must_use]
    pub fn with_home(mut self, executor: HomeExecutor) -> Self {
        if let Distribution::Acceptor { home, .. } = &mut self.config.distribution {
            *home = Some(executor);
        }
        self
    }

    /// Starts the threads. `factory` runs once on each, the home thread included.
    ///
    /// # Errors
    /// [`Error::Start`]; threads already started are stopped.
    pub fn run(self, factory: HandlersFactory) -> Result<FrontendHandle, Error> {
        let (shutdown, watcher) = watch::channel(false);
        let connections_max =
            self.config.connections_max.unwrap_or_else(admission::connections_max);
        let (part, whole) = SOURCE_SHARE;
        let per_source_max = self
            .config
            .connections_per_source_max
            .unwrap_or_else(|| (connections_max.saturating_mul(part) / whole).max(1));
        let admission = Admission::new(connections_max, per_source_max);
        let mut handle =
            FrontendHandle { shutdown, threads: Vec::new(), addresses: self.addresses };
        let worker = |source, live| Worker {
            source,
            live,
            limits: self.config.limits.clone(),
            http1: self.config.http1.clone(),
            admission: Arc::clone(&admission),
            factory: Arc::clone(&factory),
            shutdown: watcher.clone(),
        };
        let mut listeners = self.listeners.into_iter();
        let Distribution::Acceptor { home, home_connections_max } = self.config.distribution else {
            for (number, listeners) in listeners.enumerate() {
                let worker = worker(Source::Listeners(listeners), Arc::default());
                handle.spawn(number, move || Box::pin(worker.run()))?;
            }
            return Ok(handle);
        };
        let mut targets = Vec::new();
        let mut sources = Vec::new();
        for _ in 0..self.workers + usize::from(home.is_some()) {
            let (sender, receiver) = mpsc::channel(HANDOVER_MAX);
            let live = Arc::new(AtomicUsize::new(0));
            targets.push(Target { sender, live: Arc::clone(&live) });
            sources.push(worker(Source::Handed(receiver), live));
        }
        let mut acceptor = Some(Acceptor {
            listeners: listeners.next().unwrap_or_default(),
            home: home.as_ref().and_then(|_| targets.pop()),
            home_connections_max,
            targets,
            admission: Arc::clone(&admission),
            shutdown: watcher.clone(),
        });
        if let Some(home) = home
            && let Some(worker) = sources.pop()
        {
            home(Box::new(move || Box::pin(worker.run())));
        }
        for (number, worker) in sources.into_iter().enumerate() {
            // The first worker accepts as well: it is rare and costs no thread.
            let acceptor = acceptor.take();
            handle.spawn(number, move || {
                Box::pin(async move {
                    if let Some(acceptor) = acceptor {
                        tokio::task::spawn_local(acceptor.run());
                    }
                    worker.run().await;
                })
            })?;
        }
        Ok(handle)
    }
}

/// A running front end. Dropping it begins the shutdown without waiting for it.
pub struct FrontendHandle {
    shutdown: watch::Sender<bool>,
    threads: Vec<(String, thread::JoinHandle<()>)>,
    addresses: Vec<SocketAddr>,
}

impl FrontendHandle {
    /// The addresses listened on, with the ports chosen.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops accepting and tells every connection to end. Returns at once.
    pub fn begin_shutdown(&self) {
        self.shutdown.send_replace(true);
    }

    /// Shuts down and waits for the workers, at most about the drain timeout. Blocks: do not
    /// call it on the home thread, whose own connections end by themselves.
    ///
    /// # Errors
    /// [`Error::Panicked`] for the first worker that did.
    pub fn join(mut self) -> Result<(), Error> {
        self.begin_shutdown();
        let mut outcome = Ok(());
        for (name, thread) in self.threads.drain(..) {
            if thread.join().is_err() && outcome.is_ok() {
                outcome = Err(Error::Panicked { name });
            }
        }
        outcome
    }

    /// Starts one worker thread that runs `work` to its end.
    fn spawn(
        &mut self,
        number: usize,
        work: impl FnOnce() -> LocalBoxFuture<'static, ()> + Send + 'static,
    ) -> Result<(), Error> {
        let name = format!("tripod-front-{number}");
        let start = |source| Error::Start { name: name.clone(), source };
        // A local runtime cannot change threads, so it is built on its own and says how it went.
        // Unlike a `LocalSet`, it wakes its tasks without a system call.
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(async { work().await });
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        let thread = thread.map_err(start)?;
        let outcome = outcome.recv().map_err(io::Error::other).flatten();
        outcome.map_err(start)?;
        self.threads.push((name.clone(), thread));
        Ok(())
    }
}

impl Drop for FrontendHandle {
    fn drop(&mut self) {
        self.begin_shutdown();
    }
}
