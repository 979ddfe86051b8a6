//! Integers in JSON: `7`, and what only the later gateway takes, `7.0` and `7e3`.

/// A whole number as sign and magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Integer {
    negative: bool,
    magnitude: u64,
}

impl Integer {
    /// Reads a number that follows the JSON grammar. `None` when it is not whole or above 64
    /// bits.
    pub(super) fn parse(number: &[u8]) -> Option<Self> {
        let (negative, digits) = match number.strip_prefix(b"-") {
            Some(digits) => (true, digits),
            None => (false, number),
        };
        let magnitude = if digits.iter().all(u8::is_ascii_digit) {
            decimal(digits.iter().copied())?
        } else {
            scientific(digits)?
        };
        Some(Self { negative, magnitude })
    }

    pub(super) fn to_i64(self) -> Option<i64> {
        let signed = i128::from(self.magnitude);
        i64::try_from(if self.negative { -signed } else { signed }).ok()
    }

    pub(super) fn to_u64(self) -> Option<u64> {
        (!self.negative).then_some(self.magnitude)
    }
}

fn decimal(digits: impl IntoIterator<Item = u8>) -> Option<u64> {
    digits
        .into_iter()
        .try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// `12.50e2`: the digits without the point, scaled by what is left of the exponent.
fn scientific(text: &[u8]) -> Option<u64> {
    let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&text[..at], exponent(&text[at + 1..])),
        None => (text, 0),
    };
    let whole = mantissa.iter().position(|&b| b == b'.').unwrap_or(mantissa.len());
    let fraction = mantissa.get(whole + 1..).unwrap_or_default();
    let mut digits = [&mantissa[..whole], fraction].concat();
    let mut scale = exponent - i64::try_from(fraction.len()).ok()?;
    while digits.last() == Some(&b'0') {
        digits.pop();
        scale += 1;
    }
    if digits.is_empty() {
        return Some(0);
    }
    let factor = 10_u64.checked_pow(u32::try_from(scale).ok()?)?;
    decimal(digits)?.checked_mul(factor)
}

/// An exponent, held within bounds no 64-bit number reaches.
fn exponent(text: &[u8]) -> i64 {
    let (sign, digits) = match text.split_first() {
        Some((b'-', digits)) => (-1, digits),
        Some((b'+', digits)) => (1, digits),
        _ => (1, text),
    };
    let value = decimal(digits.iter().copied()).and_then(|value| i64::try_from(value).ok());
    sign * value.unwrap_or(i64::from(u32::MAX)).min(i64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::Integer;

    #[test]
    fn whole_numbers_of_any_spelling_are_read() {
        let cases = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("99999999999999999999", None),
            ("1.0", Some(1)),
            ("1.5", None),
            ("1.5e1", Some(15)),
            ("1e3", Some(1000)),
            ("1E+2", Some(100)),
            ("100e-2", Some(1)),
            ("1e-1", None),
            ("0e99999999999999999999", Some(0)),
            ("0.000", Some(0)),
            ("1e99999999999999999999", None),
            ("1e-99999999999999999999", None),
            ("9.223372036854775807e18", Some(i64::MAX)),
            ("9223372036854775807000e-3", Some(i64::MAX)),
        ];
        for (text, want) in cases {
            assert_eq!(Integer::parse(text.as_bytes()).and_then(Integer::to_i64), want, "{text}");
        }
    }

    #[test]
    fn unsigned_numbers_take_no_sign() {
        let read = |text: &str| Integer::parse(text.as_bytes()).and_then(Integer::to_u64);
        assert_eq!(read("18446744073709551615"), Some(u64::MAX));
        assert_eq!(read("18446744073709551616"), None);
        assert_eq!(read("-1"), None);
    }
}
