//! etcdctl's commands and flags.
//!
//! Positional arguments are lists, checked by the commands: that gives etcdctl's own messages
//! and its tolerance for extra ones. Booleans are plain switches here; [`normalize`] first turns
//! Go's `--flag=true` and `--flag=false` into them.

mod copies;
mod users;

use std::{ffi::OsString, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(super) use self::{
    copies::{MirrorArgs, RestoreArgs, SnapshotCommand},
    users::{AuthCommand, RoleCommand, UserCommand},
};
use crate::config::duration;

/// A client of any etcd-compatible server
#[derive(Debug, Parser)]
#[command(name = "tripod ctl", args_override_self = true, disable_version_flag = true)]
pub(super) struct Ctl {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Simple,
    Json,
    Fields,
    Table,
    Protobuf,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Json => "json",
            Self::Fields => "fields",
            Self::Table => "table",
            Self::Protobuf => "protobuf",
        }
    }
}

fn go_duration(text: &str) -> Result<Duration, duration::DurationError> {
    duration::parse(text)
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Servers, separated by commas
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379"
    )]
    pub(super) endpoints: Vec<String>,
    /// Output form
    #[arg(short = 'w', long, global = true, env = "ETCDCTL_WRITE_OUT", default_value = "simple")]
    pub(super) write_out: String,
    /// Print bytes as hexadecimal escapes
    #[arg(long, global = true, env = "ETCDCTL_HEX")]
    pub(super) hex: bool,
    /// Time to connect
    #[arg(long, global = true, env = "ETCDCTL_DIAL_TIMEOUT", default_value = "2s",
          value_parser = go_duration, value_name = "TIME")]
    pub(super) dial_timeout: Duration,
    /// Time for a short command
    #[arg(long, global = true, env = "ETCDCTL_COMMAND_TIMEOUT", default_value = "5s",
          value_parser = go_duration, value_name = "TIME")]
    pub(super) command_timeout: Duration,
    /// Silence after which a connection is pinged
    #[arg(long, global = true, env = "ETCDCTL_KEEPALIVE_TIME", default_value = "2s",
          value_parser = go_duration, value_name = "TIME")]
    pub(super) keepalive_time: Duration,
    /// Time a pinged server has to answer
    #[arg(long, global = true, env = "ETCDCTL_KEEPALIVE_TIMEOUT", default_value = "6s",
          value_parser = go_duration, value_name = "TIME")]
    pub(super) keepalive_timeout: Duration,
    /// User as NAME:PASSWORD, or NAME with --password
    #[arg(long, global = true, env = "ETCDCTL_USER", hide_env_values = true, default_value = "")]
    pub(super) user: String,
    /// Password of --user
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_PASSWORD",
        hide_env_values = true,
        default_value = ""
    )]
    pub(super) password: String,
    /// Authorities of the servers' certificates
    #[arg(long, global = true, env = "ETCDCTL_CACERT", default_value = "")]
    pub(super) cacert: String,
    /// Client certificate
    #[arg(long, global = true, env = "ETCDCTL_CERT", default_value = "")]
    pub(super) cert: String,
    /// Private key of --cert
    #[arg(long, global = true, env = "ETCDCTL_KEY", default_value = "")]
    pub(super) key: String,
    /// Speak cleartext (the default); =false to encrypt endpoints without a scheme
    #[arg(long, global = true)]
    pub(super) insecure_transport: bool,
    /// Do not verify the servers' certificates
    #[arg(long, global = true)]
    pub(super) insecure_skip_tls_verify: bool,
    /// Use cleartext servers of DNS records too (the default); =false to leave them out
    #[arg(long, global = true)]
    pub(super) insecure_discovery: bool,
    /// What `--insecure-discovery=false` becomes
    #[arg(long, global = true, hide = true)]
    pub(super) secure_discovery: bool,
    /// Domain whose DNS records name the servers
    #[arg(short = 'd', long, global = true, env = "ETCDCTL_DISCOVERY_SRV", default_value = "")]
    pub(super) discovery_srv: String,
    /// Suffix of the services of --discovery-srv
    #[arg(long, global = true, env = "ETCDCTL_DISCOVERY_SRV_NAME", default_value = "")]
    pub(super) discovery_srv_name: String,
    /// Log of the client library
    #[arg(long, global = true, env = "ETCDCTL_DEBUG", hide = true)]
    pub(super) debug: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Put a key
    Put(PutArgs),
    /// Get a key or range
    Get(GetArgs),
    /// Delete a key or range
    Del(DelArgs),
    /// Run a transaction read from standard input
    Txn(TxnArgs),
    /// Watch a key or range
    Watch(WatchArgs),
    /// Leases
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Members
    #[command(subcommand)]
    Member(MemberCommand),
    /// Authentication
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Users
    #[command(subcommand)]
    User(UserCommand),
    /// Roles
    #[command(subcommand)]
    Role(RoleCommand),
    /// Single servers
    Endpoint(EndpointArgs),
    /// Measure the cluster
    #[command(subcommand)]
    Check(super::check::CheckCommand),
    /// Forget history before a revision
    #[command(alias = "compact")]
    Compaction(CompactionArgs),
    /// Alarms
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Defragment the servers' storage
    Defrag(DefragArgs),
    /// Save, inspect and restore snapshots
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Copy a prefix to another cluster and follow its changes
    MakeMirror(MirrorArgs),
    /// Hand the leadership to another member
    MoveLeader(Positional),
    /// Hold a lock until interrupted, or while a command runs
    Lock(LockArgs),
    /// Lead an election until interrupted, or listen to its leaders
    Elect(ElectArgs),
    /// Print the version
    Version,
}

/// Arguments without flags.
#[derive(Clone, Debug, Args)]
pub(super) struct Positional {
    #[arg(allow_negative_numbers = true, value_name = "ARG")]
    pub(super) args: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct PutArgs {
    /// Key and value; without a value it is read from standard input
    #[arg(value_name = "KEY [VALUE]")]
    pub(super) args: Vec<OsString>,
    /// Lease to attach, in hexadecimal
    #[arg(long, default_value = "0", value_name = "ID")]
    pub(super) lease: String,
    /// Print the pair before the change
    #[arg(long)]
    pub(super) prev_kv: bool,
    /// Keep the value
    #[arg(long)]
    pub(super) ignore_value: bool,
    /// Keep the lease
    #[arg(long)]
    pub(super) ignore_lease: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct GetArgs {
    /// Key, or the range from KEY up to END
    #[arg(value_name = "KEY [END]")]
    pub(super) args: Vec<OsString>,
    /// 'l' reads through the cluster, 's' from one server
    #[arg(long, default_value = "l")]
    pub(super) consistency: String,
    /// ASCEND or DESCEND
    #[arg(long, default_value = "")]
    pub(super) order: String,
    /// CREATE, KEY, MODIFY, VALUE or VERSION
    #[arg(long, default_value = "")]
    pub(super) sort_by: String,
    /// Most pairs to get
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(super) limit: i64,
    /// All keys with this prefix
    #[arg(long)]
    pub(super) prefix: bool,
    /// All keys from this one on
    #[arg(long)]
    pub(super) from_key: bool,
    /// Read as of this revision
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(super) rev: i64,
    /// Leave the values out
    #[arg(long)]
    pub(super) keys_only: bool,
    /// Get the number only
    #[arg(long)]
    pub(super) count_only: bool,
    /// Print values only
    #[arg(long)]
    pub(super) print_value_only: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct DelArgs {
    /// Key, or the range from KEY up to END
    #[arg(value_name = "KEY [END]")]
    pub(super) args: Vec<OsString>,
    /// All keys with this prefix
    #[arg(long)]
    pub(super) prefix: bool,
    /// All keys from this one on
    #[arg(long)]
    pub(super) from_key: bool,
    /// Print what was deleted
    #[arg(long)]
    pub(super) prev_kv: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct TxnArgs {
    #[arg(hide = true)]
    pub(super) args: Vec<String>,
    /// Say what is read next
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true")]
    pub(super) interactive: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct WatchArgs {
    /// Key, or the range from KEY up to END
    #[arg(value_name = "KEY [END]")]
    pub(super) args: Vec<OsString>,
    /// Command to run for each event
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) exec: Vec<OsString>,
    /// Read watch lines from standard input
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true")]
    pub(super) interactive: bool,
    /// All keys with this prefix
    #[arg(long)]
    pub(super) prefix: bool,
    /// First revision
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(super) rev: i64,
    /// Print the pair before each event
    #[arg(long)]
    pub(super) prev_kv: bool,
    /// Print progress notifications
    #[arg(long)]
    pub(super) progress_notify: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct LockArgs {
    /// Name of the lock
    pub(super) name: Option<OsString>,
    /// Command to run while it is held
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<OsString>,
    /// Seconds until the lock is free if this program dies
    #[arg(long, default_value_t = 10, allow_negative_numbers = true, value_name = "SECONDS")]
    pub(super) ttl: i64,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ElectArgs {
    /// Name of the election, and the value to publish as its leader
    #[arg(value_name = "NAME [VALUE]")]
    pub(super) args: Vec<OsString>,
    /// Print the leaders instead of campaigning
    #[arg(short, long)]
    pub(super) listen: bool,
    /// Seconds until another may lead if this program dies
    #[arg(long, default_value_t = 60, allow_negative_numbers = true, value_name = "SECONDS")]
    pub(super) ttl: i64,
}

#[derive(Debug, Subcommand)]
pub(super) enum LeaseCommand {
    /// Create a lease of TTL seconds
    Grant(Positional),
    /// End a lease and its keys
    Revoke(Positional),
    /// Remaining time of a lease
    Timetolive {
        #[command(flatten)]
        id: Positional,
        /// Print its keys
        #[arg(long)]
        keys: bool,
    },
    /// All leases
    List(Positional),
    /// Renew a lease until interrupted
    KeepAlive {
        #[command(flatten)]
        id: Positional,
        /// Renew once
        #[arg(long)]
        once: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// Add a member
    Add {
        #[command(flatten)]
        name: Positional,
        /// Its peer URLs, separated by commas
        #[arg(long, default_value = "")]
        peer_urls: String,
        /// Without a vote
        #[arg(long)]
        learner: bool,
    },
    /// Remove a member
    Remove(Positional),
    /// Change a member's peer URLs
    Update {
        #[command(flatten)]
        id: Positional,
        /// Its peer URLs, separated by commas
        #[arg(long, default_value = "")]
        peer_urls: String,
    },
    /// All members
    List(Positional),
    /// Give a learner a vote
    Promote(Positional),
}

#[derive(Clone, Debug, Args)]
pub(super) struct RangeOfKeys {
    /// Role, permission (to grant), key, end of the range
    #[arg(value_name = "ARG")]
    pub(super) args: Vec<String>,
    /// All keys with this prefix
    #[arg(long)]
    pub(super) prefix: bool,
    /// All keys from this one on
    #[arg(long)]
    pub(super) from_key: bool,
}

#[derive(Debug, Args)]
pub(super) struct EndpointArgs {
    /// Ask all members of the cluster
    #[arg(long, global = true)]
    pub(super) cluster: bool,
    #[command(subcommand)]
    pub(super) command: EndpointCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum EndpointCommand {
    /// State of each server
    Status(Positional),
    /// Whether each server commits
    Health(Positional),
    /// Hash of each server's keys
    Hashkv {
        #[command(flatten)]
        args: Positional,
        /// Newest revision to hash
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        rev: i64,
    },
}

#[derive(Debug, Args)]
pub(super) struct CompactionArgs {
    /// First revision to keep
    #[command(flatten)]
    pub(super) revision: Positional,
    /// Wait until the space is free
    #[arg(long)]
    pub(super) physical: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum AlarmCommand {
    /// All alarms
    List(Positional),
    /// Silence all alarms
    Disarm(Positional),
}

#[derive(Debug, Args)]
pub(super) struct DefragArgs {
    #[command(flatten)]
    pub(super) extra: Positional,
    /// All members of the cluster
    #[arg(long)]
    pub(super) cluster: bool,
    /// A data directory not in use
    #[arg(long, default_value = "")]
    pub(super) data_dir: String,
}

/// Switches, for which Go also takes `=true` and `=false`.
const SWITCHES: [&str; 25] = [
    "auto-compact",
    "auto-defrag",
    "cluster",
    "count-only",
    "debug",
    "detail",
    "from-key",
    "hex",
    "ignore-lease",
    "ignore-value",
    "insecure-discovery",
    "insecure-skip-tls-verify",
    "insecure-transport",
    "keys",
    "keys-only",
    "learner",
    "once",
    "physical",
    "prefix",
    "prev-kv",
    "print-value-only",
    "skip-hash-check",
    "mark-compacted",
    "no-dest-prefix",
    "dest-insecure-transport",
];

/// Rewrites `--switch=true` to `--switch` and drops `--switch=false`, up to `--`.
///
/// Returns also whether cleartext was refused with `--insecure-transport=false`.
pub(super) fn normalize(args: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, bool) {
    let mut secure = false;
    let mut only_values = false;
    let mut normalized = Vec::new();
    for arg in args {
        only_values |= arg == "--";
        let switch = arg.to_str().filter(|_| !only_values).and_then(|text| {
            let (name, value) = text.strip_prefix("--")?.split_once('=')?;
            let known = SWITCHES.contains(&name) || name == "progress-notify";
            known.then_some((name, value))
        });
        match switch {
            Some((name, "true" | "1" | "t" | "T" | "TRUE" | "True")) => {
                normalized.push(format!("--{name}").into());
            }
            Some((name, "false" | "0" | "f" | "F" | "FALSE" | "False")) => {
                secure |= name == "insecure-transport";
                if name == "insecure-discovery" {
                    normalized.push("--secure-discovery".into());
                }
            }
            _ => normalized.push(arg),
        }
    }
    (normalized, secure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Ctl {
        let args = std::iter::once("ctl").chain(args.iter().copied()).map(OsString::from);
        Ctl::try_parse_from(normalize(args).0).unwrap()
    }

    #[test]
    fn the_command_tree_is_sound() {
        use clap::CommandFactory as _;
        Ctl::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_behind_the_command() {
        for args in [
            &["-w", "json", "--endpoints=a:1,b:2", "get", "k", "--prefix"][..],
            &["get", "k", "--prefix=true", "-wjson", "--endpoints", "a:1,b:2"],
            &["get", "--prefix=false", "--prefix", "k", "--write-out=json", "--endpoints=a:1,b:2"],
        ] {
            let ctl = parse(args);
            assert_eq!(ctl.global.endpoints, ["a:1", "b:2"], "{args:?}");
            assert_eq!(ctl.global.write_out, "json", "{args:?}");
            let Command::Get(get) = ctl.command else { panic!("{args:?}") };
            assert!(get.prefix, "{args:?}");
        }
    }

    #[test]
    fn values_that_look_like_flags_stand_behind_two_dashes() {
        for args in [&["put", "k", "--", "-v"][..], &["put", "--", "k", "-v"]] {
            let Command::Put(put) = parse(args).command else { panic!("{args:?}") };
            assert_eq!(put.args, ["k", "-v"], "{args:?}");
        }
        let Command::Put(put) = parse(&["put", "k", "--", "--prefix=false"]).command else {
            panic!("no put")
        };
        assert_eq!(put.args, ["k", "--prefix=false"]);
    }

    #[test]
    fn a_watch_knows_its_command() {
        let Command::Watch(watch) =
            parse(&["watch", "a", "--rev", "3", "b", "--", "sh", "-c", "x"]).command
        else {
            panic!("no watch")
        };
        assert_eq!(watch.args, ["a", "b"]);
        assert_eq!(watch.exec, ["sh", "-c", "x"]);
        assert_eq!(watch.rev, 3);
    }

    #[test]
    fn nested_commands_and_negative_numbers() {
        assert!(matches!(
            parse(&["lease", "keep-alive", "--once", "7f"]).command,
            Command::Lease(LeaseCommand::KeepAlive { once: true, .. })
        ));
        let Command::Lease(LeaseCommand::Grant(ttl)) = parse(&["lease", "grant", "-5"]).command
        else {
            panic!("no grant")
        };
        assert_eq!(ttl.args, ["-5"]);
        assert!(matches!(
            parse(&["endpoint", "status", "--cluster"]).command,
            Command::Endpoint(EndpointArgs { cluster: true, .. })
        ));
        assert_eq!(parse(&["version", "--dial-timeout=1m"]).global.dial_timeout.as_secs(), 60);
    }
}
