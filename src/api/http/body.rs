//! Reading request bodies, bounded.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::DISCARD_BYTES_MAX;
use crate::api::service::HttpBody;

/// Why a body could not be read.
#[derive(Debug)]
pub(in crate::api) enum BodyError {
    /// It has more bytes than allowed; this many were announced or arrived.
    TooLarge(usize),
    /// The connection failed.
    Broken(std::io::Error),
}

/// Reads the next piece of a body; `None` at its end. Trailers are skipped.
pub(in crate::api) async fn next_piece(
    body: &mut HttpBody,
) -> Result<Option<Bytes>, std::io::Error> {
    while !body.is_end_stream() {
        match body.frame().await {
            None => break,
            Some(frame) => {
                if let Ok(data) = frame?.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
    Ok(None)
}

/// Reads a whole body of at most `limit` bytes; one that arrives in one piece is not copied.
pub(in crate::api) async fn collect(body: &mut HttpBody, limit: usize) -> Result<Bytes, BodyError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLarge(announced));
    }
    let mut whole = Bytes::new();
    let mut pieces = BytesMut::new();
    while let Some(piece) = next_piece(body).await.map_err(BodyError::Broken)? {
        let length = whole.len() + pieces.len() + piece.len();
        if length > limit {
            return Err(BodyError::TooLarge(length));
        }
        if pieces.is_empty() && whole.is_empty() {
            whole = piece;
            continue;
        }
        if pieces.is_empty() {
            pieces.reserve(announced.max(length));
            pieces.extend_from_slice(&std::mem::take(&mut whole));
        }
        pieces.extend_from_slice(&piece);
    }
    Ok(if pieces.is_empty() { whole } else { pieces.freeze() })
}

/// Reads and forgets what is left of a body, so that a client still sending gets its answer.
pub(in crate::api) async fn discard(body: &mut HttpBody) {
    let mut dropped = 0;
    while let Ok(Some(piece)) = next_piece(body).await {
        dropped += piece.len();
        if dropped > DISCARD_BYTES_MAX {
            return;
        }
    }
}
