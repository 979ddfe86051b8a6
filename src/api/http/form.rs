//! Forms and query strings, as Go 1.16 reads them.

use bytes::Bytes;

/// Names and values in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::api) struct Form(Vec<(Vec<u8>, Vec<u8>)>);

impl Form {
    /// Adds the pairs of `text`; `&` and `;` part them.
    ///
    /// # Errors
    /// Go's text for the first broken escape; the other pairs are taken.
    pub(in crate::api) fn add(&mut self, text: &[u8]) -> Result<(), String> {
        let mut first_error = Ok(());
        for pair in text.split(|&byte| byte == b'&' || byte == b';') {
            if pair.is_empty() {
                continue;
            }
            let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at(at);
            let value = value.get(1..).unwrap_or_default();
            match (decoded(name, true), decoded(value, true)) {
                (Ok(name), Ok(value)) => self.0.push((name, value)),
                (Err(error), _) | (_, Err(error)) => first_error = first_error.and(Err(error)),
            }
        }
        first_error
    }

    /// The first value of `name`.
    pub(in crate::api) fn first(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|(have, _)| have == name.as_bytes());
        found.map(|(_, value)| &value[..])
    }

    /// The first value of `name`; empty where there is none.
    pub(in crate::api) fn value(&self, name: &str) -> Bytes {
        Bytes::copy_from_slice(self.first(name).unwrap_or_default())
    }

    /// All names, in order.
    pub(in crate::api) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(name, _)| &name[..])
    }
}

/// Resolves `%xx`, and `+` if `plus` says so.
///
/// # Errors
/// Go's text for a broken escape.
pub(in crate::api) fn decoded(text: &[u8], plus: bool) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            b'%' => {
                let digit = |at: usize| char::from(*tail.get(at)?).to_digit(16);
                let value = digit(0).zip(digit(1));
                let value = value.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                let Some(value) = value else {
                    let shown = rest.get(..3).unwrap_or(rest);
                    let shown = String::from_utf8_lossy(shown);
                    return Err(format!("invalid URL escape {shown:?}"));
                };
                out.push(value);
                rest = tail.get(2..).unwrap_or_default();
                continue;
            }
            b'+' if plus => out.push(b' '),
            _ => out.push(byte),
        }
        rest = tail;
    }
    Ok(out)
}

/// Whether a body of this content type is a form; an absent type is none.
///
/// # Errors
/// Go's text for a malformed one.
pub(in crate::api) fn is_form(content_type: &[u8]) -> Result<bool, &'static str> {
    if content_type.is_empty() {
        return Ok(false);
    }
    let at = content_type.iter().position(|&byte| byte == b';').unwrap_or(content_type.len());
    let (kind, params) = content_type.split_at(at);
    let kind = kind.trim_ascii().to_ascii_lowercase();
    let (main, rest) = token(&kind);
    match (main, rest) {
        (b"", _) => return Err("mime: no media type"),
        (_, b"") => {}
        (_, [b'/', rest @ ..]) => match token(rest) {
            (b"", _) => return Err("mime: expected token after slash"),
            (_, b"") => {}
            _ => return Err("mime: unexpected content after media subtype"),
        },
        _ => return Err("mime: expected slash after first token"),
    }
    check_params(params)?;
    Ok(kind == b"application/x-www-form-urlencoded")
}

/// Parameters of a content type: `; name=value` each; one semicolon may be left over.
fn check_params(mut rest: &[u8]) -> Result<(), &'static str> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    loop {
        rest = rest.trim_ascii();
        if rest.is_empty() || rest == b";" {
            return Ok(());
        }
        let (name, after) = param(rest).ok_or("mime: invalid media parameter")?;
        let name = name.to_ascii_lowercase();
        if names.contains(&name) {
            return Err("mime: duplicate parameter name");
        }
        names.push(name);
        rest = after;
    }
}

fn param(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = token(rest.strip_prefix(b";")?.trim_ascii_start());
    let rest = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    if name.is_empty() {
        return None;
    }
    let Some(quoted) = rest.strip_prefix(b"\"") else {
        let (value, rest) = token(rest);
        return (!value.is_empty()).then_some((name, rest));
    };
    let mut escaped = false;
    for (at, &byte) in quoted.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((name, quoted.get(at + 1..)?)),
            b'\r' | b'\n' => return None,
            _ => {}
        }
    }
    None
}

/// The token at the front, and the rest.
fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let is_token = |byte: &u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(byte);
    text.split_at(text.iter().position(|byte| !is_token(byte)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_by_go() {
        let mut form = Form::default();
        form.add(b"a=1&&b=x+y%2B;c&=z&a=2&%64=%ff").unwrap();
        assert_eq!(form.first("a"), Some(&b"1"[..]), "the first wins");
        assert_eq!(form.value("b"), "x y+");
        assert_eq!((form.first("c"), form.first("none")), (Some(&b""[..]), None));
        assert_eq!(form.value("d")[..], [0xff]);
        for (text, want) in [
            ("a=%zz", "invalid URL escape \"%zz\""),
            ("a=1&%z=2", "invalid URL escape \"%z\""),
            ("a=%", "invalid URL escape \"%\""),
        ] {
            let mut form = Form::default();
            assert_eq!(form.add(text.as_bytes()), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn content_types_are_read_as_by_go() {
        for (text, want) in [
            ("", Ok(false)),
            ("application/json", Ok(false)),
            ("application/x-www-form-urlencoded", Ok(true)),
            (" APPLICATION/x-www-form-urlencoded ; charset=\"a\\\"b\"; ", Ok(true)),
            ("multipart/form-data; boundary=x", Ok(false)),
            (";;", Err("mime: no media type")),
            ("a b/c", Err("mime: expected slash after first token")),
            ("a/", Err("mime: expected token after slash")),
            ("a/b c", Err("mime: unexpected content after media subtype")),
            ("a/b; c", Err("mime: invalid media parameter")),
            ("a/b; c=\"", Err("mime: invalid media parameter")),
            ("a/b; c=1; C=2", Err("mime: duplicate parameter name")),
        ] {
            assert_eq!(is_form(text.as_bytes()), want, "{text}");
        }
    }
}
