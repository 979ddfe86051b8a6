//! Plays steps on one server and brings every answer into the gateway's JSON form.

use std::{
    collections::{BTreeMap, HashSet},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions, prost::Message as _,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::{Status, Streaming};
use tripod::api::proto::DESCRIPTORS;

use super::step::{Method, Step, Transport, integer};
use crate::support::{
    client::{Client, open_ended},
    cluster::{Cluster, Options},
    http::{Http, Lines},
};

/// Limit of one answer, and of one watch as a whole.
const LIMIT: Duration = Duration::from_secs(10);

/// The revisions that a trace's texts refer to. Followed from the reference's answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    /// Newest revision.
    now: i64,
    /// Compacted revision, once there was a compaction.
    compacted: Option<i64>,
}

impl Default for Marks {
    fn default() -> Self {
        Self { now: 1, compacted: None }
    }
}

impl Marks {
    /// Compacted revision; 1, that of the empty store, before the first compaction.
    pub(crate) fn low(self) -> i64 {
        self.compacted.unwrap_or(1)
    }

    /// `@now-3`, `@now+1`, `@low`, ... as a revision.
    pub(crate) fn revision(self, text: &str) -> i64 {
        let (base, offset) = match text.split_at_checked(4) {
            Some(("@low", offset)) => (self.low(), offset),
            Some((_, offset)) => (self.now, offset),
            None => (self.now, ""),
        };
        let offset: i64 = offset.trim_start_matches('+').parse().unwrap_or(0);
        base + offset
    }

    /// Learns from an answer of the reference.
    pub(crate) fn learn(&mut self, step: &Step, answer: &Value) {
        let mut newest = self.now;
        // Headers only: revisions of pairs have other names.
        super::on_each(&mut answer.clone(), "revision", &mut |revision| {
            newest = newest.max(integer(revision).unwrap_or(0));
        });
        self.now = newest;
        if let Step::Call { method: Method::Compact, body, .. } = step
            && answer.get("ok").is_some()
        {
            self.compacted = self.compacted.max(body.get("revision").and_then(integer));
        }
    }

    /// Whether a watch from `start` on, 0 for now, asks for what was compacted.
    fn is_compacted(self, start: i64) -> bool {
        start != 0 && self.compacted.is_some_and(|compacted| start < compacted)
    }
}

/// One fresh single-node server.
#[derive(Debug)]
pub(crate) struct Player {
    runtime: Runtime,
    cluster: Cluster,
    http: Http,
    client: Client,
}

impl Player {
    /// Starts a server with no data.
    pub(crate) fn start(options: Options) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut cluster = runtime.block_on(Cluster::start(options))?;
        cluster.hush();
        let http = cluster.members[0].http().timeout(LIMIT);
        let client = {
            let _inside = runtime.enter();
            cluster.members[0].client()
        };
        Ok(Self { runtime, cluster, http, client })
    }

    /// Plays a step resolved with `marks`: `{"ok": body}`, `{"code": N, "message": T}`, or lanes of
    /// a watch.
    pub(crate) fn play(&mut self, step: &Step, marks: Marks) -> Result<Value> {
        match step {
            Step::Call { transport: Transport::Json, method, body } => self.json(*method, body),
            Step::Call { transport: Transport::Grpc, method, body } => self.grpc(*method, body),
            Step::KeepAlive { transport, ids } => self.keep_alive(*transport, ids),
            Step::Watch { transport, creates } => self.watch(*transport, creates, marks),
        }
    }

    fn json(&mut self, method: Method, body: &Value) -> Result<Value> {
        let answer = self.http.post(method.json_path(), body)?;
        let body = answer.json()?;
        if answer.status == 200 {
            return Ok(json!({ "ok": body }));
        }
        Ok(json!({
            "http": answer.status,
            "code": body.get("code"),
            "message": body.get("message"),
        }))
    }

    fn grpc(&mut self, method: Method, body: &Value) -> Result<Value> {
        let request = encode(&method.request(), body)?;
        let path = method.grpc_path();
        match self.runtime.block_on(self.client.unary(&path, request)) {
            Ok(response) => Ok(json!({ "ok": decode(&method.response(), response)? })),
            Err(status) => Ok(refused(&status)),
        }
    }

    fn keep_alive(&mut self, transport: Transport, ids: &[i64]) -> Result<Value> {
        let requests: Vec<Value> = ids.iter().map(|id| json!({ "ID": id })).collect();
        let mut stream = Stream::open(self, transport, &KEEP_ALIVE, &requests, false)?;
        let deadline = Instant::now() + LIMIT;
        let mut answers = Vec::new();
        while answers.len() < ids.len() {
            match stream.next(&self.runtime, deadline)? {
                Some(answer) => answers.push(answer),
                None => break,
            }
        }
        Ok(json!({ "ok": answers }))
    }

    fn watch(&mut self, transport: Transport, creates: &[Value], marks: Marks) -> Result<Value> {
        let requests: Vec<Value> =
            creates.iter().map(|create| json!({ "create_request": create })).collect();
        let mut stream = Stream::open(self, transport, &WATCH, &requests, true)?;
        let deadline = Instant::now() + LIMIT;
        let mut lanes = Lanes::default();
        while lanes.created.len() < creates.len() {
            let message = stream.next(&self.runtime, deadline)?.context("the watch ended")?;
            if message.get("error").is_some() {
                return Ok(json!({ "failed": message }));
            }
            lanes.take(&message);
        }
        let closing = self.closing_changes(creates)?;
        let ends: Vec<End> = creates
            .iter()
            .zip(&closing)
            .map(|(create, closing)| End::of(create, *closing, marks))
            .collect();
        while !lanes.complete(&ends) {
            let Some(message) = stream
                .next(&self.runtime, deadline)
                .with_context(|| format!("so far {lanes:?}, waiting for {closing:?}"))?
            else {
                break;
            };
            lanes.take(&message);
        }
        Ok(json!({ "ok": lanes.into_value(&ends), "closing": closing }))
    }

    /// Puts and deletes the start of each watched range; the revisions of both.
    fn closing_changes(&mut self, creates: &[Value]) -> Result<Vec<(i64, i64)>> {
        creates
            .iter()
            .map(|create| {
                let key = create.get("key").filter(|key| **key != json!(""));
                let key = key.cloned().unwrap_or_else(|| json!("AA=="));
                let put = self.json(Method::Put, &json!({ "key": key, "value": "bGFzdA==" }))?;
                let delete = self.json(Method::DeleteRange, &json!({ "key": key }))?;
                Ok((header_revision(&put)?, header_revision(&delete)?))
            })
            .collect()
    }
}

fn header_revision(answer: &Value) -> Result<i64> {
    let revision = answer.pointer("/ok/header/revision").and_then(integer);
    revision.with_context(|| format!("no revision in {answer}"))
}

/// What arrived for each watch of a stream.
#[derive(Debug, Default)]
struct Lanes {
    /// By watch id, or `refused N`: all watches refused at once share the id -1.
    lanes: BTreeMap<String, Vec<Value>>,
    /// Ids in the order of their creation, which is the order of the requests.
    created: Vec<String>,
    cancelled: HashSet<String>,
    faults: Vec<String>,
}

impl Lanes {
    fn take(&mut self, message: &Value) {
        let is = |name| message.get(name) == Some(&json!(true));
        let id = match message.get("watch_id").and_then(integer) {
            Some(-1) => format!("refused {}", self.created.len()),
            id => id.unwrap_or(0).to_string(),
        };
        if is("created") {
            self.created.push(id.clone());
        }
        if is("canceled") {
            self.cancelled.insert(id.clone());
        }
        let lane = self.lanes.entry(id).or_default();
        let events = message.get("events").and_then(Value::as_array);
        let Some(events) = events.filter(|events| !events.is_empty()) else {
            lane.push(message.clone());
            return;
        };
        // How events are packed into messages is left open; their order and content is not.
        let header = message.pointer("/header/revision").and_then(integer).unwrap_or(0);
        for event in events {
            if mod_revision(event) > header {
                self.faults.push(format!("header revision {header} is behind {event}"));
            }
            lane.push(json!({ "events": [event] }));
        }
    }

    /// True once every watch has shown its end. One cancelled out of turn is complete as well: its
    /// lane tells.
    fn complete(&self, ends: &[End]) -> bool {
        ends.iter().zip(&self.created).all(|(end, id)| {
            let lane = || self.lanes.get(id).into_iter().flatten().filter_map(first_event);
            self.cancelled.contains(id)
                || match *end {
                    End::Open => true,
                    End::Cancel => false,
                    End::Change(end) => lane().any(|event| mod_revision(event) >= end),
                }
        })
    }

    /// The lanes, each up to its last change: later ones belong to other watches' ends, and
    /// whether they arrived yet is chance.
    fn into_value(mut self, ends: &[End]) -> Value {
        for (end, id) in ends.iter().zip(&self.created) {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            lane.retain(|item| {
                first_event(item).is_none_or(|event| match *end {
                    End::Open => false,
                    End::Cancel => true,
                    End::Change(end) => mod_revision(event) <= end,
                })
            });
        }
        json!({ "lanes": self.lanes, "faults": self.faults })
    }
}

/// What a watch must have shown before it is compared.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The change with this revision.
    Change(i64),
    /// That it is cancelled, for it asks for compacted revisions. etcd takes up to 100 ms for it.
    Cancel,
    /// Nothing after its creation: it need not show either closing change.
    Open,
}

impl End {
    /// The end of a watch, given the revisions of the closing put and delete of its key and the
    /// marks before it.
    fn of(create: &Value, (put, delete): (i64, i64), marks: Marks) -> Self {
        let start = create.get("start_revision").and_then(integer).unwrap_or(0);
        if marks.is_compacted(start) {
            return Self::Cancel;
        }
        let filters = create.get("filters").and_then(Value::as_array);
        let hides =
            |name: &str| filters.is_some_and(|filters| filters.iter().any(|filter| filter == name));
        let end = match (hides("NOPUT"), hides("NODELETE")) {
            (true, true) => return Self::Open,
            (false, true) => put,
            _ => delete,
        };
        // A watch from the future on may see nothing of this.
        if start <= end { Self::Change(end) } else { Self::Open }
    }
}

fn first_event(item: &Value) -> Option<&Value> {
    item.pointer("/events/0")
}

fn mod_revision(event: &Value) -> i64 {
    event.pointer("/kv/mod_revision").and_then(integer).unwrap_or(0)
}

/// Names of a streaming method.
struct StreamMethod {
    json_path: &'static str,
    grpc_path: &'static str,
    request: &'static str,
    response: &'static str,
}

const KEEP_ALIVE: StreamMethod = StreamMethod {
    json_path: "/v3/lease/keepalive",
    grpc_path: "/etcdserverpb.Lease/LeaseKeepAlive",
    request: "etcdserverpb.LeaseKeepAliveRequest",
    response: "etcdserverpb.LeaseKeepAliveResponse",
};

const WATCH: StreamMethod = StreamMethod {
    json_path: "/v3/watch",
    grpc_path: "/etcdserverpb.Watch/Watch",
    request: "etcdserverpb.WatchRequest",
    response: "etcdserverpb.WatchResponse",
};

/// An open stream over either transport.
enum Stream {
    Json(Lines),
    Grpc {
        stream: Box<Streaming<Bytes>>,
        response: &'static str,
    },
    /// gRPC refused it at once.
    Refused(Option<Value>),
}

impl Stream {
    fn open(
        player: &Player,
        transport: Transport,
        method: &StreamMethod,
        requests: &[Value],
        stays_open: bool,
    ) -> Result<Self> {
        if transport == Transport::Json {
            let body: Vec<String> = requests.iter().map(Value::to_string).collect();
            let port = player.cluster.members[0].client_port();
            return Ok(Self::Json(Lines::post(
                port,
                method.json_path,
                body.join("\n").as_bytes(),
            )?));
        }
        let encoded: Vec<Bytes> =
            requests.iter().map(|one| encode(method.request, one)).collect::<Result<_>>()?;
        let opened = player.runtime.block_on(async {
            if stays_open {
                player.client.stream(method.grpc_path, open_ended(encoded)).await
            } else {
                player.client.stream(method.grpc_path, futures::stream::iter(encoded)).await
            }
        });
        Ok(match opened {
            Ok(stream) => Self::Grpc { stream: Box::new(stream), response: method.response },
            Err(status) => Self::Refused(Some(json!({ "error": refused(&status) }))),
        })
    }

    /// The next message as the gateway would print it, without `result`.
    fn next(&mut self, runtime: &Runtime, deadline: Instant) -> Result<Option<Value>> {
        match self {
            Self::Refused(error) => Ok(error.take()),
            Self::Json(lines) => Ok(lines.next(deadline)?.map(|mut document| {
                match document.get_mut("result").map(Value::take) {
                    Some(result) => result,
                    None => document,
                }
            })),
            Self::Grpc { stream, response } => {
                let left = deadline.saturating_duration_since(Instant::now());
                let message = runtime.block_on(async {
                    tokio::time::timeout(left, stream.message()).await.context("no message in time")
                })?;
                match message {
                    Ok(Some(bytes)) => Ok(Some(decode(response, bytes)?)),
                    Ok(None) => Ok(None),
                    Err(status) => Ok(Some(json!({ "error": refused(&status) }))),
                }
            }
        }
    }
}

fn refused(status: &Status) -> Value {
    json!({ "code": i32::from(status.code()), "message": status.message() })
}

fn descriptor(name: &str) -> Result<MessageDescriptor> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok());
    let pool = pool.as_ref().context("the descriptors of the build decode")?;
    pool.get_message_by_name(name).with_context(|| format!("no message {name}"))
}

fn encode(name: &str, body: &Value) -> Result<Bytes> {
    let message = DynamicMessage::deserialize(descriptor(name)?, body.clone())
        .with_context(|| format!("{name} {body}"))?;
    Ok(message.encode_to_vec().into())
}

fn decode(name: &str, bytes: Bytes) -> Result<Value> {
    let message = DynamicMessage::decode(descriptor(name)?, bytes)?;
    ensure!(
        message.unknown_fields().next().is_none(),
        "{name} has fields that its definition does not know"
    );
    let options = SerializeOptions::new().use_proto_field_name(true);
    Ok(message.serialize_with_options(serde_json::value::Serializer, &options)?)
}
