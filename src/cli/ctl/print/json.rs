//! JSON as Go's encoder writes etcd's messages: proto names, zero values left out, numbers as
//! numbers, bytes in base64. (Not the gateway's JSON, which writes 64-bit numbers as strings.)

use std::fmt::Display;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Answer, EndpointHash, EndpointHealth, EndpointStatus};
use crate::{
    api::proto::{authpb, etcdserverpb as pb, mvccpb},
    cli::ctl::go::json_string,
    config::duration,
};

/// One member of an object, absent if its value is left out.
type Part = Option<String>;

/// A member that is always there.
fn always(name: &str, json: impl Display) -> Part {
    Some(format!("\"{name}\":{json}"))
}

fn number<T: Default + PartialEq + Display>(name: &str, value: T) -> Part {
    (value != T::default()).then(|| format!("\"{name}\":{value}"))
}

fn text(name: &str, value: &str) -> Part {
    (!value.is_empty()).then(|| format!("\"{name}\":{}", json_string(value)))
}

fn bytes(name: &str, value: &[u8]) -> Part {
    (!value.is_empty()).then(|| format!("\"{name}\":{}", base64(value)))
}

fn base64(value: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(value))
}

fn list(name: &str, items: Vec<String>) -> Part {
    (!items.is_empty()).then(|| format!("\"{name}\":{}", array(items)))
}

fn array(items: Vec<String>) -> String {
    format!("[{}]", items.join(","))
}

fn texts(name: &str, values: &[String]) -> Part {
    list(name, values.iter().map(|value| json_string(value)).collect())
}

fn object(parts: impl IntoIterator<Item = Part>) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{{{}}}", parts.join(","))
}

/// Ids as numbers, or as hexadecimal text.
#[derive(Clone, Copy)]
struct Ids {
    hex: bool,
}

impl Ids {
    fn id(self, name: &str, id: u64) -> Part {
        if self.hex { always(name, format_args!("\"{id:x}\"")) } else { number(name, id) }
    }

    fn header_parts(self, header: &Option<pb::ResponseHeader>) -> [Part; 4] {
        let Some(header) = header else { return [None, None, None, None] };
        [
            self.id("cluster_id", header.cluster_id),
            self.id("member_id", header.member_id),
            number("revision", header.revision),
            number("raft_term", header.raft_term),
        ]
    }

    fn header(self, header: &Option<pb::ResponseHeader>) -> Part {
        header.as_ref()?;
        always("header", object(self.header_parts(header)))
    }

    fn member(self, member: &pb::Member) -> String {
        // With --hex etcdctl 3.5 misspells one name; scripts may have learned it.
        let client_urls = if self.hex { "clientURLS" } else { "clientURLs" };
        object([
            self.id("ID", member.id),
            text("name", &member.name),
            texts("peerURLs", &member.peer_ur_ls),
            texts(client_urls, &member.client_ur_ls),
            number("isLearner", member.is_learner),
        ])
    }

    fn members(self, members: &[pb::Member]) -> Part {
        list("members", members.iter().map(|member| self.member(member)).collect())
    }
}

/// Numbers, as everywhere but in answers about members.
const PLAIN: Ids = Ids { hex: false };

fn pair(pair: &mvccpb::KeyValue) -> String {
    object([
        bytes("key", &pair.key),
        number("create_revision", pair.create_revision),
        number("mod_revision", pair.mod_revision),
        number("version", pair.version),
        bytes("value", &pair.value),
        number("lease", pair.lease),
    ])
}

fn optional_pair(name: &str, value: &Option<mvccpb::KeyValue>) -> Part {
    value.as_ref().and_then(|value| always(name, pair(value)))
}

fn put(answer: &pb::PutResponse) -> String {
    object([PLAIN.header(&answer.header), optional_pair("prev_kv", &answer.prev_kv)])
}

fn range(answer: &pb::RangeResponse) -> String {
    object([
        PLAIN.header(&answer.header),
        list("kvs", answer.kvs.iter().map(pair).collect()),
        number("more", answer.more),
        number("count", answer.count),
    ])
}

fn delete(answer: &pb::DeleteRangeResponse) -> String {
    object([
        PLAIN.header(&answer.header),
        number("deleted", answer.deleted),
        list("prev_kvs", answer.prev_kvs.iter().map(pair).collect()),
    ])
}

fn txn(answer: &pb::TxnResponse) -> String {
    use pb::response_op::Response;
    let response = |op: &pb::ResponseOp| {
        let inner = match &op.response {
            Some(Response::ResponseRange(answer)) => always("response_range", range(answer)),
            Some(Response::ResponsePut(answer)) => always("response_put", put(answer)),
            Some(Response::ResponseDeleteRange(answer)) => {
                always("response_delete_range", delete(answer))
            }
            Some(Response::ResponseTxn(answer)) => always("response_txn", txn(answer)),
            None => return object([always("Response", "null")]),
        };
        object([always("Response", object([inner]))])
    };
    object([
        PLAIN.header(&answer.header),
        number("succeeded", answer.succeeded),
        list("responses", answer.responses.iter().map(response).collect()),
    ])
}

fn watch(answer: &pb::WatchResponse) -> String {
    let event = |event: &mvccpb::Event| {
        object([
            number("type", event.r#type),
            optional_pair("kv", &event.kv),
            optional_pair("prev_kv", &event.prev_kv),
        ])
    };
    // A watcher the server never made has no list of events, which Go tells from an empty one.
    let events = if answer.canceled && answer.created {
        "null".to_owned()
    } else {
        array(answer.events.iter().map(event).collect())
    };
    let header = if answer.canceled && answer.created { &None } else { &answer.header };
    object([
        always("Header", object(PLAIN.header_parts(header))),
        always("Events", events),
        always("CompactRevision", answer.compact_revision),
        always("Canceled", answer.canceled),
        always("Created", false),
    ])
}

/// An answer whose header stands among its own members, as etcd's lease client has it.
fn flat(header: &Option<pb::ResponseHeader>, parts: impl IntoIterator<Item = Part>) -> String {
    object(PLAIN.header_parts(header).into_iter().chain(parts))
}

fn time_to_live(answer: &pb::LeaseTimeToLiveResponse) -> String {
    let keys = if answer.keys.is_empty() {
        "null".to_owned()
    } else {
        array(answer.keys.iter().map(|key| base64(key)).collect())
    };
    flat(
        &answer.header,
        [
            always("id", answer.id),
            always("ttl", answer.ttl),
            always("granted-ttl", answer.granted_ttl),
            always("keys", keys),
        ],
    )
}

fn alarms(answer: &pb::AlarmResponse) -> String {
    let alarm = |alarm: &pb::AlarmMember| {
        object([number("memberID", alarm.member_id), number("alarm", alarm.alarm)])
    };
    object([
        PLAIN.header(&answer.header),
        list("alarms", answer.alarms.iter().map(alarm).collect()),
    ])
}

fn status(entry: &EndpointStatus) -> String {
    let status = &entry.status;
    let json = object([
        PLAIN.header(&status.header),
        text("version", &status.version),
        number("dbSize", status.db_size),
        number("leader", status.leader),
        number("raftIndex", status.raft_index),
        number("raftTerm", status.raft_term),
        number("raftAppliedIndex", status.raft_applied_index),
        texts("errors", &status.errors),
        number("dbSizeInUse", status.db_size_in_use),
        number("isLearner", status.is_learner),
    ]);
    object([always("Endpoint", json_string(&entry.endpoint)), always("Status", json)])
}

fn health(health: &EndpointHealth) -> String {
    object([
        always("endpoint", json_string(&health.endpoint)),
        always("health", health.error.is_empty()),
        always("took", json_string(&duration::format(health.took))),
        text("error", &health.error),
    ])
}

fn hash(entry: &EndpointHash) -> String {
    let hash = object([
        PLAIN.header(&entry.hash.header),
        number("hash", entry.hash.hash),
        number("compact_revision", entry.hash.compact_revision),
    ]);
    object([always("Endpoint", json_string(&entry.endpoint)), always("HashKV", hash)])
}

/// The answer as one line of JSON. `hex` writes the ids of members in hexadecimal.
pub(super) fn print(answer: &Answer<'_>, hex: bool) -> String {
    let ids = Ids { hex };
    let members = |header: &Option<pb::ResponseHeader>, members: &[pb::Member]| {
        object([ids.header(header), ids.members(members)])
    };
    let line = match answer {
        Answer::Put(answer) => put(answer),
        Answer::Range(answer) => range(answer),
        Answer::Delete(answer) => delete(answer),
        Answer::Txn(answer) => txn(answer),
        Answer::Watch(answer) => watch(answer),
        Answer::Grant(answer) => flat(
            &answer.header,
            [
                always("ID", answer.id),
                always("TTL", answer.ttl),
                always("Error", json_string(&answer.error)),
            ],
        ),
        Answer::Revoke(_, answer) => object([PLAIN.header(&answer.header)]),
        Answer::KeepAlive(answer) => {
            flat(&answer.header, [always("ID", answer.id), always("TTL", answer.ttl)])
        }
        Answer::TimeToLive { answer, .. } => time_to_live(answer),
        Answer::Leases(answer) => {
            let lease = |lease: &pb::LeaseStatus| object([always("id", lease.id)]);
            let leases = array(answer.leases.iter().map(lease).collect());
            flat(&answer.header, [always("leases", leases)])
        }
        Answer::MemberList(answer) => members(&answer.header, &answer.members),
        Answer::MemberAdd(answer) => object([
            ids.header(&answer.header),
            answer.member.as_ref().and_then(|member| always("member", ids.member(member))),
            ids.members(&answer.members),
        ]),
        Answer::MemberRemove(_, answer) => members(&answer.header, &answer.members),
        Answer::MemberUpdate(_, answer) => members(&answer.header, &answer.members),
        Answer::MemberPromote(_, answer) => members(&answer.header, &answer.members),
        Answer::Changed { header, .. } => object([PLAIN.header(header)]),
        Answer::AuthStatus(answer) => object([
            PLAIN.header(&answer.header),
            number("enabled", answer.enabled),
            number("authRevision", answer.auth_revision),
        ]),
        Answer::User(_, answer) => {
            object([PLAIN.header(&answer.header), texts("roles", &answer.roles)])
        }
        Answer::Users(answer) => {
            object([PLAIN.header(&answer.header), texts("users", &answer.users)])
        }
        Answer::Role(_, answer) => {
            let permission = |permission: &authpb::Permission| {
                object([
                    number("permType", permission.perm_type),
                    bytes("key", &permission.key),
                    bytes("range_end", &permission.range_end),
                ])
            };
            let permissions = answer.perm.iter().map(permission).collect();
            object([PLAIN.header(&answer.header), list("perm", permissions)])
        }
        Answer::Roles(answer) => {
            object([PLAIN.header(&answer.header), texts("roles", &answer.roles)])
        }
        Answer::Alarms(answer) => alarms(answer),
        Answer::MoveLeader { answer, .. } => object([PLAIN.header(&answer.header)]),
        Answer::Status(entries) => array(entries.iter().map(status).collect()),
        Answer::Health(entries) => array(entries.iter().map(health).collect()),
        Answer::Hashes(entries) => array(entries.iter().map(hash).collect()),
        Answer::File(file) => object([
            always("hash", file.hash),
            always("revision", file.revision),
            always("totalKey", file.total_keys),
            always("totalSize", file.total_bytes),
            text("version", &file.version),
        ]),
    };
    line + "\n"
}
