//! Writing a database from sorted buckets, front to back.
//!
//! Leaves are written as they fill; each level of branches above keeps the children that are not
//! yet in a page. The pages of every bucket come before the root, and the meta pages are written
//! last, so a file that was cut short has none.

use std::io::{Seek, SeekFrom, Write};

use super::{
    Error,
    page::{
        BRANCH, ELEMENT_BYTES, FREELIST, HEADER_BYTES, Header, IS_BUCKET, LEAF, Meta,
        PAGE_BYTES_MAX,
    },
};

/// Page size of files written here: what etcd has on most machines.
const PAGE_BYTES: usize = 4096;
/// Elements of a page at most; the count has 16 bits and one value is special.
const ELEMENTS_MAX: usize = 0xFFF0;
/// Longest key, as bbolt has it.
const KEY_BYTES_MAX: usize = 32 << 10;
/// Two metas and the freelist come first.
const FREELIST_PAGE: u64 = 2;
const FIRST_FREE: u64 = 3;
/// Children that a branch keeps back, so that the last page of a level never has a lone one:
/// bbolt cannot delete from such a page.
const KEPT_BACK: usize = 2;

/// Elements for one page.
#[derive(Debug, Default)]
struct Elements {
    /// Flags, key and value of leaf elements.
    items: Vec<(u32, Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Elements {
    fn push(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        self.bytes += ELEMENT_BYTES + key.len() + value.len();
        self.items.push((flags, key.to_vec(), value.to_vec()));
    }

    fn fits(&self, key: &[u8], value: &[u8]) -> bool {
        let more = ELEMENT_BYTES + key.len() + value.len();
        self.items.is_empty()
            || (HEADER_BYTES + self.bytes + more <= PAGE_BYTES && self.items.len() < ELEMENTS_MAX)
    }
}

/// Children of one level that are in no page yet.
type Level = Vec<(Vec<u8>, u64)>;

/// A bucket being written.
#[derive(Debug)]
struct Bucket {
    name: Vec<u8>,
    leaf: Elements,
    /// Branch levels from the bottom up.
    levels: Vec<Level>,
    last: Option<Vec<u8>>,
}

/// Writes a database. Nothing is readable before [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    next: u64,
    bucket: Option<Bucket>,
    /// Names and root pages of finished buckets.
    roots: Vec<(Vec<u8>, u64)>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins at the start of `out`. Wrap a file in a buffer.
    ///
    /// # Errors
    /// [`Error::Io`], here and below.
    pub fn new(mut out: W) -> Result<Self, Error> {
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&[0; PAGE_BYTES * 2])?;
        let freelist = Header { id: FREELIST_PAGE, flags: FREELIST, count: 0, overflow: 0 };
        let mut page = freelist.encode().to_vec();
        page.resize(PAGE_BYTES, 0);
        out.write_all(&page)?;
        Ok(Self { out, next: FIRST_FREE, bucket: None, roots: Vec::new() })
    }

    /// Begins a bucket. Names ascend.
    ///
    /// # Errors
    /// As [`Writer::new`]; [`Error::NotEtcd`] for a name out of order.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.end_bucket()?;
        if self.roots.last().is_some_and(|(last, _)| last.as_slice() >= name) {
            return Err(out_of_order());
        }
        let (name, leaf, levels) = (name.to_vec(), Elements::default(), Vec::new());
        self.bucket = Some(Bucket { name, leaf, levels, last: None });
        Ok(())
    }

    /// Adds a pair to the bucket. Keys ascend.
    ///
    /// # Errors
    /// As [`Writer::bucket`]; also for an empty key or one of more than 32 KiB.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let Some(mut bucket) = self.bucket.take() else { return Err(out_of_order()) };
        let ascends = bucket.last.as_deref().is_none_or(|last| last < key);
        if !ascends || key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(out_of_order());
        }
        if !bucket.leaf.fits(key, value) {
            self.leaf(&mut bucket)?;
        }
        bucket.leaf.push(0, key, value);
        let last = bucket.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        self.bucket = Some(bucket);
        Ok(())
    }

    /// Ends the file. Returns `out`, flushed, and the bytes of the file.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn finish(mut self) -> Result<(W, u64), Error> {
        self.end_bucket()?;
        let mut root =
            Bucket { name: Vec::new(), leaf: Elements::default(), levels: Vec::new(), last: None };
        for (name, page) in std::mem::take(&mut self.roots) {
            // Root page and sequence.
            let value = [page.to_le_bytes(), [0; 8]].concat();
            if !root.leaf.fits(&name, &value) {
                self.leaf(&mut root)?;
            }
            root.leaf.push(IS_BUCKET, &name, &value);
        }
        let root = self.top(root)?;
        let meta = Meta {
            page_bytes: PAGE_BYTES,
            root,
            freelist: FREELIST_PAGE,
            pages: self.next,
            transaction: 1,
        };
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&meta.encode(0))?;
        self.out.write_all(&Meta { transaction: 0, ..meta }.encode(1))?;
        self.out.flush()?;
        Ok((self.out, self.next * PAGE_BYTES as u64))
    }

    fn end_bucket(&mut self) -> Result<(), Error> {
        let Some(mut bucket) = self.bucket.take() else { return Ok(()) };
        let name = std::mem::take(&mut bucket.name);
        let root = self.top(bucket)?;
        self.roots.push((name, root));
        Ok(())
    }

    /// Writes the leaf being filled and hands it to the level above.
    fn leaf(&mut self, bucket: &mut Bucket) -> Result<(), Error> {
        let leaf = std::mem::take(&mut bucket.leaf);
        let first = leaf.items.first().map(|item| item.1.clone()).unwrap_or_default();
        let page = self.write_leaf(&leaf)?;
        self.child(bucket, 0, first, page)
    }

    /// Adds a child to a level; writes the level's pages that are full.
    fn child(
        &mut self,
        bucket: &mut Bucket,
        at: usize,
        first: Vec<u8>,
        page: u64,
    ) -> Result<(), Error> {
        if bucket.levels.len() == at {
            bucket.levels.push(Level::new());
        }
        let Some(level) = bucket.levels.get_mut(at) else { return Ok(()) };
        level.push((first, page));
        let full = full_branch(level);
        if level.len() < full + KEPT_BACK {
            return Ok(());
        }
        let children: Level = level.drain(..full).collect();
        let (first, page) = self.write_branch(children)?;
        self.child(bucket, at + 1, first, page)
    }

    /// Writes what is left of a tree; its root page.
    fn top(&mut self, mut bucket: Bucket) -> Result<u64, Error> {
        if bucket.levels.is_empty() {
            return self.write_leaf(&bucket.leaf);
        }
        self.leaf(&mut bucket)?;
        let mut at = 0;
        while let Some(level) = bucket.levels.get_mut(at) {
            let mut children = std::mem::take(level);
            let is_top = at + 1 == bucket.levels.len();
            if let (true, [(_, only)]) = (is_top, children.as_slice()) {
                return Ok(*only);
            }
            let full = full_branch(&children);
            if full < children.len() && children.len() >= 2 * KEPT_BACK {
                let rest = children.split_off(children.len() - KEPT_BACK);
                let (first, page) = self.write_branch(children)?;
                self.child(&mut bucket, at + 1, first, page)?;
                children = rest;
            }
            let (first, page) = self.write_branch(children)?;
            if at + 1 == bucket.levels.len() {
                return Ok(page);
            }
            self.child(&mut bucket, at + 1, first, page)?;
            at += 1;
        }
        Err(out_of_order())
    }

    fn write_leaf(&mut self, leaf: &Elements) -> Result<u64, Error> {
        let mut table = Vec::with_capacity(leaf.items.len() * ELEMENT_BYTES);
        let mut body = Vec::with_capacity(leaf.bytes);
        for (at, (flags, key, value)) in leaf.items.iter().enumerate() {
            let offset = (leaf.items.len() - at) * ELEMENT_BYTES + body.len();
            for number in [*flags, length(offset)?, length(key.len())?, length(value.len())?] {
                table.extend_from_slice(&number.to_le_bytes());
            }
            body.extend_from_slice(key);
            body.extend_from_slice(value);
        }
        self.write_page(LEAF, leaf.items.len(), &table, &body)
    }

    /// Writes a branch page; its first key and number.
    fn write_branch(&mut self, children: Level) -> Result<(Vec<u8>, u64), Error> {
        let mut table = Vec::with_capacity(children.len() * ELEMENT_BYTES);
        let mut body = Vec::new();
        for (at, (key, page)) in children.iter().enumerate() {
            let offset = (children.len() - at) * ELEMENT_BYTES + body.len();
            for number in [length(offset)?, length(key.len())?] {
                table.extend_from_slice(&number.to_le_bytes());
            }
            table.extend_from_slice(&page.to_le_bytes());
            body.extend_from_slice(key);
        }
        let count = children.len();
        let first = children.into_iter().next().map(|child| child.0).unwrap_or_default();
        Ok((first, self.write_page(BRANCH, count, &table, &body)?))
    }

    fn write_page(
        &mut self,
        flags: u16,
        count: usize,
        table: &[u8],
        body: &[u8],
    ) -> Result<u64, Error> {
        let id = self.next;
        let bytes = HEADER_BYTES + table.len() + body.len();
        let pages = bytes.div_ceil(PAGE_BYTES);
        let count = u16::try_from(count).map_err(|_| out_of_order())?;
        let header = Header { id, flags, count, overflow: length(pages - 1)? };
        self.out.write_all(&header.encode())?;
        self.out.write_all(table)?;
        self.out.write_all(body)?;
        self.out.write_all(&[0; PAGE_BYTES_MAX][..pages * PAGE_BYTES - bytes])?;
        self.next += pages as u64;
        Ok(id)
    }
}

/// How many of `children` fit into one page; two at least, so that a tree gets narrower upwards.
fn full_branch(children: &[(Vec<u8>, u64)]) -> usize {
    let mut bytes = HEADER_BYTES;
    let mut count = 0;
    for (key, _) in children {
        bytes += ELEMENT_BYTES + key.len();
        if bytes > PAGE_BYTES {
            break;
        }
        count += 1;
    }
    count.max(2)
}

fn length(number: usize) -> Result<u32, Error> {
    u32::try_from(number).map_err(|_| Error::NotEtcd("a value of 4 GiB does not fit".to_owned()))
}

fn out_of_order() -> Error {
    Error::NotEtcd("keys and buckets must ascend and be of 1 to 32768 bytes".to_owned())
}
