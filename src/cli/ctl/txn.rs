//! txn: compares and requests read from standard input, three blocks ended by empty lines.
//!
//! A compare is `TARGET("key") OP "value"`; a request is a put, get or del line as on the command
//! line. Source: etcdctl 3.5 `txn --help`.

use std::{
    ffi::OsString,
    io::{BufRead, stdin},
    os::unix::ffi::OsStringExt as _,
};

use clap::Parser;

use super::{
    Session,
    args::{DelArgs, GetArgs, PutArgs, TxnArgs, normalize},
    client::Effect,
    exit::{Exit, INVALID_INPUT},
    go, kv,
    print::Answer,
};
use crate::api::proto::etcdserverpb::{
    Compare, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    request_op::Request,
};

/// Lines of one block; a transaction that large is refused by any server.
const BLOCK_LINES_MAX: usize = 100_000;

/// One request line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, args_override_self = true)]
enum Operation {
    Put(PutArgs),
    Get(GetArgs),
    Del(DelArgs),
}

/// Runs `txn`.
pub(super) async fn run(session: &Session, args: TxnArgs) -> Result<(), Exit> {
    if !args.args.is_empty() {
        return Err(Exit::args("txn command does not accept argument"));
    }
    let mut input = stdin().lock();
    let prompt = |text: &str| {
        if args.interactive { super::write(format!("{text}\n").as_bytes()) } else { Ok(()) }
    };
    prompt("compares:")?;
    let compare = block(&mut input, parse_compare)?;
    prompt("success requests (get, put, del):")?;
    let success = block(&mut input, parse_operation)?;
    prompt("failure requests (get, put, del):")?;
    let failure = block(&mut input, parse_operation)?;
    drop(input);
    let request = TxnRequest { compare, success, failure };
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            let mut client = KvClient::new(connection).max_decoding_message_size(usize::MAX);
            client.txn(request.clone()).await
        })
        .await?;
    session.show(&Answer::Txn(&answer))
}

fn invalid(message: impl Into<String>) -> Exit {
    Exit::new(INVALID_INPUT, message)
}

/// The parsed lines up to an empty one. The end of input in between is an error, as in etcdctl.
fn block<T>(
    input: &mut impl BufRead,
    parse: impl Fn(&str) -> Result<T, Exit>,
) -> Result<Vec<T>, Exit> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let read = input.read_line(&mut line).map_err(|error| invalid(error.to_string()))?;
        if read == 0 || !line.ends_with('\n') {
            return Err(invalid("EOF"));
        }
        let line = line.trim();
        if line.is_empty() {
            return Ok(lines);
        }
        if lines.len() == BLOCK_LINES_MAX {
            return Err(invalid(format!("more than {BLOCK_LINES_MAX} lines in one block")));
        }
        lines.push(parse(line)?);
    }
}

/// Reads `mod("key") > "0"` and its like.
fn parse_compare(line: &str) -> Result<Compare, Exit> {
    let malformed = || invalid(format!("malformed comparison: {line}"));
    let (target, rest) = line.split_once('(').ok_or_else(malformed)?;
    let parsed = |key: &[u8], op: &str, value: &[u8]| {
        let (key, value) = (go::quote(key), go::quote(value));
        invalid(format!("malformed comparison: {line}; got {target}({key}) {op} {value}"))
    };
    let (key, rest) = go::unquote_prefix(rest.trim_start()).ok_or_else(|| parsed(b"", "", b""))?;
    let rest = rest.strip_prefix(')').ok_or_else(|| parsed(&key, "", b""))?.trim_start();
    let (op, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let (value, _) = go::unquote_prefix(rest.trim_start()).ok_or_else(|| parsed(&key, op, b""))?;
    let result = match op {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(invalid(format!("malformed comparison: {line} (unknown operator {op})"))),
    };
    let number = |radix| {
        let text = String::from_utf8_lossy(&value);
        go::parse_int(&text, radix)
            .map_err(|_| invalid(format!("invalid txn compare request: {line}")))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        other => {
            let text = format!("malformed comparison: {line} (unknown target {other})");
            return Err(invalid(text));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(union),
        ..Compare::default()
    })
}

/// Reads a put, get or del line.
fn parse_operation(line: &str) -> Result<RequestOp, Exit> {
    let words = go::words(line).map_err(invalid)?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {line}")));
    }
    let (args, _) = normalize(words.into_iter().map(OsString::from_vec));
    let operation = Operation::try_parse_from(args)
        .map_err(|_| invalid(format!("invalid txn request: {line}")))?;
    let request = match operation {
        // Standard input is the transaction itself, so it has no value to give.
        Operation::Put(args) => Request::RequestPut(kv::put_request(args, || None)?),
        Operation::Get(args) => Request::RequestRange(kv::range_request(args)?),
        Operation::Del(args) => Request::RequestDeleteRange(kv::delete_request(args)?),
    };
    Ok(RequestOp { request: Some(request) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_are_read() {
        let cases = [
            ("mod(\"k\") > \"0\"", TargetUnion::ModRevision(0), CompareResult::Greater),
            ("ver(\"k\") < \"5\"", TargetUnion::Version(5), CompareResult::Less),
            ("c(\"k\") != \"7\"", TargetUnion::CreateRevision(7), CompareResult::NotEqual),
            ("lease(\"k\") = \"7f\"", TargetUnion::Lease(0x7f), CompareResult::Equal),
            (
                "value(\"k\")   =   \"a \\\"b\"",
                TargetUnion::Value("a \"b".into()),
                CompareResult::Equal,
            ),
        ];
        for (line, union, result) in cases {
            let compare = parse_compare(line).unwrap();
            assert_eq!(&compare.key[..], b"k", "{line}");
            assert_eq!(compare.result(), result, "{line}");
            assert_eq!(compare.target_union, Some(union), "{line}");
        }
    }

    /// Texts of etcdctl 3.5.1, but for the unknown operator, where it panics.
    #[test]
    fn wrong_lines_are_refused_with_etcdctls_words() {
        let compares = [
            (
                "foo(\"k1\") = \"0\"",
                "malformed comparison: foo(\"k1\") = \"0\" (unknown target foo)",
            ),
            ("mod(k1) = \"0\"", "malformed comparison: mod(k1) = \"0\"; got mod(\"\")  \"\""),
            ("mod(\"k1\") = \"x\"", "invalid txn compare request: mod(\"k1\") = \"x\""),
            ("mod(\"k1\") = 0", "malformed comparison: mod(\"k1\") = 0; got mod(\"k1\") = \"\""),
            ("x", "malformed comparison: x"),
            (
                "mod(\"k1\") ~ \"0\"",
                "malformed comparison: mod(\"k1\") ~ \"0\" (unknown operator ~)",
            ),
        ];
        for (line, want) in compares {
            assert_eq!(parse_compare(line), Err(invalid(want)), "{line}");
        }
        let operations = [
            ("foo k1 x", invalid("invalid txn request: foo k1 x")),
            ("put", invalid("invalid txn compare request: put")),
            ("put k1 x --bogus", invalid("invalid txn request: put k1 x --bogus")),
            (
                "put k1",
                Exit::args("put command needs 1 argument and input from stdin or 2 arguments"),
            ),
        ];
        for (line, want) in operations {
            assert_eq!(parse_operation(line), Err(want), "{line}");
        }
    }

    #[test]
    fn operations_take_flags_and_quotes() {
        let Some(Request::RequestRange(range)) =
            parse_operation("get k --prefix=true --limit 3").unwrap().request
        else {
            panic!("no range")
        };
        assert_eq!((&range.key[..], &range.range_end[..], range.limit), (&b"k"[..], &b"l"[..], 3));
        let Some(Request::RequestPut(put)) = parse_operation("put 'a b' \"c\\n\"").unwrap().request
        else {
            panic!("no put")
        };
        assert_eq!((&put.key[..], &put.value[..]), (&b"a b"[..], &b"c\n"[..]));
    }

    #[test]
    fn blocks_end_at_empty_lines() {
        let mut input = &b"a\n b \n\nc"[..];
        let line = |line: &str| Ok(line.to_owned());
        assert_eq!(block(&mut input, line).unwrap(), ["a", "b"]);
        assert_eq!(block(&mut input, line), Err(invalid("EOF")));
    }
}
