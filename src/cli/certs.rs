//! `tripod certs`: an authority, certificates of members and of users, and what is in a file.
//!
//! Meant for clusters without a certificate authority of their own. Nothing is overwritten; an
//! authority that is in the folder already signs further certificates.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use time::OffsetDateTime;

use super::EXIT_FAILURE;
use crate::tls::{Authority, Facts, Subject, read_facts};

/// Seconds of a day.
const DAY_S: i64 = 24 * 3600;
/// Clocks of machines differ: certificates are valid from a little before they were made.
const BACKDATE_S: i64 = 300;
/// Longest life, in days: a hundred years.
const DAYS_MAX: i64 = 36_500;
/// Hosts of the member that is made if none is named.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Subcommands of `certs`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CertsCommand {
    /// Make certificates, and an authority if the folder has none
    Make(MakeArgs),
    /// Show subject, names and expiry of the certificates in files
    Show {
        /// PEM files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show the certificates of a folder
    List {
        /// The folder
        #[arg(default_value = "certs")]
        dir: PathBuf,
    },
    /// Make a list of revoked certificates, for --client-crl-file and --peer-crl-file
    Revoke(RevokeArgs),
}

/// Arguments of `certs make`.
#[derive(Debug, clap::Args)]
pub(crate) struct MakeArgs {
    /// Folder of all files
    #[arg(long, default_value = "certs")]
    dir: PathBuf,
    /// A member and its hosts, for clients and peers; again for each member
    #[arg(long = "member", value_name = "NAME=HOST[,HOST...]")]
    members: Vec<String>,
    /// A user, the common name of a client certificate; again for each user
    #[arg(long = "client", value_name = "USER")]
    clients: Vec<String>,
    /// Life of the certificates
    #[arg(long, default_value_t = 365, value_name = "DAYS",
          value_parser = clap::value_parser!(i64).range(1..=DAYS_MAX))]
    days: i64,
    /// Life of a new authority
    #[arg(long, default_value_t = 3_650, value_name = "DAYS",
          value_parser = clap::value_parser!(i64).range(1..=DAYS_MAX))]
    ca_days: i64,
}

/// Arguments of `certs revoke`.
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// Folder of the authority
    #[arg(long, default_value = "certs")]
    dir: PathBuf,
    /// File to write; one that exists is replaced at once and as a whole
    #[arg(long, default_value = "certs/crl.pem")]
    out: PathBuf,
    /// Days after which the list should be made anew
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(i64).range(1..=DAYS_MAX))]
    days: i64,
    /// Certificates to revoke: all of them, the list holds no others
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Runs a subcommand.
pub(crate) fn run(command: &CertsCommand) -> ExitCode {
    let done = match command {
        CertsCommand::Make(args) => make(args, now()),
        CertsCommand::Show { files } => {
            files.iter().try_fold(String::new(), |text, file| Ok(text + &describe(file, now())?))
        }
        CertsCommand::List { dir } => list(dir, now()),
        CertsCommand::Revoke(args) => revoke(args, now()),
    };
    match done {
        Ok(text) => {
            crate::bench::output::line(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 2)
}

/// What a new certificate is for.
struct Wanted {
    /// Name of its files, without an ending.
    file: String,
    subject: Subject,
}

/// The certificates asked for. Names become file names, so they are checked.
fn wanted(args: &MakeArgs, now: i64) -> anyhow::Result<Vec<Wanted>> {
    let subject = |name: &str, hosts: Vec<String>, for_servers| Subject {
        common_name: name.to_owned(),
        hosts,
        for_servers,
        for_clients: true,
        not_before: now - BACKDATE_S,
        not_after: now + args.days * DAY_S,
    };
    let mut wanted = Vec::new();
    for member in &args.members {
        let (name, hosts) = member
            .split_once('=')
            .with_context(|| format!("--member {member}: expected NAME=HOST[,HOST...]"))?;
        let hosts: Vec<String> =
            hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect();
        if hosts.is_empty() {
            bail!("--member {member}: a member needs at least one host");
        }
        let file = format!("member-{}", file_name(name)?);
        wanted.push(Wanted { file, subject: subject(name, hosts, true) });
    }
    if args.members.is_empty() && args.clients.is_empty() {
        let hosts = LOCAL_HOSTS.map(str::to_owned).to_vec();
        let file = "member-local".to_owned();
        wanted.push(Wanted { file, subject: subject("local", hosts, true) });
    }
    for user in &args.clients {
        let file = format!("client-{}", file_name(user)?);
        wanted.push(Wanted { file, subject: subject(user, Vec::new(), false) });
    }
    Ok(wanted)
}

fn file_name(name: &str) -> anyhow::Result<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
        bail!("{name:?} is no name: use letters, digits, '-', '_', '.' and '@'");
    }
    Ok(name)
}

fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}-key.pem")))
}

/// Makes the certificates; what was made, for people.
fn make(args: &MakeArgs, now: i64) -> anyhow::Result<String> {
    let wanted = wanted(args, now)?;
    // Before anything is written, so that a refusal leaves nothing half done.
    for Wanted { file, .. } in &wanted {
        let (cert, key) = pair(&args.dir, file);
        if let Some(taken) = [cert, key].iter().find(|path| path.exists()) {
            bail!("{} exists; remove it or choose another --dir", taken.display());
        }
    }
    fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot create {}", args.dir.display()))?;
    let (ca, ca_key) = pair(&args.dir, "ca");
    let authority = if ca.exists() {
        Authority::read(&ca, &ca_key)?
    } else {
        let authority = Authority::new(&Subject {
            common_name: "Tripod certificate authority".to_owned(),
            not_before: now - BACKDATE_S,
            not_after: now + args.ca_days * DAY_S,
            ..Subject::default()
        })?;
        authority.files().write(&ca, &ca_key)?;
        authority
    };
    let mut text = describe(&ca, now)?;
    for Wanted { file, subject } in &wanted {
        let (cert, key) = pair(&args.dir, file);
        authority.issue(subject)?.write(&cert, &key)?;
        text += &describe(&cert, now)?;
    }
    text += &format!("\nKeep {} offline: whoever has it can join the cluster.", ca_key.display());
    Ok(text)
}

/// Writes a CRL with the serial numbers of the files' certificates.
fn revoke(args: &RevokeArgs, now: i64) -> anyhow::Result<String> {
    let (ca, ca_key) = pair(&args.dir, "ca");
    let authority = Authority::read(&ca, &ca_key)?;
    let mut serials = Vec::new();
    for file in &args.files {
        serials.extend(read_facts(file)?.into_iter().map(|facts| facts.serial));
    }
    let list = authority.revoke(&serials, now, now + args.days * DAY_S)?;
    let temporary = args.out.with_extension("tmp");
    fs::write(&temporary, list)
        .and_then(|()| fs::rename(&temporary, &args.out))
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    Ok(format!("{}: revokes {}", args.out.display(), serials.join(" ")))
}

fn list(dir: &Path, now: i64) -> anyhow::Result<String> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|one| one == "pem" || one == "crt"));
    files.sort();
    // Files of keys and lists hold no certificate and are passed over.
    let texts: Vec<String> = files.iter().filter_map(|path| describe(path, now).ok()).collect();
    if texts.is_empty() {
        bail!("{} holds no certificates", dir.display());
    }
    Ok(texts.concat())
}

/// Lines about the certificates of one file.
fn describe(path: &Path, now: i64) -> anyhow::Result<String> {
    let lines = read_facts(path)?;
    Ok(lines.iter().map(|facts| format!("{}: {}\n", path.display(), line(facts, now))).collect())
}

fn line(facts: &Facts, now: i64) -> String {
    let ips = facts.ips.iter().map(ToString::to_string);
    let names: Vec<String> = facts.dns.iter().cloned().chain(ips).collect();
    let names = if names.is_empty() { String::new() } else { format!(", for {}", names.join(" ")) };
    let uses =
        [(facts.is_ca, "authority"), (facts.for_servers, "server"), (facts.for_clients, "client")];
    let uses: Vec<&str> = uses.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    format!(
        "{} ({}{names}), serial {}, {}",
        facts.subject,
        uses.join(", "),
        facts.serial,
        expiry(facts, now)
    )
}

fn expiry(facts: &Facts, now: i64) -> String {
    let date = |seconds| {
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_or_else(|_| "?".to_owned(), |time| time.date().to_string())
    };
    let days = (facts.not_after - now) / DAY_S;
    if now < facts.not_before {
        format!("not valid before {}", date(facts.not_before))
    } else if now > facts.not_after {
        format!("EXPIRED {}", date(facts.not_after))
    } else {
        format!("expires {} (in {days} days)", date(facts.not_after))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn args(dir: &Path, members: &[&str], clients: &[&str]) -> MakeArgs {
        let strings = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        MakeArgs {
            dir: dir.to_owned(),
            members: strings(members),
            clients: strings(clients),
            days: 10,
            ca_days: 20,
        }
    }

    #[test]
    fn a_cluster_gets_an_authority_members_and_users() {
        let dir = tempfile::tempdir().unwrap();
        let now = now();
        let text = make(&args(dir.path(), &["m1=10.0.0.1,m1.example"], &["root"]), now).unwrap();
        assert!(text.contains("authority") && text.contains("in 20 days"), "{text}");
        assert!(text.contains("m1.example 10.0.0.1") && text.contains("in 10 days"), "{text}");
        let user = read_facts(&dir.path().join("client-root.pem")).unwrap().remove(0);
        assert_eq!(user.common_name.as_deref(), Some("root"));
        assert!(user.for_clients && !user.for_servers);
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().ends_with("-key.pem") {
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
        assert_eq!(list(dir.path(), now).unwrap().lines().count(), 3);
        assert!(list(dir.path(), now + 11 * DAY_S).unwrap().contains("EXPIRED"));
    }

    #[test]
    fn nothing_is_overwritten_and_the_authority_signs_on() {
        let dir = tempfile::tempdir().unwrap();
        make(&args(dir.path(), &[], &["a"]), now()).unwrap();
        let ca = fs::read(dir.path().join("ca.pem")).unwrap();
        let error = make(&args(dir.path(), &[], &["b", "a"]), now()).unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
        assert!(!dir.path().join("client-b.pem").exists(), "nothing was begun");
        make(&args(dir.path(), &[], &["b"]), now()).unwrap();
        assert_eq!(fs::read(dir.path().join("ca.pem")).unwrap(), ca);
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (members, clients) in [
            (&[][..], &["../x"][..]),
            (&[], &[".."]),
            (&["m1"], &[]),
            (&["m1="], &[]),
            (&["/=a"], &[]),
        ] {
            assert!(
                make(&args(dir.path(), members, clients), now()).is_err(),
                "{members:?} {clients:?}"
            );
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
