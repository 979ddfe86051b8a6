//! The clients people use, against a cluster of three with TLS and users.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    clients::{installed, run},
    support::{
        cluster::{Cluster, Options},
        program::{repository, tool},
        tls::{Certificates, NAMELESS},
    },
    tls::client_flags,
};

const PASSWORD: &str = "correct horse";

/// The real etcdctl with somebody's certificate.
fn etcdctl(cluster: &Cluster, flags: &[String], arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(tool("etcdctl")?);
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", cluster.endpoints()));
    run(command.args(flags).args(arguments))
}

/// Users root, with a password, and eve, with a certificate alone, who may read `p/`.
fn enable(cluster: &Cluster, root: &[String]) -> Result<()> {
    let add_root = format!("root:{PASSWORD}");
    for arguments in [
        &["user", "add", &add_root][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "eve", "--no-password"],
        &["role", "add", "see"],
        &["role", "grant-permission", "see", "read", "p/", "--prefix"],
        &["user", "grant-role", "eve", "see"],
        &["auth", "enable"],
    ] {
        etcdctl(cluster, root, arguments)?;
    }
    Ok(())
}

fn denied(outcome: Result<String>, text: &str) -> Result<()> {
    let error = outcome.err().with_context(|| format!("allowed, not {text:?}"))?;
    ensure!(error.to_string().contains(text), "{error}, not {text:?}");
    Ok(())
}

/// The name in a certificate is its user over gRPC, and never through the gateway.
fn certificates_are_users(cluster: &Cluster, root: &[String], eve: &[String]) -> Result<()> {
    let none = "permission denied";
    ensure!(etcdctl(cluster, root, &["put", "p/1", "one"])? == "OK\n");
    ensure!(etcdctl(cluster, root, &["put", "q", "two"])? == "OK\n");
    ensure!(etcdctl(cluster, eve, &["get", "p/1"])? == "p/1\none\n");
    denied(etcdctl(cluster, eve, &["put", "p/1", "x"]), none)?;
    denied(etcdctl(cluster, eve, &["get", "q"]), none)?;
    denied(etcdctl(cluster, eve, &["user", "list"]), none)?;
    let (one, dir) = (cluster.members[0].client_url(), tempfile::tempdir()?);
    let file = dir.path().join("snapshot.db").display().to_string();
    let save = run(Command::new(tool("etcdctl")?)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &one])
        .args(eve)
        .args(["snapshot", "save", &file]));
    denied(save, none)?;
    // A token goes before the certificate.
    let user = format!("--user=root:{PASSWORD}");
    ensure!(etcdctl(cluster, eve, &[&user, "put", "p/1", "uno"])? == "OK\n");
    denied(etcdctl(cluster, root, &["--user=root:wrong", "get", "q"]), "authentication failed")?;
    let url = format!("{}/v3/kv/range", cluster.members[0].client_url());
    let answer = run(Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--write-out", " %{http_code}"])
        .args(root)
        .args(["--data", r#"{"key":"cQ=="}"#, &url]))?;
    ensure!(
        answer.contains("CommonName of client sending a request against gateway will be ignored")
            && answer.ends_with(" 400"),
        "{answer}"
    );
    Ok(())
}

fn libraries_work(cluster: &Cluster, certificates: &Certificates) -> Result<()> {
    let run_with = |certificate: &str, command: &mut Command| {
        // These would go before the authority that a program names.
        run(command
            .env_remove("REQUESTS_CA_BUNDLE")
            .env_remove("CURL_CA_BUNDLE")
            .env("SMOKE_CA", certificates.text("ca"))
            .env("SMOKE_CERT", certificates.text(certificate))
            .env("SMOKE_KEY", certificates.text(&format!("{certificate}-key")))
            .env("SMOKE_USER", "root")
            .env("SMOKE_PASSWORD", PASSWORD))
    };
    let scripts = repository().join("tests/clients");
    let rust = installed("rust-client/debug/etcd-client-smoke")?;
    run_with("root", Command::new(rust).arg(cluster.endpoints()))?;
    let python = installed("python/bin/python")?;
    // The gateway refuses a certificate with a name while users are on, as etcd's does.
    for (script, certificate) in [("etcd3gw_smoke.py", NAMELESS), ("etcd3_smoke.py", "root")] {
        let port = cluster.members[1].client_port().to_string();
        let mut command = Command::new(&python);
        run_with(certificate, command.arg(scripts.join(script)).args(["127.0.0.1", &port]))?;
    }
    run_with(
        "root",
        Command::new("node")
            .env("NODE_PATH", installed("node/node_modules")?)
            .arg(scripts.join("etcd3_smoke.js"))
            .arg(cluster.endpoints()),
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_libraries_work_with_tls_and_users() -> Result<()> {
    let certificates = Certificates::make()?;
    let mut options = Options::candidate(3)?.flag("--bcrypt-cost=4");
    options.tls = Some(certificates.connector(Some("root"))?);
    options.flags.extend(certificates.flags());
    let cluster = Cluster::start(options).await?;
    let cluster = tokio::task::spawn_blocking(move || -> Result<Cluster> {
        let (root, eve) = (client_flags(&certificates, "root"), client_flags(&certificates, "eve"));
        enable(&cluster, &root)?;
        certificates_are_users(&cluster, &root, &eve)?;
        libraries_work(&cluster, &certificates)?;
        Ok(cluster)
    })
    .await??;
    cluster.close()
}
