//! Byte layout of engine keys, and the varints of history records.
//!
//! | key | value |
//! |---|---|
//! | `h` + main (u64 BE) + sub (u32 BE) | a history block, keyed by its first change |
//! | `d` + main (u64 BE) + sub (u32 BE) | list of changes in that block which compaction dropped |
//! | `l` + lease id (i64, order-preserving BE) | a lease row |
//! | `a` + member id (u64 BE) + alarm number | empty: the alarm is raised |
//! | `n` + member id (u64 BE) | attributes of a member |
//! | `u` + name | a user |
//! | `r` + name | a role |
//! | `m` + name | single rows: format, mark, compact revision, auth, v2 counters, incomplete import |
//! | `2` + path | a node of the v2 tree |
//! | `3` + index (u64 BE) | an event of the v2 tree |
//!
//! Big endian so that byte order is numeric order. Other tables take another first byte.

use crate::{
    Error,
    types::{LeaseId, Rev},
};

/// First bytes of the tables.
pub(crate) const HISTORY: u8 = b'h';
pub(crate) const DEAD: u8 = b'd';
pub(crate) const LEASE: u8 = b'l';
pub(crate) const ALARM: u8 = b'a';
pub(crate) const MEMBER: u8 = b'n';
pub(crate) const USER: u8 = b'u';
pub(crate) const ROLE: u8 = b'r';
pub(crate) const V2_NODE: u8 = b'2';
pub(crate) const V2_EVENT: u8 = b'3';

/// Single rows.
pub(crate) const FORMAT_ROW: &[u8] = b"mformat";
pub(crate) const MARK_ROW: &[u8] = b"mmark";
pub(crate) const COMPACT_ROW: &[u8] = b"mcompact";
pub(crate) const AUTH_ROW: &[u8] = b"mauth";
pub(crate) const IMPORTING_ROW: &[u8] = b"mimporting";
pub(crate) const V2_ROW: &[u8] = b"mv2";

/// Key of a row that belongs to one revision.
pub(crate) fn rev_key(table: u8, rev: Rev) -> Vec<u8> {
    let mut key = Vec::with_capacity(13);
    key.push(table);
    key.extend_from_slice(&rev.main.cast_unsigned().to_be_bytes());
    key.extend_from_slice(&rev.sub.to_be_bytes());
    key
}

/// The revision in a key made by [`rev_key`].
pub(crate) fn rev_of_key(key: &[u8]) -> Result<Rev, Error> {
    let bad = || corrupt("engine key", "it is no revision key");
    let body = key.get(1..).ok_or_else(bad)?;
    let (main, sub) = body.split_at_checked(8).ok_or_else(bad)?;
    Ok(Rev {
        main: u64::from_be_bytes(main.try_into().map_err(|_| bad())?).cast_signed(),
        sub: u32::from_be_bytes(sub.try_into().map_err(|_| bad())?),
    })
}

/// Key of a lease row; negative ids sort before positive ones.
pub(crate) fn lease_key(id: LeaseId) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(LEASE);
    key.extend_from_slice(&(id.cast_unsigned() ^ (1 << 63)).to_be_bytes());
    key
}

/// The lease id in a key made by [`lease_key`].
pub(crate) fn lease_of_key(key: &[u8]) -> Result<LeaseId, Error> {
    let id = u64_of_key(key)?;
    Ok((id ^ (1 << 63)).cast_signed())
}

/// Key of a member's attributes.
pub(crate) fn member_key(member_id: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(MEMBER);
    key.extend_from_slice(&member_id.to_be_bytes());
    key
}

/// Key of a raised alarm.
pub(crate) fn alarm_key(member_id: u64, alarm: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(10);
    key.push(ALARM);
    key.extend_from_slice(&member_id.to_be_bytes());
    key.push(alarm);
    key
}

/// Key of a user.
pub(crate) fn user_key(name: &str) -> Vec<u8> {
    [&[USER], name.as_bytes()].concat()
}

/// Key of a role.
pub(crate) fn role_key(name: &str) -> Vec<u8> {
    [&[ROLE], name.as_bytes()].concat()
}

/// Key of a node of the v2 tree; a folder sorts before what lies in it.
pub(crate) fn v2_node_key(path: &[u8]) -> Vec<u8> {
    [&[V2_NODE][..], path].concat()
}

/// Key of an event of the v2 tree.
pub(crate) fn v2_event_key(index: u64) -> Vec<u8> {
    [&[V2_EVENT][..], &index.to_be_bytes()].concat()
}

/// The number after the table byte.
pub(crate) fn u64_of_key(key: &[u8]) -> Result<u64, Error> {
    key.get(1..9)
        .and_then(|body| body.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| corrupt("engine key", "it holds no number"))
}

/// Appends `value` in 7-bit groups, low ones first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Takes a varint off the front of `bytes`.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let group = u64::from(byte & 0x7f);
        if shift == 63 && group > 1 {
            return None;
        }
        value |= group << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// [`Error::Corrupt`] in fewer words.
pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Error {
    Error::Corrupt { what: what.into(), detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_of_keys_is_numeric_order() {
        let revs = [(1, 0), (1, 1), (2, 0), (255, 7), (256, 0), (i64::MAX, u32::MAX)];
        let keys: Vec<_> =
            revs.iter().map(|&(main, sub)| rev_key(HISTORY, Rev { main, sub })).collect();
        assert!(keys.is_sorted());
        for (&(main, sub), key) in revs.iter().zip(&keys) {
            assert_eq!(rev_of_key(key).unwrap(), Rev { main, sub });
        }
        let ids = [i64::MIN, -1, 1, 77, i64::MAX];
        let keys: Vec<_> = ids.iter().map(|&id| lease_key(id)).collect();
        assert!(keys.is_sorted());
        for (&id, key) in ids.iter().zip(&keys) {
            assert_eq!(lease_of_key(key).unwrap(), id);
        }
    }

    #[test]
    fn varints_come_back_and_overlong_ones_are_refused() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut rest = &out[..];
            assert_eq!(take_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
            assert_eq!(take_varint(&mut &out[..out.len() - 1]), None);
        }
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
    }
}
