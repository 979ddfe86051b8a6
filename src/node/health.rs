//! What the health endpoints ask of a member.

use std::{sync::Arc, time::Duration};

use futures::future::LocalBoxFuture;
use tripod_storage::command::{AlarmKind, Range};

use crate::{
    api::{
        http::HealthSource,
        proto::etcdserverpb::AlarmType,
        service::{Code, Status},
    },
    client::Client,
    metrics::HealthCounts,
};

/// etcd gives a health read this and two election timeouts.
const READ_TIMEOUT: Duration = Duration::from_secs(7);

/// See the module.
#[derive(Debug)]
pub(super) struct Health {
    client: Client,
    counts: Arc<HealthCounts>,
}

impl Health {
    pub(super) fn new(client: Client, counts: Arc<HealthCounts>) -> Self {
        Self { client, counts }
    }

    fn read(&self, serializable: bool) -> LocalBoxFuture<'static, Result<(), Status>> {
        let client = self.client.clone();
        Box::pin(async move {
            let range = Range { key: "health".into(), ..Range::default() };
            let read = client.range(range, serializable);
            match tokio::time::timeout(READ_TIMEOUT, read).await {
                Ok(answer) => answer.map(drop).map_err(Status::from),
                Err(_) => Err(Status::new(Code::DeadlineExceeded, "context deadline exceeded")),
            }
        })
    }
}

impl HealthSource for Health {
    fn alarms(&self) -> Vec<AlarmType> {
        let kind = |(_, alarm)| match alarm {
            AlarmKind::NoSpace => AlarmType::Nospace,
            AlarmKind::Corrupt => AlarmType::Corrupt,
        };
        let alarms = self.client.alarms(None);
        alarms.map_or_else(|_| Vec::new(), |(_, alarms)| alarms.into_iter().map(kind).collect())
    }

    fn has_leader(&self) -> bool {
        self.client.node().live_leader().is_some()
    }

    fn linearizable_read(&self) -> LocalBoxFuture<'static, Result<(), Status>> {
        self.read(false)
    }

    fn serializable_read(&self) -> LocalBoxFuture<'static, Result<(), Status>> {
        self.read(true)
    }

    fn auth_enabled(&self) -> bool {
        self.client.auth_enabled()
    }

    fn note_health(&self, healthy: bool) {
        self.counts.note_health(healthy);
    }

    fn note_check(&self, probe: &'static str, check: &'static str, passed: bool) {
        self.counts.note_check(probe, check, passed);
    }

    fn is_learner(&self) -> bool {
        self.client.node().is_learner()
    }
}
