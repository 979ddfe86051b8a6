//! The JSON grammar: tokens, strings, and values that nobody asked for.

use std::borrow::Cow;

use super::SKIP_DEPTH_MAX;

/// Why a JSON text is refused. Positions count bytes from the start of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The text ends inside a value.
    #[error("unexpected EOF")]
    UnexpectedEnd,
    /// A byte that the grammar does not allow here.
    #[error("invalid character at byte {at}: expected {expected}")]
    Unexpected {
        /// Where.
        at: usize,
        /// What could have stood here.
        expected: &'static str,
    },
    /// A value of another type than the field's.
    #[error("wrong value for field {field:?} at byte {at}: expected {expected}")]
    WrongType {
        /// The field, by its proto name.
        field: String,
        /// Where the value starts.
        at: usize,
        /// What the field takes.
        expected: &'static str,
    },
    /// The value is no object.
    #[error("wrong value at byte {at}: expected an object")]
    NotAnObject {
        /// Where the value starts.
        at: usize,
    },
    /// Bytes that are no base64.
    #[error("illegal base64 data in field {field:?} at byte {at}")]
    Base64 {
        /// The field, by its proto name.
        field: String,
        /// Where the value starts.
        at: usize,
    },
    /// An enum has no value of that name.
    #[error("unknown value {value:?} for enum field {field:?}")]
    UnknownEnumName {
        /// The field, by its proto name.
        field: String,
        /// The name asked for, shortened.
        value: String,
    },
    /// Nested too deeply.
    #[error("exceeded max depth at byte {at}")]
    TooDeep {
        /// Where.
        at: usize,
    },
    /// Members are given again and again, each time to be moved out of the way.
    #[error("members are repeated too often at byte {at}")]
    Repetitive {
        /// Where.
        at: usize,
    },
    /// One document of a stream is larger than the bound.
    #[error("a message is larger than {limit} bytes of JSON")]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
}

/// A position in a JSON text.
pub(super) struct Reader<'a> {
    text: &'a [u8],
    pub(super) at: usize,
}

/// A string as it stands between its quotes; checked, escapes not yet resolved.
#[derive(Clone, Copy)]
pub(super) struct RawString<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Bytes left.
    pub(super) fn remaining(&self) -> usize {
        self.text.len() - self.at
    }

    /// The text from `start` up to the current position.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.at]
    }

    pub(super) fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    /// The next byte, without taking it.
    pub(super) fn peek(&self) -> Result<u8, JsonError> {
        self.text.get(self.at).copied().ok_or(JsonError::UnexpectedEnd)
    }

    pub(super) fn unexpected<T>(&self, expected: &'static str) -> Result<T, JsonError> {
        match self.text.get(self.at) {
            Some(_) => Err(JsonError::Unexpected { at: self.at, expected }),
            None => Err(JsonError::UnexpectedEnd),
        }
    }

    /// Takes `byte` if it is next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let next = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(next);
        next
    }

    /// Takes one of the words `true`, `false`, `null`.
    pub(super) fn literal(&mut self, word: &'static str) -> Result<(), JsonError> {
        for byte in word.bytes() {
            if !self.take(byte) {
                return self.unexpected(word);
            }
        }
        Ok(())
    }

    /// Takes a member's name with its colon; space before it is already skipped.
    pub(super) fn key(&mut self) -> Result<RawString<'a>, JsonError> {
        if self.peek()? != b'"' {
            return self.unexpected("a member name");
        }
        let key = self.string()?;
        self.skip_space();
        if !self.take(b':') {
            return self.unexpected("':'");
        }
        self.skip_space();
        Ok(key)
    }

    /// Takes a string; the next byte is its opening quote.
    pub(super) fn string(&mut self) -> Result<RawString<'a>, JsonError> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = &self.text[self.at..];
            let Some(plain) = rest.iter().position(|&byte| ENDS_PLAIN_RUN[usize::from(byte)])
            else {
                return Err(JsonError::UnexpectedEnd);
            };
            self.at += plain;
            match rest[plain] {
                b'"' => {
                    let raw = self.since(start);
                    self.at += 1;
                    return Ok(RawString { raw, escaped });
                }
                b'\\' => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                _ => return self.unexpected("no control character in a string"),
            }
        }
    }

    /// Checks what follows a backslash.
    fn escape(&mut self) -> Result<(), JsonError> {
        match self.peek()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek()?.is_ascii_hexdigit() {
                        return self.unexpected("a hexadecimal digit");
                    }
                    self.at += 1;
                }
            }
            _ => return self.unexpected("an escape sequence"),
        }
        Ok(())
    }

    /// Takes a number and returns its text; the next byte is a digit or a minus.
    pub(super) fn number(&mut self) -> Result<&'a [u8], JsonError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        Ok(self.since(start))
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.text[self.at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        if digits == 0 { self.unexpected("a digit") } else { Ok(()) }
    }

    /// Takes any value and forgets it, checking the grammar. Iterative: depth costs no stack.
    pub(super) fn skip_value(&mut self) -> Result<(), JsonError> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.skip_space();
            match self.peek()? {
                b'"' => self.string().map(drop)?,
                b'-' | b'0'..=b'9' => self.number().map(drop)?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    self.skip_space();
                    if !self.take(bracket + 2) {
                        if open.len() == SKIP_DEPTH_MAX {
                            return Err(JsonError::TooDeep { at: self.at });
                        }
                        open.push(bracket);
                        if bracket == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                _ => return self.unexpected("a value"),
            }
            if self.after_value(&mut open)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what ends here; true when the outermost value is complete, false
    /// when another value follows.
    fn after_value(&mut self, open: &mut Vec<u8>) -> Result<bool, JsonError> {
        while let Some(&bracket) = open.last() {
            self.skip_space();
            if self.take(b',') {
                if bracket == b'{' {
                    self.skip_space();
                    self.key()?;
                }
                return Ok(false);
            }
            // In ASCII each closing bracket stands two places after its opening one.
            if !self.take(bracket + 2) {
                return self.unexpected("',' or a closing bracket");
            }
            open.pop();
        }
        Ok(true)
    }
}

/// Bytes at which a run of ordinary string bytes stops: quote, backslash, control characters.
const ENDS_PLAIN_RUN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

impl<'a> RawString<'a> {
    /// The string with escapes resolved; a lone surrogate becomes U+FFFD.
    pub(super) fn resolve(self) -> Cow<'a, [u8]> {
        if self.escaped { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }
}

/// Resolves the escapes of a checked string.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&kind, tail)) = rest.split_first() else { break };
        rest = tail;
        match kind {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let unit = code_unit(&mut rest);
                let letter = match unit {
                    0xd800..=0xdbff => pair(unit, &mut rest),
                    _ => char::from_u32(unit),
                };
                let letter = letter.unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => out.push(other),
        }
    }
    out
}

/// Takes four checked hexadecimal digits.
fn code_unit(rest: &mut &[u8]) -> u32 {
    let (digits, tail) = rest.split_at(rest.len().min(4));
    *rest = tail;
    digits.iter().fold(0, |unit, &d| unit << 4 | char::from(d).to_digit(16).unwrap_or(0))
}

/// Takes the second half of a surrogate pair, if there is one.
fn pair(high: u32, rest: &mut &[u8]) -> Option<char> {
    let mut ahead = rest.strip_prefix(b"\\u")?;
    let low = code_unit(&mut ahead);
    if !(0xdc00..=0xdfff).contains(&low) {
        return None;
    }
    *rest = ahead;
    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
}
