//! One test for each rule of the key space. Source of the rules: etcd 3.5.1, measured, and later
//! etcd where the two differ.

use super::*;

const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const LESS: i32 = 2;
const NOT_EQUAL: i32 = 3;

fn abc() -> StateMachine {
    let mut machine = machine();
    for key in ["a", "b", "c"] {
        machine.put(key, key);
    }
    machine
}

#[test]
fn a_fresh_store_is_at_revision_1_and_the_first_write_makes_2() {
    let mut machine = machine();
    assert_eq!((machine.revision(), machine.compact_revision()), (1, -1));
    assert_eq!(machine.put("a", "1"), Response::Put(PutResponse { revision: 2, prev_kv: None }));
    assert_eq!(machine.revision(), 2);
}

#[test]
fn versions_count_writes_and_a_delete_begins_anew() {
    let mut machine = machine();
    machine.put("k", "1");
    machine.put("k", "2");
    let kv = machine.get(&range("k", "")).kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    machine.delete("k", "");
    machine.put("k", "3");
    let kv = machine.get(&range("k", "")).kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn a_delete_of_nothing_takes_no_revision() {
    let mut machine = abc();
    let nothing = DeleteRangeResponse { revision: 4, deleted: 0, prev_kvs: vec![] };
    for (key, end) in [("x", ""), ("x", "z"), ("c", "a"), ("d", "\0")] {
        assert_eq!(machine.delete(key, end), Response::DeleteRange(nothing.clone()), "{key} {end}");
    }
    let Response::DeleteRange(answer) = machine.delete("a", "c") else { panic!() };
    assert_eq!((answer.revision, answer.deleted), (5, 2));
}

#[test]
fn range_ends_are_one_key_a_half_open_span_or_everything_above() {
    let machine = abc();
    let cases: [(&str, &str, &[&str]); 7] = [
        ("a", "", &["a=a@2"]),
        ("x", "", &[]),
        ("a", "c", &["a=a@2", "b=b@3"]),
        ("b", "\0", &["b=b@3", "c=c@4"]),
        ("c", "a", &[]),
        ("b", "b", &[]),
        ("\0", "\0", &["a=a@2", "b=b@3", "c=c@4"]),
    ];
    for (key, end, want) in cases {
        assert_eq!(machine.shown(&range(key, end)), want, "{key} {end}");
    }
}

#[test]
fn limit_cuts_sets_more_and_leaves_the_count() {
    let machine = abc();
    for (limit, kvs, more) in
        [(0, 3, false), (-1, 3, false), (2, 2, true), (3, 3, false), (i64::MAX, 3, false)]
    {
        let answer = machine.get(&Range { limit, ..all() });
        assert_eq!((answer.kvs.len(), answer.more, answer.count), (kvs, more, 3), "limit {limit}");
    }
}

#[test]
fn count_comes_before_filters_and_limit() {
    let mut machine = abc();
    machine.put("a", "again");
    let cases = [
        ("min mod", Range { min_mod_revision: 4, ..all() }, vec!["a=again@5", "c=c@4"]),
        ("max mod", Range { max_mod_revision: 4, ..all() }, vec!["b=b@3", "c=c@4"]),
        ("min create", Range { min_create_revision: 3, ..all() }, vec!["b=b@3", "c=c@4"]),
        ("max create", Range { max_create_revision: 2, ..all() }, vec!["a=again@5"]),
        ("filter, then limit", Range { min_mod_revision: 4, limit: 1, ..all() }, vec!["a=again@5"]),
        ("count only", Range { count_only: true, limit: 1, ..all() }, vec![]),
    ];
    for (name, range, want) in cases {
        assert_eq!(machine.shown(&range), want, "{name}");
        let answer = machine.get(&range);
        assert_eq!((answer.count, answer.revision), (3, 5), "{name}");
        assert_eq!(answer.more, name == "filter, then limit", "{name}");
    }
}

#[test]
fn sorts_by_every_target_and_direction() {
    let mut machine = machine();
    for (key, value) in [("c", "1"), ("a", "3"), ("b", "2"), ("a", "0"), ("c", "9"), ("c", "5")] {
        machine.put(key, value);
    }
    // a: create 3 mod 5 version 2; b: 4, 4, 1; c: 2, 7, 3.
    let cases = [
        (0, 0, "abc"),
        (1, 0, "abc"),
        (2, 0, "cba"),
        (1, 1, "bac"),
        (2, 1, "cab"),
        (1, 2, "cab"),
        (2, 2, "bac"),
        (1, 3, "bac"),
        (2, 3, "cab"),
        (1, 4, "abc"),
        (2, 4, "cba"),
        (0, 3, "bac"),
    ];
    for (sort_order, sort_target, want) in cases {
        for keys_only in [false, true] {
            let answer = machine.get(&Range { sort_order, sort_target, keys_only, ..all() });
            let keys: String =
                answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
            assert_eq!(keys, want, "order {sort_order} target {sort_target}");
            assert!(answer.kvs.iter().all(|kv| kv.value.is_empty() == keys_only));
        }
    }
}

#[test]
fn a_sort_target_without_an_order_sorts_only_what_the_limit_fetched() {
    let mut machine = abc();
    machine.put("d", "d");
    machine.put("a", "again");
    let by_mod = Range { sort_target: 3, ..all() };
    assert_eq!(machine.shown(&by_mod), ["b=b@3", "c=c@4", "d=d@5", "a=again@6"]);
    // Three pairs in key order, sorted, cut to two; with an order all four are sorted.
    let answer = machine.get(&Range { limit: 1, ..by_mod.clone() });
    assert_eq!((show(&answer.kvs[0]).as_str(), answer.more, answer.count), ("b=b@3", true, 4));
    let two = Range { limit: 3, sort_order: 2, ..by_mod };
    assert_eq!(machine.shown(&two), ["a=again@6", "d=d@5", "c=c@4"]);
}

#[test]
fn unknown_sort_numbers_are_refused() {
    let machine = abc();
    for (sort_order, sort_target) in [(3, 0), (-1, 0), (0, 5), (1, -1)] {
        let answer = machine.range(&Range { sort_order, sort_target, ..all() }).unwrap();
        assert_eq!(answer, Err(Rejected::InvalidSortOption));
    }
}

#[test]
fn keys_only_keeps_every_other_field() {
    let mut machine = machine();
    machine.ok(Command::LeaseGrant { id: 7, ttl_s: 10 });
    machine.ok(Command::Put(Put { lease: 7, ..put("k", "v") }));
    let kv = machine.get(&Range { keys_only: true, ..range("k", "") }).kvs.remove(0);
    let want = KeyValue {
        key: b("k"),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        lease: 7,
        ..KeyValue::default()
    };
    assert_eq!(kv, want);
}

#[test]
fn reads_choose_a_revision_and_headers_show_the_current_one() {
    let mut machine = machine();
    machine.put("k", "1");
    machine.put("k", "2");
    machine.delete("k", "");
    machine.put("k", "3");
    let at = |revision| Range { revision, ..range("k", "") };
    let cases: [(Revision, &[&str]); 7] = [
        (0, &["k=3@5"]),
        (-7, &["k=3@5"]),
        (1, &[]),
        (2, &["k=1@2"]),
        (3, &["k=2@3"]),
        (4, &[]),
        (5, &["k=3@5"]),
    ];
    for (revision, want) in cases {
        assert_eq!(machine.shown(&at(revision)), want, "at {revision}");
        assert_eq!(machine.get(&at(revision)).revision, 5);
        let count = machine.get(&Range { count_only: true, ..at(revision) }).count;
        assert_eq!(count, want.len() as i64, "count at {revision}");
    }
    assert_eq!(machine.range(&at(6)).unwrap(), Err(Rejected::FutureRevision));
}

#[test]
fn compaction_refuses_reads_below_it_and_answers_at_it() {
    let mut machine = machine();
    for value in ["1", "2", "3"] {
        machine.put("k", value);
    }
    let compact = |revision| Command::Compact(Compact { revision });
    assert_eq!(machine.no(compact(5)), Rejected::FutureRevision);
    assert_eq!(machine.no(compact(-1)), Rejected::Compacted { compact_revision: -1 });
    assert_eq!(machine.ok(compact(0)), Response::Done, "0 succeeds once on a fresh store");
    assert_eq!(machine.no(compact(0)), Rejected::Compacted { compact_revision: 0 });
    assert_eq!(machine.ok(compact(3)), Response::Done);
    assert_eq!(machine.no(compact(3)), Rejected::Compacted { compact_revision: 3 });
    while machine.compact_step(1).unwrap() {}
    let at = |revision| Range { revision, ..range("k", "") };
    let refused = Rejected::Compacted { compact_revision: 3 };
    assert_eq!(machine.range(&at(2)).unwrap(), Err(refused));
    assert_eq!(machine.shown(&at(3)), ["k=2@3"]);
    assert_eq!(machine.shown(&at(0)), ["k=3@4"]);
}

#[test]
fn prev_kv_is_the_whole_version_before() {
    let mut machine = machine();
    machine.ok(Command::LeaseGrant { id: 7, ttl_s: 10 });
    let with_prev = |value: &str| Command::Put(Put { prev_kv: true, ..put("k", value) });
    machine.ok(Command::Put(Put { lease: 7, ..put("k", "1") }));
    let Response::Put(answer) = machine.ok(with_prev("2")) else { panic!() };
    let prev = answer.prev_kv.unwrap();
    assert_eq!((show(&prev).as_str(), prev.lease, prev.version), ("k=1@2", 7, 1));
    let Response::Put(answer) = machine.ok(Command::Put(Put { prev_kv: true, ..put("new", "") }))
    else {
        panic!()
    };
    assert_eq!(answer.prev_kv, None);
    let Response::DeleteRange(answer) =
        machine.ok(Command::DeleteRange(DeleteRange { prev_kv: true, ..delete("a", "z") }))
    else {
        panic!()
    };
    let prevs: Vec<_> = answer.prev_kvs.iter().map(show).collect();
    assert_eq!(prevs, ["k=2@3", "new=@4"]);
}

#[test]
fn ignore_value_and_ignore_lease_keep_what_is_there() {
    let mut machine = machine();
    machine.ok(Command::LeaseGrant { id: 7, ttl_s: 10 });
    machine.ok(Command::LeaseGrant { id: 8, ttl_s: 10 });
    let ignore_value = Put { ignore_value: true, ..put("k", "") };
    let ignore_lease = Put { ignore_lease: true, ..put("k", "new") };
    assert_eq!(machine.no(Command::Put(ignore_value.clone())), Rejected::KeyNotFound);
    assert_eq!(machine.no(Command::Put(ignore_lease.clone())), Rejected::KeyNotFound);
    let unknown = Put { lease: 99, ..ignore_value.clone() };
    assert_eq!(machine.no(Command::Put(unknown)), Rejected::LeaseNotFound, "lease before key");

    machine.ok(Command::Put(Put { lease: 7, ..put("k", "v") }));
    machine.ok(Command::Put(ignore_lease));
    let kv = machine.get(&range("k", "")).kvs.remove(0);
    assert_eq!((show(&kv).as_str(), kv.lease), ("k=new@3", 7));
    machine.ok(Command::Put(Put { lease: 8, ..ignore_value.clone() }));
    let kv = machine.get(&range("k", "")).kvs.remove(0);
    assert_eq!((show(&kv).as_str(), kv.lease), ("k=new@4", 8));
    machine.ok(Command::Put(ignore_value));
    let kv = machine.get(&range("k", "")).kvs.remove(0);
    assert_eq!((show(&kv).as_str(), kv.lease), ("k=new@5", 0), "the lease is detached");
    assert!(machine.lease_keys(7).is_empty() && machine.lease_keys(8).is_empty());
}

#[test]
fn compares_follow_etcd_on_present_and_missing_keys() {
    use CompareTarget::{Create, Lease, Mod, Unknown, Value, Version};
    let mut machine = machine();
    machine.put("k", "l");
    machine.put("k", "m");
    let cases = [
        ("version equal", compare("k", Version(2), EQUAL), true),
        ("create equal", compare("k", Create(2), EQUAL), true),
        ("mod equal", compare("k", Mod(3), EQUAL), true),
        ("lease equal", compare("k", Lease(0), EQUAL), true),
        ("value equal", compare("k", Value(b("m")), EQUAL), true),
        ("value greater", compare("k", Value(b("l")), GREATER), true),
        ("value less", compare("k", Value(b("l")), LESS), false),
        ("value not equal", compare("k", Value(b("m")), NOT_EQUAL), false),
        ("mod less", compare("k", Mod(4), LESS), true),
        ("unknown result is true", compare("k", Mod(9), 77), true),
        ("unknown target compares 0 with 0", compare("k", Unknown, EQUAL), true),
        ("unknown target is not greater", compare("k", Unknown, GREATER), false),
        ("missing key: numbers are 0", compare("no", Version(0), EQUAL), true),
        ("missing key: mod below 1", compare("no", Mod(1), LESS), true),
        ("missing key: value never", compare("no", Value(b("")), EQUAL), false),
        ("missing key: value not even unequal", compare("no", Value(b("x")), NOT_EQUAL), false),
        ("missing key: value, unknown result", compare("no", Value(b("x")), 77), false),
    ];
    for (name, compare, want) in cases {
        assert_eq!(machine.txn(vec![compare], vec![], vec![]).succeeded, want, "{name}");
    }
    assert_eq!(machine.revision(), 3, "compares take no revision");
}

#[test]
fn a_compare_over_a_range_wants_all_keys_to_match() {
    let mut machine = abc();
    let over = |key: &str, end: &str, target: CompareTarget, result| Compare {
        range_end: b(end),
        ..compare(key, target, result)
    };
    let version = CompareTarget::Version;
    let cases = [
        ("all match", over("a", "d", version(1), EQUAL), true),
        ("from key", over("b", "\0", version(2), LESS), true),
        ("one does not", over("a", "\0", CompareTarget::Value(b("a")), GREATER), false),
        ("an empty range is one missing key", over("x", "z", version(0), EQUAL), true),
        ("and has no value", over("x", "z", CompareTarget::Value(b("")), NOT_EQUAL), false),
        ("an inverted range is empty", over("c", "a", version(0), EQUAL), true),
    ];
    for (name, compare, want) in cases {
        assert_eq!(machine.txn(vec![compare], vec![], vec![]).succeeded, want, "{name}");
    }
}

#[test]
fn operations_share_one_revision_and_see_earlier_ones() {
    let mut machine = machine();
    machine.put("a", "0");
    let answer = machine.txn(
        vec![],
        vec![
            TxnOp::DeleteRange(delete("none", "")),
            TxnOp::Range(range("a", "")),
            TxnOp::Put(put("a", "1")),
            TxnOp::Range(range("a", "")),
            TxnOp::Range(Range { revision: 2, ..range("a", "") }),
            TxnOp::DeleteRange(delete("none", "")),
            TxnOp::Put(put("b", "1")),
        ],
        vec![],
    );
    let shown: Vec<String> = answer
        .responses
        .iter()
        .map(|response| match response {
            TxnOpResponse::Put(put) => format!("{}", put.revision),
            TxnOpResponse::DeleteRange(delete) => format!("{}", delete.revision),
            TxnOpResponse::Range(range) => format!("{} {}", range.revision, show(&range.kvs[0])),
            TxnOpResponse::Txn(_) => String::new(),
        })
        .collect();
    // Headers inside show the old revision until something has changed.
    assert_eq!(shown, ["2", "2 a=0@2", "3", "3 a=1@3", "3 a=0@2", "3", "3"]);
    assert_eq!(machine.shown(&all()), ["a=1@3", "b=1@3"]);
}

#[test]
fn nested_compares_see_the_state_before_everything() {
    let mut machine = machine();
    let child = Txn {
        compare: vec![compare("a", CompareTarget::Version(0), EQUAL)],
        success: vec![TxnOp::Put(put("then", "1"))],
        failure: vec![TxnOp::Put(put("else", "1"))],
    };
    let answer = machine.txn(vec![], vec![TxnOp::Put(put("a", "1")), TxnOp::Txn(child)], vec![]);
    let TxnOpResponse::Txn(nested) = &answer.responses[1] else { panic!() };
    assert!(nested.succeeded);
    assert_eq!(machine.shown(&all()), ["a=1@2", "then=1@2"]);
}

#[test]
fn whatever_can_fail_inside_aborts_the_whole_transaction() {
    let mut machine = machine();
    machine.put("k", "1");
    machine.put("k", "2");
    let put_op = |put: Put| TxnOp::Put(put);
    let at = |revision| TxnOp::Range(Range { revision, ..range("k", "") });
    let missing_lease = Put { lease: 9, ..put("x", "") };
    let missing_key = Put { ignore_value: true, ..put("x", "") };
    let both = Put { lease: 9, ..missing_key.clone() };
    let future = Rejected::FutureRevision;
    let cases = [
        ("missing lease", put_op(missing_lease.clone()), Rejected::LeaseNotFound),
        ("missing key", put_op(missing_key.clone()), Rejected::KeyNotFound),
        ("key before lease", put_op(both), Rejected::KeyNotFound),
        ("future revision", at(99), future.clone()),
        ("its own revision is future", at(4), future.clone()),
        ("minus two is compacted", at(-2), Rejected::Compacted { compact_revision: -1 }),
        ("an empty operation", TxnOp::Empty, Rejected::KeyNotFound),
    ];
    for (name, op, want) in cases {
        let success = vec![TxnOp::Put(put("first", "1")), op.clone()];
        let txn = Txn { success, ..Txn::default() };
        assert_eq!(machine.no(Command::Txn(txn)), want, "{name}");
        let child = Txn { success: vec![op.clone()], ..Txn::default() };
        let txn = Txn {
            success: vec![TxnOp::Put(put("first", "1")), TxnOp::Txn(child)],
            ..Txn::default()
        };
        assert_eq!(machine.no(Command::Txn(txn)), want, "{name}, nested");
        let txn = Txn { failure: vec![op], ..Txn::default() };
        assert!(machine.one(Command::Txn(txn)).outcome.is_ok(), "{name}, branch not taken");
    }
    let txn = Txn { success: vec![at(99), put_op(missing_lease)], ..Txn::default() };
    assert_eq!(machine.no(Command::Txn(txn)), Rejected::LeaseNotFound, "puts before ranges");
    // -1 reads now as long as nothing was compacted.
    assert_eq!(machine.txn(vec![], vec![at(-1)], vec![]).responses.len(), 1);
    machine.ok(Command::Compact(Compact { revision: 0 }));
    let txn = Txn { success: vec![at(-1)], ..Txn::default() };
    let compacted = Rejected::Compacted { compact_revision: 0 };
    assert_eq!(machine.no(Command::Txn(txn.clone())), compacted);
    assert_eq!(machine.read_txn(&txn).unwrap(), Err(compacted));
}

#[test]
fn a_put_that_keeps_a_part_of_a_key_deleted_before_it_is_refused() {
    let mut machine = machine();
    machine.put("k", "1");
    let keep = TxnOp::Put(Put { ignore_value: true, ..put("k", "") });
    let clear = TxnOp::DeleteRange(delete("a", "\0"));
    let txn = |success| Command::Txn(Txn { success, ..Txn::default() });
    assert_eq!(machine.no(txn(vec![clear.clone(), keep.clone()])), Rejected::KeyNotFound);
    let child = |op: &TxnOp| TxnOp::Txn(Txn { success: vec![op.clone()], ..Txn::default() });
    assert_eq!(machine.no(txn(vec![child(&clear), child(&keep)])), Rejected::KeyNotFound);
    machine.ok(txn(vec![keep, clear]));
    assert_eq!(machine.revision(), 3);
}

#[test]
fn a_delete_to_the_end_and_a_put_below_it_run_in_order() {
    let mut machine = machine();
    machine.put("b", "0");
    let answer = machine.txn(
        vec![],
        vec![TxnOp::DeleteRange(delete("a", "\0")), TxnOp::Put(put("b", "2"))],
        vec![],
    );
    assert_eq!(answer.responses.len(), 2);
    let kv = machine.get(&range("b", "")).kvs.remove(0);
    assert_eq!((show(&kv).as_str(), kv.create_revision, kv.version), ("b=2@3", 3, 1));
    let events: Vec<_> =
        machine.recent_events(3, 9).unwrap().iter().map(|event| show_event(event)).collect();
    assert_eq!(events, ["delete b=@3 was b=0@2", "put b=2@3"]);
}

#[test]
fn a_key_changed_twice_in_one_revision_shows_the_version_before_it() {
    let mut machine = machine();
    machine.put("b", "0");
    let child = |op| TxnOp::Txn(Txn { success: vec![op], ..Txn::default() });
    let ops = vec![
        child(TxnOp::Put(put("b", "1"))),
        child(TxnOp::Put(put("c", "1"))),
        child(TxnOp::DeleteRange(delete("a", "z"))),
    ];
    machine.txn(vec![], ops, vec![]);
    let events: Vec<_> =
        machine.recent_events(3, 9).unwrap().iter().map(|event| show_event(event)).collect();
    let want = ["put b=1@3 was b=0@2", "put c=1@3", "delete b=@3 was b=0@2", "delete c=@3"];
    assert_eq!(events, want);
    assert_eq!(machine.shown(&Range { revision: 2, ..all() }), ["b=0@2"]);
    assert_eq!(machine.get(&all()).count, 0);
    let everything = KeyRange { key: b("\0"), end: b("\0") };
    let page = machine.history(&everything, 3, 9, true).unwrap().unwrap();
    assert_eq!(page.events.iter().map(show_event).collect::<Vec<_>>(), want);
}

#[test]
fn nesting_beyond_the_bound_is_refused_not_followed() {
    let mut machine = machine();
    let mut txn = Txn { success: vec![TxnOp::Put(put("k", "v"))], ..Txn::default() };
    for _ in 1..txn::TXN_DEPTH_MAX {
        txn = Txn { success: vec![TxnOp::Txn(txn)], ..Txn::default() };
    }
    machine.ok(Command::Txn(txn.clone()));
    let deeper = Txn { success: vec![TxnOp::Txn(txn)], ..Txn::default() };
    assert_eq!(machine.no(Command::Txn(deeper)), Rejected::TooManyOps);
}

#[test]
fn leases_attach_move_detach_and_take_their_keys_along() {
    let mut machine = machine();
    let grant = |id| Command::LeaseGrant { id, ttl_s: 60 };
    assert_eq!(machine.ok(grant(7)), Response::LeaseGrant { id: 7, ttl_s: 60 });
    assert_eq!(machine.no(grant(7)), Rejected::LeaseExists);
    machine.ok(grant(-8));
    assert_eq!(machine.revision(), 1, "grants take no revision");
    let with = |key: &str, lease| Command::Put(Put { lease, ..put(key, "v") });
    assert_eq!(machine.no(with("x", 9)), Rejected::LeaseNotFound);
    for key in ["c", "a", "b"] {
        machine.ok(with(key, 7));
    }
    assert_eq!(machine.lease_keys(7), [b("a"), b("b"), b("c")]);
    machine.ok(with("b", -8));
    machine.put("c", "detached");
    assert_eq!((machine.lease_keys(7), machine.lease_keys(-8)), (vec![b("a")], vec![b("b")]));
    machine.ok(with("z", 7));
    machine.ok(with("y", 7));
    machine.delete("z", "");
    let before = machine.revision();
    assert_eq!(machine.one(Command::LeaseRevoke { id: 7 }).revision, before + 1);
    let events: Vec<_> = (machine.recent_events(before + 1, 9).unwrap().iter())
        .map(|event| show_event(event))
        .collect();
    assert_eq!(events, ["delete a=@10 was a=v@3", "delete y=@10 was y=v@8"]);
    assert_eq!(machine.no(Command::LeaseRevoke { id: 7 }), Rejected::LeaseNotFound);
    machine.delete("b", "");
    let before = machine.revision();
    assert_eq!(machine.one(Command::LeaseRevoke { id: -8 }).revision, before, "no keys left");
    assert_eq!(machine.leases(), []);
}

#[test]
fn checkpoints_shorten_what_remains_and_zero_clears() {
    let mut machine = machine();
    machine.ok(Command::LeaseGrant { id: 1, ttl_s: 600 });
    let checkpoint = |remaining_s| Command::LeaseCheckpoint { remaining_s };
    machine.ok(checkpoint(vec![(1, 300), (2, 5)]));
    let lease = LeaseInfo { id: 1, ttl_s: 600, remaining_s: 300 };
    assert_eq!(machine.lease(1), Some(lease.clone()));
    assert_eq!(machine.lease(2), None);
    machine.ok(checkpoint(vec![(1, 0)]));
    assert_eq!(machine.lease(1), Some(LeaseInfo { remaining_s: 600, ..lease }));
}

#[test]
fn alarms_answer_what_they_concern_and_refuse_what_they_must() {
    let mut machine = machine();
    let change = |action, alarm| Command::Alarm { action, member_id: 5, alarm };
    let (activate, deactivate) = (AlarmAction::Activate, AlarmAction::Deactivate);
    let no_space = AlarmKind::NoSpace;
    assert_eq!(machine.ok(change(deactivate, no_space)), Response::Alarm(vec![]));
    for _ in 0..2 {
        let raised = Response::Alarm(vec![(5, no_space)]);
        assert_eq!(machine.ok(change(activate, no_space)), raised);
    }
    assert_eq!(machine.alarms(), [(5, no_space)]);

    let txn = |success, failure| Command::Txn(Txn { compare: vec![], success, failure });
    let put_op = || TxnOp::Put(put("k", "v"));
    let nested = TxnOp::Txn(Txn { success: vec![put_op()], ..Txn::default() });
    for (name, refused) in [
        ("put", Command::Put(put("k", "v"))),
        ("put with an unknown lease", Command::Put(Put { lease: 9, ..put("k", "v") })),
        ("grant", Command::LeaseGrant { id: 1, ttl_s: 5 }),
        ("put in the branch not taken", txn(vec![], vec![put_op()])),
        ("nested put", txn(vec![nested], vec![])),
    ] {
        assert_eq!(machine.no(refused), Rejected::NoSpace, "{name}");
    }
    machine.delete("k", "");
    machine.ok(txn(vec![TxnOp::Range(all()), TxnOp::DeleteRange(delete("k", ""))], vec![]));
    machine.ok(Command::Compact(Compact { revision: 1 }));

    machine.ok(change(activate, AlarmKind::Corrupt));
    for (name, refused) in [
        ("put", Command::Put(put("k", "v"))),
        ("delete", Command::DeleteRange(delete("k", ""))),
        ("txn", txn(vec![], vec![])),
        ("compact", Command::Compact(Compact { revision: 1 })),
        ("grant", Command::LeaseGrant { id: 1, ttl_s: 5 }),
        ("revoke", Command::LeaseRevoke { id: 1 }),
    ] {
        assert_eq!(machine.no(refused), Rejected::Corrupt, "{name}");
    }
    machine.ok(change(deactivate, AlarmKind::Corrupt));
    machine.ok(change(deactivate, no_space));
    machine.put("k", "v");
}

#[test]
fn a_tombstone_at_the_compact_revision_stays_for_watchers() {
    let everything = KeyRange { key: b("\0"), end: b("\0") };
    for steps in [false, true] {
        let mut machine = machine();
        machine.put("a", "1");
        machine.put("b", "1");
        machine.delete("a", "");
        machine.ok(Command::Compact(Compact { revision: 4 }));
        while steps && machine.compact_step(1).unwrap() {}
        let page = machine.history(&everything, 4, 9, true).unwrap().unwrap();
        let events: Vec<_> = page.events.iter().map(show_event).collect();
        assert_eq!(events, ["delete a=@4"], "what it replaced is compacted");
        assert_eq!(machine.recent_events(4, 9), None, "the ring does not know of compaction");
        let refused = machine.history(&everything, 3, 9, true).unwrap();
        assert_eq!(refused, Err(Rejected::Compacted { compact_revision: 4 }));

        machine.put("c", "1");
        machine.ok(Command::Compact(Compact { revision: 5 }));
        while steps && machine.compact_step(1).unwrap() {}
        let page = machine.history(&everything, 5, 9, true).unwrap().unwrap();
        assert_eq!(page.events.iter().map(show_event).collect::<Vec<_>>(), ["put c=1@5"]);
        assert_eq!(machine.keys_count(), if steps { 2 } else { 3 });
    }
}

#[test]
fn pages_of_a_range_are_its_pairs() {
    let mut machine = machine();
    for key in 0..25 {
        machine.put(&format!("k{key:02}"), "v");
    }
    machine.delete("k03", "");
    let keys = KeyRange { key: b("k"), end: b("l") };
    let mut pairs = Vec::new();
    let mut from = Bytes::new();
    loop {
        let page = machine.range_page(&keys, 26, &from, 7).unwrap().unwrap();
        assert!(page.kvs.len() <= 7);
        pairs.extend(page.kvs);
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(pairs, machine.get(&Range { revision: 26, ..range("k", "l") }).kvs);
    let one = KeyRange { key: b("k07"), end: Bytes::new() };
    let page = machine.range_page(&one, 0, b"", 7).unwrap().unwrap();
    assert_eq!((page.kvs.len(), page.next), (1, None));
}

#[test]
fn member_attributes_are_kept_by_member() {
    let mut machine = machine();
    let attributes =
        MemberAttributes { name: "one".into(), client_urls: vec!["http://x:1".into()] };
    machine.ok(Command::MemberAttributes {
        member_id: 3,
        name: attributes.name.clone(),
        client_urls: attributes.client_urls.clone(),
    });
    assert_eq!(machine.member_attributes(3), Some(&attributes));
    assert_eq!(machine.member_attributes(4), None);
}
