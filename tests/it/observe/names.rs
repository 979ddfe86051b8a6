//! Dashboard, alerts and the list of metrics name what a member exports, and all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{PATIENCE, parser::Families, scrape, value};
use crate::support::{
    cluster::{Cluster, Options},
    program::repository,
    wait,
};

/// What our metric names begin with.
const PREFIXES: [&str; 5] = ["etcd_", "grpc_server_", "process_", "os_fd_", "tripod_"];

fn read(name: &str) -> Result<String> {
    fs::read_to_string(repository().join("docs").join(name)).with_context(|| name.to_owned())
}

/// The metric names in a PromQL expression.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c: char| !is_inside(c));
    let is_metric = |word: &&str| PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    words.filter(is_metric).map(str::to_owned).collect()
}

/// Every text under the key `expr`.
fn expressions(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            for (name, inner) in fields {
                match inner {
                    Value::String(text) if name == "expr" => found.push(text.clone()),
                    inner => expressions(inner, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// Names a query may use: families, and the samples of histograms.
fn exported(families: &Families) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (name, family) in families {
        names.extend(family.samples.iter().map(|sample| sample.name.clone()));
        if family.kind != "histogram" {
            names.insert(name.clone());
        }
    }
    names
}

/// Names and kinds in the tables of `docs/metrics.md`; and names listed as missing.
fn documented() -> Result<(BTreeMap<String, String>, BTreeSet<String>)> {
    let (mut present, mut missing) = (BTreeMap::new(), BTreeSet::new());
    let text = read("metrics.md")?;
    let (list, rest) = text.split_once("## Left out").context("no list of what is left out")?;
    for line in list.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next().context("no name")?.trim_matches('`').to_owned();
        let kind = cells.next().context("no kind")?.to_owned();
        ensure!(cells.next().is_some_and(|meaning| !meaning.is_empty()), "{name} has no meaning");
        ensure!(present.insert(name.clone(), kind).is_none(), "{name} is listed twice");
    }
    for word in rest.split('`').skip(1).step_by(2) {
        missing.insert(word.to_owned());
    }
    Ok((present, missing))
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_name_what_members_export_and_all_of_it() -> Result<()> {
    let options = Options::candidate(3)?.flag("--metrics=extensive");
    let cluster = Cluster::start(options).await?;
    let all = wait::eventually("every member has probed both others", PATIENCE, || async {
        let mut all = Vec::new();
        for member in &cluster.members {
            let families = scrape(member.client_port())?;
            let peers = &families["etcd_network_active_peers"].samples;
            ensure!(peers.len() == 2 && peers.iter().all(|peer| peer.value == 1.0), "{peers:?}");
            for peer in peers {
                let to = [("To", peer.labels["Remote"].as_str())];
                let name = "etcd_network_peer_round_trip_time_seconds_count";
                ensure!(value(&families, name, &to)? >= 1.0, "no round trip {to:?}");
                ensure!(value(&families, "etcd_network_peer_sent_bytes_total", &to)? > 0.0);
            }
            all.push(families);
        }
        Ok(all)
    })
    .await?;
    for families in &all {
        let names = exported(families);
        for document in ["alerts.yaml", "grafana-dashboard.json"] {
            let text = read(document)?;
            let parsed: Value = match document.ends_with("yaml") {
                true => serde_saphyr::from_str(&text)?,
                false => serde_json::from_str(&text)?,
            };
            let mut found = Vec::new();
            expressions(&parsed, &mut found);
            ensure!(found.len() > 10, "{document} has few expressions: {found:?}");
            let used: BTreeSet<String> = found.iter().flat_map(|expr| metrics_in(expr)).collect();
            let unknown: Vec<_> = used.difference(&names).collect();
            assert!(unknown.is_empty(), "{document} uses {unknown:?}");
        }
        let (present, missing) = documented()?;
        let kinds: BTreeMap<String, String> =
            families.iter().map(|(name, family)| (name.clone(), family.kind.clone())).collect();
        for (name, kind) in &kinds {
            assert_eq!(present.get(name), Some(kind), "{name} in docs/metrics.md");
        }
        let gone: Vec<_> = present.keys().filter(|name| !kinds.contains_key(*name)).collect();
        assert!(gone.is_empty(), "documented and not exported: {gone:?}");
        let there: Vec<_> = missing.iter().filter(|name| kinds.contains_key(*name)).collect();
        assert!(there.is_empty(), "listed as left out, and exported: {there:?}");
    }
    let leaders = all.iter().map(|families| value(families, "etcd_server_is_leader", &[]));
    assert_eq!(leaders.sum::<Result<f64>>()?, 1.0);
    cluster.close()
}

#[test]
fn metric_names_are_found_in_expressions() {
    let found = metrics_in(r#"sum by (le) (rate(etcd_a_bucket{job="x"}[5m])) / tripod_b > up"#);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["etcd_a_bucket", "tripod_b"]);
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() -> Result<()> {
    let rules: Value = serde_saphyr::from_str(&read("alerts.yaml")?)?;
    let rules = rules["groups"][0]["rules"].as_array().context("no rules")?;
    let mut names = BTreeSet::new();
    for rule in rules {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&rule["alert"]);
        ensure!(names.insert(name.clone()), "{name} twice");
        let severity = text(&rule["labels"]["severity"]);
        ensure!(["warning", "critical"].contains(&severity.as_str()), "{name}: {severity:?}");
        for part in ["summary", "description"] {
            ensure!(!text(&rule["annotations"][part]).is_empty(), "{name} has no {part}");
        }
    }
    Ok(())
}
