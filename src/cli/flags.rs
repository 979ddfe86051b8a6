//! The member's flags: defaults < file < environment < command line, laid over each other.
//!
//! A layer is a map in the shape of etcd's YAML file; flags and variables are turned into that
//! shape, merged, and read into [`Config`] once. So an absent flag cannot hide anything, and a
//! flag needs one row in `table` and nothing else. (A clap struct of 150 optional fields would
//! say the same with more words and without Go's syntax, which scripts for etcd rely on: one or
//! two dashes, `-flag=value`, `--flag value`, `--bool`, `--bool=false`.)
//!
//! As in etcd a configuration file replaces environment and command line altogether.
//!
//! Nothing here reads the process's environment or arguments; the caller passes them.

mod file;
mod gates;
mod help;
mod table;
mod value;

use std::{fmt, net::IpAddr};

use serde_json::{Map, Value};

use crate::config::{Config, ConfigError};

pub(crate) use help::usage;

/// A setting layer: keys of etcd's YAML file.
type Layer = Map<String, Value>;

/// What a flag's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Uint,
    Uint32,
    Int,
    Dur,
    Str,
    List,
    Url,
}

/// What happens to a flag.
#[derive(Clone, Copy, Debug)]
enum Treatment {
    /// Goes to this key of the configuration; a dot separates a nested key.
    Set(&'static str),
    /// Has no meaning here; said once in the log.
    Noted(&'static str),
    /// Stops the start, unless the value is one of `harmless`.
    Refused { harmless: &'static [&'static str], why: &'static str },
}

/// One row of the table.
#[derive(Debug)]
struct Flag {
    /// Today's name first, then older spellings.
    names: &'static [&'static str],
    kind: Kind,
    /// Default as the help text shows it.
    default: &'static str,
    help: &'static str,
    treatment: Treatment,
}

/// A remark for the log, once logging is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice(pub(crate) String);

/// Command line, environment or file that cannot be used. The program ends with code 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlagError {
    #[error("flag provided but not defined: -{name}{hint}")]
    Unknown { name: String, hint: Hint },
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag needs an argument: -{0}")]
    NeedsArgument(String),
    #[error("invalid boolean value {value:?} for -{name}: parse error")]
    Bool { name: String, value: String },
    #[error("invalid value {value:?} for {origin}: {why}")]
    Value { value: String, origin: String, why: String },
    #[error("'{0}' is not a valid flag")]
    Positional(String),
    #[error("{first} and {second} are the same setting with different values; give one of them")]
    Contradiction { first: String, second: String },
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
    )]
    Bootstrap,
    #[error("{origin} is refused: {why}")]
    Refused { origin: String, why: String },
    #[error("cannot read the configuration file {path}")]
    ReadFile {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is no configuration: {why}")]
    File { path: String, why: String },
    #[error("unknown setting {key:?} in {path}{hint}")]
    UnknownKey { key: String, path: String, hint: Hint },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A close name, if there is one.
#[derive(Debug)]
pub(crate) struct Hint(Option<&'static str>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(f, " (did you mean {name}?)"))
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Run with this configuration, completed and valid; say the notices first.
    Run(Box<Config>, Vec<Notice>),
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
}

/// Largest distance of a name that is still offered as what was meant.
const HINT_DISTANCE_MAX: usize = 3;

/// Turns arguments (without the program's name) and environment into a configuration. `host` is
/// asked for this machine's address if the member listens everywhere.
///
/// # Errors
/// [`FlagError`].
pub(crate) fn parse_on(
    args: &[String],
    env: impl IntoIterator<Item = (String, String)>,
    host: impl FnOnce() -> Option<IpAddr>,
) -> Result<Parsed, FlagError> {
    let mut notices = Vec::new();
    let (line, file) = match scan(args)? {
        Scanned::Help => return Ok(Parsed::Help),
        Scanned::Version => return Ok(Parsed::Version),
        Scanned::Settings { settings, config_file } => (settings, config_file),
    };
    let env: Vec<(String, String)> = env
        .into_iter()
        .filter(|(name, value)| name.starts_with(ENV_PREFIX) && !value.is_empty())
        .collect();
    let env_file =
        env.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map(|(_, path)| path.clone());
    let layer = if let Some(path) = file.or(env_file) {
        if !line.is_empty() {
            notices.push(Notice(format!(
                "command line flags and environment variables are ignored: {path} is the configuration"
            )));
        }
        file::read(&path, &mut notices)?
    } else {
        let settings = with_environment(line, env, &mut notices)?;
        let mut layer = layer_of(&settings, &mut notices)?;
        // etcd's rule: whoever chooses where to listen must say what to advertise.
        let has = |key| settings.iter().any(|s| s.flag.key() == Some(key));
        if has("listen-client-urls") && !has("advertise-client-urls") {
            layer.insert("advertise-client-urls".to_owned(), Value::String(String::new()));
        }
        layer
    };
    let mut config: Config = serde_json::from_value(Value::Object(layer)).map_err(|error| {
        FlagError::File { path: "the configuration".to_owned(), why: error.to_string() }
    })?;
    if config.advertises_default_host() {
        config.advertise_host(host());
    }
    config.complete();
    config.validate()?;
    Ok(Parsed::Run(Box::new(config), notices))
}

const ENV_PREFIX: &str = "ETCD_";

/// One value somebody gave.
#[derive(Debug)]
struct Setting {
    flag: &'static Flag,
    /// The spelling used.
    name: &'static str,
    value: String,
    /// `flag -name` or the variable, for messages.
    origin: String,
}

impl Flag {
    /// Key of the configuration it sets.
    fn key(&self) -> Option<&'static str> {
        match self.treatment {
            Treatment::Set(key) => Some(key),
            _ => None,
        }
    }
}

fn all_flags() -> impl Iterator<Item = &'static Flag> {
    table::GROUPS.iter().flat_map(|group| group.flags)
}

/// The row and spelling of a flag name.
fn find(name: &str) -> Option<(&'static Flag, &'static str)> {
    all_flags().find_map(|flag| {
        let spelling = flag.names.iter().find(|known| **known == name)?;
        Some((flag, *spelling))
    })
}

fn hint(name: &str) -> Hint {
    let close = all_flags()
        .flat_map(|flag| flag.names)
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, _)| *distance <= HINT_DISTANCE_MAX.min(name.len() / 2))
        .min();
    Hint(close.map(|(_, known)| known))
}

/// Edit distance, for names of a few dozen bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A command line taken apart.
enum Scanned {
    Settings { settings: Vec<Setting>, config_file: Option<String> },
    Help,
    Version,
}

/// Takes a command line apart by the rules of Go's flag package.
fn scan(args: &[String]) -> Result<Scanned, FlagError> {
    let mut settings = Vec::new();
    let mut config_file = None;
    let mut version = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Err(FlagError::Positional(arg.clone()));
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            // `--` ends the flags, and nothing may follow them.
            match args.next() {
                Some(extra) => return Err(FlagError::Positional(extra.clone())),
                None => break,
            }
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(FlagError::Syntax(arg.clone()));
        }
        match name {
            "h" | "help" => return Ok(Scanned::Help),
            "version" => {
                version = value.is_none_or(|value| value::parse_bool(&value) == Some(true));
                continue;
            }
            "config-file" => {
                config_file = Some(take_value(name, value, &mut args)?);
                continue;
            }
            _ => {}
        }
        let Some((flag, name)) = find(name) else {
            return Err(FlagError::Unknown { name: name.to_owned(), hint: hint(name) });
        };
        let value = match (flag.kind, value) {
            (Kind::Bool, None) => "true".to_owned(),
            (_, value) => take_value(name, value, &mut args)?,
        };
        settings.push(Setting { flag, name, value, origin: format!("flag -{name}") });
    }
    if version { Ok(Scanned::Version) } else { Ok(Scanned::Settings { settings, config_file }) }
}

fn take_value<'a>(
    name: &str,
    value: Option<String>,
    args: &mut impl Iterator<Item = &'a String>,
) -> Result<String, FlagError> {
    value.or_else(|| args.next().cloned()).ok_or_else(|| FlagError::NeedsArgument(name.to_owned()))
}

/// Puts variables before the command line's settings; the command line wins.
fn with_environment(
    line: Vec<Setting>,
    env: Vec<(String, String)>,
    notices: &mut Vec<Notice>,
) -> Result<Vec<Setting>, FlagError> {
    let mut settings = Vec::new();
    for (variable, value) in env {
        let name = variable[ENV_PREFIX.len()..].to_ascii_lowercase().replace('_', "-");
        if matches!(name.as_str(), "config-file" | "unsupported-arch") {
            continue;
        }
        let Some((flag, name)) = find(&name) else {
            notices.push(Notice(format!("unrecognized environment variable {variable}")));
            continue;
        };
        if line.iter().any(|given| std::ptr::eq(given.flag, flag)) {
            notices.push(Notice(format!(
                "environment variable {variable} is shadowed by the command line flag --{name}"
            )));
            continue;
        }
        settings.push(Setting { flag, name, value, origin: variable });
    }
    settings.extend(line);
    Ok(settings)
}

/// The layer that settings make. Later ones win over earlier ones of the same spelling.
fn layer_of(settings: &[Setting], notices: &mut Vec<Notice>) -> Result<Layer, FlagError> {
    check_spellings(settings)?;
    let bootstrap = ["initial-cluster", "discovery", "discovery-endpoints", "discovery-srv"];
    let given = |name: &&str| settings.iter().any(|s| s.name == *name && !s.value.is_empty());
    if bootstrap.iter().filter(|name| given(name)).count() > 1 {
        return Err(FlagError::Bootstrap);
    }
    let mut layer = Layer::new();
    for Setting { flag, name, value, origin } in settings {
        let parsed = value::parse(flag.kind, value).map_err(|why| match flag.kind {
            Kind::Bool => FlagError::Bool { name: (*name).to_owned(), value: value.clone() },
            _ => FlagError::Value { value: value.clone(), origin: origin.clone(), why },
        })?;
        let wrong = |why| FlagError::Value { value: value.clone(), origin: origin.clone(), why };
        match flag.treatment {
            Treatment::Noted(why) => notices.push(Notice(format!("--{name} has no effect: {why}"))),
            Treatment::Refused { harmless, why } => {
                if !harmless.contains(&value.as_str()) {
                    let origin = format!("--{name}");
                    return Err(FlagError::Refused { origin, why: why.to_owned() });
                }
            }
            Treatment::Set("feature-gates") => {
                gates::parse(value, &mut layer, notices).map_err(wrong)?;
            }
            // An empty text unsets what has no default.
            Treatment::Set(key) if flag.default.is_empty() && value.is_empty() => {
                remove(&mut layer, key);
            }
            Treatment::Set(key) => {
                let mut single = Layer::new();
                insert(&mut single, key, parsed.clone());
                check(single).map_err(wrong)?;
                insert(&mut layer, key, parsed);
            }
        }
    }
    Ok(layer)
}

/// An old and a new spelling with different values contradict each other.
fn check_spellings(settings: &[Setting]) -> Result<(), FlagError> {
    for (i, first) in settings.iter().enumerate() {
        for second in &settings[i + 1..] {
            let same_setting = first.flag.key().is_some() && std::ptr::eq(first.flag, second.flag);
            if same_setting && first.name != second.name && first.value != second.value {
                return Err(FlagError::Contradiction {
                    first: format!("--{}", first.name),
                    second: format!("--{}", second.name),
                });
            }
        }
    }
    Ok(())
}

/// Reads a layer as a configuration, only to see whether it can be.
fn check(layer: Layer) -> Result<(), String> {
    serde_json::from_value::<Config>(Value::Object(layer)).map(drop).map_err(|e| e.to_string())
}

/// Sets `key` or `outer.inner`.
fn insert(layer: &mut Layer, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            layer.insert(key.to_owned(), value);
        }
        Some((outer, inner)) => {
            let nested = layer.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(nested) = nested {
                nested.insert(inner.to_owned(), value);
            }
        }
    }
}

/// Forgets `key` or `outer.inner`.
fn remove(layer: &mut Layer, key: &str) {
    match key.split_once('.') {
        None => {
            layer.remove(key);
        }
        Some((outer, inner)) => {
            if let Some(Value::Object(nested)) = layer.get_mut(outer) {
                nested.remove(inner);
            }
        }
    }
}

#[cfg(test)]
mod tests;
