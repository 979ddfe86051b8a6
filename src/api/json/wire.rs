//! The protobuf wire format, as far as the transcoder needs it.

use super::encode::WireError;

/// Wire type of numbers, bools and enums.
pub(super) const VARINT: u64 = 0;
/// Wire type of bytes, strings, messages and packed numbers.
pub(super) const DELIMITED: u64 = 2;

const FIXED64: u64 = 1;
const FIXED32: u64 = 5;

/// Bytes of a varint, at most.
const VARINT_BYTES_MAX: usize = 10;

/// Appends `value` as a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

/// Bytes that [`put_varint`] writes for `value`.
pub(super) fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Opens a length-delimited record whose length is not known yet; `hint` guesses it.
/// Returns a mark for [`close`].
pub(super) fn open(out: &mut Vec<u8>, tag: &[u8], hint: usize) -> Mark {
    out.extend_from_slice(tag);
    let at = out.len();
    let reserved = varint_len(hint);
    out.resize(at + reserved, 0);
    Mark { at, reserved }
}

/// Where the length of an open record goes.
pub(super) struct Mark {
    at: usize,
    reserved: usize,
}

/// Closes the record at `mark`: writes its length, moving the content when the guess was wrong.
///
/// `moves` is how many bytes may still be moved. Past it a length that is too short for its place
/// is padded, which every decoder reads: else each level of a deep message moves its content.
pub(super) fn close(out: &mut Vec<u8>, mark: &Mark, moves: &mut usize) {
    let content = mark.at + mark.reserved;
    let length = out.len() - content;
    let mut prefix = [0; VARINT_BYTES_MAX];
    let mut used = 0;
    let mut rest = length;
    while rest >= 0x80 {
        prefix[used] = low_byte(rest as u64) | 0x80;
        rest >>= 7;
        used += 1;
    }
    prefix[used] = low_byte(rest as u64);
    used += 1;
    if used == mark.reserved {
        out[mark.at..content].copy_from_slice(&prefix[..used]);
    } else if length > *moves && used < mark.reserved && mark.reserved <= VARINT_BYTES_MAX {
        prefix[used - 1] |= 0x80;
        prefix[used..mark.reserved - 1].fill(0x80);
        prefix[mark.reserved - 1] = 0;
        out[mark.at..content].copy_from_slice(&prefix[..mark.reserved]);
    } else {
        *moves = moves.saturating_sub(length);
        out.splice(mark.at..content, prefix[..used].iter().copied());
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low byte is what is wanted")]
fn low_byte(value: u64) -> u8 {
    value as u8
}

/// One field as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Varint(u64),
    Delimited(&'a [u8]),
    /// Fixed-width numbers: no message of ours has one, so they can only be unknown.
    Other,
}

/// Takes the next field number and value off `wire`; `None` at its end.
pub(super) fn take_field<'a>(wire: &mut &'a [u8]) -> Result<Option<(u64, Value<'a>)>, WireError> {
    if wire.is_empty() {
        return Ok(None);
    }
    let tag = take_varint(wire)?;
    let value = match tag & 7 {
        VARINT => Value::Varint(take_varint(wire)?),
        DELIMITED => {
            let length = take_varint(wire)?;
            Value::Delimited(take_bytes(wire, length)?)
        }
        FIXED64 => take_bytes(wire, 8).map(|_| Value::Other)?,
        FIXED32 => take_bytes(wire, 4).map(|_| Value::Other)?,
        _ => return Err(WireError::WireType),
    };
    Ok(Some((tag >> 3, value)))
}

/// Takes a varint off `wire`.
pub(super) fn take_varint(wire: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0_u64;
    for (position, byte) in wire.iter().take(VARINT_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            *wire = &wire[position + 1..];
            return Ok(value);
        }
    }
    Err(WireError::Truncated)
}

fn take_bytes<'a>(wire: &mut &'a [u8], length: u64) -> Result<&'a [u8], WireError> {
    let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
    let (taken, rest) = wire.split_at_checked(length).ok_or(WireError::Truncated)?;
    *wire = rest;
    Ok(taken)
}
