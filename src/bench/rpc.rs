//! Single calls over the lean gRPC client: reading back, asking who leads, preparing a watch.

use std::{future::poll_fn, io, pin::Pin, sync::Arc, task::Poll, time::Duration};

use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    render::field,
    wire::{Event, Failure, Grpc, MESSAGE_PREFIX_BYTES, Method, Stream, WireError},
};
use crate::{
    api::proto::etcdserverpb::{RangeResponse, StatusResponse},
    tls::Connector,
};

/// Calls in flight at a time on one session.
const CALLS_AT_ONCE: usize = 64;
/// Time an answer may take.
const CALL_MAX: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The connection failed.
    #[error("connection to {endpoint} failed")]
    Io {
        /// Which endpoint.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// The server refused the call or broke the protocol.
    #[error("{endpoint}: {why}")]
    Refused {
        /// Which endpoint.
        endpoint: String,
        /// What it said.
        why: String,
    },
}

/// How to encrypt, if at all.
pub(crate) type Tls<'a> = Option<&'a Arc<Connector>>;

/// A connection for single calls.
pub(crate) struct Session {
    endpoint: String,
    stream: Stream,
    pub(crate) wire: Grpc,
    written: usize,
    input: Vec<u8>,
}

impl Session {
    /// Connects with room for the usual number of calls.
    pub(crate) async fn connect(endpoint: &str, tls: Tls<'_>) -> Result<Self, RpcError> {
        Self::with_slots(endpoint, tls, CALLS_AT_ONCE).await
    }

    /// Connects with room for `slots` streams.
    pub(crate) async fn with_slots(
        endpoint: &str,
        tls: Tls<'_>,
        slots: usize,
    ) -> Result<Self, RpcError> {
        let io = |source| RpcError::Io { endpoint: endpoint.to_owned(), source };
        let stream = Stream::connect(endpoint, tls).await.map_err(io)?;
        let wire = Grpc::new(endpoint).capturing(slots);
        let endpoint = endpoint.to_owned();
        Ok(Self { endpoint, stream, wire, written: 0, input: vec![0; READ_BYTES] })
    }

    fn refused(&self, why: impl ToString) -> RpcError {
        RpcError::Refused { endpoint: self.endpoint.clone(), why: why.to_string() }
    }

    /// Writes what there is, waits for input, adds what happened to `events`.
    pub(crate) async fn exchange(&mut self, events: &mut Vec<Event>) -> Result<(), RpcError> {
        enum End {
            Io(io::Error),
            Wire(WireError),
        }
        let result: Result<(), End> = poll_fn(|context| {
            let output = &mut self.wire.output;
            while self.written < output.len() {
                match Pin::new(&mut self.stream).poll_write(context, &output[self.written..]) {
                    Poll::Ready(Ok(count)) => self.written += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Io(error))),
                    Poll::Pending => break,
                }
            }
            if self.written == output.len() {
                output.clear();
                self.written = 0;
                if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(context) {
                    return Poll::Ready(Err(End::Io(error)));
                }
            }
            let mut buffer = ReadBuf::new(&mut self.input);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(End::Io(error))),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    Poll::Ready(Err(End::Io(io::ErrorKind::UnexpectedEof.into())))
                }
                Poll::Ready(Ok(())) => {
                    Poll::Ready(self.wire.feed(buffer.filled(), events).map_err(End::Wire))
                }
            }
        })
        .await;
        result.map_err(|end| match end {
            End::Io(source) => RpcError::Io { endpoint: self.endpoint.clone(), source },
            End::Wire(error) => self.refused(error),
        })
    }

    /// Makes calls, a number of them at a time; answers come in the order of `bodies`.
    pub(crate) async fn call_all(
        &mut self,
        method: Method,
        bodies: &[Vec<u8>],
    ) -> Result<Vec<Vec<u8>>, RpcError> {
        let mut answers = Vec::with_capacity(bodies.len());
        for chunk in bodies.chunks(CALLS_AT_ONCE) {
            for (slot, body) in (0..).zip(chunk) {
                self.wire.open(slot, method, body, true);
            }
            match tokio::time::timeout(CALL_MAX, self.collect(chunk.len())).await {
                Ok(result) => answers.extend(result?),
                Err(_) => return Err(self.refused("no answer in 30 s")),
            }
        }
        Ok(answers)
    }

    async fn collect(&mut self, count: usize) -> Result<Vec<Vec<u8>>, RpcError> {
        let mut answers = vec![vec![]; count];
        let mut open = count;
        let mut events = vec![];
        while open > 0 {
            self.exchange(&mut events).await?;
            for event in events.drain(..) {
                let Event::Done { slot, outcome, .. } = event else { continue };
                outcome.map_err(|failure: Box<Failure>| self.refused(failure))?;
                let body = self.wire.captured(slot).map(std::mem::take).unwrap_or_default();
                let message = body.get(MESSAGE_PREFIX_BYTES..).unwrap_or_default();
                if let Some(answer) = usize::try_from(slot).ok().and_then(|s| answers.get_mut(s)) {
                    *answer = message.to_vec();
                }
                open -= 1;
            }
        }
        Ok(answers)
    }
}

/// Reads keys, linearizable: the value of each, if it exists.
pub(crate) async fn read(
    session: &mut Session,
    keys: &[impl AsRef<[u8]>],
) -> Result<Vec<Option<Vec<u8>>>, RpcError> {
    let bodies: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| {
            let mut body = vec![];
            field(&mut body, 1, key.as_ref());
            body
        })
        .collect();
    let answers = session.call_all(Method::Range, &bodies).await?;
    answers
        .iter()
        .map(|answer| {
            let response =
                RangeResponse::decode(answer.as_slice()).map_err(|error| session.refused(error))?;
            Ok(response.kvs.into_iter().next().map(|kv| kv.value.to_vec()))
        })
        .collect()
}

/// The endpoint whose member leads, `None` if none of them says so.
pub(crate) async fn leader(endpoints: &[String], tls: Tls<'_>) -> Result<Option<String>, RpcError> {
    for endpoint in endpoints {
        let mut session = Session::connect(endpoint, tls).await?;
        let answers = session.call_all(Method::Status, &[vec![]]).await?;
        let answer = answers.first().map(Vec::as_slice).unwrap_or_default();
        let status = StatusResponse::decode(answer).map_err(|error| session.refused(error))?;
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            return Ok(Some(endpoint.clone()));
        }
    }
    Ok(None)
}

/// Runs a few calls to their end on the calling thread.
pub(crate) fn block_on<T>(calls: impl Future<Output = Result<T, RpcError>>) -> Result<T, RpcError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RpcError::Io { endpoint: "runtime".into(), source })?
        .block_on(calls)
}
