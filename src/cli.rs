//! The command line: `serve`, `dev`, `ctl`, `bench`, `certs` and `snapshot`.
//!
//! Called as `etcd` the program is `tripod serve`, called as `etcdctl` or `etcdutl` it is
//! `tripod ctl`, so a link of that name stands in for each.
//!
//! Exit codes: 0 done, or stopped by a signal; 1 the work failed; 2 the command line,
//! environment or configuration file cannot be used; 128 plus the signal's number when a second
//! signal cut a stop short.

pub mod bench;
mod certs;
mod ctl;
mod dev;
mod dns;
mod flags;
mod logging;
mod serve;
mod signals;
mod start;
mod version;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

pub use version::ETCD_VERSION;

/// The work failed.
const EXIT_FAILURE: u8 = 1;
/// The command line cannot be used.
const EXIT_USAGE: u8 = 2;

/// An etcd-compatible key-value store. Without a command: a three-member cluster for development
#[derive(Debug, Parser)]
#[command(name = "tripod", version = version::tripod_text(), args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    dev: dev::DevArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one member with etcd's flags (see 'tripod serve --help')
    #[command(disable_help_flag = true)]
    Serve {
        /// etcd's flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a three-member cluster in this process, for development
    Dev(dev::DevArgs),
    Bench(bench::BenchArgs),
    /// Make and show certificates of a cluster
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Save, inspect and restore snapshots in etcd's format (see 'tripod snapshot --help')
    #[command(disable_help_flag = true)]
    Snapshot {
        /// 'save', 'status' or 'restore' and their flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Talk to a server with etcdctl's commands (see 'tripod ctl --help')
    #[command(disable_help_flag = true)]
    Ctl {
        /// etcdctl's commands and flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Runs the program with its arguments, the first being its name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let called_as = args.first().and_then(|path| Path::new(path).file_name()?.to_str());
    // Before anything else: its keys and values are any bytes.
    match (called_as, args.get(1).and_then(|arg| arg.to_str())) {
        (Some("etcdutl"), _) => return ctl::run("etcdutl", &args[1..]),
        (Some("etcdctl"), _) => return ctl::run("etcdctl", &args[1..]),
        (Some("etcd"), _) => {}
        (_, Some("ctl")) => return ctl::run("tripod ctl", &args[2..]),
        (_, Some("snapshot")) => return ctl::run("tripod", &args[1..]),
        _ => {}
    }
    let mut texts = Vec::new();
    for arg in args.iter().cloned() {
        match arg.into_string() {
            Ok(text) => texts.push(text),
            Err(arg) => {
                eprintln!("argument {} is not UTF-8", arg.display());
                return ExitCode::from(EXIT_USAGE);
            }
        }
    }
    match (called_as, texts.get(1).map(String::as_str)) {
        (Some("etcd"), _) => return serve::run("etcd", &texts[1..]),
        // Before clap, which would read Go's single-dash flags as bundles of letters.
        (_, Some("serve")) => return serve::run("tripod serve", &texts[2..]),
        _ => {}
    }
    let cli = match Cli::try_parse_from(&texts) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match cli.command {
        None => dev::run(cli.dev),
        Some(Command::Dev(args)) => dev::run(args),
        Some(Command::Bench(args)) => match bench::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::from(EXIT_FAILURE)
            }
        },
        Some(Command::Certs(command)) => certs::run(&command),
        // Done above.
        Some(Command::Snapshot { .. }) => ExitCode::from(EXIT_USAGE),
        Some(Command::Ctl { args }) => ctl::run("tripod ctl", &args),
        Some(Command::Serve { args }) => serve::run("tripod serve", &args),
    }
}

/// The runtime of the main thread: signals, start and stop. Members bring their own threads.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
