use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::command::{Command, Put, Txn, TxnOp};

#[test]
fn bytes_on_disk_stay_as_they_are() {
    // Golden: a change here is a change of the stored format.
    let put = Command::Put(Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"vv"),
        lease: -2,
        prev_kv: true,
        ..Put::default()
    });
    assert_eq!(encode(&put), [1, 0, 1, b'k', 2, b'v', b'v', 3, 1, 0, 0]);
    assert_eq!(encode(&(300_u32, Some("ä"))), [1, 251, 44, 1, 1, 2, 0xc3, 0xa4]);
}

#[test]
fn bytes_that_are_no_value_are_refused_with_a_reason() {
    let cases: [(&str, &[u8], &str); 6] = [
        ("empty", &[], "empty record"),
        ("other format", &[9, 0], "unknown record format 9, this version reads 1"),
        ("cut", &[1, 5, b'a'], "malformed record: it ends too early"),
        ("left over", &[1, 1, b'a', 7, 7], "2 bytes left over after a record"),
        ("no text", &[1, 1, 0xff], "malformed record: "),
        ("huge length", &[1, 253, 255, 255, 255, 255, 255, 255, 255, 127], "malformed record: "),
    ];
    for (name, bytes, want) in cases {
        let error = decode::<String>(bytes).unwrap_err().to_string();
        assert!(error.starts_with(want), "{name}: {error}");
    }
    assert_eq!(
        decode_limited::<String>(&[1, 1, b'a'], 2),
        Err(Error::TooLong { len: 3, limit: 2 })
    );
}

/// CVE-2020-15106, for stored records and what peers send.
#[test]
fn a_forged_length_allocates_nothing() {
    // Each claims 2^62 bytes or elements; believing one would abort the process.
    let claim = [1, 253, 0, 0, 0, 0, 0, 0, 0, 0x40];
    assert!(decode::<String>(&claim).is_err());
    assert!(decode::<Bytes>(&claim).is_err());
    assert!(decode::<Vec<u64>>(&claim).is_err());
    assert!(decode::<Vec<[u64; 32]>>(&claim).is_err());
    assert!(decode::<std::collections::BTreeMap<u64, String>>(&claim).is_err());
}

#[test]
fn nesting_is_followed_to_a_bound_and_no_further() {
    fn nested(levels: usize) -> Command {
        let mut txn = Txn::default();
        for _ in 0..levels {
            txn = Txn { success: vec![TxnOp::Txn(txn)], ..Txn::default() };
        }
        Command::Txn(txn)
    }
    let fine = nested(40);
    assert_eq!(decode::<Command>(&encode(&fine)).unwrap(), fine);
    // Forged by hand: 100,000 levels of "no compares, one success, a transaction".
    let mut forged = vec![FORMAT, 2];
    for _ in 0..100_000 {
        forged.extend_from_slice(&[0, 1, 3]);
    }
    let error = decode::<Command>(&forged).unwrap_err().to_string();
    assert_eq!(error, "malformed record: nested deeper than 256 levels");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Every {
    Unit,
    New(i64),
    Tuple(u8, String),
    Struct { maybe: Option<Bytes>, list: Vec<u32>, map: std::collections::BTreeMap<String, u64> },
}

fn every() -> impl Strategy<Value = Every> {
    prop_oneof![
        Just(Every::Unit),
        any::<i64>().prop_map(Every::New),
        (any::<u8>(), ".{0,20}").prop_map(|(a, b)| Every::Tuple(a, b)),
        (
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
            proptest::collection::vec(any::<u32>(), 0..20),
            proptest::collection::btree_map(".{0,5}", any::<u64>(), 0..5),
        )
            .prop_map(|(maybe, list, map)| Every::Struct {
                maybe: maybe.map(Bytes::from),
                list,
                map
            }),
    ]
}

proptest! {
    #[test]
    fn every_shape_comes_back_as_it_was(value in proptest::collection::vec(every(), 0..10)) {
        let encoded = encode(&value);
        prop_assert_eq!(decode::<Vec<Every>>(&encoded).unwrap(), value);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<Command>(&bytes);
        let _ = decode::<Vec<Every>>(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = FORMAT;
            let _ = decode::<Command>(&bytes);
            let _ = decode::<Vec<Every>>(&bytes);
        }
    }
}
