//! The default form: what a person or a shell script wants.

use super::{Answer, Style, alarm_name, table};
use crate::{
    api::proto::{authpb, etcdserverpb as pb, mvccpb},
    cli::ctl::kv::prefix_end,
};

/// Lines under construction; keys and values are any bytes.
struct Lines {
    out: Vec<u8>,
    style: Style,
}

impl Lines {
    fn line(&mut self, text: impl AsRef<[u8]>) {
        self.out.extend_from_slice(text.as_ref());
        self.out.push(b'\n');
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.style.hex {
            for byte in bytes {
                self.out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
            self.out.push(b'\n');
        } else {
            self.line(bytes);
        }
    }

    fn pair(&mut self, pair: &mvccpb::KeyValue) {
        if !self.style.value_only {
            self.bytes(&pair.key);
        }
        self.bytes(&pair.value);
    }

    fn put(&mut self, answer: &pb::PutResponse) {
        self.line("OK");
        if let Some(previous) = &answer.prev_kv {
            self.pair(previous);
        }
    }

    fn range(&mut self, answer: &pb::RangeResponse) {
        for pair in &answer.kvs {
            self.pair(pair);
        }
    }

    fn delete(&mut self, answer: &pb::DeleteRangeResponse) {
        self.line(answer.deleted.to_string());
        for pair in &answer.prev_kvs {
            self.pair(pair);
        }
    }

    fn txn(&mut self, answer: &pb::TxnResponse) {
        use pb::response_op::Response;
        self.line(if answer.succeeded { "SUCCESS" } else { "FAILURE" });
        for response in &answer.responses {
            self.line("");
            match &response.response {
                Some(Response::ResponsePut(put)) => self.put(put),
                Some(Response::ResponseRange(range)) => self.range(range),
                Some(Response::ResponseDeleteRange(delete)) => self.delete(delete),
                Some(Response::ResponseTxn(txn)) => self.txn(txn),
                None => {}
            }
        }
    }

    fn watch(&mut self, answer: &pb::WatchResponse) {
        for event in &answer.events {
            self.line(event.r#type().as_str_name());
            if let Some(previous) = &event.prev_kv {
                self.pair(previous);
            }
            if let Some(pair) = &event.kv {
                self.pair(pair);
            }
        }
    }

    fn role(&mut self, name: &str, answer: &pb::AuthRoleGetResponse) {
        self.line(format!("Role {name}"));
        for (title, wanted) in [("KV Read:", [0, 2]), ("KV Write:", [1, 2])] {
            self.line(title);
            for permission in answer.perm.iter().filter(|p| wanted.contains(&p.perm_type)) {
                self.permission(permission);
            }
        }
    }

    fn permission(&mut self, permission: &authpb::Permission) {
        let authpb::Permission { key, range_end, .. } = permission;
        self.out.push(b'\t');
        if range_end.is_empty() {
            return self.line(key);
        }
        self.out.extend_from_slice(&range(key, range_end));
        if prefix_end(key) == *range_end && !key.is_empty() {
            self.out.extend_from_slice(&[b" (prefix ", &key[..], b")"].concat());
        }
        self.line("");
    }

    fn time_to_live(&mut self, answer: &pb::LeaseTimeToLiveResponse, keys: bool) {
        if answer.granted_ttl == 0 && answer.ttl == -1 {
            self.line(format!("lease {:016x} already expired", answer.id));
            return;
        }
        let (granted, left) = (answer.granted_ttl, answer.ttl);
        let text =
            format!("lease {:016x} granted with TTL({granted}s), remaining({left}s)", answer.id);
        self.out.extend_from_slice(text.as_bytes());
        if keys {
            self.out.extend_from_slice(b", attached keys([");
            self.out.extend_from_slice(&answer.keys.join(&b' '));
            self.out.extend_from_slice(b"])");
        }
        self.line("");
    }
}

/// A range as people read it.
pub(super) fn range(key: &[u8], range_end: &[u8]) -> Vec<u8> {
    match range_end {
        [0] => [b"[", key, b", <open ended>"].concat(),
        end => [b"[", key, b", ", end, b")"].concat(),
    }
}

/// The answer as lines.
pub(super) fn print(style: Style, answer: &Answer<'_>) -> Vec<u8> {
    let mut lines = Lines { out: Vec::new(), style };
    let cluster = |header: &Option<pb::ResponseHeader>| {
        header.as_ref().map(|header| header.cluster_id).unwrap_or_default()
    };
    match answer {
        Answer::Put(answer) => lines.put(answer),
        Answer::Range(answer) => lines.range(answer),
        Answer::Delete(answer) => lines.delete(answer),
        Answer::Txn(answer) => lines.txn(answer),
        Answer::Watch(answer) => lines.watch(answer),
        Answer::Grant(answer) => {
            lines.line(format!("lease {:016x} granted with TTL({}s)", answer.id, answer.ttl));
        }
        Answer::Revoke(id, _) => lines.line(format!("lease {id:016x} revoked")),
        Answer::KeepAlive(answer) => {
            lines.line(format!("lease {:016x} keepalived with TTL({})", answer.id, answer.ttl));
        }
        Answer::TimeToLive { answer, keys } => lines.time_to_live(answer, *keys),
        Answer::Leases(answer) => {
            lines.line(format!("found {} leases", answer.leases.len()));
            for lease in &answer.leases {
                lines.line(format!("{:016x}", lease.id));
            }
        }
        Answer::MemberAdd(answer) => {
            let id = answer.member.as_ref().map(|member| member.id).unwrap_or_default();
            let cluster = cluster(&answer.header);
            lines.line(format!("Member {id:16x} added to cluster {cluster:16x}"));
        }
        Answer::MemberRemove(id, answer) => {
            let cluster = cluster(&answer.header);
            lines.line(format!("Member {id:16x} removed from cluster {cluster:16x}"));
        }
        Answer::MemberUpdate(id, answer) => {
            let cluster = cluster(&answer.header);
            lines.line(format!("Member {id:16x} updated in cluster {cluster:16x}"));
        }
        Answer::MemberPromote(id, answer) => {
            let cluster = cluster(&answer.header);
            lines.line(format!("Member {id:16x} promoted in cluster {cluster:16x}"));
        }
        Answer::Changed { text, .. } => lines.line(text),
        Answer::AuthStatus(answer) => {
            lines.line(format!("Authentication Status: {}", answer.enabled));
            lines.line(format!("AuthRevision: {}", answer.auth_revision));
        }
        Answer::User(name, answer) => {
            lines.line(format!("User: {name}"));
            let roles: String = answer.roles.iter().map(|role| format!(" {role}")).collect();
            lines.line(format!("Roles:{roles}"));
        }
        Answer::Users(answer) => answer.users.iter().for_each(|name| lines.line(name)),
        Answer::Role(name, answer) => lines.role(name, answer),
        Answer::Roles(answer) => answer.roles.iter().for_each(|name| lines.line(name)),
        Answer::Alarms(answer) => {
            for alarm in &answer.alarms {
                let (member, name) = (alarm.member_id, alarm_name(alarm.alarm));
                lines.line(format!("memberID:{member} alarm:{name} "));
            }
        }
        Answer::MoveLeader { from, to, .. } => {
            lines.line(format!("Leadership transferred from {from:x} to {to:x}"));
        }
        Answer::Health(list) => {
            for health in list.iter().filter(|health| health.error.is_empty()) {
                let took = crate::config::duration::format(health.took);
                lines.line(format!(
                    "{} is healthy: successfully committed proposal: took = {took}",
                    health.endpoint
                ));
            }
        }
        Answer::MemberList(_) | Answer::Status(_) | Answer::Hashes(_) | Answer::File(_) => {
            for row in table::rows(answer).map(|table| table.rows).unwrap_or_default() {
                lines.line(row.join(", "));
            }
        }
    }
    lines.out
}
