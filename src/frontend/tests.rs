//! Threads, ports, limits and the end, over real connections.

mod tls;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response};

use super::*;
use crate::api::service::{CallContext, HttpBody, NoServices};

/// Answers plain requests with the name of the thread.
struct ThreadName;

impl HttpHandler for ThreadName {
    fn handle(
        &self,
        request: Request<HttpBody>,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>> {
        let slow = request.uri().path() == "/slow";
        Box::pin(async move {
            if slow {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let name = thread::current().name().unwrap_or_default().to_owned();
            let body = Full::new(Bytes::from(name)).map_err(|never| match never {});
            Response::new(body.boxed_unsync())
        })
    }
}

fn factory() -> HandlersFactory {
    Arc::new(|| Handlers {
        services: Rc::new(NoServices("HTTP alone")),
        http: Rc::new(ThreadName),
        connections: Arc::default(),
    })
}

fn loopback_listen() -> Listen {
    Listen::from(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn loopback() -> Frontend {
    Frontend {
        listen: vec![loopback_listen()],
        workers: NonZeroUsize::new(2),
        ..Frontend::default()
    }
}

/// An open connection that asks for the thread's name.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(socket)
    }

    fn ask(&mut self, path: &str) -> String {
        write!(self.0, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut text = String::new();
        let mut piece = [0; 1024];
        loop {
            let length = self.0.read(&mut piece).unwrap();
            assert!(length > 0, "closed after {text:?}");
            text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            if let Some((_, body)) = text.split_once("\r\n\r\n")
                && !body.is_empty()
            {
                return body.to_owned();
            }
        }
    }
}

#[test]
fn every_address_is_served_and_ports_are_reported() {
    let mut frontend = loopback();
    frontend.listen.push(loopback_listen());
    let handle = frontend.bind().unwrap().run(factory()).unwrap();
    let addresses = handle.addresses().to_vec();
    assert!(addresses.len() == 2 && addresses[0].port() != addresses[1].port());
    for address in addresses {
        for _ in 0..20 {
            assert!(Client::connect(address).ask("/").starts_with("tripod-front-"));
        }
    }
    handle.join().unwrap();
}

#[test]
fn a_port_in_use_is_refused_with_advice() {
    let other = loopback().bind().unwrap();
    let taken = other.addresses()[0];
    for distribution in
        [Distribution::Shared, Distribution::Acceptor { home: None, home_connections_max: 0 }]
    {
        let frontend = Frontend { listen: vec![taken.into()], distribution, ..loopback() };
        let Err(error) = frontend.bind() else { panic!("bound {taken} twice") };
        let text = error.to_string();
        assert!(text.contains(&taken.to_string()) && text.contains("another process"), "{text}");
    }
    assert!(matches!(Frontend::default().bind(), Err(Error::NoAddress)));
}

#[test]
fn the_acceptor_spreads_connections_and_fills_the_home_thread_first() {
    // A thread that runs what it is given, as the consensus thread does.
    let (sender, mut tasks) = mpsc::channel::<LocalTask>(1);
    let home = thread::Builder::new().name("home".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut running = Vec::new();
            while let Some(task) = tasks.recv().await {
                running.push(tokio::task::spawn_local(task()));
            }
            for task in running {
                task.await.unwrap();
            }
        });
    });
    let executor: HomeExecutor = Arc::new(move |task| sender.try_send(task).ok().unwrap());
    let distribution = Distribution::Acceptor { home: Some(executor), home_connections_max: 2 };
    let handle = Frontend { distribution, ..loopback() }.bind().unwrap().run(factory()).unwrap();
    let address = handle.addresses()[0];
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(address)).collect();
    let mut names: Vec<_> = clients.iter_mut().map(|client| client.ask("/")).collect();
    names[2..].sort();
    let workers = ["tripod-front-0", "tripod-front-1"];
    let want = [["home"; 2].as_slice(), &[workers[0]; 3], &[workers[1]; 3]].concat();
    assert_eq!(names, want);
    // A place on the home thread is used again.
    drop(clients.swap_remove(0));
    let deadline = Instant::now() + Duration::from_secs(10);
    while Client::connect(address).ask("/") != "home" {
        assert!(Instant::now() < deadline, "the home thread gets no connection any more");
    }
    handle.join().unwrap();
    home.unwrap().join().unwrap();
}

#[test]
fn connections_above_the_limit_wait_for_a_place() {
    let frontend =
        Frontend { connections_max: Some(4), connections_per_source_max: Some(8), ..loopback() };
    let handle = frontend.bind().unwrap().run(factory()).unwrap();
    let address = handle.addresses()[0];
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        write!(client.0, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    // Silent connections count too, and each place that becomes free is given on.
    let short = Some(Duration::from_millis(50));
    let mut served = 0;
    let mut waiting = clients;
    for round in 0..20 {
        let mut rest = Vec::new();
        for mut client in waiting {
            client.0.set_read_timeout(short).unwrap();
            match client.0.read(&mut [0; 1024]) {
                Ok(length) if length > 0 => served += 1,
                _ => rest.push(client),
            }
        }
        waiting = rest;
        if waiting.is_empty() {
            break;
        }
        assert!(round < 19, "{served} of 8 served");
    }
    assert_eq!(served, 8);
    handle.join().unwrap();
}

#[test]
fn connections_of_one_source_above_its_share_are_closed() {
    let frontend = Frontend { connections_max: Some(4), ..loopback() };
    let handle = frontend.bind().unwrap().run(factory()).unwrap();
    let address = handle.addresses()[0];
    let mut kept: Vec<_> = (0..3).map(|_| Client::connect(address)).collect();
    for client in &mut kept {
        client.ask("/");
    }
    for _ in 0..5 {
        let mut refused = Client::connect(address);
        // The end of the stream, or a reset of it.
        assert_eq!(refused.0.read(&mut [0; 16]).unwrap_or(0), 0);
    }
    for client in &mut kept {
        client.ask("/");
    }
    drop(kept.pop());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut again = Client::connect(address);
        // A refused one may be closed before or after these bytes.
        let sent = write!(again.0, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        if sent.is_ok() && again.0.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {
            break;
        }
        assert!(Instant::now() < deadline, "the place that became free is not given on");
    }
    handle.join().unwrap();
}

#[test]
fn a_shutdown_finishes_requests_and_closes_the_port() {
    let handle = loopback().bind().unwrap().run(factory()).unwrap();
    let address = handle.addresses()[0];
    let mut idle = Client::connect(address);
    idle.ask("/");
    let mut silent = Client::connect(address);
    let mut busy = Client::connect(address);
    write!(busy.0, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(50));
    handle.begin_shutdown();
    assert!(busy.answer().starts_with("tripod-front-"));
    for client in [&mut idle, &mut silent, &mut busy] {
        assert_eq!(client.0.read(&mut [0; 16]).unwrap_or(0), 0);
    }
    handle.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn factories_run_once_per_thread() {
    let built = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&built);
    let factory: HandlersFactory = Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Handlers {
            services: Rc::new(NoServices("HTTP alone")),
            http: Rc::new(ThreadName),
            connections: Arc::default(),
        }
    });
    let handle = loopback().bind().unwrap().run(factory).unwrap();
    for _ in 0..20 {
        Client::connect(handle.addresses()[0]).ask("/");
    }
    handle.join().unwrap();
    assert_eq!(built.load(Ordering::Relaxed), 2);
}
