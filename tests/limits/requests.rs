//! Sizes, counts and depths of single requests. Everything here runs at its full size in CI.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};
use tonic::Code;
use tripod::api::proto::etcdserverpb::{
    self as pb, RequestOp, TxnRequest, request_op::Request as Operation,
};

use crate::{
    frames::nested_txn,
    target::{Target, put_op},
};

/// etcd's `--max-request-bytes`.
const REQUEST_BYTES_MAX: usize = 1_572_864;
/// What gRPC receives at most.
const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX + 512 * 1024;
/// Key, tags and lengths of a put, generously.
const ENVELOPE: usize = 128;
/// Operations of one branch, with what is nested in it.
const TXN_OPS_MAX: usize = 128;
/// Transactions inside each other.
const TXN_DEPTH_MAX: usize = 32;
/// Levels that no honest client sends.
const ABSURD_DEPTH: usize = 10_000;
/// What too many operations and too many levels get, as from etcd 3.5.1.
const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
/// Longest time for any one refusal, debug build.
const REFUSAL_MAX: Duration = Duration::from_secs(5);

#[test]
fn requests_are_accepted_up_to_the_size_and_refused_above_without_a_trace() -> Result<()> {
    let target = Target::one(&[])?;
    let cases = [
        ("just below the limit", REQUEST_BYTES_MAX - ENVELOPE, Code::Ok, ""),
        (
            "just above",
            REQUEST_BYTES_MAX,
            Code::InvalidArgument,
            "etcdserver: request is too large",
        ),
        (
            "just below what gRPC takes",
            MESSAGE_BYTES_MAX - ENVELOPE,
            Code::InvalidArgument,
            "etcdserver: request is too large",
        ),
        ("just above that", MESSAGE_BYTES_MAX, Code::ResourceExhausted, "larger than max"),
        ("far above", 8 * MESSAGE_BYTES_MAX, Code::ResourceExhausted, "larger than max"),
    ];
    let client = target.client();
    for (name, bytes, code, text) in cases {
        let before = target.revision()?;
        let value = Bytes::from(vec![b'v'; bytes]);
        let plain = target.runtime.block_on(client.put("size", value.clone()));
        let txn =
            TxnRequest { success: vec![put_op("size", value.clone(), 0)], ..Default::default() };
        let txn = target.run(async { Ok(client.kv().txn(txn).await) })?;
        for (how, answer) in [("put", plain.map(drop)), ("txn", txn.map(drop))] {
            let (got, message) = match &answer {
                Ok(()) => (Code::Ok, ""),
                Err(status) => (status.code(), status.message()),
            };
            ensure!(got == code && message.contains(text), "{name}, {how}: {answer:?}");
        }
        let body = json!({ "key": STANDARD.encode("size"), "value": STANDARD.encode(&value) });
        let answer = target.http().post("/v3/kv/put", &body)?;
        let status = match code {
            Code::Ok => 200,
            Code::InvalidArgument => 400,
            _ => 429,
        };
        ensure!(answer.status == status, "{name}: JSON {} {}", answer.status, answer.text());
        if status != 200 {
            let message = answer.json()?["message"].as_str().unwrap_or("").to_owned();
            ensure!(message.contains(text), "{name}: {message}");
        }
        let written = target.revision()? - before;
        ensure!(written == if code == Code::Ok { 3 } else { 0 }, "{name}: {written} revisions");
    }
    target.finish()
}

fn nested(depth: usize, inner: RequestOp) -> RequestOp {
    (0..depth).fold(inner, |inner, _| RequestOp {
        request: Some(Operation::RequestTxn(TxnRequest {
            success: vec![inner],
            ..Default::default()
        })),
    })
}

fn puts(prefix: &str, count: usize) -> Vec<RequestOp> {
    (0..count).map(|number| put_op(format!("{prefix}{number}"), "v", 0)).collect()
}

#[test]
fn transactions_are_bounded_in_operations_nesting_and_duplicates() -> Result<()> {
    let target = Target::one(&[])?;
    let of = |success| TxnRequest { success, ..Default::default() };
    let with = |mut ops: Vec<RequestOp>, op| {
        ops.push(op);
        of(ops)
    };
    let child = |then, or_else| RequestOp {
        request: Some(Operation::RequestTxn(TxnRequest {
            success: then,
            failure: or_else,
            ..Default::default()
        })),
    };
    let many = TOO_MANY_OPS;
    let twice = "etcdserver: duplicate key given in txn request";
    let half = TXN_OPS_MAX / 2;
    let compares = |count: usize| TxnRequest {
        compare: vec![pb::Compare { key: "c".into(), ..Default::default() }; count],
        ..Default::default()
    };
    let cases = [
        ("128 operations", of(puts("a", TXN_OPS_MAX)), ""),
        ("129 operations", of(puts("a", TXN_OPS_MAX + 1)), many),
        ("128 compares", compares(TXN_OPS_MAX), ""),
        ("129 compares", compares(TXN_OPS_MAX + 1), many),
        (
            "a child with what its parent leaves",
            with(puts("b", half - 1), child(puts("c", half), vec![])),
            "",
        ),
        ("one more", with(puts("b", half - 1), child(puts("c", half + 1), vec![])), many),
        ("32 levels", of(vec![nested(TXN_DEPTH_MAX - 1, put_op("d", "v", 0))]), ""),
        ("33 levels", of(vec![nested(TXN_DEPTH_MAX, put_op("d", "v", 0))]), many),
        ("a key twice", of(vec![put_op("e", "1", 0), put_op("e", "2", 0)]), twice),
        ("a key again in a child", with(puts("f", 1), child(puts("f", 1), vec![])), twice),
        ("a key in both branches", with(puts("g", 1), child(puts("h", 1), puts("h", 1))), ""),
    ];
    for (name, request, text) in cases {
        let before = target.revision()?;
        let answer = target.run(async { Ok(target.client().kv().txn(request).await) })?;
        match answer {
            Ok(_) => ensure!(text.is_empty(), "{name}: taken"),
            Err(status) => {
                ensure!(!text.is_empty() && status.message() == text, "{name}: {status}");
                ensure!(status.code() == Code::InvalidArgument, "{name}: {status}");
                ensure!(target.revision()? == before, "{name}: it left something");
            }
        }
    }
    target.finish()
}

/// The answers are those of etcd 3.5.1, from 129 levels on.
#[test]
fn absurd_depths_are_refused_on_either_wire_in_bounded_time() -> Result<()> {
    let target = Target::one(&[])?;
    let innocent = target.innocent();
    let before = Instant::now();
    for depth in [TXN_DEPTH_MAX + 1, 60, 100, ABSURD_DEPTH] {
        let bytes = Bytes::from(nested_txn(depth));
        let call = target.client();
        let answer = target.runtime.block_on(call.unary("/etcdserverpb.KV/Txn", bytes));
        let status = answer.err().with_context(|| format!("{depth} levels were taken"))?;
        ensure!(status.code() == Code::InvalidArgument, "{depth} levels: {status}");
        ensure!(status.message() == TOO_MANY_OPS, "{depth} levels: {status}");
    }
    let json = |depth: usize, core: &str| {
        let open = r#"{"success":[{"request_txn":"#.repeat(depth);
        format!("{open}{core}{}", "}]}".repeat(depth))
    };
    // As long as the gateway reads: deep, and deep around a large value.
    let large = format!(
        r#"{{"success":[{{"request_put":{{"key":"YQ==","value":"{}"}}}}]}}"#,
        "AAAA".repeat(1_900_000)
    );
    let cases = [
        ("33 levels", json(TXN_DEPTH_MAX + 1, "{}")),
        ("148 levels", json(148, "{}")),
        ("148 levels around a large value", json(148, &large)),
        ("10,000 levels", json(ABSURD_DEPTH, "{}")),
        ("10,000 open brackets", "[".repeat(ABSURD_DEPTH)),
        ("an unknown field of 10,000 levels", format!("{{\"x\":{}", "[".repeat(ABSURD_DEPTH))),
    ];
    for (name, body) in cases {
        let start = Instant::now();
        let answer = target.http().call("POST", "/v3/kv/txn", body.as_bytes()).context(name)?;
        // What is too large is refused for that, as by gRPC.
        let is_large = name.contains("large");
        let (status, code) = if is_large { (429, 8) } else { (400, 3) };
        ensure!(answer.status == status, "{name}: {}", answer.status);
        ensure!(start.elapsed() < REFUSAL_MAX, "{name}: {:?}", start.elapsed());
        let error: Value = answer.json().context(name)?;
        ensure!(error["code"] == code, "{name}: {error}");
        let is_txn = ["33 levels", "148 levels"].contains(&name);
        ensure!(!is_txn || error["message"] == TOO_MANY_OPS, "{name}: {error}");
    }
    eprintln!("limits: depths: all refused in {:.1?}", before.elapsed());
    target.judge(innocent, "absurd depths")?;
    target.finish()
}
