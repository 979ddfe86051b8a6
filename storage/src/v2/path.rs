//! Tidy paths: `/`, or parts that are neither empty nor `.` nor `..`, each after a slash.

use bytes::Bytes;

/// The tidy form of `raw`.
#[must_use]
pub fn clean(raw: &[u8]) -> Bytes {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in raw.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Bytes::from_static(b"/");
    }
    let mut clean = Vec::with_capacity(raw.len() + 1);
    for part in parts {
        clean.push(b'/');
        clean.extend_from_slice(part);
    }
    clean.into()
}

/// Number of parts of a tidy path.
pub(super) fn depth(path: &[u8]) -> usize {
    if path == b"/" { 0 } else { path.iter().filter(|&&byte| byte == b'/').count() }
}

/// Folder and name of a tidy path that is not the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let (folder, name) = path.split_at(at);
    (if folder.is_empty() { b"/" } else { folder }, name.get(1..).unwrap_or_default())
}

/// The path of `name` in `folder`.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Bytes {
    let folder = if folder == b"/" { b"" } else { folder };
    [folder, b"/", name].concat().into()
}

/// `/`, `/a`, `/a/b` for `/a/b`: a path and everything it lies in, from the root on.
pub(super) fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let inner = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
    let whole = (path.len() > 1).then_some(path);
    std::iter::once(&path[..1]).chain(inner.map(|(at, _)| &path[..at])).chain(whole)
}

/// `path` is `folder` or lies in it.
pub(super) fn is_within(path: &[u8], folder: &[u8]) -> bool {
    match path.strip_prefix(folder) {
        Some(rest) => folder == b"/" || rest.is_empty() || rest.first() == Some(&b'/'),
        None => false,
    }
}

/// A name that listings leave out.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.first() == Some(&b'_')
}
