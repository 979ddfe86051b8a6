//! Programs and libraries that people use today, unchanged, against a cluster of three.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::support::{
    cluster::{Cluster, Options},
    program::{repository, tool},
    wait,
};

/// Limit of one client program.
const PROGRAM_LIMIT: Duration = Duration::from_secs(90);

/// Something that `scripts/setup.sh` put under target/tools.
pub(crate) fn installed(path: &str) -> Result<PathBuf> {
    let full = repository().join("target/tools").join(path);
    ensure!(full.exists(), "{} is missing: run scripts/setup.sh", full.display());
    Ok(full)
}

/// Runs a program to its end; what it printed. Fails with both outputs.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let out = tempfile::NamedTempFile::new()?;
    let err = tempfile::NamedTempFile::new()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.reopen()?)
        .stderr(err.reopen()?)
        .spawn()
        .with_context(|| format!("cannot run {name}: run scripts/setup.sh"))?;
    let status = wait::eventually_blocking(&name, PROGRAM_LIMIT, || {
        child.try_wait()?.context("still running")
    });
    if status.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let printed = std::fs::read_to_string(out.path())?;
    let errors = std::fs::read_to_string(err.path())?;
    let status = status.with_context(|| format!("{printed}{errors}"))?;
    ensure!(status.success(), "{name}: {status}\n{printed}{errors}");
    Ok(printed)
}

async fn with_cluster(check: impl FnOnce(&Cluster) -> Result<()> + Send + 'static) -> Result<()> {
    let cluster = Cluster::start(Options::candidate(3)?).await?;
    let (cluster, result) = tokio::task::spawn_blocking(move || {
        let result = check(&cluster);
        (cluster, result)
    })
    .await?;
    result?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_works() -> Result<()> {
    with_cluster(|cluster| {
        let etcdctl = tool("etcdctl")?;
        let endpoints = cluster.endpoints();
        let ctl = |arguments: &[&str]| {
            let mut command = Command::new(&etcdctl);
            command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoints}"));
            run(command.args(arguments))
        };
        // Command and exactly what it prints.
        let cases: [(&[&str], &str); 16] = [
            (&["put", "foo", "bar"], "OK\n"),
            (&["put", "foo", "baz", "--prev-kv"], "OK\nfoo\nbar\n"),
            (&["get", "foo"], "foo\nbaz\n"),
            (&["get", "foo", "--print-value-only"], "baz\n"),
            (&["get", "missing"], ""),
            (&["put", "k/1", "one"], "OK\n"),
            (&["put", "k/2", "two"], "OK\n"),
            (&["put", "k/3", "three"], "OK\n"),
            (&["get", "--prefix", "k/", "--keys-only"], "k/1\n\nk/2\n\nk/3\n\n"),
            (&["get", "--prefix", "k/", "--order=DESCEND", "--limit=1"], "k/3\nthree\n"),
            (&["get", "--from-key", "k/2", "--print-value-only"], "two\nthree\n"),
            (&["get", "foo", "--rev=2"], "foo\nbar\n"),
            (&["get", "foo", "--consistency=s"], "foo\nbaz\n"),
            (&["del", "k/1"], "1\n"),
            (&["del", "--prefix", "k/", "--prev-kv"], "2\nk/2\ntwo\nk/3\nthree\n"),
            (&["del", "k/1"], "0\n"),
        ];
        for (arguments, want) in cases {
            let printed = ctl(arguments)?;
            ensure!(printed == want, "etcdctl {arguments:?} prints {printed:?}, not {want:?}");
        }
        // Command and a part of what it prints.
        let lease = ctl(&["lease", "grant", "60"])?;
        let lease = lease.split(' ').nth(1).context("lease ID granted with TTL(60s)")?.to_owned();
        let parts: [(&[&str], &str); 10] = [
            (&["put", "leased", "x", "--lease", &lease], "OK"),
            (&["lease", "timetolive", &lease, "--keys"], "attached keys([leased])"),
            (&["lease", "keep-alive", "--once", &lease], "keepalived with TTL(60)"),
            (&["lease", "list"], &lease),
            (&["lease", "revoke", &lease], "revoked"),
            (&["member", "list"], "started, m1"),
            (&["endpoint", "status"], "127.0.0.1"),
            (&["endpoint", "hashkv"], "127.0.0.1"),
            (&["alarm", "list"], ""),
            (&["compaction", "5"], "compacted revision 5"),
        ];
        for (arguments, want) in parts {
            let printed = ctl(arguments)?;
            ensure!(
                printed.contains(want),
                "etcdctl {arguments:?} prints {printed:?}, no {want:?}"
            );
        }
        ensure!(ctl(&["get", "leased"])?.is_empty(), "the revoked lease left its key");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_transactions_and_watches_work() -> Result<()> {
    with_cluster(|cluster| {
        let etcdctl = tool("etcdctl")?;
        let script = r#"
            set -euo pipefail
            "$CTL" put foo 1 >/dev/null
            printf 'value("foo") = "1"\n\nput foo 2\nget foo\n\nget foo\n\n' | "$CTL" txn
            printf 'value("foo") = "1"\n\nput foo 3\n\nget foo\n\n' | "$CTL" txn
            "$CTL" watch --rev=2 foo > "$OUT" & watcher=$!
            trap 'kill $watcher 2>/dev/null || true' EXIT
            for _ in $(seq 200); do [ "$(wc -l < "$OUT")" -ge 6 ] && break; sleep 0.05; done
            cat "$OUT"
        "#;
        let out = tempfile::NamedTempFile::new()?;
        let printed = run(Command::new("bash")
            .args(["-c", script])
            .env("CTL", &etcdctl)
            .env("OUT", out.path())
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", cluster.endpoints()))?;
        let want = "SUCCESS\n\nOK\n\nfoo\n2\nFAILURE\n\nfoo\n2\nPUT\nfoo\n1\nPUT\nfoo\n2\n";
        ensure!(printed == want, "printed {printed:?}, not {want:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_etcd_client_crate_works() -> Result<()> {
    with_cluster(|cluster| {
        let program = installed("rust-client/debug/etcd-client-smoke")?;
        run(Command::new(program).arg(cluster.endpoints())).map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_clients_work() -> Result<()> {
    with_cluster(|cluster| {
        let python = installed("python/bin/python")?;
        for script in ["etcd3gw_smoke.py", "etcd3_smoke.py"] {
            let port = cluster.members[1].client_port().to_string();
            let script = repository().join("tests/clients").join(script);
            run(Command::new(&python).arg(script).args(["127.0.0.1", &port]))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_client_works() -> Result<()> {
    with_cluster(|cluster| {
        let modules = installed("node/node_modules")?;
        run(Command::new("node")
            .env("NODE_PATH", modules)
            .arg(repository().join("tests/clients/etcd3_smoke.js"))
            .arg(cluster.endpoints()))
        .map(drop)
    })
    .await
}
