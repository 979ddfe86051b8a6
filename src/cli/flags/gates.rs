//! `--feature-gates`: etcd 3.6's switches, as the settings they stand for.

use serde_json::Value;

use super::{Layer, Notice, insert, value};

/// What a gate stands for.
enum Gate {
    /// This setting.
    Key(&'static str),
    /// Nothing here, for this reason.
    Nothing(&'static str),
}

/// Gates of etcd 3.6. Source: etcd `server/features`.
const GATES: [(&str, Gate); 10] = [
    ("AllAlpha", Gate::Nothing("name single gates")),
    ("AllBeta", Gate::Nothing("name single gates")),
    ("CompactHashCheck", Gate::Key("compact-hash-check")),
    ("DistributedTracing", Gate::Nothing("spans are not exported")),
    ("InitialCorruptCheck", Gate::Key("initial-corrupt-check")),
    ("LeaseCheckpoint", Gate::Key("lease-checkpoint")),
    ("LeaseCheckpointPersist", Gate::Nothing("checkpoints are always persisted")),
    (
        "SetMemberLocalAddr",
        Gate::Nothing("the system chooses the local address of peer connections"),
    ),
    ("StopGRPCServiceOnDefrag", Gate::Nothing("the store needs no defragmentation")),
    ("TxnModeWriteWithSharedBuffer", Gate::Nothing("there is no bbolt buffer here")),
];

/// Reads `A=true,B=false` into `layer`.
pub(super) fn parse(
    text: &str,
    layer: &mut Layer,
    notices: &mut Vec<Notice>,
) -> Result<(), String> {
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (name, on) = item
            .split_once('=')
            .ok_or_else(|| format!("missing bool value for feature gate {item}"))?;
        let on = value::parse_bool(on.trim())
            .ok_or_else(|| format!("invalid value of {item}, wants true or false"))?;
        let Some((_, gate)) = GATES.iter().find(|(known, _)| *known == name.trim()) else {
            return Err(format!("unrecognized feature gate: {name}"));
        };
        match gate {
            Gate::Key(key) => insert(layer, key, Value::Bool(on)),
            Gate::Nothing(why) => {
                notices.push(Notice(format!("feature gate {name} has no effect: {why}")));
            }
        }
    }
    Ok(())
}
