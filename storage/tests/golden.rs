//! Golden scripts: sequences of commands and what a state machine says to each.
//!
//! One script a file under `testdata/`. `UPDATE_GOLDENFILES=1 cargo test -p tripod-storage --test
//! golden` writes what the machine says now; read the difference and commit only what you can
//! explain. Each test runs its scripts on the memory engine.
//!
//! Commands: `put KEY VALUE [lease=N] [prev_kv] [ignore_value] [ignore_lease]`, `del KEY [END]
//! [prev_kv]`, `get KEY [END] [rev=N] [limit=N] [order=N] [target=N] [keys_only] [count_only]`,
//! `txn if="TARGET KEY OP OPERAND; ..." then="put K V; del K; get K" else="..."`, `compact REV`,
//! `grant ID TTL`, `revoke ID`, `checkpoint ID SECONDS`, `leases`, `raise nospace|corrupt`,
//! `clear nospace|corrupt`, `events FROM`, `reopen` (flush, then start from the engine).

use std::{error::Error, fmt::Write as _, sync::Arc};

use bytes::Bytes;
use goldenscript::{ArgumentConsumer as Args, Command as Line, Context, Runner};
use tripod_storage::{
    Command, KeyValue,
    apply::{Mark, Options, StateMachine},
    command::{
        AlarmAction, AlarmKind, Compact, Compare, CompareTarget, DeleteRange, EventKind, Put,
        Range, RangeResponse, Response, Txn, TxnOp, TxnOpResponse,
    },
    engine::{Engine, MemoryEngine},
    mvcc::validate,
};

/// Most operations in a transaction of a script.
const TXN_OPS_MAX: usize = 16;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Machine {
    engine: Arc<dyn Engine>,
    state: StateMachine,
    index: u64,
}

impl Machine {
    fn new() -> Self {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let state = open(&engine);
        Self { engine, state, index: 0 }
    }

    fn apply(&mut self, command: Command) -> Outcome<String> {
        self.index += 1;
        let mark = Mark { index: self.index, payload: Bytes::from(self.index.to_string()) };
        let applied = self.state.apply(mark, vec![command])?.remove(0);
        let said = match applied.outcome {
            Ok(response) => response_text(&response),
            Err(rejected) => format!("rejected: {rejected}\n"),
        };
        Ok(format!("{said}revision={}\n", applied.revision))
    }

    fn reopen(&mut self) -> Outcome<()> {
        while let Some(flush) = self.state.begin_flush() {
            flush.write(&*self.engine)?;
            self.state.end_flush(flush);
        }
        self.state = open(&self.engine);
        Ok(())
    }

    fn leases(&self) -> String {
        let mut text = String::new();
        for lease in self.state.leases() {
            let keys = self.state.lease_keys(lease.id);
            let keys: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
            let _ = writeln!(
                text,
                "lease {} ttl={} remaining={} keys={}",
                lease.id,
                lease.ttl_s,
                lease.remaining_s,
                keys.join(",")
            );
        }
        text
    }

    fn events(&self, from: i64) -> String {
        let Some(events) = self.state.recent_events(from, usize::MAX) else {
            return "no longer kept\n".to_owned();
        };
        let mut text = String::new();
        for event in events {
            let kind = if event.kind == EventKind::Put { "put" } else { "delete" };
            let _ = writeln!(text, "{kind} {}", pair_text(&event.kv));
        }
        text
    }
}

fn open(engine: &Arc<dyn Engine>) -> StateMachine {
    StateMachine::open(engine.clone(), Options::default()).expect("a memory engine opens")
}

impl Runner for Machine {
    type Command = Line;

    fn run(&mut self, line: &Line, _context: &Context) -> Outcome<String> {
        let mut args = line.consume_args();
        let said = match line.name.as_str() {
            "put" => self.put(&mut args)?,
            "get" => self.get(&mut args)?,
            "txn" => self.txn(&mut args)?,
            "del" => {
                let mut words = rest(&mut args);
                let prev_kv = words.iter().any(|word| word == "prev_kv");
                words.retain(|word| word != "prev_kv");
                self.apply(Command::DeleteRange(delete(&words, prev_kv)))?
            }
            "compact" => {
                let revision = number(&mut args)?;
                self.apply(Command::Compact(Compact { revision }))?
            }
            "grant" => {
                let (id, ttl_s) = (number(&mut args)?, number(&mut args)?);
                self.apply(Command::LeaseGrant { id, ttl_s })?
            }
            "revoke" => {
                let id = number(&mut args)?;
                self.apply(Command::LeaseRevoke { id })?
            }
            "checkpoint" => {
                let remaining_s = vec![(number(&mut args)?, number(&mut args)?)];
                self.apply(Command::LeaseCheckpoint { remaining_s })?
            }
            "raise" => self.alarm(AlarmAction::Activate, &mut args)?,
            "clear" => self.alarm(AlarmAction::Deactivate, &mut args)?,
            "leases" => self.leases(),
            "events" => {
                let from = number(&mut args)?;
                self.events(from)
            }
            "reopen" => {
                self.reopen()?;
                format!("revision={}\n", self.state.revision())
            }
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        Ok(said)
    }
}

impl Machine {
    fn put(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let lease = key_number(args, "lease")?;
        let mut words = rest(args).into_iter();
        let mut put = Put {
            key: Bytes::from(words.next().unwrap_or_default()),
            value: Bytes::from(words.next().unwrap_or_default()),
            lease,
            ..Put::default()
        };
        for flag in words {
            match flag.as_str() {
                "prev_kv" => put.prev_kv = true,
                "ignore_value" => put.ignore_value = true,
                "ignore_lease" => put.ignore_lease = true,
                other => return Err(format!("unknown flag {other}").into()),
            }
        }
        match validate::put(&put) {
            Ok(()) => self.apply(Command::Put(put)),
            Err(invalid) => Ok(format!("invalid: {invalid}\n")),
        }
    }

    fn get(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let mut range = Range {
            revision: key_number(args, "rev")?,
            limit: key_number(args, "limit")?,
            sort_order: i32::try_from(key_number(args, "order")?)?,
            sort_target: i32::try_from(key_number(args, "target")?)?,
            ..Range::default()
        };
        let mut words = rest(args);
        range.keys_only = words.iter().any(|word| word == "keys_only");
        range.count_only = words.iter().any(|word| word == "count_only");
        words.retain(|word| word != "keys_only" && word != "count_only");
        (range.key, range.range_end) = key_and_end(&words);
        Ok(match self.state.range(&range)? {
            Ok(answer) => range_text(&answer),
            Err(rejected) => format!("rejected: {rejected}\n"),
        })
    }

    fn txn(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let mut text = |name: &str| args.take_key(name).unwrap_or_default();
        let txn = Txn {
            compare: parts(text("if")).map(compare).collect::<Result<_, _>>()?,
            success: parts(text("then")).map(op).collect::<Result<_, _>>()?,
            failure: parts(text("else")).map(op).collect::<Result<_, _>>()?,
        };
        match validate::txn(&txn, TXN_OPS_MAX) {
            Ok(()) => self.apply(Command::Txn(txn)),
            Err(invalid) => Ok(format!("invalid: {invalid}\n")),
        }
    }

    fn alarm(&mut self, action: AlarmAction, args: &mut Args<'_>) -> Outcome<String> {
        let alarm = match args.next_pos() {
            Some("nospace") => AlarmKind::NoSpace,
            Some("corrupt") => AlarmKind::Corrupt,
            other => return Err(format!("unknown alarm {other:?}").into()),
        };
        self.apply(Command::Alarm { action, member_id: 1, alarm })
    }
}

fn rest(args: &mut Args<'_>) -> Vec<String> {
    std::iter::from_fn(|| args.next_pos()).map(str::to_owned).collect()
}

fn number(args: &mut Args<'_>) -> Outcome<i64> {
    Ok(args.next_pos().ok_or("a number is missing")?.parse()?)
}

/// 0 where it is absent.
fn key_number(args: &mut Args<'_>, name: &str) -> Outcome<i64> {
    Ok(args.take_key(name).map_or(Ok(0), str::parse)?)
}

/// `\0` is written `%` in scripts.
fn key_and_end(words: &[String]) -> (Bytes, Bytes) {
    let part = |at: usize| words.get(at).map(|word| word.replace('%', "\0")).unwrap_or_default();
    (Bytes::from(part(0)), Bytes::from(part(1)))
}

fn delete(words: &[String], prev_kv: bool) -> DeleteRange {
    let (key, range_end) = key_and_end(words);
    DeleteRange { key, range_end, prev_kv }
}

fn parts(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.split(';')
        .map(|part| part.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .into_iter()
}

fn compare(words: Vec<String>) -> Outcome<Compare> {
    let [target, key, operator, operand] = words.as_slice() else {
        return Err("a compare is: TARGET KEY OPERATOR OPERAND".into());
    };
    let result = match operator.as_str() {
        "=" => 0,
        ">" => 1,
        "<" => 2,
        "!=" => 3,
        other => return Err(format!("unknown operator {other}").into()),
    };
    let target = match target.as_str() {
        "version" => CompareTarget::Version(operand.parse()?),
        "create" => CompareTarget::Create(operand.parse()?),
        "mod" => CompareTarget::Mod(operand.parse()?),
        "lease" => CompareTarget::Lease(operand.parse()?),
        "value" => CompareTarget::Value(Bytes::from(operand.clone())),
        other => return Err(format!("unknown target {other}").into()),
    };
    Ok(Compare { result, target, key: Bytes::from(key.clone()), range_end: Bytes::new() })
}

fn op(mut words: Vec<String>) -> Outcome<TxnOp> {
    let name = words.remove(0);
    let (key, range_end) = key_and_end(&words);
    Ok(match name.as_str() {
        "put" => TxnOp::Put(Put { key, value: range_end, ..Put::default() }),
        "del" => TxnOp::DeleteRange(delete(&words, false)),
        "get" => TxnOp::Range(Range { key, range_end, ..Range::default() }),
        "none" => TxnOp::Empty,
        other => return Err(format!("unknown operation {other}").into()),
    })
}

fn pair_text(kv: &KeyValue) -> String {
    format!(
        "{}={} create={} mod={} version={} lease={}",
        String::from_utf8_lossy(&kv.key),
        String::from_utf8_lossy(&kv.value),
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        kv.lease
    )
}

fn range_text(answer: &RangeResponse) -> String {
    let mut text = String::new();
    for kv in &answer.kvs {
        let _ = writeln!(text, "{}", pair_text(kv));
    }
    let _ = writeln!(text, "count={} more={} at={}", answer.count, answer.more, answer.revision);
    text
}

fn op_text(answer: &TxnOpResponse) -> String {
    match answer {
        TxnOpResponse::Range(range) => format!("get: {}", range_text(range)),
        TxnOpResponse::Put(put) => format!("put: at={}\n", put.revision),
        TxnOpResponse::DeleteRange(delete) => {
            format!("del: deleted={} at={}\n", delete.deleted, delete.revision)
        }
        TxnOpResponse::Txn(txn) => format!("txn: succeeded={}\n", txn.succeeded),
    }
}

fn response_text(response: &Response) -> String {
    match response {
        Response::Put(put) => put
            .prev_kv
            .as_ref()
            .map_or_else(String::new, |prev| format!("prev {}\n", pair_text(prev))),
        Response::DeleteRange(delete) => {
            let mut text = format!("deleted={}\n", delete.deleted);
            for prev in &delete.prev_kvs {
                let _ = writeln!(text, "prev {}", pair_text(prev));
            }
            text
        }
        Response::Txn(txn) => {
            let mut text = format!("succeeded={}\n", txn.succeeded);
            for answer in &txn.responses {
                text.push_str(&op_text(answer));
            }
            text
        }
        Response::LeaseGrant { id, ttl_s } => format!("lease {id} ttl={ttl_s}\n"),
        Response::Alarm(alarms) => format!("{alarms:?}\n"),
        other => format!("{other:?}\n"),
    }
}

fn run(folder: &str) {
    let folder = format!("{}/testdata/{folder}", env!("CARGO_MANIFEST_DIR"));
    let mut scripts: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "{folder} holds no script");
    for script in scripts {
        if let Err(error) = goldenscript::run(&mut Machine::new(), &script) {
            panic!("{}: {error}", script.display());
        }
    }
}

#[test]
fn the_key_space_does_what_its_scripts_say() {
    run("mvcc");
}

#[test]
fn transactions_do_what_their_scripts_say() {
    run("txn");
}

#[test]
fn leases_and_alarms_do_what_their_scripts_say() {
    run("lease");
}
