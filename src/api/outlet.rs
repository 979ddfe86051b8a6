//! Messages of streaming calls that need no turn of their call.
//!
//! An event that a thousand streams wait for would have a thousand calls polled, each of them for
//! one message. A service may leave the message in the outlet of the connection instead; the
//! connection's task sends it when it runs next.
//!
//! Invariants, kept by the transport:
//! - a tap is open only while nothing of its call waits on the way to the client, so that what is
//!   left here comes after all that the call sent before;
//! - the outlet is emptied before any call of the connection goes on, so that it comes before all
//!   that the call sends later;
//! - one outlet holds at most [`OUTLET_BYTES_MAX`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::task::Waker;

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::service::Traffic;

/// Bytes that wait in one outlet; above it the calls send for themselves.
pub const OUTLET_BYTES_MAX: usize = 64 << 10;

/// Where the messages for one connection wait, for as long as its task needs to run.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    left: Mutex<Left>,
    any: AtomicBool,
    task: AtomicWaker,
}

/// Messages of several streams, in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Left {
    bytes: Vec<u8>,
    /// The stream of each message, and where in `bytes` it ends.
    ends: Vec<(u32, usize)>,
}

impl Left {
    /// Streams and their messages.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(stream, end)| {
            let message = self.bytes.get(start..end).unwrap_or_default();
            start = end;
            (stream, message)
        })
    }
}

impl Outlet {
    /// The task to wake from now on.
    pub(crate) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// What was left, if anything.
    pub(crate) fn take(&self) -> Option<Left> {
        self.any.swap(false, Ordering::AcqRel).then(|| std::mem::take(&mut *self.left.lock()))
    }
}

/// One call's way into the outlet of its connection.
#[derive(Debug)]
pub struct Tap {
    outlet: Arc<Outlet>,
    stream: u32,
    open: AtomicBool,
    traffic: Option<Traffic>,
}

impl Tap {
    /// A closed tap that counts what it lets in.
    pub(crate) fn new(outlet: Arc<Outlet>, stream: u32, traffic: Option<Traffic>) -> Arc<Self> {
        Arc::new(Self { outlet, stream, open: AtomicBool::new(false), traffic })
    }

    /// Lets messages in, or not.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// Leaves a message; `false` if it has to go through the call. `write` adds the message to
    /// the bytes it is given.
    #[must_use]
    pub fn leave(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if !self.open.load(Ordering::Acquire) {
            return false;
        }
        let mut left = self.outlet.left.lock();
        if left.bytes.len() >= OUTLET_BYTES_MAX {
            return false;
        }
        let start = left.bytes.len();
        write(&mut left.bytes);
        if let Some(traffic) = &self.traffic {
            traffic.sent(left.bytes.len() - start);
        }
        let end = (self.stream, left.bytes.len());
        left.ends.push(end);
        drop(left);
        if !self.outlet.any.swap(true, Ordering::AcqRel) {
            self.outlet.task.wake();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(tap: &Tap, message: &[u8]) -> bool {
        tap.leave(|out| out.extend_from_slice(message))
    }

    #[test]
    fn messages_come_out_in_order_and_only_while_the_tap_is_open() {
        let outlet = Arc::new(Outlet::default());
        let taps = [1, 3].map(|stream| Tap::new(Arc::clone(&outlet), stream, None));
        assert!(!leave(&taps[0], b"early") && outlet.take().is_none());
        taps.iter().for_each(|tap| tap.set_open(true));
        assert!(leave(&taps[1], b"one") && leave(&taps[0], b"") && leave(&taps[1], b"three"));
        taps[0].set_open(false);
        assert!(!leave(&taps[0], b"late"));
        let left = outlet.take().unwrap();
        let messages: Vec<_> = left.iter().collect();
        assert_eq!(messages, [(3, &b"one"[..]), (1, b""), (3, b"three")]);
        assert!(outlet.take().is_none());
    }

    #[test]
    fn an_outlet_is_bounded() {
        let outlet = Arc::new(Outlet::default());
        let tap = Tap::new(Arc::clone(&outlet), 1, None);
        tap.set_open(true);
        let taken = (0..).take_while(|_| leave(&tap, &[0; 1 << 10])).count();
        assert_eq!(taken, OUTLET_BYTES_MAX >> 10);
        assert_eq!(outlet.take().map(|left| left.iter().count()), Some(taken));
        assert!(leave(&tap, b"room again"));
    }
}
