//! The space quota, and compaction while others read and watch.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tonic::{Code, Status};
use tripod::api::proto::etcdserverpb::{
    self as pb, RequestOp, TxnRequest, request_op::Request as Operation,
};

use crate::{
    support::{cluster::Options, wait},
    target::{Target, put_op, size},
};

/// Quota of the members.
const QUOTA_BYTES: usize = 4 << 20;
/// Value of each write that fills it.
const VALUE_BYTES: usize = 64 << 10;
/// What every write is told then.
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
/// Time for an alarm to be known everywhere.
const ALARM_MAX: Duration = Duration::from_secs(10);

fn is_no_space<T: std::fmt::Debug>(answer: Result<T, Status>) -> Result<()> {
    let status = answer.err().context("it was taken")?;
    let right = status.code() == Code::ResourceExhausted && status.message() == NO_SPACE;
    ensure!(right, "{status}");
    Ok(())
}

/// A full quota raises NOSPACE for the whole cluster, refuses what needs space on every member,
/// lets reads and deletes through, and is over after compaction, defragmentation and disarm.
#[test]
fn a_full_quota_refuses_writes_everywhere_and_is_recovered_from() -> Result<()> {
    let options = Options::candidate(3)?.flag(format!("--quota-backend-bytes={QUOTA_BYTES}"));
    let target = Target::start(options)?;
    let clients: Vec<_> = (0..3).map(|index| target.client_of(index, ALARM_MAX)).collect();
    target.run(async {
        let first = &clients[0];
        let mut puts = 0;
        let refused = loop {
            match first.put("filling", vec![b'x'; VALUE_BYTES]).await {
                Ok(_) => puts += 1,
                Err(status) => break status,
            }
            ensure!(puts < 4 * QUOTA_BYTES / VALUE_BYTES, "the quota never fills");
        };
        is_no_space::<()>(Err(refused))?;
        eprintln!("limits: quota of {QUOTA_BYTES} bytes full after {puts} puts of {VALUE_BYTES}");
        for client in &clients {
            wait::eventually("every member refuses", ALARM_MAX, || async {
                is_no_space(client.put("small", "v").await)
            })
            .await?;
            // Nested puts count too (etcd 3.6.14 forgot them).
            let inner = TxnRequest { success: vec![put_op("n", "v", 0)], ..Default::default() };
            let op = RequestOp { request: Some(Operation::RequestTxn(inner)) };
            let nested = TxnRequest { success: vec![op], ..Default::default() };
            is_no_space(client.kv().txn(nested).await)?;
            let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
            is_no_space(client.lease().lease_grant(grant).await)?;
            ensure!(client.get("filling").await?.kvs.len() == 1, "reads go on");
            client.delete("nothing").await?;
            let alarms =
                client.maintenance().alarm(pb::AlarmRequest::default()).await?.into_inner();
            ensure!(alarms.alarms.iter().any(|alarm| alarm.alarm == 1), "{alarms:?}");
        }
        ensure!(first.delete("filling").await?.deleted == 1, "deletes go on");
        let revision = first.revision().await?;
        let compact = pb::CompactionRequest { revision, physical: true };
        first.kv().compact(compact).await?;
        for client in &clients {
            wait::eventually("space is free again", ALARM_MAX, || async {
                client.maintenance().defragment(pb::DefragmentRequest {}).await?;
                let status = client.status().await?;
                let half = i64::try_from(QUOTA_BYTES / 2)?;
                ensure!(status.db_size_in_use < half, "{} in use", status.db_size_in_use);
                Ok(())
            })
            .await?;
        }
        let alarms = first.maintenance().alarm(pb::AlarmRequest::default()).await?.into_inner();
        for alarm in alarms.alarms {
            let (member_id, alarm) = (alarm.member_id, alarm.alarm);
            let disarm = pb::AlarmRequest { action: 2, member_id, alarm };
            first.maintenance().alarm(disarm).await?;
        }
        for client in &clients {
            wait::eventually("every member takes writes again", ALARM_MAX, || async {
                client.put("after", "v").await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    })?;
    target.finish()
}

/// Writes and compactions of the storm: in CI, and in full.
const STORM: (usize, usize) = (1_500, 20_000);
/// Revisions kept behind each compaction.
const KEPT: i64 = 20;

/// One compaction for each five writes. A reader sees every write at once, and a watcher that
/// listens gets each event once and in order: compaction takes nothing from who is up to date.
#[test]
fn a_storm_of_compactions_harms_neither_reader_nor_watcher() -> Result<()> {
    let target = Target::one(&[])?;
    let innocent = target.innocent();
    let client = target.client();
    let writes = size(STORM.0, STORM.1);
    target.run(async {
        let create = pb::WatchCreateRequest { key: "storm".into(), ..Default::default() };
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let requests = crate::support::client::open_ended(vec![request]);
        let mut stream = client.watch_service().watch(requests).await?.into_inner();
        let created = stream.message().await?.context("created")?;
        ensure!(created.created, "{created:?}");
        let watching = tokio::spawn(async move {
            let mut next = 0;
            while next < writes {
                let message = stream.message().await?.context("the watch ended")?;
                ensure!(!message.canceled, "after {next}: {message:?}");
                for event in message.events {
                    let value = event.kv.context("an event has a pair")?.value;
                    ensure!(value == next.to_string(), "{value:?} where {next} was next");
                    next += 1;
                }
            }
            Ok(())
        });
        let mut compactions = 0;
        for number in 0..writes {
            let answer = client.put("storm", number.to_string()).await?;
            let revision = answer.header.context("header")?.revision;
            if number % 5 == 4 && revision > KEPT + 2 {
                let compact = pb::CompactionRequest { revision: revision - KEPT, physical: false };
                client.kv().compact(compact).await?;
                compactions += 1;
                let read = client.get("storm").await?;
                ensure!(read.kvs[0].value == number.to_string(), "{read:?} after {number}");
            }
        }
        tokio::time::timeout(Duration::from_secs(30), watching)
            .await
            .context("events missing")???;
        eprintln!("limits: {compactions} compactions between {writes} writes");
        Ok(())
    })?;
    target.judge(innocent, "compaction storm")?;
    target.finish()
}
