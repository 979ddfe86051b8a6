//! Random traces: every option of every key-value request, over few keys so that they meet.
//!
//! Left out on purpose, because etcd 3.5.1 crashes on them or because its answers were changed
//! later: unknown sort targets; a delete from a key on together with a put that ignores its
//! value or lease in one transaction; watches that start exactly at the compacted revision or
//! below zero.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::step::{Method, Step, Transport};
use crate::support::random::Random;

/// Keys: prefixes of each other, neighbours, and bytes at both ends of the order.
const KEYS: [&[u8]; 18] = [
    b"\0",
    b"\0\0",
    b"a",
    b"a\0",
    b"a/",
    b"a/1",
    b"a/2",
    b"a/\xff",
    b"a0",
    b"b",
    b"b/x",
    b"c/y/z",
    "é".as_bytes(),
    b"\x7f\x80",
    b"\xfe",
    b"\xff",
    b"\xff\xff",
    b"long/long/long/long/long/long/key",
];
/// The range end that means every key from the start on.
const FROM_KEY: &[u8] = b"\0";
/// Leases that exist at times.
const LEASES: [i64; 6] = [1, 2, 3, 77, -5, 4_611_686_018_427_387_904];
/// A lease that never exists.
const NO_LEASE: i64 = 999;
/// Nesting of transactions.
const DEPTH_MAX: usize = 3;
/// Operations in one transaction that etcd takes.
const TXN_OPERATIONS_MAX: usize = 128;

/// Writes traces from a seed.
#[derive(Debug)]
pub(crate) struct Generator {
    random: Random,
}

impl Generator {
    /// A generator that repeats itself for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// A trace of `count` steps.
    pub(crate) fn steps(&mut self, count: usize) -> Vec<Step> {
        (0..count).map(|_| self.step()).collect()
    }

    fn step(&mut self) -> Step {
        let transport = if self.random.chance(50) { Transport::Json } else { Transport::Grpc };
        let (method, body) = match self.random.weighted(&[34, 20, 22, 8, 3, 2, 2, 1, 2, 3, 2, 1]) {
            0 => (Method::Txn, self.txn()),
            1 => (Method::Put, self.put()),
            2 => (Method::Range, self.range()),
            3 => (Method::DeleteRange, self.delete()),
            4 => {
                let ttl = *self.random.pick(&[1000, 5000, 9_000_000_000_i64, 9_000_000_001]);
                (Method::Grant, json!({ "ID": self.lease(), "TTL": ttl }))
            }
            5 => (Method::Revoke, json!({ "ID": self.lease() })),
            6 => {
                let keys = self.random.chance(80);
                (Method::TimeToLive, json!({ "ID": self.lease(), "keys": keys }))
            }
            7 => (Method::Leases, json!({})),
            8 => (Method::Compact, self.compaction()),
            9 => return self.watch(transport),
            10 => {
                let ids = (0..=self.random.below(3)).map(|_| self.lease()).collect();
                return Step::KeepAlive { transport, ids };
            }
            _ => (Method::Txn, self.long_txn()),
        };
        Step::Call { transport, method, body }
    }

    fn key(&mut self) -> &'static [u8] {
        if self.random.chance(1) { b"" } else { self.random.pick::<&[u8]>(&KEYS) }
    }

    /// A range end: none, the prefix of `key`, everything after it, another key, nothing at all.
    fn end(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        match self.random.weighted(&[40, 25, 15, 18, 2]) {
            0 => None,
            1 => Some(prefix_end(key)),
            2 => Some(FROM_KEY.to_vec()),
            3 => Some(self.random.pick(&KEYS).to_vec()),
            _ => Some(key.to_vec()),
        }
    }

    fn value(&mut self) -> String {
        if self.random.chance(30) {
            let length = *self.random.pick(&[0, 1, 3, 60]);
            let bytes: Vec<u8> = (0..length).map(|_| self.random.bits().to_le_bytes()[0]).collect();
            return STANDARD.encode(bytes);
        }
        STANDARD.encode(format!("v{}", self.random.below(6)))
    }

    fn lease(&mut self) -> i64 {
        if self.random.chance(10) { NO_LEASE } else { *self.random.pick(&LEASES) }
    }

    /// A number as text or as number; the gateway takes both.
    fn number(&mut self, number: i64) -> Value {
        if self.random.chance(50) { json!(number) } else { json!(number.to_string()) }
    }

    /// Mostly in history, at times compacted, in the future, zero or negative.
    fn revision(&mut self) -> Value {
        match self.random.weighted(&[50, 25, 10, 8, 7]) {
            0 => json!(format!("@now-{}", self.random.below(30))),
            1 => json!(format!("@low+{}", self.random.below(5))),
            2 => json!(format!("@low-{}", self.random.below(4))),
            3 => json!(format!("@now+{}", self.random.between(1, 100))),
            _ => json!(*self.random.pick(&[0, -1, -3])),
        }
    }

    fn span(&mut self) -> (&'static [u8], Map<String, Value>) {
        let key = self.key();
        let mut fields = Map::new();
        fields.insert("key".to_owned(), json!(STANDARD.encode(key)));
        if let Some(end) = self.end(key) {
            fields.insert("range_end".to_owned(), json!(STANDARD.encode(end)));
        }
        (key, fields)
    }

    fn range(&mut self) -> Value {
        let (_, mut fields) = self.span();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        if self.random.chance(35) {
            let limit = *self.random.pick(&[0, 1, 2, 3, 5, 50, -1, i64::MAX]);
            set("limit", self.number(limit));
        }
        if self.random.chance(30) {
            set("revision", self.revision());
        }
        if self.random.chance(35) {
            set("sort_order", json!(self.random.pick(&["NONE", "ASCEND", "DESCEND"])));
        }
        if self.random.chance(25) {
            let targets = ["KEY", "VERSION", "CREATE", "MOD", "VALUE"];
            set("sort_target", json!(self.random.pick(&targets)));
        }
        for (name, percent) in [("serializable", 20), ("keys_only", 15), ("count_only", 15)] {
            if self.random.chance(percent) {
                set(name, json!(true));
            }
        }
        for bound in ["min_mod", "max_mod", "min_create", "max_create"] {
            if self.random.chance(8) {
                let revision = format!("@now-{}", self.random.below(20));
                set(&format!("{bound}_revision"), json!(revision));
            }
        }
        Value::Object(fields)
    }

    fn put(&mut self) -> Value {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        set("key", json!(STANDARD.encode(self.key())));
        let ignores_value = self.random.chance(6);
        if !ignores_value || self.random.chance(10) {
            set("value", json!(self.value()));
        }
        if ignores_value {
            set("ignore_value", json!(true));
        }
        let ignores_lease = self.random.chance(6);
        if ignores_lease {
            set("ignore_lease", json!(true));
        }
        if self.random.chance(if ignores_lease { 10 } else { 25 }) {
            let lease = self.lease();
            set("lease", self.number(lease));
        }
        if self.random.chance(30) {
            set("prev_kv", json!(true));
        }
        Value::Object(fields)
    }

    fn delete(&mut self) -> Value {
        let (_, mut fields) = self.span();
        if self.random.chance(40) {
            fields.insert("prev_kv".to_owned(), json!(true));
        }
        Value::Object(fields)
    }

    fn compaction(&mut self) -> Value {
        let revision = if self.random.chance(80) {
            json!(format!("@now-{}", self.random.pick(&[0, 1, 5, 20, 40])))
        } else {
            json!(self.random.pick(&["@now+1", "@low", "@low-1"]))
        };
        json!({ "revision": revision, "physical": self.random.chance(40) })
    }

    fn txn(&mut self) -> Value {
        let mut txn = self.branches(0);
        defuse(&mut txn);
        txn
    }

    fn branches(&mut self, depth: usize) -> Value {
        let mut fields = Map::new();
        for (name, most) in [("compare", 2), ("success", 4), ("failure", 3)] {
            let items: Vec<Value> = (0..self.random.below(most + 1))
                .map(|_| if name == "compare" { self.compare() } else { self.operation(depth) })
                .collect();
            if !items.is_empty() {
                fields.insert(name.to_owned(), json!(items));
            }
        }
        Value::Object(fields)
    }

    fn operation(&mut self, depth: usize) -> Value {
        let nested = if depth < DEPTH_MAX { 10 } else { 0 };
        match self.random.weighted(&[45, 25, 20, nested, 1]) {
            0 => json!({ "request_put": self.put() }),
            1 => {
                let mut range = self.range();
                // Most reads are of the present, else most transactions would fail.
                if let Some(fields) = range.as_object_mut()
                    && self.random.chance(70)
                {
                    fields.remove("revision");
                }
                json!({ "request_range": range })
            }
            2 => {
                let mut delete = self.delete();
                if let Some(fields) = delete.as_object_mut()
                    && self.random.chance(50)
                {
                    fields.remove("range_end");
                }
                json!({ "request_delete_range": delete })
            }
            3 => json!({ "request_txn": self.branches(depth + 1) }),
            _ => json!({}),
        }
    }

    fn compare(&mut self) -> Value {
        let targets = ["VALUE", "VERSION", "CREATE", "MOD", "LEASE"];
        let target = *self.random.pick(&targets);
        let key = self.key();
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        set("key", json!(STANDARD.encode(key)));
        set("target", json!(target));
        set("result", json!(self.random.pick(&["EQUAL", "GREATER", "LESS", "NOT_EQUAL"])));
        if self.random.chance(97) {
            let (name, operand) = match target {
                "VALUE" => ("value", json!(self.value())),
                "VERSION" => ("version", json!(self.random.below(5))),
                "LEASE" if self.random.chance(50) => ("lease", json!(0)),
                "LEASE" => ("lease", json!(self.lease())),
                "CREATE" => ("create_revision", self.compared_revision()),
                _ => ("mod_revision", self.compared_revision()),
            };
            set(name, operand);
        }
        if self.random.chance(20)
            && let Some(end) = self.end(key)
        {
            set("range_end", json!(STANDARD.encode(end)));
        }
        Value::Object(fields)
    }

    fn compared_revision(&mut self) -> Value {
        if self.random.chance(40) {
            return json!(0);
        }
        json!(format!("@now-{}", self.random.below(20)))
    }

    /// At the limit of operations, and one over it.
    fn long_txn(&mut self) -> Value {
        let count = TXN_OPERATIONS_MAX + self.random.below(2);
        let put = |index: usize| {
            let key = STANDARD.encode(format!("long/{index:03}"));
            json!({ "request_put": { "key": key, "value": "eA==" } })
        };
        json!({ "success": (0..count).map(put).collect::<Vec<_>>() })
    }

    fn watch(&mut self, transport: Transport) -> Step {
        let creates = (0..=self.random.below(2)).map(|_| self.watch_create()).collect();
        Step::Watch { transport, creates }
    }

    fn watch_create(&mut self) -> Value {
        let (_, mut fields) = self.span();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        match self.random.weighted(&[60, 20, 10, 10]) {
            0 => set("start_revision", json!(format!("@low+{}", self.random.between(1, 40)))),
            1 => set("start_revision", json!(format!("@now-{}", self.random.below(3)))),
            2 => set("start_revision", json!("@low-2")),
            _ => {}
        }
        for (name, percent) in [("prev_kv", 50), ("fragment", 20), ("progress_notify", 10)] {
            if self.random.chance(percent) {
                set(name, json!(true));
            }
        }
        if self.random.chance(25) {
            let kinds = [vec!["NOPUT"], vec!["NODELETE"], vec!["NOPUT", "NODELETE"]];
            set("filters", json!(self.random.pick(&kinds)));
        }
        Value::Object(fields)
    }
}

/// The range end that makes `[key, end)` all keys with prefix `key`.
fn prefix_end(key: &[u8]) -> Vec<u8> {
    let mut end = key.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xFF {
            *last += 1;
            return end;
        }
        end.pop();
    }
    FROM_KEY.to_vec()
}

/// Takes `ignore_*` out of the puts of a transaction that deletes from a key on.
fn defuse(txn: &mut Value) {
    let from_key = Value::String(STANDARD.encode(FROM_KEY));
    if has_delete_to(txn, &from_key) {
        strip_ignores(txn);
    }
}

fn has_delete_to(value: &Value, end: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, inner)| {
            name == "request_delete_range" && inner.get("range_end") == Some(end)
                || has_delete_to(inner, end)
        }),
        Value::Array(items) => items.iter().any(|item| has_delete_to(item, end)),
        _ => false,
    }
}

fn strip_ignores(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("ignore_value");
            fields.remove("ignore_lease");
            fields.values_mut().for_each(strip_ignores);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_ignores),
        _ => {}
    }
}
