//! Go's text forms that etcdctl's input and output are made of: quoted strings, integers, shell
//! like words, byte sizes.

use std::borrow::Cow;

/// Why a text is no number; the message is Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("strconv.{function}: parsing {}: {problem}", quote(text.as_bytes()))]
pub(super) struct NumberError {
    function: &'static str,
    text: String,
    problem: &'static str,
}

/// `strconv.ParseInt` in one base.
pub(super) fn parse_int(text: &str, radix: u32) -> Result<i64, NumberError> {
    i64::from_str_radix(text, radix).map_err(|error| number_error("ParseInt", text, &error))
}

/// `strconv.ParseUint` in one base. A sign is no digit.
pub(super) fn parse_uint(text: &str, radix: u32) -> Result<u64, NumberError> {
    let digits = if text.starts_with('+') { "" } else { text };
    u64::from_str_radix(digits, radix).map_err(|error| number_error("ParseUint", text, &error))
}

fn number_error(
    function: &'static str,
    text: &str,
    error: &std::num::ParseIntError,
) -> NumberError {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let problem = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    NumberError { function, text: text.to_owned(), problem }
}

/// A text in double quotes as Go's `%q` prints bytes.
pub(super) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(c, &mut quoted);
        }
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

fn quote_char(c: char, quoted: &mut String) {
    match c {
        '"' | '\\' => quoted.extend(['\\', c]),
        '\x07' => quoted.push_str("\\a"),
        '\x08' => quoted.push_str("\\b"),
        '\x0c' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\x0b' => quoted.push_str("\\v"),
        c if c < ' ' || c == '\x7f' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if is_printable(c) => quoted.push(c),
        c if u32::from(c) < 0x1_0000 => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}

/// Printable in Go's sense: letters, marks, numbers, punctuation, symbols, and the plain space.
fn is_printable(c: char) -> bool {
    // Behind another character, so that a combining mark counts as printable.
    let text: String = ['a', c].into_iter().collect();
    c == '\'' || text.escape_debug().count() == 2
}

/// Reads a Go string literal at the start of `text`: its bytes and what follows.
pub(super) fn unquote_prefix(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(rest) = text.strip_prefix('`') {
        let (raw, rest) = rest.split_once('`')?;
        return Some((raw.as_bytes().to_vec(), rest));
    }
    let mut rest = text.strip_prefix('"')?;
    let mut bytes = Vec::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((bytes, rest)),
            '\n' => return None,
            '\\' => rest = unescape(rest, &mut bytes)?,
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Reads one escape behind its backslash and returns what follows.
fn unescape<'a>(rest: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let c = rest.chars().next()?;
    let simple = match c {
        'a' => Some(0x07),
        'b' => Some(0x08),
        'f' => Some(0x0c),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(0x0b),
        '\\' => Some(b'\\'),
        '"' => Some(b'"'),
        _ => None,
    };
    if let Some(byte) = simple {
        bytes.push(byte);
        return Some(&rest[1..]);
    }
    let (digits, skipped, radix) = match c {
        'x' => (2, 1, 16),
        'u' => (4, 1, 16),
        'U' => (8, 1, 16),
        '0'..='7' => (3, 0, 8),
        _ => return None,
    };
    let number = rest.get(skipped..skipped + digits)?;
    let value = u32::from_str_radix(number, radix).ok()?;
    match c {
        'u' | 'U' => {
            let c = char::from_u32(value)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        _ => bytes.push(u8::try_from(value).ok()?),
    }
    Some(&rest[skipped + digits..])
}

/// Splits a line into words: `"..."` with Go's escapes, `'...'` as it stands, or bare.
pub(super) fn words(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, tail) = match first {
            '"' => unquote_prefix(rest).ok_or_else(|| format!("invalid quoted string: {rest}"))?,
            '\'' => rest[1..]
                .split_once('\'')
                .map(|(word, tail)| (word.as_bytes().to_vec(), tail))
                .ok_or_else(|| format!("invalid quoted string: {rest}"))?,
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        words.push(word);
        rest = tail.trim_start();
    }
    Ok(words)
}

/// A byte size in decimal units with at most two digits, such as `20 kB` or `1.5 MB`.
pub(super) fn byte_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog10() / 3).min(6);
    let unit = 1000_u128.pow(exponent);
    // Tenths, rounded half up.
    let tenths = (u128::from(bytes) * 20 / unit).div_ceil(2);
    let name = UNITS[exponent as usize];
    if tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", (tenths + 4) / 10)
    }
}

/// A JSON string as Go's encoder writes it, which also escapes what HTML would read.
pub(super) fn json_string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        let escaped: Cow<'_, str> = match c {
            '"' => "\\\"".into(),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\r' => "\\r".into(),
            '\t' => "\\t".into(),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => format!("\\u{:04x}", u32::from(c)).into(),
            c if c < ' ' => format!("\\u{:04x}", u32::from(c)).into(),
            c => c.to_string().into(),
        };
        json.push_str(&escaped);
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_gos() {
        let cases: [(&[u8], &str); 6] = [
            (b"k\"2", r#""k\"2""#),
            (b"bin\x01\xff\n", r#""bin\x01\xff\n""#),
            ("é中'".as_bytes(), "\"é中'\""),
            ("\u{200b}\u{ad}".as_bytes(), r#""\u200b\u00ad""#),
            ("e\u{301}".as_bytes(), "\"e\u{301}\""),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
        ];
        for (bytes, want) in cases {
            assert_eq!(quote(bytes), want);
        }
    }

    #[test]
    fn quoted_text_reads_back() {
        for bytes in [&b"a b"[..], b"\x00\xff\"\\\n", "é\u{200b}".as_bytes(), b""] {
            let quoted = quote(bytes) + " tail";
            assert_eq!(unquote_prefix(&quoted), Some((bytes.to_vec(), " tail")), "{quoted}");
        }
        for wrong in ["\"a", "a\"", "\"\\q\"", "\"\\x4\"", ""] {
            assert_eq!(unquote_prefix(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn words_are_bare_or_quoted() {
        let got = words(r#" put  k1 'a b' "c\td\x41"  "#).unwrap();
        assert_eq!(got, [&b"put"[..], b"k1", b"a b", b"c\tdA"]);
        assert!(words("put \"a").is_err());
    }

    #[test]
    fn sizes_are_decimal() {
        let cases = [
            (5, "5 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (20_480, "20 kB"),
            (24_576, "25 kB"),
            (1_572_864, "1.6 MB"),
            (82_854_982, "83 MB"),
        ];
        for (bytes, want) in cases {
            assert_eq!(byte_size(bytes), want);
        }
    }

    #[test]
    fn numbers_fail_with_gos_words() {
        assert_eq!(
            parse_int("zz", 16).unwrap_err().to_string(),
            "strconv.ParseInt: parsing \"zz\": invalid syntax"
        );
        assert_eq!(
            parse_uint("1ffffffffffffffff", 16).unwrap_err().to_string(),
            "strconv.ParseUint: parsing \"1ffffffffffffffff\": value out of range"
        );
        assert_eq!(parse_int("-7f", 16), Ok(-0x7f));
    }
}
