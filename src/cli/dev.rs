//! `tripod dev`: three members on loopback in one process, to try things out.
//!
//! Ports and directory are fixed, so that a restart finds its data and a pasted command works.

use std::{io::Write as _, net::TcpListener, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};

use super::{
    EXIT_FAILURE, EXIT_USAGE, logging, runtime,
    signals::StopSignals,
    start::{self, Running},
};
use crate::config::{Config, LogFormat, LogLevel, LogOutputs};

/// Members of the cluster.
const MEMBERS: u16 = 3;
/// Distance of one member's ports from the next one's: 2379, 22379, 32379 are etcd's customary
/// ports for a local cluster.
const PORT_STEPS: [u16; MEMBERS as usize] = [0, 20_000, 30_000];
/// Client port of the first member; its peer port is the next one.
const DEFAULT_BASE_PORT: u16 = 2379;
/// Largest base port whose last member's peer port still exists.
const BASE_PORT_MAX: u16 = u16::MAX - PORT_STEPS[2] - 1;
/// Log files of the members go beside their data.
const LOG_FILE: &str = "tripod.log";

/// Arguments of `dev`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DevArgs {
    /// Directory of all members' data
    #[arg(long, value_name = "DIR", default_value = "tripod-data")]
    data_dir: PathBuf,
    /// Client port of the first member; the others are 20000 and 30000 above, peer ports one more
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_BASE_PORT,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(BASE_PORT_MAX)))]
    base_port: u16,
    /// Write log lines to the terminal instead of DIR/tripod.log
    #[arg(long)]
    verbose: bool,
}

/// Runs the cluster until Ctrl-C.
pub(crate) fn run(args: DevArgs) -> ExitCode {
    match runtime().and_then(|runtime| runtime.block_on(serve(&args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<PortTaken>() => {
            eprintln!("{error}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// A fixed port is not free.
#[derive(Debug, thiserror::Error)]
#[error(
    "port {port} on 127.0.0.1 is taken ({reason}): is another cluster or etcd running? \
     Choose other ports with --base-port, for example --base-port {suggestion}"
)]
struct PortTaken {
    port: u16,
    reason: std::io::Error,
    suggestion: u16,
}

async fn serve(args: &DevArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    check_ports(args.base_port)?;
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("cannot create {}", args.data_dir.display()))?;
    let outputs = if args.verbose {
        LogOutputs::default()
    } else {
        LogOutputs::parse(&args.data_dir.join(LOG_FILE).display().to_string())
    };
    logging::init(LogLevel::Info, LogFormat::Json, &outputs).context("cannot open the log")?;
    // All at once: a member serves only when a quorum runs.
    let starting = futures::future::try_join_all(configs(args)?.into_iter().map(start::member));
    let members = tokio::select! {
        members = starting => members?,
        _ = signals.wait() => return Ok(()),
    };
    say(&banner(args));
    let failures = members.iter().map(|member| Box::pin(member.failed()));
    let failed = tokio::select! {
        _ = signals.wait() => None,
        (error, ..) = futures::future::select_all(failures) => Some(error),
    };
    say("stopping\n");
    let all = futures::future::join_all(members.into_iter().map(Running::shutdown));
    signals.abortable(async { drop(all.await) }).await;
    match failed {
        Some(error) => bail!(error.context("a member failed")),
        None => Ok(()),
    }
}

fn say(text: &str) {
    // Without a reader there is nobody to tell.
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Finds a taken port before any member starts, to name it together with the way out.
fn check_ports(base_port: u16) -> Result<(), PortTaken> {
    for step in PORT_STEPS {
        for port in [base_port + step, base_port + step + 1] {
            if let Err(reason) = TcpListener::bind(("127.0.0.1", port)) {
                let suggestion = if base_port == 12_379 { 13_379 } else { 12_379 };
                return Err(PortTaken { port, reason, suggestion });
            }
        }
    }
    Ok(())
}

fn client_url(args: &DevArgs, step: u16) -> String {
    format!("http://127.0.0.1:{}", args.base_port + step)
}

/// The members' configurations: `tripod1` to `tripod3`.
fn configs(args: &DevArgs) -> anyhow::Result<Vec<Config>> {
    let peer_url = |step: u16| format!("http://127.0.0.1:{}", args.base_port + step + 1);
    let members = || (1..).zip(PORT_STEPS);
    let cluster: Vec<String> =
        members().map(|(n, step)| format!("tripod{n}={}", peer_url(step))).collect();
    let cluster = cluster.join(",").parse()?;
    members()
        .map(|(n, step)| {
            let mut config = Config {
                name: format!("tripod{n}"),
                data_dir: args.data_dir.join(format!("tripod{n}")),
                listen_client_urls: client_url(args, step).parse()?,
                advertise_client_urls: client_url(args, step).parse()?,
                listen_peer_urls: peer_url(step).parse()?,
                initial_advertise_peer_urls: peer_url(step).parse()?,
                initial_cluster: std::clone::Clone::clone(&cluster),
                initial_cluster_token: "tripod-dev".to_owned(),
                ..Config::default()
            };
            config.complete();
            config.validate()?;
            Ok(config)
        })
        .collect()
}

/// What to know and paste.
fn banner(args: &DevArgs) -> String {
    let urls: Vec<String> = PORT_STEPS.iter().map(|step| client_url(args, *step)).collect();
    let (first, all) = (&urls[0], urls.join(","));
    let data = args.data_dir.display();
    let list = urls.join("\n  ");
    // Zm9v is foo, YmFy is bar: keys and values are base64 in etcd's JSON.
    format!(
        "Three members are ready, data in {data}:\n  {list}\n\nTry:\n  \
         curl {first}/v3/kv/put -d '{{\"key\":\"Zm9v\",\"value\":\"YmFy\"}}'\n  \
         curl {first}/v3/kv/range -d '{{\"key\":\"Zm9v\"}}'\n  \
         etcdctl --endpoints={all} get foo\n\nCtrl-C stops them; the data stays.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(base_port: u16) -> DevArgs {
        DevArgs { data_dir: "data".into(), base_port, verbose: false }
    }

    #[test]
    fn the_three_members_know_each_other_and_are_valid() {
        let configs = configs(&args(2379)).unwrap();
        let clients: Vec<String> =
            configs.iter().map(|config| config.listen_client_urls.to_string()).collect();
        assert_eq!(
            clients,
            ["http://127.0.0.1:2379", "http://127.0.0.1:22379", "http://127.0.0.1:32379"]
        );
        for config in &configs {
            config.validate_bootstrap().unwrap();
            assert_eq!(config.initial_cluster, configs[0].initial_cluster);
        }
    }

    #[test]
    fn a_taken_port_is_named_with_the_way_out() {
        let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        // A base port whose later ports would pass the end has no cluster to check.
        let Some(base_port) = [0, 20_000, 30_000]
            .into_iter()
            .filter_map(|step| port.checked_sub(step))
            .find(|base| (1..=BASE_PORT_MAX).contains(base))
        else {
            return;
        };
        let error = check_ports(base_port).unwrap_err().to_string();
        assert!(error.contains("is taken") && error.contains("--base-port"), "{error}");
    }

    #[test]
    fn the_banner_has_all_endpoints_and_lines_to_paste() {
        let text = banner(&args(2379));
        for part in [
            "http://127.0.0.1:32379",
            "curl http://127.0.0.1:2379/v3/kv/put -d '{\"key\":\"Zm9v\",\"value\":\"YmFy\"}'",
            "etcdctl --endpoints=http://127.0.0.1:2379,http://127.0.0.1:22379,http://127.0.0.1:32379 get foo",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
