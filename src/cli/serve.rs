//! `tripod serve`: one member with etcd's flags, environment and file.

use std::{
    io::Write as _,
    net::{IpAddr, UdpSocket},
    process::ExitCode,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    EXIT_FAILURE, EXIT_USAGE, dns,
    flags::{self, Notice, Parsed},
    logging, runtime,
    signals::StopSignals,
    start::{self, Running},
    version,
};
use crate::config::Config;

/// Runs `serve` with `args`, the arguments behind the command. `program` is how help calls it.
pub(crate) fn run(program: &str, args: &[String]) -> ExitCode {
    match flags::parse_on(args, std::env::vars_os().filter_map(utf8), default_host) {
        Ok(Parsed::Run(mut config, notices)) => match dns::resolver() {
            Ok(resolver) => {
                config.dns_resolver = resolver;
                run_member(*config, &notices)
            }
            Err(why) => {
                eprintln!("{why}");
                ExitCode::from(EXIT_USAGE)
            }
        },
        Ok(Parsed::Help) => print(&flags::usage(program)),
        Ok(Parsed::Version) => print(&version::etcd_text()),
        Err(error) => {
            eprintln!("{:#}\nRun '{program} --help' for the flags.", anyhow::Error::from(error));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Variables that are no UTF-8 cannot be ours.
fn utf8((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// The address that this machine's packets to the world come from: etcd's default host. A
/// connected UDP socket has one, without a packet being sent.
fn default_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    // Documentation's address: routed by default, answered by nobody.
    socket.connect(("192.0.2.1", 9)).ok()?;
    let host = socket.local_addr().ok()?.ip();
    (!host.is_unspecified()).then_some(host)
}

fn print(text: &str) -> ExitCode {
    // A closed pipe behind `--help | head` is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn run_member(config: Config, notices: &[Notice]) -> ExitCode {
    if let Err(error) = logging::init(config.log_level, config.log_format, &config.log_outputs) {
        eprintln!("cannot open the log: {error}");
        return ExitCode::from(EXIT_USAGE);
    }
    for Notice(text) in notices {
        tracing::warn!("{text}");
    }
    raise_file_limit();
    match runtime().and_then(|runtime| runtime.block_on(serve(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "member stopped");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Connections are files. The lower limit is there for programs that use `select`; we do not.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Starts the member and keeps it until a signal, or until it fails by itself.
async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let name = config.name.clone();
    tracing::info!(
        name,
        data_dir = %config.data_dir.display(),
        listen_peer_urls = %config.listen_peer_urls,
        listen_client_urls = %config.listen_client_urls,
        advertise_client_urls = %config.advertise_client_urls,
        initial_cluster = %config.initial_cluster,
        version = version::ETCD_VERSION,
        "starting member"
    );
    // In the order in which a member listens.
    let secure: Vec<bool> = [&config.listen_client_urls, &config.listen_client_http_urls]
        .into_iter()
        .flat_map(|urls| urls.iter().map(|url| url.scheme().is_secure()))
        .collect();
    let member = tokio::select! {
        member = start::member(config) => member?,
        signal = signals.wait() => {
            tracing::info!(signal, "stopped before serving");
            return Ok(());
        }
    };
    tracing::info!(name, "ready to serve client requests");
    for (address, secure) in member.client_addrs().iter().zip(secure) {
        if secure {
            tracing::info!(%address, "serving client traffic securely");
        } else {
            tracing::info!(
                %address,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
    }
    tokio::select! {
        signal = signals.wait() => tracing::info!(signal, "stopping"),
        error = member.failed() => return Err(error),
    }
    signals.abortable(member.shutdown()).await;
    tracing::info!(name, "stopped");
    Ok(())
}
