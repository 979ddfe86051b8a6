use std::{io::Cursor, sync::Arc};

use super::*;
use crate::{
    apply::{
        Mark, StateMachine,
        tests::{machine, options, put},
    },
    auth::{AuthChange, PasswordHash},
    bbolt::{Reader, Writer},
    command::{AlarmAction, AlarmKind, Command, Compact, DeleteRange, Put, Range},
    engine::{Engine, MemoryEngine},
};

fn mark() -> Mark {
    Mark { index: 0, payload: bytes::Bytes::from_static(b"mark") }
}

fn about() -> About {
    let member = BackupMember { id: 7, peer_urls: vec!["http://a:1".into()], is_learner: false };
    About { term: 3, cluster_version: "3.5.0".into(), members: vec![member] }
}

fn delete(key: &str) -> Command {
    Command::DeleteRange(DeleteRange { key: key.to_owned().into(), ..DeleteRange::default() })
}

/// Everything that a backend knows of.
fn filled() -> StateMachine {
    let mut machine = machine();
    machine.one(Command::LeaseGrant { id: -3, ttl_s: 60 });
    machine.one(Command::LeaseGrant { id: 9, ttl_s: 100 });
    machine.one(Command::LeaseCheckpoint { remaining_s: vec![(9, 40)] });
    for at in 0..900 {
        machine.one(Command::Put(put(&format!("key{}", at % 300), &format!("value {at}"))));
    }
    machine.one(delete("key7"));
    let leased = Put { key: "leased".into(), value: "x".into(), lease: -3, ..Put::default() };
    machine.one(Command::Put(leased));
    machine.one(Command::Compact(Compact { revision: 500 }));
    machine.one(delete("key8"));
    let permission = crate::auth::Permission { kind: 0, key: "a".into(), range_end: "b".into() };
    for change in [
        AuthChange::RoleAdd { name: "reader".into() },
        AuthChange::RoleGrantPermission { name: "reader".into(), permission: Some(permission) },
        AuthChange::UserAdd { name: "ann".into(), password: Some(PasswordHash::new("$2a$x")) },
        AuthChange::UserAdd { name: "bob".into(), password: None },
        AuthChange::UserGrantRole { user: "ann".into(), role: "reader".into() },
    ] {
        machine.one(Command::Auth(change));
    }
    machine.one(Command::Alarm {
        action: AlarmAction::Activate,
        member_id: 7,
        alarm: AlarmKind::NoSpace,
    });
    machine
}

fn file(machine: &mut StateMachine) -> Vec<u8> {
    let mut backup = machine.backup();
    let mut writer = BackupWriter::begin(Cursor::new(Vec::new()), &backup, &about()).unwrap();
    while let Some(page) = backup.next_page(machine).unwrap() {
        writer.page(&page).unwrap();
    }
    writer.finish(&backup, &about()).unwrap().0.into_inner()
}

fn import_bytes(bytes: Vec<u8>, bump: Option<Bump>) -> Result<(StateMachine, Imported), String> {
    let reader = Reader::open(bytes).map_err(|error| error.to_string())?;
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let imported = import(&reader, &engine, &mark(), bump).map_err(|error| error.to_string())?;
    Ok((StateMachine::open(engine, options()).map_err(|error| error.to_string())?, imported))
}

fn range_at(machine: &StateMachine, revision: i64) -> Vec<crate::KeyValue> {
    let range = Range { key: "\0".into(), range_end: "\0".into(), revision, ..Range::default() };
    machine.range(&range).unwrap().unwrap().kvs
}

#[test]
fn a_state_survives_the_way_through_a_backend() {
    let mut machine = filled();
    let bytes = file(&mut machine);
    assert_eq!(bytes.len() % 4096, 0);
    let (copy, imported) = import_bytes(bytes, None).unwrap();
    assert_eq!((imported.revision, imported.compact_revision), (machine.revision(), 500));
    assert_eq!((imported.leases, imported.orphans), (2, 0));
    for revision in [500, 501, 700, machine.revision()] {
        assert_eq!(range_at(&copy, revision), range_at(&machine, revision), "at {revision}");
        assert_eq!(copy.hash_kv(revision).unwrap(), machine.hash_kv(revision).unwrap());
    }
    assert_eq!(copy.leases(), machine.leases());
    assert_eq!(copy.lease_keys(-3), machine.lease_keys(-3));
    assert_eq!(copy.alarms(), machine.alarms());
    assert_eq!(copy.auth_hash(), machine.auth_hash());
    assert_eq!(copy.user_roles("ann").unwrap(), ["reader"]);
    assert_eq!(copy.auth_revision(), machine.auth_revision());
    assert_eq!(copy.mark(), Some(&mark()));
}

#[test]
fn a_backup_is_of_the_moment_it_began() {
    let mut machine = filled();
    let want = file(&mut machine);
    let mut backup = machine.backup();
    let mut writer = BackupWriter::begin(Cursor::new(Vec::new()), &backup, &about()).unwrap();
    let mut at = 0;
    loop {
        // Half way through, more is written, compacted and pruned.
        machine.one(Command::Put(put("key1", &format!("later {at}"))));
        if at == 1 {
            let revision = machine.revision();
            machine.one(Command::Compact(Compact { revision }));
        }
        machine.compact_step(usize::MAX).unwrap();
        at += 1;
        let Some(page) = backup.next_page(&machine).unwrap() else { break };
        writer.page(&page).unwrap();
    }
    let have = writer.finish(&backup, &about()).unwrap().0.into_inner();
    assert!(have == want, "the file has changes from after its beginning");
}

#[test]
fn a_bumped_revision_leaves_only_the_newest_state() {
    let mut machine = filled();
    let now = machine.revision();
    let (copy, imported) = import_bytes(file(&mut machine), Some(Bump { by: 1000 })).unwrap();
    assert_eq!(imported.revision, now + 1000);
    assert_eq!((copy.revision(), copy.compact_revision()), (now + 1000, now + 1000));
    assert_eq!(range_at(&copy, 0), range_at(&machine, 0));
    assert!(
        copy.range(&Range { key: "a".into(), revision: now, ..Range::default() }).unwrap().is_err()
    );
    assert!(import_bytes(file(&mut machine), Some(Bump { by: u64::MAX })).is_err());
}

#[test]
fn a_key_whose_lease_is_gone_is_kept_without_it() {
    let mut machine = filled();
    let bytes = file(&mut machine);
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    let reader = Reader::open(bytes).unwrap();
    let mut in_leases = false;
    reader
        .walk(|place| {
            match place {
                crate::bbolt::Place::Bucket(name) => {
                    in_leases = name == bucket::LEASE;
                    writer.bucket(name)?;
                }
                crate::bbolt::Place::Pair(key, value) if !in_leases => writer.put(key, value)?,
                crate::bbolt::Place::Pair(..) => {}
            }
            Ok::<_, crate::bbolt::Error>(true)
        })
        .unwrap();
    let bytes = writer.finish().unwrap().0.into_inner();
    let (copy, imported) = import_bytes(bytes, None).unwrap();
    assert_eq!((imported.leases, imported.orphans), (0, 1));
    let kept = copy.version_at(b"leased", copy.revision()).unwrap().unwrap();
    assert_eq!((kept.lease, &kept.value[..]), (0, &b"x"[..]));
}

/// etcd 3.6 adds `storageVersion` to `meta`; what comes after it may add more.
#[test]
fn what_later_releases_add_is_left_alone() {
    let mut machine = filled();
    let reader = Reader::open(file(&mut machine)).unwrap();
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    let mut added = Vec::new();
    reader
        .walk(|place| {
            match place {
                crate::bbolt::Place::Bucket(name) => {
                    // In order of their names, as all buckets are.
                    if *name > b"later"[..] && added.is_empty() {
                        writer.bucket(b"later")?;
                        writer.put(b"what", b"ever")?;
                        added.push("bucket");
                    }
                    writer.bucket(name)?;
                }
                crate::bbolt::Place::Pair(key, value) => {
                    if key == b"term" {
                        writer.put(b"storageVersion", b"3.6.0")?;
                        added.push("storageVersion");
                    }
                    // A field that 3.5 does not know, at the end of a lease.
                    let is_lease = key == 9_i64.to_be_bytes();
                    let more: &[u8] = if is_lease { b"\xf2\x07\x03new" } else { b"" };
                    added.extend(is_lease.then_some("field"));
                    writer.put(key, &[value, more].concat())?;
                }
            }
            Ok::<_, crate::bbolt::Error>(true)
        })
        .unwrap();
    added.sort_unstable();
    assert_eq!(added, ["bucket", "field", "storageVersion"]);
    let (copy, _) = import_bytes(writer.finish().unwrap().0.into_inner(), None).unwrap();
    assert_eq!(range_at(&copy, 0), range_at(&machine, 0));
    assert_eq!(copy.leases(), machine.leases());
}

#[test]
fn rows_that_are_none_of_etcds_are_refused() {
    type Case<'a> = (&'a str, &'a [u8], &'a [u8], &'a [u8]);
    let cases: [Case<'_>; 6] = [
        ("no revision", b"key", b"short", b""),
        ("a revision of 0", b"key", &[0; 17], b""),
        ("no message", b"key", b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b"\xff"),
        ("a lease without id", b"lease", b"x", b""),
        ("a lease with another id", b"lease", b"\0\0\0\0\0\0\0\x02", b"\x08\x03\x10\x3c"),
        ("a user cut short", b"authUsers", b"u", b"\x0a\x09u"),
    ];
    for (name, bucket, key, value) in cases {
        let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
        for other in [&b"authUsers"[..], b"key", b"lease"] {
            writer.bucket(other).unwrap();
            if other == bucket {
                writer.put(key, value).unwrap();
            }
        }
        let bytes = writer.finish().unwrap().0.into_inner();
        let refused = import_bytes(bytes, None).err();
        assert!(refused.is_some_and(|text| text.contains("no etcd data")), "{name}");
    }
    let bytes = Writer::new(Cursor::new(Vec::new())).unwrap().finish().unwrap().0.into_inner();
    assert!(import_bytes(bytes, None).is_err(), "no buckets at all");
}

#[test]
fn an_interrupted_import_is_noticed_at_open() {
    let mut machine = filled();
    let mut bytes = file(&mut machine);
    // Damage a page of changes, behind much that is sound.
    let at = bytes.len() / 8192 * 4096;
    bytes[at..at + 16].fill(0xff);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let reader = Reader::open(bytes).unwrap();
    assert!(import(&reader, &engine, &mark(), None).is_err());
    assert!(StateMachine::open(engine, options()).is_err());
}

#[test]
fn users_and_roles_keep_every_byte() {
    // As etcd 3.5.1 stored them.
    let role = b"\n\x02r1\x12\x08\x08\x02\x12\x01k\x1a\x01l";
    assert_eq!(Role::decode(role).unwrap().encode(), role);
    let user = b"\n\x02u1\x12\x04hash\x1a\x02r1\"\x00";
    assert_eq!(User::decode(user).unwrap().encode(), user);
    let mut alone = User::decode(user).unwrap();
    alone.no_password = true;
    assert_eq!(User::decode(&alone.encode()).unwrap(), alone);
    assert!(!format!("{alone:?}").contains("hash\""));
}

#[test]
fn status_counts_what_is_in_the_file() {
    let mut machine = filled();
    let revision = machine.revision();
    let bytes = file(&mut machine);
    let reader = Reader::open(bytes.clone()).unwrap();
    let status = file_status(&reader).unwrap();
    assert_eq!((status.revision, status.total_bytes), (revision, bytes.len() as u64));
    assert!(status.total_keys > 300 && status.hash != 0);
}
