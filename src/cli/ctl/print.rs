//! Answers in etcdctl's output forms, byte for byte where etcdctl has no accident to copy.
//!
//! One enum of answers, one file per form. Everything here is pure: bytes in, bytes out.

mod fields;
mod json;
mod simple;
mod table;

use std::time::Duration;

use prost::Message as _;
use tripod_storage::etcd::FileStatus;

use super::{
    args::Format,
    exit::{BAD_FEATURE, Exit},
};
use crate::api::proto::etcdserverpb as pb;

/// State of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointStatus {
    pub(super) endpoint: String,
    pub(super) status: pb::StatusResponse,
}

/// Health of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointHealth {
    pub(super) endpoint: String,
    pub(super) took: Duration,
    /// Empty if it is healthy.
    pub(super) error: String,
}

/// Hash of one endpoint's keys.
#[derive(Debug)]
pub(super) struct EndpointHash {
    pub(super) endpoint: String,
    pub(super) hash: pb::HashKvResponse,
}

/// Something to print.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    Put(&'a pb::PutResponse),
    Range(&'a pb::RangeResponse),
    Delete(&'a pb::DeleteRangeResponse),
    Txn(&'a pb::TxnResponse),
    Watch(&'a pb::WatchResponse),
    Grant(&'a pb::LeaseGrantResponse),
    Revoke(i64, &'a pb::LeaseRevokeResponse),
    KeepAlive(&'a pb::LeaseKeepAliveResponse),
    TimeToLive {
        answer: &'a pb::LeaseTimeToLiveResponse,
        keys: bool,
    },
    Leases(&'a pb::LeaseLeasesResponse),
    MemberList(&'a pb::MemberListResponse),
    MemberAdd(&'a pb::MemberAddResponse),
    MemberRemove(u64, &'a pb::MemberRemoveResponse),
    MemberUpdate(u64, &'a pb::MemberUpdateResponse),
    MemberPromote(u64, &'a pb::MemberPromoteResponse),
    /// A change of users or roles: what to say, its header, its message.
    Changed {
        text: &'a str,
        header: &'a Option<pb::ResponseHeader>,
        message: &'a [u8],
    },
    AuthStatus(&'a pb::AuthStatusResponse),
    User(&'a str, &'a pb::AuthUserGetResponse),
    Users(&'a pb::AuthUserListResponse),
    Role(&'a str, &'a pb::AuthRoleGetResponse),
    Roles(&'a pb::AuthRoleListResponse),
    Alarms(&'a pb::AlarmResponse),
    MoveLeader {
        from: u64,
        to: u64,
        answer: &'a pb::MoveLeaderResponse,
    },
    Status(&'a [EndpointStatus]),
    Health(&'a [EndpointHealth]),
    Hashes(&'a [EndpointHash]),
    File(&'a FileStatus),
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) format: Format,
    /// Bytes as `\x..`.
    pub(super) hex: bool,
    /// Values without keys.
    pub(super) value_only: bool,
}

impl Style {
    /// The bytes for standard output.
    ///
    /// # Errors
    /// The form does not have this answer.
    pub(super) fn print(self, answer: &Answer<'_>) -> Result<Vec<u8>, Exit> {
        match self.format {
            Format::Simple => Ok(simple::print(self, answer)),
            Format::Json => Ok(json::print(answer, self.hex).into_bytes()),
            Format::Fields => fields::print(answer),
            Format::Table => table::print(answer),
            Format::Protobuf => protobuf(answer),
        }
    }
}

/// A range as people read it.
pub(super) fn range_text(key: &[u8], range_end: &[u8]) -> String {
    String::from_utf8_lossy(&simple::range(key, range_end)).into_owned()
}

fn unsupported(format: Format) -> Exit {
    Exit::new(BAD_FEATURE, format!("{} not supported as output format", format.name()))
}

/// The answer's message. Of leases etcdctl writes the header only, and a watch has no id, since
/// its client keeps ids to itself; so do we.
fn protobuf(answer: &Answer<'_>) -> Result<Vec<u8>, Exit> {
    let header = |header: &Option<pb::ResponseHeader>| {
        header.as_ref().map(prost::Message::encode_to_vec).unwrap_or_default()
    };
    Ok(match answer {
        Answer::Put(m) => m.encode_to_vec(),
        Answer::Range(m) => m.encode_to_vec(),
        Answer::Delete(m) => m.encode_to_vec(),
        Answer::Txn(m) => m.encode_to_vec(),
        Answer::Watch(m) => pb::WatchResponse { watch_id: 0, ..(*m).clone() }.encode_to_vec(),
        Answer::Grant(m) => header(&m.header),
        Answer::Revoke(_, m) => m.encode_to_vec(),
        Answer::KeepAlive(m) => header(&m.header),
        Answer::TimeToLive { answer, .. } => header(&answer.header),
        Answer::Leases(m) => header(&m.header),
        Answer::MemberList(m) => m.encode_to_vec(),
        Answer::MemberAdd(m) => m.encode_to_vec(),
        Answer::MemberRemove(_, m) => m.encode_to_vec(),
        Answer::MemberUpdate(_, m) => m.encode_to_vec(),
        Answer::MemberPromote(_, m) => m.encode_to_vec(),
        Answer::Changed { message, .. } => message.to_vec(),
        Answer::AuthStatus(m) => m.encode_to_vec(),
        Answer::User(_, m) => m.encode_to_vec(),
        Answer::Users(m) => m.encode_to_vec(),
        Answer::Role(_, m) => m.encode_to_vec(),
        Answer::Roles(m) => m.encode_to_vec(),
        Answer::Alarms(m) => m.encode_to_vec(),
        Answer::MoveLeader { answer, .. } => answer.encode_to_vec(),
        Answer::Status(_) | Answer::Health(_) | Answer::Hashes(_) | Answer::File(_) => {
            return Err(unsupported(Format::Protobuf));
        }
    })
}

/// Name of a permission's kind.
fn permission_name(kind: i32) -> String {
    use crate::api::proto::authpb::permission::Type;
    Type::try_from(kind).map_or_else(|_| kind.to_string(), |kind| kind.as_str_name().to_owned())
}

/// Name of an alarm.
fn alarm_name(alarm: i32) -> String {
    pb::AlarmType::try_from(alarm)
        .map_or_else(|_| alarm.to_string(), |a| a.as_str_name().to_owned())
}

#[cfg(test)]
mod tests;
