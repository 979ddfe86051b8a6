//! What `/debug` says: variables as JSON, and small reports as text.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    families::Source,
    process::{self, Process},
};

/// The reports there are, and what each one says.
const REPORTS: [(&str, &str); 2] = [
    ("threads", "CPU seconds of each thread since the start"),
    ("heap", "memory of the process, and what the store holds in it"),
];

impl Source {
    /// Variables as etcd names them, without the command line (it is not ours where the member
    /// is part of another program) and without Go's memory statistics.
    #[must_use]
    pub fn variables(&self) -> String {
        let status = self.client.node().status();
        let is_leader = status.leader == Some(status.node_id);
        let state = match (is_leader, status.is_learner, status.leader) {
            (true, ..) => "StateLeader",
            (_, true, _) => "StateLearner",
            (.., Some(_)) => "StateFollower",
            (.., None) => "StateCandidate",
        };
        let hex = |id: u64| format!("{id:x}");
        let progress: serde_json::Map<String, serde_json::Value> = (status.members.iter())
            .filter_map(|(id, member)| Some((hex(*id), json!({ "match": member.match_index? }))))
            .collect();
        let document = json!({
            "file_descriptor_limit": Process::read().fds_max,
            "raft.status": {
                "id": hex(status.node_id),
                "term": status.term,
                "commit": status.committed_index,
                "applied": status.applied_index,
                "lead": hex(status.leader.unwrap_or(0)),
                "raftState": state,
                "progress": progress,
            },
        });
        document.to_string()
    }

    /// The report of this name; `None` where there is none. Blocks for reading `/proc`.
    #[must_use]
    pub fn report(&self, name: &str) -> Option<String> {
        let mut text = String::new();
        // Writing to a string does not fail.
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{name:<28} {value}");
        };
        match name {
            "index" => {
                for (name, says) in REPORTS {
                    line(&format!("/debug/pprof/{name}"), &says);
                }
                line(
                    "perf record -p PID",
                    &"CPU profiles: not served, the system has a better tool",
                );
            }
            "threads" => {
                for (name, cpu_s) in process::thread_cpu_s() {
                    line(&name, &cpu_s);
                }
            }
            "heap" => {
                let process = Process::read();
                line("resident_bytes", &process.resident_bytes.unwrap_or(0));
                line("virtual_bytes", &process.virtual_bytes.unwrap_or(0));
                let machine = self.client.node().state().read();
                line("store_cached_bytes", &machine.cached_bytes());
                line("store_keys", &machine.keys_count());
                line("store_pending_bytes", &machine.pending_bytes());
            }
            _ => return None,
        }
        Some(text)
    }
}
