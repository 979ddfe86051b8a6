//! Clusters whose members and clients speak TLS, driven by real clients.

use std::{path::Path, process::Command, sync::Arc};

use anyhow::{Result, ensure};
use tripod::tls::{Connector, Settings, Trust};

use crate::{
    clients::run,
    support::{
        cluster::{Cluster, Options},
        program::tool,
        tls::Certificates,
        wait,
    },
};

/// What `curl` gets for a put of foo over one version of HTTP.
fn curl(url: &str, version: &str, flags: &[String]) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10", version]).args(flags);
    command.args(["--write-out", " %{http_code} %{http_version}"]);
    command.args(["--data", r#"{"key":"Zm9v","value":"YmFy"}"#]);
    run(command.arg(format!("{url}/v3/kv/put")))
}

fn check_clients(cluster: &Cluster, ctl_flags: &[String], curl_flags: &[String]) -> Result<()> {
    let etcdctl = tool("etcdctl")?;
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new(&etcdctl);
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", cluster.endpoints()));
        run(command.args(ctl_flags).args(arguments))
    };
    let printed = ctl(&["put", "foo", "bar"])?;
    ensure!(printed == "OK\n", "etcdctl put prints {printed:?}");
    let printed = ctl(&["get", "foo"])?;
    ensure!(printed == "foo\nbar\n", "etcdctl get prints {printed:?}");
    for member in &cluster.members {
        for (version, number) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let printed = curl(&member.client_url(), version, curl_flags)?;
            ensure!(printed.ends_with(&format!(" 200 {number}")), "curl {version}: {printed}");
        }
        let ours = run(Command::new(env!("CARGO_BIN_EXE_tripod"))
            .arg("ctl")
            .arg(format!("--endpoints={}", member.client_url()))
            .args(ctl_flags)
            .args(["get", "foo", "--print-value-only"]))?;
        ensure!(ours == "bar\n", "tripod ctl get prints {ours:?}");
    }
    Ok(())
}

pub(crate) fn client_flags(certificates: &Certificates, user: &str) -> Vec<String> {
    [("cacert", "ca".to_owned()), ("cert", user.to_owned()), ("key", format!("{user}-key"))]
        .iter()
        .flat_map(|(flag, file)| [format!("--{flag}"), certificates.text(file)])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_with_mutual_tls_serve_etcdctl_and_curl() -> Result<()> {
    let certificates = Certificates::make()?;
    let mut options = Options::candidate(3)?;
    options.tls = Some(certificates.connector(Some("root"))?);
    options.flags = certificates.flags();
    let cluster = Cluster::start(options).await?;
    let cluster = tokio::task::spawn_blocking(move || -> Result<Cluster> {
        let flags = client_flags(&certificates, "root");
        check_clients(&cluster, &flags, &flags)?;
        let url = cluster.members[0].client_url();
        let bare = ["--cacert".to_owned(), certificates.text("ca")];
        let refused = curl(&url, "--http1.1", &bare);
        ensure!(refused.is_err(), "let in without a certificate: {refused:?}");
        Ok(cluster)
    })
    .await??;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_with_generated_certificates_keep_them_over_a_restart() -> Result<()> {
    let mut options = Options::candidate(3)?.flag("--auto-tls").flag("--peer-auto-tls");
    let settings = Settings::default();
    options.tls = Some(Arc::new(Connector::new(settings, Trust::Anyone)?));
    let mut cluster = Cluster::start(options).await?;
    let files = |data: &Path| {
        ["client/cert.pem", "client/key.pem", "peer/cert.pem", "peer/key.pem"]
            .map(|file| std::fs::read(data.join("fixtures").join(file)).unwrap_or_default())
    };
    let before = files(&cluster.members[0].data_dir);
    ensure!(before.iter().all(|bytes| !bytes.is_empty()), "certificates are generated");
    let mut cluster = tokio::task::spawn_blocking(move || -> Result<Cluster> {
        let ctl = ["--insecure-transport=false", "--insecure-skip-tls-verify"];
        check_clients(&cluster, &ctl.map(str::to_owned), &["--insecure".to_owned()])?;
        cluster.members[0].stop()?;
        Ok(cluster)
    })
    .await??;
    cluster.restart_missing().await?;
    ensure!(files(&cluster.members[0].data_dir) == before, "a restart keeps them");
    cluster.close()
}

/// Consul CVE-2021-37219: any certificate of the authority could speak Raft. Here a member dials
/// with a user's certificate: the authority signed it, but it is for no member's host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_the_authority_that_is_no_members_cannot_speak_raft() -> Result<()> {
    let certificates = Certificates::make()?;
    let mut options = Options::candidate(3)?;
    options.tls = Some(certificates.connector(Some("root"))?);
    options.flags = certificates.flags();
    let mut cluster = Cluster::prepare(options)?;
    let impostor = &mut cluster.members[2];
    impostor.add_flag(format!("--peer-client-cert-file={}", certificates.text("eve")));
    impostor.add_flag(format!("--peer-client-key-file={}", certificates.text("eve-key")));
    for member in &mut cluster.members {
        member.start()?;
    }
    let limit = crate::support::cluster::START_LIMIT;
    for member in &mut cluster.members[..2] {
        member.healthy_within(limit).await?;
    }
    wait::eventually("the impostor is refused", limit, || async {
        let refused = cluster.members[..2]
            .iter()
            .any(|member| member.log().contains("is not for a host of the peer URLs"));
        ensure!(refused, "nobody was refused");
        Ok(())
    })
    .await?;
    cluster.close()
}

/// A member that joins asks who is there by the same certificates as it speaks Raft with, and is
/// let in only with a certificate of a member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_joins_over_mutual_tls_and_not_without_a_members_certificate() -> Result<()> {
    let certificates = Certificates::make()?;
    let mut options = Options::candidate(3)?;
    options.tls = Some(certificates.connector(Some("root"))?);
    options.flags = certificates.flags();
    let mut cluster = Cluster::start(options).await?;
    let index = cluster.newcomer()?;
    let (name, url) = (cluster.members[index].name.clone(), cluster.members[index].peer_url());
    let added = run(Command::new(env!("CARGO_BIN_EXE_tripod"))
        .arg("ctl")
        .arg(format!("--endpoints={}", cluster.members[0].client_url()))
        .args(client_flags(&certificates, "root"))
        .args(["member", "add", &name, &format!("--peer-urls={url}")]))?;
    ensure!(added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""), "{added}");

    // With a certificate of the authority that is for no member's host.
    let eve = [
        format!("--peer-client-cert-file={}", certificates.text("eve")),
        format!("--peer-client-key-file={}", certificates.text("eve-key")),
    ];
    for flag in &eve {
        cluster.members[index].add_flag(flag.clone());
    }
    let limit = crate::support::cluster::START_LIMIT;
    cluster.members[index].start()?;
    let status = cluster.members[index].exit_within(limit)?;
    let said = cluster.members[index].log();
    ensure!(status.code() == Some(1), "it ended with {status}");
    ensure!(said.contains("certificate is not for a host of the cluster"), "{said}");
    ensure!(
        cluster.members.iter().any(|member| {
            member.log().contains("its certificate is not for a host of the peer URLs")
        }),
        "the members say whom they refused"
    );

    // With one of another authority.
    for flag in &eve {
        cluster.members[index].remove_flag(flag);
    }
    let others = Certificates::make()?;
    let foreign = [
        format!("--peer-client-cert-file={}", others.text("member")),
        format!("--peer-client-key-file={}", others.text("member-key")),
    ];
    for flag in &foreign {
        cluster.members[index].add_flag(flag.clone());
    }
    cluster.members[index].start()?;
    let status = cluster.members[index].exit_within(limit)?;
    let said = cluster.members[index].log();
    ensure!(status.code() == Some(1), "it ended with {status}");
    ensure!(said.contains("could not retrieve cluster information"), "{said}");
    ensure!(said.contains("received fatal alert"), "{said}");

    for flag in &foreign {
        cluster.members[index].remove_flag(flag);
    }
    cluster.members[index].start()?;
    cluster.healthy().await?;
    cluster.close()
}
