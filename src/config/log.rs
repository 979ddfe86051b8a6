//! Logging settings.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Least severe level written. `panic` and `fatal` are zap's; nothing here logs below them, so
/// they leave errors out too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object, as zap writes it.
    #[default]
    Json,
    /// Columns for people, fields as JSON behind them.
    Console,
}

/// One target of log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// Targets of log lines; every line goes to each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOutputs(pub Vec<LogOutput>);

impl Default for LogOutputs {
    fn default() -> Self {
        Self(vec![LogOutput::Stderr])
    }
}

impl LogOutputs {
    /// Reads a comma separated list. `default` is standard error.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut outputs = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let output = match item {
                "default" | "stderr" | "/dev/stderr" => LogOutput::Stderr,
                "stdout" | "/dev/stdout" => LogOutput::Stdout,
                path => LogOutput::File(PathBuf::from(path)),
            };
            if !outputs.contains(&output) {
                outputs.push(output);
            }
        }
        if outputs.is_empty() { Self::default() } else { Self(outputs) }
    }
}

impl Serialize for LogOutputs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|output| match output {
            LogOutput::Stderr => "stderr".to_owned(),
            LogOutput::Stdout => "stdout".to_owned(),
            LogOutput::File(path) => path.display().to_string(),
        }))
    }
}

impl<'de> Deserialize<'de> for LogOutputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::One(text) => Self::parse(&text),
            Form::Many(items) => Self::parse(&items.join(",")),
        })
    }
}
