mod answer;
mod crash;
mod model;
mod rules;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{
    KeyValue, Revision,
    command::{
        Compact, Compare, CompareTarget, DeleteRange, DeleteRangeResponse, Event, EventKind, Put,
        PutResponse, Range, RangeResponse, Txn, TxnOp, TxnOpResponse, TxnResponse,
    },
    engine::{Engine, MemoryEngine},
    types::KeyRange,
};

pub(crate) fn options() -> Options {
    Options { cache_bytes: 1 << 20, events_max: 1000, events_bytes_max: 1 << 20, quota_bytes: 0 }
}

pub(crate) fn machine() -> StateMachine {
    StateMachine::open(Arc::new(MemoryEngine::default()), options()).unwrap()
}

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn put(key: &str, value: &str) -> Put {
    Put { key: b(key), value: b(value), ..Put::default() }
}

fn delete(key: &str, end: &str) -> DeleteRange {
    DeleteRange { key: b(key), range_end: b(end), prev_kv: false }
}

fn range(key: &str, end: &str) -> Range {
    Range { key: b(key), range_end: b(end), ..Range::default() }
}

fn all() -> Range {
    range("\0", "\0")
}

impl StateMachine {
    /// Applies one command as an entry of its own.
    pub(crate) fn one(&mut self, command: Command) -> Applied {
        let index = self.mark().map_or(1, |mark| mark.index + 1);
        let mark = Mark { index, payload: Bytes::from(index.to_string()) };
        self.apply(mark, vec![command]).unwrap().remove(0)
    }

    fn ok(&mut self, command: Command) -> Response {
        self.one(command).outcome.unwrap()
    }

    fn no(&mut self, command: Command) -> Rejected {
        let before = (self.revision(), self.hash_kv(0).unwrap());
        let refused = self.one(command).outcome.unwrap_err();
        assert_eq!(
            (self.revision(), self.hash_kv(0).unwrap()),
            before,
            "a refusal changes nothing"
        );
        refused
    }

    fn put(&mut self, key: &str, value: &str) -> Response {
        self.ok(Command::Put(put(key, value)))
    }

    fn delete(&mut self, key: &str, end: &str) -> Response {
        self.ok(Command::DeleteRange(delete(key, end)))
    }

    fn txn(
        &mut self,
        compare: Vec<Compare>,
        success: Vec<TxnOp>,
        failure: Vec<TxnOp>,
    ) -> TxnResponse {
        match self.ok(Command::Txn(Txn { compare, success, failure })) {
            Response::Txn(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn get(&self, range: &Range) -> RangeResponse {
        self.range(range).unwrap().unwrap()
    }

    /// "key=value@mod" of everything that a range answers.
    fn shown(&self, range: &Range) -> Vec<String> {
        self.get(range).kvs.iter().map(show).collect()
    }

    pub(crate) fn flush(&mut self, engine: &dyn Engine) {
        if let Some(flush) = self.begin_flush() {
            flush.write(engine).unwrap();
            self.end_flush(flush);
        }
    }
}

fn show(kv: &KeyValue) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}={}@{}", text(&kv.key), text(&kv.value), kv.mod_revision)
}

fn show_event(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::Put => "put",
        EventKind::Delete => "delete",
    };
    let prev = event.prev_kv.as_ref().map(|kv| format!(" was {}", show(kv))).unwrap_or_default();
    format!("{kind} {}{prev}", show(&event.kv))
}

fn compare(key: &str, target: CompareTarget, result: i32) -> Compare {
    Compare { result, target, key: b(key), range_end: Bytes::new() }
}
