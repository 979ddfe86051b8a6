//! Reads back what a run wrote.
//!
//! Each client remembers its first and last acknowledged write. Afterwards those keys are read,
//! linearizable: the value must be one this run wrote under this key, and if the client
//! itself wrote it last, not an older one than was acknowledged. Other keys of the key space are
//! sampled for values that do not belong there.

use serde::Serialize;

pub use super::rpc::RpcError;
use super::{
    plan::Plan,
    render::{Renderer, Rng, Stamp, key},
    rpc::{self, Session},
};

/// Clients whose writes are checked; more are sampled evenly.
const CLIENTS_MAX: usize = 1_000;
/// Further keys that are read.
const FURTHER_KEYS: u64 = 256;

/// What a client saw acknowledged.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Number of the client.
    pub(crate) client: u32,
    /// Its first acknowledged write.
    pub(crate) first: Option<Stamp>,
    /// Its last acknowledged write.
    pub(crate) last: Option<Stamp>,
}

impl Witness {
    /// Notes a write the server acknowledged.
    pub(crate) fn acknowledged(&mut self, stamp: Stamp) {
        self.first.get_or_insert(stamp);
        self.last = Some(stamp);
    }
}

/// What the read-back found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Keys read.
    pub checked: u64,
    /// Keys with a wrong, stale or missing value.
    pub mismatches: u64,
    /// What was wrong with the first one.
    pub example: Option<String>,
}

/// What is asked of a key.
struct Question {
    key: u64,
    /// The write that must not be lost; `None`: the key need not exist.
    acknowledged: Option<Stamp>,
}

/// Reads back a sample of what a run of `plan` saw acknowledged.
///
/// # Errors
/// The endpoints cannot be read.
pub fn run(plan: &Plan, witnesses: &[Witness]) -> Result<Verified, RpcError> {
    rpc::block_on(read_back(plan, witnesses))
}

/// The endpoint of the plan whose member leads, `None` if none says that it does.
///
/// # Errors
/// An endpoint cannot be asked.
pub fn leader(plan: &Plan) -> Result<Option<String>, RpcError> {
    rpc::block_on(rpc::leader(&plan.endpoints, plan.tls.as_ref().map(|tls| &tls.grpc)))
}

async fn read_back(plan: &Plan, witnesses: &[Witness]) -> Result<Verified, RpcError> {
    let renderer = Renderer::new(plan);
    let step = witnesses.len().div_ceil(CLIENTS_MAX).max(1);
    let mut questions: Vec<Question> = witnesses
        .iter()
        .step_by(step)
        .flat_map(|witness| [witness.first, witness.last])
        .flatten()
        .map(|stamp| Question { key: stamp.key, acknowledged: Some(stamp) })
        .collect();
    let mut rng = Rng::new(!plan.seed);
    questions.extend(
        (0..FURTHER_KEYS.min(plan.key_space))
            .map(|_| Question { key: rng.below(plan.key_space), acknowledged: None }),
    );
    let mut verified = Verified::default();
    // The questions are dealt out over the endpoints: every member must know the answers.
    let endpoints = plan.endpoints.len();
    for (index, endpoint) in plan.endpoints.iter().enumerate() {
        let mut session =
            Session::connect(endpoint, plan.tls.as_ref().map(|tls| &tls.grpc)).await?;
        let mine: Vec<&Question> = questions.iter().skip(index).step_by(endpoints).collect();
        let keys: Vec<[u8; 18]> = mine.iter().map(|question| key(question.key)).collect();
        let values = rpc::read(&mut session, &keys).await?;
        for (question, value) in mine.into_iter().zip(values) {
            verified.checked += 1;
            if let Err(why) = judge(&renderer, question, value.as_deref()) {
                verified.mismatches += 1;
                verified.example.get_or_insert(format!("key {}: {why}", question.key));
            }
        }
    }
    Ok(verified)
}

fn judge(renderer: &Renderer, question: &Question, value: Option<&[u8]>) -> Result<(), String> {
    let Some(value) = value else {
        return match question.acknowledged {
            Some(stamp) => Err(format!("acknowledged write {stamp:?} is gone")),
            None => Ok(()),
        };
    };
    let found = renderer.check(question.key, value)?;
    match (question.acknowledged, found) {
        (Some(acknowledged), Some(found))
            if found.client == acknowledged.client && found.sequence < acknowledged.sequence =>
        {
            Err(format!("{found:?} is older than acknowledged {acknowledged:?}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::render::Action;

    #[test]
    fn lost_stale_and_foreign_values_are_mismatches() {
        let plan = Plan::default();
        let renderer = Renderer::new(&plan);
        let value = |stamp| {
            let mut body = vec![];
            renderer.body(&mut body, Action::Put, stamp);
            body[body.len() - plan.value_bytes..].to_vec()
        };
        let acknowledged = renderer.stamp(5, 10, 1);
        let question = |acknowledged| Question { key: 5, acknowledged };
        let cases = [
            ("the write itself", Some(value(acknowledged)), true),
            ("a later write of the client", Some(value(renderer.stamp(5, 11, 1))), true),
            ("a write of another client", Some(value(renderer.stamp(5, 2, 9))), true),
            ("an older write of the client", Some(value(renderer.stamp(5, 9, 1))), false),
            ("the value of another key", Some(value(renderer.stamp(6, 11, 1))), false),
            ("garbage", Some(vec![1, 2, 3]), false),
            ("nothing", None, false),
        ];
        for (name, found, want) in cases {
            let got = judge(&renderer, &question(Some(acknowledged)), found.as_deref());
            assert_eq!(got.is_ok(), want, "{name}: {got:?}");
        }
        assert!(judge(&renderer, &question(None), None).is_ok(), "an unwritten key may be absent");
    }
}
