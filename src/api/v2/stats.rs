//! `/v2/stats`: what this member can tell about itself.

use hyper::{Method, Response, StatusCode};

use super::{Head, V2, answer, time};
use crate::{
    api::{http::answer::json, json::put_string, service::HttpBody},
    client::v2::now_ns,
};

impl V2 {
    /// Who this member is, who leads, and since when.
    pub(super) fn self_stats(&self, head: &Head<'_>) -> Response<HttpBody> {
        if head.method != Method::GET {
            return answer::wrong_method("GET");
        }
        let identity = self.client.identity();
        let node = self.client.node();
        let is_leader = node.is_leader();
        let state = if is_leader { "StateLeader" } else { "StateFollower" };
        let started = time::rfc3339(self.service.started_ns());
        let (leader, since_ns) = self.service.leader();
        let leader = leader.map_or_else(String::new, |id| format!("{id:x}"));
        let (uptime, since) = (time::span(now_ns() - since_ns), time::rfc3339(since_ns));
        // A batch of requests is one message to each follower.
        let sent =
            if is_leader && node.status().members.len() > 1 { node.metrics().batches } else { 0 };
        let received = if is_leader { 0 } else { node.status().applied_index };
        let mut body = b"{\"name\":".to_vec();
        put_string(&mut body, identity.name.as_bytes());
        body.extend_from_slice(
            format!(
                ",\"id\":\"{:x}\",\"state\":\"{state}\",\"startTime\":\"{started}\",\
                 \"leaderInfo\":{{\"leader\":\"{leader}\",\"uptime\":\"{uptime}\",\
                 \"startTime\":\"{since}\"}},\"recvAppendRequestCnt\":{received},\
                 \"sendAppendRequestCnt\":{sent}}}",
                identity.member_id
            )
            .as_bytes(),
        );
        json(StatusCode::OK, body)
    }

    /// How often the tree was asked for what.
    pub(super) fn store_stats(&self, head: &Head<'_>) -> Response<HttpBody> {
        if head.method != Method::GET {
            return answer::wrong_method("GET");
        }
        let stats = self.client.v2_stats();
        let mut body = String::from("{");
        for (name, [good, bad]) in [
            ("gets", stats.gets),
            ("sets", stats.sets),
            ("delete", stats.deletes),
            ("update", stats.updates),
            ("create", stats.creates),
            ("compareAndSwap", stats.swaps),
            ("compareAndDelete", stats.compare_deletes),
        ] {
            body.push_str(&format!("\"{name}Success\":{good},\"{name}Fail\":{bad},"));
        }
        let (expired, watchers) = (stats.expired, stats.watchers);
        body.push_str(&format!("\"expireCount\":{expired},\"watchers\":{watchers}}}"));
        json(StatusCode::OK, body)
    }

    /// How far the followers are; only the leader knows.
    pub(super) fn leader_stats(&self, head: &Head<'_>) -> Response<HttpBody> {
        if head.method != Method::GET {
            return answer::wrong_method("GET");
        }
        let node = self.client.node();
        if !node.is_leader() {
            return answer::message(StatusCode::FORBIDDEN, "not current leader");
        }
        let own = self.client.identity().member_id;
        let status = node.status();
        let followers = status.members.iter().filter(|(id, _)| **id != own);
        let followers = followers.map(|(id, member)| {
            let matched = member.match_index.unwrap_or(0);
            let ago = member.acknowledged_ago;
            let ago = ago.map_or_else(|| "null".to_owned(), |ago| ago.as_millis().to_string());
            format!("\"{id:x}\":{{\"matchIndex\":{matched},\"acknowledgedAgoMs\":{ago}}}")
        });
        let followers: Vec<_> = followers.collect();
        let body = format!("{{\"leader\":\"{own:x}\",\"followers\":{{{}}}}}", followers.join(","));
        json(StatusCode::OK, body)
    }
}
