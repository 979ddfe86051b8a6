//! The answer to a client that waits: headers at once, a line for each event.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame},
};
use tripod_storage::v2::Watch;

use super::answer;
use crate::{
    api::{http::answer as http_answer, service::HttpBody},
    client::v2::V2Position,
};

/// Lines of JSON as events come; dropped with the connection, and the watcher with it.
struct Lines {
    watch: Watch,
    stream: bool,
    over: bool,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.watch.poll_next(context).map(|event| {
            self.over = event.is_none() || !self.stream;
            event.map(|event| Ok(Frame::data(answer::event_line(&event, false))))
        })
    }
}

/// Starts the answer.
pub(super) fn answer(
    watch: Watch,
    stream: bool,
    cluster_id: u64,
    position: V2Position,
) -> Response<HttpBody> {
    let lines = Lines { watch, stream, over: false };
    let response = http_answer::stream(StatusCode::OK, lines.boxed_unsync());
    answer::with_position(response, cluster_id, position)
}
