use std::sync::Arc;

use super::*;

fn disks() -> Vec<(&'static str, Arc<dyn Disk>, Option<tempfile::TempDir>)> {
    let dir = tempfile::tempdir().unwrap();
    let real = DirDisk::open(&dir.path().join("made/on/the/way")).unwrap();
    vec![("real", Arc::new(real), Some(dir)), ("faulty", Arc::new(FaultDisk::new(1)), None)]
}

#[test]
fn both_disks_do_the_same() {
    for (name, disk, _dir) in disks() {
        let file = disk.create("b").unwrap();
        assert!(file.is_empty().unwrap(), "{name}");
        assert_eq!(disk.create("b").unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{name}");
        file.zero_fill(0, 200_000).unwrap();
        file.write_at(b"hello", 3).unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 200_000, "{name}");
        let mut bytes = [9; 7];
        file.read_at(&mut bytes, 2).unwrap();
        assert_eq!(&bytes, b"\0hello\0", "{name}");
        let end = file.read_at(&mut bytes, 199_999).unwrap_err().kind();
        assert_eq!(end, io::ErrorKind::UnexpectedEof, "{name}");
        file.set_len(4).unwrap();
        assert_eq!(file.len().unwrap(), 4, "{name}");

        disk.create("a").unwrap().write_at(b"x", 0).unwrap();
        assert_eq!(disk.list().unwrap(), ["a", "b"], "{name}");
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list().unwrap(), ["b"], "{name}");
        assert_eq!(disk.open("b").unwrap().len().unwrap(), 1, "{name}");
        disk.sync().unwrap();
        disk.remove("b").unwrap();
        for error in [disk.remove("b"), disk.rename("b", "c"), disk.open("b").map(drop)] {
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
        }
    }
}

#[test]
fn a_directory_has_one_holder_at_a_time() {
    for (name, disk, _dir) in disks() {
        let held = disk.lock().unwrap();
        assert_eq!(disk.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock, "{name}");
        drop(held);
        disk.lock().unwrap();
    }
}

#[test]
fn a_power_cut_tears_what_was_not_synced_and_nothing_else() {
    let (mut old, mut new, mut lost, mut kept) = (0, 0, 0, 0);
    for seed in 0..50 {
        let disk = FaultDisk::new(seed);
        let file = disk.create("named").unwrap();
        file.write_at(&[1; 4096], 0).unwrap();
        file.sync().unwrap();
        disk.sync().unwrap();
        file.write_at(&[2; 4096], 512).unwrap();
        disk.create("unnamed").unwrap().sync().unwrap();
        disk.power_cut();

        assert!(file.len().is_err(), "a handle outlived its power");
        let bytes = disk.contents("named").unwrap();
        assert_eq!(bytes[..512], [1; 512], "a synced sector that nobody wrote to has changed");
        for sector in bytes[512..4096].chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
            if sector[0] == 1 { old += 1 } else { new += 1 }
        }
        if disk.contents("unnamed").is_some() { kept += 1 } else { lost += 1 }
    }
    assert!(old > 50 && new > 50 && lost > 10 && kept > 10, "{old} {new} {lost} {kept}");
}

#[test]
fn a_failed_sync_forgets_what_it_should_have_written() {
    let disk = FaultDisk::new(3);
    let file = disk.create("f").unwrap();
    file.write_at(&[1; 512], 0).unwrap();
    file.sync().unwrap();
    disk.sync().unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    disk.set_faults(Faults { sync_fails_at: Some(1), ..Faults::default() });
    assert!(file.sync().is_err());
    file.sync().expect("the second sync lies");
    assert_eq!(disk.contents("f").unwrap(), [2; 512]);
    disk.power_cut();
    assert_eq!(disk.contents("f").unwrap(), [1; 512]);
}

#[test]
fn a_disk_is_full_and_a_power_fails_when_told_to() {
    let disk = FaultDisk::new(4);
    let file = disk.create("f").unwrap();
    disk.set_faults(Faults { free_bytes: Some(1000), ..Faults::default() });
    file.write_at(&[1; 600], 0).unwrap();
    file.write_at(&[2; 600], 0).expect("overwriting takes no space");
    let error = file.write_at(&[3; 600], 600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);

    disk.set_faults(Faults { power_fails_at_operation: Some(2), ..Faults::default() });
    file.write_at(&[4; 512], 0).unwrap();
    assert!(file.sync().is_err());
    assert!(disk.list().is_err());
    disk.power_cut();
    assert!(disk.list().is_ok());
}
