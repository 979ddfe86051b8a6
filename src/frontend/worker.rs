//! What runs on the threads: accepting, handing over, serving.

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{
    Entrance, HandlersFactory, ListenerTls,
    admission::{Admission, Place},
    split::Environments,
};
use crate::{
    api::{
        connection::{self, ConnectionInfo, Drain, Http1Limits},
        h2::Limits,
    },
    tls::Handshake,
};

/// Pause after a failed accept: the system is short of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Silence after which the kernel asks whether the peer's machine is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// Time beyond the drain timeout before remaining connections are cut.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// Where a worker's connections come from.
pub(super) enum Source {
    Listeners(Vec<Listener>),
    Handed(mpsc::Receiver<Handed>),
}

/// A socket and what its connections are for.
pub(super) struct Listener {
    pub socket: StdListener,
    pub entrance: Entrance,
}

/// A connection on its way to a thread. Counts as open from the start.
pub(super) struct Handed {
    socket: StdStream,
    remote: SocketAddr,
    entrance: Entrance,
    counted: Counted,
}

/// A connection's share of the limits; gives it back when dropped.
struct Counted {
    _place: Place,
    live: Arc<AtomicUsize>,
}

impl Counted {
    fn new(place: Place, live: &Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Ordering::Relaxed);
        Self { _place: place, live: Arc::clone(live) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread the acceptor may choose.
pub(super) struct Target {
    pub sender: mpsc::Sender<Handed>,
    pub live: Arc<AtomicUsize>,
}

/// Hands connections to threads.
pub(super) struct Acceptor {
    pub listeners: Vec<Listener>,
    pub home: Option<Target>,
    pub home_connections_max: usize,
    pub targets: Vec<Target>,
    pub admission: Arc<Admission>,
    pub shutdown: watch::Receiver<bool>,
}

impl Acceptor {
    /// Accepts until the shutdown.
    pub(super) async fn run(self) {
        let shared = Rc::new(self);
        for Listener { socket, entrance } in &shared.listeners {
            let Ok(listener) = socket.try_clone().and_then(TcpListener::from_std) else {
                tracing::error!("cannot watch a listening socket; it accepts nothing");
                continue;
            };
            let entrance = entrance.clone();
            let acceptor = Rc::clone(&shared);
            tokio::task::spawn_local(async move {
                let mut shutdown = acceptor.shutdown.clone();
                tokio::select! {
                    _ = shutdown.wait_for(|down| *down) => {}
                    () = acceptor.accept(&listener, &entrance) => {}
                }
            });
        }
    }

    async fn accept(&self, listener: &TcpListener, entrance: &Entrance) {
        loop {
            let (socket, remote, place) = accept(listener, &self.admission).await;
            let target = self.choose(entrance);
            let Ok(socket) = socket.into_std() else { continue };
            let counted = Counted::new(place, &target.live);
            let entrance = entrance.clone();
            // Refused only by a thread that is gone; the connection closes then.
            let _ = target.sender.send(Handed { socket, remote, entrance, counted }).await;
        }
    }

    /// The home thread while it has room, then the thread with the fewest connections. The
    /// arithmetic of handshakes would delay the home thread's own work.
    fn choose(&self, entrance: &Entrance) -> &Target {
        let live = |target: &&Target| target.live.load(Ordering::Relaxed);
        let home = self
            .home
            .as_ref()
            .filter(|home| entrance.tls.is_none() && live(home) < self.home_connections_max);
        home.or_else(|| self.targets.iter().min_by_key(live))
            .expect("a front end has at least one worker")
    }
}

/// Accepts one connection and waits until the limit allows it. A connection of a source that has
/// too many is closed.
///
/// The wait comes second, so that a listener without clients holds no place; one accepted
/// connection per listener may wait.
async fn accept(
    listener: &TcpListener,
    admission: &Arc<Admission>,
) -> (TcpStream, SocketAddr, Place) {
    loop {
        match listener.accept().await {
            Ok((socket, remote)) => {
                if let Some(place) = admission.admit(remote).await {
                    return (socket, remote, place);
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client connection; trying again");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Whether an accept failed because of the client, who left in the meantime.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// One serving thread.
pub(super) struct Worker {
    pub source: Source,
    pub live: Arc<AtomicUsize>,
    pub limits: Limits,
    pub http1: Http1Limits,
    pub admission: Arc<Admission>,
    pub factory: HandlersFactory,
    pub shutdown: watch::Receiver<bool>,
}

/// The connections of one thread.
struct Tasks {
    environments: Environments,
    open: Cell<usize>,
    /// The same over all threads.
    open_everywhere: Arc<AtomicUsize>,
    /// Told when the last one ends.
    empty: Notify,
}

impl Worker {
    /// Serves until the shutdown, then waits for the connections to end.
    pub(super) async fn run(mut self) {
        let handlers = (self.factory)();
        let open_everywhere = handlers.connections.clone();
        let drain_timeout = self.limits.drain_timeout;
        let tasks = Rc::new(Tasks {
            environments: Environments::new(handlers, self.limits, &self.http1),
            open: Cell::new(0),
            open_everywhere,
            empty: Notify::new(),
        });
        let down = async {
            // An error says that the handle is gone, which is a shutdown too.
            let _ = self.shutdown.wait_for(|down| *down).await;
        };
        match self.source {
            Source::Handed(receiver) => tokio::select! {
                () = down => {}
                () = take_handed(receiver, &tasks) => {}
            },
            Source::Listeners(listeners) => {
                let accepting = listeners
                    .into_iter()
                    .map(|listener| accept_own(listener, &self.admission, &self.live, &tasks));
                tokio::select! {
                    () = down => {}
                    _ = futures::future::join_all(accepting) => {}
                }
            }
        }
        tasks.environments.begin_drain();
        let ended = async {
            while tasks.open.get() > 0 {
                tasks.empty.notified().await;
            }
        };
        if timeout(drain_timeout + DRAIN_GRACE, ended).await.is_err() {
            tracing::warn!(open = tasks.open.get(), "cutting client connections that do not end");
        }
    }
}

async fn take_handed(mut receiver: mpsc::Receiver<Handed>, tasks: &Rc<Tasks>) {
    while let Some(Handed { socket, remote, entrance, counted }) = receiver.recv().await {
        match TcpStream::from_std(socket) {
            Ok(socket) => tasks.serve(socket, remote, &entrance, counted),
            Err(error) => tracing::warn!(%error, "cannot take over a client connection"),
        }
    }
}

async fn accept_own(
    listener: Listener,
    admission: &Arc<Admission>,
    live: &Arc<AtomicUsize>,
    tasks: &Rc<Tasks>,
) {
    let Listener { socket, entrance } = listener;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot watch a listening socket; it accepts nothing");
            return std::future::pending().await;
        }
    };
    loop {
        let (socket, remote, place) = accept(&listener, admission).await;
        tasks.serve(socket, remote, &entrance, Counted::new(place, live));
    }
}

/// Counts a task while it lives, whether it returns or panics.
struct Open(Rc<Tasks>);

impl Drop for Open {
    fn drop(&mut self) {
        let open = self.0.open.get() - 1;
        self.0.open.set(open);
        self.0.open_everywhere.fetch_sub(1, Ordering::Relaxed);
        if open == 0 {
            self.0.empty.notify_one();
        }
    }
}

impl Tasks {
    /// Serves one connection in a task of its own.
    fn serve(
        self: &Rc<Self>,
        socket: TcpStream,
        remote: SocketAddr,
        entrance: &Entrance,
        counted: Counted,
    ) {
        // Neither is worth losing the connection for.
        let _ = socket.set_nodelay(true);
        let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
        let _ = SockRef::from(&socket).set_tcp_keepalive(&keepalive);
        self.open.set(self.open.get() + 1);
        self.open_everywhere.fetch_add(1, Ordering::Relaxed);
        let open = Open(Rc::clone(self));
        let environment = Rc::clone(self.environments.of(entrance.serves));
        let Some(tls) = entrance.tls.clone() else {
            tokio::task::spawn_local(async move {
                let info = ConnectionInfo { remote: Some(remote), ..ConnectionInfo::default() };
                connection::serve(socket, info, environment).await;
                drop((open, counted));
            });
            return;
        };
        tokio::task::spawn_local(async move {
            if let Some((stream, info)) = handshake(&tls, socket, remote, &environment.drain).await
            {
                connection::serve(stream, info, environment).await;
            }
            drop((open, counted));
        });
    }
}

/// The encrypted stream and who is at its other end; `None` if there is no agreement, or the
/// front end ends meanwhile.
async fn handshake(
    tls: &ListenerTls,
    socket: TcpStream,
    remote: SocketAddr,
    drain: &Rc<Drain>,
) -> Option<(TlsStream<TcpStream>, ConnectionInfo)> {
    let mut ticket = drain.ticket();
    let mut accepting = std::pin::pin!(tls.acceptor.accept(socket));
    let outcome = std::future::poll_fn(|context| {
        ticket.register(context.waker());
        if ticket.is_draining() {
            return Poll::Ready(None);
        }
        accepting.as_mut().poll(context).map(Some)
    })
    .await?;
    match outcome {
        Ok(Handshake { stream, client }) => {
            let user = client.filter(|facts| tls.common_name_is_user && facts.for_clients);
            let certificate_cn = user.and_then(|facts| facts.common_name).map(Rc::from);
            Some((stream, ConnectionInfo { remote: Some(remote), certificate_cn, is_tls: true }))
        }
        Err(error) => {
            // Said by the acceptor, with a limit on the lines.
            tracing::debug!(%remote, %error, "rejected a client connection");
            None
        }
    }
}
