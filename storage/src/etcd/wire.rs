//! The few protobuf messages in an etcd backend, as bytes.

use crate::{
    history::ChangeRef,
    keys::{put_varint, take_varint},
    types::Rev,
};

/// Bytes of a revision that wrote a value.
pub(crate) const REV_BYTES: usize = 17;
/// Behind the revision of a delete.
const TOMBSTONE: u8 = b't';

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Appends a varint field; zero is left out.
pub(crate) fn put_number(out: &mut Vec<u8>, field: u64, value: i64) {
    if value != 0 {
        put_varint(out, field << 3 | VARINT);
        put_varint(out, value.cast_unsigned());
    }
}

/// Appends a length-delimited field; an empty one is left out.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    if !value.is_empty() {
        put_varint(out, field << 3 | BYTES);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(i64),
    Bytes(&'a [u8]),
    /// Of a kind that no message here has.
    Other,
}

/// Takes the next field off `rest`: its number and value. `None` for malformed bytes.
fn take_field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = take_varint(rest)?;
    let fixed = |rest: &mut &'a [u8], len: usize| {
        let (_, after) = rest.split_at_checked(len)?;
        *rest = after;
        Some(Value::Other)
    };
    let value = match tag & 7 {
        VARINT => Value::Number(take_varint(rest)?.cast_signed()),
        BYTES => {
            let len = usize::try_from(take_varint(rest)?).ok()?;
            let (bytes, after) = rest.split_at_checked(len)?;
            *rest = after;
            Value::Bytes(bytes)
        }
        FIXED64 => fixed(rest, 8)?,
        FIXED32 => fixed(rest, 4)?,
        _ => return None,
    };
    Some((tag >> 3, value))
}

/// Visits the fields of a message; `None` where it is malformed.
pub(crate) fn fields<'a>(
    mut message: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Option<()>,
) -> Option<()> {
    while !message.is_empty() {
        let (field, value) = take_field(&mut message)?;
        each(field, value)?;
    }
    Some(())
}

/// Key of a change in bucket `key`.
pub(crate) fn put_rev_key(out: &mut Vec<u8>, rev: Rev, tombstone: bool) {
    out.extend_from_slice(&rev.main.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&i64::from(rev.sub).to_be_bytes());
    if tombstone {
        out.push(TOMBSTONE);
    }
}

/// Revision in a key of bucket `key`, and whether it is a delete.
pub(crate) fn rev_of_key(key: &[u8]) -> Option<(Rev, bool)> {
    let (rev, mark) = key.split_first_chunk::<REV_BYTES>()?;
    let tombstone = match mark {
        [] => false,
        [TOMBSTONE] => true,
        _ => return None,
    };
    let main = i64::from_be_bytes(*rev.first_chunk()?);
    let sub = i64::from_be_bytes(*rev.last_chunk()?);
    let sub = u32::try_from(sub).ok().filter(|&sub| sub < 1 << 31)?;
    (rev[8] == b'_' && main > 0).then_some((Rev { main, sub }, tombstone))
}

/// The `mvccpb.KeyValue` of a change; of a delete it has the key alone.
pub(crate) fn put_change(out: &mut Vec<u8>, change: &ChangeRef<'_>) {
    put_bytes(out, 1, change.key);
    if change.tombstone {
        return;
    }
    put_number(out, 2, change.create);
    put_number(out, 3, change.rev.main);
    put_number(out, 4, change.version);
    put_bytes(out, 5, change.value);
    put_number(out, 6, change.lease);
}

/// The change that a pair of bucket `key` is; `None` where it is none.
pub(crate) fn change_of<'a>(key: &[u8], value: &'a [u8]) -> Option<ChangeRef<'a>> {
    let (rev, tombstone) = rev_of_key(key)?;
    let mut change = ChangeRef { rev, tombstone, ..ChangeRef::default() };
    let mut main = None;
    fields(value, |field, value| {
        match (field, value) {
            (1, Value::Bytes(key)) => change.key = key,
            (2, Value::Number(create)) => change.create = create,
            (3, Value::Number(found)) => main = Some(found),
            (4, Value::Number(version)) => change.version = version,
            (5, Value::Bytes(value)) => change.value = value,
            (6, Value::Number(lease)) => change.lease = lease,
            (1..=6, _) => return None,
            _ => {}
        }
        Some(())
    })?;
    if tombstone {
        return Some(ChangeRef { rev, tombstone, key: change.key, ..ChangeRef::default() });
    }
    main.is_none_or(|main| main == rev.main).then_some(change)
}

/// A `leasepb.Lease`: id, TTL and remaining TTL in seconds.
pub(crate) fn lease(id: i64, ttl_s: i64, remaining_s: i64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, id);
    put_number(&mut out, 2, ttl_s);
    put_number(&mut out, 3, remaining_s);
    out
}

/// Numbers of the fields 1, 2 and 3 of a message; those missing are 0.
pub(crate) fn three_numbers(message: &[u8]) -> Option<[i64; 3]> {
    let mut numbers = [0; 3];
    fields(message, |field, value| {
        let at = usize::try_from(field).ok().and_then(|field| field.checked_sub(1));
        let Some(place) = at.and_then(|at| numbers.get_mut(at)) else { return Some(()) };
        let Value::Number(number) = value else { return None };
        *place = number;
        Some(())
    })?;
    Some(numbers)
}

/// An `etcdserverpb.AlarmMember`.
pub(crate) fn alarm(member_id: u64, alarm: u8) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, member_id.cast_signed());
    put_number(&mut out, 2, i64::from(alarm));
    out
}
