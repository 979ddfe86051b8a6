//! Automatic compaction: mode and retention.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, duration};

/// How the retention is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum CompactionMode {
    /// By age.
    #[default]
    Periodic,
    /// By number of revisions.
    Revision,
}

/// A mode nobody knows. Text is etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown auto-compaction-mode {0:?}")]
pub struct UnknownMode(String);

impl TryFrom<String> for CompactionMode {
    type Error = UnknownMode;

    fn try_from(text: String) -> Result<Self, UnknownMode> {
        match text.as_str() {
            "periodic" => Ok(Self::Periodic),
            "revision" => Ok(Self::Revision),
            _ => Err(UnknownMode(text)),
        }
    }
}

/// What automatic compaction keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Revisions younger than this.
    Periodic(Duration),
    /// This many newest revisions.
    Revision(u64),
}

impl AutoCompaction {
    /// Reads a retention. A bare number is hours in periodic mode, revisions in revision mode; a
    /// duration in revision mode counts its nanoseconds, as etcd does. Zero or less is off.
    pub(super) fn parse(mode: CompactionMode, text: &str) -> Result<Option<Self>, ConfigError> {
        let wrong = |source| ConfigError::CompactionRetention { source };
        let kept = match (text.parse::<i64>(), mode) {
            (Ok(number), _) if number <= 0 => return Ok(None),
            (Ok(number), CompactionMode::Revision) => Self::Revision(number.unsigned_abs()),
            (Ok(hours), CompactionMode::Periodic) => {
                let seconds = hours
                    .unsigned_abs()
                    .checked_mul(3600)
                    .ok_or_else(|| wrong(duration::DurationError::Invalid(text.to_owned())))?;
                Self::Periodic(Duration::from_secs(seconds))
            }
            (Err(_), _) => {
                let kept = duration::parse(text).map_err(wrong)?;
                match mode {
                    _ if kept.is_zero() => return Ok(None),
                    CompactionMode::Periodic => Self::Periodic(kept),
                    CompactionMode::Revision => {
                        let ns = u64::try_from(kept.as_nanos()).unwrap_or(u64::MAX);
                        Self::Revision(ns)
                    }
                }
            }
        };
        Ok(Some(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_hours_duration_or_revisions() {
        use CompactionMode::{Periodic, Revision};
        let hour = Duration::from_secs(3600);
        let cases = [
            (Periodic, "0", Ok(None)),
            (Periodic, "5", Ok(Some(AutoCompaction::Periodic(5 * hour)))),
            (Periodic, "1h", Ok(Some(AutoCompaction::Periodic(hour)))),
            (Periodic, "90s", Ok(Some(AutoCompaction::Periodic(hour / 40)))),
            (Periodic, "-3", Ok(None)),
            (Revision, "1000", Ok(Some(AutoCompaction::Revision(1000)))),
            (Revision, "1us", Ok(Some(AutoCompaction::Revision(1000)))),
            (
                Periodic,
                "xx",
                Err("error parsing CompactionRetention: time: invalid duration \"xx\""),
            ),
        ];
        for (mode, text, want) in cases {
            let got = AutoCompaction::parse(mode, text).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{mode:?} {text}");
        }
    }
}
