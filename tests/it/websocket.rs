//! The JSON gateway over websockets, with another implementation as the client. What etcd answers
//! is compared with real etcd; what it does not is ours alone.

mod limits;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::support::{
    cluster::{Cluster, Options},
    http::Http,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// Headers of a handshake besides the usual ones.
type Headers<'a> = &'a [(&'static str, &'a str)];

/// What a server says.
#[derive(Debug, PartialEq)]
enum Told {
    /// A text that is JSON.
    Json(Value),
    /// Any other text.
    Text(String),
    /// The end; the code of its close frame, if there is one.
    End(Option<u16>),
}

/// One websocket.
struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn open(port: u16, path: &str) -> Result<Self> {
        Self::open_with(port, path, &[]).await?.map_err(|status| anyhow::anyhow!("status {status}"))
    }

    /// The websocket, or the status of the refusal.
    async fn open_with(port: u16, path: &str, headers: Headers<'_>) -> Result<Result<Self, u16>> {
        let mut request = format!("ws://127.0.0.1:{port}{path}").into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value)?);
        }
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        match timeout(PATIENCE, client_async(request, stream)).await? {
            Ok((socket, _)) => Ok(Ok(Self(socket))),
            Err(Error::Http(answer)) => Ok(Err(answer.status().as_u16())),
            Err(error) => Err(error.into()),
        }
    }

    async fn text(&mut self, text: &str) -> Result<()> {
        Ok(self.0.send(Message::text(text)).await?)
    }

    async fn json(&mut self, value: Value) -> Result<()> {
        self.text(&value.to_string()).await
    }

    async fn next(&mut self) -> Result<Told> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.context("nothing in time")? {
                Some(Ok(Message::Text(text))) => {
                    let json = serde_json::from_str(&text).map(Told::Json);
                    return Ok(json.unwrap_or_else(|_| Told::Text(text.to_string())));
                }
                Some(Ok(Message::Close(close))) => {
                    return Ok(Told::End(close.map(|close| close.code.into())));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                None | Some(Err(Error::Protocol(_) | Error::Io(_) | Error::ConnectionClosed)) => {
                    return Ok(Told::End(None));
                }
                other => bail!("unexpected: {other:?}"),
            }
        }
    }

    /// The result that must come next.
    async fn result(&mut self) -> Result<Value> {
        match self.next().await? {
            Told::Json(mut value) if value["result"].is_object() => Ok(value["result"].take()),
            other => bail!("no result: {other:?}"),
        }
    }
}

/// A call over a websocket: what comes until its end.
async fn call(port: u16, path: &str, body: Value) -> Result<Vec<Told>> {
    let mut socket = Socket::open(port, path).await?;
    socket.json(body).await?;
    let mut told = Vec::new();
    loop {
        let next = socket.next().await?;
        let ended = matches!(next, Told::End(_));
        told.push(next);
        if ended {
            return Ok(told);
        }
    }
}

/// A change by plain HTTP.
async fn post(port: u16, path: &'static str, body: Value) -> Result<Value> {
    tokio::task::spawn_blocking(move || {
        let answer = Http::new(port).post(path, &body)?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
        answer.json()
    })
    .await?
}

async fn put(port: u16, key: &str, value: &str) -> Result<Value> {
    post(port, "/v3/kv/put", json!({"key": base64(key), "value": base64(value)})).await
}

/// Takes out of an answer what differs between any two clusters.
fn comparable(mut told: Told) -> Told {
    if let Told::Json(value) = &mut told
        && let Some(header) = value.pointer_mut("/result/header").and_then(Value::as_object_mut)
    {
        for name in ["cluster_id", "member_id", "raft_term"] {
            header.remove(name);
        }
    }
    // Texts about malformed documents are each server's own.
    if let Told::Json(value) = &mut told
        && value["code"] == 2
    {
        *value = json!({"code": 2});
    }
    // etcd closes its connection without a word.
    if let Told::End(_) = told { Told::End(None) } else { told }
}

/// Conversations as a client of etcd has them: everything it is told.
async fn conversations(port: u16) -> Result<Vec<Told>> {
    let mut told = Vec::new();
    let create =
        |key: &str, id: &str| json!({"create_request": {"key": base64(key), "watch_id": id}});

    // The parameter has no effect in etcd either, whose proxy makes every request a POST.
    let mut watch = Socket::open(port, "/v3/watch?method=PUT").await?;
    watch.json(create("a", "7")).await?;
    told.push(watch.next().await?);
    watch.json(create("b", "8")).await?;
    told.push(watch.next().await?);
    put(port, "a", "1").await?;
    told.push(watch.next().await?);
    watch.json(json!({"progress_request": {}})).await?;
    told.push(watch.next().await?);
    watch.json(json!({"cancel_request": {"watch_id": "7"}})).await?;
    told.push(watch.next().await?);
    put(port, "a", "2").await?;
    put(port, "b", "1").await?;
    told.push(watch.next().await?);
    // Documents and messages need not be the same.
    watch.text(&format!("{}{}", create("c", "9"), create("d", "10"))).await?;
    told.push(watch.next().await?);
    told.push(watch.next().await?);
    watch.text("{\"create_request\":").await?;
    watch.0.send(Message::binary(&b"{\"key\":\"ZQ==\"}}"[..])).await?;
    told.push(watch.next().await?);
    watch.0.close(None).await?;
    told.push(watch.next().await?);

    post(port, "/v3/lease/grant", json!({"ID": "77", "TTL": "100"})).await?;
    let mut alive = Socket::open(port, "/v3beta/lease/keepalive").await?;
    for id in ["77", "77", "78"] {
        alive.json(json!({"ID": id})).await?;
        told.push(alive.next().await?);
    }

    for (path, text) in [
        ("/v3/watch", "xxx"),
        ("/v3/lease/keepalive", "xxx"),
        ("/v3/nothing", "{}"),
        ("/v3/kv/range/", "{}"),
    ] {
        let mut socket = Socket::open(port, path).await?;
        // An unknown path is answered, and closed, without it.
        let _ = socket.text(text).await;
        told.push(socket.next().await?);
        told.push(socket.next().await?);
    }
    Ok(told.into_iter().map(comparable).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_those_of_etcd() -> Result<()> {
    let reference = Cluster::start(Options::reference()?.flag("--unsafe-no-fsync")).await?;
    let candidate = Cluster::start(Options::candidate(1)?).await?;
    let want = conversations(reference.members[0].client_port()).await?;
    let have = conversations(candidate.members[0].client_port()).await?;
    assert_eq!(have, want);
    reference.close()?;
    candidate.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_websocket_has_two_watches_and_a_cancel() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let port = cluster.members[0].client_port();
    let mut watch = Socket::open(port, "/v3/watch").await?;
    for (key, id) in [("a", "1"), ("b", "2")] {
        let create = json!({"create_request": {"key": base64(key), "watch_id": id}});
        watch.json(create).await?;
        let created = watch.result().await?;
        ensure!(created["created"] == true && created["watch_id"] == id, "{created}");
    }
    for (key, id) in [("a", "1"), ("b", "2"), ("a", "1")] {
        put(port, key, id).await?;
        let event = watch.result().await?;
        ensure!(event["watch_id"] == id, "{event}");
        ensure!(event["events"][0]["kv"]["key"] == base64(key), "{event}");
    }
    watch.json(json!({"cancel_request": {"watch_id": "1"}})).await?;
    let canceled = watch.result().await?;
    ensure!(canceled["canceled"] == true && canceled["watch_id"] == "1", "{canceled}");
    put(port, "a", "unseen").await?;
    put(port, "b", "seen").await?;
    let event = watch.result().await?;
    ensure!(event["events"][0]["kv"]["value"] == base64("seen"), "{event}");
    cluster.close()
}

/// etcd answers no call with one request over a websocket: it waits for an end of the body that
/// cannot come. Here the first document is the request.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_one_request_is_answered_and_ends_the_websocket() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let port = cluster.members[0].client_port();
    let key = base64("k");
    let told = call(port, "/v3/kv/put", json!({"key": key, "value": base64("v")})).await?;
    assert!(matches!(&told[..], [Told::Json(_), Told::End(Some(1000))]), "{told:?}");
    let told = call(port, "/v3/kv/range", json!({"key": key})).await?;
    let [Told::Json(range), Told::End(Some(1000))] = &told[..] else { bail!("{told:?}") };
    ensure!(range["kvs"][0]["value"] == base64("v") && range["count"] == "1", "{range}");
    let mut plain = Http::new(port);
    for (path, body) in [
        ("/v3/kv/put", r#"{"key":"}"#),
        ("/v3/kv/put", r#"{"key":"!"}"#),
        ("/v3/kv/put", "xxx"),
        ("/v3/kv/range", "{}"),
        ("/v3/lease/revoke", r#"{"ID":"5"}"#),
    ] {
        let mut socket = Socket::open(port, path).await?;
        socket.text(body).await?;
        if body.ends_with("\"}") && body.contains(":\"}") {
            // The document goes on in the next message.
            socket.text("\"}").await?;
        }
        let Told::Json(error) = socket.next().await? else { bail!("{path} {body}: no error") };
        ensure!(error["code"].is_number() && error["message"].is_string(), "{error}");
        ensure!(matches!(socket.next().await?, Told::End(Some(1000))), "{path} {body}");
        if !body.contains(":\"}") {
            let want = tokio::task::block_in_place(|| plain.call("POST", path, body.as_bytes()))?;
            let mut want = want.json()?;
            if body == "xxx" {
                // Where no document starts, the text is another.
                want = json!({"code": want["code"], "message": error["message"],
                    "error": error["error"]});
            }
            assert_eq!(error, want, "{path} {body}");
        }
    }
    let told = call(port, "/v3/maintenance/snapshot", json!({})).await?;
    ensure!(told.len() > 1 && told.last() == Some(&Told::End(Some(1000))), "{}", told.len());
    cluster.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_comes_as_a_protocol() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?.flag("--bcrypt-cost=4")).await?;
    let port = cluster.members[0].client_port();
    for (path, body) in [
        ("/v3/auth/user/add", json!({"name": "root", "password": "r"})),
        ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
        ("/v3/auth/enable", json!({})),
    ] {
        post(port, path, body).await?;
    }
    let login = json!({"name": "root", "password": "r"});
    let login = post(port, "/v3/auth/authenticate", login).await?;
    let token = login["token"].as_str().context("a token")?;
    let create = json!({"create_request": {"key": base64("a")}});
    let bearer = format!("Bearer, {token}");
    let cookie = format!("token={token}");
    let cases: [(Headers<'_>, bool); 6] = [
        (&[], false),
        (&[("sec-websocket-protocol", &bearer)], true),
        (&[("sec-websocket-protocol", "Bearer, nonsense.1")], false),
        (&[("sec-websocket-protocol", "Bearer, a.1"), ("authorization", token)], false),
        (&[("authorization", token)], true),
        (&[("cookie", &cookie)], false),
    ];
    for (headers, allowed) in cases {
        let opened = Socket::open_with(port, "/v3/watch", headers).await?;
        let Ok(mut watch) = opened else { bail!("refused: {headers:?}") };
        watch.json(create.clone()).await?;
        let created = watch.result().await?;
        assert_eq!(created.get("canceled").is_none(), allowed, "{headers:?}: {created}");
    }
    let refused = call(port, "/v3/kv/range", json!({"key": base64("a")})).await?;
    let [Told::Json(error), Told::End(_)] = &refused[..] else { bail!("{refused:?}") };
    ensure!(error["message"] == "etcdserver: user name is empty", "{error}");
    cluster.close()
}

/// CVE-2018-1099 and its like: a page in a browser may open a websocket anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_origins_that_may_not_ask_get_no_websocket() -> Result<()> {
    let options = Options::candidate(1)?
        .flag("--host-whitelist=127.0.0.1")
        .flag("--cors=http://a.example,http://b.example");
    let cluster = Cluster::start(options).await?;
    let port = cluster.members[0].client_port();
    let cases: [(Headers<'_>, Option<u16>); 6] = [
        (&[], None),
        (&[("origin", "http://b.example")], None),
        (&[("origin", "http://evil.example")], Some(403)),
        (&[("origin", "null")], Some(403)),
        (&[("host", "evil.example")], Some(421)),
        (&[("sec-websocket-version", "8")], Some(400)),
    ];
    for (headers, want) in cases {
        let opened = Socket::open_with(port, "/v3/watch", headers).await?;
        assert_eq!(opened.err(), want, "{headers:?}");
    }
    // Outside the gateway nothing is a websocket.
    for path in ["/health", "/version", "/kv/a", "/v2/keys/a", "/"] {
        ensure!(Socket::open_with(port, path, &[]).await?.is_err(), "{path}");
    }
    cluster.close()
}
