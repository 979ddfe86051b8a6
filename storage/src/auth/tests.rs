use proptest::prelude::*;

use super::*;
use crate::{
    Command, LeaseId, Rejected,
    apply::{StateMachine, tests::machine},
    command::{Compare, CompareTarget, DeleteRange, Put, Range, Response, Txn, TxnOp},
    engine::{Engine, MemoryEngine},
    mvcc::validate::TXN_DEPTH_MAX,
    snapshot::Importer,
};

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn user_add(name: &str) -> AuthChange {
    AuthChange::UserAdd { name: name.into(), password: Some(PasswordHash::new("hash")) }
}

fn grant_role(user: &str, role: &str) -> AuthChange {
    AuthChange::UserGrantRole { user: user.into(), role: role.into() }
}

fn role_add(name: &str) -> AuthChange {
    AuthChange::RoleAdd { name: name.into() }
}

fn permission(kind: i32, key: &str, range_end: &str) -> Permission {
    Permission { kind, key: b(key), range_end: b(range_end) }
}

fn grant(role: &str, permission: Permission) -> AuthChange {
    AuthChange::RoleGrantPermission { name: role.into(), permission: Some(permission) }
}

fn user(name: &str, auth_revision: u64) -> Caller {
    Caller::User { name: name.into(), auth_revision }
}

fn by(caller: &Caller, command: Command) -> Command {
    Command::As { caller: caller.clone(), command: Box::new(command) }
}

impl StateMachine {
    fn auth_change(&mut self, change: AuthChange) -> Result<Response, Rejected> {
        let command = by(&Caller::System, Command::Auth(change));
        self.one(command).outcome
    }

    /// A machine with root, users with the given permissions in a role each, and auth on.
    fn with_users(users: &[(&str, Vec<Permission>)]) -> Self {
        let mut machine = machine();
        let mut change = |change| machine.auth_change(change).map(drop).unwrap();
        change(user_add(ROOT));
        change(grant_role(ROOT, ROOT));
        for (name, permissions) in users {
            change(user_add(name));
            change(role_add(name));
            change(grant_role(name, name));
            for permission in permissions {
                change(grant(name, permission.clone()));
            }
        }
        change(AuthChange::Enable);
        machine
    }

    fn now(&self, name: &str) -> Caller {
        user(name, self.auth_revision())
    }
}

#[test]
fn changes_follow_etcds_rules_and_count_revisions() {
    let mut machine = machine();
    let password = |name: &str, hash: Option<&str>| AuthChange::UserChangePassword {
        name: name.into(),
        password: hash.map(|hash| PasswordHash::new(hash.to_owned())),
    };
    let revoke_role = |user: &str, role: &str| AuthChange::UserRevokeRole {
        user: user.into(),
        role: role.into(),
    };
    let revoke = |name: &str, key: &str, end: &str| AuthChange::RoleRevokePermission {
        name: name.into(),
        key: b(key),
        range_end: b(end),
    };
    let no_password = AuthChange::UserAdd { name: "np".into(), password: None };
    let delete_user = |name: &str| AuthChange::UserDelete { name: name.into() };
    let delete_role = |name: &str| AuthChange::RoleDelete { name: name.into() };
    let no_permission = AuthChange::RoleGrantPermission { name: "r".into(), permission: None };
    // Each change, its refusal, and the auth revision after it.
    let steps: Vec<(AuthChange, Option<Rejected>, u64)> = vec![
        (AuthChange::Enable, Some(Rejected::RootUserMissing), 1),
        (AuthChange::Disable, None, 1),
        (user_add("u"), None, 2),
        (user_add("u"), Some(Rejected::UserExists), 2),
        (user_add(""), Some(Rejected::UserEmpty), 2),
        (no_password, None, 3),
        (password("np", Some("x")), None, 4),
        (password("zz", None), Some(Rejected::UserNotFound), 4),
        (password("u", None), Some(Rejected::NoPasswordUser), 4),
        (password("u", Some("")), None, 5),
        (role_add(""), Some(Rejected::RoleEmpty), 5),
        (role_add("r"), None, 6),
        (role_add("r"), Some(Rejected::RoleExists), 6),
        (no_permission, Some(Rejected::PermissionNotGiven), 6),
        (grant("r", permission(0, "", "x")), Some(Rejected::InvalidAuthManagement), 6),
        (grant("r", permission(0, "b", "a")), Some(Rejected::InvalidAuthManagement), 6),
        (grant("r", permission(0, "b", "b")), Some(Rejected::InvalidAuthManagement), 6),
        (grant("x", permission(0, "b", "")), Some(Rejected::RoleNotFound), 6),
        (grant("r", permission(0, "b", "\0")), None, 7),
        (grant("r", permission(7, "a", "")), None, 8),
        (grant("r", permission(1, "b", "\0")), None, 9),
        (revoke("r", "b", ""), Some(Rejected::PermissionNotGranted), 9),
        (revoke("zz", "b", ""), Some(Rejected::RoleNotFound), 9),
        (revoke("r", "b", "\0"), None, 10),
        (grant_role("u", "r"), None, 11),
        (grant_role("u", "r"), None, 11),
        (grant_role("u", "zz"), Some(Rejected::RoleNotFound), 11),
        (grant_role("zz", "zz"), Some(Rejected::UserNotFound), 11),
        (revoke_role("u", "zz"), Some(Rejected::RoleNotGranted), 11),
        (revoke_role("zz", "r"), Some(Rejected::UserNotFound), 11),
        (user_add(ROOT), None, 12),
        (AuthChange::Enable, Some(Rejected::RootRoleMissing), 12),
        (grant_role(ROOT, ROOT), None, 13),
        (AuthChange::Enable, None, 13),
        (AuthChange::Enable, None, 13),
        (delete_user(ROOT), Some(Rejected::InvalidAuthManagement), 13),
        (delete_role(ROOT), Some(Rejected::InvalidAuthManagement), 13),
        (revoke_role(ROOT, ROOT), Some(Rejected::InvalidAuthManagement), 13),
        (delete_role("r"), None, 14),
        (delete_role("r"), Some(Rejected::RoleNotFound), 14),
        (delete_user("np"), None, 15),
        (delete_user("np"), Some(Rejected::UserNotFound), 15),
        (AuthChange::Disable, None, 16),
        (AuthChange::Disable, None, 16),
        (revoke_role(ROOT, ROOT), None, 17),
        (delete_user(ROOT), None, 18),
    ];
    for (change, refused, revision) in steps {
        let outcome = machine.auth_change(change.clone());
        assert_eq!(outcome.err(), refused, "{change:?}");
        assert_eq!(machine.auth_revision(), revision, "{change:?}");
    }
    assert_eq!(machine.users(), ["u"]);
    assert_eq!(machine.user_roles("u"), Ok(vec![]), "the role was deleted");
    assert_eq!(machine.revision(), 1, "users and roles are no keys");
}

#[test]
fn a_list_of_permissions_is_ordered_by_key_and_then_by_time() {
    let mut machine = machine();
    machine.auth_change(role_add("d")).unwrap();
    for (kind, end) in [(0, "c"), (1, "d"), (2, "d"), (1, "c"), (0, ""), (1, "")] {
        machine.auth_change(grant("d", permission(kind, "a", end))).unwrap();
    }
    let listed = machine.role_permissions("d").unwrap();
    let listed: Vec<_> = listed.iter().map(|p| (p.kind, &p.range_end[..])).collect();
    let want: [(i32, &[u8]); 5] = [(1, b"c"), (1, b"d"), (2, b"d"), (0, b""), (1, b"")];
    assert_eq!(listed, want, "as etcd lists it");

    // From seven on, Go's sort moves what is far away first.
    machine.auth_change(role_add("r")).unwrap();
    for (kind, key, end) in [
        (0, "b", ""),
        (1, "a", "z"),
        (2, "a", "c"),
        (0, "a", ""),
        (1, "a", "c"),
        (1, "c", "\0"),
        (0, "\0", "\0"),
    ] {
        machine.auth_change(grant("r", permission(kind, key, end))).unwrap();
    }
    let listed = machine.role_permissions("r").unwrap();
    let listed: Vec<_> = listed.iter().map(|p| (p.kind, &p.key[..], &p.range_end[..])).collect();
    let want: [(i32, &[u8], &[u8]); 7] = [
        (0, b"\0", b"\0"),
        (2, b"a", b"c"),
        (0, b"a", b""),
        (1, b"a", b"c"),
        (1, b"a", b"z"),
        (0, b"b", b""),
        (1, b"c", b"\0"),
    ];
    assert_eq!(listed, want, "as etcd lists it");
}

#[test]
fn a_login_counts_only_at_the_revision_it_was_checked_at() {
    let mut machine = StateMachine::with_users(&[("u", vec![])]);
    let login = |name: &str, auth_revision, token| {
        Command::Auth(AuthChange::Login { name: name.into(), auth_revision, token })
    };
    let now = machine.auth_revision();
    assert!(machine.take_login_changes().gap, "nobody has looked before");
    assert!(machine.one(login("u", now, Some([7; 32]))).outcome.is_ok());
    let index = machine.mark().unwrap().index;
    let issued = LoginChange::Issued { name: "u".into(), token: [7; 32], index };
    let taken = LoginChanges { gap: false, changes: vec![issued] };
    assert_eq!(machine.take_login_changes(), taken);
    let refused = machine.one(login("u", now - 1, None)).outcome;
    assert_eq!(refused, Err(Rejected::AuthOldRevision));
    assert_eq!(machine.one(login("zz", now, None)).outcome, Err(Rejected::AuthFailed));
    machine.auth_change(AuthChange::UserDelete { name: "u".into() }).unwrap();
    machine.auth_change(AuthChange::Disable).unwrap();
    let ended = [LoginChange::Ended { name: "u".into() }, LoginChange::AllEnded];
    assert_eq!(machine.take_login_changes().changes, ended);
    assert_eq!(machine.one(login("u", now, None)).outcome, Err(Rejected::AuthNotEnabled));
}

#[test]
fn commands_are_refused_without_their_sender_but_those_of_members() {
    let mut machine = StateMachine::with_users(&[("u", vec![permission(2, "k", "")])]);
    let put = || Command::Put(Put { key: b("k"), ..Put::default() });
    let old = user("u", machine.auth_revision() - 1);
    let now = machine.now("u");
    let cases = [
        (put(), Err(Rejected::UserEmpty)),
        (by(&Caller::Anonymous, put()), Err(Rejected::UserEmpty)),
        (by(&Caller::InvalidToken, put()), Err(Rejected::InvalidAuthToken)),
        (by(&old, put()), Err(Rejected::AuthOldRevision)),
        (by(&user("nobody", u64::MAX), put()), Err(Rejected::PermissionDenied)),
        (by(&now, put()), Ok(())),
        (by(&now, by(&Caller::System, put())), Err(Rejected::PermissionDenied)),
        (by(&now, Command::Auth(AuthChange::Disable)), Err(Rejected::PermissionDenied)),
        (by(&now, Command::Compact(Default::default())), Err(Rejected::PermissionDenied)),
        (Command::Noop, Ok(())),
        (Command::LeaseCheckpoint { remaining_s: vec![] }, Ok(())),
        (by(&now, Command::Noop), Err(Rejected::PermissionDenied)),
        (
            by(&Caller::System, Command::LeaseExpire { id: 1, term: 1 }),
            Err(Rejected::PermissionDenied),
        ),
        (Command::LeaseExpire { id: 1, term: 1 }, Err(Rejected::LeaseNotFound)),
    ];
    for (command, want) in cases {
        let outcome = machine.one(command.clone()).outcome.map(drop);
        assert_eq!(outcome, want, "{command:?}");
    }
}

/// CVE-2026-44283: a put in a transaction hung keys on leases of others.
#[test]
fn leases_are_guarded_by_the_keys_on_them() {
    let all = vec![permission(2, "\0", "\0")];
    let mut machine = StateMachine::with_users(&[
        ("all", all),
        ("w", vec![permission(1, "w", "")]),
        ("r", vec![permission(0, "k", "l")]),
    ]);
    let (all, w, r) = (machine.now("all"), machine.now("w"), machine.now("r"));
    let put = |key: &str| Command::Put(Put { key: b(key), lease: 1, ..Put::default() });
    machine.one(by(&w, Command::LeaseGrant { id: 1, ttl_s: 10 })).outcome.unwrap();
    assert!(machine.authorize(&w, &Ask::LeaseRenew(1)).is_ok(), "nothing hangs on it");
    machine.one(by(&w, put("w"))).outcome.unwrap();
    machine.one(by(&all, put("k"))).outcome.unwrap();
    let denied = Err(Rejected::PermissionDenied);
    assert_eq!(machine.one(by(&w, put("w"))).outcome, denied, "it would expire k with it");
    let nested = Txn { success: vec![TxnOp::Txn(Txn::default())], ..Txn::default() };
    let mut hidden = nested.clone();
    hidden.success = vec![TxnOp::Txn(Txn {
        failure: vec![TxnOp::Put(Put { key: b("w"), lease: 1, ..Put::default() })],
        ..Txn::default()
    })];
    assert_eq!(machine.one(by(&w, Command::Txn(hidden))).outcome, denied, "in a txn too");
    assert!(machine.one(by(&w, Command::Txn(nested))).outcome.is_ok());
    assert_eq!(machine.one(by(&w, Command::LeaseRevoke { id: 1 })).outcome, denied);
    assert!(machine.authorize(&w, &Ask::LeaseRenew(1)).is_err());
    assert!(machine.authorize(&r, &Ask::LeaseKeys(1)).is_err());
    assert!(machine.authorize(&r, &Ask::LeaseList).is_err());
    assert!(machine.authorize(&r, &Ask::LeaseKeys(2)).is_ok(), "no such lease, nothing to hide");
    assert!(machine.authorize(&all, &Ask::LeaseList).is_ok());
    machine.one(by(&all, Command::LeaseRevoke { id: 1 })).outcome.unwrap();
}

/// CVE-2026-33343, and Consul CVE-2021-38698: a transaction is no way around the rights of what is
/// in it, however deep.
#[test]
fn nesting_hides_nothing_and_too_deep_nesting_is_refused() {
    let machine = StateMachine::with_users(&[("u", vec![permission(2, "k", "")])]);
    let mut txn = Txn {
        failure: vec![TxnOp::Put(Put { key: b("secret"), ..Put::default() })],
        ..Txn::default()
    };
    let caller = machine.now("u");
    for _ in 1..TXN_DEPTH_MAX {
        let ask = Command::Txn(txn.clone());
        let decided = machine.authorize(&caller, &Ask::Command(&ask));
        assert_eq!(decided, Err(Rejected::PermissionDenied));
        txn = Txn { success: vec![TxnOp::Txn(txn)], ..Txn::default() };
    }
    for _ in 0..2 {
        txn = Txn { success: vec![TxnOp::Txn(txn)], ..Txn::default() };
    }
    assert_eq!(machine.authorize(&caller, &Ask::Txn(&txn)), Err(Rejected::TooManyOps));
}

/// CVE-2021-28235, GHSA-528j: passwords went into logs. Only a hash gets here, and not even that is shown.
#[test]
fn secrets_are_not_in_debug_output() {
    let change = AuthChange::UserAdd {
        name: "u".into(),
        password: Some(PasswordHash::new("$2b$10$secret")),
    };
    let shown = format!("{:?}", by(&Caller::System, Command::Auth(change)));
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn tables_survive_a_restart_and_a_snapshot() {
    let engine: std::sync::Arc<dyn Engine> = std::sync::Arc::new(MemoryEngine::default());
    let options = crate::apply::tests::options();
    let mut machine = StateMachine::open(engine.clone(), options.clone()).unwrap();
    for change in [
        user_add(ROOT),
        grant_role(ROOT, ROOT),
        user_add("u"),
        user_add("gone"),
        role_add("r"),
        grant("r", permission(0, "a", "c")),
        grant_role("u", "r"),
        AuthChange::Enable,
        AuthChange::UserDelete { name: "gone".into() },
    ] {
        machine.auth_change(change).unwrap();
    }
    let flush = machine.begin_flush().unwrap();
    flush.write(&*engine).unwrap();
    machine.end_flush(flush);
    let restarted = StateMachine::open(engine, options.clone()).unwrap();

    let copy: std::sync::Arc<dyn Engine> = std::sync::Arc::new(MemoryEngine::default());
    let mut importer = Importer::new(copy.clone()).unwrap();
    let mut export = machine.export();
    while let Some(chunk) = export.next_chunk(&machine).unwrap() {
        importer.chunk(&chunk).unwrap();
    }
    importer.finish().unwrap();
    // A member that installs a snapshot keeps its switch, and hears of it there.
    let mut installed = self::machine();
    let switch = installed.auth_switch();
    assert!(!switch.load(std::sync::atomic::Ordering::Acquire));
    installed.reopen(copy).unwrap();
    assert!(switch.load(std::sync::atomic::Ordering::Acquire));

    for mut other in [restarted, installed] {
        assert!(other.is_auth_enabled());
        assert_eq!(other.auth_revision(), machine.auth_revision());
        assert_eq!(other.auth_hash(), machine.auth_hash());
        assert_eq!(other.users(), ["root", "u"]);
        assert_eq!(other.role_permissions("r"), machine.role_permissions("r"));
        assert_eq!(other.password("u"), Ok(PasswordHash::new("hash")));
        let u = other.now("u");
        let range = |key: &str| Range { key: b(key), ..Range::default() };
        assert!(other.authorize(&u, &Ask::Range(&range("b"))).is_ok(), "grants are merged anew");
        assert!(other.authorize(&u, &Ask::Range(&range("c"))).is_err());
        assert!(other.take_login_changes().gap, "tokens of before are not known");
    }
}

// ---- an independent evaluator of rights: point by point instead of by merged spans

fn contains(permission: &Permission, key: &[u8]) -> bool {
    match &permission.range_end[..] {
        [] => permission.key == key,
        [0] => &permission.key[..] <= key,
        end => &permission.key[..] <= key && key < end,
    }
}

fn may(permissions: &[Permission], kinds: [i32; 2], key: &[u8], range_end: &[u8]) -> bool {
    let granted: Vec<_> = permissions.iter().filter(|p| kinds.contains(&p.kind)).collect();
    let asked =
        Permission { kind: 0, key: key.to_vec().into(), range_end: range_end.to_vec().into() };
    if !range_end.is_empty() && range_end != [0] && range_end <= key {
        // Holds no key: nothing can be got by it. It goes by its key.
        return granted.iter().any(|p| contains(p, key));
    }
    // Where coverage can change: at the start, and wherever a grant ends or begins.
    let mut points = vec![key.to_vec()];
    for p in &granted {
        points.push(p.key.to_vec());
        points.push([&p.key[..], &[0]].concat());
        points.push(p.range_end.to_vec());
    }
    points.retain(|point| contains(&asked, point));
    // From-key ranges also need somebody who grants without an end.
    let open = range_end != [0] || granted.iter().any(|p| p.range_end[..] == [0]);
    open && points.iter().all(|point| granted.iter().any(|p| contains(p, point)))
}

fn reads(permissions: &[Permission], key: &[u8], range_end: &[u8]) -> bool {
    may(permissions, [0, 2], key, range_end)
}

fn writes(permissions: &[Permission], key: &[u8], range_end: &[u8]) -> bool {
    may(permissions, [1, 2], key, range_end)
}

/// Keys of the leases in the tests of transactions; other ids are of no lease.
const LEASED: [(LeaseId, &[&str]); 3] = [(1, &["a", "ca"]), (2, &["e"]), (3, &[])];

/// Whether all keys that hang on a lease may be written: whoever puts a key on it can keep it alive
/// no longer than they live, and ends them with it.
fn writes_lease(permissions: &[Permission], lease: LeaseId) -> bool {
    let keys = LEASED.iter().find(|(id, _)| *id == lease).map_or(&[][..], |(_, keys)| *keys);
    keys.iter().all(|key| writes(permissions, key.as_bytes(), b""))
}

fn may_txn(permissions: &[Permission], txn: &Txn) -> bool {
    txn.compare.iter().all(|c| reads(permissions, &c.key, &c.range_end))
        && txn.success.iter().chain(&txn.failure).all(|op| match op {
            TxnOp::Range(range) => reads(permissions, &range.key, &range.range_end),
            TxnOp::Put(put) => {
                writes(permissions, &put.key, b"")
                    && (!put.prev_kv || reads(permissions, &put.key, b""))
                    && writes_lease(permissions, put.lease)
            }
            TxnOp::DeleteRange(delete) => {
                writes(permissions, &delete.key, &delete.range_end)
                    && (!delete.prev_kv || reads(permissions, &delete.key, &delete.range_end))
            }
            TxnOp::Txn(child) => may_txn(permissions, child),
            TxnOp::Empty => true,
        })
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "a\0", "b", "c", "ca", "d", "e"]).prop_map(b)
}

/// An end above the key, none, or no end at all.
fn any_end() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "", "\0", "a\0", "b", "c", "ca", "d", "e", "f"]).prop_map(b)
}

fn any_permissions() -> impl Strategy<Value = Vec<Permission>> {
    let one = (0..4_i32, any_key(), any_end()).prop_map(|(kind, key, range_end)| Permission {
        kind,
        key,
        range_end,
    });
    prop::collection::vec(one, 0..6)
        .prop_map(|all| all.into_iter().filter(|permission| !permission.is_empty()).collect())
}

fn any_range() -> impl Strategy<Value = (Bytes, Bytes)> {
    (any_key(), any_end())
}

fn any_op() -> impl Strategy<Value = TxnOp> {
    prop_oneof![
        any_range().prop_map(|(key, range_end)| TxnOp::Range(Range {
            key,
            range_end,
            ..Range::default()
        })),
        // Half of the puts without a lease, some on one that does not exist.
        (any_key(), any::<bool>(), prop::sample::select(vec![0, 0, 0, 0, 1, 2, 3, 4])).prop_map(
            |(key, prev_kv, lease)| TxnOp::Put(Put { key, prev_kv, lease, ..Put::default() })
        ),
        (any_range(), any::<bool>()).prop_map(|((key, range_end), prev_kv)| {
            TxnOp::DeleteRange(DeleteRange { key, range_end, prev_kv })
        }),
    ]
}

fn any_compares() -> impl Strategy<Value = Vec<Compare>> {
    let compare = any_range().prop_map(|(key, range_end)| Compare {
        result: 1,
        target: CompareTarget::Version(0),
        key,
        range_end,
    });
    prop::collection::vec(compare, 0..2)
}

fn txn_of(op: impl Strategy<Value = TxnOp> + Clone + 'static) -> impl Strategy<Value = Txn> {
    let ops = prop::collection::vec(op, 0..3);
    (any_compares(), ops.clone(), ops).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

fn any_txn() -> impl Strategy<Value = Txn> {
    txn_of(any_op().boxed()).prop_recursive(4, 24, 4, |inner| {
        txn_of(prop_oneof![any_op(), inner.prop_map(TxnOp::Txn)].boxed())
    })
}

/// Permissions spread over the roles of a user, as they are granted.
fn machine_for(permissions: &[Permission]) -> StateMachine {
    let mut machine = StateMachine::with_users(&[("u", vec![])]);
    let mut change = |change| machine.auth_change(change).map(drop).unwrap();
    for (number, permission) in permissions.iter().enumerate() {
        let role = format!("r{number}");
        change(role_add(&role));
        change(grant(&role, permission.clone()));
        change(grant_role("u", &role));
    }
    for (id, keys) in LEASED {
        let command = Command::LeaseGrant { id, ttl_s: 60 };
        machine.one(by(&Caller::System, command)).outcome.unwrap();
        for key in keys {
            let put = Put { key: b(key), lease: id, ..Put::default() };
            machine.one(by(&Caller::System, Command::Put(put))).outcome.unwrap();
        }
    }
    machine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// CVE-2026-33343, CVE-2026-44283: nested operations, `prev_kv` and leases of puts in
    /// transactions were not asked about. Consul CVE-2021-38698: neither was one kind of operation.
    #[test]
    fn rights_agree_with_an_evaluator_that_goes_point_by_point(
        permissions in any_permissions(),
        txn in any_txn(),
        (key, range_end) in any_range(),
    ) {
        let mut machine = machine_for(&permissions);
        let caller = machine.now("u");
        let range = Range { key: key.clone(), range_end: range_end.clone(), ..Range::default() };
        let may_read = reads(&permissions, &key, &range_end);
        prop_assert_eq!(machine.authorize(&caller, &Ask::Range(&range)).is_ok(), may_read);
        let may = may_txn(&permissions, &txn);
        let asked = machine.authorize(&caller, &Ask::Txn(&txn));
        prop_assert_eq!(asked.is_ok(), may, "on the way of transactions that only read");
        let before = machine.revision();
        let outcome = machine.one(by(&caller, Command::Txn(txn))).outcome;
        prop_assert_eq!(outcome != Err(Rejected::PermissionDenied), may);
        prop_assert!(may || machine.revision() == before, "a refused transaction changes nothing");
    }

    /// GHSA-xg4h-6gfc-h4m8, by others CVE-2026-73499: the right on one key was enough to watch all keys behind it.
    #[test]
    fn a_watch_delivers_only_what_a_get_may_read(
        permissions in any_permissions(),
        key in any_key(),
        range_end in any_end(),
    ) {
        let machine = machine_for(&permissions);
        let caller = machine.now("u");
        let watch = Ask::Watch { key: &key, range_end: &range_end };
        if machine.authorize(&caller, &watch).is_ok() {
            let watched = Permission { kind: 0, key: key.clone(), range_end: range_end.clone() };
            for name in ["a", "a\0", "aa", "b", "c", "ca", "cb", "d", "e", "zz", "\u{7f}"] {
                if contains(&watched, name.as_bytes()) {
                    let get = Range { key: b(name), ..Range::default() };
                    prop_assert!(machine.authorize(&caller, &Ask::Range(&get)).is_ok(), "{}", name);
                }
            }
            prop_assert!(
                range_end[..] != [0] || permissions.iter().any(|p| p.range_end[..] == [0]),
                "a watch without end needs a right without end"
            );
        }
    }
}
