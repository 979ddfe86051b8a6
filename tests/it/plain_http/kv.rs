//! `/kv`: the v3 key space as plain bytes.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Server, soon};
use crate::support::http::{Answer, Http, Lines};

fn number(answer: &Answer, name: &str) -> i64 {
    answer.header(name).and_then(|value| value.parse().ok()).unwrap_or(-1)
}

#[test]
fn values_go_in_and_out_as_they_are() -> Result<()> {
    let server = Server::start(&[])?;
    let mut http = server.http();
    let bytes = [0_u8, 0xff, b'\n', b'%'];
    let put = http.request("PUT", "/kv/a%2F/../b%00//", &[], &bytes)?;
    assert_eq!((put.status, put.header("etag")), (204, Some("\"2\"")));
    let got = http.get("/kv/a%2F/../b%00//")?;
    assert_eq!((got.status, &got.body[..]), (200, &bytes[..]));
    for (name, want) in [
        ("x-mod-revision", 2),
        ("x-create-revision", 2),
        ("x-version", 1),
        ("x-lease", 0),
        ("x-revision", 2),
    ] {
        assert_eq!(number(&got, name), want, "{name}");
    }
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    let head = http.request("HEAD", "/kv/a%2F/../b%00//", &[], b"")?;
    assert_eq!((head.status, head.header("etag"), head.body.len()), (200, Some("\"2\""), 0));
    assert_eq!(head.header("content-length"), Some("4"));
    http.request("PUT", "/kv/a%2F/../b%00//", &[], b"new")?;
    assert_eq!(http.get("/kv/a%2F/../b%00//?rev=2")?.body, bytes);
    let fresh = http.request("GET", "/kv/a%2F/../b%00//", &[("If-None-Match", "\"3\"")], b"")?;
    assert_eq!(fresh.status, 304);
    // The same key through the gateway: no tidying happened.
    let range = http.post("/v3/kv/range", &json!({"key": "YS8vLi4vYgAvLw=="}))?;
    assert_eq!(range.json()?["kvs"][0]["value"], "bmV3");
    assert_eq!(http.get("/kv/a/b")?.status, 404);
    server.close()
}

#[test]
fn refusals_are_sentences_with_the_right_status() -> Result<()> {
    let server = Server::start(&["--max-request-bytes=1000"])?;
    let mut http = server.http();
    http.request("PUT", "/kv/k", &[], b"1")?;
    http.request("PUT", "/kv/k", &[], b"2")?;
    http.post("/v3/kv/compaction", &json!({"revision": "3"}))?;
    let large = [b'x'; 2000];
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);
    let cases: &[Case<'_>] = &[
        ("GET", "/kv/none", &[], b"", 404, "no such key"),
        ("GET", "/kv/", &[], b"", 400, "a key is missing"),
        ("GET", "/kv/%zz", &[], b"", 400, "invalid URL escape"),
        ("GET", "/kv/k?rev=99", &[], b"", 400, "future revision"),
        ("GET", "/kv/k?rev=1", &[], b"", 400, "compacted"),
        ("GET", "/kv/k?revision=1", &[], b"", 400, "unknown parameter \"revision\""),
        ("GET", "/kv/k?limit=1", &[], b"", 400, "prefix"),
        ("POST", "/kv/k", &[], b"", 405, "use GET, HEAD, PUT or DELETE"),
        ("PUT", "/kv/k", &[], &large, 413, "too large"),
        ("PUT", "/kv/k", &[], &large[..995], 413, "too large"),
        ("PUT", "/kv/k?lease=77", &[], b"", 404, "lease not found"),
        ("PUT", "/kv/k", &[("If-Match", "\"2\"")], b"", 412, "mod_revision 3"),
        ("PUT", "/kv/k", &[("If-None-Match", "*")], b"", 412, "mod_revision 3"),
        ("PUT", "/kv/none", &[("If-Match", "*")], b"", 412, "no such key"),
        ("PUT", "/kv/k", &[("If-Match", "x")], b"", 400, "MOD_REVISION"),
        ("DELETE", "/kv/none", &[], b"", 404, "no such key"),
        ("DELETE", "/kv/k", &[("If-Match", "\"2\"")], b"", 412, "mod_revision 3"),
        ("DELETE", "/kv/k?prefix", &[("If-Match", "\"3\"")], b"", 400, "condition"),
        ("GET", "/kv/k?watch", &[("Last-Event-ID", "x")], b"", 400, "Last-Event-ID"),
    ];
    for (method, path, headers, body, status, text) in cases {
        let answer = http.request(method, path, headers, body)?;
        assert_eq!(answer.status, *status, "{method} {path} {headers:?}: {}", answer.text());
        assert!(answer.text().contains(text), "{method} {path}: {}", answer.text());
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    }
    server.close()
}

#[test]
fn prefixes_are_listed_and_deleted() -> Result<()> {
    let server = Server::start(&[])?;
    let mut http = server.http();
    for (key, value) in [("p/a", "1"), ("p/b%20c", "2"), ("p/%FF", "3"), ("q", "4")] {
        http.request("PUT", &format!("/kv/{key}"), &[], value.as_bytes())?;
    }
    let list = http.get("/kv/p/?prefix")?;
    assert_eq!(list.text(), "p/a\np/b%20c\np/%FF\n");
    assert_eq!((number(&list, "x-count"), list.header("x-more")), (3, None));
    let part = http.get("/kv/?prefix&limit=2")?;
    assert_eq!((part.text().as_str(), part.header("x-more")), ("p/a\np/b%20c\n", Some("true")));
    let json_list = |http: &mut Http, path: &str| -> Result<Value> {
        http.request("GET", path, &[("Accept", "text/html, application/json;q=1")], b"")?.json()
    };
    let all = json_list(&mut http, "/kv/p/?prefix")?;
    assert_eq!((&all["count"], &all["more"]), (&json!(3), &json!(false)));
    assert_eq!((&all["kvs"][1]["key"], &all["kvs"][1]["value"]), (&json!("p/b c"), &json!("2")));
    assert_eq!(all["kvs"][2]["key_base64"], "cC//");
    let keys = json_list(&mut http, "/kv/p/?prefix&keys_only")?;
    assert!(keys["kvs"][0].get("value").is_none(), "{keys}");
    let one = json_list(&mut http, "/kv/q")?;
    assert_eq!((&one["value"], &one["mod_revision"]), (&json!("4"), &json!(5)));
    let gone = http.request("DELETE", "/kv/p/?prefix", &[], b"")?;
    assert_eq!((gone.status, gone.text().as_str()), (200, "3\n"));
    assert_eq!(http.request("DELETE", "/kv/p/?prefix", &[], b"")?.text(), "0\n");
    assert_eq!(http.request("DELETE", "/kv/q", &[], b"")?.text(), "1\n");
    server.close()
}

#[test]
fn of_many_writers_that_saw_the_same_version_one_wins() -> Result<()> {
    const WRITERS: usize = 8;
    let server = Server::start(&[])?;
    let mut http = server.http();
    for round in 0..5 {
        let seen = http.request("PUT", "/kv/k", &[], b"start")?;
        let etag = seen.header("etag").context("an etag")?.to_owned();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (mut http, etag) = (server.http(), etag.clone());
                std::thread::spawn(move || {
                    let value = format!("{round}.{writer}");
                    let headers = [("If-Match", etag.as_str())];
                    let answer = http.request("PUT", "/kv/k", &headers, value.as_bytes());
                    answer.map(|answer| (answer.status, value))
                })
            })
            .collect();
        let mut won = Vec::new();
        for writer in writers {
            match writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?? {
                (204, value) => won.push(value),
                (status, _) => assert_eq!(status, 412),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        assert_eq!(http.get("/kv/k")?.text(), won[0]);
    }
    server.close()
}

/// One server-sent event: its name, id and data.
fn event(lines: &mut Lines) -> Result<(String, Option<i64>, Value)> {
    let (mut name, mut id, mut data) = (String::new(), None, Value::Null);
    loop {
        let line = lines.next_line(soon())?.context("the stream ended")?;
        if line.is_empty() && !name.is_empty() {
            return Ok((name, id, data));
        }
        match line.split_once(": ") {
            Some(("event", text)) => text.clone_into(&mut name),
            Some(("id", text)) => id = Some(text.parse()?),
            Some(("data", text)) => data = serde_json::from_str(text)?,
            _ => ensure!(line.is_empty() || line.starts_with(':'), "{line:?}"),
        }
    }
}

#[test]
fn changes_stream_and_a_broken_stream_goes_on_where_it_was() -> Result<()> {
    let server = Server::start(&[])?;
    let mut http = server.http();
    let mut lines = Lines::get(server.port(), "/kv/p/?watch&prefix", &[])?;
    assert_eq!(lines.opened(soon())?, 200);
    http.request("PUT", "/kv/p/a", &[], b"1")?;
    http.request("PUT", "/kv/other", &[], b"1")?;
    http.request("DELETE", "/kv/p/a", &[], b"")?;
    let (name, id, data) = event(&mut lines)?;
    assert_eq!((name.as_str(), id), ("put", Some(2)));
    assert_eq!((&data["key"], &data["value"]), (&json!("p/a"), &json!("1")));
    let (name, id, data) = event(&mut lines)?;
    assert_eq!(
        (name.as_str(), id, &data),
        ("delete", Some(4), &json!({"key": "p/a", "mod_revision": 4}))
    );
    drop(lines);
    // Two keys in one revision: only the last event has an id.
    let put = |key: &str| json!({"request_put": {"key": key, "value": "Mg=="}});
    http.post("/v3/kv/txn", &json!({"success": [put("cC94"), put("cC95")]}))?;
    let mut lines = Lines::get(server.port(), "/kv/p/?watch&prefix", &[("Last-Event-ID", "4")])?;
    let ids: Vec<_> = [event(&mut lines)?, event(&mut lines)?].into_iter().map(|e| e.1).collect();
    assert_eq!(ids, [None, Some(5)]);
    let mut from = Lines::get(server.port(), "/kv/p/?watch&prefix&rev=2", &[])?;
    assert_eq!(event(&mut from)?.1, Some(2));
    server.close()
}

#[test]
fn a_watch_from_compacted_history_ends_with_an_error_event() -> Result<()> {
    let server = Server::start(&[])?;
    let mut http = server.http();
    for value in ["1", "2", "3"] {
        http.request("PUT", "/kv/k", &[], value.as_bytes())?;
    }
    http.post("/v3/kv/compaction", &json!({"revision": "4"}))?;
    let mut lines = Lines::get(server.port(), "/kv/k?watch&rev=2", &[])?;
    let (name, _, data) = event(&mut lines)?;
    assert_eq!((name.as_str(), &data["compact_revision"]), ("error", &json!(4)));
    assert_eq!(lines.next_line(soon())?, None, "the stream ends");
    server.close()
}

#[test]
fn the_walk_through_of_the_readme_works_with_curl() -> Result<()> {
    let server = Server::start(&[])?;
    let url = format!("http://127.0.0.1:{}", server.port());
    let curl = |args: &[&str]| -> Result<String> {
        let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(args).output();
        let output = output.context("curl is missing")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let kv = format!("{url}/kv/greeting");
    curl(&["-X", "PUT", "--data-binary", "hello", &kv])?;
    assert_eq!(curl(&[&kv])?, "hello");
    let etag = curl(&["-o", "/dev/null", "-w", "%header{etag}", &kv])?;
    let etag = if etag.starts_with('"') { etag } else { "\"2\"".to_owned() };
    let put = ["-X", "PUT", "-w", "%{http_code}", "--data-binary", "again", "-H"];
    let matching = format!("If-Match: {etag}");
    assert_eq!(curl(&[&put[..], &[&matching, &kv]].concat())?, "204");
    assert!(curl(&[&put[..], &[&matching, &kv]].concat())?.ends_with("412"));
    assert_eq!(curl(&[&format!("{url}/kv/?prefix")])?, "greeting\n");
    assert_eq!(curl(&["-X", "DELETE", &kv])?, "1\n");
    let v2 = format!("{url}/v2/keys/message");
    assert!(curl(&[&v2, "-XPUT", "-d", "value=Hello world"])?.contains("\"action\":\"set\""));
    assert!(curl(&[&v2])?.contains("Hello world"));
    server.close()
}
