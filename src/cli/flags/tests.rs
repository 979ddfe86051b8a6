//! Precedence, Go's flag forms, every error text, and all of etcd's flags.

use std::{io::Write as _, time::Duration};

use super::*;
use crate::config::{ClusterState, LogOutput, MetricsLevel};

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn parse(
    args: &[String],
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Parsed, FlagError> {
    parse_on(args, env, || None)
}

fn parse_with(args: &[&str], env: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    match parse(&strings(args), env) {
        Ok(Parsed::Run(config, notices)) => {
            Ok((*config, notices.into_iter().map(|notice| notice.0).collect()))
        }
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn config(args: &[&str]) -> Config {
    parse_with(args, &[]).unwrap().0
}

#[test]
fn no_flags_give_etcds_defaults() {
    let config = config(&[]);
    assert_eq!(config.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(config.initial_cluster.to_string(), "default=http://localhost:2380");
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.quota_bytes(), Some(2 << 30));
    assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (100, 1000));
}

#[test]
fn only_the_name_changes_directory_and_initial_cluster() {
    let config = config(&["--name=abc"]);
    assert_eq!(config.data_dir.to_str(), Some("abc.etcd"));
    assert_eq!(config.initial_cluster.to_string(), "abc=http://localhost:2380");
}

/// Source: etcd 3.5.1 with `--listen-peer-urls=http://0.0.0.0:PORT` and nothing else.
#[test]
fn a_member_that_listens_everywhere_advertises_the_hosts_address() {
    let host = || Some(std::net::IpAddr::from([10, 1, 2, 3]));
    let cases = [
        ("http://0.0.0.0:2381", "", "http://10.1.2.3:2381"),
        ("http://127.0.0.1:2381", "", "http://localhost:2380"),
        ("http://0.0.0.0:2381", "http://a:1", "http://a:1"),
    ];
    for (listen, advertise, want) in cases {
        let mut args = vec![format!("--listen-peer-urls={listen}")];
        if !advertise.is_empty() {
            args.push(format!("--initial-advertise-peer-urls={advertise}"));
        }
        let Parsed::Run(config, _) = parse_on(&args, [], host).unwrap() else { panic!("a start") };
        assert_eq!(config.initial_advertise_peer_urls.to_string(), want, "{listen}");
        assert_eq!(config.initial_cluster.to_string(), format!("default={want}"), "{listen}");
    }
}

#[test]
fn gos_flag_forms_are_all_read() {
    for args in [
        &["--election-timeout", "2000", "--pre-vote=false"][..],
        &["-election-timeout=2000", "-pre-vote=0"],
        &["-election-timeout", "2000", "--pre-vote=F", "--"],
        &["--election-timeout=1000", "--pre-vote", "--election-timeout=0x7d0", "--pre-vote=f"],
    ] {
        let config = config(args);
        assert_eq!((config.election_timeout_ms, config.pre_vote), (2000, false), "{args:?}");
    }
    // A boolean never takes the next argument.
    assert!(parse_with(&["--pre-vote", "false"], &[]).is_err());
    // The value may look like a flag, as in Go.
    assert_eq!(config(&["--name", "--x"]).name, "--x");
}

#[test]
fn the_command_line_beats_the_environment_and_says_so() {
    let env = [("ETCD_NAME", "env"), ("ETCD_MAX_TXN_OPS", "7"), ("ETCD_BOGUS", "1"), ("PATH", "x")];
    let (config, notices) = parse_with(&["--name=flag"], &env).unwrap();
    assert_eq!((config.name.as_str(), config.max_txn_ops), ("flag", 7));
    assert_eq!(
        notices,
        [
            "environment variable ETCD_NAME is shadowed by the command line flag --name",
            "unrecognized environment variable ETCD_BOGUS",
        ]
    );
    // An empty variable is unset.
    assert_eq!(parse_with(&[], &[("ETCD_NAME", "")]).unwrap().0.name, "default");
}

fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let flag = format!("--config-file={}", file.path().display());
    (file, flag)
}

/// The keys of etcd's sample file that a plain member uses.
const SAMPLE: &str = "
name: 's1'
data-dir: /var/lib/s1
wal-dir:
snapshot-count: 5000
heartbeat-interval: 200
election-timeout: 2000
quota-backend-bytes: 0
listen-peer-urls: http://127.0.0.1:3380
listen-client-urls: http://127.0.0.1:3379
max-snapshots: 5
max-wals: 5
cors:
initial-advertise-peer-urls: http://localhost:3380
advertise-client-urls: http://localhost:3379
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
initial-cluster:
initial-cluster-token: 'token'
initial-cluster-state: 'existing'
strict-reconfig-check: false
enable-v2: false
enable-pprof: true
proxy: 'off'
proxy-failure-wait: 5000
client-transport-security:
  cert-file:
  key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
peer-transport-security:
  cert-file:
  client-cert-auth: false
  allowed-cn:
  allowed-hostname:
self-signed-cert-validity: 1
log-level: debug
logger: zap
log-outputs: [stderr, /tmp/a.log]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: 1
grpc-keepalive-min-time: 1000000000
watch-progress-notify-interval: 5s
feature-gates: InitialCorruptCheck=true
cipher-suites: []
";

#[test]
fn a_file_replaces_flags_and_environment() {
    let (_file, flag) = file(SAMPLE);
    let (config, notices) =
        parse_with(&["--name=flag", &flag], &[("ETCD_MAX_TXN_OPS", "7")]).unwrap();
    assert_eq!(config.name, "s1");
    assert_eq!(config.max_txn_ops, 128);
    assert!(notices[0].contains("are ignored"), "{notices:?}");
    assert_eq!(config.initial_cluster_state, ClusterState::Existing);
    assert_eq!(config.initial_cluster.to_string(), "s1=http://localhost:3380");
    assert_eq!(config.grpc_keepalive_min_time, Duration::from_secs(1));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.log_outputs.0[1], LogOutput::File("/tmp/a.log".into()));
    assert!(config.initial_corrupt_check && !config.enable_v2 && !config.strict_reconfig_check);
    assert!(config.auto_compaction().unwrap().is_some());
    // The environment may name the file too.
    let path = flag.trim_start_matches("--config-file=");
    let (config, _) = parse_with(&[], &[("ETCD_CONFIG_FILE", path)]).unwrap();
    assert_eq!(config.name, "s1");
}

#[test]
fn wrong_files_are_refused_with_the_key() {
    let cases = [
        ("nmae: x", "unknown setting \"nmae\"", "(did you mean name?)"),
        ("heartbeat-interval: soon", "heartbeat-interval:", "expected u64"),
        ("cert-file: x", "unknown setting \"cert-file\"", ""),
        ("peer-transport-security: {cert: x}", "peer-transport-security:", "unknown field `cert`"),
        ("unsafe-no-fsync: true", "unsafe-no-fsync in", "is refused"),
        ("election-timeout: 200", "--election-timeout[200ms]", ""),
        ("- a\n- b", "is no configuration", ""),
        ("name: a\nname: b", "is no configuration", ""),
    ];
    for (text, first, second) in cases {
        let (_file, flag) = file(text);
        let error = parse_with(&[&flag], &[]).unwrap_err();
        assert!(error.contains(first) && error.contains(second), "{text}: {error}");
    }
    let error = parse_with(&["--config-file=/does/not/exist"], &[]).unwrap_err();
    assert_eq!(error, "cannot read the configuration file /does/not/exist");
}

/// Where etcd has the error, its text.
#[test]
fn wrong_command_lines_are_refused_with_a_sentence() {
    let cases: &[(&[&str], &str)] = &[
        (&["--bogus"], "flag provided but not defined: -bogus"),
        (&["--datadir=x"], "flag provided but not defined: -datadir (did you mean data-dir?)"),
        (&["---name=x"], "bad flag syntax: ---name=x"),
        (&["--name"], "flag needs an argument: -name"),
        (&["extra"], "'extra' is not a valid flag"),
        (
            &["--heartbeat-interval=abc"],
            "invalid value \"abc\" for flag -heartbeat-interval: parse error",
        ),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (
            &["--grpc-keepalive-timeout=5"],
            "invalid value \"5\" for flag -grpc-keepalive-timeout: parse error",
        ),
        (
            &["--listen-client-urls=foo"],
            "invalid value \"foo\" for flag -listen-client-urls: \
             URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-peer-urls=http://example.com:1"],
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            &["--initial-advertise-peer-urls=http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" \
             (unexpected empty host (http://:1))",
        ),
        (
            &["--heartbeat-interval=300"],
            "--election-timeout[1000ms] should be at least as 5 times as \
             --heartbeat-interval[300ms]",
        ),
        (
            &["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            &["--initial-cluster-state=foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: \
             unknown variant `foo`, expected `new` or `existing`",
        ),
        (
            &["--auto-compaction-mode=foo"],
            "invalid value \"foo\" for flag -auto-compaction-mode: \
             unknown auto-compaction-mode \"foo\"",
        ),
        (
            &["--auto-compaction-retention=xx"],
            "error parsing CompactionRetention: time: invalid duration \"xx\"",
        ),
        (
            &["--discovery=http://x", "--initial-cluster=default=http://localhost:2380"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (
            &["--initial-cluster=a=http://h:1,b=http://h:1"],
            "initial cluster a=http://h:1,b=http://h:1 has duplicate url",
        ),
        (
            &["--discovery-srv=example.com", "--initial-cluster=default=http://localhost:2380"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (&["--auth-token=foo"], "auth: invalid auth options"),
        (&["--bcrypt-cost=3"], "--bcrypt-cost must be between 4 and 31 (set to 3)"),
        (
            &["--feature-gates=Foo=true"],
            "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
        ),
        (
            &["--max-learners=2", "--experimental-max-learners=3"],
            "--max-learners and --experimental-max-learners are the same setting with \
             different values; give one of them",
        ),
        (
            &["--logger=capnslog"],
            "--logger is refused: only zap's line format is written; choose with --log-format",
        ),
    ];
    for (args, want) in cases {
        assert_eq!(parse_with(args, &[]).unwrap_err(), *want, "{args:?}");
    }
    let error = parse_with(&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")]).unwrap_err();
    assert_eq!(error, "invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error");
}

#[test]
fn refused_settings_say_why_and_what_instead() {
    let cases: &[(&str, &str)] = &[
        ("--unsafe-no-fsync", "tmpfs"),
        ("--proxy=on", "members' own URLs"),
        ("--experimental-enable-v2v3=/v2", "--enable-v2"),
        ("--cert-file=a.pem", "must both be present[key: , cert: a.pem]"),
        ("--peer-key-file=a.pem", "must both be present[key: a.pem, cert: ]"),
        ("--cipher-suites=TLS_A", "unexpected TLS cipher suite \"TLS_A\""),
        ("--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA", "is weak"),
        ("--tls-min-version=TLS1.1", "TLS1.1"),
        ("--tls-max-version=TLS1.0", "TLS1.0"),
        ("--self-signed-cert-validity=0", "must be >0 years"),
        (
            "--listen-peer-urls=https://127.0.0.1:1",
            "cannot listen on TLS for https://127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        ("--listen-metrics-urls=unix:///run/x", "unix sockets are not served"),
    ];
    for (arg, want) in cases {
        let error = parse_with(&[arg], &[]).unwrap_err();
        assert!(error.contains(want), "{arg}: {error}");
    }
    for harmless in ["--unsafe-no-fsync=false", "--proxy=off", "--auto-tls", "--logger=zap"] {
        let (_, notices) = parse_with(&[harmless], &[]).unwrap();
        assert!(notices.is_empty(), "{harmless}: {notices:?}");
    }
}

#[test]
fn certificate_settings_that_contradict_each_other_are_refused() {
    let secure =
        ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"];
    let pair = ["--cert-file=a.pem", "--key-file=b.pem"];
    let peer = ["--listen-peer-urls=https://127.0.0.1:1", "--peer-auto-tls"];
    let cases: &[(&[&[&str]], &str)] = &[
        (&[&secure], "KeyFile and CertFile are not presented"),
        (&[&secure, &pair, &["--client-cert-auth"]], "--trusted-ca-file"),
        (&[&secure, &pair, &["--client-crl-file=c.pem"]], "--trusted-ca-file"),
        (&[&peer, &["--peer-cert-allowed-cn=m"]], "--peer-trusted-ca-file"),
        (
            &[&["--peer-cert-allowed-cn=m", "--peer-cert-allowed-hostname=h"]],
            "AllowedCN and AllowedHostname are mutually exclusive",
        ),
        (
            &[&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"]],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
    ];
    for (parts, want) in cases {
        let args = parts.concat();
        let error = parse_with(&args, &[]).unwrap_err();
        assert!(error.contains(want), "{args:?}: {error}");
    }
    let all = [&secure[..], &pair, &peer, &["--trusted-ca-file=c.pem", "--client-cert-auth"]];
    let config = config(&all.concat());
    assert!(config.client_transport_security.client_cert_auth);
    assert!(config.peer_transport_security.auto_tls);
}

#[test]
fn a_sentence_is_said_once() {
    let error = parse(&strings(&["--heartbeat-interval=0"]), []).unwrap_err();
    let printed = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(printed, "--heartbeat-interval must be >0 (set to 0ms)");
}

#[test]
fn settings_without_meaning_are_noted_once_with_the_reason() {
    let (_, notices) = parse_with(&["--backend-batch-limit=5", "--max-wals=3"], &[]).unwrap();
    assert_eq!(notices.len(), 2);
    assert!(notices[0].starts_with("--backend-batch-limit has no effect: "), "{notices:?}");
}

#[test]
fn typed_settings_reach_their_fields() {
    let config = config(&[
        "--metrics=extensive",
        "--log-outputs=stdout,/tmp/x",
        "--host-whitelist=a,b",
        "--socket-reuse-port",
        "--quota-backend-bytes=-1",
        "--experimental-watch-progress-notify-interval=100ms",
        "--feature-gates=CompactHashCheck=true,LeaseCheckpoint=true",
        "--listen-client-urls=http://127.0.0.1:1,http://127.0.0.1:1",
        "--advertise-client-urls=http://a:1",
    ]);
    assert_eq!(config.metrics, MetricsLevel::Extensive);
    assert_eq!(config.log_outputs.0[0], LogOutput::Stdout);
    assert_eq!(config.host_whitelist, ["a", "b"]);
    assert!(
        config.socket_options.reuse_port && config.compact_hash_check && config.lease_checkpoint
    );
    assert_eq!(config.quota_bytes(), None);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(100));
    assert_eq!(config.listen_client_urls.len(), 1);
}

/// What etcd's end-to-end framework passes to every member.
#[test]
fn the_flags_of_etcds_test_framework_start_a_member() {
    let config = config(&[
        "--name=test-0",
        "--listen-client-urls=http://localhost:20000",
        "--advertise-client-urls=http://localhost:20000",
        "--listen-peer-urls=http://localhost:20001",
        "--initial-advertise-peer-urls=http://localhost:20001",
        "--initial-cluster-token=new",
        "--data-dir=/tmp/x",
        "--snapshot-count=10000",
        "--initial-cluster=test-0=http://localhost:20001",
        "--initial-cluster-state=new",
    ]);
    config.validate_bootstrap().unwrap();
}

#[test]
fn no_name_stands_in_the_table_twice_and_defaults_in_help_are_true() {
    let mut seen = std::collections::BTreeSet::new();
    let default = serde_json::to_value(Config::default()).unwrap();
    for flag in all_flags() {
        for name in flag.names {
            assert!(seen.insert(*name), "{name} stands twice");
        }
        let Treatment::Set(key) = flag.treatment else { continue };
        if key == "feature-gates" || flag.default.contains('$') || flag.default.is_empty() {
            continue;
        }
        let parsed = value::parse(flag.kind, flag.default).unwrap();
        let mut layer = Layer::new();
        insert(&mut layer, key, parsed);
        let mut config: Config = serde_json::from_value(Value::Object(layer)).unwrap();
        config.complete();
        let mut want: Config = serde_json::from_value(default.clone()).unwrap();
        want.complete();
        assert_eq!(config, want, "default of {key}");
    }
}

/// Every flag `etcd --help` of 3.5.1 lists, and those 3.5.x and 3.6 added, has a row that says
/// what becomes of it, and no flag is without one.
#[test]
fn every_flag_of_etcd_does_what_its_row_says() {
    let mut rows = std::collections::BTreeMap::new();
    for line in include_str!("etcd_flags.txt").lines().filter(|line| !line.starts_with('#')) {
        let (name, verdict) = line.split_once(' ').expect(line);
        assert_eq!(rows.insert(name, verdict), None, "{name} has two rows");
    }
    for (name, verdict) in &rows {
        let (flag, _) = find(name).unwrap_or_else(|| panic!("--{name} is not in the table"));
        let does = match flag.treatment {
            Treatment::Set(key) => format!("set {key}"),
            Treatment::Noted(_) => "noted".to_owned(),
            Treatment::Refused { .. } => "refused".to_owned(),
        };
        assert_eq!(does, *verdict, "--{name}");
        if let Treatment::Refused { why, .. } = flag.treatment {
            let refused = parse_with(&[&format!("--{name}=x")], &[]);
            let said = refused.expect_err(name);
            assert!(flag.kind == Kind::Bool || said.contains(why), "--{name}: {said}");
        }
    }
    for name in all_flags().flat_map(|flag| flag.names) {
        assert!(rows.contains_key(name), "--{name} has no row in etcd_flags.txt");
    }
    let help = usage("etcd");
    assert!(help.contains("--initial-advertise-peer-urls 'http://localhost:2380'"), "{help}");
}

#[test]
fn help_and_version_win_over_everything_else() {
    assert!(matches!(parse(&strings(&["-h"]), []), Ok(Parsed::Help)));
    assert!(matches!(parse(&strings(&["--name=x", "--version"]), []), Ok(Parsed::Version)));
}

/// Texts that are no sensible number, count or time.
const ODD: [&str; 16] = [
    "",
    " ",
    "-0",
    "NaN",
    "inf",
    "1e9",
    "0x",
    "1_",
    "9223372036854775808",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "9999999h",
    "1h-1h",
    "\u{0}",
    "\u{ff11}",
    "--1",
];

/// GHSA-pm3m and GHSA-9gp7: negative numbers in the configuration made etcd loop or crash. Of all
/// flags one may be below zero, the quota, where it says that there is none.
#[test]
fn no_number_or_time_below_zero_is_taken() {
    for flag in all_flags() {
        let negatives: &[&str] = match flag.kind {
            Kind::Uint | Kind::Uint32 | Kind::Int => &["-1", "-9223372036854775808", "-0x1"],
            Kind::Dur => &["-1s", "-1ns", "-2562047h47m16.854775807s"],
            _ => continue,
        };
        let is_dropped = !matches!(flag.treatment, Treatment::Set(_));
        for name in flag.names {
            for text in negatives {
                let parsed = parse_with(&[&format!("--{name}={text}")], &[]);
                if *name == "quota-backend-bytes" {
                    assert_eq!(parsed.unwrap().0.quota_bytes(), None, "{text}");
                } else if !(is_dropped && flag.kind == Kind::Int) {
                    parsed.expect_err(&format!("--{name}={text}"));
                }
            }
        }
    }
    // A text for etcd's sake; hours or revisions below zero are none, times are refused.
    for mode in ["periodic", "revision"] {
        let retention = |text: &str| {
            let flags = [
                format!("--auto-compaction-mode={mode}"),
                format!("--auto-compaction-retention={text}"),
            ];
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            parse_with(&flags, &[])
        };
        for off in ["-1", "-9223372036854775808"] {
            assert_eq!(retention(off).unwrap().0.auto_compaction(), Ok(None), "{mode} {off}");
        }
        for refused in ["-1h", "-1s", "99999999999999999999", "9223372036854775807h"] {
            assert!(retention(refused).is_err(), "{mode} {refused}");
        }
    }
}

/// Whatever a flag, a variable or a file says is refused with a sentence or makes a configuration
/// that passes its checks; nothing of it panics.
#[test]
fn odd_values_are_refused_or_sound_wherever_they_stand() {
    for flag in all_flags() {
        for text in ODD.iter().chain(&["-1", "0", "1", "4294967295", "9223372036854775807"]) {
            let name = flag.names[0];
            let variable = format!("ETCD_{}", name.to_uppercase().replace('-', "_"));
            let by_flag = parse_with(&[&format!("--{name}={text}")], &[]);
            let by_variable = parse_with(&[], &[(&variable, text)]);
            let mut found = vec![by_flag, by_variable];
            if let Treatment::Set(key) = flag.treatment {
                let quoted = serde_json::to_string(text).unwrap();
                let (_file, flag) = file(&format!("{key}: {quoted}"));
                found.push(parse_with(&[&flag], &[]));
            }
            for parsed in found {
                match parsed {
                    Ok((config, _)) => config.validate().unwrap(),
                    Err(error) => assert!(!error.is_empty(), "--{name}={text:?}"),
                }
            }
        }
    }
}

/// GHSA-5x4g: etcd takes any cipher suite that its library knows, weak ones too.
#[test]
fn no_setting_makes_tls_weaker_than_its_default() {
    for (setting, want) in [
        ("--cipher-suites=TLS_RSA_WITH_RC4_128_SHA", "is weak"),
        ("--cipher-suites=TLS_RSA_WITH_AES_256_GCM_SHA384", "is weak"),
        ("--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", "is weak"),
        ("--cipher-suites=TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", "is weak"),
        ("--tls-min-version=TLS1.0", "TLS1.0"),
        ("--tls-min-version=TLS1.1", "TLS1.1"),
        ("--tls-min-version=SSL3", "SSL3"),
        ("--tls-max-version=TLS1.1", "TLS1.1"),
    ] {
        let error = parse_with(&[setting], &[]).unwrap_err();
        assert!(error.contains(want), "{setting}: {error}");
    }
    let strong = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let weak = "TLS_RSA_WITH_RC4_128_SHA";
    let mixed = format!("--cipher-suites={strong},{weak}");
    assert!(parse_with(&[&mixed], &[]).is_err(), "one weak one among others");
    let (_file, flag) = file(&format!("cipher-suites: [{strong}, {weak}]"));
    assert!(parse_with(&[&flag], &[]).is_err(), "in a file");
}
