//! Key ranges granted to a user, merged, so that neighbouring rights cover what spans them.

use bytes::Bytes;

/// Disjoint half-open spans by start, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans(Vec<Span>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    start: Bytes,
    /// Exclusive; `None`: no end.
    end: Option<Bytes>,
}

/// Exclusive end of a range of etcd's convention.
fn end_of(key: &[u8], range_end: &[u8]) -> Option<Bytes> {
    match range_end {
        // The least key above a single one.
        [] => Some([key, &[0]].concat().into()),
        [0] => None,
        end => Some(Bytes::copy_from_slice(end)),
    }
}

impl Spans {
    /// Merges ranges given as first key and end in etcd's convention; empty ones are left out.
    pub(super) fn of<'a>(ranges: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) -> Self {
        let mut spans: Vec<_> = ranges
            .map(|(key, range_end)| Span { start: key.clone(), end: end_of(key, range_end) })
            .filter(|span| span.end.as_ref().is_none_or(|end| *end > span.start))
            .collect();
        spans.sort_by(|a, b| a.start.cmp(&b.start));
        let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match merged.last_mut() {
                Some(last) if last.end.as_ref().is_none_or(|end| *end >= span.start) => {
                    let is_longer = match (&last.end, &span.end) {
                        (Some(end), Some(other)) => other > end,
                        (Some(_), None) => true,
                        (None, _) => false,
                    };
                    if is_longer {
                        last.end = span.end;
                    }
                }
                _ => merged.push(span),
            }
        }
        Self(merged)
    }

    /// True where every key of the range is granted.
    ///
    /// A range whose end is not above its key holds no key; as in etcd it goes by its key alone.
    pub(super) fn covers(&self, key: &[u8], range_end: &[u8]) -> bool {
        let holds_keys = range_end == [0] || range_end > key;
        let end = end_of(key, if holds_keys { range_end } else { &[] });
        let behind = self.0.partition_point(|span| span.start <= key);
        let Some(span) = behind.checked_sub(1).and_then(|at| self.0.get(at)) else { return false };
        match (&span.end, &end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(limit), Some(end)) => limit >= end,
        }
    }
}
