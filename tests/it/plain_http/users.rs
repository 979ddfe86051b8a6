//! Plain HTTP while authentication is on: no path is a way around it.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use super::{Server, soon};
use crate::support::http::{Http, Lines};

/// Makes root, and a reader of what begins with `r/`; switches authentication on.
fn enable(http: &mut Http) -> Result<()> {
    let key = |text: &str| BASE64_STANDARD.encode(text);
    let permission = json!({"permType": "READ", "key": key("r/"), "range_end": key("r0")});
    for (path, body) in [
        ("/v3/auth/user/add", json!({"name": "root", "password": "r"})),
        ("/v3/auth/user/add", json!({"name": "reader", "password": "r"})),
        ("/v3/auth/role/add", json!({"name": "see"})),
        ("/v3/auth/role/grant", json!({"name": "see", "perm": permission})),
        ("/v3/auth/user/grant", json!({"user": "reader", "role": "see"})),
        ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
        ("/v3/auth/enable", json!({})),
    ] {
        let answer = http.post(path, &body)?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
    }
    Ok(())
}

fn login(http: &mut Http, name: &str) -> Result<String> {
    let answer =
        http.post("/v3/auth/authenticate", &json!({"name": name, "password": "r"}))?.json()?;
    Ok(answer["token"].as_str().context("a token")?.to_owned())
}

#[test]
fn no_path_of_plain_http_is_a_way_around_users() -> Result<()> {
    let server = Server::start(&["--bcrypt-cost=4"])?;
    let mut http = server.http();
    http.request("PUT", "/kv/r/1", &[], b"one")?;
    http.request("PUT", "/kv/w", &[], b"two")?;
    http.form("PUT", "/v2/keys/old", "value=1")?;
    enable(&mut http)?;
    let (root, reader) = (login(&mut http, "root")?, login(&mut http, "reader")?);
    let (root, reader) = (root.as_str(), reader.as_str());
    let (nobody, bad) = ("", "nonsense");
    for (method, path, who, want) in [
        ("GET", "/kv/r/1", nobody, 400),
        ("GET", "/kv/r/1", bad, 401),
        ("GET", "/kv/r/1", reader, 200),
        ("GET", "/kv/r/?prefix", reader, 200),
        ("GET", "/kv/?prefix", reader, 403),
        ("GET", "/kv/w", reader, 403),
        ("GET", "/kv/w", root, 200),
        ("PUT", "/kv/r/1", nobody, 400),
        ("PUT", "/kv/r/1", reader, 403),
        ("DELETE", "/kv/r/1", reader, 403),
        ("DELETE", "/kv/?prefix", nobody, 400),
        ("GET", "/v2/keys/old", nobody, 401),
        ("GET", "/v2/keys/old", root, 401),
        ("PUT", "/v2/keys/old", nobody, 401),
        ("DELETE", "/v2/keys/old", nobody, 401),
        ("GET", "/v2/keys/?recursive=true&wait=true", nobody, 401),
        ("GET", "/v2/members", nobody, 401),
        ("DELETE", "/v2/members/1", nobody, 401),
        ("GET", "/v2/stats/self", nobody, 401),
        ("GET", "/health", nobody, 200),
    ] {
        let token = [("Authorization", who)];
        let headers = if who.is_empty() { &token[..0] } else { &token[..] };
        let answer = http.request(method, path, headers, b"")?;
        ensure!(
            answer.status == want,
            "{method} {path} {who:?}: {} {}",
            answer.status,
            answer.text()
        );
    }
    let answer = http.request("GET", "/v2/keys/old", &[], b"")?.json()?;
    ensure!(answer["errorCode"] == 110, "{answer}");
    // Nothing of that changed anything.
    let kept = http.request("GET", "/kv/r/1", &[("Authorization", root)], b"")?;
    ensure!(kept.body == b"one", "{}", kept.text());
    watches_show_what_may_be_read(&server, reader, soon())?;
    snapshots_are_for_root(&mut http, root, reader)?;
    let token = [("Authorization", root)];
    ensure!(http.request("POST", "/v3/auth/disable", &token, b"{}")?.status == 200);
    ensure!(http.get("/v2/keys/old")?.json()?["node"]["value"] == "1");
    server.close()
}

/// `GHSA-xg4h-6gfc-h4m8`: the right to read a part is none to watch more.
fn watches_show_what_may_be_read(server: &Server, reader: &str, deadline: Instant) -> Result<()> {
    let token = [("Authorization", reader)];
    for (path, want) in [("/kv/r/?prefix&watch", 200), ("/kv/?prefix&watch", 403)] {
        let status = Lines::get(server.port(), path, &token)?.opened(deadline)?;
        ensure!(status == want, "{path}: {status}");
    }
    Ok(())
}

fn snapshots_are_for_root(http: &mut Http, root: &str, reader: &str) -> Result<()> {
    let mut ask =
        |who: &[(&str, &str)]| http.request("POST", "/v3/maintenance/snapshot", who, b"{}");
    let refused = ask(&[("Authorization", reader)])?;
    ensure!(refused.text().contains("permission denied"), "{}", refused.text());
    let refused = ask(&[])?;
    ensure!(refused.text().contains("user name is empty"), "{}", refused.text());
    ensure!(ask(&[("Authorization", root)])?.text().contains("remaining_bytes"));
    Ok(())
}
