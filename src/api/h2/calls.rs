//! The calls of one connection: from request events to services and back to the core.
//!
//! Invariants:
//! - a call whose stream is gone is dropped at once, with its future;
//! - no call is continued while unary answers above the limit wait for the client, so a client
//!   that does not listen holds at most that much plus one answer;
//! - bytes no service has taken stay below the connection's limit.

use std::{
    collections::VecDeque, rc::Rc, sync::Arc, task::Context, task::Poll, task::Waker, time::Instant,
};

use bytes::Bytes;
use futures::future::LocalBoxFuture;

use super::{
    super::{
        connection::{ConnectionInfo, Environment, Held},
        outlet::Outlet,
        service::{CallContext, MethodKind, Status, Websocket},
    },
    core::{Core, End, Event, OUTPUT_BYTES_HARD},
    frame::ErrorCode,
    grpc::{self, Deframer},
    head::{CallHead, RequestHead},
    plain::PlainCall,
    stream_call::StreamCall,
    wake::{Ready, Signal},
};

/// Calls run before the connection's output is looked at again.
const RUNS_PER_TURN: usize = 512;
/// Slots kept when all calls are done.
const SLOTS_KEPT: usize = 64;

/// What a slot is doing.
enum Call {
    Vacant,
    /// A unary call whose message has not begun.
    Awaited(Rc<RequestHead>),
    /// A unary call whose message is on the way.
    Receiving(Box<Receiving>),
    /// A unary call whose service has not been asked yet.
    Complete(Rc<RequestHead>, Bytes),
    Unary(LocalBoxFuture<'static, Result<Bytes, Status>>),
    Stream(Box<StreamCall>),
    Plain(Box<PlainCall>),
}

struct Receiving {
    head: Rc<RequestHead>,
    deframer: Deframer,
    message: Option<Bytes>,
    /// Bytes counted in [`Calls::held_bytes`].
    held: usize,
}

struct Slot {
    waker: Waker,
    signal: Arc<Signal>,
    stream: u32,
    deadline: Option<Instant>,
    call: Call,
}

/// What running a call led to.
pub(super) enum Ran {
    Waits,
    /// The call is over and its stream was told.
    Over,
}

/// All calls of a connection.
pub(super) struct Calls {
    environment: Rc<Environment>,
    info: ConnectionInfo,
    slots: Vec<Slot>,
    free: Vec<u32>,
    ready: Arc<Ready>,
    outlet: Arc<Outlet>,
    turn: VecDeque<u32>,
    roomy: Vec<u32>,
    /// No deadline is before this.
    next_deadline: Option<Instant>,
    /// Request bytes no service has taken.
    held_bytes: usize,
    /// What this connection has added to the thread's account.
    accounted: Held,
}

impl Calls {
    pub(super) fn new(environment: Rc<Environment>, info: ConnectionInfo) -> Self {
        Self {
            environment,
            info,
            slots: Vec::new(),
            free: Vec::new(),
            ready: Arc::default(),
            outlet: Arc::default(),
            turn: VecDeque::new(),
            roomy: Vec::new(),
            next_deadline: None,
            held_bytes: 0,
            accounted: Held::default(),
        }
    }

    /// The task to wake when a call may go on.
    pub(super) fn register(&self, task: &Waker) {
        self.ready.register(task);
        self.outlet.register(task);
    }

    /// Drops all calls: the connection is over.
    pub(super) fn clear(&mut self) {
        (self.slots, self.free) = (Vec::new(), Vec::new());
        self.turn.clear();
        (self.next_deadline, self.held_bytes) = (None, 0);
    }

    /// The earliest time at which [`Calls::expire`] may have something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Acts on something the client did.
    pub(super) fn handle(&mut self, event: Event<'_>, core: &mut Core, now: Instant) {
        match event {
            Event::Request { stream, head, end } => self.request(stream, head, end, core, now),
            Event::Data { stream, tag, bytes, end } => self.data(stream, tag, bytes, end, core),
            Event::Gone { tag } => self.vacate(tag),
        }
    }

    fn request(
        &mut self,
        stream: u32,
        head: Rc<RequestHead>,
        end: bool,
        core: &mut Core,
        now: Instant,
    ) {
        let Some(call) = &head.call else {
            let plain = PlainCall::new(&head, end, &self.environment, &self.info);
            let number = self.occupy(stream, None, Call::Plain(Box::new(plain)));
            core.attach(stream, number, false);
            self.turn.push_back(number);
            return;
        };
        let (kind, timeout) = match self.accept(&head, call) {
            Ok(accepted) => accepted,
            Err(status) => return core.finish(stream, End::Trailers(Err(status))),
        };
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        if kind == MethodKind::Unary {
            if end {
                return core.finish(stream, End::Trailers(Err(grpc::no_message())));
            }
            let number = self.occupy(stream, deadline, Call::Awaited(head));
            core.attach(stream, number, true);
            return;
        }
        let context = self.context(call);
        let (path, way) = (head.path.value_text(), (stream, &self.outlet));
        let streaming = StreamCall::new(path, way, end, &self.environment, context);
        let number = self.occupy(stream, deadline, Call::Stream(Box::new(streaming)));
        core.attach(stream, number, false);
        self.turn.push_back(number);
    }

    /// Looks up a call's method and checks its metadata.
    fn accept(
        &self,
        head: &RequestHead,
        call: &CallHead,
    ) -> Result<(MethodKind, Option<std::time::Duration>), Status> {
        let path = head.path.value_text();
        let kind =
            self.environment.services.method(path).ok_or_else(|| grpc::unknown_method(path))?;
        if let Some(encoding) = &call.encoding {
            return Err(grpc::unknown_encoding(encoding.value_text()));
        }
        let timeout = call.timeout.transpose().map_err(|grpc::BadTimeout| grpc::bad_timeout())?;
        Ok((kind, timeout))
    }

    fn context(&self, call: &CallHead) -> CallContext {
        CallContext {
            token: call.token.as_ref().map(|token| token.value_text().to_owned()),
            require_leader: call.require_leader,
            timeout: call.timeout.and_then(Result::ok),
            remote: self.info.remote,
            certificate_cn: self.info.certificate_cn.clone(),
            from_gateway: false,
            is_tls: self.info.is_tls,
            websocket: Websocket::No,
            tap: None,
        }
    }

    fn data(&mut self, stream: u32, tag: u32, bytes: &[u8], end: bool, core: &mut Core) {
        let Some(slot) = self.slots.get_mut(tag as usize) else { return };
        let outcome = match &mut slot.call {
            Call::Awaited(_) | Call::Receiving(_) => {
                core.release(stream, bytes.len());
                self.unary_data(tag, bytes, end)
            }
            Call::Stream(call) => {
                let before = call.backlog_bytes();
                let used = call.feed(bytes, end);
                self.held_bytes += call.backlog_bytes() - before;
                self.turn.push_back(tag);
                used.map(|used| core.release(stream, used))
            }
            Call::Plain(call) => {
                let before = call.backlog_bytes();
                let used = call.feed(bytes, end);
                self.held_bytes += call.backlog_bytes() - before;
                self.turn.push_back(tag);
                used.map(|used| core.release(stream, used))
            }
            Call::Vacant | Call::Complete(..) | Call::Unary(_) => Ok(()),
        };
        let within = self.held_bytes <= self.request_bytes_max();
        match outcome {
            Ok(()) if within => {}
            Ok(()) => self.fail(tag, core, grpc::too_much_buffered()),
            Err(status) => self.fail(tag, core, status),
        }
    }

    /// Bytes of a unary call. They are asked of the service once the client's side has ended.
    fn unary_data(&mut self, tag: u32, mut bytes: &[u8], end: bool) -> Result<(), Status> {
        let message_bytes_max = self.environment.limits.message_bytes_max;
        let Some(slot) = self.slots.get_mut(tag as usize) else { return Ok(()) };
        let mut receiving = match std::mem::replace(&mut slot.call, Call::Vacant) {
            Call::Awaited(head) => {
                let mut deframer = Deframer::new(message_bytes_max);
                let message = deframer.next(&mut bytes).inspect_err(|_| {
                    slot.call = Call::Awaited(Rc::clone(&head));
                })?;
                match message {
                    Some(message) if end && bytes.is_empty() => {
                        self.held_bytes += message.len();
                        slot.call = Call::Complete(head, message);
                        self.turn.push_back(tag);
                        return Ok(());
                    }
                    message => Box::new(Receiving { head, deframer, message, held: 0 }),
                }
            }
            Call::Receiving(receiving) => receiving,
            other => {
                slot.call = other;
                return Ok(());
            }
        };
        let outcome = receiving.take(bytes, end);
        let held = receiving.held_bytes();
        self.held_bytes = self.held_bytes + held - receiving.held;
        receiving.held = held;
        slot.call = match receiving.message.take_if(|_| end && outcome.is_ok()) {
            Some(message) => {
                self.turn.push_back(tag);
                Call::Complete(receiving.head, message)
            }
            None => Call::Receiving(receiving),
        };
        outcome
    }

    /// Sends what services left in the outlet. Must come before a call goes on.
    fn empty_outlet(&mut self, core: &mut Core) {
        let Some(left) = self.outlet.take() else { return };
        for (stream, message) in left.iter() {
            let Some((tag, false)) = core.send_left(stream, message) else { continue };
            let call = self.slots.get_mut(tag as usize).map(|slot| &mut slot.call);
            if let Some(Call::Stream(call)) = call {
                call.wait_for_room(stream, core);
            }
        }
    }

    /// Runs calls that may go on; `true` when some did.
    pub(super) fn run(&mut self, core: &mut Core) -> bool {
        let limits = &self.environment.limits;
        core.set_pressed(self.environment.held.get().answers > limits.thread_answer_bytes_max);
        self.empty_outlet(core);
        core.take_roomy(&mut self.roomy);
        self.turn.extend(self.roomy.drain(..));
        self.ready.take(&mut self.turn);
        let mut ran = 0;
        while ran < RUNS_PER_TURN && self.may_run(core) {
            let Some(number) = self.turn.pop_front() else { break };
            ran += 1;
            self.empty_outlet(core);
            if matches!(self.run_one(number, core), Ran::Over) {
                self.vacate(number);
            }
            if self.turn.is_empty() {
                self.ready.take(&mut self.turn);
            }
        }
        self.account(core.held_bytes());
        ran > 0
    }

    /// Brings the thread's account up to date with this connection.
    fn account(&mut self, answers: usize) {
        let now = Held { requests: self.held_bytes, answers };
        if now != self.accounted {
            self.environment.held.change(self.accounted, now);
            self.accounted = now;
        }
    }

    /// Limit of unread request bytes; little once the connections of the thread together have
    /// too much, so that those who hold most are refused and small requests are not.
    fn request_bytes_max(&self) -> usize {
        let limits = &self.environment.limits;
        let pressed = self.environment.held.get().requests > limits.thread_request_bytes_max;
        if pressed { limits.pressed_bytes_max } else { limits.request_bytes_max }
    }

    /// The same for answers.
    fn answer_bytes_max(&self) -> usize {
        let limits = &self.environment.limits;
        let pressed = self.environment.held.get().answers > limits.thread_answer_bytes_max;
        if pressed { limits.pressed_bytes_max } else { limits.answer_bytes_max }
    }

    /// Whether the client listens well enough for calls to go on.
    fn may_run(&self, core: &Core) -> bool {
        core.unary_pending_bytes() < self.answer_bytes_max()
            && core.output().len() < OUTPUT_BYTES_HARD
    }

    /// Whether [`Calls::run`] would run something.
    pub(super) fn has_turn(&self, core: &Core) -> bool {
        !self.turn.is_empty() && self.may_run(core)
    }

    fn run_one(&mut self, number: u32, core: &mut Core) -> Ran {
        let Some(slot) = self.slots.get_mut(number as usize) else { return Ran::Waits };
        slot.signal.running();
        let stream = slot.stream;
        match &mut slot.call {
            Call::Vacant | Call::Awaited(_) | Call::Receiving(_) => Ran::Waits,
            Call::Complete(..) => self.ask(number, core),
            Call::Unary(future) => {
                let polled = future.as_mut().poll(&mut Context::from_waker(&slot.waker));
                finish_unary(polled, stream, core)
            }
            Call::Stream(call) => {
                let before = call.backlog_bytes();
                let ran = call.run(stream, core, &slot.waker);
                self.held_bytes -= before - call.backlog_bytes();
                ran
            }
            Call::Plain(call) => {
                let before = call.backlog_bytes();
                let ran = call.run(stream, core, &slot.waker);
                self.held_bytes -= before - call.backlog_bytes();
                ran
            }
        }
    }

    /// Asks the service for the answer to a complete unary call, which often is there at once.
    fn ask(&mut self, number: u32, core: &mut Core) -> Ran {
        let Some(slot) = self.slots.get_mut(number as usize) else { return Ran::Waits };
        let Call::Complete(head, message) = std::mem::replace(&mut slot.call, Call::Vacant) else {
            return Ran::Waits;
        };
        let stream = slot.stream;
        self.held_bytes -= message.len();
        let context = head.call.as_ref().map(|call| self.context(call)).unwrap_or_default();
        let mut future = self.environment.services.unary(head.path.value_text(), message, context);
        let Some(slot) = self.slots.get_mut(number as usize) else { return Ran::Waits };
        let polled = future.as_mut().poll(&mut Context::from_waker(&slot.waker));
        let ran = finish_unary(polled, stream, core);
        if matches!(ran, Ran::Waits) {
            slot.call = Call::Unary(future);
        }
        ran
    }

    /// Ends calls whose answers the client takes too slowly.
    pub(super) fn end_slow(&mut self, now: Instant, core: &mut Core) {
        let mut tags = Vec::new();
        core.end_slow(now, &mut tags);
        if core.is_closed() {
            self.clear();
        }
        for tag in tags {
            self.vacate(tag);
        }
    }

    /// Ends calls whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant, core: &mut Core) {
        if self.next_deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        let mut next = None;
        for number in 0..self.slots.len() {
            let Some(deadline) = self.slots.get(number).and_then(|slot| slot.deadline) else {
                continue;
            };
            if deadline <= now {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                self.fail(number, core, grpc::deadline_exceeded());
            } else if next.is_none_or(|next| deadline < next) {
                next = Some(deadline);
            }
        }
        // Looking costs time in proportion to the slots, so do it the less often the more there
        // are: a client with many deadlines gets them a few milliseconds late.
        let pause = std::time::Duration::from_micros(self.slots.len() as u64);
        self.next_deadline = next.map(|next| next.max(now + pause));
    }

    /// Ends a call with a failure.
    fn fail(&mut self, number: u32, core: &mut Core, status: Status) {
        let Some(slot) = self.slots.get(number as usize) else { return };
        match &slot.call {
            Call::Vacant => return,
            Call::Plain(_) => core.abort(slot.stream, ErrorCode::EnhanceYourCalm),
            _ => core.finish(slot.stream, End::Trailers(Err(status))),
        }
        self.vacate(number);
    }

    fn occupy(&mut self, stream: u32, deadline: Option<Instant>, call: Call) -> u32 {
        if let Some(deadline) = deadline
            && self.next_deadline.is_none_or(|next| deadline < next)
        {
            self.next_deadline = Some(deadline);
        }
        if let Some(number) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(number as usize)
        {
            (slot.stream, slot.deadline, slot.call) = (stream, deadline, call);
            return number;
        }
        // At most `streams_max` slots, a u32.
        let number = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let signal = Signal::new(Arc::clone(&self.ready), number);
        let waker = Waker::from(Arc::clone(&signal));
        self.slots.push(Slot { waker, signal, stream, deadline, call });
        number
    }

    /// Drops a call and frees its slot.
    fn vacate(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        match std::mem::replace(&mut slot.call, Call::Vacant) {
            Call::Complete(_, message) => self.held_bytes -= message.len(),
            Call::Receiving(receiving) => self.held_bytes -= receiving.held,
            Call::Stream(call) => self.held_bytes -= call.backlog_bytes(),
            Call::Plain(call) => self.held_bytes -= call.backlog_bytes(),
            Call::Vacant | Call::Awaited(_) | Call::Unary(_) => {}
        }
        slot.deadline = None;
        self.free.push(number);
        if self.free.len() == self.slots.len() {
            self.next_deadline = None;
            if self.slots.len() > SLOTS_KEPT {
                (self.slots, self.free) = (Vec::new(), Vec::new());
            }
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.environment.held.change(self.accounted, Held::default());
    }
}

impl Receiving {
    fn take(&mut self, mut bytes: &[u8], end: bool) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.message.is_some() {
                return Err(grpc::many_messages());
            }
            self.message = self.deframer.next(&mut bytes)?;
        }
        match (end, self.deframer.is_at_boundary(), &self.message) {
            (true, false, _) => Err(grpc::cut_message()),
            (true, true, None) => Err(grpc::no_message()),
            _ => Ok(()),
        }
    }

    fn held_bytes(&self) -> usize {
        self.deframer.held_bytes() + self.message.as_ref().map_or(0, Bytes::len)
    }
}

fn finish_unary(polled: Poll<Result<Bytes, Status>>, stream: u32, core: &mut Core) -> Ran {
    match polled {
        Poll::Pending => return Ran::Waits,
        Poll::Ready(Ok(answer)) => core.send_unary(stream, answer),
        Poll::Ready(Err(status)) => core.finish(stream, End::Trailers(Err(status))),
    }
    Ran::Over
}
