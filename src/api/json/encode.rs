//! Protobuf bytes to JSON text.
//!
//! Services write fields in declaration order, once each; such messages are printed straight
//! from the wire. Others are put in order first, with protobuf's rules for what comes twice.

use super::{
    MESSAGE_DEPTH_MAX, MessageId, Schema, base64,
    schema::{Field, Kind, MessageTable},
    wire::{self, Value},
};

/// Why bytes are no message of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("proto: unexpected EOF")]
    Truncated,
    /// A field has a wire type that its type does not use.
    #[error("proto: wrong wire type")]
    WireType,
    /// Nested too deeply.
    #[error("proto: exceeded max recursion depth")]
    TooDeep,
}

impl Schema {
    /// Appends the message `wire` of type `id` to `out` as one JSON object without spaces.
    ///
    /// Cost: linear in the input; memory beyond `out` only for messages with fields out of
    /// order.
    ///
    /// # Errors
    /// [`WireError`] for bytes that are no such message; `out` then ends in a partial object.
    pub fn encode(&self, id: MessageId, wire: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
        // Base64 and names take more room than the wire; a reserve for short messages.
        const NAMES: usize = 192;
        out.reserve(wire.len() + wire.len() / 2 + NAMES);
        Encoder { schema: self, out }.message(self.table(id), wire, 0)
    }
}

struct Encoder<'s, 'o> {
    schema: &'s Schema,
    out: &'o mut Vec<u8>,
}

/// The list whose elements are being printed, and whether a comma is due.
#[derive(Default)]
struct Progress {
    any: bool,
    list: Option<usize>,
}

impl Encoder<'_, '_> {
    fn message(
        &mut self,
        message: &MessageTable,
        wire: &[u8],
        depth: usize,
    ) -> Result<(), WireError> {
        if depth > MESSAGE_DEPTH_MAX {
            return Err(WireError::TooDeep);
        }
        self.out.push(b'{');
        let mut progress = Progress::default();
        if is_in_order(message, wire)? {
            let mut rest = wire;
            while let Some((number, value)) = wire::take_field(&mut rest)? {
                if let Some(position) = message.by_number(number) {
                    self.field(message, position, value, &mut progress, depth)?;
                }
            }
        } else {
            self.in_declaration_order(message, wire, &mut progress, depth)?;
        }
        if progress.list.is_some() {
            self.out.push(b']');
        }
        self.out.push(b'}');
        Ok(())
    }

    /// Prints a message whose fields are out of order, repeated or overridden.
    fn in_declaration_order(
        &mut self,
        message: &MessageTable,
        wire: &[u8],
        progress: &mut Progress,
        depth: usize,
    ) -> Result<(), WireError> {
        let mut found = Vec::new();
        let mut rest = wire;
        while let Some((number, value)) = wire::take_field(&mut rest)? {
            if let Some(position) = message.by_number(number) {
                found.push((position, value));
            }
        }
        drop_overridden(message, &mut found);
        found.sort_by_key(|&(position, _)| position);
        for same in found.chunk_by(|a, b| a.0 == b.0) {
            let (position, last) = same[same.len() - 1];
            let field = &message.fields[position];
            if field.repeated {
                for &(_, value) in same {
                    self.field(message, position, value, progress, depth)?;
                }
            } else if matches!(field.kind, Kind::Message(_)) && same.len() > 1 {
                // Messages that come several times merge, which is what their bytes do when
                // read one after the other.
                let mut merged = Vec::new();
                for (_, value) in same {
                    merged.extend_from_slice(delimited(*value)?);
                }
                let merged = Value::Delimited(&merged);
                self.field(message, position, merged, progress, depth)?;
            } else {
                self.field(message, position, last, progress, depth)?;
            }
        }
        Ok(())
    }

    /// Prints one field, or one element of a list.
    fn field(
        &mut self,
        message: &MessageTable,
        position: usize,
        value: Value<'_>,
        progress: &mut Progress,
        depth: usize,
    ) -> Result<(), WireError> {
        let field = &message.fields[position];
        if !field.repeated {
            if field.oneof.is_none() && is_default(field, value) {
                return Ok(());
            }
            self.label(field, progress);
            return self.value(field, value, depth);
        }
        if let (true, Value::Delimited(mut packed)) = (field.packed(), value) {
            while !packed.is_empty() {
                let element = Value::Varint(wire::take_varint(&mut packed)?);
                self.element(field, position, progress);
                self.value(field, element, depth)?;
            }
            return Ok(());
        }
        self.element(field, position, progress);
        self.value(field, value, depth)
    }

    /// Prints the comma and name before a value.
    fn label(&mut self, field: &Field, progress: &mut Progress) {
        if progress.list.take().is_some() {
            self.out.push(b']');
        }
        if progress.any {
            self.out.push(b',');
        }
        progress.any = true;
        self.out.extend_from_slice(&field.label);
    }

    /// Prints what stands before an element of a list.
    fn element(&mut self, field: &Field, position: usize, progress: &mut Progress) {
        if progress.list == Some(position) {
            self.out.push(b',');
        } else {
            self.label(field, progress);
            self.out.push(b'[');
            progress.list = Some(position);
        }
    }

    fn value(&mut self, field: &Field, value: Value<'_>, depth: usize) -> Result<(), WireError> {
        match field.kind {
            Kind::Message(id) => {
                let table = self.schema.table(id);
                return self.message(table, delimited(value)?, depth + 1);
            }
            Kind::Bytes => {
                let bytes = delimited(value)?;
                self.out.push(b'"');
                base64::encode(bytes, self.out);
                self.out.push(b'"');
            }
            Kind::String => put_string(self.out, delimited(value)?),
            Kind::Bool => {
                let word: &[u8] = if varint(value)? == 0 { b"false" } else { b"true" };
                self.out.extend_from_slice(word);
            }
            Kind::Int64 => {
                self.out.push(b'"');
                put_signed(self.out, varint(value)?.cast_signed());
                self.out.push(b'"');
            }
            Kind::Uint64 => {
                self.out.push(b'"');
                put_decimal(self.out, varint(value)?);
                self.out.push(b'"');
            }
            Kind::Int32 => put_signed(self.out, low_32(varint(value)?).cast_signed().into()),
            Kind::Uint32 => put_decimal(self.out, low_32(varint(value)?).into()),
            Kind::Enum(index) => {
                let number = low_32(varint(value)?).cast_signed();
                let values = &self.schema.enumeration(index).values;
                match values.iter().find(|&&(_, known)| known == number) {
                    Some((name, _)) => put_string(self.out, name.as_bytes()),
                    None => put_signed(self.out, number.into()),
                }
            }
        }
        Ok(())
    }
}

/// Known fields stand in declaration order, none comes twice but elements of a list, and no
/// oneof has two members.
fn is_in_order(message: &MessageTable, wire: &[u8]) -> Result<bool, WireError> {
    let mut rest = wire;
    let mut last: Option<usize> = None;
    let mut oneofs = 0_u32;
    while let Some((number, _)) = wire::take_field(&mut rest)? {
        let Some(position) = message.by_number(number) else { continue };
        let field = &message.fields[position];
        let fits = match last {
            Some(last) if last == position => field.repeated,
            Some(last) => last < position,
            None => true,
        };
        let oneof = field.oneof.map_or(0, |oneof| 1_u32.rotate_left(oneof.cast_unsigned()));
        if !fits || oneofs & oneof != 0 {
            return Ok(false);
        }
        oneofs |= oneof;
        last = Some(position);
    }
    Ok(true)
}

/// Drops oneof members that a later member of the same oneof overrides.
fn drop_overridden(message: &MessageTable, found: &mut Vec<(usize, Value<'_>)>) {
    let mut winners: Vec<(i32, usize, bool)> = Vec::new();
    let mut keep = vec![true; found.len()];
    for (index, &(position, _)) in found.iter().enumerate().rev() {
        let Some(oneof) = message.fields[position].oneof else { continue };
        match winners.iter_mut().find(|winner| winner.0 == oneof) {
            None => winners.push((oneof, position, false)),
            Some((_, winner, closed)) => {
                *closed |= *winner != position;
                keep[index] = !*closed;
            }
        }
    }
    let mut keep = keep.into_iter();
    found.retain(|_| keep.next().unwrap_or(true));
}

fn is_default(field: &Field, value: Value<'_>) -> bool {
    match (field.kind, value) {
        (Kind::Message(_), _) => false,
        (Kind::Int32 | Kind::Uint32 | Kind::Enum(_), Value::Varint(number)) => low_32(number) == 0,
        (_, Value::Varint(number)) => number == 0,
        (_, Value::Delimited(bytes)) => bytes.is_empty(),
        (_, Value::Other) => false,
    }
}

fn varint(value: Value<'_>) -> Result<u64, WireError> {
    match value {
        Value::Varint(number) => Ok(number),
        _ => Err(WireError::WireType),
    }
}

fn delimited(value: Value<'_>) -> Result<&[u8], WireError> {
    match value {
        Value::Delimited(bytes) => Ok(bytes),
        _ => Err(WireError::WireType),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "32-bit fields are the low half on the wire")]
fn low_32(number: u64) -> u32 {
    number as u32
}

fn put_signed(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    put_decimal(out, number.unsigned_abs());
}

fn put_decimal(out: &mut Vec<u8>, mut number: u64) {
    const DIGITS_MAX: usize = 20;
    let mut digits = [0; DIGITS_MAX];
    let mut first = DIGITS_MAX;
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Appends `text` in quotes, escaped as Go escapes: `<`, `>`, `&` and the two line separators
/// of Unicode too; bytes that are no UTF-8 become U+FFFD.
pub(in crate::api) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        put_escaped(out, chunk.valid());
        for _ in chunk.invalid() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

fn put_escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain = 0;
    let mut at = 0;
    while at < bytes.len() {
        let (length, escape) = match bytes[at] {
            b'"' => (1, Some(b"\\\"".as_slice())),
            b'\\' => (1, Some(b"\\\\".as_slice())),
            b'\n' => (1, Some(b"\\n".as_slice())),
            b'\r' => (1, Some(b"\\r".as_slice())),
            b'\t' => (1, Some(b"\\t".as_slice())),
            0..0x20 | b'<' | b'>' | b'&' => (1, None),
            0xe2 if bytes[at..].starts_with("\u{2028}".as_bytes()) => {
                (3, Some(b"\\u2028".as_slice()))
            }
            0xe2 if bytes[at..].starts_with("\u{2029}".as_bytes()) => {
                (3, Some(b"\\u2029".as_slice()))
            }
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&bytes[plain..at]);
        match escape {
            Some(escape) => out.extend_from_slice(escape),
            None => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (bytes[at] >> 4, bytes[at] & 0xf);
                out.extend_from_slice(b"\\u00");
                out.extend([HEX[usize::from(high)], HEX[usize::from(low)]]);
            }
        }
        at += length;
        plain = at;
    }
    out.extend_from_slice(&bytes[plain..]);
}
