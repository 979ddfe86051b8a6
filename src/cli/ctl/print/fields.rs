//! One `"Name" : value` per line.

use std::fmt::{Display, Write as _};

use super::{Answer, alarm_name, permission_name, unsupported};
use crate::{
    api::proto::{etcdserverpb as pb, mvccpb},
    cli::ctl::{args::Format, exit::Exit, go::quote},
    config::duration,
};

/// Lines under construction.
#[derive(Default)]
struct Fields(String);

impl Fields {
    fn field(&mut self, name: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "\"{name}\" : {value}");
    }

    fn quoted(&mut self, name: &str, bytes: &[u8]) {
        self.field(name, quote(bytes));
    }

    fn blank(&mut self) {
        self.0.push('\n');
    }

    /// A nested answer may have no header; etcdctl prints zeros for what it leaves out.
    fn header(&mut self, header: &Option<pb::ResponseHeader>) {
        let Some(header) = header else { return };
        self.field("ClusterID", header.cluster_id);
        self.field("MemberID", header.member_id);
        self.field("Revision", header.revision);
        self.field("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, prefix: &str, pair: &mvccpb::KeyValue) {
        self.quoted(&format!("{prefix}Key"), &pair.key);
        self.field(&format!("{prefix}CreateRevision"), pair.create_revision);
        self.field(&format!("{prefix}ModRevision"), pair.mod_revision);
        self.field(&format!("{prefix}Version"), pair.version);
        self.quoted(&format!("{prefix}Value"), &pair.value);
        self.field(&format!("{prefix}Lease"), pair.lease);
    }

    fn put(&mut self, answer: &pb::PutResponse) {
        self.header(&answer.header);
        if let Some(previous) = &answer.prev_kv {
            self.pair("Prev", previous);
        }
    }

    fn range(&mut self, answer: &pb::RangeResponse) {
        self.header(&answer.header);
        for pair in &answer.kvs {
            self.pair("", pair);
        }
        self.field("More", answer.more);
        self.field("Count", answer.count);
    }

    fn delete(&mut self, answer: &pb::DeleteRangeResponse) {
        self.header(&answer.header);
        self.field("Deleted", answer.deleted);
        for pair in &answer.prev_kvs {
            self.pair("Prev", pair);
        }
    }

    fn txn(&mut self, answer: &pb::TxnResponse) {
        use pb::response_op::Response;
        self.header(&answer.header);
        self.field("Succeeded", answer.succeeded);
        for response in &answer.responses {
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
        self.header(&Some(answer.header.unwrap_or_default()));
        for event in &answer.events {
            self.field("Type", event.r#type().as_str_name());
            if let Some(previous) = &event.prev_kv {
                self.pair("Prev", previous);
            }
            if let Some(pair) = &event.kv {
                self.pair("", pair);
            }
        }
    }

    fn members(&mut self, answer: &pb::MemberListResponse) {
        self.header(&answer.header);
        for member in &answer.members {
            self.field("ID", member.id);
            self.quoted("Name", member.name.as_bytes());
            for url in &member.peer_ur_ls {
                self.quoted("PeerURL", url.as_bytes());
            }
            for url in &member.client_ur_ls {
                self.quoted("ClientURL", url.as_bytes());
            }
            self.field("IsLearner", member.is_learner);
            self.blank();
        }
    }

    fn status(&mut self, endpoint: &str, status: &pb::StatusResponse) {
        self.header(&status.header);
        self.quoted("Version", status.version.as_bytes());
        self.field("DBSize", status.db_size);
        self.field("Leader", status.leader);
        self.field("IsLearner", status.is_learner);
        self.field("RaftIndex", status.raft_index);
        self.field("RaftTerm", status.raft_term);
        self.field("RaftAppliedIndex", status.raft_applied_index);
        self.field("Errors", format_args!("[{}]", status.errors.join(" ")));
        self.quoted("Endpoint", endpoint.as_bytes());
        self.blank();
    }
}

/// The answer as fields.
pub(super) fn print(answer: &Answer<'_>) -> Result<Vec<u8>, Exit> {
    let mut fields = Fields::default();
    match answer {
        Answer::Put(answer) => fields.put(answer),
        Answer::Range(answer) => fields.range(answer),
        Answer::Delete(answer) => fields.delete(answer),
        Answer::Txn(answer) => fields.txn(answer),
        Answer::Watch(answer) => fields.watch(answer),
        Answer::Grant(answer) => {
            fields.header(&answer.header);
            fields.field("ID", answer.id);
            fields.field("TTL", answer.ttl);
        }
        Answer::Revoke(_, answer) => fields.header(&answer.header),
        Answer::KeepAlive(answer) => {
            fields.header(&answer.header);
            fields.field("ID", answer.id);
            fields.field("TTL", answer.ttl);
        }
        Answer::TimeToLive { answer, .. } => {
            fields.header(&answer.header);
            fields.field("ID", answer.id);
            fields.field("TTL", answer.ttl);
            fields.field("GrantedTTL", answer.granted_ttl);
            for key in &answer.keys {
                fields.quoted("Key", key);
            }
        }
        Answer::Leases(answer) => {
            fields.header(&answer.header);
            for lease in &answer.leases {
                fields.field("ID", lease.id);
            }
        }
        Answer::Changed { header, .. } => fields.header(header),
        Answer::Role(_, answer) => {
            fields.header(&answer.header);
            for permission in &answer.perm {
                // Two spaces, as etcdctl has it.
                let kind = format_args!(" {}", permission_name(permission.perm_type)).to_string();
                fields.field("PermType", kind);
                fields.quoted("Key", &permission.key);
                fields.quoted("RangeEnd", &permission.range_end);
            }
        }
        Answer::Roles(answer) => {
            fields.header(&answer.header);
            let names: Vec<_> = answer.roles.iter().map(|name| quote(name.as_bytes())).collect();
            fields.field("Roles", names.join(" "));
        }
        Answer::MemberList(answer) => fields.members(answer),
        Answer::Alarms(answer) => {
            fields.header(&answer.header);
            for alarm in &answer.alarms {
                fields.field("MemberID", alarm.member_id);
                fields.field("AlarmType", alarm_name(alarm.alarm));
                fields.blank();
            }
        }
        Answer::Status(list) => {
            list.iter().for_each(|entry| fields.status(&entry.endpoint, &entry.status));
        }
        Answer::Health(list) => {
            for health in *list {
                fields.quoted("Endpoint", health.endpoint.as_bytes());
                fields.field("Health", health.error.is_empty());
                fields.field("Took", duration::format(health.took));
                fields.field("Error", &health.error);
                fields.blank();
            }
        }
        Answer::Hashes(list) => {
            for entry in *list {
                fields.header(&entry.hash.header);
                fields.quoted("Endpoint", entry.endpoint.as_bytes());
                fields.field("Hash", entry.hash.hash);
                fields.blank();
            }
        }
        Answer::File(file) => {
            fields.field("Hash", file.hash);
            fields.field("Revision", file.revision);
            fields.field("Keys", file.total_keys);
            fields.field("Size", file.total_bytes);
        }
        Answer::AuthStatus(_)
        | Answer::User(..)
        | Answer::Users(_)
        | Answer::MemberAdd(_)
        | Answer::MemberRemove(..)
        | Answer::MemberUpdate(..)
        | Answer::MemberPromote(..)
        | Answer::MoveLeader { .. } => return Err(unsupported(Format::Fields)),
    }
    Ok(fields.0.into_bytes())
}
