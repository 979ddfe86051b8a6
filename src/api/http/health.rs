//! `/health`, `/livez` and `/readyz`: what load balancers and supervisors ask.
//!
//! Source: etcd 3.5.1's answers for `/health`; `etcdhttp/health.go` of 3.5.11 and later for the
//! probes.

use std::{collections::HashSet, rc::Rc};

use futures::future::LocalBoxFuture;
use hyper::{Method, Response, StatusCode, Uri};

use super::{answer, path::query_values, version::SERVER_VERSION};
use crate::api::{
    json::put_string,
    proto::etcdserverpb::AlarmType,
    service::{HttpBody, Status},
};

/// What the plain endpoints must know about this node. The composition root implements it.
pub trait HealthSource: 'static {
    /// The alarms raised by any member, one entry for each member and kind.
    fn alarms(&self) -> Vec<AlarmType>;

    /// This node knows a leader.
    fn has_leader(&self) -> bool;

    /// Resolves when a linearizable read would be answered, or fails with the reason. Bounded in
    /// time by the implementation: etcd gives it 5 s and two election timeouts.
    fn linearizable_read(&self) -> LocalBoxFuture<'static, Result<(), Status>>;

    /// Resolves when a serializable read would be answered, or fails with the reason.
    fn serializable_read(&self) -> LocalBoxFuture<'static, Result<(), Status>>;

    /// This node does not vote.
    fn is_learner(&self) -> bool;

    /// Counts an answer of `/health`.
    fn note_health(&self, _healthy: bool) {}

    /// Counts a check of the probe `livez` or `readyz`.
    fn note_check(&self, _probe: &'static str, _check: &'static str, _passed: bool) {}

    /// Authentication is on; the gateway then refuses certificates that name a user.
    fn auth_enabled(&self) -> bool {
        false
    }

    /// The version all members have agreed on, `None` before they did.
    fn cluster_version(&self) -> Option<Rc<str>> {
        Some(SERVER_VERSION.into())
    }
}

/// Answers `/health`.
pub(super) async fn health(
    method: &Method,
    uri: &Uri,
    node: &dyn HealthSource,
) -> Response<HttpBody> {
    if method != Method::GET {
        return answer::only_get();
    }
    let reason = unhealthy_because(uri.query(), node).await;
    node.note_health(reason.is_none());
    let mut body = Vec::from(match reason {
        None => b"{\"health\":\"true\",\"reason\":".as_slice(),
        Some(_) => b"{\"health\":\"false\",\"reason\":".as_slice(),
    });
    put_string(&mut body, reason.as_deref().unwrap_or_default().as_bytes());
    body.push(b'}');
    let body = String::from_utf8_lossy(&body).into_owned();
    match reason {
        None => answer::plain(StatusCode::OK, body),
        Some(_) => answer::text(StatusCode::SERVICE_UNAVAILABLE, &body),
    }
}

/// The first thing that is wrong with the node, if any.
async fn unhealthy_because(query: Option<&str>, node: &dyn HealthSource) -> Option<String> {
    let excluded: HashSet<String> = query_values(query, "exclude").collect();
    let counts = |alarm: &AlarmType| !excluded.contains(alarm.as_str_name());
    if let Some(alarm) = node.alarms().into_iter().find(counts) {
        return Some(match alarm {
            AlarmType::None => "ALARM UNKNOWN".to_owned(),
            known => format!("ALARM {}", known.as_str_name()),
        });
    }
    let serializable = query_values(query, "serializable").next().as_deref() == Some("true");
    let read = if serializable {
        node.serializable_read()
    } else if node.has_leader() {
        node.linearizable_read()
    } else {
        return Some("RAFT NO LEADER".to_owned());
    };
    read.await.err().map(|status| format!("RANGE ERROR:{status}"))
}

/// One question a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, node: &dyn HealthSource) -> Result<(), String> {
        let text = |status: Status| status.message;
        match self {
            Self::DataCorruption if node.alarms().contains(&AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if node.is_learner() => Err("not supported for learner".to_owned()),
            Self::DataCorruption | Self::NonLearner => Ok(()),
            Self::SerializableRead => node.serializable_read().await.map_err(text),
            Self::LinearizableRead => node.linearizable_read().await.map_err(text),
        }
    }
}

/// A set of checks under one path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Probe {
    name: &'static str,
    checks: &'static [Check],
    /// One check by its own path: `exclude` means nothing there.
    is_single: bool,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Probe {
    /// The probe at `path`: `/livez`, `/readyz`, or one check of theirs, `/readyz/NAME`.
    pub(super) fn find(path: &str) -> Option<Self> {
        let (name, checks, rest) = if let Some(rest) = path.strip_prefix("/livez") {
            ("livez", LIVEZ, rest)
        } else {
            ("readyz", READYZ, path.strip_prefix("/readyz")?)
        };
        if rest.is_empty() {
            return Some(Self { name, checks, is_single: false });
        }
        let wanted = rest.strip_prefix('/')?;
        let one = checks.iter().position(|check| check.name() == wanted)?;
        Some(Self { name, checks: &checks[one..=one], is_single: true })
    }

    /// Runs the checks that are not excluded. Every failure is told; successes only when asked.
    pub(super) async fn answer(
        self,
        method: &Method,
        uri: &Uri,
        node: &dyn HealthSource,
    ) -> Response<HttpBody> {
        if method != Method::GET {
            return answer::only_get();
        }
        let excluded: HashSet<String> = match self.is_single {
            true => HashSet::new(),
            false => query_values(uri.query(), "exclude").collect(),
        };
        let mut report = String::new();
        let mut healthy = true;
        for check in self.checks.iter().filter(|check| !excluded.contains(check.name())) {
            let outcome = check.run(node).await;
            node.note_check(self.name, check.name(), outcome.is_ok());
            match outcome {
                Ok(()) => report.push_str(&format!("[+]{} ok\n", check.name())),
                Err(reason) => {
                    healthy = false;
                    report.push_str(&format!("[-]{} failed: {reason}\n", check.name()));
                }
            }
        }
        if !healthy {
            return answer::text(StatusCode::SERVICE_UNAVAILABLE, &report);
        }
        if query_values(uri.query(), "verbose").next().is_none() {
            report.clear();
        }
        report.push_str("ok\n");
        answer::no_sniff(answer::plain(StatusCode::OK, report))
    }
}
