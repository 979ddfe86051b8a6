//! What monitoring sees of running servers: metrics, health, reports, reflection; and that the
//! documents speak of nothing else.

mod names;
mod parser;
mod services;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio_stream::StreamExt as _;
use tripod::api::proto::etcdserverpb as pb;

use crate::support::{
    cluster::{Cluster, Options},
    http::Http,
    port::Port,
    wait,
};
use parser::{Families, parse};

/// How long a probe, a watch or a health check may take to show.
const PATIENCE: Duration = Duration::from_secs(30);

/// The metrics of a server on 127.0.0.1.
fn scrape(port: u16) -> Result<Families> {
    let answer = Http::new(port).get("/metrics")?;
    ensure!(answer.status == 200, "{}", answer.text());
    let content_type = answer.header("content-type");
    ensure!(content_type == Some("text/plain; version=0.0.4; charset=utf-8"), "{content_type:?}");
    parse(&answer.text())
}

/// The value of the one sample with these labels.
fn value(families: &Families, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let family = name.strip_suffix("_count").filter(|base| families.contains_key(*base));
    let family = families.get(family.unwrap_or(name)).with_context(|| format!("no {name}"))?;
    let matches = |sample: &&parser::Sample| {
        let has =
            |(label, want): &(&str, &str)| sample.labels.get(*label).is_some_and(|v| v == want);
        sample.name == name && labels.iter().all(has)
    };
    let found: Vec<_> = family.samples.iter().filter(matches).collect();
    ensure!(found.len() == 1, "{name} {labels:?}: {found:?}");
    Ok(found[0].value)
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_follow_what_clients_do() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let member = &cluster.members[0];
    let client = member.client();
    let before = scrape(member.client_port())?;
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let create = pb::WatchRequest { request_union: Some(create) };
    let requests = tokio_stream::iter([create]);
    let mut watch = client.watch_service().watch(requests).await?.into_inner();
    watch.next().await.context("the watch ended")??;
    for _ in 0..3 {
        client.put("k", "12345").await?;
    }
    client.get("k").await?;
    client.delete("k").await?;
    let refused = client.put("", "v").await;
    assert!(refused.is_err(), "an empty key");
    let mut seen = 0;
    while seen < 4 {
        seen += watch.next().await.context("the watch ended")??.events.len();
    }
    let after = scrape(member.client_port())?;
    let grown = |name: &str, labels: &[(&str, &str)]| -> Result<f64> {
        Ok(value(&after, name, labels)? - value(&before, name, labels)?)
    };
    let put = [("grpc_method", "Put"), ("grpc_service", "etcdserverpb.KV")];
    let put_ended = |code| [("grpc_code", code), put[0], put[1]];
    assert_eq!(grown("grpc_server_started_total", &put)?, 4.0);
    assert_eq!(grown("grpc_server_handled_total", &put_ended("OK"))?, 3.0);
    assert_eq!(grown("grpc_server_handled_total", &put_ended("InvalidArgument"))?, 1.0);
    assert_eq!(grown("grpc_server_msg_sent_total", &put)?, 3.0);
    let watching = [("grpc_method", "Watch"), ("grpc_service", "etcdserverpb.Watch")];
    assert_eq!(grown("grpc_server_started_total", &watching)?, 1.0);
    assert_eq!(grown("grpc_server_msg_received_total", &watching)?, 1.0);
    assert!(grown("grpc_server_msg_sent_total", &watching)? >= 2.0);
    assert_eq!(grown("etcd_mvcc_put_total", &[])?, 3.0);
    assert_eq!(grown("etcd_mvcc_delete_total", &[])?, 1.0);
    assert_eq!(grown("etcd_debugging_mvcc_total_put_size_in_bytes", &[])?, 18.0);
    assert_eq!(grown("etcd_debugging_mvcc_current_revision", &[])?, 4.0);
    assert_eq!(grown("etcd_debugging_mvcc_events_total", &[])?, 4.0);
    assert_eq!(grown("etcd_debugging_mvcc_watcher_total", &[])?, 1.0);
    assert!(grown("etcd_mvcc_range_total", &[])? >= 1.0);
    assert!(grown("etcd_disk_wal_fsync_duration_seconds_count", &[])? >= 4.0);
    assert!(grown("tripod_batch_commands_count", &[])? >= 4.0);
    assert!(grown("tripod_sole_voter_reads_total", &[])? >= 1.0);
    assert!(grown("etcd_network_client_grpc_received_bytes_total", &[])? > 30.0);
    assert!(value(&after, "tripod_client_connections", &[])? >= 2.0);
    assert_eq!(value(&after, "etcd_server_is_leader", &[])?, 1.0);
    assert!(value(&after, "etcd_server_health_success", &[])? >= 1.0, "the start waited for it");
    assert!(!after.contains_key("grpc_server_handling_seconds"), "only where asked for");
    drop(watch);
    wait::eventually("the watch is gone", PATIENCE, || async {
        let now = scrape(member.client_port())?;
        ensure!(value(&now, "etcd_debugging_mvcc_watcher_total", &[])? == 0.0, "watchers");
        ensure!(value(&now, "etcd_debugging_mvcc_watch_stream_total", &[])? == 0.0, "streams");
        let gone = [("grpc_code", "Canceled"), watching[0], watching[1]];
        ensure!(value(&now, "grpc_server_handled_total", &gone)? == 1.0, "its end");
        Ok(())
    })
    .await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_urls_serve_metrics_and_health_also_without_a_quorum() -> Result<()> {
    let port = Port::claim()?;
    let flag = format!("--listen-metrics-urls=http://127.0.0.1:{}", port.number);
    let mut cluster = Cluster::prepare(Options::candidate(3)?)?;
    cluster.members[0].add_flag(flag);
    cluster.members[0].start()?;
    let mut http = Http::new(port.number);
    wait::eventually("the metrics URL answers", PATIENCE, || async {
        Http::new(port.number).get("/livez").map(drop)
    })
    .await?;
    let answer = http.get("/health")?;
    let reason = "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n";
    assert_eq!((answer.status, answer.text().as_str()), (503, reason));
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(http.get("/livez?verbose")?.text(), "[+]serializable_read ok\nok\n");
    for path in ["/version", "/v3/kv/put", "/debug/vars", "/"] {
        let answer = http.get(path)?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (404, "404 page not found\n"),
            "{path}"
        );
    }
    assert_eq!(http.call("POST", "/health", b"")?.status, 405);
    let families = scrape(port.number)?;
    assert_eq!(value(&families, "etcd_server_has_leader", &[])?, 0.0);
    assert!(value(&families, "etcd_server_health_failures", &[])? >= 1.0);
    let check = [("type", "livez"), ("name", "serializable_read"), ("status", "success")];
    assert!(value(&families, "etcd_server_healthchecks_total", &check)? >= 1.0);
    cluster.restart_missing().await?;
    assert_eq!(http.get("/health")?.status, 200);
    assert_eq!(http.get("/readyz")?.text(), "ok\n");
    let single = http.get("/readyz/non_learner?exclude=non_learner&verbose")?;
    assert_eq!(single.text(), "[+]non_learner ok\nok\n", "not excluded under its own path");
    cluster.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_exist_where_they_are_asked_for() -> Result<()> {
    let plain = Cluster::start(Options::candidate(1)?).await?;
    let mut http = plain.members[0].http();
    let answer = http.get("/debug/vars")?;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let vars = answer.json()?;
    assert_eq!(vars["raft.status"]["raftState"], "StateLeader");
    assert_eq!(vars["raft.status"]["id"], vars["raft.status"]["lead"]);
    assert!(vars["file_descriptor_limit"].as_u64() > Some(0));
    let off = http.get("/debug/pprof/threads")?;
    assert_eq!(off.status, 404);
    assert!(off.text().contains("--enable-pprof"), "{}", off.text());
    assert_eq!(http.get("/debug/requests")?.text(), "404 page not found\n");
    plain.close()?;

    let open = Cluster::start(Options::candidate(1)?.flag("--enable-pprof")).await?;
    let mut http = open.members[0].http();
    for path in ["/debug/pprof", "/debug/pprof/"] {
        let index = http.get(path)?.text();
        assert!(index.contains("/debug/pprof/threads"), "{index}");
    }
    assert!(http.get("/debug/pprof/threads")?.text().contains("tripod-consensu"));
    assert!(http.get("/debug/pprof/heap")?.text().contains("resident_bytes"));
    let missing = http.get("/debug/pprof/profile")?;
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("perf record"), "{}", missing.text());
    open.close()
}
