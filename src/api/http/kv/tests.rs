//! Parameters and lines; the whole is tested against running members.

use hyper::Method;

use super::{kv_json, params::Params};
use crate::api::proto::mvccpb::KeyValue;

#[test]
fn parameters_are_known_or_refused() {
    let get = &Method::GET;
    let params = Params::parse(get, "prefix&rev=7&limit=3&keys_only=true&serializable=1").unwrap();
    let want = Params {
        prefix: true,
        revision: Some(7),
        serializable: true,
        limit: Some(3),
        keys_only: true,
        ..Params::default()
    };
    assert_eq!(params, want);
    assert_eq!(Params::parse(&Method::PUT, "lease=0xff").unwrap().lease, 255);
    assert_eq!(Params::parse(&Method::PUT, "lease=-5").unwrap().lease, -5);
    assert!(Params::parse(get, "watch=false").is_ok_and(|params| !params.watch));
    for (method, query) in [
        (get, "rev=0"),
        (get, "rev=-1"),
        (get, "rev="),
        (get, "limit=x"),
        (get, "prefix=yes"),
        (get, "revision=5"),
        (get, "lease=5"),
        (&Method::HEAD, "watch"),
        (&Method::PUT, "prefix"),
        (&Method::PUT, "lease=0xzz"),
        (&Method::PUT, "lease="),
        (&Method::DELETE, "rev=1"),
        (get, "a=%zz"),
    ] {
        assert!(Params::parse(method, query).is_err(), "{method} {query}");
    }
}

#[test]
fn pairs_that_are_no_text_are_base64_and_lines_are_addresses() {
    let mut kv = KeyValue {
        key: "a\n".into(),
        value: (&[0xff_u8, 0][..]).into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        lease: -1,
    };
    let json = |kv: &KeyValue| {
        let mut out = Vec::new();
        kv_json::put_pair(&mut out, kv, true);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        json(&kv),
        "{\"key\":\"a\\n\",\"value_base64\":\"/wA=\",\"create_revision\":2,\"mod_revision\":3,\
         \"version\":2,\"lease\":\"-1\"}"
    );
    kv.key = (&[0xfe_u8][..]).into();
    assert!(json(&kv).starts_with("{\"key_base64\":\"/g==\""));
    let line = |key: &[u8]| {
        let mut out = Vec::new();
        kv_json::put_line(&mut out, key);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(line("a/b c%?#\n\u{e9}".as_bytes()), "a/b%20c%25%3F%23%0A\u{e9}\n");
    assert_eq!(line(b"x\xff"), "x%FF\n");
}
