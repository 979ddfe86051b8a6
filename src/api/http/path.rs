//! Paths that are not spelt as the routes are: old prefixes, escapes, stray slashes and dots.

use std::borrow::Cow;

/// What to do with a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// Serve this path.
    Path(Cow<'a, str>),
    /// Send the client to this path.
    Moved(String),
}

/// Resolves a path that no route matched as it stands.
pub(super) fn resolve(path: &str) -> Target<'_> {
    let mut path = percent_decoded(path);
    if let Some(rest) = path.strip_prefix("/v3beta/") {
        path = Cow::Owned(format!("/v3/{rest}"));
    }
    let clean = clean(&path);
    if clean != *path || path == "/v3" {
        let slash = if path == "/v3" { "/" } else { "" };
        return Target::Moved(format!("{clean}{slash}"));
    }
    Target::Path(path)
}

/// The path without empty, `.` and `..` segments; a slash at the end stays.
fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if clean.is_empty() || path.ends_with('/') {
        clean.push('/');
    }
    clean
}

/// Resolves `%xx`. Text that is no UTF-8 afterwards, or a bad escape, stays as it was: no
/// route has such a path.
pub(super) fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| char::from(*tail.get(at)?).to_digit(16);
        let value =
            digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        let Some(value) = value else { return Cow::Borrowed(text) };
        bytes.push(value);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// The values of `name` in a query string, decoded.
pub(super) fn query_values<'a>(
    query: Option<&'a str>,
    name: &'a str,
) -> impl Iterator<Item = String> + 'a {
    query.unwrap_or_default().split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| percent_decoded(&text.replace('+', " ")).into_owned();
        (decoded(key) == name).then(|| decoded(value))
    })
}

#[cfg(test)]
mod tests {
    use super::{Target, percent_decoded, query_values, resolve};

    #[test]
    fn untidy_paths_are_resolved_as_by_etcd() {
        let served = [
            ("/v3beta/kv/range", "/v3/kv/range"),
            ("/v3/kv/%72ange", "/v3/kv/range"),
            ("/v3/kv/range/", "/v3/kv/range/"),
            ("/v3beta/", "/v3/"),
            ("/v3beta", "/v3beta"),
            ("/", "/"),
            ("/%zz", "/%zz"),
            ("/%", "/%"),
            ("/%ff", "/%ff"),
        ];
        for (path, want) in served {
            assert_eq!(resolve(path), Target::Path(want.into()), "{path}");
        }
        let moved = [
            ("/v3//kv/range", "/v3/kv/range"),
            ("/v3/kv/../kv/range", "/v3/kv/range"),
            ("/v3", "/v3/"),
            ("/./a//", "/a/"),
            ("/../..", "/"),
        ];
        for (path, want) in moved {
            assert_eq!(resolve(path), Target::Moved(want.into()), "{path}");
        }
    }

    #[test]
    fn query_values_are_decoded_and_repeatable() {
        let values = |query: &'static str| query_values(Some(query), "exclude").collect::<Vec<_>>();
        assert_eq!(values("exclude=NOSPACE&x=1&exclude=CORR%55PT"), ["NOSPACE", "CORRUPT"]);
        assert_eq!(values("exclude&exclude=a+b"), ["", "a b"]);
        assert_eq!(values(""), [""; 0]);
        assert_eq!(percent_decoded("%41%zz"), "%41%zz");
    }
}
