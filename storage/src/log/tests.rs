//! The log against the real file system and against a disk that fails on demand.

mod damage;
mod model;

use proptest::prelude::*;

use super::*;
use crate::disk::{FaultDisk, Faults};

const SMALL: WalOptions = WalOptions { segment_bytes: 16 << 10 };

fn open(disk: &FaultDisk) -> Result<Wal, Error> {
    Wal::open_in(Arc::new(disk.clone()), SMALL)
}

/// Rows `from..=to`, each its index and filler up to `bytes`.
fn fill(wal: &mut Wal, from: u64, to: u64, bytes: usize) {
    for index in from..=to {
        wal.append(index, &[&payload(index, bytes)]).unwrap();
    }
}

fn payload(index: u64, bytes: usize) -> Vec<u8> {
    let mut payload = index.to_le_bytes().to_vec();
    payload.resize(bytes.max(8), b'.');
    payload
}

fn indexes(wal: &Wal) -> Vec<u64> {
    let rows = wal.read(0, u64::MAX, usize::MAX).unwrap();
    rows.iter().map(|row| row.index).collect()
}

fn text(error: &Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

#[test]
fn rows_and_records_come_back_from_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let mut wal = Wal::open(&path, SMALL).unwrap();
    assert_eq!((wal.bounds(), wal.purged(), wal.meta(1)), (None, None, None));
    wal.append(0, &[b"one", b"", b"row"]).unwrap();
    fill(&mut wal, 1, 99, 700);
    wal.set_meta(1, b"vote").unwrap();
    wal.set_meta(2, b"committed").unwrap();
    wal.set_meta(1, b"other vote").unwrap();
    wal.truncate_after(Some(89)).unwrap();
    wal.purge_to(49, b"purged id").unwrap();
    wal.sync().unwrap();
    drop(wal);

    let mut wal = Wal::open(&path, SMALL).unwrap();
    assert_eq!(wal.bounds(), Some((50, 89)));
    assert_eq!(wal.purged(), Some((49, Bytes::from_static(b"purged id"))));
    assert_eq!(wal.meta(1).unwrap(), "other vote");
    assert_eq!(wal.meta(2).unwrap(), "committed");
    fill(&mut wal, 90, 91, 10);
    assert_eq!(wal.read(89, 92, 1 << 20).unwrap()[1].payload, payload(90, 10));
    wal.truncate_after(None).unwrap();
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(Wal::open(&path, SMALL).unwrap().bounds(), None);
}

#[test]
fn a_read_keeps_to_its_range_and_near_its_bytes() {
    let mut wal = open(&FaultDisk::new(1)).unwrap();
    fill(&mut wal, 10, 59, 1000); // about 4 segments of 11 rows
    wal.sync().unwrap();
    fill(&mut wal, 60, 61, 1000);
    wal.write().unwrap();
    fill(&mut wal, 62, 63, 1000);
    let all: Vec<u64> = (10..64).collect();
    let cases: [(u64, u64, usize, &[u64]); 9] = [
        (0, u64::MAX, usize::MAX, &all),
        (10, 64, usize::MAX, &all),
        (12, 14, usize::MAX, &[12, 13]),
        (12, 60, 0, &[12]),
        (12, 60, 1024, &[12]),
        (12, 60, 2048, &[12, 13]),
        (61, 64, usize::MAX, &[61, 62, 63]),
        (64, 70, usize::MAX, &[]),
        (20, 20, usize::MAX, &[]),
    ];
    for (from, to, max_bytes, want) in cases {
        let rows = wal.read(from, to, max_bytes).unwrap();
        let got: Vec<u64> = rows.iter().map(|row| row.index).collect();
        assert_eq!(got, want, "{from}..{to} of {max_bytes}");
        for row in rows {
            assert_eq!(row.payload, payload(row.index, 1000));
        }
    }
}

#[test]
fn a_small_read_does_not_load_what_was_truncated_in_between() {
    let mut wal = Wal::open_in(Arc::new(FaultDisk::new(1)), WalOptions::default()).unwrap();
    fill(&mut wal, 1, 1, 100);
    fill(&mut wal, 2, 2000, 1000);
    wal.truncate_after(Some(1)).unwrap();
    fill(&mut wal, 2, 2, 100);
    wal.sync().unwrap();
    let rows = wal.read(1, 3, 300).unwrap();
    assert_eq!(rows.iter().map(|row| row.index).collect::<Vec<_>>(), [1, 2]);
    assert!(rows[0].payload.len() == 100 && rows[1].payload.len() == 100);
}

#[test]
fn an_index_that_does_not_follow_is_refused_and_harms_nothing() {
    let mut wal = open(&FaultDisk::new(1)).unwrap();
    fill(&mut wal, 5, 7, 10);
    for index in [0, 4, 7, 9, u64::MAX] {
        assert!(wal.append(index, &[b"x"]).is_err(), "{index}");
    }
    fill(&mut wal, 8, 8, 10);
    wal.purge_to(20, b"snapshot").unwrap();
    assert!(wal.append(9, &[b"x"]).is_err());
    fill(&mut wal, 21, 22, 10);
    wal.purge_to(3, b"older").unwrap();
    assert_eq!(wal.purged().unwrap().0, 20);
    assert_eq!(wal.bounds(), Some((21, 22)));
    assert!(wal.set_meta(1, &vec![0; META_BYTES_MAX + 1]).is_err());
    wal.sync().unwrap();
    assert_eq!(indexes(&wal), [21, 22]);
}

#[test]
fn a_row_larger_than_a_segment_gets_one_of_its_own() {
    let disk = FaultDisk::new(1);
    let mut wal = open(&disk).unwrap();
    fill(&mut wal, 1, 2, 100);
    fill(&mut wal, 3, 3, 100_000);
    fill(&mut wal, 4, 5, 100);
    wal.sync().unwrap();
    drop(wal);
    let mut wal = open(&disk).unwrap();
    assert_eq!(wal.read(3, 4, 10).unwrap()[0].payload, payload(3, 100_000));
    assert_eq!(indexes(&wal), [1, 2, 3, 4, 5]);
    // Its file is not one to recycle.
    fill(&mut wal, 6, 40, 1000);
    wal.purge_to(39, b"").unwrap();
    wal.sync().unwrap();
    let longest = disk.list().unwrap().iter().map(|name| disk.contents(name).unwrap().len()).max();
    assert_eq!(longest, Some(16 << 10));
}

#[test]
fn one_drain_is_one_sync() {
    let disk = FaultDisk::new(1);
    let mut wal = open(&disk).unwrap();
    let (operations, syncs) = disk.counts();
    fill(&mut wal, 1, 5, 100);
    wal.set_meta(1, b"x").unwrap();
    wal.sync().unwrap();
    assert_eq!(disk.counts(), (operations + 2, syncs + 1), "one pwrite and one sync");
    wal.sync().unwrap();
    wal.set_meta(1, b"x").unwrap();
    wal.sync().unwrap();
    assert_eq!(disk.counts(), (operations + 2, syncs + 1), "nothing new: no sync");
}

#[test]
fn purged_segments_are_recycled_and_their_number_is_bounded() {
    let disk = FaultDisk::new(1);
    let mut wal = open(&disk).unwrap();
    wal.set_meta(7, b"survives").unwrap();
    let mut index = 0;
    for round in 0..60 {
        fill(&mut wal, index, index + 29, 1000);
        index += 30;
        wal.sync().unwrap();
        wal.purge_to(index - 4, format!("round {round}").as_bytes()).unwrap();
        wal.sync().unwrap();
        let files = disk.list().unwrap();
        assert!(files.len() <= 7, "round {round}: {files:?}");
        assert!(wal.size_bytes() <= 8 * (16 << 10), "round {round}: {}", wal.size_bytes());
        if round % 7 == 0 {
            drop(wal);
            wal = open(&disk).unwrap();
        }
        assert_eq!(indexes(&wal), [index - 3, index - 2, index - 1], "round {round}");
        assert_eq!(wal.meta(7).unwrap(), "survives");
        assert_eq!(wal.purged().unwrap().1, format!("round {round}"));
    }
    let free = disk.list().unwrap().iter().filter(|name| name.ends_with(".free")).count();
    assert!(free > 0, "nothing was recycled");
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let first = Wal::open(dir.path(), SMALL).unwrap();
    let refused = text(&Wal::open(dir.path(), SMALL).unwrap_err());
    assert!(refused.contains("another process uses it"), "{refused}");
    drop(first);
    Wal::open(dir.path(), SMALL).unwrap();
}

#[test]
fn a_failed_sync_or_write_is_the_end_of_the_log() {
    for fault in ["sync", "write"] {
        let disk = FaultDisk::new(1);
        let mut wal = open(&disk).unwrap();
        fill(&mut wal, 1, 3, 100);
        wal.sync().unwrap();
        fill(&mut wal, 4, 6, 100);
        let (faults, failed) = if fault == "sync" {
            (Faults { sync_fails_at: Some(1), ..Faults::default() }, "cannot sync log segment")
        } else {
            let faults = Faults { power_fails_at_operation: Some(1), ..Faults::default() };
            (faults, "cannot write log segment")
        };
        disk.set_faults(faults);
        let first = text(&wal.sync().unwrap_err());
        assert!(first.contains(failed), "{first}");
        let (_, syncs) = disk.counts();
        let again = [
            wal.sync(),
            wal.write(),
            wal.append(7, &[b"x"]),
            wal.set_meta(1, b"x"),
            wal.truncate_after(None),
            wal.purge_to(2, b""),
            wal.read(1, 9, 9).map(drop),
        ];
        for result in again {
            let error = text(&result.unwrap_err());
            assert!(error.contains("failed before") && error.contains(failed), "{error}");
        }
        assert_eq!(disk.counts().1, syncs, "a sync was tried again after a failure");
        disk.power_cut();
        assert!(indexes(&open(&disk).unwrap()).starts_with(&[1, 2, 3]));
    }
}

#[test]
fn a_full_disk_says_what_to_do_and_loses_nothing() {
    let disk = FaultDisk::new(1);
    let mut wal = open(&disk).unwrap();
    disk.set_faults(Faults { free_bytes: Some(20_000), ..Faults::default() });
    let mut synced = 0;
    let error = loop {
        let next = synced + 1;
        match wal.append(next, &[&payload(next, 1000)]).and_then(|()| wal.sync()) {
            Ok(()) => synced = next,
            Err(error) => break text(&error),
        }
    };
    assert!(synced > 15, "only {synced} rows fitted into two segments");
    assert!(error.contains("the disk of memory is full; free at least 16384 bytes"), "{error}");
    assert!(wal.sync().is_err());
    drop(wal);
    assert!(open(&disk).is_err(), "still full");
    disk.set_faults(Faults::default());
    let mut wal = open(&disk).unwrap();
    assert_eq!(indexes(&wal), (1..=synced).collect::<Vec<_>>());
    fill(&mut wal, synced + 1, synced + 50, 1000);
    wal.sync().unwrap();
}

#[test]
fn a_new_log_takes_no_notice_of_the_remains_of_an_old_one() {
    let disk = FaultDisk::new(1);
    for name in ["ahead.new", "0000000000000005.free", "lost+found", "readme"] {
        disk.create(name).unwrap().write_at(b"junk", 0).unwrap();
    }
    let mut wal = open(&disk).unwrap();
    fill(&mut wal, 1, 100, 500);
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(open(&disk).unwrap().bounds(), Some((1, 100)));
    assert!(disk.contents("readme").is_some(), "a stranger's file was removed");
}

proptest! {
    /// CVE-2020-15106.
    #[test]
    fn arbitrary_bytes_as_a_segment_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        fuzz_segment(&bytes);
    }

    /// CVE-2020-15112.
    #[test]
    fn arbitrary_records_with_right_checksums_never_panic(
        records in proptest::collection::vec((0..6_u8, 0..3_u8, 0..9_u8, any::<u8>()), 0..40),
    ) {
        let mut bytes = vec![1];
        for (kind, arg, index, synced) in records {
            bytes.extend_from_slice(&[kind, arg, index, index * 31, 0, synced]);
        }
        fuzz_segment(&bytes);
    }
}
