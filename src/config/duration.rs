//! Durations as Go writes them: `1h30m`, `100ms`, `1.5s`.
//!
//! etcd's flags, environment and file all use this form; its YAML file also takes whole
//! nanoseconds. Source: Go `time.ParseDuration`, <https://pkg.go.dev/time#ParseDuration>.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Deserializer, Serializer, de};

/// Why a text is no duration; the message is Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a sequence of numbers with units.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number stands without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit Go does not know.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit read.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// Below zero, which no setting here means.
    #[error("negative duration {0:?}")]
    Negative(String),
}

const UNITS_NS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),  // micro sign
    ("\u{3bc}s", 1_000), // Greek letter mu
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a Go duration. `0` needs no unit; parts add up (`1h30m`); fractions are allowed.
///
/// # Errors
/// [`DurationError`], with Go's wording. Values beyond 2^63 ns are invalid, as in Go.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total_ns: u64 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let part = parse_part(text, number, unit)?;
        total_ns = total_ns.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    if total_ns > i64::MAX.unsigned_abs() {
        return Err(invalid());
    }
    if negative && total_ns != 0 {
        return Err(DurationError::Negative(text.to_owned()));
    }
    Ok(Duration::from_nanos(total_ns))
}

/// One `number unit` pair in nanoseconds.
fn parse_part(text: &str, number: &str, unit: &str) -> Result<u64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(invalid());
    }
    if unit.is_empty() {
        return Err(DurationError::MissingUnit(text.to_owned()));
    }
    let (_, unit_ns) = UNITS_NS.iter().find(|(name, _)| *name == unit).ok_or_else(|| {
        DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }
    })?;
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let mut total = whole.checked_mul(*unit_ns).ok_or_else(invalid)?;
    let mut place = *unit_ns;
    for digit in fraction.bytes() {
        place /= 10;
        total = total.checked_add(u64::from(digit - b'0') * place).ok_or_else(invalid)?;
    }
    Ok(total)
}

/// Writes a duration the way Go prints it: `1h30m0s`, `2.5s`, `100ms`, `0s`.
#[must_use]
pub fn format(duration: Duration) -> String {
    let ns = duration.as_nanos();
    if ns == 0 {
        return "0s".to_owned();
    }
    let fraction = |value: u128, unit: u128, name: &str| {
        let mut text = format!("{}", value / unit);
        let rest = value % unit;
        if rest != 0 {
            let digits = unit.ilog10() as usize;
            let padded = format!("{rest:0digits$}");
            let _ = write!(text, ".{}", padded.trim_end_matches('0'));
        }
        text + name
    };
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => fraction(ns, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => fraction(ns, 1_000_000, "ms"),
        _ => {
            let seconds = ns / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = fraction(ns % 60_000_000_000, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => rest,
                (0, _) => format!("{minutes}m{rest}"),
                _ => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

/// Serde form: a Go duration text, or whole nanoseconds as etcd's YAML file has it.
pub(super) mod serde_go {
    use super::{Deserialize, Deserializer, Duration, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Nanoseconds(u64),
        Text(String),
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Nanoseconds(ns) => Ok(Duration::from_nanos(ns)),
            Form::Text(text) => super::parse(&text).map_err(de::Error::custom),
        }
    }

    pub(in super::super) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_read_and_print() {
        let cases: [(&str, u64, &str); 10] = [
            ("0", 0, "0s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("100ms", 100_000_000, "100ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("10us", 10_000, "10\u{b5}s"),
            ("\u{b5}s", 0, ""),
            (".5m", 30_000_000_000, "30s"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("72h3m0.5s", 259_380_500_000_000, "72h3m0.5s"),
            ("7ns", 7, "7ns"),
        ];
        for (text, ns, printed) in cases {
            if printed.is_empty() {
                assert!(parse(text).is_err(), "{text}");
                continue;
            }
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
            assert_eq!(format(Duration::from_nanos(ns)), printed, "{text}");
        }
    }

    #[test]
    fn wrong_durations_fail_with_gos_words() {
        let cases = [
            ("", "time: invalid duration \"\""),
            ("xx", "time: invalid duration \"xx\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5y", "time: unknown unit \"y\" in duration \"5y\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("99999999999h", "time: invalid duration \"99999999999h\""),
            ("-5s", "negative duration \"-5s\""),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
        }
    }
}
