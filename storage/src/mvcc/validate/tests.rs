use bytes::Bytes;

use super::*;
use crate::command::{Compare, CompareTarget};

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put_op(key: &str) -> TxnOp {
    TxnOp::Put(Put { key: b(key), ..Put::default() })
}

fn rm(key: &str, end: &str) -> TxnOp {
    TxnOp::DeleteRange(DeleteRange { key: b(key), range_end: b(end), prev_kv: false })
}

fn get(key: &str) -> TxnOp {
    TxnOp::Range(Range { key: b(key), ..Range::default() })
}

fn nest(success: Vec<TxnOp>, failure: Vec<TxnOp>) -> TxnOp {
    TxnOp::Txn(Txn { compare: vec![], success, failure })
}

fn check(success: Vec<TxnOp>) -> Result<(), Invalid> {
    let either = |success, failure| Txn { compare: vec![], success, failure };
    let there = txn(&either(success.clone(), vec![]), TXN_OPS_MAX);
    // A branch that is not taken is checked all the same.
    assert_eq!(txn(&either(vec![], success), TXN_OPS_MAX), there);
    there
}

#[test]
fn duplicate_keys_are_found_as_etcd_finds_them() {
    let duplicate = Err(Invalid::DuplicateKey);
    let cases = [
        ("put twice", vec![put_op("a"), put_op("a")], duplicate),
        ("two keys", vec![put_op("a"), put_op("b")], Ok(())),
        ("put in a deleted range", vec![rm("a", "c"), put_op("b")], duplicate),
        ("in any order", vec![put_op("b"), rm("a", "c")], duplicate),
        ("at the end of a deleted range", vec![rm("a", "c"), put_op("c")], Ok(())),
        ("put of a deleted key", vec![rm("b", ""), put_op("b")], duplicate),
        ("beside a deleted key", vec![rm("b", ""), put_op("b\0")], Ok(())),
        ("delete from key is read literally", vec![rm("a", "\0"), put_op("b")], Ok(())),
        ("an inverted delete covers nothing", vec![rm("c", "a"), put_op("b")], Ok(())),
        ("deletes overlap freely", vec![rm("a", "c"), rm("b", "d"), rm("b", "")], Ok(())),
        (
            "overlapping deletes cover their union",
            vec![rm("a", "c"), rm("b", "e"), rm("b", "bb"), put_op("d")],
            duplicate,
        ),
        ("both branches of a child", vec![nest(vec![put_op("k")], vec![put_op("k")])], Ok(())),
        (
            "two children",
            vec![nest(vec![put_op("k")], vec![]), nest(vec![put_op("k")], vec![])],
            duplicate,
        ),
        (
            "two children, other branch",
            vec![nest(vec![put_op("k")], vec![]), nest(vec![], vec![put_op("k")])],
            duplicate,
        ),
        ("child and parent", vec![nest(vec![], vec![put_op("k")]), put_op("k")], duplicate),
        (
            "delete after a put in an earlier child",
            vec![nest(vec![put_op("k")], vec![]), nest(vec![rm("k", "")], vec![])],
            Ok(()),
        ),
        (
            "put after a delete in an earlier child",
            vec![nest(vec![rm("k", "")], vec![]), nest(vec![put_op("k")], vec![])],
            duplicate,
        ),
        (
            "put in a child, delete beside it",
            vec![nest(vec![put_op("k")], vec![]), rm("k", "")],
            duplicate,
        ),
        (
            "delete in a child, put beside it",
            vec![put_op("k"), nest(vec![rm("a", "z")], vec![])],
            duplicate,
        ),
        (
            "delete and put in the branches of one child",
            vec![nest(vec![rm("k", "")], vec![put_op("k")])],
            Ok(()),
        ),
        (
            "deep inside",
            vec![nest(vec![nest(vec![], vec![put_op("k")])], vec![]), put_op("k")],
            duplicate,
        ),
    ];
    for (name, ops, want) in cases {
        assert_eq!(check(ops), want, "{name}");
    }
}

#[test]
fn operations_are_counted_by_level_and_children_get_what_is_left() {
    let many = |count: usize| (0..count).map(|at| put_op(&format!("k{at}"))).collect::<Vec<_>>();
    let too_many = Err(Invalid::TooManyOps);
    assert_eq!(check(many(128)), Ok(()));
    assert_eq!(check(many(129)), too_many);
    assert_eq!(check(vec![nest(many(127), vec![])]), Ok(()));
    assert_eq!(check(vec![nest(many(128), vec![])]), too_many);
    assert_eq!(check(vec![get("a"), nest(vec![], many(127))]), too_many);
    let compare =
        Compare { result: 0, target: CompareTarget::Unknown, key: b("a"), range_end: b("") };
    let compares = Txn { compare: vec![compare; 129], ..Txn::default() };
    assert_eq!(txn(&compares, TXN_OPS_MAX), too_many);
    let mut deep = vec![put_op("k")];
    for _ in 1..TXN_DEPTH_MAX - 1 {
        deep = vec![nest(deep, vec![])];
    }
    assert_eq!(check(vec![nest(deep.clone(), vec![])]), Ok(()));
    assert_eq!(check(vec![nest(vec![nest(deep, vec![])], vec![])]), too_many);
}

#[test]
fn the_first_fault_in_etcds_order_is_named() {
    let bad_value =
        TxnOp::Put(Put { ignore_value: true, value: b("v"), key: b("k"), ..Put::default() });
    let bad_lease = TxnOp::Put(Put { ignore_lease: true, lease: 1, key: b("k"), ..Put::default() });
    let bad_sort = TxnOp::Range(Range { sort_target: 9, key: b("k"), ..Range::default() });
    let cases = [
        ("no key", vec![put_op("")], Invalid::EmptyKey),
        ("no key in a delete", vec![rm("", "\0")], Invalid::EmptyKey),
        ("no key in a range", vec![get("")], Invalid::EmptyKey),
        ("no key in a child", vec![nest(vec![], vec![get("")])], Invalid::EmptyKey),
        ("value", vec![bad_value], Invalid::ValueProvided),
        ("lease", vec![bad_lease], Invalid::LeaseProvided),
        ("sort", vec![bad_sort], Invalid::InvalidSortOption),
        ("empty operation", vec![TxnOp::Empty], Invalid::KeyNotFound),
        ("in order", vec![TxnOp::Empty, put_op("")], Invalid::KeyNotFound),
        ("shape before duplicates", vec![put_op("a"), put_op("a"), put_op("")], Invalid::EmptyKey),
    ];
    for (name, ops, want) in cases {
        assert_eq!(check(ops), Err(want), "{name}");
    }
    let compare =
        Compare { result: 0, target: CompareTarget::Unknown, key: b(""), range_end: b("") };
    let both = Txn { compare: vec![compare], success: vec![TxnOp::Empty], failure: vec![] };
    assert_eq!(txn(&both, TXN_OPS_MAX), Err(Invalid::EmptyKey), "compares before operations");
}

#[test]
fn texts_are_those_of_etcd() {
    let texts = [
        (Invalid::EmptyKey, "etcdserver: key is not provided"),
        (Invalid::TooManyOps, "etcdserver: too many operations in txn request"),
        (Invalid::DuplicateKey, "etcdserver: duplicate key given in txn request"),
        (Invalid::ValueProvided, "etcdserver: value is provided"),
        (Invalid::LeaseProvided, "etcdserver: lease is provided"),
        (Invalid::KeyNotFound, "etcdserver: key not found"),
        (Invalid::InvalidSortOption, "etcdserver: invalid sort option"),
    ];
    for (invalid, text) in texts {
        assert_eq!(invalid.to_string(), text);
    }
}

#[test]
fn only_ranges_at_the_top_are_read_only() {
    let txn = |success, failure| Txn { compare: vec![], success, failure };
    assert!(is_read_only(&txn(vec![], vec![])));
    assert!(is_read_only(&txn(vec![get("a")], vec![get("b")])));
    assert!(!is_read_only(&txn(vec![get("a")], vec![put_op("b")])));
    assert!(!is_read_only(&txn(vec![nest(vec![get("a")], vec![])], vec![])));
}

/// etcd 3.6.14: what was nested did not count.
#[test]
fn quota_counts_the_costlier_branch_with_what_is_nested() {
    let txn = |success, failure| {
        quota_cost_bytes(&Command::Txn(Txn { compare: vec![], success, failure }))
    };
    assert_eq!(txn(vec![put_op("abc")], vec![]), 259);
    assert_eq!(txn(vec![put_op("a"), put_op("b")], vec![put_op("c")]), 514);
    assert_eq!(txn(vec![get("a"), rm("a", "")], vec![]), 0);
    assert_eq!(txn(vec![], vec![nest(vec![put_op("a")], vec![])]), 257);
    assert_eq!(quota_cost_bytes(&Command::LeaseGrant { id: 1, ttl_s: 1 }), 64);
    assert_eq!(quota_cost_bytes(&Command::LeaseRevoke { id: 1 }), 0);
}
