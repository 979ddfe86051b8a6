//! Reading a database in order of its keys.

use std::{cell::Cell, fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use super::{
    Error,
    page::{
        BRANCH, BUCKET_BYTES, ELEMENT_BYTES, HEADER_BYTES, Header, IS_BUCKET, LEAF, META_BYTES,
        Meta, PAGE_BYTES_MAX, PAGE_BYTES_MIN, u32_at, u64_at,
    },
};

/// Levels of a tree at most; a branch page of the smallest size has room for several children,
/// so a real tree is far lower.
const DEPTH_MAX: usize = 32;

/// Largest page with its overflow that is read: a page holds one value beyond its size, and etcd
/// takes no request of this size.
const RUN_BYTES_MAX: u64 = 1 << 30;

/// Bytes that can be read at any place.
pub trait Source {
    /// Fills `out` from `at` on.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::UnexpectedEof`] where there are fewer bytes.
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<()>;

    /// Bytes there are.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;

    /// True where there are no bytes.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl Source for File {
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(out, at)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Source for Vec<u8> {
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..));
        let bytes = from.and_then(|from| from.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(Vec::len(self) as u64)
    }
}

/// What [`Reader::walk`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A bucket begins.
    Bucket(&'a [u8]),
    /// A pair of the bucket begun last: key and value.
    Pair(&'a [u8], &'a [u8]),
}

/// An open database.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    meta: Meta,
    /// Pages that may still be read in this walk: each is reached once in a sound file.
    budget: Cell<u64>,
}

/// Takes a leaf element: its page, flags, and where key and value lie; false ends the walk.
type Visit<'a, E> = &'a mut dyn FnMut(&Page, u32, Range<usize>, Range<usize>) -> Result<bool, E>;

/// Takes a pair; false ends the walk.
type VisitPair<'a, E> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, E>;

/// A page or an inline page in memory.
struct Page {
    id: u64,
    header: Header,
    bytes: Vec<u8>,
}

impl Page {
    fn damaged(&self, detail: &'static str) -> Error {
        Error::Damaged { page: self.id, detail }
    }

    /// Where key and value of leaf element `at` lie, and its flags.
    fn leaf(&self, at: usize) -> Option<(u32, Range<usize>, Range<usize>)> {
        let element = HEADER_BYTES + at * ELEMENT_BYTES;
        let field = |field: usize| u32_at(&self.bytes, element + 4 * field);
        let key = element.checked_add(field(1)? as usize)?;
        let value = key.checked_add(field(2)? as usize)?;
        let end = value.checked_add(field(3)? as usize)?;
        (end <= self.bytes.len()).then_some((field(0)?, key..value, value..end))
    }

    /// Child page of branch element `at`.
    fn child(&self, at: usize) -> Option<u64> {
        u64_at(&self.bytes, HEADER_BYTES + at * ELEMENT_BYTES + 8)
    }

    fn has_elements(&self) -> bool {
        usize::from(self.header.count) * ELEMENT_BYTES + HEADER_BYTES <= self.bytes.len()
    }
}

impl<S: Source> Reader<S> {
    /// Opens a database and checks its meta pages.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(source: S) -> Result<Self, Error> {
        let len = source.len()?;
        let meta_at = |at: u64| -> Result<Option<Meta>, Error> {
            let mut bytes = [0; META_BYTES];
            if at.saturating_add(META_BYTES as u64) > len {
                return Ok(None);
            }
            source.read_at(&mut bytes, at)?;
            Ok(Meta::decode(&bytes))
        };
        let mut best = meta_at(0)?;
        // Where the second one lies depends on the page size, which the first may not tell.
        let mut page_bytes = PAGE_BYTES_MIN;
        while page_bytes <= PAGE_BYTES_MAX {
            if let Some(meta) = meta_at(page_bytes as u64)?
                && meta.page_bytes == page_bytes
                && best.is_none_or(|best| meta.transaction > best.transaction)
            {
                best = Some(meta);
            }
            page_bytes *= 2;
        }
        let Some(meta) = best else {
            return Err(Error::NotADatabase("it has no valid meta page"));
        };
        let want = meta.pages.saturating_mul(meta.page_bytes as u64);
        if want > len {
            return Err(Error::CutShort { have: len, want });
        }
        Ok(Self { source, meta, budget: Cell::new(0) })
    }

    /// Bytes of the database: pages in use times the page size. The file may be longer.
    pub fn size_bytes(&self) -> u64 {
        self.meta.pages.saturating_mul(self.meta.page_bytes as u64)
    }

    /// Gives the source back.
    pub fn into_source(self) -> S {
        self.source
    }

    /// Visits all buckets and their pairs in order, until `each` returns false.
    ///
    /// # Errors
    /// [`Error`], and what `each` returns.
    pub fn walk<E: From<Error>>(
        &self,
        mut each: impl FnMut(Place<'_>) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.budget.set(self.meta.pages);
        self.tree(self.meta.root, 0, &mut None, &mut |page, flags, key, value| {
            if flags & IS_BUCKET == 0 {
                return Err(page.damaged("a pair lies outside of any bucket").into());
            }
            if !each(Place::Bucket(&page.bytes[key]))? {
                return Ok(false);
            }
            self.bucket(page, value, &mut |key, value| each(Place::Pair(key, value)))
        })?;
        Ok(())
    }

    /// Visits the pairs of one bucket in order, until `each` returns false. `Ok(false)`: there is
    /// no such bucket.
    ///
    /// # Errors
    /// [`Error`], and what `each` returns.
    pub fn pairs<E: From<Error>>(
        &self,
        bucket: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        self.budget.set(self.meta.pages);
        let mut found = false;
        self.tree(self.meta.root, 0, &mut None, &mut |page, flags, key, value| {
            if flags & IS_BUCKET == 0 || &page.bytes[key] != bucket {
                return Ok(true);
            }
            found = true;
            self.bucket(page, value, &mut each)?;
            Ok::<_, E>(false)
        })?;
        Ok(found)
    }

    /// Visits the pairs of the bucket whose value lies at `value` in `page`.
    fn bucket<E: From<Error>>(
        &self,
        page: &Page,
        value: Range<usize>,
        each: VisitPair<'_, E>,
    ) -> Result<bool, E> {
        let value = &page.bytes[value];
        let mut visit = |page: &Page, flags: u32, key: Range<usize>, value: Range<usize>| {
            if flags & IS_BUCKET != 0 {
                return Err(page.damaged("a bucket lies in a bucket").into());
            }
            each(&page.bytes[key], &page.bytes[value])
        };
        match u64_at(value, 0) {
            Some(0) => {
                let bytes = value.get(BUCKET_BYTES..).unwrap_or_default().to_vec();
                let header = Header::decode(&bytes)
                    .ok_or_else(|| page.damaged("an inline bucket is cut short"))?;
                let inline = Page { id: page.id, header, bytes };
                if header.flags & LEAF == 0 {
                    return Err(page.damaged("an inline bucket is no leaf").into());
                }
                Self::elements(&inline, &mut None, &mut visit)
            }
            Some(root) => self.tree(root, 0, &mut None, &mut visit),
            None => Err(page.damaged("a bucket is cut short").into()),
        }
    }

    /// Visits the leaf elements below page `id`; false where a visit said so.
    fn tree<E: From<Error>>(
        &self,
        id: u64,
        depth: usize,
        last: &mut Option<Vec<u8>>,
        each: Visit<'_, E>,
    ) -> Result<bool, E> {
        let page = self.page(id)?;
        if page.header.flags & LEAF != 0 {
            return Self::elements(&page, last, each);
        }
        if page.header.flags & BRANCH == 0 {
            return Err(page.damaged("it is neither branch nor leaf").into());
        }
        if depth >= DEPTH_MAX {
            return Err(page.damaged("the tree is too deep").into());
        }
        if !page.has_elements() {
            return Err(page.damaged("its count does not fit its size").into());
        }
        for at in 0..usize::from(page.header.count) {
            let child = page.child(at).ok_or_else(|| page.damaged("a child is missing"))?;
            if !self.tree(child, depth + 1, last, each)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Visits the elements of a leaf. `last` is the key before the first one.
    fn elements<E: From<Error>>(
        page: &Page,
        last: &mut Option<Vec<u8>>,
        each: Visit<'_, E>,
    ) -> Result<bool, E> {
        if !page.has_elements() {
            return Err(page.damaged("its count does not fit its size").into());
        }
        for at in 0..usize::from(page.header.count) {
            let (flags, key, value) =
                page.leaf(at).ok_or_else(|| page.damaged("an element reaches beyond it"))?;
            let bytes = &page.bytes[key.clone()];
            if last.as_deref().is_some_and(|last| last >= bytes) {
                return Err(page.damaged("its keys do not ascend").into());
            }
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(bytes);
            if !each(page, flags, key, value)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a page with its overflow.
    fn page(&self, id: u64) -> Result<Page, Error> {
        let damaged = |detail| Error::Damaged { page: id, detail };
        if id < 2 || id >= self.meta.pages {
            return Err(damaged("there is no such page"));
        }
        let at = id * self.meta.page_bytes as u64;
        let mut head = [0; HEADER_BYTES];
        self.source.read_at(&mut head, at)?;
        let header = Header::decode(&head).ok_or_else(|| damaged("it has no header"))?;
        if header.id != id {
            return Err(damaged("it bears another number"));
        }
        let run = u64::from(header.overflow) + 1;
        if run > self.meta.pages - id {
            return Err(damaged("it reaches beyond the end"));
        }
        let left = self.budget.get().checked_sub(run);
        self.budget.set(left.ok_or_else(|| damaged("pages are reached more than once"))?);
        let len = run * self.meta.page_bytes as u64;
        if len > RUN_BYTES_MAX {
            return Err(damaged("it is too long"));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| damaged("it is too long"))?];
        self.source.read_at(&mut bytes, at)?;
        Ok(Page { id, header, bytes })
    }
}
