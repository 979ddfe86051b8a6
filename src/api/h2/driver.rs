//! The I/O shell of one HTTP/2 connection: one task that reads, runs calls and writes.
//!
//! Each turn reads what is there, handles all complete frames, runs the calls that may go on,
//! and writes all answers at once. Buffers are lent by the thread while a connection is busy,
//! so that an idle one holds almost nothing.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{
    super::{
        connection::{ConnectionInfo, DrainTicket, Environment},
        pace::Pace,
    },
    calls::Calls,
    core::{Core, OUTPUT_BYTES_HARD, OUTPUT_BYTES_SOFT, Step},
    limits::Limits,
};

/// Bytes read at once.
const READ_BYTES: usize = 128 << 10;
/// Turns before other tasks of the thread get theirs.
const TURNS_MAX: usize = 8;
/// Memory a connection keeps for the start of an incomplete frame.
const REST_BYTES_KEPT: usize = 1024;
/// An output buffer above this size is freed rather than lent on.
const SPARE_BYTES_MAX: usize = 2 * OUTPUT_BYTES_SOFT;
/// Wait for the client's answer between the two GOAWAYs of a drain.
const DRAIN_ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(1);
/// Wait for the client to close after our last byte, so that the kernel delivers it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that is as good as never.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

thread_local! {
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SPARE_OUTPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Serves one HTTP/2 connection until it ends. `received` was read already.
pub(crate) async fn serve<IO>(
    io: IO,
    received: Vec<u8>,
    info: ConnectionInfo,
    environment: Rc<Environment>,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut driver = Driver::new(io, received, info, environment);
    std::future::poll_fn(|context| driver.poll(context)).await;
}

/// How far the connection's end has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Only output is left.
    Flushing,
    /// Waiting for the client to close.
    Lingering(Instant),
}

struct Driver<IO> {
    io: IO,
    core: Core,
    calls: Calls,
    limits: Rc<Limits>,
    drain: DrainTicket,
    phase: Phase,
    /// The start of a frame whose rest has not arrived.
    rest: Vec<u8>,
    started: Instant,
    last_read: Instant,
    /// Our keepalive ping, and the answers counted when it was sent.
    ping_sent: Option<(Instant, u32)>,
    stalled_since: Option<Instant>,
    /// How fast the client takes what the stream below does not.
    pace: Pace,
    /// The stream below took bytes that it may not have sent, as TLS does.
    unflushed: bool,
    drain_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
}

/// The connection is finished, for good or ill.
struct Finished;

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    fn new(io: IO, received: Vec<u8>, info: ConnectionInfo, environment: Rc<Environment>) -> Self {
        let now = now();
        let limits = Rc::clone(&environment.limits);
        Self {
            io,
            core: Core::new(Rc::clone(&limits), now),
            drain: environment.drain.ticket(),
            calls: Calls::new(environment, info),
            phase: Phase::Open,
            rest: received,
            started: now,
            last_read: now,
            ping_sent: None,
            stalled_since: None,
            pace: Pace::default(),
            unflushed: false,
            drain_since: None,
            // Not polled yet: the first turn arms it.
            timer: Box::pin(tokio::time::sleep(FAR)),
            timer_at: now + 2 * FAR,
            limits,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.calls.register(context.waker());
        self.drain.register(context.waker());
        let mut spare = SPARE_OUTPUT.take();
        self.core.swap_buffer(&mut spare);
        let outcome = self.turns(context);
        self.core.swap_buffer(&mut spare);
        if spare.capacity() <= SPARE_BYTES_MAX {
            SPARE_OUTPUT.set(spare);
        }
        match outcome {
            Ok(()) => Poll::Pending,
            Err(Finished) => Poll::Ready(()),
        }
    }

    fn turns(&mut self, context: &mut Context<'_>) -> Result<(), Finished> {
        let now = now();
        if now >= self.timer_at || self.drain.is_draining() {
            self.act(now)?;
        }
        for _ in 0..TURNS_MAX {
            // Not read for now, so nothing would wake us once the output is gone.
            let skipped =
                self.phase == Phase::Open && self.core.output().len() >= OUTPUT_BYTES_HARD;
            let read = self.read(context, now)?;
            let ran = self.calls.run(&mut self.core);
            self.core.pump(now);
            if self.phase == Phase::Open && (self.core.is_closed() || self.core.is_drained()) {
                self.phase = Phase::Flushing;
            }
            let wrote = self.write(context, now)?;
            let stalled = self.stalled_since.is_some() && !wrote;
            let more = ran || wrote && (skipped || self.has_more());
            if !read && (stalled || !more) {
                self.arm(context, now);
                return Ok(());
            }
        }
        context.waker().wake_by_ref(); // others first
        self.arm(context, now);
        Ok(())
    }

    fn has_more(&self) -> bool {
        self.core.has_queued() || self.calls.has_turn(&self.core)
    }

    /// Reads once and handles every complete frame; `true` when bytes came.
    fn read(&mut self, context: &mut Context<'_>, now: Instant) -> Result<bool, Finished> {
        if self.phase == Phase::Open && self.core.output().len() >= OUTPUT_BYTES_HARD {
            return Ok(false);
        }
        let mut buffer = READ_BUFFER.take();
        if buffer.len() < READ_BYTES {
            buffer.resize(READ_BYTES, 0);
        }
        let outcome = self.read_into(&mut buffer, context, now);
        READ_BUFFER.set(buffer);
        outcome
    }

    fn read_into(
        &mut self,
        buffer: &mut [u8],
        context: &mut Context<'_>,
        now: Instant,
    ) -> Result<bool, Finished> {
        let kept = self.rest.len();
        let Some((front, back)) = buffer.split_at_mut_checked(kept) else { return Err(Finished) };
        front.copy_from_slice(&self.rest);
        let mut read = ReadBuf::new(back);
        let got = match Pin::new(&mut self.io).poll_read(context, &mut read) {
            Poll::Pending => 0,
            Poll::Ready(Ok(())) if read.filled().is_empty() => return Err(Finished),
            Poll::Ready(Ok(())) => read.filled().len(),
            Poll::Ready(Err(_)) => return Err(Finished),
        };
        // What was received with the preface has not been looked at yet.
        let fresh = got > 0 || (kept > 0 && !self.core.is_ready());
        if !fresh || self.phase != Phase::Open {
            return Ok(got > 0);
        }
        self.last_read = now;
        let mut input = buffer.get(..kept + got).unwrap_or_default();
        self.handle(&mut input, now);
        self.rest.clear();
        if self.rest.capacity() > REST_BYTES_KEPT && input.len() <= REST_BYTES_KEPT {
            self.rest = Vec::new();
        }
        self.rest.extend_from_slice(input);
        Ok(got > 0)
    }

    fn handle(&mut self, input: &mut &[u8], now: Instant) {
        loop {
            match self.core.next(input, now) {
                Step::Event(event) => self.calls.handle(event, &mut self.core, now),
                Step::Starved => return,
                Step::Closed => {
                    self.calls.clear();
                    self.phase = Phase::Flushing;
                    return;
                }
            }
        }
    }

    /// Writes the output; `true` when bytes went out.
    fn write(&mut self, context: &mut Context<'_>, now: Instant) -> Result<bool, Finished> {
        let (mut wrote, mut taken) = (false, 0);
        while !self.core.output().is_empty() {
            match Pin::new(&mut self.io).poll_write(context, self.core.output()) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(Finished),
                Poll::Ready(Ok(bytes)) => {
                    self.core.written(bytes);
                    (wrote, taken) = (true, taken + bytes);
                    self.unflushed = true;
                }
                Poll::Pending => {
                    self.note_stall(taken, now);
                    return Ok(wrote);
                }
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(context) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(Finished),
                Poll::Pending => {
                    self.note_stall(taken, now);
                    return Ok(wrote);
                }
            }
        }
        self.stalled_since = None;
        self.pace = Pace::default();
        if self.phase == Phase::Flushing {
            if failed(Pin::new(&mut self.io).poll_shutdown(context)) {
                return Err(Finished);
            }
            self.phase = Phase::Lingering(now);
        }
        Ok(wrote)
    }

    /// The client takes nothing more for now, after `taken` bytes.
    fn note_stall(&mut self, taken: usize, now: Instant) {
        self.pace.note(now, taken, true);
        if taken > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
    }

    /// Does what is due: deadlines of calls and of the connection itself.
    fn act(&mut self, now: Instant) -> Result<(), Finished> {
        let limits = &self.limits;
        let passed = |since: Instant, wait: Duration| now.saturating_duration_since(since) >= wait;
        if self.stalled_since.is_some_and(|since| passed(since, limits.write_stall_timeout)) {
            return Err(Finished);
        }
        if self.pace.is_too_slow(now, limits.pace()) {
            return Err(Finished);
        }
        match self.phase {
            Phase::Lingering(since) if passed(since, LINGER_TIMEOUT) => return Err(Finished),
            Phase::Flushing | Phase::Lingering(_) => return Ok(()),
            Phase::Open => {}
        }
        if !self.core.is_ready() && passed(self.started, limits.preface_timeout) {
            return Err(Finished);
        }
        match self.ping_sent {
            Some((since, pongs)) => {
                if pongs != self.core.pongs() || self.last_read > since {
                    self.ping_sent = None;
                } else if passed(since, limits.keepalive_timeout) {
                    return Err(Finished);
                }
            }
            None if passed(self.last_read, limits.keepalive_interval) => {
                self.core.ping();
                self.ping_sent = Some((now, self.core.pongs()));
            }
            None => {}
        }
        self.calls.expire(now, &mut self.core);
        self.calls.end_slow(now, &mut self.core);
        if self.drain.is_draining() {
            self.drain(now);
        }
        Ok(())
    }

    /// Goes on with a graceful end: announce it, refuse new streams, then wait for the running.
    fn drain(&mut self, now: Instant) {
        let since = *self.drain_since.get_or_insert_with(|| {
            self.core.begin_drain();
            now
        });
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= DRAIN_ANNOUNCE_TIMEOUT {
            self.core.finish_drain();
        }
        if elapsed >= self.limits.drain_timeout {
            self.core.close("drain deadline");
            self.calls.clear();
        }
    }

    /// Sets the timer to the earliest time at which [`Driver::act`] has something to do.
    fn arm(&mut self, context: &mut Context<'_>, now: Instant) {
        let mut due = now + FAR;
        let mut at = |since: Option<Instant>, wait: Duration| {
            if let Some(since) = since {
                due = due.min(since + wait);
            }
        };
        at(self.stalled_since, self.limits.write_stall_timeout);
        at(self.pace.due(self.limits.pace()), Duration::ZERO);
        match self.phase {
            Phase::Lingering(since) => at(Some(since), LINGER_TIMEOUT),
            Phase::Flushing => {}
            Phase::Open => {
                at((!self.core.is_ready()).then_some(self.started), self.limits.preface_timeout);
                match self.ping_sent {
                    Some((since, _)) => at(Some(since), self.limits.keepalive_timeout),
                    None => at(Some(self.last_read), self.limits.keepalive_interval),
                }
                at(self.calls.next_deadline(), Duration::ZERO);
                at(self.core.slow_due(), Duration::ZERO);
                at(self.drain_since, self.limits.drain_timeout);
                if self.core.is_announced() {
                    at(self.drain_since, DRAIN_ANNOUNCE_TIMEOUT);
                }
            }
        }
        if due < self.timer_at || now >= self.timer_at {
            self.timer_at = due;
            self.timer.as_mut().reset(tokio::time::Instant::from_std(due));
            if self.timer.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn failed(polled: Poll<io::Result<()>>) -> bool {
    matches!(polled, Poll::Ready(Err(_)))
}
