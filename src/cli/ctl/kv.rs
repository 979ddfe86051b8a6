//! put, get, del, compaction.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, Read as _},
    os::unix::ffi::OsStringExt as _,
};

use bytes::Bytes;

use super::{
    Session,
    args::{CompactionArgs, DelArgs, Format, GetArgs, PutArgs},
    client::Effect,
    exit::{BAD_FEATURE, Exit, FAILED},
    go,
    print::Answer,
};
use crate::api::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest,
    kv_client::KvClient,
    range_request::{SortOrder, SortTarget},
};

/// Range end that means "every key from here on".
pub(super) const FROM_KEY: &[u8] = b"\0";
/// The smallest key, which stands in for an empty one in ranges.
const FIRST_KEY: &[u8] = b"\0";

/// The bytes of an argument.
pub(super) fn bytes(arg: OsString) -> Bytes {
    arg.into_vec().into()
}

/// Smallest key behind all keys with `prefix`.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(FROM_KEY)
}

/// Key and range end of a command's arguments.
pub(super) fn key_range(
    command: &str,
    args: Vec<OsString>,
    prefix: bool,
    from_key: bool,
) -> Result<(Bytes, Bytes), Exit> {
    let mut args = args.into_iter().map(bytes);
    let Some(key) = args.next() else {
        return Err(Exit::args(format!(
            "{command} command needs one argument as key and an optional argument as range_end"
        )));
    };
    if prefix && from_key {
        return Err(Exit::args(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        ));
    }
    let end = args.next();
    if end.is_some() && (prefix || from_key) {
        return Err(Exit::args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        ));
    }
    let from = |key: Bytes| {
        let key = if key.is_empty() { Bytes::from_static(FIRST_KEY) } else { key };
        (key, Bytes::from_static(FROM_KEY))
    };
    Ok(match end {
        _ if from_key || (prefix && key.is_empty()) => from(key),
        _ if prefix => {
            let end = prefix_end(&key);
            (key, end)
        }
        Some(end) => (key, end),
        None => (key, Bytes::new()),
    })
}

/// The request of `put`. `read_value` is asked if no value is given.
pub(super) fn put_request(
    args: PutArgs,
    read_value: impl FnOnce() -> Option<Vec<u8>>,
) -> Result<PutRequest, Exit> {
    const USAGE: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    let mut values = args.args.into_iter().map(bytes);
    let key = values.next().ok_or_else(|| Exit::args(USAGE))?;
    let value = match (values.next(), args.ignore_value) {
        (Some(_), true) => {
            return Err(Exit::args("put command needs only 1 argument when 'ignore-value' is set"));
        }
        (None, true) => Bytes::new(),
        (Some(value), false) => value,
        (None, false) => read_value().map(Bytes::from).ok_or_else(|| Exit::args(USAGE))?,
    };
    let lease = go::parse_int(&args.lease, 16)
        .map_err(|error| Exit::args(format!("bad lease ID ({error}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key,
        value,
        lease,
        prev_kv: args.prev_kv,
        ignore_value: args.ignore_value,
        ignore_lease: args.ignore_lease,
    })
}

/// The request of `get`.
pub(super) fn range_request(args: GetArgs) -> Result<RangeRequest, Exit> {
    if args.keys_only && args.count_only {
        return Err(Exit::args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let serializable = match args.consistency.as_str() {
        "s" => true,
        "l" => false,
        other => {
            let text = format!("unknown consistency flag {}", go::quote(other.as_bytes()));
            return Err(Exit::new(BAD_FEATURE, text));
        }
    };
    let sort_order = match args.order.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(Exit::new(BAD_FEATURE, format!("bad sort order {}", args.order))),
    };
    let sort_target = match args.sort_by.to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Exit::new(BAD_FEATURE, format!("bad sort target {}", args.sort_by))),
    };
    let (key, range_end) = key_range("get", args.args, args.prefix, args.from_key)?;
    Ok(RangeRequest {
        key,
        range_end,
        limit: args.limit,
        revision: args.rev.max(0),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only: args.keys_only,
        count_only: args.count_only,
        ..RangeRequest::default()
    })
}

/// The request of `del`.
pub(super) fn delete_request(args: DelArgs) -> Result<DeleteRangeRequest, Exit> {
    let prev_kv = args.prev_kv;
    let (key, range_end) = key_range("del", args.args, args.prefix, args.from_key)?;
    Ok(DeleteRangeRequest { key, range_end, prev_kv })
}

/// All of standard input; none if it is a terminal or empty.
fn read_stdin() -> Option<Vec<u8>> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("reading the value from the terminal, end it with Ctrl-D");
    }
    let mut value = Vec::new();
    stdin.read_to_end(&mut value).ok()?;
    (!value.is_empty()).then_some(value)
}

/// Runs `put`.
pub(super) async fn put(session: &Session, args: PutArgs) -> Result<(), Exit> {
    let request = put_request(args, read_stdin)?;
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            KvClient::new(connection).put(request.clone()).await
        })
        .await?;
    session.show(&Answer::Put(&answer))
}

/// Runs `get`.
pub(super) async fn get(session: &Session, args: GetArgs) -> Result<(), Exit> {
    let (count_only, value_only) = (args.count_only, args.print_value_only);
    let request = range_request(args)?;
    if count_only && session.style.format != Format::Fields {
        return Err(Exit::args("--count-only is only for `--write-out=fields`"));
    }
    if value_only && session.style.format != Format::Simple {
        return Err(Exit::args("print-value-only is only for `--write-out=simple`"));
    }
    let answer = session
        .client
        .call(Effect::Reads, async |connection| {
            let mut client = KvClient::new(connection).max_decoding_message_size(usize::MAX);
            client.range(request.clone()).await
        })
        .await?;
    let mut style = session.style;
    style.value_only = value_only;
    super::write(&style.print(&Answer::Range(&answer))?)
}

/// Runs `del`.
pub(super) async fn del(session: &Session, args: DelArgs) -> Result<(), Exit> {
    let request = delete_request(args)?;
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            let mut client = KvClient::new(connection).max_decoding_message_size(usize::MAX);
            client.delete_range(request.clone()).await
        })
        .await?;
    session.show(&Answer::Delete(&answer))
}

/// Runs `compaction`.
pub(super) async fn compact(session: &Session, args: CompactionArgs) -> Result<(), Exit> {
    let [text] = args.revision.args.as_slice() else {
        return Err(Exit::args("compaction command needs 1 argument"));
    };
    let revision = go::parse_int(text, 10).map_err(|error| Exit::new(FAILED, error.to_string()))?;
    let request = CompactionRequest { revision, physical: args.physical };
    session
        .client
        .call(Effect::Writes, async |connection| KvClient::new(connection).compact(request).await)
        .await?;
    super::write(format!("compacted revision {revision}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_behind_its_last_key() {
        let cases: [(&[u8], &[u8]); 4] =
            [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")];
        for (prefix, end) in cases {
            assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        }
    }

    #[test]
    fn ranges_follow_the_flags() {
        type Want = Result<(&'static [u8], &'static [u8]), &'static str>;
        let cases: [(&[&str], bool, bool, Want); 9] = [
            (&["a"], false, false, Ok((b"a", b""))),
            (&["a", "c"], false, false, Ok((b"a", b"c"))),
            (&["a", "c", "x"], false, false, Ok((b"a", b"c"))),
            (&["a"], true, false, Ok((b"a", b"b"))),
            (&[""], true, false, Ok((b"\0", b"\0"))),
            (&["a"], false, true, Ok((b"a", b"\0"))),
            (&[""], false, true, Ok((b"\0", b"\0"))),
            (&["a", "b"], true, false, Err("too many arguments")),
            (&["a"], true, true, Err("`--prefix` and `--from-key`")),
        ];
        for (args, prefix, from_key, want) in cases {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let got = key_range("get", args.clone(), prefix, from_key);
            match (got, want) {
                (Ok((key, end)), Ok(want)) => assert_eq!((&key[..], &end[..]), want, "{args:?}"),
                (Err(exit), Err(text)) => assert!(exit.message.starts_with(text), "{exit:?}"),
                (got, want) => panic!("{args:?}: {got:?}, not {want:?}"),
            }
        }
    }
}
