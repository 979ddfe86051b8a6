//! Both directions against recorded answers of etcd 3.5.1 (what it read a text as shows in its
//! answer), and against each other on random messages and random bytes.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::{
    Documents, JsonError, MESSAGE_DEPTH_MAX, MessageId, SKIP_DEPTH_MAX, Schema, WireError,
};
use crate::api::proto::{etcdserverpb as pb, mvccpb};

fn id(name: &str) -> MessageId {
    Schema::etcd().message(name).expect(name)
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>, JsonError> {
    Schema::etcd().decode(id(name), text.as_bytes()).map(|decoded| decoded.wire)
}

fn read<M: Message + Default>(name: &str, text: &str) -> M {
    let wire = decode(name, text).unwrap_or_else(|error| panic!("{text}: {error}"));
    M::decode(&*wire).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn encode(name: &str, wire: &[u8]) -> String {
    let mut out = Vec::new();
    Schema::etcd().encode(id(name), wire, &mut out).expect("valid message");
    String::from_utf8(out).expect("JSON is UTF-8")
}

const RANGE: &str = "etcdserverpb.RangeRequest";
const TXN: &str = "etcdserverpb.TxnRequest";

#[test]
fn texts_are_read_as_etcd_reads_them() {
    let key = |key: &'static [u8]| pb::RangeRequest { key: key.into(), ..Default::default() };
    let limit = |limit| pb::RangeRequest { limit, ..key(b"a") };
    let sorted = |sort_order| pb::RangeRequest { sort_order, ..key(b"a") };
    let keys_only = pb::RangeRequest { keys_only: true, ..key(b"a") };
    let cases = [
        ("", key(b"")),
        (" \r\n\t", key(b"")),
        ("null", key(b"")),
        ("{}", key(b"")),
        (r#"{"key":"YQ=="} x"#, key(b"a")),
        (r#"{"key":"YQ=="}{"#, key(b"a")),
        (r#"{"key":null}"#, key(b"")),
        (r#"{"key":""}"#, key(b"")),
        (r#"{"key":[97,98]}"#, key(b"ab")),
        (r#"{"key":[97,null]}"#, key(b"a\0")),
        (r#"{"key":[ ]}"#, key(b"")),
        (r#"{"key":"YR=="}"#, key(b"a")),
        (r#"{"key":"Y\r\nQ\n==\n"}"#, key(b"a")),
        (r#"{"key":"YQ=\u003d"}"#, key(b"a")),
        (r#"{"k\u0065y":"YQ=="}"#, key(b"a")),
        ("{\"key\" :\n\"YQ==\"\t, \"limit\" : 1 }", limit(1)),
        // Spellings of the later gateway.
        (r#"{"key":"YQ"}"#, key(b"a")),
        (r#"{"key":"_-8="}"#, key(b"\xff\xef")),
        (r#"{"key":"_-8"}"#, key(b"\xff\xef")),
        (r#"{"key":"YQ==","limit":1.0}"#, limit(1)),
        (r#"{"key":"YQ==","limit":"1e3"}"#, limit(1000)),
        // Numbers.
        (r#"{"key":"YQ==","limit":"2"}"#, limit(2)),
        (r#"{"key":"YQ==","limit":" 2 "}"#, limit(2)),
        (r#"{"key":"YQ==","limit":"null"}"#, limit(0)),
        (r#"{"key":"YQ==","limit":"\u0032"}"#, limit(2)),
        (r#"{"key":"YQ==","limit":-9223372036854775808}"#, limit(i64::MIN)),
        (r#"{"key":"YQ==","limit":"9223372036854775807"}"#, limit(i64::MAX)),
        // Enums.
        (r#"{"key":"YQ==","sort_order":"DESCEND"}"#, sorted(2)),
        (r#"{"key":"YQ==","sort_order":2}"#, sorted(2)),
        (r#"{"key":"YQ==","sort_order":77}"#, sorted(77)),
        (r#"{"key":"YQ==","sort_order":-1}"#, sorted(-1)),
        (r#"{"key":"YQ==","sort_order":null}"#, sorted(0)),
        // Names: both spellings, the camel case one wins; others are ignored.
        (r#"{"key":"YQ==","keysOnly":true}"#, keys_only.clone()),
        (r#"{"key":"YQ==","keys_only":true,"keysOnly":false}"#, key(b"a")),
        (r#"{"key":"YQ==","keysOnly":false,"keys_only":true}"#, key(b"a")),
        (r#"{"key":"YQ==","keysOnly":null,"keys_only":true}"#, key(b"a")),
        (r#"{"keysOnly":true,"keys_only":7,"key":"YQ=="}"#, keys_only),
        (r#"{"KEY":"Yg==","Key":"Yg==","":1,"key":"YQ=="}"#, key(b"a")),
        (r#"{"key":"YQ==","x":{"a":[1,-2e5,"\"",{"b":null},[],{}]},"y":true}"#, key(b"a")),
        // Duplicates: the last one stands, even when it is null.
        (r#"{"key":"Yg==","key":"YQ=="}"#, key(b"a")),
        (r#"{"key":"YQ==","limit":5,"key":null}"#, pb::RangeRequest { limit: 5, ..key(b"") }),
        (r#"{"limit":5,"key":"YmJi","limit":6,"key":"YQ==","limit":7}"#, limit(7)),
    ];
    for (text, want) in cases {
        assert_eq!(read::<pb::RangeRequest>(RANGE, text), want, "{text}");
    }
}

#[test]
fn texts_that_etcd_refuses_are_refused() {
    let texts = [
        "{",
        "}",
        "[]",
        "[1]",
        "\"x\"",
        "1",
        "true",
        "nul",
        "{]",
        "{\"key\":}",
        "{\"key\":\"YQ==\",}",
        "{\"key\":\"YQ==\" \"limit\":1}",
        "{\"key\":\"Y\nQ==\"}",
        "{'key':'YQ=='}",
        "{key:1}",
        "/* c */{}",
        "\u{feff}{}",
        r#"{"key":"!!!"}"#,
        r#"{"key":"YQ="}"#,
        r#"{"key":"Y Q=="}"#,
        r#"{"key":"YQ==YQ=="}"#,
        r#"{"key":"Y"}"#,
        r#"{"key":"+_8="}"#,
        r#"{"key":"\ud800"}"#,
        r#"{"key":"=="}"#,
        r#"{"key":1}"#,
        r#"{"key":true}"#,
        r#"{"key":{}}"#,
        r#"{"key":["97"]}"#,
        r#"{"key":[256]}"#,
        r#"{"key":[-1]}"#,
        r#"{"key":[97,]}"#,
        r#"{"key":[97"#,
        r#"{"limit":"x"}"#,
        r#"{"limit":1.5}"#,
        r#"{"limit":""}"#,
        r#"{"limit":"+1"}"#,
        r#"{"limit":"01"}"#,
        r#"{"limit":01}"#,
        r#"{"limit":9223372036854775808}"#,
        r#"{"limit":-}"#,
        r#"{"limit":.5}"#,
        r#"{"limit":1.}"#,
        r#"{"limit":1e}"#,
        r#"{"limit":"0x1"}"#,
        r#"{"limit":"1_0"}"#,
        r#"{"limit":true}"#,
        r#"{"limit":[]}"#,
        r#"{"limit":{}}"#,
        r#"{"serializable":"true"}"#,
        r#"{"serializable":1}"#,
        r#"{"serializable":True}"#,
        r#"{"sort_order":"FOO"}"#,
        r#"{"sort_order":"descend"}"#,
        r#"{"sort_order":"1"}"#,
        r#"{"sort_order":""}"#,
        r#"{"sort_order":99999999999}"#,
        r#"{"sort_order":true}"#,
        r#"{"sort_order":[]}"#,
        r#"{"x":nul}"#,
        r#"{"x":[1}"#,
        r#"{"x":{"a"}}"#,
        r#"{"x":"\x"}"#,
        r#"{"x":"\u12"}"#,
        r#"{"x":[1,]}"#,
        r#"{"x":{"a":1,}}"#,
    ];
    for text in texts {
        assert!(decode(RANGE, text).is_err(), "{text}");
    }
    let unsigned = "etcdserverpb.MemberRemoveRequest";
    assert!(decode(unsigned, r#"{"ID":-1}"#).is_err());
    assert!(decode(unsigned, r#"{"ID":18446744073709551616}"#).is_err());
    assert_eq!(
        read::<pb::MemberRemoveRequest>(unsigned, r#"{"ID":"18446744073709551615"}"#).id,
        u64::MAX
    );
}

#[test]
fn of_two_members_of_a_oneof_the_one_declared_later_stands() {
    let put = r#""request_put":{"key":"cA=="}"#;
    let range = r#""request_range":{"key":"cg=="}"#;
    for text in [
        format!(r#"{{"success":[{{{put},{range}}}]}}"#),
        format!(r#"{{"success":[{{{range},{put}}}]}}"#),
        format!(r#"{{"success":[{{{range},{put},"request_txn":null}}]}}"#),
    ] {
        let txn: pb::TxnRequest = read(TXN, &text);
        let request = txn.success[0].request.as_ref();
        assert!(matches!(request, Some(pb::request_op::Request::RequestPut(_))), "{text}");
    }
    let compare: pb::TxnRequest =
        read(TXN, r#"{"compare":[{"version":7,"value":"","lease":null}]}"#);
    let value = pb::compare::TargetUnion::Value(Bytes::new());
    assert_eq!(compare.compare[0].target_union, Some(value), "a default value is set all the same");
}

#[test]
fn lists_and_messages_replace_what_came_before() {
    let twice = r#"{"success":[{"request_put":{"key":"YQ=="}},{}],"failure":[null],"success":[]}"#;
    let txn: pb::TxnRequest = read(TXN, twice);
    assert_eq!(
        (txn.success.len(), txn.failure.len()),
        (0, 1),
        "null in a list is an empty message"
    );
    let op =
        r#"{"success":[{"request_put":{"key":"YQ==","lease":1},"request_put":{"value":"Yg=="}}]}"#;
    let txn: pb::TxnRequest = read(TXN, op);
    let put = pb::PutRequest { value: "b".into(), ..Default::default() };
    let want = pb::request_op::Request::RequestPut(put);
    assert_eq!(txn.success[0].request, Some(want), "members of the first are gone");
    let watch = r#"{"create_request":{"filters":["NOPUT",1,null,7]}}"#;
    let watch: pb::WatchRequest = read("etcdserverpb.WatchRequest", watch);
    let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = watch.request_union else {
        panic!("{watch:?}")
    };
    assert_eq!(create.filters, [0, 1, 0, 7]);
    assert!(decode(TXN, r#"{"success":{}}"#).is_err());
    assert!(decode(TXN, r#"{"success":[[]]}"#).is_err());
    assert!(decode(TXN, r#"{"success":[{}"#).is_err());
}

#[test]
fn text_fields_become_utf_8_as_in_go() {
    let name = |json: &[u8]| {
        let decoded = Schema::etcd().decode(id("etcdserverpb.AuthUserGetRequest"), json).unwrap();
        pb::AuthUserGetRequest::decode(&*decoded.wire).unwrap().name
    };
    let cases: [(&[u8], &str); 6] = [
        (br#"{"name":"<>&\u2028\u0001\"\\\/\b\f\n\r\t"}"#, "<>&\u{2028}\u{1}\"\\/\u{8}\u{c}\n\r\t"),
        (br#"{"name":"\ud83d\ude00"}"#, "\u{1f600}"),
        (br#"{"name":"\ud800x\udc00"}"#, "\u{fffd}x\u{fffd}"),
        (br#"{"name":"\ud800\u0041"}"#, "\u{fffd}A"),
        (b"{\"name\":\"\xff\xfe\"}", "\u{fffd}\u{fffd}"),
        (b"{\"name\":\"a\xe2\x82z\"}", "a\u{fffd}\u{fffd}z"),
    ];
    for (json, want) in cases {
        assert_eq!(name(json), want, "{}", json.escape_ascii());
    }
}

#[test]
fn depth_is_bounded_and_costs_no_stack() {
    let nested = |levels: usize| {
        let open = r#"{"success":[{"request_txn":"#.repeat(levels);
        format!("{open}{{}}{}", "}]}".repeat(levels))
    };
    assert!(decode(TXN, &nested(MESSAGE_DEPTH_MAX / 2)).is_ok());
    let deep = decode(TXN, &nested(MESSAGE_DEPTH_MAX / 2 + 1));
    assert!(matches!(deep, Err(JsonError::TooDeep { .. })), "{deep:?}");
    let unknown = |levels| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert!(decode(TXN, &unknown(SKIP_DEPTH_MAX)).is_ok());
    assert!(decode(TXN, &unknown(SKIP_DEPTH_MAX + 2)).is_err());
    let mut wire = Vec::new();
    for level in 0..=MESSAGE_DEPTH_MAX {
        // In turns, a txn in an operation's field 4 and an operation in a txn's field 2.
        let mut outer = vec![if level % 2 == 0 { 0x12 } else { 0x22 }];
        prost::encoding::encode_varint(wire.len() as u64, &mut outer);
        outer.append(&mut wire);
        wire = outer;
    }
    let print = |wire: &[u8]| Schema::etcd().encode(id(TXN), wire, &mut Vec::new());
    assert_eq!(print(&wire), Err(WireError::TooDeep));
    let mut rest = &wire[1..];
    prost::encoding::decode_varint(&mut rest).unwrap();
    assert_eq!(
        Schema::etcd().encode(id("etcdserverpb.RequestOp"), rest, &mut Vec::new()),
        Ok(()),
        "one level less"
    );
}

#[test]
fn messages_are_printed_as_etcd_prints_them() {
    let header = pb::ResponseHeader { cluster_id: u64::MAX, revision: -5, ..Default::default() };
    let kv =
        mvccpb::KeyValue { key: "a".into(), version: 1, value: "1".into(), ..Default::default() };
    let response = pb::RangeResponse {
        header: Some(header),
        kvs: vec![kv.clone(), mvccpb::KeyValue::default()],
        more: true,
        count: 2,
    };
    assert_eq!(
        encode("etcdserverpb.RangeResponse", &response.encode_to_vec()),
        r#"{"header":{"cluster_id":"18446744073709551615","revision":"-5"},"kvs":[{"key":"YQ==","version":"1","value":"MQ=="},{}],"more":true,"count":"2"}"#
    );
    let put = pb::response_op::Response::ResponsePut(pb::PutResponse::default());
    let inner =
        pb::TxnResponse { header: Some(Default::default()), succeeded: true, responses: vec![] };
    let txn = pb::response_op::Response::ResponseTxn(inner);
    let responses = [put, txn].map(|response| pb::ResponseOp { response: Some(response) }).into();
    let response = pb::TxnResponse { header: None, succeeded: false, responses };
    assert_eq!(
        encode("etcdserverpb.TxnResponse", &response.encode_to_vec()),
        r#"{"responses":[{"response_put":{}},{"response_txn":{"header":{},"succeeded":true}}]}"#
    );
    let value = pb::compare::TargetUnion::Value(Bytes::new());
    let compare = pb::Compare { target: 3, target_union: Some(value), ..Default::default() };
    let text = encode("etcdserverpb.Compare", &compare.encode_to_vec());
    assert_eq!(text, r#"{"target":"VALUE","value":""}"#);
    let event = mvccpb::Event { r#type: 1, kv: Some(kv), prev_kv: None };
    let response = pb::WatchResponse { watch_id: -1, events: vec![event], ..Default::default() };
    assert_eq!(
        encode("etcdserverpb.WatchResponse", &response.encode_to_vec()),
        r#"{"watch_id":"-1","events":[{"type":"DELETE","kv":{"key":"YQ==","version":"1","value":"MQ=="}}]}"#
    );
    let hash = pb::HashResponse { header: None, hash: u32::MAX };
    assert_eq!(
        encode("etcdserverpb.HashResponse", &hash.encode_to_vec()),
        r#"{"hash":4294967295}"#
    );
    let alarm = pb::AlarmMember { member_id: 7, alarm: 9 };
    let text = encode("etcdserverpb.AlarmMember", &alarm.encode_to_vec());
    assert_eq!(text, r#"{"memberID":"7","alarm":9}"#, "an unknown enum number stays a number");
    let users = pb::AuthUserListResponse {
        header: None,
        users: vec![
            "<>&\u{2028}\u{2029}\u{1}\"\\/é€😀\t\n\r\u{8}\u{c}\u{7f}".into(),
            String::new(),
        ],
    };
    assert_eq!(
        encode("etcdserverpb.AuthUserListResponse", &users.encode_to_vec()),
        "{\"users\":[\"\\u003c\\u003e\\u0026\\u2028\\u2029\\u0001\\\"\\\\/é€😀\\t\\n\\r\\u0008\\u000c\u{7f}\",\"\"]}"
    );
}

#[test]
fn fields_out_of_order_follow_protobufs_rules() {
    let put = |wire: &[u8]| encode("etcdserverpb.PutRequest", wire);
    assert_eq!(put(b"\x12\x01v\x0a\x01k"), r#"{"key":"aw==","value":"dg=="}"#, "order");
    assert_eq!(put(b"\x18\x01\x18\x02\x18\x00"), "{}", "the last scalar wins");
    assert_eq!(put(b"\x78\x05\x7a\x01x\x0a\x01k"), r#"{"key":"aw=="}"#, "unknown numbers");
    assert_eq!(put(b"\x9d\x06abcd\x0a\x01k"), r#"{"key":"aw=="}"#, "unknown fixed32");
    let event = |wire: &[u8]| encode("mvccpb.Event", wire);
    let merged = r#"{"kv":{"key":"aw==","value":"dg=="}}"#;
    assert_eq!(event(b"\x12\x03\x0a\x01k\x12\x03\x2a\x01v"), merged, "messages merge");
    let list = |wire: &[u8]| encode("etcdserverpb.AuthRoleListResponse", wire);
    assert_eq!(list(b"\x12\x01a\x0a\x00\x12\x01b"), r#"{"header":{},"roles":["a","b"]}"#, "lists");
    let op = |wire: &[u8]| encode("etcdserverpb.RequestOp", wire);
    assert_eq!(op(b"\x12\x00\x0a\x00"), r#"{"request_range":{}}"#, "the last of a oneof wins");
    assert_eq!(
        op(b"\x12\x03\x0a\x01a\x0a\x00\x12\x03\x12\x01b"),
        r#"{"request_put":{"value":"Yg=="}}"#
    );
    let create = |wire: &[u8]| encode("etcdserverpb.WatchCreateRequest", wire);
    assert_eq!(create(b"\x28\x01\x28\x00"), r#"{"filters":["NODELETE","NOPUT"]}"#, "not packed");
    assert_eq!(create(b"\x2a\x02\x01\x00"), r#"{"filters":["NODELETE","NOPUT"]}"#, "packed");
    let mut out = Vec::new();
    for bad in [b"\x0a\x05k".as_slice(), b"\x08\x01", b"\x0b", b"\xff", b"\x0a\xff\xff\xff\xff\x0f"]
    {
        assert!(Schema::etcd().encode(id("etcdserverpb.PutRequest"), bad, &mut out).is_err());
    }
}

#[test]
fn documents_are_found_in_pieces_of_any_size() {
    let text = br#" {"a":"}\"{","b":[{}]}null{"c":1} "#;
    for size in 1..=text.len() {
        let mut documents = Documents::new(64);
        let mut found = Vec::new();
        for piece in text.chunks(size) {
            documents.push(piece);
            while let Some(document) = documents.next_document().unwrap() {
                found.push(document);
            }
        }
        assert_eq!(found, [&br#"{"a":"}\"{","b":[{}]}"#[..], b"null", br#"{"c":1}"#], "{size}");
        assert_eq!(documents.finish(), Ok(()));
    }
}

#[test]
fn broken_and_oversized_documents_are_refused() {
    let next = |text: &[u8]| {
        let mut documents = Documents::new(8);
        documents.push(text);
        documents.next_document()
    };
    assert!(matches!(next(b"x{}"), Err(JsonError::NotAnObject { .. })));
    assert!(matches!(next(b"[{}]"), Err(JsonError::NotAnObject { .. })));
    assert!(matches!(next(b"{\"a\":1}"), Ok(Some(_))));
    assert!(matches!(next(b"{\"abc\":1}"), Err(JsonError::TooLarge { limit: 8 })));
    assert!(matches!(next(b"{\"abcdefgh"), Err(JsonError::TooLarge { limit: 8 })));
    let mut documents = Documents::new(8);
    documents.push(b"{\"a\"");
    assert_eq!(documents.next_document(), Ok(None));
    assert_eq!(documents.finish(), Err(JsonError::UnexpectedEnd));
}

fn key() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

prop_compose! {
    fn range()(key in key(), range_end in key(), limit: i64, sort_order in -1..4, keys_only: bool,
               revision: i64) -> pb::RangeRequest {
        pb::RangeRequest { key, range_end, limit, revision, sort_order, keys_only, ..Default::default() }
    }
}

prop_compose! {
    fn put()(key in key(), value in key(), lease: i64, prev_kv: bool) -> pb::PutRequest {
        pb::PutRequest { key, value, lease, prev_kv, ..Default::default() }
    }
}

fn target() -> impl Strategy<Value = pb::compare::TargetUnion> {
    prop_oneof![
        any::<i64>().prop_map(pb::compare::TargetUnion::Version),
        any::<i64>().prop_map(pb::compare::TargetUnion::Lease),
        key().prop_map(pb::compare::TargetUnion::Value),
    ]
}

prop_compose! {
    fn compare()(key in key(), result in 0..5, target_union in option::of(target()),
                 range_end in key()) -> pb::Compare {
        pb::Compare { key, result, target_union, range_end, ..Default::default() }
    }
}

fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    use pb::request_op::Request;
    let empty = Just(pb::TxnRequest::default());
    empty.prop_recursive(4, 40, 4, |txn| {
        let request = prop_oneof![
            range().prop_map(Request::RequestRange),
            put().prop_map(Request::RequestPut),
            txn.prop_map(Request::RequestTxn),
        ];
        let op = option::of(request).prop_map(|request| pb::RequestOp { request }).boxed();
        (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
            .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
    })
}

fn watch() -> impl Strategy<Value = pb::WatchCreateRequest> {
    (key(), vec(-1..3, 0..5), any::<i64>(), any::<bool>()).prop_map(
        |(key, filters, watch_id, fragment)| pb::WatchCreateRequest {
            key,
            filters,
            watch_id,
            fragment,
            ..Default::default()
        },
    )
}

fn member() -> impl Strategy<Value = pb::Member> {
    (any::<u64>(), any::<String>(), vec(any::<String>(), 0..3), any::<bool>()).prop_map(
        |(id, name, peer_ur_ls, is_learner)| pb::Member {
            id,
            name,
            peer_ur_ls,
            is_learner,
            ..Default::default()
        },
    )
}

/// What a message becomes by way of JSON.
fn round_trip<M: Message + Default>(name: &str, message: &M) -> M {
    let json = encode(name, &message.encode_to_vec());
    serde_json::from_str::<serde_json::Value>(&json).expect("JSON to others too");
    read(name, &json)
}

/// Wire bytes of a put inside `depth` transactions.
fn deep_put(depth: usize, value: &[u8]) -> pb::TxnRequest {
    use pb::request_op::Request::{RequestPut, RequestTxn};
    let op = |request| pb::RequestOp { request: Some(request) };
    let put = pb::PutRequest { value: value.to_vec().into(), ..Default::default() };
    let inner = pb::TxnRequest { success: vec![op(RequestPut(put))], ..Default::default() };
    (0..depth).fold(inner, |inner, _| pb::TxnRequest {
        success: vec![op(RequestTxn(inner))],
        ..Default::default()
    })
}

#[test]
fn deep_and_long_text_is_read_in_time_linear_in_its_length() {
    // Each level's content has a length of two bytes where there was room for four.
    let chain =
        format!("{}{}{}", r#"{"success":[{"request_txn":"#.repeat(140), "{}", "}]}".repeat(140));
    let chains = vec![format!(r#"{{"request_txn":{chain}}}"#); 1_000].join(",");
    let text = format!(r#"{{"success":[{chains}]}}"#);
    let start = std::time::Instant::now();
    let decoded = Schema::etcd().decode(id(TXN), text.as_bytes()).expect("it is JSON");
    assert!(decoded.wire.len() < text.len());
    let printed = encode(TXN, &decoded.wire);
    assert_eq!(decode(TXN, &printed).unwrap().len(), decoded.wire.len());
    // Four megabytes, in a debug build.
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn padded_lengths_are_read_by_others() {
    let value = vec![b'v'; 600_000];
    let want = deep_put(40, &value);
    let text = encode(TXN, &want.encode_to_vec());
    // Space behind the document makes room for longer lengths than needed.
    let spaced = format!("{text}{}", " ".repeat(1_500_000));
    let wire = decode(TXN, &spaced).unwrap();
    assert_eq!(pb::TxnRequest::decode(&*wire).unwrap(), want);
}

#[test]
fn a_member_repeated_without_end_is_refused() {
    // The small member is taken out from before the large one each time.
    let big = format!(r#""failure":[{{"request_put":{{"value":"{}"}}}}]"#, "AAAA".repeat(100_000));
    let open = r#"{"compare":[{}],"success":[{"request_txn":"#.repeat(60);
    let close = r#"}],"compare":[{}]}"#.repeat(60);
    let text = format!("{open}{{{big}}}{close}");
    let refused = Schema::etcd().decode(id(TXN), text.as_bytes());
    assert!(matches!(refused, Err(JsonError::Repetitive { .. })), "{:?}", refused.is_ok());
}

proptest! {
    #[test]
    fn messages_survive_the_way_through_json(txn in txn(), watch in watch(), member in member()) {
        prop_assert_eq!(&round_trip(TXN, &txn), &txn);
        prop_assert_eq!(&round_trip("etcdserverpb.WatchCreateRequest", &watch), &watch);
        prop_assert_eq!(&round_trip("etcdserverpb.Member", &member), &member);
    }

    #[test]
    fn wire_from_json_is_the_wire_that_prost_writes(txn in txn()) {
        let wire = txn.encode_to_vec();
        prop_assert_eq!(decode(TXN, &encode(TXN, &wire)).unwrap(), wire);
    }

    #[test]
    fn arbitrary_bytes_print_to_something_that_reads_back_or_fail(bytes in vec(any::<u8>(), 0..80)) {
        for id in Schema::etcd().messages() {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            if Schema::etcd().encode(id, &bytes, &mut first).is_ok() {
                let wire = Schema::etcd().decode(id, &first).expect("own output").wire;
                Schema::etcd().encode(id, &wire, &mut second).expect("own output");
                prop_assert_eq!(&first, &second);
            }
        }
    }

    #[test]
    fn arbitrary_text_is_read_or_refused(
        text in r#"([{}\[\],:" ]|"key"|"limit"|"success"|"request_txn"|"filters"|null|true|-?[0-9.eE]{1,4}|"[A-Za-z+/=_\\u-]{0,8}"|.){0,40}"#
    ) {
        for id in Schema::etcd().messages() {
            if let Ok(decoded) = Schema::etcd().decode(id, text.as_bytes()) {
                prop_assert!(decoded.consumed <= text.len());
                Schema::etcd().encode(id, &decoded.wire, &mut Vec::new()).expect("own output");
            }
        }
    }

    #[test]
    fn a_broken_valid_text_is_read_or_refused(txn in txn(), at: prop::sample::Index, byte: u8) {
        let mut text = encode(TXN, &txn.encode_to_vec()).into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = Schema::etcd().decode(id(TXN), &text);
        text.truncate(at);
        let _ = Schema::etcd().decode(id(TXN), &text);
    }
}
