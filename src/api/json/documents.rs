//! Several JSON documents one after the other, arriving in pieces of any size.

use bytes::{Buf as _, Bytes, BytesMut};

use super::JsonError;

/// Splits a stream of bytes into JSON objects (or `null`s) without parsing them.
///
/// Each byte is looked at once, however small the pieces. Only the end of a document is found
/// here; whether it is well formed, its decoder says.
#[derive(Debug)]
pub struct Documents {
    buffer: BytesMut,
    /// Bytes of the buffer already looked at.
    scanned: usize,
    /// Brackets open at that point.
    depth: usize,
    /// Inside a string at that point.
    in_string: bool,
    /// Directly behind a backslash at that point.
    escaped: bool,
    /// Bytes of one document, at most.
    limit: usize,
}

impl Documents {
    /// An empty stream whose documents may have `limit` bytes each.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            limit,
        }
    }

    /// Adds bytes that arrived. Take all complete documents out before adding more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next complete document out; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`JsonError::Unexpected`] when no document starts where one should,
    /// [`JsonError::TooLarge`] for one above the limit. The stream is of no use afterwards.
    pub fn next_document(&mut self) -> Result<Option<Bytes>, JsonError> {
        if self.scanned == 0 {
            let space = self.buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
            self.buffer.advance(space);
        }
        let length = match self.buffer.first() {
            None => None,
            Some(b'{') => self.object_end(),
            Some(b'n') => (self.buffer.len() >= b"null".len()).then_some(b"null".len()),
            Some(_) => return Err(JsonError::NotAnObject { at: 0 }),
        };
        if length.unwrap_or(self.buffer.len()) > self.limit {
            return Err(JsonError::TooLarge { limit: self.limit });
        }
        Ok(length.map(|length| {
            self.scanned = 0;
            self.buffer.split_to(length).freeze()
        }))
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// [`JsonError::UnexpectedEnd`] inside a document.
    pub fn finish(&self) -> Result<(), JsonError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(JsonError::UnexpectedEnd) }
    }

    /// Goes on looking for the end of the object at the start of the buffer.
    fn object_end(&mut self) -> Option<usize> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            self.scanned += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(self.scanned);
                    }
                }
                _ => {}
            }
        }
        None
    }
}
