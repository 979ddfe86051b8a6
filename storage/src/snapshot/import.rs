//! A state on its way in.

use std::sync::Arc;

use super::{HEADER, Header, ROWS, TRAILER, broken, open_chunk};
use crate::{
    Error,
    apply::{FORMAT, Mark, encode_mark},
    engine::{Engine, WriteBatch},
    history::Block,
    keys,
};

/// Fills an engine from a snapshot. Until [`Importer::finish`] the engine is marked as
/// incomplete and [`StateMachine::open`](crate::apply::StateMachine::open) refuses it.
#[derive(Debug)]
pub struct Importer {
    engine: Arc<dyn Engine>,
    header: Option<Header>,
    sequence: u32,
    rows: u64,
    bytes: u64,
    complete: bool,
}

impl Importer {
    /// Clears `engine` and begins.
    ///
    /// # Errors
    /// The engine's own.
    pub fn new(engine: Arc<dyn Engine>) -> Result<Self, Error> {
        // The mark is durable before anything is removed and again before anything is added: a
        // crash at any point leaves it or an empty engine.
        mark_incomplete(&*engine)?;
        engine.clear()?;
        mark_incomplete(&*engine)?;
        Ok(Self { engine, header: None, sequence: 0, rows: 0, bytes: 0, complete: false })
    }

    /// Takes the next chunk in.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a chunk that is damaged, missing or out of order; the engine's
    /// own. After an error the import cannot go on: begin anew.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if self.complete {
            return Err(broken("it goes on after its end"));
        }
        let (kind, payload) = open_chunk(chunk, self.sequence)?;
        match (kind, self.header.is_some()) {
            (HEADER, false) => self.header = Some(Header::decode(payload)?),
            (ROWS, true) => self.write_rows(payload)?,
            (TRAILER, true) => {
                let totals = [self.rows.to_le_bytes(), self.bytes.to_le_bytes()].concat();
                if payload != totals {
                    return Err(broken("its totals do not match"));
                }
                self.complete = true;
            }
            _ => return Err(broken(&format!("chunk {} is of no known kind", self.sequence))),
        }
        self.sequence += 1;
        Ok(())
    }

    fn write_rows(&mut self, payload: &[u8]) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        let rows = rows(payload).ok_or_else(|| broken("a row is malformed"))?;
        for (key, value) in rows {
            match key.first() {
                Some(&keys::HISTORY) => {
                    let first = keys::rev_of_key(key)?;
                    Block::decode(first, bytes::Bytes::copy_from_slice(value))?;
                }
                Some(
                    &(keys::LEASE
                    | keys::ALARM
                    | keys::MEMBER
                    | keys::USER
                    | keys::ROLE
                    | keys::V2_NODE
                    | keys::V2_EVENT),
                ) => {}
                _ if [keys::COMPACT_ROW, keys::AUTH_ROW, keys::V2_ROW].contains(&key) => {}
                _ => return Err(broken("a row belongs to no known table")),
            }
            self.rows += 1;
            self.bytes += (key.len() + value.len()) as u64;
            batch.writes.push((key.to_vec(), Some(value.to_vec())));
        }
        self.engine.write(batch)
    }

    /// Ends the import: the engine is complete and durable, ready to be opened.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the snapshot's end is missing; the engine's own.
    pub fn finish(self) -> Result<Header, Error> {
        let header = self.header.filter(|_| self.complete);
        let header = header.ok_or_else(|| broken("its end is missing"))?;
        complete(&*self.engine, header.mark.as_ref())?;
        Ok(header)
    }
}

/// Declares what was written into an engine whole; it is durable then.
pub(crate) fn complete(engine: &dyn Engine, mark: Option<&Mark>) -> Result<(), Error> {
    engine.sync()?;
    let mut batch = WriteBatch::default();
    batch.writes.push((keys::IMPORTING_ROW.to_vec(), None));
    batch.writes.push((keys::FORMAT_ROW.to_vec(), Some(vec![FORMAT])));
    if let Some(mark) = mark {
        batch.writes.push((keys::MARK_ROW.to_vec(), Some(encode_mark(mark))));
    }
    engine.write(batch)?;
    engine.sync()
}

/// Makes an engine one that nobody opens, durably, until [`complete`].
pub(crate) fn mark_incomplete(engine: &dyn Engine) -> Result<(), Error> {
    let row = (keys::IMPORTING_ROW.to_vec(), Some(Vec::new()));
    engine.write(WriteBatch { writes: vec![row], ..WriteBatch::default() })?;
    engine.sync()
}

/// The rows of a payload; `None` where it is malformed.
fn rows(payload: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let (count, mut rest) = payload.split_first_chunk::<4>()?;
    let mut rows = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let mut len = || {
            let (len, after) = rest.split_first_chunk::<4>()?;
            rest = after;
            Some(u32::from_le_bytes(*len) as usize)
        };
        let (key_len, value_len) = (len()?, len()?);
        let (key, after) = rest.split_at_checked(key_len)?;
        let (value, after) = after.split_at_checked(value_len)?;
        rest = after;
        rows.push((key, value));
    }
    rest.is_empty().then_some(rows)
}
