//! A state on its way out.

use std::{collections::VecDeque, sync::Arc};

use super::{CHUNK_BYTES_FULL, HEADER, Header, ROWS, TRAILER, seal_chunk};
use crate::{
    Error,
    apply::StateMachine,
    history::{Block, BlockBuilder, next_rev},
    keys::{HISTORY, rev_key},
    types::Rev,
};

/// Key and value of an engine row.
type Row = (Vec<u8>, Vec<u8>);

/// A consistent view of a state machine as of the call that made it. While it is alive,
/// compacted history is not pruned: finish or drop it soon.
#[derive(Debug)]
pub struct Export {
    header: Header,
    /// Rows of the small tables not yet written.
    rows: VecDeque<Row>,
    from: Rev,
    sequence: u32,
    rows_written: u64,
    bytes_written: u64,
    done: bool,
    _pin: Arc<()>,
}

impl Export {
    pub(crate) fn new(header: Header, rows: impl IntoIterator<Item = Row>, pin: Arc<()>) -> Self {
        Self {
            header,
            rows: rows.into_iter().collect(),
            from: Rev::default(),
            sequence: 0,
            rows_written: 0,
            bytes_written: 0,
            done: false,
            _pin: pin,
        }
    }

    /// What the snapshot is of.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next chunk, about [`CHUNK_BYTES_FULL`] bytes; `None` after the last. `machine` is
    /// the one the export is from; it may change between calls.
    ///
    /// # Errors
    /// [`Error`]: the node must stop.
    pub fn next_chunk(&mut self, machine: &StateMachine) -> Result<Option<Vec<u8>>, Error> {
        if self.done {
            return Ok(None);
        }
        if self.sequence == 0 {
            return Ok(Some(self.seal(HEADER, &self.header.encode())));
        }
        let mut payload = vec![0; 4];
        let mut count = 0_u32;
        while payload.len() < CHUNK_BYTES_FULL {
            let Some((key, value)) = self.next_row(machine)? else { break };
            for part in [&key, &value] {
                let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
                payload.extend_from_slice(&len.to_le_bytes());
            }
            payload.extend_from_slice(&key);
            payload.extend_from_slice(&value);
            count += 1;
            self.bytes_written += (key.len() + value.len()) as u64;
        }
        if count == 0 {
            self.done = true;
            let totals =
                [self.rows_written.to_le_bytes(), self.bytes_written.to_le_bytes()].concat();
            return Ok(Some(self.seal(TRAILER, &totals)));
        }
        self.rows_written += u64::from(count);
        payload[..4].copy_from_slice(&count.to_le_bytes());
        Ok(Some(self.seal(ROWS, &payload)))
    }

    fn seal(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let chunk = seal_chunk(kind, self.sequence, payload);
        self.sequence += 1;
        chunk
    }

    fn next_row(&mut self, machine: &StateMachine) -> Result<Option<Row>, Error> {
        if let Some(row) = self.rows.pop_front() {
            return Ok(Some(row));
        }
        loop {
            let Some(block) = machine.history_block(self.from)? else { return Ok(None) };
            if block.last() < self.from || block.first().main > self.header.revision {
                return Ok(None);
            }
            let from = std::mem::replace(&mut self.from, next_rev(block.last()));
            if let Some(block) = self.trimmed(machine, &block, from)? {
                return Ok(Some((rev_key(HISTORY, block.first()), block.bytes().to_vec())));
            }
        }
    }

    /// The block without what was written before, what is newer than this view, and what
    /// compaction dropped.
    fn trimmed(
        &self,
        machine: &StateMachine,
        block: &Block,
        from: Rev,
    ) -> Result<Option<Block>, Error> {
        let mut builder = BlockBuilder::default();
        for at in block.position(from)..block.len() {
            let change = block.at(at)?;
            if change.rev.main <= self.header.revision && !machine.is_dropped(change.rev) {
                builder.push(change);
            }
        }
        Ok(builder.take())
    }
}
