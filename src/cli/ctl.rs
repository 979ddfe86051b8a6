//! `tripod ctl`: etcdctl's commands over gRPC, for any etcd-compatible server.
//!
//! Arguments, output and exit codes are those of etcdctl 3.5 (`scripts/ctl-diff.sh` compares the
//! two). What differs on purpose: flag mistakes are explained by our own help text, and where
//! etcdctl panics there is a message.
//! Source: etcdctl 3.5.1, observed.

mod args;
mod auth;
mod check;
mod client;
mod concurrency;
mod dial;
mod discover;
mod endpoint;
mod exit;
mod go;
mod kv;
mod lease;
mod member;
mod mirror;
mod password;
mod print;
mod snapshot;
mod txn;
mod watch;

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, ValueEnum as _};

use self::{
    args::{Command, Ctl, Format, SnapshotCommand},
    client::Client,
    exit::{BAD_FEATURE, Exit, FAILED},
    print::{Answer, Style},
};
use super::{runtime, version};

/// What every command works with.
struct Session {
    client: Client,
    style: Style,
}

impl Session {
    /// Prints an answer.
    fn show(&self, answer: &Answer<'_>) -> Result<(), Exit> {
        write(&self.style.print(answer)?)
    }
}

/// Writes to standard output. A reader that has gone ends the command quietly, as a pipe would.
fn write(bytes: &[u8]) -> Result<(), Exit> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|_| Exit::silent(FAILED))
}

/// Runs a command. `program` is how help calls it, `args` are the arguments behind it.
pub(super) fn run(program: &'static str, args: &[OsString]) -> ExitCode {
    let (normalized, secure) = args::normalize(args.iter().cloned());
    let separator_last = normalized.last().is_some_and(|arg| arg == "--");
    let name = std::iter::once(OsString::from(program));
    let parsed = Ctl::command()
        .name(program)
        .bin_name(program)
        .try_get_matches_from(name.chain(normalized))
        .and_then(|matches| Ctl::from_arg_matches(&matches));
    let ctl = match parsed {
        Ok(ctl) => ctl,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    let done = match runtime() {
        Ok(runtime) => runtime.block_on(dispatch(ctl, secure, separator_last)),
        Err(error) => Err(Exit::new(FAILED, error.to_string())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit { code, message }) => {
            if !message.is_empty() {
                eprintln!("Error: {message}");
            }
            ExitCode::from(code)
        }
    }
}

async fn dispatch(ctl: Ctl, secure: bool, separator_last: bool) -> Result<(), Exit> {
    let Ctl { mut global, command } = ctl;
    if matches!(command, Command::Version) {
        let text = format!("etcdctl version: {}\nAPI version: 3.6\n", version::ETCD_VERSION);
        return write(text.as_bytes());
    }
    let format = Format::from_str(&global.write_out, false)
        .map_err(|_| Exit::new(BAD_FEATURE, "unsupported output format"))?;
    let style = Style { format, hex: global.hex, value_only: false };
    if let Command::Snapshot(command) = &command
        && let Some(done) = snapshot::run_offline(style, command)
    {
        return done;
    }
    Box::pin(discover::endpoints(&mut global)).await?;
    let session = Session { client: Client::new(&global, secure)?, style };
    match command {
        Command::Put(args) => kv::put(&session, args).await,
        Command::Get(args) => kv::get(&session, args).await,
        Command::Del(args) => kv::del(&session, args).await,
        Command::Txn(args) => txn::run(&session, args).await,
        Command::Watch(args) => watch::run(&session, args, separator_last).await,
        Command::Lease(command) => lease::run(&session, command).await,
        Command::Member(command) => member::run(&session, command).await,
        Command::Auth(command) => auth::switch(&session, command).await,
        Command::User(command) => auth::user(&session, command).await,
        Command::Role(command) => auth::role(&session, command).await,
        Command::Endpoint(args) => endpoint::run(&session, &global, args).await,
        Command::Check(command) => check::run(&session, &global, secure, command).await,
        Command::Compaction(args) => kv::compact(&session, args).await,
        Command::Alarm(command) => endpoint::alarms(&session, command).await,
        Command::Defrag(args) => endpoint::defrag(&session, &global, args).await,
        Command::Snapshot(SnapshotCommand::Save(args)) => {
            snapshot::save(&session.client, &global, &args.args).await
        }
        // Done above.
        Command::Snapshot(_) => Ok(()),
        Command::MakeMirror(args) => mirror::run(&session, &global, args).await,
        Command::MoveLeader(args) => member::move_leader(&session, &global, &args).await,
        Command::Lock(args) => concurrency::lock(&session, args).await,
        Command::Elect(args) => concurrency::elect(&session, args).await,
        Command::Version => Ok(()),
    }
}
