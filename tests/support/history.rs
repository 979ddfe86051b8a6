//! What clients asked and were told, in one format for every test that checks consistency.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use tripod::api::proto::mvccpb;

/// A live pair as a server shows it, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The value; unique in a history, so that it names the operation that wrote it.
    pub(crate) value: String,
    /// Revision at which the key came to be.
    pub(crate) create_revision: i64,
    /// Revision of the last change.
    pub(crate) mod_revision: i64,
    /// Changes since the key came to be.
    pub(crate) version: i64,
}

impl From<&mvccpb::KeyValue> for Pair {
    fn from(kv: &mvccpb::KeyValue) -> Self {
        Self {
            value: text(&kv.value),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
        }
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write `value`, whatever was there.
    Put { key: String, value: String },
    /// Remove the key.
    Delete { key: String },
    /// Linearizable read of the key.
    Read { key: String },
    /// Write `value` if the key's mod revision is `expected` (0: absent), else read the key.
    Swap { key: String, expected: i64, value: String },
}

impl Action {
    /// The one key it touches.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Put { key, .. }
            | Self::Delete { key }
            | Self::Read { key }
            | Self::Swap { key, .. } => key,
        }
    }
}

/// The part of an answer that depends on the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A put, or a swap that went through.
    Wrote,
    /// A put that also answers what it replaced.
    Replaced(Option<Pair>),
    /// A delete and the number of keys it removed.
    Deleted(i64),
    /// A read, or a swap that did not go through.
    Value(Option<Pair>),
}

/// How an operation ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer: the revision in its header, and what it said.
    Answered { revision: i64, seen: Seen },
    /// An error or no answer: it may have happened, may happen later, or never.
    Unknown,
}

/// One operation. Times are nanoseconds on one monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// The client that asked; it asks one thing at a time.
    pub(crate) client: usize,
    /// Before the request was sent.
    pub(crate) called_ns: u64,
    /// After the answer was there.
    pub(crate) returned_ns: u64,
    /// The request.
    pub(crate) action: Action,
    /// The answer.
    pub(crate) outcome: Outcome,
}

/// One change of one key, from a watch on everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Revision of the change.
    pub(crate) revision: i64,
    /// The key.
    pub(crate) key: String,
    /// The new pair; `None` for a delete.
    pub(crate) pair: Option<Pair>,
}

impl Change {
    /// The change in a watch event; `None` if the event carries no key.
    pub(crate) fn from_event(event: &mvccpb::Event) -> Option<Self> {
        let kv = event.kv.as_ref()?;
        let is_put = event.r#type() == mvccpb::event::EventType::Put;
        Some(Self {
            revision: kv.mod_revision,
            key: text(&kv.key),
            pair: is_put.then(|| Pair::from(kv)),
        })
    }
}

/// All operations of a run and all changes of the store during it, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// In no order.
    pub(crate) operations: Vec<Operation>,
    /// By revision.
    pub(crate) changes: Vec<Change>,
}

/// Collects operations from many tasks on one clock.
#[derive(Debug)]
pub(crate) struct Recorder {
    start: Instant,
    operations: Mutex<Vec<Operation>>,
}

impl Recorder {
    /// A recorder whose clock starts now.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), operations: Mutex::default() }
    }

    /// The time to note before a call and after its answer.
    pub(crate) fn now_ns(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    /// Notes an operation that has ended.
    pub(crate) fn note(&self, operation: Operation) {
        self.operations.lock().expect("no panic while noting").push(operation);
    }

    /// Everything noted so far.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.operations.lock().expect("no panic while noting").clone()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Keys and values of recorded runs are text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
