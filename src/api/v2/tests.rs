//! What requests ask for, and how answers are written.

use bytes::Bytes;
use hyper::Method;
use tripod_storage::v2::{Action, Error, Event, NodeView, Op};

use super::{
    answer::event_line,
    request::{Ask, parse},
    split_first, v2_allowed,
};
use crate::api::http::form::Form;

fn asked(method: &Method, form: &str) -> Result<Ask, Error> {
    let mut fields = Form::default();
    fields.add(form.as_bytes()).unwrap();
    parse(method, b"/k", &fields)
}

/// The operation of a write, in short.
fn op(method: &Method, form: &str) -> String {
    match asked(method, form) {
        Ok(Ask::Write { write, bare }) => {
            let op = match write.op {
                Op::Set { dir, value } => format!("set {dir} {value:?}"),
                Op::Create { dir, value, unique } => format!("create {dir} {value:?} {unique}"),
                Op::Update { value } => format!("update {value:?}"),
                Op::CompareAndSwap { value, condition } => {
                    format!("swap {value:?} if {:?} {}", condition.value, condition.index)
                }
                Op::Delete { dir, recursive } => format!("delete {dir} {recursive}"),
                Op::CompareAndDelete { condition } => {
                    format!("delete if {:?} {}", condition.value, condition.index)
                }
            };
            let ttl = write.ttl_s.map(|ttl_s| format!(" ttl {ttl_s}")).unwrap_or_default();
            let refresh = if write.refresh { " refresh" } else { "" };
            format!("{op}{ttl}{refresh}{}", if bare { " bare" } else { "" })
        }
        Ok(Ask::Get { recursive, quorum, .. }) => format!("get {recursive} {quorum}"),
        Ok(Ask::Wait { recursive, stream, index, .. }) => {
            format!("wait {recursive} {stream} {index}")
        }
        Err(error) => {
            let cause = String::from_utf8_lossy(&error.cause).into_owned();
            format!("{} {cause}", error.code.describe().0)
        }
    }
}

#[test]
fn requests_are_read_as_by_etcd() {
    let put = Method::PUT;
    for (method, form, want) in [
        (&put, "value=1", "set false b\"1\""),
        (&put, "", "set false b\"\""),
        (&put, "value=1&dir=true&ttl=5", "set true b\"1\" ttl 5"),
        (&put, "value=1&ttl=", "set false b\"1\""),
        (&put, "value=1&ttl=-1", "202 invalid value for \"ttl\""),
        (&put, "prevExist=true&value=1", "update b\"1\""),
        (&put, "prevExist=false&value=1", "create false b\"1\" false"),
        (&put, "prevExist=false&value=1&prevValue=2", "create false b\"1\" false"),
        (&put, "prevExist=true&value=1&prevValue=2", "swap b\"1\" if b\"2\" 0"),
        (&put, "value=1&prevIndex=7", "swap b\"1\" if b\"\" 7"),
        (&put, "value=1&prevIndex=0", "set false b\"1\""),
        (&put, "value=1&prevIndex=", "203 invalid value for \"prevIndex\""),
        (&put, "prevExist=x", "209 invalid value for prevExist"),
        (&put, "prevValue=", "201 \"prevValue\" cannot be empty"),
        (&put, "refresh=true&ttl=5", "set false b\"\" ttl 5 refresh"),
        (&put, "refresh=true", "212 No TTL value set"),
        (&put, "refresh=true&ttl=5&value=1", "211 A value was provided on a refresh"),
        (&put, "refresh=2", "209 invalid value for refresh"),
        (&put, "wait=true", "209 \"wait\" can only be used with GET requests"),
        (&put, "noValueOnSuccess=true", "set false b\"\" bare"),
        (&put, "noValueOnSuccess=", "209 invalid value for \"noValueOnSuccess\""),
        (&Method::POST, "value=1&prevExist=true", "create false b\"1\" true"),
        (&Method::DELETE, "dir=1&recursive=T", "delete true true"),
        (&Method::DELETE, "prevValue=1&prevIndex=2", "delete if b\"1\" 2"),
        (&Method::GET, "recursive=true&sorted=true&quorum=true", "get true true"),
        (&Method::HEAD, "quorum=true", "get false false"),
        (&Method::GET, "wait=true&stream=true&waitIndex=9", "wait false true 9"),
        (&Method::GET, "wait=true&quorum=true", "get false true"),
        (&Method::GET, "wait=yes", "209 invalid value for \"wait\""),
        (&Method::GET, "waitIndex=18446744073709551616", "203 invalid value for \"waitIndex\""),
        (&Method::GET, "sorted=TRue", "209 invalid value for \"sorted\""),
    ] {
        assert_eq!(op(method, form), want, "{method} {form}");
    }
}

#[test]
fn events_are_written_as_by_etcd() {
    let node = NodeView {
        key: "/d".into(),
        dir: true,
        expires_ns: Some(1_000_000_000_500_000_000),
        ttl_s: 5,
        nodes: vec![NodeView {
            key: "/d/<\u{e9}>".into(),
            value: Some(Bytes::new()),
            modified: 5,
            created: 4,
            ..NodeView::default()
        }],
        modified: 4,
        created: 4,
        ..NodeView::default()
    };
    let root = NodeView { dir: true, ..NodeView::default() };
    let event = Event { action: Action::Get, node, prev: Some(root), refresh: false };
    let want = "{\"action\":\"get\",\"node\":{\"key\":\"/d\",\"dir\":true,\
                \"expiration\":\"2001-09-09T01:46:40.5Z\",\"ttl\":5,\"nodes\":[\
                {\"key\":\"/d/\\u003c\u{e9}\\u003e\",\"value\":\"\",\"modifiedIndex\":5,\
                \"createdIndex\":4}],\"modifiedIndex\":4,\"createdIndex\":4},\
                \"prevNode\":{\"dir\":true}}\n";
    assert_eq!(event_line(&event, false), want);
    assert_eq!(event_line(&event, true), "{\"action\":\"get\"}\n");
}

#[test]
fn nothing_is_allowed_while_authentication_is_on() {
    assert!(v2_allowed(false).is_ok());
    let error = v2_allowed(true).unwrap_err();
    assert_eq!((error.code.describe().0, error.code.describe().2), (110, 401));
}

#[test]
fn paths_are_parted_at_their_first_slash() {
    assert_eq!(split_first(b"keys"), (&b"keys"[..], None));
    assert_eq!(split_first(b"keys/"), (&b"keys"[..], Some(&b""[..])));
    assert_eq!(split_first(b"keys/a/b"), (&b"keys"[..], Some(&b"a/b"[..])));
}
