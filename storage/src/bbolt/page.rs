//! Numbers of the format, page headers and meta pages.

/// Bytes before the body of a page.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of a leaf or branch element.
pub(super) const ELEMENT_BYTES: usize = 16;
/// Bytes of a bucket's value before an inline page.
pub(super) const BUCKET_BYTES: usize = 16;
/// Bytes of a meta page that are in use, its header included.
pub(super) const META_BYTES: usize = HEADER_BYTES + 64;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
pub(super) const FREELIST: u16 = 0x10;

/// Flag of a leaf element that is a bucket.
pub(super) const IS_BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// Page sizes that a file can have.
pub(super) const PAGE_BYTES_MIN: usize = 512;
pub(super) const PAGE_BYTES_MAX: usize = 64 << 10;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u64,
    pub(super) flags: u16,
    pub(super) count: u16,
    pub(super) overflow: u32,
}

impl Header {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: u64_at(bytes, 0)?,
            flags: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }

    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..10].copy_from_slice(&self.flags.to_le_bytes());
        out[10..12].copy_from_slice(&self.count.to_le_bytes());
        out[12..].copy_from_slice(&self.overflow.to_le_bytes());
        out
    }
}

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_bytes: usize,
    pub(super) root: u64,
    pub(super) freelist: u64,
    /// Pages in the file.
    pub(super) pages: u64,
    pub(super) transaction: u64,
}

impl Meta {
    /// The meta in the page that begins `bytes`, where it is whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let header = Header::decode(bytes)?;
        let body = bytes.get(HEADER_BYTES..META_BYTES)?;
        let page_bytes = u32_at(body, 8)? as usize;
        let is_whole = header.flags & META != 0
            && u32_at(body, 0)? == MAGIC
            && u32_at(body, 4)? == VERSION
            && u64_at(body, 56)? == fnv1a(body.get(..56)?)
            && page_bytes.is_power_of_two()
            && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes);
        is_whole.then_some(Self {
            page_bytes,
            root: u64_at(body, 16)?,
            freelist: u64_at(body, 32)?,
            pages: u64_at(body, 40)?,
            transaction: u64_at(body, 48)?,
        })
    }

    /// The whole page number `id` (0 or 1).
    pub(super) fn encode(self, id: u64) -> Vec<u8> {
        let header = Header { id, flags: META, count: 0, overflow: 0 };
        let mut page = header.encode().to_vec();
        page.extend_from_slice(&MAGIC.to_le_bytes());
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&u32::try_from(self.page_bytes).unwrap_or_default().to_le_bytes());
        page.extend_from_slice(&0_u32.to_le_bytes());
        for number in [self.root, 0, self.freelist, self.pages, self.transaction] {
            page.extend_from_slice(&number.to_le_bytes());
        }
        let sum = fnv1a(&page[HEADER_BYTES..]);
        page.extend_from_slice(&sum.to_le_bytes());
        page.resize(self.page_bytes, 0);
        page
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
