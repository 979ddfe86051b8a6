//! One history block: many changes in one engine record, each readable without the others.
//!
//! ```text
//! format u8 | crc32c of the rest u32 | count u32 | main of the first u64      (little endian)
//! count x (main - first main u32 | sub u32 | offset of the record u32)
//! records: flags u8 | key length varint | key
//!          and for a put: version varint | main - create varint | lease i64 if flagged | value
//! ```
//! A record ends where the next begins; its value takes what the other fields leave.

use bytes::Bytes;

use crate::{
    Error, KeyValue, LeaseId, Revision,
    keys::{corrupt, put_varint, take_varint},
    types::Rev,
};

/// Changes in a block at most.
pub(crate) const CHANGES_MAX: usize = 256;
/// A block is full once its records take this many bytes. Reading one change of history reads
/// one block, so larger blocks make writes cheaper and single old reads dearer.
///
/// sled puts up to 16 of them into a page. A page above a quarter of sled's segment (128 KB) would
/// become a file of its own, which costs more CPU than twice as many records do, and which sled
/// counts as a few bytes in its cache: all such pages would stay in memory.
pub(crate) const RECORDS_BYTES_FULL: usize = 7 << 10;
/// Room for records kept from block to block: a full one goes over the limit by its last change.
const RECORDS_BYTES_KEPT: usize = 2 * RECORDS_BYTES_FULL;

const FORMAT: u8 = 1;
const CRC_AT: usize = 1;
const COUNT_AT: usize = 5;
const MAIN_AT: usize = 9;
const HEADER_BYTES: usize = 17;
const ENTRY_BYTES: usize = 12;

const TOMBSTONE: u8 = 1;
const LEASED: u8 = 2;

/// One change, borrowed. A tombstone has no fields but `rev` and `key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangeRef<'a> {
    pub(crate) rev: Rev,
    pub(crate) tombstone: bool,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) create: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

impl ChangeRef<'_> {
    /// A copy that lives on its own.
    pub(crate) fn to_key_value(self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key),
            value: Bytes::copy_from_slice(self.value),
            create_revision: self.create,
            mod_revision: self.rev.main,
            version: self.version,
            lease: self.lease,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let leased = if self.lease == 0 { 0 } else { LEASED };
        out.push(if self.tombstone { TOMBSTONE } else { leased });
        put_varint(out, self.key.len() as u64);
        out.extend_from_slice(self.key);
        if self.tombstone {
            return;
        }
        put_varint(out, self.version.cast_unsigned());
        put_varint(out, self.rev.main.wrapping_sub(self.create).cast_unsigned());
        if self.lease != 0 {
            out.extend_from_slice(&self.lease.to_le_bytes());
        }
        out.extend_from_slice(self.value);
    }

    fn decode(rev: Rev, mut bytes: &[u8]) -> Option<ChangeRef<'_>> {
        let (&flags, rest) = bytes.split_first()?;
        bytes = rest;
        let key_len = usize::try_from(take_varint(&mut bytes)?).ok()?;
        let (key, rest) = bytes.split_at_checked(key_len)?;
        bytes = rest;
        if flags & TOMBSTONE != 0 {
            return Some(ChangeRef { rev, tombstone: true, key, ..ChangeRef::default() });
        }
        let version = take_varint(&mut bytes)?.cast_signed();
        let create = rev.main.wrapping_sub(take_varint(&mut bytes)?.cast_signed());
        let mut lease = 0;
        if flags & LEASED != 0 {
            let (id, rest) = bytes.split_first_chunk::<8>()?;
            lease = i64::from_le_bytes(*id);
            bytes = rest;
        }
        Some(ChangeRef { rev, tombstone: false, key, value: bytes, create, version, lease })
    }
}

/// Changes collected for the next block.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    entries: Vec<(Rev, u32)>,
    records: Vec<u8>,
}

impl Builder {
    /// Adds a change above all before; returns its bytes.
    pub(crate) fn push(&mut self, change: ChangeRef<'_>) -> u64 {
        if self.entries.is_empty() {
            self.entries.reserve_exact(CHANGES_MAX);
            self.records.reserve(RECORDS_BYTES_KEPT);
        }
        let offset = self.records.len();
        // A full block is sealed before the next push, so offsets stay far below 4 GiB.
        self.entries.push((change.rev, u32::try_from(offset).unwrap_or(u32::MAX)));
        change.encode(&mut self.records);
        (self.records.len() - offset + ENTRY_BYTES) as u64
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= CHANGES_MAX || self.records.len() >= RECORDS_BYTES_FULL
    }

    /// True where `rev` is too far above the first change for one block.
    pub(crate) fn is_beyond(&self, rev: Rev) -> bool {
        self.first().is_some_and(|first| u32::try_from(rev.main - first.main).is_err())
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.records.len() + self.entries.len() * ENTRY_BYTES) as u64
    }

    pub(crate) fn first(&self) -> Option<Rev> {
        self.entries.first().map(|entry| entry.0)
    }

    pub(crate) fn covers(&self, rev: Rev) -> bool {
        self.first().is_some_and(|first| first <= rev)
    }

    /// The change at exactly `rev`.
    pub(crate) fn get(&self, rev: Rev) -> Option<ChangeRef<'_>> {
        let at = self.entries.binary_search_by_key(&rev, |entry| entry.0).ok()?;
        self.at(at)
    }

    fn at(&self, at: usize) -> Option<ChangeRef<'_>> {
        let (rev, start) = *self.entries.get(at)?;
        let end = self.entries.get(at + 1).map_or(self.records.len(), |next| next.1 as usize);
        ChangeRef::decode(rev, self.records.get(start as usize..end)?)
    }

    /// Position of the first change at or after `rev`.
    pub(crate) fn position(&self, rev: Rev) -> usize {
        self.entries.partition_point(|entry| entry.0 < rev)
    }

    /// Changes from position `at` on.
    pub(crate) fn changes(&self, at: usize) -> impl Iterator<Item = ChangeRef<'_>> {
        (at..self.entries.len()).filter_map(|at| self.at(at))
    }

    /// The block of what was added, and a new beginning; `None` when there is nothing.
    pub(crate) fn take(&mut self) -> Option<Block> {
        let block = self.block();
        self.entries.clear();
        self.records.clear();
        self.records.shrink_to(RECORDS_BYTES_KEPT);
        block
    }

    fn block(&self) -> Option<Block> {
        let first = self.first()?;
        let last = self.entries.last()?.0;
        let count = self.entries.len();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + count * ENTRY_BYTES + self.records.len());
        bytes.push(FORMAT);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&u32::try_from(count).ok()?.to_le_bytes());
        bytes.extend_from_slice(&first.main.to_le_bytes());
        for (rev, offset) in &self.entries {
            let delta = u32::try_from(rev.main - first.main).ok()?;
            bytes.extend_from_slice(&delta.to_le_bytes());
            bytes.extend_from_slice(&rev.sub.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        bytes.extend_from_slice(&self.records);
        let crc = crc32c::crc32c(&bytes[COUNT_AT..]);
        bytes[CRC_AT..COUNT_AT].copy_from_slice(&crc.to_le_bytes());
        Some(Block { bytes: Bytes::from(bytes), count, first, last })
    }
}

/// A sealed block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    bytes: Bytes,
    count: usize,
    first: Rev,
    last: Rev,
}

impl Block {
    /// Reads a block and checks that it is whole and keyed by its first change.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(crate) fn decode(first: Rev, bytes: Bytes) -> Result<Self, Error> {
        let bad =
            |detail: &str| corrupt(format!("history block {}.{}", first.main, first.sub), detail);
        let header: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or_else(|| bad("its header is cut short"))?;
        if header[0] != FORMAT {
            return Err(bad(&format!("unknown format {}", header[0])));
        }
        let crc = u32_at(&bytes, CRC_AT).unwrap_or_default();
        if crc32c::crc32c(&bytes[COUNT_AT..]) != crc {
            return Err(bad("its checksum does not match"));
        }
        let count = u32_at(&bytes, COUNT_AT).unwrap_or_default() as usize;
        let table = bytes.len().saturating_sub(HEADER_BYTES) / ENTRY_BYTES;
        if count == 0 || count > table {
            return Err(bad("its count does not fit its size"));
        }
        let mut block = Self { bytes, count, first, last: first };
        let found = block.rev(0).ok_or_else(|| bad("it has no first change"))?;
        if found != first {
            return Err(bad("its key is not its first change"));
        }
        block.last = block.rev(count - 1).ok_or_else(|| bad("it has no last change"))?;
        Ok(block)
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn first(&self) -> Rev {
        self.first
    }

    pub(crate) fn last(&self) -> Rev {
        self.last
    }

    pub(crate) fn covers(&self, rev: Rev) -> bool {
        self.first <= rev && rev <= self.last
    }

    pub(crate) fn rev(&self, at: usize) -> Option<Rev> {
        let entry = HEADER_BYTES + at * ENTRY_BYTES;
        let base = i64::from_le_bytes(*self.bytes.get(MAIN_AT..)?.first_chunk()?);
        let main = base.checked_add(i64::from(u32_at(&self.bytes, entry)?))?;
        Some(Rev { main, sub: u32_at(&self.bytes, entry + 4)? })
    }

    /// Where the record at position `at` lies.
    fn span(&self, at: usize) -> Option<(usize, usize)> {
        let records = HEADER_BYTES + self.count * ENTRY_BYTES;
        let offset = |at: usize| u32_at(&self.bytes, HEADER_BYTES + at * ENTRY_BYTES + 8);
        let start = records.checked_add(offset(at)? as usize)?;
        let end = if at + 1 < self.count {
            records.checked_add(offset(at + 1)? as usize)?
        } else {
            self.bytes.len()
        };
        (start <= end && end <= self.bytes.len()).then_some((start, end))
    }

    /// The change at position `at`.
    pub(crate) fn at(&self, at: usize) -> Result<ChangeRef<'_>, Error> {
        let found = || {
            let rev = self.rev(at)?;
            let (start, end) = self.span(at)?;
            ChangeRef::decode(rev, &self.bytes[start..end])
        };
        found().ok_or_else(|| {
            let first = self.first;
            corrupt(format!("history block {}.{}", first.main, first.sub), "a record is malformed")
        })
    }

    /// Position of the first change at or after `rev`.
    pub(crate) fn position(&self, rev: Rev) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.rev(middle).is_some_and(|found| found < rev) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The change at exactly `rev`.
    pub(crate) fn get(&self, rev: Rev) -> Result<Option<ChangeRef<'_>>, Error> {
        let at = self.position(rev);
        if at >= self.count || self.rev(at) != Some(rev) {
            return Ok(None);
        }
        self.at(at).map(Some)
    }

    /// `change` of this block as a version that shares the block's bytes.
    pub(crate) fn key_value(&self, change: ChangeRef<'_>) -> KeyValue {
        let share = |slice: &[u8]| {
            if slice.is_empty() { Bytes::new() } else { self.bytes.slice_ref(slice) }
        };
        KeyValue {
            key: share(change.key),
            value: share(change.value),
            create_revision: change.create,
            mod_revision: change.rev.main,
            version: change.version,
            lease: change.lease,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Vec<ChangeRef<'static>> {
        let put = ChangeRef {
            rev: Rev { main: 7, sub: 0 },
            key: b"a",
            value: b"value",
            create: 3,
            version: 4,
            ..ChangeRef::default()
        };
        vec![
            put,
            ChangeRef { rev: Rev { main: 7, sub: 1 }, key: b"b", value: b"", lease: -5, ..put },
            ChangeRef {
                rev: Rev { main: 8, sub: 0 },
                tombstone: true,
                key: b"a",
                ..ChangeRef::default()
            },
            ChangeRef { rev: Rev { main: 900, sub: 2 }, key: b"", value: &[9; 300], ..put },
        ]
    }

    fn build() -> Block {
        let mut builder = Builder::default();
        for change in changes() {
            builder.push(change);
        }
        for change in changes() {
            assert_eq!(builder.get(change.rev), Some(change));
        }
        builder.take().unwrap()
    }

    #[test]
    fn each_change_is_read_alone_and_in_order() {
        let built = build();
        let block = Block::decode(built.first(), built.bytes().clone()).unwrap();
        assert_eq!((block.len(), block.last()), (4, Rev { main: 900, sub: 2 }));
        for (at, change) in changes().into_iter().enumerate() {
            assert_eq!(block.at(at).unwrap(), change);
            assert_eq!(block.get(change.rev).unwrap(), Some(change));
        }
        assert_eq!(block.get(Rev { main: 8, sub: 1 }).unwrap(), None);
        assert_eq!(block.position(Rev { main: 8, sub: 1 }), 3);
        assert_eq!(block.get(Rev { main: 901, sub: 0 }).unwrap(), None);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let block = build();
        let bytes = block.bytes().to_vec();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Block::decode(block.first(), flipped.into()).is_err(), "byte {at}");
            assert!(Block::decode(block.first(), bytes[..at].to_vec().into()).is_err(), "cut {at}");
        }
        assert!(Block::decode(Rev { main: 1, sub: 0 }, bytes.into()).is_err());
    }
}
