//! Bytes of one record and of a segment's header.
//!
//! ```text
//! record   crc32c u32 | len u32 | synced u32 | tag u16 | kind u8 | arg u8 | index u64 | payload
//! header   magic 8 bytes | format u32 | pages u32 | sequence u64 | salt u64 | crc32c u32
//! ```
//! All little endian; a record starts at a multiple of 8. Its checksum covers everything after
//! itself and starts from the segment's sequence number and salt, so that a record of a file's
//! former life, or bytes a client made up, never pass for one. `tag` comes from the salt too: it
//! rejects most such bytes before a checksum is computed.
//!
//! `synced` is the offset in this segment below which everything was known to be durable when
//! the record was made. It tells a torn tail from corruption: a bad record that a later good
//! one calls durable was damaged afterwards.

/// Bytes before a record's payload.
pub(super) const RECORD_HEADER_BYTES: usize = 24;
/// Offset of a segment's first record. A page, so that no drain ever rewrites the header.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Records start at multiples of this.
pub(super) const ALIGN: usize = 8;

const MAGIC: [u8; 8] = *b"tripodwl";
/// Layout of records and headers.
const FORMAT: u32 = 1;
/// Bytes of a segment's header that mean something.
pub(super) const HEADER_USED_BYTES: usize = 36;

/// What a record says. The numbers are the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A log row; `index` is its.
    Row = 1,
    /// A named small record; `arg` is its name.
    Meta = 2,
    /// Rows after `index` are gone; all rows where `arg` is 0.
    Truncate = 3,
    /// Rows up to `index` are gone for good; the payload is the caller's.
    Purge = 4,
    /// First in a segment: `index` is the last row before it, the payload the first (u64); there
    /// are none where `arg` is 0.
    Base = 5,
    /// Last in a segment: the log goes on in the next one.
    Seal = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Row,
            2 => Self::Meta,
            3 => Self::Truncate,
            4 => Self::Purge,
            5 => Self::Base,
            6 => Self::Seal,
            _ => return None,
        })
    }
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) arg: u8,
    pub(super) index: u64,
    /// Bytes of payload.
    pub(super) len: u32,
    /// Offset below which the segment was durable.
    pub(super) synced: u32,
}

/// What makes checksums of one segment its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    seed: u32,
    tag: u16,
}

impl Stamp {
    pub(super) fn new(sequence: u64, salt: u64) -> Self {
        let seed =
            crc32c::crc32c_append(crc32c::crc32c(&sequence.to_le_bytes()), &salt.to_le_bytes());
        let salt = salt.to_le_bytes();
        // Never 0: zero-filled space must not look like a record.
        Self { seed, tag: u16::from_le_bytes([salt[2], salt[5]]) | 1 }
    }

    fn checksum(self, header: &[u8], parts: &[&[u8]]) -> u32 {
        let start = crc32c::crc32c_append(self.seed, header);
        parts.iter().fold(start, |crc, part| crc32c::crc32c_append(crc, part))
    }

    /// Appends a whole record to `out`. `parts` together are `header.len` bytes long.
    pub(super) fn encode(self, header: Header, parts: &[&[u8]], out: &mut Vec<u8>) {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&header.len.to_le_bytes());
        bytes[8..12].copy_from_slice(&header.synced.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.tag.to_le_bytes());
        bytes[14] = header.kind as u8;
        bytes[15] = header.arg;
        bytes[16..24].copy_from_slice(&header.index.to_le_bytes());
        let crc = self.checksum(&bytes[4..], parts);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&bytes);
        let start = out.len();
        for part in parts {
            out.extend_from_slice(part);
        }
        debug_assert_eq!(out.len() - start, header.len as usize);
        out.resize(out.len().next_multiple_of(ALIGN), 0);
    }

    /// Reads a header that may be one of this segment; only [`Stamp::verify`] makes it sure.
    pub(super) fn parse(self, bytes: &[u8; RECORD_HEADER_BYTES]) -> Option<Header> {
        if bytes[12..14] != self.tag.to_le_bytes() {
            return None;
        }
        Some(Header {
            kind: Kind::from_byte(bytes[14])?,
            arg: bytes[15],
            index: u64::from_le_bytes(array(&bytes[16..24])),
            len: u32::from_le_bytes(array(&bytes[4..8])),
            synced: u32::from_le_bytes(array(&bytes[8..12])),
        })
    }

    /// Whether header and payload are what was written.
    pub(super) fn verify(self, header: &[u8; RECORD_HEADER_BYTES], payload: &[u8]) -> bool {
        self.checksum(&header[4..], &[payload]).to_le_bytes() == header[..4]
    }
}

/// Bytes that a record with `len` bytes of payload takes in a segment.
pub(super) fn record_bytes(len: usize) -> usize {
    (RECORD_HEADER_BYTES + len).next_multiple_of(ALIGN)
}

/// The first page of a segment whose file is `file_bytes` long, a number of whole pages.
pub(super) fn encode_segment_header(sequence: u64, salt: u64, file_bytes: u64) -> Vec<u8> {
    let pages = u32::try_from(file_bytes / SEGMENT_HEADER_BYTES).unwrap_or_default();
    let mut bytes = Vec::with_capacity(4096);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&pages.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&salt.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.resize(4096, 0);
    bytes
}

/// Sequence number and stamp from the first bytes of a segment, or what is wrong with them.
pub(super) fn decode_segment_header(
    bytes: &[u8; HEADER_USED_BYTES],
    file_bytes: u64,
) -> Result<(u64, Stamp), String> {
    if bytes[..8] != MAGIC {
        return Err("it does not begin as a log segment".to_owned());
    }
    if crc32c::crc32c(&bytes[..32]).to_le_bytes() != bytes[32..36] {
        return Err("the checksum of its header does not match".to_owned());
    }
    let format = u32::from_le_bytes(array(&bytes[8..12]));
    if format != FORMAT {
        return Err(format!("its format {format} is not {}, which this version reads", FORMAT));
    }
    let pages = u64::from(u32::from_le_bytes(array(&bytes[12..16])));
    if pages * SEGMENT_HEADER_BYTES != file_bytes {
        let made = pages * SEGMENT_HEADER_BYTES;
        return Err(format!("it was made {made} bytes long and is now {file_bytes}"));
    }
    let sequence = u64::from_le_bytes(array(&bytes[16..24]));
    let salt = u64::from_le_bytes(array(&bytes[24..32]));
    Ok((sequence, Stamp::new(sequence, salt)))
}

/// A slice whose length its caller has just spelled out, as an array.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_on_disk_stay_as_they_are() {
        // Golden: a change here is a change of the stored format.
        let mut out = Vec::new();
        let header = Header { kind: Kind::Row, arg: 0, index: 7, len: 3, synced: 4096 };
        Stamp::new(9, 0x1122_3344_5566_7788).encode(header, &[b"a", b"bc"], &mut out);
        let crc = &out[..4];
        assert_eq!(crc, GOLDEN_RECORD);
        let rest = [
            3, 0, 0, 0, 0, 0x10, 0, 0, 0x67, 0x33, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c',
            0, 0, 0, 0, 0,
        ];
        assert_eq!(out[4..], rest);
        let header = encode_segment_header(9, 2, 3 * 4096);
        let used = [
            b't', b'r', b'i', b'p', b'o', b'd', b'w', b'l', 1, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 0,
            0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(header[..32], used);
        assert_eq!(header[32..36], GOLDEN_HEADER);
    }

    const GOLDEN_RECORD: [u8; 4] = [89, 66, 183, 163];
    const GOLDEN_HEADER: [u8; 4] = [172, 81, 123, 188];
}
