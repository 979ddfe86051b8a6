//! etcd's YAML configuration file as a layer.

use serde_json::{Map, Value};

use super::{FlagError, Layer, Notice, Treatment, all_flags, check, gates, hint};

/// Bytes of a configuration file; a real one has a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys that only files have, with what they mean here.
const OLD_KEYS: [&str; 3] = ["log-package-levels", "debug", "grpc-additional-server-options"];
/// Sections of files that the configuration has in the same shape.
const SECTIONS: [&str; 3] =
    ["client-transport-security", "peer-transport-security", "socket-options"];

/// Reads the file at `path`.
pub(super) fn read(path: &str, notices: &mut Vec<Notice>) -> Result<Layer, FlagError> {
    let io = |source| FlagError::ReadFile { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > FILE_BYTES_MAX {
        let why = format!("it has {bytes} bytes, more than {FILE_BYTES_MAX}");
        return Err(FlagError::File { path: path.to_owned(), why });
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    layer_of(&text, path, notices)
}

/// Turns the text of a file into a layer.
pub(super) fn layer_of(
    text: &str,
    path: &str,
    notices: &mut Vec<Notice>,
) -> Result<Layer, FlagError> {
    let wrong = |why: String| FlagError::File { path: path.to_owned(), why };
    let read: Option<Map<String, Value>> =
        serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let mut layer = Layer::new();
    for (key, value) in read.unwrap_or_default() {
        let Some(value) = without_unset(value) else { continue };
        match treatment(&key) {
            Some(Treatment::Set("feature-gates")) => {
                gates::parse(&text_of(&value), &mut layer, notices).map_err(wrong)?;
            }
            Some(Treatment::Set(_)) => {
                let value = in_shape(&key, value);
                let mut single = Layer::new();
                single.insert(key.clone(), value.clone());
                check(single).map_err(|why| wrong(format!("{key}: {why}")))?;
                layer.insert(key, value);
            }
            Some(Treatment::Noted(why)) => {
                notices.push(Notice(format!("{key} in {path} has no effect: {why}")));
            }
            Some(Treatment::Refused { harmless, why }) => {
                if !harmless.contains(&text_of(&value).as_str()) {
                    let origin = format!("{key} in {path}");
                    return Err(FlagError::Refused { origin, why: why.to_owned() });
                }
            }
            None => {
                let hint = hint(&key);
                return Err(FlagError::UnknownKey { key, path: path.to_owned(), hint });
            }
        }
    }
    Ok(layer)
}

/// What happens to a top-level key.
fn treatment(key: &str) -> Option<Treatment> {
    if let Some(section) = SECTIONS.iter().find(|section| **section == key) {
        return Some(Treatment::Set(section));
    }
    if OLD_KEYS.contains(&key) {
        return Some(Treatment::Noted("this setting is gone since etcd 3.5"));
    }
    if key == "discovery-config" {
        let why = "discovery services are not asked: name all members in initial-cluster";
        return Some(Treatment::Noted(why));
    }
    // A file writes certificate settings only inside their sections.
    let flag = all_flags().find(|flag| flag.names.contains(&key))?;
    match flag.treatment {
        Treatment::Set(target) if target.contains('.') => None,
        other => Some(other),
    }
}

/// Drops nulls and empty texts: in etcd's file both leave the default.
fn without_unset(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Object(map) => Some(Value::Object(
            map.into_iter().filter_map(|(key, value)| Some((key, without_unset(value)?))).collect(),
        )),
        other => Some(other),
    }
}

/// A list may be written as one text with commas, a number where a text is meant.
fn in_shape(key: &str, value: Value) -> Value {
    const LISTS: [&str; 3] = ["cipher-suites", "allowed-cn", "allowed-hostname"];
    const TEXTS: [&str; 4] =
        ["auto-compaction-retention", "name", "initial-cluster-token", "auth-token"];
    match value {
        Value::String(text) if LISTS.contains(&key) => {
            text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Value::from).collect()
        }
        Value::Number(number) if TEXTS.contains(&key) => Value::String(number.to_string()),
        Value::Object(map) => Value::Object(
            map.into_iter().map(|(key, value)| (key.clone(), in_shape(&key, value))).collect(),
        ),
        other => other,
    }
}

/// A scalar as a flag would write it.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
