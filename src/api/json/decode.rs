//! JSON text to protobuf bytes.
//!
//! Members are written in the order of the text. Protobuf would merge a message that comes
//! twice and append to a list; JSON replaces. So the place of every member in the output is
//! remembered, and a member that comes again takes the earlier one out. (A value that is
//! replaced must still fit its field: 3.5 does not look at it, 3.6 refuses every duplicate.)

use super::{
    JsonError, MESSAGE_DEPTH_MAX, MessageId, Schema, base64,
    integer::Integer,
    reader::{RawString, Reader},
    schema::{FIELDS_MAX, Field, Kind, MessageTable},
    wire,
};

/// Longest enum name repeated in an error text, in bytes.
const NAME_IN_ERROR_MAX: usize = 64;

/// Bytes of output moved for each byte of text, at most: work stays linear in the text.
const MOVES_PER_BYTE: usize = 8;
/// Bytes of output that any text may move.
const MOVES_MIN: usize = 64 << 10;

/// The first value of a JSON text as protobuf.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The message.
    pub wire: Vec<u8>,
    /// Bytes of the text up to the end of the value; what follows was not looked at.
    pub consumed: usize,
}

impl Schema {
    /// Translates the first JSON value of `text` into a message of type `id`.
    ///
    /// `null` and a text of nothing but space are the empty message. Bytes after the value are
    /// ignored: the caller decides what they mean.
    /// Cost: linear in the text; see `MOVES_PER_BYTE`.
    ///
    /// # Errors
    /// [`JsonError`] for text that is no JSON or does not fit the message.
    pub fn decode(&self, id: MessageId, text: &[u8]) -> Result<Decoded, JsonError> {
        let mut decoder = Decoder {
            schema: self,
            reader: Reader::new(text),
            out: Vec::with_capacity(text.len()),
            moves: moves_max(text),
            removals: moves_max(text),
        };
        decoder.reader.skip_space();
        match decoder.reader.peek() {
            Err(_) => {}
            Ok(b'n') => decoder.reader.literal("null")?,
            Ok(_) => decoder.object(self.table(id), 0)?,
        }
        Ok(Decoded { wire: decoder.out, consumed: decoder.reader.at })
    }
}

fn moves_max(text: &[u8]) -> usize {
    text.len().saturating_mul(MOVES_PER_BYTE).saturating_add(MOVES_MIN)
}

struct Decoder<'s, 'a> {
    schema: &'s Schema,
    reader: Reader<'a>,
    out: Vec<u8>,
    /// Bytes that closing a record may still move.
    moves: usize,
    /// Bytes that a repeated member may still move; beyond it the text is refused.
    removals: usize,
}

/// What an object has shown so far, by position of the field in its message.
#[derive(Default)]
struct Members {
    /// Fields with a value in the output.
    present: u32,
    /// Fields met under their lowerCamelCase name, which outranks the proto name.
    camel: u32,
    /// Where the value of each present field stands in the output.
    spans: [(usize, usize); FIELDS_MAX],
}

const _: () = assert!(FIELDS_MAX <= u32::BITS as usize, "one bit per field");

/// Under which of its two names a field was met.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Proto,
    Camel,
}

impl Decoder<'_, '_> {
    /// Reads an object into the output, without a tag or length.
    fn object(&mut self, message: &MessageTable, depth: usize) -> Result<(), JsonError> {
        if depth > MESSAGE_DEPTH_MAX {
            return Err(JsonError::TooDeep { at: self.reader.at });
        }
        if !self.reader.take(b'{') {
            let at = self.reader.at;
            self.reader.skip_value()?;
            return Err(JsonError::NotAnObject { at });
        }
        self.reader.skip_space();
        if self.reader.take(b'}') {
            return Ok(());
        }
        let mut members = Members::default();
        loop {
            let key = self.reader.key()?;
            match find(message, key) {
                Some((position, spelling)) => {
                    self.member(message, position, spelling, &mut members, depth)?;
                }
                None => self.reader.skip_value()?,
            }
            self.reader.skip_space();
            if self.reader.take(b'}') {
                return Ok(());
            }
            if !self.reader.take(b',') {
                return self.reader.unexpected("',' or '}'");
            }
            self.reader.skip_space();
        }
    }

    /// Reads the value of one known member.
    fn member(
        &mut self,
        message: &MessageTable,
        position: usize,
        spelling: Spelling,
        members: &mut Members,
        depth: usize,
    ) -> Result<(), JsonError> {
        let field = &message.fields[position];
        match spelling {
            Spelling::Proto if members.camel & 1 << position != 0 => {
                return self.reader.skip_value();
            }
            Spelling::Proto => {}
            Spelling::Camel => members.camel |= 1 << position,
        }
        let moved = members.remove(position, &mut self.out);
        self.removed(moved)?;
        if self.reader.peek()? == b'n' {
            return self.reader.literal("null");
        }
        let start = self.out.len();
        if field.repeated {
            self.list(field, depth)?;
        } else {
            self.value(field, field.oneof.is_some(), depth)?;
        }
        members.add(position, (start, self.out.len()));
        if field.oneof.is_some() {
            let moved = members.settle_oneof(message, position, &mut self.out);
            self.removed(moved)?;
        }
        Ok(())
    }

    /// Pays for bytes that a removed member moved.
    fn removed(&mut self, moved: usize) -> Result<(), JsonError> {
        let at = self.reader.at;
        self.removals = self.removals.checked_sub(moved).ok_or(JsonError::Repetitive { at })?;
        Ok(())
    }

    /// Reads an array into as many records as it has elements, or one packed record.
    fn list(&mut self, field: &Field, depth: usize) -> Result<(), JsonError> {
        if !self.reader.take(b'[') {
            return self.wrong_type(field, "an array");
        }
        self.reader.skip_space();
        if self.reader.take(b']') {
            return Ok(());
        }
        let packed =
            field.packed().then(|| wire::open(&mut self.out, &field.tag, self.reader.remaining()));
        loop {
            if packed.is_some() {
                let number = self.number_value(field)?;
                wire::put_varint(&mut self.out, number);
            } else if self.reader.peek()? == b'n' {
                self.reader.literal("null")?;
                self.out.extend_from_slice(&field.tag);
                self.out.push(0);
            } else {
                self.value(field, true, depth)?;
            }
            self.reader.skip_space();
            if self.reader.take(b']') {
                break;
            }
            if !self.reader.take(b',') {
                return self.reader.unexpected("',' or ']'");
            }
            self.reader.skip_space();
        }
        if let Some(mark) = packed {
            wire::close(&mut self.out, &mark, &mut self.moves);
        }
        Ok(())
    }

    /// Reads one value with its tag; a default value is written only when `explicit`.
    fn value(&mut self, field: &Field, explicit: bool, depth: usize) -> Result<(), JsonError> {
        let start = self.out.len();
        match field.kind {
            Kind::Message(id) => {
                let mark = wire::open(&mut self.out, &field.tag, self.reader.remaining());
                self.object(self.schema.table(id), depth + 1)?;
                wire::close(&mut self.out, &mark, &mut self.moves);
                return Ok(());
            }
            Kind::Bytes => {
                self.out.extend_from_slice(&field.tag);
                self.bytes_value(field)?;
            }
            Kind::String => {
                self.out.extend_from_slice(&field.tag);
                if self.reader.peek()? != b'"' {
                    return self.wrong_type(field, "a string");
                }
                let text = self.reader.string()?.resolve();
                put_text(&mut self.out, &text, &mut self.moves);
            }
            _ => {
                self.out.extend_from_slice(&field.tag);
                let number = self.number_value(field)?;
                wire::put_varint(&mut self.out, number);
            }
        }
        // A default value is one zero byte after the tag: a zero, or a length of zero.
        let default = self.out.len() == start + field.tag.len() + 1 && self.out.ends_with(&[0]);
        if default && !explicit {
            self.out.truncate(start);
        }
        Ok(())
    }

    /// Reads base64 text or, as 3.5 does, an array of byte values; writes length and bytes.
    fn bytes_value(&mut self, field: &Field) -> Result<(), JsonError> {
        let at = self.reader.at;
        match self.reader.peek()? {
            b'"' => {
                let text = self.reader.string()?.resolve();
                if base64::decode_delimited(&text, &mut self.out) {
                    Ok(())
                } else {
                    Err(JsonError::Base64 { field: name_of(field), at })
                }
            }
            b'[' => self.byte_list(field),
            _ => self.wrong_type(field, "base64 text"),
        }
    }

    fn byte_list(&mut self, field: &Field) -> Result<(), JsonError> {
        self.reader.at += 1;
        let mark = wire::open(&mut self.out, &[], self.reader.remaining());
        self.reader.skip_space();
        let mut more = !self.reader.take(b']');
        while more {
            let byte = match self.reader.peek()? {
                b'n' => self.reader.literal("null").map(|()| 0)?,
                b'"' => return self.wrong_type(field, "byte values"),
                _ => {
                    let integer = self.integer(field, "byte values")?;
                    let byte = integer.to_u64().and_then(|value| u8::try_from(value).ok());
                    byte.ok_or_else(|| self.mismatch(field, "byte values"))?
                }
            };
            self.out.push(byte);
            self.reader.skip_space();
            more = self.reader.take(b',');
            if more {
                self.reader.skip_space();
            } else if !self.reader.take(b']') {
                return self.reader.unexpected("',' or ']'");
            }
        }
        wire::close(&mut self.out, &mark, &mut self.moves);
        Ok(())
    }

    /// Reads a number, bool or enum as the varint it is on the wire. `null` is 0: it reaches
    /// this point only inside a list.
    fn number_value(&mut self, field: &Field) -> Result<u64, JsonError> {
        if self.reader.peek()? == b'n' {
            return self.reader.literal("null").map(|()| 0);
        }
        match field.kind {
            Kind::Bool => match self.reader.peek()? {
                b't' => self.reader.literal("true").map(|()| 1),
                b'f' => self.reader.literal("false").map(|()| 0),
                _ => self.wrong_type(field, "true or false"),
            },
            Kind::Enum(index) => self.enum_value(field, index),
            Kind::Uint64 => self.unsigned(field, u64::MAX, "an unsigned 64-bit integer"),
            Kind::Uint32 => self.unsigned(field, u32::MAX.into(), "an unsigned 32-bit integer"),
            Kind::Int32 => {
                self.signed(field, i32::MIN.into()..=i32::MAX.into(), "a 32-bit integer")
            }
            _ => self.signed(field, i64::MIN..=i64::MAX, "a 64-bit integer"),
        }
    }

    fn unsigned(
        &mut self,
        field: &Field,
        max: u64,
        expected: &'static str,
    ) -> Result<u64, JsonError> {
        let value = self.integer(field, expected)?.to_u64();
        value.filter(|&value| value <= max).ok_or_else(|| self.mismatch(field, expected))
    }

    fn signed(
        &mut self,
        field: &Field,
        range: std::ops::RangeInclusive<i64>,
        expected: &'static str,
    ) -> Result<u64, JsonError> {
        let value = self.integer(field, expected)?.to_i64();
        let value = value.filter(|value| range.contains(value));
        value.map(i64::cast_unsigned).ok_or_else(|| self.mismatch(field, expected))
    }

    /// Reads an integer, bare or as text. Text may have space around it and may be `null`,
    /// which is 0.
    fn integer(&mut self, field: &Field, expected: &'static str) -> Result<Integer, JsonError> {
        let integer = match self.reader.peek()? {
            b'-' | b'0'..=b'9' => Integer::parse(self.reader.number()?),
            b'"' => {
                let text = self.reader.string()?.resolve();
                quoted_integer(&text)
            }
            _ => return self.wrong_type(field, expected),
        };
        integer.ok_or_else(|| self.mismatch(field, expected))
    }

    fn enum_value(&mut self, field: &Field, index: usize) -> Result<u64, JsonError> {
        const EXPECTED: &str = "an enum name or number";
        match self.reader.peek()? {
            b'"' => {
                let text = self.reader.string()?.resolve();
                let values = &self.schema.enumeration(index).values;
                let known = values.iter().find(|(name, _)| name.as_bytes() == &*text);
                let number = known.map(|&(_, number)| i64::from(number).cast_unsigned());
                number.ok_or_else(|| JsonError::UnknownEnumName {
                    field: name_of(field),
                    value: String::from_utf8_lossy(&text[..text.len().min(NAME_IN_ERROR_MAX)])
                        .into_owned(),
                })
            }
            b'-' | b'0'..=b'9' => self.signed(field, i32::MIN.into()..=i32::MAX.into(), EXPECTED),
            _ => self.wrong_type(field, EXPECTED),
        }
    }

    fn mismatch(&self, field: &Field, expected: &'static str) -> JsonError {
        JsonError::WrongType { field: name_of(field), at: self.reader.at, expected }
    }

    /// The value that comes next does not fit; broken grammar is the better complaint.
    fn wrong_type<T>(&mut self, field: &Field, expected: &'static str) -> Result<T, JsonError> {
        let error = self.mismatch(field, expected);
        self.reader.skip_value()?;
        Err(error)
    }
}

impl Members {
    fn add(&mut self, position: usize, span: (usize, usize)) {
        self.present |= 1 << position;
        self.spans[position] = span;
    }

    fn contains(&self, position: usize) -> bool {
        self.present & 1 << position != 0
    }

    /// Takes the value of a field out of the output, if it has one; how many bytes moved.
    fn remove(&mut self, position: usize, out: &mut Vec<u8>) -> usize {
        if !self.contains(position) {
            return 0;
        }
        self.present &= !(1 << position);
        let (start, end) = self.spans[position];
        out.drain(start..end);
        for span in &mut self.spans {
            if span.0 >= end {
                *span = (span.0 - (end - start), span.1 - (end - start));
            }
        }
        out.len() - start
    }

    /// Of two members of one oneof the one declared later stays, as in 3.5; how many bytes moved.
    fn settle_oneof(&mut self, message: &MessageTable, added: usize, out: &mut Vec<u8>) -> usize {
        let mut moved = 0;
        let oneof = message.fields[added].oneof;
        for position in 0..message.fields.len() {
            if position != added
                && self.contains(position)
                && message.fields[position].oneof == oneof
            {
                moved += self.remove(position.min(added), out);
            }
        }
        moved
    }
}

/// The field a member names, by either of its names.
fn find(message: &MessageTable, key: RawString<'_>) -> Option<(usize, Spelling)> {
    let key = key.resolve();
    message.fields.iter().enumerate().find_map(|(position, field)| {
        if *field.camel == *key {
            Some((position, Spelling::Camel))
        } else if *field.name == *key {
            Some((position, Spelling::Proto))
        } else {
            None
        }
    })
}

/// The integer a string holds.
fn quoted_integer(text: &[u8]) -> Option<Integer> {
    let mut inner = Reader::new(text);
    inner.skip_space();
    let integer = match inner.peek().ok()? {
        b'n' => inner.literal("null").ok().and_then(|()| Integer::parse(b"0")),
        b'-' | b'0'..=b'9' => inner.number().ok().and_then(Integer::parse),
        _ => None,
    };
    inner.skip_space();
    integer.filter(|_| inner.remaining() == 0)
}

/// Writes a string field: length and text, with each byte that is no UTF-8 as U+FFFD.
fn put_text(out: &mut Vec<u8>, text: &[u8], moves: &mut usize) {
    let mark = wire::open(out, &[], text.len());
    let mut rest = text;
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => break out.extend_from_slice(valid.as_bytes()),
            Err(error) => {
                let (valid, invalid) = rest.split_at(error.valid_up_to());
                out.extend_from_slice(valid);
                out.extend_from_slice("\u{fffd}".as_bytes());
                rest = &invalid[1..];
            }
        }
    }
    wire::close(out, &mark, moves);
}

fn name_of(field: &Field) -> String {
    String::from_utf8_lossy(&field.name).into_owned()
}
