//! The state machine against a deliberately naive model: a list of all versions, searched from
//! the front for everything, copied whole to try a transaction.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Written {
    key: Bytes,
    main: Revision,
    /// `None`: deleted.
    kv: Option<KeyValue>,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    written: Vec<Written>,
    revision: Revision,
    compact_revision: Revision,
    leases: BTreeMap<i64, i64>,
    alarms: BTreeSet<(u64, AlarmKind)>,
}

fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key == start,
        b"\0" => key >= start,
        end => key >= start && key < end,
    }
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            written: Vec::new(),
            revision: 1,
            compact_revision: -1,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
        }
    }

    /// Live pairs at `revision`; what the running command wrote counts at `Revision::MAX`.
    fn live(&self, revision: Revision) -> BTreeMap<Bytes, KeyValue> {
        let mut live = BTreeMap::new();
        for written in self.written.iter().filter(|written| written.main <= revision) {
            match &written.kv {
                Some(kv) => live.insert(written.key.clone(), kv.clone()),
                None => live.remove(&written.key),
            };
        }
        live
    }

    fn now(&self) -> BTreeMap<Bytes, KeyValue> {
        self.live(Revision::MAX)
    }

    /// Revision that headers show while a command runs.
    fn header(&self) -> Revision {
        self.written.last().map_or(self.revision, |written| written.main.max(self.revision))
    }

    pub(super) fn range(&self, range: &Range) -> Result<RangeResponse, Rejected> {
        if !(0..=2).contains(&range.sort_order) || !(0..=4).contains(&range.sort_target) {
            return Err(Rejected::InvalidSortOption);
        }
        let current = self.header();
        if range.revision > current {
            return Err(Rejected::FutureRevision);
        }
        let at = if range.revision <= 0 { current } else { range.revision };
        if at < self.compact_revision {
            return Err(Rejected::Compacted { compact_revision: self.compact_revision });
        }
        let mut kvs: Vec<KeyValue> = self.live(at).into_values().collect();
        kvs.retain(|kv| within(&kv.key, &range.key, &range.range_end));
        let mut answer = RangeResponse {
            revision: current,
            count: kvs.len() as i64,
            ..RangeResponse::default()
        };
        if range.count_only {
            return Ok(answer);
        }
        let filters = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        if range.limit > 0 && range.sort_order == 0 && filters == [0; 4] {
            kvs.truncate(usize::try_from(range.limit).unwrap().saturating_add(1));
        }
        if range.max_mod_revision != 0 {
            kvs.retain(|kv| kv.mod_revision <= range.max_mod_revision);
        }
        if range.min_mod_revision != 0 {
            kvs.retain(|kv| kv.mod_revision >= range.min_mod_revision);
        }
        if range.max_create_revision != 0 {
            kvs.retain(|kv| kv.create_revision <= range.max_create_revision);
        }
        if range.min_create_revision != 0 {
            kvs.retain(|kv| kv.create_revision >= range.min_create_revision);
        }
        let number = |kv: &KeyValue| match range.sort_target {
            1 => kv.version,
            2 => kv.create_revision,
            3 => kv.mod_revision,
            _ => 0,
        };
        let order = |a: &KeyValue, b: &KeyValue| match range.sort_target {
            0 => a.key.cmp(&b.key),
            4 => a.value.cmp(&b.value),
            _ => number(a).cmp(&number(b)),
        };
        if range.sort_order == 2 {
            kvs.sort_by(|a, b| order(b, a));
        } else {
            kvs.sort_by(order);
        }
        if range.limit > 0 && kvs.len() as i64 > range.limit {
            kvs.truncate(usize::try_from(range.limit).unwrap());
            answer.more = true;
        }
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        answer.kvs = kvs;
        Ok(answer)
    }

    fn put(&mut self, put: &Put) -> Result<PutResponse, Rejected> {
        let before = self.now().remove(&put.key);
        let main = self.revision + 1;
        let old = before.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { old.value } else { put.value.clone() },
            create_revision: if before.is_some() { old.create_revision } else { main },
            mod_revision: main,
            version: old.version + 1,
            lease: if put.ignore_lease { old.lease } else { put.lease },
        };
        self.written.push(Written { key: put.key.clone(), main, kv: Some(kv) });
        Ok(PutResponse { revision: main, prev_kv: before.filter(|_| put.prev_kv) })
    }

    fn check_lease(&self, put: &Put) -> Result<(), Rejected> {
        let is_known = put.lease == 0 || self.leases.contains_key(&put.lease);
        if is_known { Ok(()) } else { Err(Rejected::LeaseNotFound) }
    }

    fn check_key(&self, put: &Put) -> Result<(), Rejected> {
        let needs = put.ignore_value || put.ignore_lease;
        if needs && !self.now().contains_key(&put.key) {
            return Err(Rejected::KeyNotFound);
        }
        Ok(())
    }

    fn delete(&mut self, delete: &DeleteRange) -> DeleteRangeResponse {
        let gone: Vec<KeyValue> = (self.now().into_values())
            .filter(|kv| within(&kv.key, &delete.key, &delete.range_end))
            .collect();
        let main = self.revision + 1;
        for kv in &gone {
            self.written.push(Written { key: kv.key.clone(), main, kv: None });
        }
        DeleteRangeResponse {
            revision: self.header(),
            deleted: gone.len() as i64,
            prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut kvs: Vec<KeyValue> = (self.now().into_values())
            .filter(|kv| within(&kv.key, &compare.key, &compare.range_end))
            .collect();
        if kvs.is_empty() {
            if matches!(compare.target, CompareTarget::Value(_)) {
                return false;
            }
            kvs.push(KeyValue::default());
        }
        kvs.iter().all(|kv| {
            let order = match &compare.target {
                CompareTarget::Version(operand) => kv.version.cmp(operand),
                CompareTarget::Create(operand) => kv.create_revision.cmp(operand),
                CompareTarget::Mod(operand) => kv.mod_revision.cmp(operand),
                CompareTarget::Lease(operand) => kv.lease.cmp(operand),
                CompareTarget::Value(operand) => kv.value.cmp(operand),
                CompareTarget::Unknown => 0.cmp(&0),
            };
            match compare.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                3 => order.is_ne(),
                _ => true,
            }
        })
    }

    /// Replaces each nested transaction by the branch it takes on this state.
    fn resolve(&self, txn: &Txn) -> (bool, Vec<Resolved>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let resolve = |op: &TxnOp| match op {
            TxnOp::Txn(child) => {
                let (succeeded, ops) = self.resolve(child);
                Resolved::Txn(succeeded, ops)
            }
            op => Resolved::Op(op.clone()),
        };
        (succeeded, ops.iter().map(resolve).collect())
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, Rejected> {
        let (succeeded, ops) = self.resolve(txn);
        let mut flat = Vec::new();
        flatten(&ops, &mut flat);
        for op in &flat {
            if let TxnOp::Put(put) = op {
                self.check_key(put)?;
                self.check_lease(put)?;
            }
        }
        // Try it all on a copy: a kept part may have been deleted on the way.
        let mut copy = self.clone();
        for op in &flat {
            match op {
                TxnOp::Put(put) => {
                    copy.check_key(put)?;
                    copy.put(put)?;
                }
                TxnOp::DeleteRange(delete) => drop(copy.delete(delete)),
                _ => {}
            }
        }
        for op in &flat {
            let TxnOp::Range(range) = op else { continue };
            if range.revision > self.revision {
                return Err(Rejected::FutureRevision);
            }
            if range.revision != 0 && range.revision < self.compact_revision {
                return Err(Rejected::Compacted { compact_revision: self.compact_revision });
            }
        }
        self.run(succeeded, &ops)
    }

    fn run(&mut self, succeeded: bool, ops: &[Resolved]) -> Result<TxnResponse, Rejected> {
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                Resolved::Txn(succeeded, ops) => TxnOpResponse::Txn(self.run(*succeeded, ops)?),
                Resolved::Op(TxnOp::Put(put)) => TxnOpResponse::Put(self.put(put)?),
                Resolved::Op(TxnOp::DeleteRange(delete)) => {
                    TxnOpResponse::DeleteRange(self.delete(delete))
                }
                Resolved::Op(TxnOp::Range(range)) => TxnOpResponse::Range(self.range(range)?),
                Resolved::Op(TxnOp::Txn(_) | TxnOp::Empty) => unreachable!(),
            });
        }
        Ok(TxnResponse { succeeded, responses })
    }

    pub(super) fn apply(&mut self, command: &Command) -> Applied {
        let mut copy = self.clone();
        let outcome = copy.apply_unchecked(command);
        if outcome.is_ok() {
            copy.revision = copy.header();
            *self = copy;
        }
        Applied { revision: self.revision, outcome }
    }

    fn apply_unchecked(&mut self, command: &Command) -> Result<Response, Rejected> {
        let grows = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => puts(txn),
            _ => false,
        };
        if grows && self.alarms.iter().any(|alarm| alarm.1 == AlarmKind::NoSpace) {
            return Err(Rejected::NoSpace);
        }
        match command {
            Command::Put(put) => {
                self.check_lease(put)?;
                self.check_key(put)?;
                self.put(put).map(Response::Put)
            }
            Command::DeleteRange(delete) => Ok(Response::DeleteRange(self.delete(delete))),
            Command::Txn(txn) => self.txn(txn).map(Response::Txn),
            Command::Compact(compact) => {
                if compact.revision <= self.compact_revision {
                    let compact_revision = self.compact_revision;
                    return Err(Rejected::Compacted { compact_revision });
                }
                if compact.revision > self.revision {
                    return Err(Rejected::FutureRevision);
                }
                self.compact_revision = compact.revision;
                Ok(Response::Done)
            }
            Command::LeaseGrant { id, ttl_s } => {
                if self.leases.contains_key(id) {
                    return Err(Rejected::LeaseExists);
                }
                self.leases.insert(*id, *ttl_s);
                Ok(Response::LeaseGrant { id: *id, ttl_s: *ttl_s })
            }
            Command::LeaseRevoke { id } => {
                self.leases.remove(id).ok_or(Rejected::LeaseNotFound)?;
                for key in self.lease_keys(*id) {
                    self.delete(&DeleteRange { key, ..DeleteRange::default() });
                }
                Ok(Response::Done)
            }
            Command::Alarm { action, member_id, alarm } => {
                let alarm = (*member_id, *alarm);
                let concerned = match action {
                    AlarmAction::Activate => {
                        self.alarms.insert(alarm);
                        true
                    }
                    AlarmAction::Deactivate => self.alarms.remove(&alarm),
                };
                Ok(Response::Alarm(if concerned { vec![alarm] } else { vec![] }))
            }
            _ => Ok(Response::Done),
        }
    }

    fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.now().into_values().filter(|kv| kv.lease == id).map(|kv| kv.key).collect()
    }

    /// Events of every revision from `from` on that compaction keeps.
    fn events(&self, from: Revision) -> Vec<Event> {
        let mut events = Vec::new();
        for (at, written) in self.written.iter().enumerate() {
            let later =
                |other: &Written| other.key == written.key && other.main <= self.compact_revision;
            let is_kept = written.main > self.compact_revision
                || (written.main == self.compact_revision || written.kv.is_some())
                    && !self.written[at + 1..].iter().any(later);
            if written.main < from || !is_kept {
                continue;
            }
            let (kind, kv) = match &written.kv {
                Some(kv) => (EventKind::Put, kv.clone()),
                None => (
                    EventKind::Delete,
                    KeyValue {
                        key: written.key.clone(),
                        mod_revision: written.main,
                        ..KeyValue::default()
                    },
                ),
            };
            let is_create = kv.version == 1;
            let prev_kv = if is_create || written.main - 1 < self.compact_revision {
                None
            } else {
                self.live(written.main - 1).remove(&written.key)
            };
            events.push(Event { kind, kv, prev_kv });
        }
        events
    }

    /// Everything a client can see of `machine` is what the model says.
    pub(super) fn check(&self, machine: &StateMachine) {
        assert_eq!(machine.revision(), self.revision);
        assert_eq!(machine.compact_revision(), self.compact_revision);
        for revision in self.compact_revision.max(1) - 1..=self.revision + 1 {
            for count_only in [false, true] {
                let range = Range { revision, count_only, ..all() };
                let got = machine.range(&range).unwrap();
                assert_eq!(got, self.range(&range), "at {revision}");
            }
        }
        let leases: Vec<_> = machine.leases().iter().map(|lease| (lease.id, lease.ttl_s)).collect();
        assert_eq!(leases, self.leases.iter().map(|(&id, &ttl)| (id, ttl)).collect::<Vec<_>>());
        for &id in self.leases.keys() {
            assert_eq!(machine.lease_keys(id), self.lease_keys(id), "keys of lease {id}");
        }
        assert_eq!(machine.alarms(), self.alarms.iter().copied().collect::<Vec<_>>());
        self.check_events(machine);
    }

    fn check_events(&self, machine: &StateMachine) {
        let everything = KeyRange { key: b("\0"), end: b("\0") };
        let from = self.compact_revision.max(1);
        let want = self.events(from);
        let mut events = Vec::new();
        let mut next = from;
        while next <= machine.revision() {
            let page = machine.history(&everything, next, 3, true).unwrap().unwrap();
            assert!(page.next > next, "history goes on");
            events.extend(page.events);
            next = page.next;
        }
        assert_eq!(events, want, "history");
        for from in from + 1..=self.revision {
            let Some(events) = machine.recent_events(from, usize::MAX) else { continue };
            let with_prev = |event: &Arc<Event>| Event {
                prev_kv: machine.event_prev(event).unwrap(),
                ..Event::clone(event)
            };
            let events: Vec<_> = events.iter().map(with_prev).collect();
            let want: Vec<_> =
                want.iter().filter(|event| event.kv.mod_revision >= from).cloned().collect();
            assert_eq!(events, want, "ring from {from}");
        }
    }
}

#[derive(Clone, Debug)]
enum Resolved {
    Op(TxnOp),
    Txn(bool, Vec<Resolved>),
}

fn flatten(ops: &[Resolved], flat: &mut Vec<TxnOp>) {
    for op in ops {
        match op {
            Resolved::Op(op) => flat.push(op.clone()),
            Resolved::Txn(_, ops) => flatten(ops, flat),
        }
    }
}

fn puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        TxnOp::Put(_) => true,
        TxnOp::Txn(child) => puts(child),
        _ => false,
    })
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "a/", "a/1", "b", "c", "\0", "\u{7f}"]).prop_map(b)
}

fn any_end() -> impl Strategy<Value = Bytes> {
    let ends = vec!["", "", "", "", "\0", "a0", "b", "c", "a"];
    prop::sample::select(ends).prop_map(b)
}

fn any_value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => prop::sample::select(vec!["", "0", "1", "22", "22"]).prop_map(b),
        1 => (100_usize..5000).prop_map(|len| Bytes::from(vec![b'x'; len])),
    ]
}

fn any_revision() -> impl Strategy<Value = Revision> {
    prop_oneof![4 => Just(0), 1 => -3_i64..0, 6 => 1_i64..40]
}

fn any_bound() -> impl Strategy<Value = Revision> {
    prop_oneof![6 => Just(0), 1 => -1_i64..30]
}

fn any_put() -> impl Strategy<Value = Put> {
    let flag = || prop::bool::weighted(0.1);
    let lease = prop_oneof![6 => Just(0), 3 => 1_i64..4];
    (any_key(), any_value(), lease, any::<bool>(), flag(), flag()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn any_delete() -> impl Strategy<Value = DeleteRange> {
    (any_key(), any_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange {
        key,
        range_end,
        prev_kv,
    })
}

pub(super) fn any_range() -> impl Strategy<Value = Range> {
    let flag = || prop::bool::weighted(0.2);
    let limit = prop_oneof![Just(0), Just(-1), 1_i64..5, Just(i64::MAX)];
    let bounds = (any_bound(), any_bound(), any_bound(), any_bound());
    (any_key(), any_end(), limit, any_revision(), 0..3, 0..5, flag(), flag(), bounds).prop_map(
        |(key, range_end, limit, revision, order, target, keys_only, count_only, bounds)| Range {
            key,
            range_end,
            limit,
            revision,
            sort_order: order,
            sort_target: target,
            keys_only,
            count_only,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn any_compare() -> impl Strategy<Value = Compare> {
    let number = 0_i64..6;
    let target = prop_oneof![
        number.clone().prop_map(CompareTarget::Version),
        (0_i64..30).prop_map(CompareTarget::Create),
        (0_i64..30).prop_map(CompareTarget::Mod),
        number.prop_map(CompareTarget::Lease),
        any_value().prop_map(CompareTarget::Value),
        Just(CompareTarget::Unknown),
    ];
    (any_key(), any_end(), target, 0..5).prop_map(|(key, range_end, target, result)| Compare {
        result,
        target,
        key,
        range_end,
    })
}

fn any_txn() -> impl Strategy<Value = Txn> {
    let op = prop_oneof![
        4 => any_put().prop_map(TxnOp::Put),
        2 => any_delete().prop_map(TxnOp::DeleteRange),
        2 => any_range().prop_map(TxnOp::Range),
    ];
    let txn = |op: BoxedStrategy<TxnOp>| {
        let ops = || prop::collection::vec(op.clone(), 0..4);
        (prop::collection::vec(any_compare(), 0..2), ops(), ops())
            .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
    };
    let op = op.prop_recursive(
        2,
        8,
        3,
        move |op| prop_oneof![3 => op.clone(), 1 => txn(op.boxed()).prop_map(TxnOp::Txn)],
    );
    txn(op.boxed())
}

/// Any command; of keys written twice only those that validation lets through, so that most
/// transactions do something.
pub(super) fn any_command() -> impl Strategy<Value = Command> {
    let alarm = (any::<bool>(), 1_u64..3).prop_map(|(activate, member_id)| Command::Alarm {
        action: if activate { AlarmAction::Activate } else { AlarmAction::Deactivate },
        member_id,
        alarm: AlarmKind::NoSpace,
    });
    prop_oneof![
        60 => any_put().prop_map(Command::Put),
        20 => any_delete().prop_map(Command::DeleteRange),
        40 => any_txn().prop_map(Command::Txn),
        8 => (0_i64..40).prop_map(|revision| Command::Compact(Compact { revision })),
        12 => (1_i64..4).prop_map(|id| Command::LeaseGrant { id, ttl_s: 100 }),
        6 => (1_i64..5).prop_map(|id| Command::LeaseRevoke { id }),
        2 => alarm,
        1 => Just(Command::Noop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_agrees_with_the_model(
        commands in prop::collection::vec(any_command(), 1..40),
        ranges in prop::collection::vec(any_range(), 20),
        options in prop::sample::select(vec![
            options(),
            Options { cache_bytes: 40, events_max: 5, events_bytes_max: 2000, quota_bytes: 0 },
        ]),
    ) {
        let engine = Arc::new(MemoryEngine::default());
        let mut machine = StateMachine::open(engine.clone(), options).unwrap();
        let mut model = Model::new();
        for (at, command) in commands.into_iter().enumerate() {
            let want = model.apply(&command);
            let got = machine.one(command.clone());
            prop_assert_eq!(got, want, "{:?}", command);
            // At most one each: many small blocks, values out of memory, half-done pruning.
            match at % 5 {
                1 => machine.flush(&*engine),
                3 => drop(machine.compact_step(2).unwrap()),
                _ => {}
            }
        }
        for range in ranges {
            prop_assert_eq!(machine.range(&range).unwrap(), model.range(&range), "{:?}", range);
        }
        model.check(&machine);
    }
}
