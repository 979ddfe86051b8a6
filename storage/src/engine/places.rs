//! Room in sled's pages for large values that are about to come.
//!
//! sled splits a page by the number of its pairs (above 16, in halves), and a split writes both
//! halves with all values anew. Large values appended in ascending order are so written about four
//! times over. But a value that replaces another is one fragment more behind its page, and a page takes
//! nine of them before it is written anew. So the keys come first, each with the tiny value that says
//! "a place": pages split while they are small, and every large value is written once.
//!
//! The places are no part of the batch. Readers look through them ([`is_place`]), so what a crash
//! leaves of them is no harm: a few bytes each, until the store is rewritten.

use bytes::Bytes;

/// What stands for a value to come. No row of ours has this value.
const PLACE: &[u8] = b"\xf3place to come\x1c\xa7";
/// Fewer values than this, or smaller ones on average, are not worth it: sled's pages split at
/// twice as many.
const VALUES_MIN: usize = 8;
const VALUE_BYTES_MIN: usize = 1 << 10;

/// The pair is none: its value is yet to come.
pub(super) fn is_place(value: &[u8]) -> bool {
    value == PLACE
}

/// Makes a place for each of `appends` (ascending) where that is worth it.
pub(super) fn make(db: &sled::Db, appends: &[(Vec<u8>, Bytes)]) -> sled::Result<()> {
    let bytes: usize = appends.iter().map(|(_, value)| value.len()).sum();
    if appends.len() < VALUES_MIN || bytes < appends.len() * VALUE_BYTES_MIN {
        return Ok(());
    }
    let [(first, _), .., (last, _)] = appends else { return Ok(()) };
    // A place over a value would lose it. Nothing is there, says our caller; this costs one page.
    for pair in db.range(&first[..]..=&last[..]) {
        if !is_place(&pair?.1) {
            return Ok(());
        }
    }
    // One by one: sled takes the pairs of a batch in no order, and pages grown in order split so that
    // nine pairs stay.
    for (key, _) in appends {
        db.insert(key, PLACE)?;
    }
    Ok(())
}
