//! Header compression for the lean gRPC client: request blocks rendered once, response blocks
//! read just enough to know how a call ended.
//!
//! Invariants:
//! - the decoder keeps its dynamic table exactly as the server's encoder does, whatever it
//!   reads from it: skipping a field never skips a table change;
//! - a cached block is used only while the table stands as it did when the block was decoded.
//!
//! Source: RFC 7541; gRPC over HTTP/2 for the fields.

use std::collections::VecDeque;

use super::{WireError, huffman};

/// Dynamic table size both sides start with, in bytes (RFC 7541 section 4.2, RFC 9113 6.5.2).
pub(super) const TABLE_BYTES: usize = 4096;
/// What an entry costs beyond its text (RFC 7541 section 4.1).
const ENTRY_OVERHEAD_BYTES: usize = 32;
/// Number of entries in the static table.
const STATIC_ENTRIES: usize = 61;
/// Blocks remembered with their meaning; a unary call needs two (headers, trailers).
const CACHED_BLOCKS_MAX: usize = 4;
/// Longest block worth remembering, in bytes: indexed fields take one byte each.
const CACHED_BLOCK_BYTES_MAX: usize = 16;

/// Static table entry of `:status 200`; those of other codes follow.
const STATIC_STATUS: std::ops::RangeInclusive<usize> = 8..=14;
/// Values of the `:status` entries of the static table.
const STATIC_STATUS_VALUES: [&[u8]; 7] = [b"200", b"204", b"206", b"304", b"400", b"404", b"500"];

/// What a header block said about the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// `:status`.
    pub(super) status: Option<u16>,
    /// `grpc-status`.
    pub(super) grpc_status: Option<u32>,
    /// `grpc-message`, percent-encoded as it came.
    pub(super) message: String,
}

impl Fields {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        let text = || std::str::from_utf8(value).ok();
        match name {
            b":status" => self.status = text().and_then(|t| t.parse().ok()),
            // A status that cannot be read is an error, never "ok".
            b"grpc-status" => {
                self.grpc_status = Some(text().and_then(|t| t.parse().ok()).unwrap_or(u32::MAX));
            }
            b"grpc-message" => self.message = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
}

/// Reads the header blocks of one connection.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Newest entry first.
    dynamic: VecDeque<(Vec<u8>, Vec<u8>)>,
    dynamic_bytes: usize,
    limit_bytes: usize,
    cache: Vec<(Vec<u8>, Fields)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { dynamic: VecDeque::new(), dynamic_bytes: 0, limit_bytes: TABLE_BYTES, cache: vec![] }
    }
}

impl Decoder {
    /// Decodes one whole block into `fields`, adding to what is there.
    pub(super) fn decode(&mut self, block: &[u8], fields: &mut Fields) -> Result<(), WireError> {
        if let Some((_, known)) = self.cache.iter().find(|(bytes, _)| bytes == block) {
            fields.status = known.status.or(fields.status);
            fields.grpc_status = known.grpc_status.or(fields.grpc_status);
            return Ok(());
        }
        let mut fresh = Fields::default();
        let pure = self.decode_fields(block, &mut fresh)?;
        if pure
            && fresh.message.is_empty()
            && block.len() <= CACHED_BLOCK_BYTES_MAX
            && self.cache.len() < CACHED_BLOCKS_MAX
        {
            self.cache.push((block.to_vec(), fresh.clone()));
        }
        fields.status = fresh.status.or(fields.status);
        fields.grpc_status = fresh.grpc_status.or(fields.grpc_status);
        if !fresh.message.is_empty() {
            fields.message = fresh.message;
        }
        Ok(())
    }

    /// Returns whether the block left the table alone.
    fn decode_fields(&mut self, block: &[u8], fields: &mut Fields) -> Result<bool, WireError> {
        let mut reader = Reader { rest: block };
        let mut pure = true;
        while let Some(&first) = reader.rest.first() {
            if first & 0x80 != 0 {
                let index = reader.integer(7)?;
                let (name, value) = self.entry(index)?;
                fields.note(name, value);
            } else if first & 0xe0 == 0x20 {
                let limit = reader.integer(5)?;
                if limit > TABLE_BYTES {
                    return Err(WireError::Hpack("table size above what was agreed"));
                }
                self.limit_bytes = limit;
                self.evict(0);
                pure = false;
            } else {
                let keep = first & 0xc0 == 0x40;
                let index = reader.integer(if keep { 6 } else { 4 })?;
                let name =
                    if index == 0 { reader.string()? } else { self.entry(index)?.0.to_vec() };
                let value = reader.string()?;
                fields.note(&name, &value);
                if keep {
                    self.insert(name, value);
                    pure = false;
                }
            }
        }
        Ok(pure)
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), WireError> {
        if index == 0 {
            return Err(WireError::Hpack("index 0"));
        }
        if index > STATIC_ENTRIES {
            let (name, value) = self
                .dynamic
                .get(index - STATIC_ENTRIES - 1)
                .ok_or(WireError::Hpack("index beyond the table"))?;
            return Ok((name, value));
        }
        if STATIC_STATUS.contains(&index) {
            return Ok((b":status", STATIC_STATUS_VALUES[index - STATIC_STATUS.start()]));
        }
        // Nothing else in the static table matters here, only its length does.
        Ok((STATIC_NAMES[index - 1].as_bytes(), b""))
    }

    fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.cache.clear();
        let size = name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        self.evict(size);
        if size <= self.limit_bytes {
            self.dynamic_bytes += size;
            self.dynamic.push_front((name, value));
        }
    }

    /// Drops the oldest entries until `room` more bytes fit.
    fn evict(&mut self, room: usize) {
        while self.dynamic_bytes + room > self.limit_bytes {
            let Some((name, value)) = self.dynamic.pop_back() else { return };
            self.dynamic_bytes -= name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
            self.cache.clear();
        }
    }
}

/// Primitive types of RFC 7541 section 5.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, WireError> {
        let (&first, rest) = self.rest.split_first().ok_or(WireError::Hpack("cut off"))?;
        self.rest = rest;
        Ok(first)
    }

    fn integer(&mut self, prefix_bits: u32) -> Result<usize, WireError> {
        let mask = (1_u8 << prefix_bits) - 1;
        let mut value = usize::from(self.byte()? & mask);
        if value < usize::from(mask) {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Hpack("integer too long"))
    }

    fn string(&mut self) -> Result<Vec<u8>, WireError> {
        let coded = self.rest.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(WireError::Hpack("cut off"))?;
        self.rest = rest;
        if coded {
            huffman::decode(text).ok_or(WireError::Hpack("bad Huffman string"))
        } else {
            Ok(text.to_vec())
        }
    }
}

/// Renders request blocks. The fields that repeat go into the server's dynamic table with the
/// first request, later requests name them in one byte each.
#[derive(Debug)]
pub(super) struct Encoder {
    authority: Vec<u8>,
    /// What was inserted, oldest first: the common fields, then paths as they appear.
    inserted: Vec<Vec<u8>>,
    /// Bytes the insertions take; never above the server's table.
    inserted_bytes: usize,
    limit_bytes: usize,
}

/// The fields every request carries besides method, scheme and path: name, static index of the
/// name (0: spelled out), value. The authority is filled in per connection.
const COMMON: [(&[u8], u8, &[u8]); 4] = [
    (b":authority", 1, b""),
    (b"content-type", 31, b"application/grpc"),
    (b"te", 0, b"trailers"),
    (b"user-agent", 58, b"tripod-bench"),
];

impl Encoder {
    /// An encoder for a server that allows a dynamic table of `table_bytes`.
    pub(super) fn new(authority: &str, table_bytes: usize) -> Self {
        Self {
            authority: authority.as_bytes().to_vec(),
            inserted: vec![],
            inserted_bytes: 0,
            limit_bytes: table_bytes.min(TABLE_BYTES),
        }
    }

    /// Renders the block of a call of `path`. The second value tells whether the block changes
    /// the table: then it must be sent exactly once, and every other block rendered anew.
    pub(super) fn block(&mut self, path: &str) -> (Vec<u8>, bool) {
        // `:method POST` and `:scheme http` stand in the static table.
        let mut block = vec![0x83, 0x86];
        let before = self.inserted.len();
        // Insertions shift the indices of what is there, so fields are put in insertion order
        // and each index is computed at its place in the block.
        self.field(&mut block, b":path", 4, path.as_bytes());
        for (name, index, value) in COMMON {
            let value = if name == b":authority" { self.authority.clone() } else { value.to_vec() };
            self.field(&mut block, name, index, &value);
        }
        (block, self.inserted.len() != before)
    }

    fn field(&mut self, block: &mut Vec<u8>, name: &[u8], name_index: u8, value: &[u8]) {
        let mut key = name.to_vec();
        key.push(b'=');
        key.extend_from_slice(value);
        if let Some(position) = self.inserted.iter().position(|entry| *entry == key) {
            integer(block, 0x80, 7, STATIC_ENTRIES + self.inserted.len() - position);
            return;
        }
        let size = name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        // Nothing is ever evicted: what does not fit is spelled out each time.
        let keep = self.inserted_bytes + size <= self.limit_bytes;
        let (pattern, bits) = if keep { (0x40, 6) } else { (0x00, 4) };
        integer(block, pattern, bits, usize::from(name_index));
        if name_index == 0 {
            integer(block, 0, 7, name.len());
            block.extend_from_slice(name);
        }
        integer(block, 0, 7, value.len());
        block.extend_from_slice(value);
        if keep {
            self.inserted_bytes += size;
            self.inserted.push(key);
        }
    }
}

fn integer(out: &mut Vec<u8>, pattern: u8, prefix_bits: u32, value: usize) {
    let mask = (1_usize << prefix_bits) - 1;
    let low = |v: usize| u8::try_from(v & 0xff).unwrap_or(u8::MAX);
    if value < mask {
        out.push(pattern | low(value));
        return;
    }
    out.push(pattern | low(mask));
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(low(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(low(rest));
}

/// Names of the static table (RFC 7541, appendix A).
#[rustfmt::skip]
const STATIC_NAMES: [&str; STATIC_ENTRIES] = [
    ":authority", ":method", ":method", ":path", ":path", ":scheme", ":scheme", ":status", ":status",
    ":status", ":status", ":status", ":status", ":status", "accept-charset", "accept-encoding",
    "accept-language", "accept-ranges", "accept", "access-control-allow-origin", "age", "allow",
    "authorization", "cache-control", "content-disposition", "content-encoding", "content-language",
    "content-length", "content-location", "content-range", "content-type", "cookie", "date", "etag",
    "expect", "expires", "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range",
    "if-unmodified-since", "last-modified", "link", "location", "max-forwards", "proxy-authenticate",
    "proxy-authorization", "range", "referer", "refresh", "retry-after", "server", "set-cookie",
    "strict-transport-security", "transfer-encoding", "user-agent", "vary", "via", "www-authenticate",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(name: &str, value: &str) -> Vec<u8> {
        let mut block = vec![0x40];
        integer(&mut block, 0, 7, name.len());
        block.extend_from_slice(name.as_bytes());
        integer(&mut block, 0, 7, value.len());
        block.extend_from_slice(value.as_bytes());
        block
    }

    #[test]
    fn indexed_trailers_mean_what_was_inserted() {
        let mut decoder = Decoder::default();
        let mut fields = Fields::default();
        decoder.decode(&literal("grpc-status", "0"), &mut fields).unwrap();
        assert_eq!(fields.grpc_status, Some(0));
        for _ in 0..3 {
            let mut fields = Fields::default();
            decoder.decode(&[0xbe], &mut fields).unwrap();
            assert_eq!(fields.grpc_status, Some(0));
        }
        // A later insertion moves the entry: the same byte now means the new field.
        decoder.decode(&literal("grpc-status", "14"), &mut Fields::default()).unwrap();
        let mut fields = Fields::default();
        decoder.decode(&[0xbe], &mut fields).unwrap();
        assert_eq!(fields.grpc_status, Some(14));
        let mut fields = Fields::default();
        decoder.decode(&[0x88, 0xbf], &mut fields).unwrap();
        assert_eq!((fields.status, fields.grpc_status), (Some(200), Some(0)));
    }

    #[test]
    fn a_status_that_is_no_number_is_not_ok() {
        let mut fields = Fields::default();
        Decoder::default().decode(&literal("grpc-status", "zero"), &mut fields).unwrap();
        assert_eq!(fields.grpc_status, Some(u32::MAX));
    }

    #[test]
    fn malformed_blocks_are_errors() {
        let cases: [&[u8]; 6] = [
            &[0x80],
            &[0xbe],
            &[0x40, 0x05, b'a'],
            &[0x7f],
            &[0x3f, 0xff, 0xff, 0x7f],
            &[0x40, 0x81, 0x00, 0x00],
        ];
        for block in cases {
            assert!(
                Decoder::default().decode(block, &mut Fields::default()).is_err(),
                "{block:x?}"
            );
        }
    }

    #[test]
    fn request_blocks_shrink_to_one_byte_per_field() {
        let mut encoder = Encoder::new("127.0.0.1:2379", TABLE_BYTES);
        let (first, changes) = encoder.block("/etcdserverpb.KV/Put");
        assert!(changes && first.len() > 60);
        let (second, changes) = encoder.block("/etcdserverpb.KV/Put");
        assert_eq!(
            (second.as_slice(), changes),
            (&[0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe][..], false)
        );
        let (third, changes) = encoder.block("/etcdserverpb.KV/Range");
        assert!(changes && third.len() > 20);
        let (fourth, _) = encoder.block("/etcdserverpb.KV/Put");
        assert_eq!(fourth.as_slice(), &[0x83, 0x86, 0xc3, 0xc2, 0xc1, 0xc0, 0xbf]);
    }

    #[test]
    fn a_server_without_dynamic_table_gets_plain_literals() {
        let mut encoder = Encoder::new("a", 0);
        let (block, changes) = encoder.block("/p");
        assert!(!changes);
        let mut decoder = Decoder::default();
        decoder.decode(&block, &mut Fields::default()).unwrap();
        assert!(decoder.dynamic.is_empty());
    }
}
