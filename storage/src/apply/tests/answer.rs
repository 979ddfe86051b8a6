//! How much the reads of a transaction and the previous values of a delete may answer. Source: etcd
//! 3.6.14, whose cost of a transaction overlooked what is nested; etcd issues 12342 and 12678 (memory of
//! large reads).

use proptest::prelude::*;

use super::*;
use crate::mvcc::answer::{TXN_ANSWER_BYTES_MAX, may_be_long};

/// What a pair counts beside its data.
const PAIR_BYTES: u64 = 160;

fn read(range: Range) -> TxnOp {
    TxnOp::Range(range)
}

fn nested(depth: usize, op: TxnOp) -> TxnOp {
    (0..depth).fold(op, |op, _| TxnOp::Txn(Txn { success: vec![op], ..Txn::default() }))
}

/// A machine that holds `cache_bytes` of values in memory, with `keys` values of `bytes` each, all
/// flushed, so that the rest is in its engine alone.
fn filled(cache_bytes: u64, keys: usize, bytes: usize) -> StateMachine {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let options = Options { cache_bytes, ..options() };
    let mut machine = StateMachine::open(engine.clone(), options).unwrap();
    for key in 0..keys {
        let value = Bytes::from(vec![b'v'; bytes]);
        machine.ok(Command::Put(Put { key: b(&format!("k{key:03}")), value, ..Put::default() }));
        machine.flush(&*engine);
    }
    machine
}

#[test]
fn a_transaction_that_would_answer_too_much_is_refused_alike_everywhere() {
    // 3 MiB of data: 85 reads of them are less than 256 MiB, 86 are more.
    let (keys, bytes) = (48, 64 << 10);
    let most = usize::try_from(TXN_ANSWER_BYTES_MAX).unwrap() / (keys * (bytes + 4 + 160));
    let put = TxnOp::Put(put("new", "1"));
    let txn = |reads: usize, depth: usize| {
        let mut success: Vec<_> =
            (0..reads).map(|_| nested(depth, read(range("k", "l")))).collect();
        success.push(put.clone());
        Txn { success, ..Txn::default() }
    };
    // Whatever a member has in memory, it decides alike.
    for cache_bytes in [0, 1 << 20, 1 << 30] {
        let mut machine = filled(cache_bytes, keys, bytes);
        for (reads, depth, fits) in
            [(most, 0, true), (most + 1, 0, false), (most, 3, true), (most + 1, 3, false)]
        {
            let context = format!("{reads} reads, {depth} deep, {cache_bytes} bytes in memory");
            let txn = txn(reads, depth);
            assert_eq!(machine.txn_answer_bytes(&txn).unwrap().is_ok(), fits, "{context}");
            if fits {
                assert!(machine.one(Command::Txn(txn)).outcome.is_ok(), "{context}");
            } else {
                assert_eq!(machine.no(Command::Txn(txn)), Rejected::AnswerTooLarge, "{context}");
            }
        }
        // Of reads alone, which take no log entry, too.
        let txn = Txn { success: vec![read(all()); most + 1], ..Txn::default() };
        assert_eq!(machine.read_txn(&txn).unwrap(), Err(Rejected::AnswerTooLarge));
        // What is not taken does not count, and neither do counts.
        let not_taken =
            Txn { success: vec![], failure: vec![read(all()); most + 1], ..Txn::default() };
        assert!(machine.read_txn(&not_taken).unwrap().is_ok());
        let count = Range { count_only: true, ..all() };
        let counts = Txn { success: vec![read(count); 3 * most], ..Txn::default() };
        assert!(machine.read_txn(&counts).unwrap().is_ok());
    }
}

#[test]
fn previous_values_count_in_a_transaction_as_reads_do() {
    let (keys, bytes) = (48, 64 << 10);
    let most = usize::try_from(TXN_ANSWER_BYTES_MAX).unwrap() / (keys * (bytes + 4 + 160));
    let previous = |prev_kv| TxnOp::DeleteRange(DeleteRange { prev_kv, ..delete("k", "l") });
    for cache_bytes in [0, 1 << 30] {
        let mut machine = filled(cache_bytes, keys, bytes);
        let txn = |reads: usize, also: TxnOp| {
            let mut success = vec![read(range("k", "l")); reads];
            success.push(nested(2, also));
            Txn { success, ..Txn::default() }
        };
        let revision = machine.revision();
        let refused = [
            txn(most, previous(true)),
            txn(most, TxnOp::Put(Put { prev_kv: true, ..put("k000", "new") })),
        ];
        for txn in refused {
            // One pair is too much where the reads alone come close.
            let mut txn = txn;
            txn.success.insert(0, read(Range { limit: 37, ..range("k", "l") }));
            assert_eq!(machine.no(Command::Txn(txn)), Rejected::AnswerTooLarge);
        }
        assert_eq!(machine.revision(), revision, "something was changed");
        assert!(machine.one(Command::Txn(txn(most, previous(false)))).outcome.is_ok());
    }
}

#[test]
fn a_delete_that_would_answer_too_much_deletes_nothing() {
    // Just above 256 MiB.
    let mut machine = filled(0, 257, 1 << 20);
    let previous =
        |key, end| Command::DeleteRange(DeleteRange { prev_kv: true, ..delete(key, end) });
    let revision = machine.revision();
    assert_eq!(machine.no(previous("k", "l")), Rejected::AnswerTooLarge);
    assert_eq!(machine.revision(), revision, "something was deleted");
    let Response::DeleteRange(part) = machine.ok(previous("k000", "k002")) else { panic!() };
    assert_eq!((part.deleted, part.prev_kvs.len()), (2, 2));
    // Without the values, and of what is left, as much as there is.
    let Response::DeleteRange(rest) = machine.ok(Command::DeleteRange(delete("k", "l"))) else {
        panic!()
    };
    assert_eq!((rest.deleted, rest.prev_kvs.len()), (255, 0));
}

#[test]
fn only_reads_of_ranges_or_of_several_keys_may_be_long() {
    let single = || read(range("k", ""));
    let long = |success: Vec<TxnOp>, failure: Vec<TxnOp>| {
        may_be_long(&Txn { success, failure, ..Txn::default() })
    };
    assert!(!long(vec![TxnOp::Put(put("k", "v"))], vec![single()]));
    assert!(long(vec![TxnOp::Put(Put { prev_kv: true, ..put("k", "v") })], vec![single()]));
    assert!(!long(vec![TxnOp::DeleteRange(delete("k", "l"))], vec![single()]));
    let previous = DeleteRange { prev_kv: true, ..delete("k", "l") };
    assert!(long(vec![TxnOp::DeleteRange(previous)], vec![]));
    assert!(!long(vec![read(Range { count_only: true, ..all() })], vec![]));
    assert!(long(vec![single()], vec![single()]));
    assert!(long(vec![nested(5, read(all()))], vec![]));
    assert!(long(vec![], vec![nested(3, single()), single()]));
}

fn any_range() -> impl Strategy<Value = Range> {
    let keys = || prop::sample::select(vec!["a", "b", "c", "d", "\0"]);
    let ends = prop::sample::select(vec!["", "", "b", "c", "e", "\0"]);
    (keys(), ends, 0..4_i64, 0..9_i64, 0..3_i32, 0..5_i32, any::<bool>(), 0..6_i64).prop_map(
        |(key, end, limit, revision, sort_order, sort_target, keys_only, min_mod_revision)| Range {
            limit,
            revision,
            sort_order,
            sort_target,
            keys_only,
            min_mod_revision: min_mod_revision.saturating_sub(3),
            ..range(key, end)
        },
    )
}

/// A few keys of different lengths, changed, deleted, and in the engine.
fn of_few_keys(cache_bytes: u64) -> StateMachine {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let mut machine =
        StateMachine::open(engine.clone(), Options { cache_bytes, ..options() }).unwrap();
    for (key, length) in [("a", 1), ("b", 50), ("a", 30), ("c", 0), ("d", 70), ("b", 9)] {
        machine.put(key, &"v".repeat(length));
        machine.flush(&*engine);
    }
    machine.delete("c", "");
    machine
}

proptest! {
    /// The bytes counted before are those answered afterwards, options, revisions of the past and
    /// values outside of memory included.
    #[test]
    fn what_is_counted_is_what_is_answered(
        ranges in prop::collection::vec(any_range(), 1..4),
        cache_bytes in prop::sample::select(vec![0_u64, 60, 1 << 20]),
    ) {
        let machine = of_few_keys(cache_bytes);
        let success: Vec<_> = ranges.into_iter().map(read).collect();
        let txn = Txn { success, ..Txn::default() };
        let Ok(answer) = machine.read_txn(&txn).unwrap() else { return Ok(()) };
        let mut want = 0;
        for response in answer.responses {
            let TxnOpResponse::Range(response) = response else { panic!("{response:?}") };
            for kv in response.kvs {
                want += PAIR_BYTES + (kv.key.len() + kv.value.len()) as u64;
            }
        }
        prop_assert_eq!(machine.txn_answer_bytes(&txn).unwrap(), Ok(want));
    }

    /// The same for previous values.
    #[test]
    fn what_is_counted_of_a_delete_is_what_it_answers(
        key in prop::sample::select(vec!["a", "b", "c", "\0"]),
        end in prop::sample::select(vec!["", "b", "c", "e", "\0"]),
        cache_bytes in prop::sample::select(vec![0_u64, 60, 1 << 20]),
        in_txn in any::<bool>(),
    ) {
        let mut machine = of_few_keys(cache_bytes);
        let delete = DeleteRange { prev_kv: true, ..delete(key, end) };
        let txn = Txn { success: vec![TxnOp::DeleteRange(delete.clone())], ..Txn::default() };
        let counted = if in_txn {
            machine.txn_answer_bytes(&txn).unwrap()
        } else {
            machine.delete_answer_bytes(&delete).unwrap()
        };
        let Response::DeleteRange(answer) = machine.ok(Command::DeleteRange(delete)) else { panic!() };
        let pairs = answer.prev_kvs.iter();
        let want = pairs.map(|kv| PAIR_BYTES + (kv.key.len() + kv.value.len()) as u64).sum();
        // One key on its own is never long, so nothing is counted.
        prop_assert_eq!(counted, Ok(if end.is_empty() && !in_txn { 0 } else { want }));
    }
}
