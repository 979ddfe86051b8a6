//! Server CPU per unary gRPC request that does nothing, as a client with many streams sees it.
//!
//! The front end's threads are timed by the scheduler's own account (`schedstat`), so the load
//! generator beside them does not count. It is a lean raw client on one thread: 256 streams over
//! 26 connections, each stream sending its next request when its answer is complete.
//!
//! `cargo bench --bench frontend -- [ready|batched] [seconds] [connections] [streams]
//! [deadline]`
//! - `ready`: the service answers in its first poll, as a serializable read does;
//! - `batched`: answers come from a task that completes everything waiting at once, as the
//!   consensus thread does;
//! - `deadline`: each call has a `grpc-timeout` of its own, so that no two heads are equal.
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::{
    cell::RefCell,
    env, fs, io,
    net::SocketAddr,
    num::NonZeroUsize,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
};
use tripod::{
    api::service::{CallContext, HttpBody, HttpHandler, MethodKind, Services, Status},
    frontend::{Frontend, Handlers, HandlersFactory},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A put of a 16-byte key and a 256-byte value is about this long.
const REQUEST_BYTES: usize = 280;
/// Its answer: header with ids, revision and term.
const ANSWER_BYTES: usize = 30;
const PATH: &str = "/etcdserverpb.KV/Put";

type Waiting = Rc<RefCell<Vec<oneshot::Sender<Result<Bytes, Status>>>>>;

struct NoOp {
    answer: Bytes,
    /// Calls to answer together, and who does it.
    batch: Option<(Waiting, Rc<Notify>)>,
}

impl Services for NoOp {
    fn method(&self, path: &str) -> Option<MethodKind> {
        (path == PATH).then_some(MethodKind::Unary)
    }

    fn unary(
        &self,
        _path: &str,
        _request: Bytes,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Result<Bytes, Status>> {
        let Some((waiting, wake)) = &self.batch else {
            return Box::pin(std::future::ready(Ok(self.answer.clone())));
        };
        let (sender, receiver) = oneshot::channel();
        waiting.borrow_mut().push(sender);
        wake.notify_one();
        Box::pin(async move { receiver.await.expect("the batch task answers everything") })
    }

    fn streaming(
        &self,
        _path: &str,
        _requests: mpsc::Receiver<Bytes>,
        _responses: mpsc::Sender<Bytes>,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl HttpHandler for NoOp {
    fn handle(
        &self,
        _request: Request<HttpBody>,
        _context: CallContext,
    ) -> LocalBoxFuture<'static, Response<HttpBody>> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Box::pin(std::future::ready(Response::new(body)))
    }
}

fn factory(batched: bool) -> HandlersFactory {
    Arc::new(move || {
        let answer = Bytes::from(vec![0; ANSWER_BYTES]);
        let batch = batched.then(|| (Waiting::default(), Rc::new(Notify::new())));
        if let Some((waiting, wake)) = batch.clone() {
            let answer = answer.clone();
            tokio::task::spawn_local(async move {
                loop {
                    wake.notified().await;
                    // Let everything that is ready come in first.
                    tokio::task::yield_now().await;
                    for sender in waiting.take() {
                        let _ = sender.send(Ok(answer.clone()));
                    }
                }
            });
        }
        let services = Rc::new(NoOp { answer, batch });
        let http = Rc::new(NoOp { answer: Bytes::new(), batch: None });
        Handlers { services, http, connections: Arc::default() }
    })
}

/// CPU time of this process's front-end threads.
fn server_cpu() -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.starts_with("tripod-front") {
            let account = fs::read_to_string(path.join("schedstat"))?;
            let first = account.split(' ').next().and_then(|number| number.parse::<u64>().ok());
            nanoseconds += first.unwrap_or_default();
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("frames are short");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The header block of a call as common clients send it: first in full, then by index.
fn blocks() -> [Vec<u8>; 2] {
    let mut first = vec![0x83, 0x86];
    let fields = [(4, PATH), (1, "127.0.0.1:2379"), (58, "bench/1"), (31, "application/grpc")];
    for (name, value) in fields {
        first.push(0x40 | name);
        first.push(u8::try_from(value.len()).expect("short"));
        first.extend_from_slice(value.as_bytes());
    }
    first.extend_from_slice(b"\x40\x02te\x08trailers");
    [first, [0x83, 0x86, 66, 65, 64, 63, 62].iter().map(|i| i | 0x80).collect()]
}

fn put_request(out: &mut Vec<u8>, stream: u32, block: &[u8]) {
    put_frame(out, 1, 4, stream, block);
    let mut message = vec![0; 5 + REQUEST_BYTES];
    message[3..5].copy_from_slice(&u16::try_from(REQUEST_BYTES).expect("short").to_be_bytes());
    put_frame(out, 0, 1, stream, &message);
}

/// Keeps `streams` calls going on one connection until `until`; returns the answers counted.
async fn drive(
    address: SocketAddr,
    streams: usize,
    until: Instant,
    deadline: bool,
) -> io::Result<u64> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    put_frame(&mut out, 4, 0, 0, &[]);
    // A window no run uses up.
    put_frame(&mut out, 8, 0, 0, &0x7fff_0000_u32.to_be_bytes()[..]);
    let [first, repeated] = blocks();
    let repeated = |stream: u32| {
        let mut block = repeated.clone();
        if deadline {
            block.extend_from_slice(b"\0\x0cgrpc-timeout\x08");
            block.extend_from_slice(format!("{:07}u", 4_000_000 + stream % 1_000_000).as_bytes());
        }
        block
    };
    let mut next = 1;
    for n in 0..streams {
        put_request(&mut out, next, &if n == 0 { first.clone() } else { repeated(next) });
        next += 2;
    }
    socket.write_all(&out).await?;
    let mut answers = 0;
    let mut buffer = vec![0; 64 << 10];
    let mut held = 0;
    while Instant::now() < until {
        let read = socket.read(&mut buffer[held..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        held += read;
        out.clear();
        let mut at = 0;
        while let Some(head) = buffer[..held].get(at..at + 9) {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            if at + 9 + length > held {
                break;
            }
            if head[3] == 3 || head[3] == 7 {
                return Err(io::Error::other("the server refuses a request"));
            }
            if head[3] == 1 && head[4] & 1 != 0 {
                answers += 1;
                put_request(&mut out, next, &repeated(next));
                next += 2;
            }
            at += 9 + length;
        }
        buffer.copy_within(at..held, 0);
        held -= at;
        socket.write_all(&out).await?;
    }
    Ok(answers)
}

fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    arguments.retain(|argument| !argument.starts_with("--"));
    let number = |at: usize, default: usize| {
        arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let mode = arguments.first().map_or("ready", String::as_str).to_owned();
    let seconds = number(1, 5);
    let deadline = arguments.get(4).is_some();
    let (connections, streams) = (number(2, 26), number(3, 256));
    let frontend = Frontend {
        listen: vec![std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        workers: NonZeroUsize::new(1),
        ..Frontend::default()
    };
    let handle = frontend.bind()?.run(factory(mode == "batched"))?;
    let address = handle.addresses()[0];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let before = server_cpu()?;
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds as u64);
    let answers: u64 = local.block_on(&runtime, async {
        let tasks: Vec<_> = (0..connections)
            .map(|n| {
                let share = streams / connections + usize::from(n < streams % connections);
                tokio::task::spawn_local(drive(address, share, until, deadline))
            })
            .collect();
        let mut answers = 0;
        for task in tasks {
            answers += task.await??;
        }
        anyhow::Ok(answers)
    })?;
    let elapsed = started.elapsed();
    let cpu = server_cpu()? - before;
    println!(
        "{mode}: {streams} streams over {connections} connections, {answers} answers in {elapsed:.1?}, \
         {:.0}/s, server CPU {:.2} us per request",
        answers as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / answers as f64,
    );
    handle.join()?;
    Ok(())
}
