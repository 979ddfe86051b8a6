//! The way of a stream's request bytes to whoever reads them, under back-pressure.
//!
//! Bytes a reader has no room for stay in `backlog`, uncounted towards the client's window, so
//! the client stops after one window. A reader that went away has its bytes thrown away.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tokio::sync::mpsc;

use super::{
    super::service::{Status, Traffic},
    grpc::{self, Deframer},
};

type Permit = Result<mpsc::OwnedPermit<Bytes>, mpsc::error::SendError<()>>;

/// Cuts a stream's bytes into pieces and hands them to a bounded channel.
pub(super) struct Inbox {
    sender: Option<mpsc::Sender<Bytes>>,
    /// Cuts messages; `None` hands bytes on as they come.
    deframer: Option<Deframer>,
    /// A piece that waits for room, and the wait.
    held: Option<(Bytes, LocalBoxFuture<'static, Permit>)>,
    backlog: Vec<u8>,
    ended: bool,
    traffic: Option<Traffic>,
}

impl Inbox {
    pub(super) fn new(sender: mpsc::Sender<Bytes>, deframer: Option<Deframer>) -> Self {
        let (sender, backlog) = (Some(sender), Vec::new());
        Self { sender, deframer, held: None, backlog, ended: false, traffic: None }
    }

    /// The same, counting what it hands on.
    pub(super) fn counted(self, traffic: Option<Traffic>) -> Self {
        Self { traffic, ..self }
    }

    /// Bytes waiting for the reader.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog.len()
    }

    /// Takes bytes from the client; returns how many of them are used up.
    ///
    /// # Errors
    /// The status to end the call with.
    pub(super) fn feed(&mut self, mut bytes: &[u8], end: bool) -> Result<usize, Status> {
        self.ended |= end;
        let length = bytes.len();
        if self.backlog.is_empty() {
            self.hand_on(&mut bytes)?;
        }
        self.backlog.extend_from_slice(bytes);
        self.close_if_done()?;
        Ok(length - bytes.len())
    }

    /// Goes on with what waited for room; returns how many bytes were used up.
    ///
    /// # Errors
    /// The status to end the call with.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Result<usize, Status> {
        let before = self.backlog.len();
        while let Some((piece, mut wait)) = self.held.take() {
            match wait.as_mut().poll(context) {
                Poll::Pending => {
                    self.held = Some((piece, wait));
                    break;
                }
                Poll::Ready(Ok(permit)) => drop(permit.send(piece)),
                Poll::Ready(Err(_)) => self.sender = None,
            }
            let backlog = std::mem::take(&mut self.backlog);
            let mut rest = backlog.as_slice();
            self.hand_on(&mut rest)?;
            self.backlog = rest.to_vec();
        }
        self.close_if_done()?;
        Ok(before - self.backlog.len())
    }

    fn hand_on(&mut self, bytes: &mut &[u8]) -> Result<(), Status> {
        while self.held.is_none() && !bytes.is_empty() {
            let Some(sender) = &self.sender else {
                *bytes = &[];
                break;
            };
            let piece = match &mut self.deframer {
                Some(deframer) => deframer.next(bytes)?,
                None => Some(Bytes::copy_from_slice(std::mem::take(bytes))),
            };
            let Some(piece) = piece else { break };
            if let Some(traffic) = &self.traffic {
                traffic.received(piece.len());
            }
            match sender.try_send(piece) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => self.sender = None,
                Err(mpsc::error::TrySendError::Full(piece)) => {
                    self.held = Some((piece, Box::pin(sender.clone().reserve_owned())));
                }
            }
        }
        Ok(())
    }

    /// Closes the channel once everything the client sent went through it.
    fn close_if_done(&mut self) -> Result<(), Status> {
        if self.ended && self.held.is_none() && self.backlog.is_empty() && self.sender.is_some() {
            self.sender = None;
            if self.deframer.as_ref().is_some_and(|deframer| !deframer.is_at_boundary()) {
                return Err(grpc::cut_message());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;

    fn wire(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|message| [&grpc::prefix(message)[..], message].concat()).collect()
    }

    #[test]
    fn a_full_reader_leaves_bytes_uncounted_and_gets_them_later() {
        let (sender, mut reader) = mpsc::channel(1);
        let mut inbox = Inbox::new(sender, Some(Deframer::new(100)));
        let bytes = wire(&[b"one", b"two", b"three"]);
        // "one" is in the channel, "two" waits for room, "three" is in the backlog.
        assert_eq!(inbox.feed(&bytes, true), Ok(16));
        assert_eq!(inbox.backlog_bytes(), 10);
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        assert_eq!(inbox.poll(&mut context), Ok(0));
        assert_eq!(reader.try_recv().unwrap(), "one");
        assert_eq!(inbox.poll(&mut context), Ok(10));
        assert_eq!(reader.try_recv().unwrap(), "two");
        assert_eq!(inbox.poll(&mut context), Ok(0));
        assert_eq!(reader.try_recv().unwrap(), "three");
        assert_eq!(reader.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }

    #[test]
    fn a_reader_that_left_costs_nothing() {
        let (sender, reader) = mpsc::channel(1);
        let mut inbox = Inbox::new(sender, Some(Deframer::new(100)));
        drop(reader);
        let bytes = wire(&[b"one", b"two"]);
        assert_eq!(inbox.feed(&bytes, false), Ok(bytes.len()));
        assert_eq!(inbox.backlog_bytes(), 0);
    }

    #[test]
    fn half_a_message_at_the_end_is_an_error() {
        let (sender, _reader) = mpsc::channel(1);
        let mut inbox = Inbox::new(sender, Some(Deframer::new(100)));
        assert_eq!(inbox.feed(&[0, 0, 0, 0, 2, b'a'], true), Err(grpc::cut_message()));
    }
}
