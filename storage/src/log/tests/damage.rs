//! Bytes that changed on disk: found and named, never repaired by forgetting.

use super::*;
use crate::{
    disk::Disk as _,
    log::record::{
        HEADER_USED_BYTES, Header, Kind, RECORD_HEADER_BYTES, Stamp, decode_segment_header,
        record_bytes,
    },
};

/// The same files on another disk, some changed on the way.
fn copy(disk: &FaultDisk, change: impl Fn(&str, &mut Vec<u8>)) -> FaultDisk {
    let copy = FaultDisk::new(99);
    for name in disk.list().unwrap() {
        let mut bytes = disk.contents(&name).unwrap();
        change(&name, &mut bytes);
        let file = copy.create(&name).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync().unwrap();
    }
    copy.sync().unwrap();
    copy
}

/// A log of several segments, every row in a drain of its own.
fn sample() -> FaultDisk {
    let disk = FaultDisk::new(1);
    let mut wal = open(&disk).unwrap();
    wal.set_meta(1, b"vote").unwrap();
    for index in 1..=40 {
        fill(&mut wal, index, index, 1000);
        wal.sync().unwrap();
        if index == 20 {
            wal.truncate_after(Some(18)).unwrap();
            fill(&mut wal, 19, 20, 900);
        }
    }
    disk
}

#[test]
fn a_flipped_byte_is_found_named_and_never_costs_a_synced_row() {
    let disk = sample();
    let names: Vec<String> = disk.list().unwrap();
    let segments: Vec<&String> = names.iter().filter(|name| name.ends_with(".wal")).collect();
    assert!(segments.len() >= 3, "{names:?}");
    let all = indexes(&open(&copy(&disk, |_, _| ())).unwrap());
    let last_row = (100..16_000).rev();
    let last_bytes = disk.contents(segments[segments.len() - 1]).unwrap();
    // The last drain is one row of 1024 bytes; behind it all is zero.
    let end = last_row.clone().find(|&at| last_bytes[at] != 0).unwrap();
    let last_drain = end.next_multiple_of(8) - 1024;

    let (mut found, mut harmless) = (0, 0);
    for (position, name) in segments.iter().enumerate() {
        let is_last = position + 1 == segments.len();
        for offset in (0..if is_last { last_drain } else { 16 << 10 }).step_by(11) {
            let damaged = copy(&disk, |changed, bytes| {
                if changed == name.as_str() {
                    bytes[offset] ^= 1 << (offset % 8);
                }
            });
            match open(&damaged) {
                Ok(wal) => {
                    assert_eq!(indexes(&wal), all, "{name} at {offset}");
                    harmless += 1;
                }
                Err(Error::Corrupt { what, .. }) => {
                    assert!(what.contains(name.as_str()), "{name} at {offset}: {what}");
                    let (_, at) = what.rsplit_once("offset ").unwrap();
                    let at: usize = at.parse().unwrap();
                    assert!(at <= offset && offset < at + 4096, "{name} at {offset}: {what}");
                    found += 1;
                }
                Err(other) => panic!("{name} at {offset}: {other}"),
            }
        }
    }
    // Only unused bytes of a header page, padding, and the space behind a seal may change unseen.
    assert!(found > 2 * harmless, "{found} found, {harmless} harmless");
}

#[test]
fn damage_in_the_very_last_drain_is_cut_like_a_torn_write() {
    let disk = sample();
    let name = disk.list().unwrap().into_iter().rfind(|name| name.ends_with(".wal")).unwrap();
    let bytes = disk.contents(&name).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let damaged = copy(&disk, |changed, bytes| {
        if changed == name {
            bytes[end] ^= 1;
        }
    });
    assert_eq!(open(&damaged).unwrap().bounds(), Some((1, 39)));
}

#[test]
fn a_missing_segment_is_found() {
    let disk = sample();
    let segments: Vec<String> =
        disk.list().unwrap().into_iter().filter(|name| name.ends_with(".wal")).collect();
    for name in &segments[..segments.len() - 1] {
        let damaged = copy(&disk, |_, _| ());
        damaged.remove(name).unwrap();
        let error = open(&damaged).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{name}: {error}");
        assert!(error.to_string().contains("a file is missing"), "{name}: {error}");
    }
}

#[test]
fn a_segment_that_lost_its_end_is_found() {
    let disk = sample();
    for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".wal")) {
        for len in [0, 100, 4096, 6000, 8192] {
            let damaged = copy(&disk, |changed, bytes| {
                if changed == name {
                    bytes.truncate(len);
                }
            });
            let error = open(&damaged).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{name} to {len}: {error}");
        }
    }
}

#[test]
fn a_segment_under_another_name_is_not_taken_for_its_namesake() {
    let disk = sample();
    let segments: Vec<String> =
        disk.list().unwrap().into_iter().filter(|name| name.ends_with(".wal")).collect();
    disk.rename(&segments[0], "x").unwrap();
    disk.rename(&segments[1], &segments[0]).unwrap();
    disk.rename("x", &segments[1]).unwrap();
    disk.process_killed();
    let error = open(&disk).unwrap_err().to_string();
    assert!(error.contains("its header says it is segment 2"), "{error}");
}

/// Rows 1 (synced), then 2, 3 and 4 (written without a sync) of one sector or more each, of
/// which row 2 never reached the disk.
fn torn(with_later_drain: bool) -> FaultDisk {
    let disk = FaultDisk::new(1);
    let mut wal = open(&disk).unwrap();
    fill(&mut wal, 1, 1, 1000);
    wal.sync().unwrap();
    let start = wal.written;
    fill(&mut wal, 2, 4, 1000);
    wal.sync().unwrap();
    if with_later_drain {
        fill(&mut wal, 5, 5, 1000);
        wal.sync().unwrap();
    }
    let start = usize::try_from(start).unwrap();
    copy(&disk, |name, bytes| {
        if name.ends_with(".wal") {
            bytes[start..start + 1024].fill(0);
        }
    })
}

#[test]
fn a_torn_drain_is_cut_and_what_lies_behind_never_comes_back() {
    let disk = torn(false);
    let mut wal = open(&disk).unwrap();
    assert_eq!(wal.bounds(), Some((1, 1)));
    // A row of the same size: what was row 3 would now follow it without a seam.
    fill(&mut wal, 2, 2, 1000);
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(open(&disk).unwrap().bounds(), Some((1, 2)));
}

#[test]
fn a_hole_that_a_later_drain_calls_durable_is_corruption() {
    let error = open(&torn(true)).unwrap_err().to_string();
    assert!(error.contains("0000000000000001.wal at offset "), "{error}");
    assert!(error.contains("restore this member from a peer or a backup"), "{error}");
}

#[test]
fn a_row_that_decays_while_the_log_is_open_is_not_read() {
    let disk = sample();
    disk.process_killed();
    let wal = open(&disk).unwrap();
    let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".wal")).unwrap();
    assert!(disk.flip_bit(&name, 4096 + 24 + 3000, 2));
    let error = wal.read(1, 10, usize::MAX).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

/// CVE-2020-15106: a reader that took a length for granted.
#[test]
fn a_forged_length_is_not_believed() {
    let disk = sample();
    for len in [u32::MAX, 1 << 31, 12_000, 0] {
        let damaged = copy(&disk, |name, bytes| {
            if name.ends_with(".wal") {
                bytes[4096 + 4..4096 + 8].copy_from_slice(&len.to_le_bytes());
            }
        });
        let opened = open(&damaged);
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "{len}: {opened:?}");
    }
}

/// CVE-2020-15112: whoever can write a file can make a right checksum, too. A row that does not
/// follow the one before is corruption; whatever else is claimed is judged without a panic and
/// without believing a length.
#[test]
fn forged_headers_with_right_checksums_are_found_out() {
    let disk = sample();
    let (mut rows, mut others) = (0, 0);
    for (name, at, header) in records(&disk) {
        let mut forgeries = Vec::new();
        for index in [0, 1, header.index ^ 1, 1 << 40, u64::MAX - 1, u64::MAX] {
            forgeries.push(Header { index, ..header });
        }
        for len in [0, header.len + 24, 12_000, 1 << 31, u32::MAX] {
            forgeries.push(Header { len, ..header });
        }
        for synced in [0, 1 << 31, u32::MAX] {
            forgeries.push(Header { synced, ..header });
        }
        for forged in forgeries.into_iter().filter(|forged| *forged != header) {
            let damaged = copy(&disk, |other, bytes| {
                if *other == *name {
                    forge(bytes, at, forged);
                }
            });
            let opened = open(&damaged);
            let is_wrong_row = header.kind == Kind::Row && forged.index != header.index;
            if is_wrong_row {
                assert!(matches!(opened, Err(Error::Corrupt { .. })), "{name} {at}: {forged:?}");
                rows += 1;
            } else {
                // No panic, and rows that follow each other or an error that names the place.
                if let Ok(wal) = opened {
                    assert!(indexes(&wal).is_sorted(), "{name} {at}: {forged:?}");
                }
                others += 1;
            }
        }
    }
    assert!(rows > 100 && others > 100, "{rows} and {others} forgeries prove nothing");
}

/// Every record of every segment: file, place and header.
fn records(disk: &FaultDisk) -> Vec<(String, usize, Header)> {
    let mut found = Vec::new();
    for name in disk.list().unwrap().into_iter().filter(|name| name.ends_with(".wal")) {
        let bytes = disk.contents(&name).unwrap();
        let (_, stamp) = stamp_of(&bytes);
        let mut at = 4096;
        while let Some(head) = bytes.get(at..at + RECORD_HEADER_BYTES) {
            let Some(header) = stamp.parse(head.try_into().unwrap()) else { break };
            found.push((name.clone(), at, header));
            at += record_bytes(header.len as usize);
        }
    }
    found
}

fn stamp_of(bytes: &[u8]) -> (u64, Stamp) {
    let head = bytes[..HEADER_USED_BYTES].try_into().unwrap();
    decode_segment_header(head, bytes.len() as u64).unwrap()
}

/// Puts another header in place, with a checksum over it and over as much as it claims and there is.
fn forge(bytes: &mut [u8], at: usize, forged: Header) {
    let (_, stamp) = stamp_of(bytes);
    let start = at + RECORD_HEADER_BYTES;
    let end = start.saturating_add(forged.len as usize).min(bytes.len());
    let payload = bytes[start..end].to_vec();
    let len = u32::try_from(payload.len()).unwrap();
    let mut made = Vec::new();
    stamp.encode(Header { len, ..forged }, &[&payload], &mut made);
    bytes[at..start].copy_from_slice(&made[..RECORD_HEADER_BYTES]);
    // Beyond the file no checksum can be right.
    bytes[at + 4..at + 8].copy_from_slice(&forged.len.to_le_bytes());
}
