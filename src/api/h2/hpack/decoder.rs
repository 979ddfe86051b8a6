//! Decoder of header blocks with its dynamic table.
//!
//! Invariants:
//! - the table never holds more than its size limit, whatever the peer sends;
//! - `generation` changes whenever the table does, so a block that was decoded without a change
//!   means the same for as long as the generation stays.

use std::{collections::VecDeque, rc::Rc};

use super::{field::Field, huffman, static_table::STATIC_FIELDS};

/// Size of the dynamic table a peer may use before settings: RFC 7541 section 4.2. We announce
/// no other.
const TABLE_BYTES_MAX: usize = 4096;

/// A block that cannot be decoded; the connection is lost, since both tables differ from now on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HpackError;

thread_local! {
    static STATICS: Rc<[Rc<Field>]> = STATIC_FIELDS
        .iter()
        .map(|(name, value)| Rc::new(Field::new(name.as_bytes(), value.as_bytes())))
        .collect();
}

/// The receiving half of one connection's header compression.
pub(crate) struct Decoder {
    statics: Rc<[Rc<Field>]>,
    /// Newest field first.
    table: VecDeque<Rc<Field>>,
    table_bytes: usize,
    table_bytes_max: usize,
    generation: u64,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            statics: STATICS.with(Rc::clone),
            table: VecDeque::new(),
            table_bytes: 0,
            table_bytes_max: TABLE_BYTES_MAX,
            generation: 0,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Changes with every change of the dynamic table.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Decodes a whole block into `fields`, which keeps at most `list_bytes_max` bytes as
    /// counted by RFC 7541 section 4.1. Returns whether the list fitted; the table is right
    /// either way.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        list_bytes_max: usize,
        fields: &mut Vec<Rc<Field>>,
    ) -> Result<bool, HpackError> {
        let mut rest = block;
        let mut list_bytes = 0;
        let mut may_resize = true;
        while let Some(&first) = rest.first() {
            let field = if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                Rc::clone(self.lookup(index)?)
            } else if first & 0xe0 == 0x20 {
                let size = integer(&mut rest, 5)?;
                if !may_resize || size > TABLE_BYTES_MAX {
                    return Err(HpackError);
                }
                self.table_bytes_max = size;
                self.generation += 1;
                self.evict();
                continue;
            } else {
                let indexing = first & 0x40 != 0;
                let field = Rc::new(self.literal(&mut rest, if indexing { 6 } else { 4 })?);
                if indexing {
                    self.insert(Rc::clone(&field));
                }
                field
            };
            may_resize = false;
            list_bytes += field.table_bytes();
            if list_bytes <= list_bytes_max {
                fields.push(field);
            }
        }
        Ok(list_bytes <= list_bytes_max)
    }

    fn lookup(&self, index: usize) -> Result<&Rc<Field>, HpackError> {
        let at = index.checked_sub(1).ok_or(HpackError)?;
        match at.checked_sub(self.statics.len()) {
            None => self.statics.get(at),
            Some(at) => self.table.get(at),
        }
        .ok_or(HpackError)
    }

    fn literal(&mut self, rest: &mut &[u8], prefix: u32) -> Result<Field, HpackError> {
        let index = integer(rest, prefix)?;
        // Taken out of self so that `lookup` can borrow it.
        let mut value = std::mem::take(&mut self.value);
        let field = if index == 0 {
            let mut name = std::mem::take(&mut self.name);
            let read = string(rest, &mut name).and_then(|()| string(rest, &mut value));
            let field = read.map(|()| Field::new(&name, &value));
            self.name = name;
            field
        } else {
            string(rest, &mut value)
                .and_then(|()| self.lookup(index))
                .map(|named| Field::new(named.name(), &value))
        };
        self.value = value;
        field
    }

    fn insert(&mut self, field: Rc<Field>) {
        self.generation += 1;
        self.table_bytes += field.table_bytes();
        self.table.push_front(field);
        self.evict();
    }

    fn evict(&mut self) {
        while self.table_bytes > self.table_bytes_max
            && let Some(oldest) = self.table.pop_back()
        {
            self.table_bytes -= oldest.table_bytes();
        }
    }
}

/// Reads an integer whose first byte has `prefix` value bits. RFC 7541 section 5.1; anything
/// above 2^28 is an error, since no block is that long.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, HpackError> {
    let (&first, mut tail) = rest.split_first().ok_or(HpackError)?;
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, after) = tail.split_first().ok_or(HpackError)?;
            tail = after;
            if shift > 21 {
                return Err(HpackError);
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// Reads a string into `text`, replacing what it held.
fn string(rest: &mut &[u8], text: &mut Vec<u8>) -> Result<(), HpackError> {
    let coded = rest.first().ok_or(HpackError)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (bytes, tail) = rest.split_at_checked(length).ok_or(HpackError)?;
    *rest = tail;
    text.clear();
    if coded {
        huffman::decode(bytes, text).map_err(|huffman::Invalid| HpackError)
    } else {
        text.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
