//! What goes into a watch message.

use std::ops::Range;

use crate::{
    KeyValue,
    command::{Event, EventKind},
};

/// Kinds of events a watcher does not want (etcd `WatchCreateRequest.FilterType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// NOPUT.
    pub no_put: bool,
    /// NODELETE.
    pub no_delete: bool,
}

impl Filters {
    /// True where the watcher wants events of this kind.
    #[must_use]
    pub fn passes(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// Splits events into runs that make messages below `bytes_max`, at least one event in each.
/// `sizes` are the events' encoded sizes, `overhead` that of a message without events.
///
/// A single run where everything fits. All but the last are to be marked as fragments.
///
/// Source: etcd `WatchCreateRequest.fragment`.
#[must_use]
pub fn fragments(sizes: &[usize], overhead: usize, bytes_max: usize) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, overhead);
    for (at, &size) in sizes.iter().enumerate() {
        if at > start && bytes + size >= bytes_max {
            runs.push(start..at);
            (start, bytes) = (at, overhead);
        }
        bytes += size;
    }
    runs.push(start..sizes.len());
    runs
}

/// Encoded size of an event as a field of a `WatchResponse`, with or without what it replaced.
#[must_use]
pub fn encoded_event_bytes(event: &Event, with_prev_kv: bool) -> usize {
    let kind = match event.kind {
        EventKind::Put => 0,
        EventKind::Delete => 2,
    };
    let prev = event.prev_kv.as_ref().filter(|_| with_prev_kv);
    message_bytes(
        kind + message_bytes(kv_bytes(&event.kv))
            + prev.map_or(0, |kv| message_bytes(kv_bytes(kv))),
    )
}

fn kv_bytes(kv: &KeyValue) -> usize {
    let bytes = |len: usize| if len == 0 { 0 } else { message_bytes(len) };
    let number = |value: i64| if value == 0 { 0 } else { 1 + varint_bytes(value.cast_unsigned()) };
    bytes(kv.key.len())
        + bytes(kv.value.len())
        + number(kv.create_revision)
        + number(kv.mod_revision)
        + number(kv.version)
        + number(kv.lease)
}

/// A field of `len` bytes: tag, length, body.
fn message_bytes(len: usize) -> usize {
    1 + varint_bytes(len as u64) + len
}

fn varint_bytes(value: u64) -> usize {
    // Seven bits a byte, at least one byte.
    let bits = (u64::BITS - (value | 1).leading_zeros()) as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn fragments_stay_below_the_limit_and_hold_at_least_one_event() {
        // Want: where each run ends.
        let cases: [(&str, &[usize], &[usize]); 5] = [
            ("nothing is still one message", &[], &[0]),
            ("all fit", &[10, 10], &[2]),
            ("the limit itself is too much", &[40, 40], &[1, 2]),
            ("one event above the limit goes alone", &[500, 10], &[1, 2]),
            ("greedy", &[30, 30, 30, 30], &[2, 4]),
        ];
        for (name, sizes, want) in cases {
            let runs = fragments(sizes, 20, 100);
            assert_eq!(runs.iter().map(|run| run.end).collect::<Vec<_>>(), want, "{name}");
            assert!(runs.windows(2).all(|pair| pair[0].end == pair[1].start), "{name}");
        }
    }

    #[test]
    fn encoded_sizes_are_those_of_protobuf() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![0; 200]),
            create_revision: 1,
            mod_revision: 128,
            version: 1,
            lease: -1,
        };
        // 3 + (1+2+200) + 2 + 3 + 2 + 11 = 224 for the pair.
        let event = Event { kind: EventKind::Put, kv: kv.clone(), prev_kv: Some(kv) };
        assert_eq!(encoded_event_bytes(&event, false), 1 + 2 + (1 + 2 + 224));
        assert_eq!(encoded_event_bytes(&event, true), 1 + 2 + 2 * (1 + 2 + 224));
    }
}
