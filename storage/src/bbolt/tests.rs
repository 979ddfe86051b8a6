use std::{collections::BTreeMap, io::Cursor};

use proptest::prelude::*;

use super::*;

type Buckets = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

fn write(buckets: &Buckets) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    for (name, pairs) in buckets {
        writer.bucket(name).unwrap();
        for (key, value) in pairs {
            writer.put(key, value).unwrap();
        }
    }
    let (out, size) = writer.finish().unwrap();
    let bytes = out.into_inner();
    assert_eq!(bytes.len() as u64, size);
    bytes
}

fn read(bytes: Vec<u8>) -> Result<Buckets, Error> {
    let reader = Reader::open(bytes)?;
    let mut buckets = Buckets::new();
    let mut current = Vec::new();
    reader.walk(|place| {
        match place {
            Place::Bucket(name) => {
                current = name.to_vec();
                buckets.insert(current.clone(), BTreeMap::new());
            }
            Place::Pair(key, value) => {
                buckets.entry(current.clone()).or_default().insert(key.to_vec(), value.to_vec());
            }
        }
        Ok::<_, Error>(true)
    })?;
    Ok(buckets)
}

fn numbered(count: u64, value: impl Fn(u64) -> Vec<u8>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    (0..count).map(|at| (at.to_be_bytes().to_vec(), value(at))).collect()
}

fn sample() -> Buckets {
    Buckets::from([
        (b"a".to_vec(), BTreeMap::new()),
        (b"key".to_vec(), numbered(3000, |at| vec![7; usize::try_from(at % 200).unwrap()])),
        (b"large".to_vec(), numbered(5, |at| [1].repeat(20_000 * usize::try_from(at).unwrap()))),
        (b"one".to_vec(), numbered(1, |_| vec![])),
    ])
}

#[test]
fn what_is_written_is_read_whatever_the_height_of_the_tree() {
    for count in [0, 1, 2, 30, 250, 251, 252, 253, 254, 1000, 40_000, 100_000] {
        let buckets = Buckets::from([(b"key".to_vec(), numbered(count, |_| b"v".to_vec()))]);
        assert!(read(write(&buckets)).unwrap() == buckets, "{count} pairs");
    }
    assert_eq!(read(write(&sample())).unwrap(), sample());
    assert_eq!(read(write(&Buckets::new())).unwrap(), Buckets::new());
    // Long keys: few children fit into a branch page, or none does.
    for len in [700, 1500, 5000] {
        let pairs = (0..100_u64).map(|at| {
            let mut key = vec![b'k'; len];
            key.extend_from_slice(&at.to_be_bytes());
            (key, vec![0; 2000])
        });
        let buckets = Buckets::from([(b"key".to_vec(), pairs.collect())]);
        assert!(read(write(&buckets)).unwrap() == buckets, "keys of {len} bytes");
    }
}

#[test]
fn no_branch_page_has_a_lone_child() {
    for count in (1..2200).step_by(7).chain([100_000]) {
        let bytes = write(&Buckets::from([(b"key".to_vec(), numbered(count, |_| vec![0; 600]))]));
        let mut at = 0;
        while at < bytes.len() {
            let header = page::Header::decode(&bytes[at..]).unwrap();
            assert!(header.flags != page::BRANCH || header.count > 1, "{count} pairs, byte {at}");
            at += 4096 * (header.overflow as usize + 1);
        }
    }
}

#[test]
fn one_damaged_meta_page_is_survived_and_two_are_not() {
    for damaged in [0, 4096] {
        let mut bytes = write(&sample());
        bytes[damaged + 30] ^= 1;
        assert_eq!(read(bytes).unwrap(), sample(), "meta at {damaged}");
    }
    let mut bytes = write(&sample());
    bytes[30] ^= 1;
    bytes[4096 + 30] ^= 1;
    assert!(matches!(read(bytes), Err(Error::NotADatabase(_))));
}

#[test]
fn a_file_that_is_cut_short_says_so() {
    let mut bytes = write(&sample());
    bytes.truncate(bytes.len() - 4096);
    assert!(matches!(read(bytes), Err(Error::CutShort { .. })));
    assert!(matches!(read(vec![0; 9000]), Err(Error::NotADatabase(_))));
    assert!(matches!(read(Vec::new()), Err(Error::NotADatabase(_))));
}

#[test]
fn a_page_that_leads_to_itself_is_refused() {
    let buckets = Buckets::from([(b"key".to_vec(), numbered(5000, |_| vec![9; 100]))]);
    let good = write(&buckets);
    let branch = (0..good.len())
        .step_by(4096)
        .find(|&at| page::Header::decode(&good[at..]).unwrap().flags == page::BRANCH)
        .unwrap();
    let mut bytes = good;
    bytes[branch + 24..branch + 32].copy_from_slice(&(branch as u64 / 4096).to_le_bytes());
    assert!(matches!(read(bytes), Err(Error::Damaged { .. })));
}

#[test]
fn keys_and_buckets_out_of_order_are_refused() {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    assert!(writer.put(b"k", b"").is_err(), "outside of any bucket");
    writer.bucket(b"b").unwrap();
    writer.put(b"k", b"").unwrap();
    assert!(writer.put(b"k", b"").is_err());
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    writer.bucket(b"b").unwrap();
    assert!(writer.bucket(b"a").is_err());
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = write(&sample());
        for (at, to) in flips {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = read(bytes);
    }

    #[test]
    fn damaged_page_headers_and_tables_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..64, any::<u8>()), 1..6),
    ) {
        let mut bytes = write(&sample());
        for (page, at, to) in flips {
            let page = page.index(bytes.len() / 4096);
            bytes[page * 4096 + at] = to;
        }
        let _ = read(bytes);
    }

    #[test]
    fn bytes_of_no_kind_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        let _ = read(bytes);
    }
}
