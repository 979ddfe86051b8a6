//! Texts of flags as values, by the rules of Go's `strconv` and `flag`.

use serde_json::Value;

use super::Kind;
use crate::config::{Urls, duration};

/// What Go says to a number that is none.
const PARSE_ERROR: &str = "parse error";
/// What Go says to a number too large for its type.
const RANGE_ERROR: &str = "value out of range";

/// Reads `text` as `kind`. Durations and URLs stay texts, but well-formed ones.
pub(super) fn parse(kind: Kind, text: &str) -> Result<Value, String> {
    let uint = |max: u64| -> Result<Value, String> {
        match parse_uint(text) {
            Some(value) if value <= u128::from(max) => {
                u64::try_from(value).map(Value::from).map_err(|_| RANGE_ERROR.to_owned())
            }
            Some(_) => Err(RANGE_ERROR.to_owned()),
            None => Err(PARSE_ERROR.to_owned()),
        }
    };
    match kind {
        Kind::Bool => parse_bool(text).map(Value::from).ok_or_else(|| PARSE_ERROR.to_owned()),
        Kind::Uint => uint(u64::MAX),
        Kind::Uint32 => uint(u64::from(u32::MAX)),
        Kind::Int => {
            let (negative, digits) = match text.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, text.strip_prefix('+').unwrap_or(text)),
            };
            let magnitude = parse_uint(digits).ok_or(PARSE_ERROR)?;
            let magnitude = i128::try_from(magnitude).map_err(|_| RANGE_ERROR)?;
            let value = if negative { -magnitude } else { magnitude };
            i64::try_from(value).map(Value::from).map_err(|_| RANGE_ERROR.to_owned())
        }
        Kind::Dur => match duration::parse(text) {
            Ok(_) => Ok(Value::from(text)),
            Err(duration::DurationError::Negative(_)) => Err("must not be negative".to_owned()),
            Err(_) => Err(PARSE_ERROR.to_owned()),
        },
        Kind::Str => Ok(Value::from(text)),
        Kind::List => {
            Ok(text.split(',').filter(|item| !item.is_empty()).map(Value::from).collect())
        }
        Kind::Url => match text.parse::<Urls>() {
            Ok(_) => Ok(Value::from(text)),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Go's truth values.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// An unsigned number in base 10, or 16, 8, 2 by prefix; underscores between digits.
fn parse_uint(text: &str) -> Option<u128> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let outer_underscore = digits.ends_with('_') || (radix == 10 && digits.starts_with('_'));
    if outer_underscore || digits.contains("__") || digits.starts_with(['+', '-']) {
        return None;
    }
    // Larger than any flag's type is still "out of range", not "no number".
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some(u128::from_str_radix(&digits, radix).unwrap_or(u128::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_go() {
        let cases: [(Kind, &str, Result<Value, &str>); 11] = [
            (Kind::Uint, "100", Ok(100.into())),
            (Kind::Uint, "0x10", Ok(16.into())),
            (Kind::Uint, "010", Ok(8.into())),
            (Kind::Uint, "1_000", Ok(1000.into())),
            (Kind::Uint, "-1", Err(PARSE_ERROR)),
            (Kind::Uint, "", Err(PARSE_ERROR)),
            (Kind::Uint, "99999999999999999999", Err(RANGE_ERROR)),
            (Kind::Uint32, "4294967296", Err(RANGE_ERROR)),
            (Kind::Int, "-5", Ok((-5).into())),
            (Kind::Int, "9223372036854775808", Err(RANGE_ERROR)),
            (Kind::Bool, "yes", Err(PARSE_ERROR)),
        ];
        for (kind, text, want) in cases {
            assert_eq!(parse(kind, text), want.map_err(str::to_owned), "{text}");
        }
    }
}
