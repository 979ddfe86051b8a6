//! The v2 API over HTTP.

use anyhow::Result;
use serde_json::json;

use super::{Server, soon};
use crate::support::{http::Lines, wait};

#[test]
fn keys_are_set_read_compared_and_deleted() -> Result<()> {
    let server = Server::start(&[])?;
    let mut http = server.http();
    let set = http.form("PUT", "/v2/keys/foo", "value=bar")?;
    assert_eq!(set.status, 201);
    let index: u64 = set.header("x-etcd-index").unwrap_or_default().parse()?;
    for name in ["x-etcd-cluster-id", "x-raft-index", "x-raft-term"] {
        assert!(set.header(name).is_some_and(|value| !value.is_empty()), "{name}");
    }
    assert_eq!(
        set.text(),
        format!(
            "{{\"action\":\"set\",\"node\":{{\"key\":\"/foo\",\"value\":\"bar\",\
             \"modifiedIndex\":{index},\"createdIndex\":{index}}}}}\n"
        )
    );
    let swap = http.form("PUT", "/v2/keys/foo?prevValue=nope", "value=x")?;
    assert_eq!((swap.status, swap.header("x-raft-index")), (412, None));
    assert_eq!(swap.json()?["cause"], "[nope != bar]");
    let read = http.form("GET", "/v2/keys/foo?quorum=true", "")?;
    assert_eq!((read.status, &read.json()?["node"]["value"]), (200, &json!("bar")));
    let gone = http.form("DELETE", "/v2/keys/foo", "")?;
    assert_eq!(gone.json()?["action"], "delete");
    let missing = http.form("GET", "/v2/keys/foo", "")?;
    assert_eq!((missing.status, &missing.json()?["errorCode"]), (404, &json!(100)));
    let head = http.form("HEAD", "/v2/keys/", "")?;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let wrong = http.form("PATCH", "/v2/keys/foo", "")?;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("HEAD,GET,PUT,POST,DELETE")));
    server.close()
}

#[test]
fn headers_of_a_wait_come_at_once_and_its_event_later() -> Result<()> {
    let server = Server::start(&[])?;
    let mut http = server.http();
    let path = "/v2/keys/w?wait=true&recursive=true&stream=true";
    let mut lines = Lines::get(server.port(), path, &[])?;
    assert_eq!(lines.opened(soon())?, 200);
    for value in ["1", "2"] {
        http.form("PUT", "/v2/keys/w/x", &format!("value={value}"))?;
        let event = lines.next(soon())?.unwrap_or_default();
        assert_eq!(event["node"]["value"], value);
    }
    let watchers = |http: &mut crate::support::http::Http| -> Result<u64> {
        Ok(http.get("/v2/stats/store")?.json()?["watchers"].as_u64().unwrap_or(99))
    };
    assert_eq!(watchers(&mut http)?, 1);
    drop(lines);
    wait::eventually_blocking(
        "the waiter is forgotten",
        std::time::Duration::from_secs(10),
        || {
            anyhow::ensure!(watchers(&mut http)? == 0);
            Ok(())
        },
    )?;
    server.close()
}

#[test]
fn keys_end_when_their_time_is_over() -> Result<()> {
    let server = Server::start(&[])?;
    let mut http = server.http();
    let set = http.form("PUT", "/v2/keys/k", "value=1&ttl=1")?;
    assert_eq!(set.json()?["node"]["ttl"], 1);
    let mut wait = Lines::get(server.port(), "/v2/keys/k?wait=true", &[])?;
    let event = wait.next(soon())?.unwrap_or_default();
    assert_eq!((&event["action"], &event["prevNode"]["value"]), (&json!("expire"), &json!("1")));
    assert!(wait.next(soon())?.is_none(), "a plain wait ends with its event");
    assert_eq!(http.form("GET", "/v2/keys/k", "")?.status, 404);
    server.close()
}

#[test]
fn a_restart_keeps_keys_index_history_and_deadlines() -> Result<()> {
    let mut server = Server::start(&[])?;
    let mut http = server.http();
    let first = http.form("PUT", "/v2/keys/d/a", "value=1")?;
    let index: u64 = first.header("x-etcd-index").unwrap_or_default().parse()?;
    http.form("PUT", "/v2/keys/d/b", "value=2&ttl=1000")?;
    http.form("DELETE", "/v2/keys/d/a", "")?;
    let before = http.form("GET", "/v2/keys/?recursive=true", "")?;
    server.restart()?;
    let mut http = server.http();
    let after = http.form("GET", "/v2/keys/?recursive=true", "")?;
    assert_eq!(after.header("x-etcd-index"), before.header("x-etcd-index"));
    let node = |answer: &crate::support::http::Answer| -> Result<serde_json::Value> {
        let mut node = answer.json()?["node"]["nodes"][0]["nodes"][0].clone();
        node["ttl"] = json!("left open");
        Ok(node)
    };
    assert_eq!(node(&after)?, node(&before)?);
    let replayed = http.form("GET", &format!("/v2/keys/d/a?wait=true&waitIndex={index}"), "")?;
    assert_eq!(replayed.text(), first.text());
    server.close()
}

#[test]
fn a_server_without_v2_does_not_know_its_paths() -> Result<()> {
    let server = Server::start(&["--enable-v2=false"])?;
    let mut http = server.http();
    for path in ["/v2/keys/", "/v2/members", "/v2/machines", "/v2/stats/self"] {
        let answer = http.get(path)?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (404, "404 page not found\n"),
            "{path}"
        );
    }
    server.close()
}

#[test]
fn members_and_statistics_tell_what_is_so() -> Result<()> {
    let server = Server::start(&[])?;
    let mut http = server.http();
    let members = http.get("/v2/members")?.json()?;
    let member = &members["members"][0];
    assert_eq!(member["name"], "m0");
    assert_eq!(http.get("/v2/members/leader")?.json()?, *member);
    assert_eq!(http.get("/v2/machines")?.text(), server.cluster.members[0].client_url());
    let own = http.get("/v2/stats/self")?.json()?;
    assert_eq!((&own["id"], &own["state"]), (&member["id"], &json!("StateLeader")));
    assert_eq!(own["leaderInfo"]["leader"], member["id"]);
    assert_eq!(http.get("/v2/stats/leader")?.json()?["followers"], json!({}));
    http.form("PUT", "/v2/keys/a", "value=1")?;
    http.form("PUT", "/v2/keys/a/b", "value=1")?;
    let store = http.get("/v2/stats/store")?.json()?;
    assert_eq!((&store["setsSuccess"], &store["setsFail"]), (&json!(1), &json!(1)));
    let added = http.post("/v2/members", &json!({"peerURLs": ["http://127.0.0.1:9"]}))?;
    assert_eq!(added.status, 201);
    let id = added.json()?["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(http.get("/v2/members")?.json()?["members"].as_array().map(Vec::len), Some(2));
    let same = http.post("/v2/members", &json!({"peerURLs": ["http://127.0.0.1:9"]}))?;
    assert_eq!(same.status, 409);
    let path = format!("/v2/members/{id}");
    assert_eq!(http.call("PUT", &path, br#"{"peerURLs":["http://127.0.0.1:7"]}"#)?.status, 204);
    assert_eq!(http.call("DELETE", &path, b"")?.status, 204);
    assert_eq!(http.call("DELETE", "/v2/members/12", b"")?.status, 404);
    server.close()
}

#[test]
fn too_large_values_are_refused() -> Result<()> {
    let server = Server::start(&["--max-request-bytes=10000"])?;
    let mut http = server.http();
    let answer = http.form("PUT", "/v2/keys/k", &format!("value={}", "x".repeat(10_000)))?;
    assert_eq!((answer.status, &answer.json()?["errorCode"]), (500, &json!(300)));
    assert_eq!(answer.json()?["cause"], "etcdserver: request is too large");
    let answer = http.form("PUT", "/v2/keys/k", &format!("value={}", "x".repeat(200_000)))?;
    assert_eq!((answer.status, &answer.json()?["errorCode"]), (400, &json!(210)));
    assert_eq!(http.form("PUT", "/v2/keys/k", "value=1")?.status, 201);
    server.close()
}

#[test]
fn foreign_hosts_and_origins_are_told_apart() -> Result<()> {
    let server = Server::start(&["--host-whitelist=127.0.0.1", "--cors=http://a.example"])?;
    let mut http = server.http();
    let evil = http.request("GET", "/v2/keys/", &[("Host", "evil.example")], b"")?;
    assert_eq!(evil.status, 421);
    let put = http.request("PUT", "/kv/k", &[("Host", "evil.example:80")], b"x")?;
    assert_eq!(put.status, 421);
    for (origin, want) in [("http://a.example", Some("http://a.example")), ("http://b", None)] {
        let answer = http.request("GET", "/v2/keys/", &[("Origin", origin)], b"")?;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, want));
    }
    server.close()
}
