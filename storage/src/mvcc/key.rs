//! A key of the index: short ones without an allocation of their own.
//!
//! The index compares keys on its way down. One that lies in the index's own nodes costs no
//! further look into memory, and no allocation's overhead.

use std::{borrow::Borrow, cmp::Ordering, ops::Deref};

/// Longest key held inline: with its length and the tag, 24 bytes.
const INLINE_BYTES_MAX: usize = 22;

/// See the module. Ordered by its bytes.
#[derive(Clone, Debug)]
pub(super) enum Key {
    Inline { len: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Boxed(Box<[u8]>),
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        let mut bytes = [0; INLINE_BYTES_MAX];
        match (bytes.get_mut(..key.len()), u8::try_from(key.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(key);
                Self::Inline { len, bytes }
            }
            _ => Self::Boxed(Box::from(key)),
        }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Self::Boxed(key) => key,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length_come_back_and_sort_by_their_bytes() {
        let bytes: Vec<u8> = (0..60).map(|at| at % 3).collect();
        let mut plain: Vec<&[u8]> = (0..30).flat_map(|at| [&bytes[..at], &bytes[at..]]).collect();
        let mut keys: Vec<Key> = plain.iter().map(|&key| Key::from(key)).collect();
        keys.sort();
        plain.sort_unstable();
        let back: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        assert_eq!(back, plain);
        assert_eq!(size_of::<Key>(), 24);
    }
}
