//! Long answers to many clients at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use tripod::api::proto::etcdserverpb::{
    DeleteRangeRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request as Operation,
    response_op::Response as Answer,
};

use crate::{
    support::client::Client,
    target::{Peak, Target, mib, put_op, size},
};

/// Keys in the range: in CI, and in full.
const KEYS: (usize, usize) = (50_000, 1_000_000);
/// Clients that ask for all of them at once: in CI, and in full.
const CLIENTS: (usize, usize) = (20, 100);
/// Bytes of a value.
const VALUE_BYTES: usize = 400;
/// Bytes that long answers may take together; see `src/client/budget.rs`. Twice: an answer is
/// there as pairs and as encoded bytes for a moment.
const ANSWERS_BYTES_MAX: u64 = 2 * (256 << 20);
/// What else may grow meanwhile: buffers, log, the innocent client's writes.
const SLACK_BYTES: u64 = 192 << 20;
/// Memory of one pair at rest and of its answer, for a range that is larger than the budget.
const PAIR_BYTES: u64 = 2 * (VALUE_BYTES as u64 + 200);
/// Time for all answers, debug build: in CI, and in full.
const ANSWERS_MAX_S: (usize, usize) = (60, 1_800);

/// Each answer shows one revision, however long it takes: a transaction keeps writing the same
/// number under the first and the last key.
#[test]
fn ranges_over_everything_by_many_clients_are_right_and_bounded() -> Result<()> {
    let target = Target::one(&[])?;
    let (keys, clients) = (size(KEYS.0, KEYS.1), size(CLIENTS.0, CLIENTS.1));
    let ends = |number: usize| TxnRequest {
        success: vec![
            put_op("all/", number.to_string(), 0),
            put_op("all/~", number.to_string(), 0),
        ],
        ..Default::default()
    };
    target.run(async {
        target.client().kv().txn(ends(0)).await?;
        Ok(())
    })?;
    target.fill("all", keys, &[b'v'; VALUE_BYTES], 0)?;
    let before = target.resident()?;
    let innocent = target.innocent();
    let peak = Peak::watch(target.cluster.members[0].pid()?);
    let start = Instant::now();
    let deadline = Duration::from_secs(size(ANSWERS_MAX_S.0, ANSWERS_MAX_S.1) as u64);
    target.run(async {
        let writer = target.client();
        let writing = tokio::spawn(async move {
            for number in 1.. {
                if writer.kv().txn(ends(number)).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let url = target.cluster.members[0].client_url();
        let reads: Vec<_> = (0..clients)
            .map(|_| tokio::spawn(read_all(Client::with_limit(&url, deadline), keys + 2)))
            .collect();
        for read in reads {
            read.await??;
        }
        writing.abort();
        Ok(())
    })?;
    let grown = peak.bytes().saturating_sub(before);
    eprintln!(
        "limits: {clients} ranges over {keys} keys in {:.1?}: {} MiB at rest, {} MiB more at most",
        start.elapsed(),
        mib(before),
        mib(grown)
    );
    let bound = ANSWERS_BYTES_MAX.max(PAIR_BYTES * keys as u64) + SLACK_BYTES;
    ensure!(grown < bound, "{} MiB more, bound {}", mib(grown), mib(bound));
    target.judge(innocent, "ranges over everything")?;
    target.finish()
}

async fn read_all(client: Client, keys: usize) -> Result<()> {
    let request =
        RangeRequest { key: "all/".into(), range_end: "all0".into(), ..Default::default() };
    let answer = client.kv().range(request).await?.into_inner();
    ensure!(answer.kvs.len() == keys && answer.count == keys as i64, "{} pairs", answer.kvs.len());
    let (first, last) = (answer.kvs.first().context("first")?, answer.kvs.last().context("last")?);
    ensure!(first.value == last.value, "two revisions: {:?}, {:?}", first.value, last.value);
    ensure!(answer.kvs.is_sorted_by(|a, b| a.key < b.key), "not in order");
    let header = answer.header.context("header")?;
    ensure!(answer.kvs.iter().all(|kv| kv.mod_revision <= header.revision), "newer than it says");
    Ok(())
}

/// Pairs and bytes of the data that transactions read again and again: 4 MiB.
const LARGE_VALUES: usize = 64;
const LARGE_BYTES: usize = 64 << 10;
/// As many as one request may write.
const GROUP: usize = 16;
/// Reads of all of it in one transaction: 128 MiB.
const READS: usize = 32;
/// Clients that run one at once: 1.5 GiB of answers, each there twice for a moment.
const TXN_CLIENTS: usize = 12;
/// As many operations as a transaction may have: 512 MiB.
const READS_TOO_MANY: usize = 128;

/// A small request may read the same large range a hundred times. What transactions answer counts
/// like other long answers, and one that would answer too much is refused before it changes
/// anything (etcd 3.6.14: the cost of a transaction overlooked what is nested).
#[test]
fn transactions_that_read_ranges_again_and_again_are_bounded_or_refused() -> Result<()> {
    let target = Target::one(&[])?;
    for group in 0..LARGE_VALUES / GROUP {
        target.fill(&format!("large/{group}"), GROUP, &[b'v'; LARGE_BYTES], 0)?;
    }
    let reads = |count: usize, also: Vec<RequestOp>| {
        let range =
            RangeRequest { key: "large/".into(), range_end: "large0".into(), ..Default::default() };
        let read = RequestOp { request: Some(Operation::RequestRange(range)) };
        let success = also.into_iter().chain(vec![read; count]).collect();
        TxnRequest { success, ..Default::default() }
    };
    let inside = |txn| RequestOp { request: Some(Operation::RequestTxn(txn)) };
    let half = READS_TOO_MANY / 2 - 1;
    let revision = target.revision()?;
    for (name, txn) in [
        ("reads alone", reads(READS_TOO_MANY, vec![])),
        ("with a put", reads(READS_TOO_MANY - 1, vec![put_op("new", "1", 0)])),
        ("nested", reads(half, vec![inside(reads(half, vec![])), put_op("new", "1", 0)])),
    ] {
        let answer = target.run(async { Ok(target.client().kv().txn(txn).await) })?;
        let status = answer.err().with_context(|| format!("{name}: taken"))?;
        ensure!(status.code() == Code::ResourceExhausted, "{name}: {status}");
        ensure!(status.message().contains("page by page"), "{name}: {status}");
    }
    ensure!(target.revision()? == revision, "a refused transaction changed something");
    let before = target.resident()?;
    let innocent = target.innocent();
    let peak = Peak::watch(target.cluster.members[0].pid()?);
    let start = Instant::now();
    let deadline = Duration::from_secs(ANSWERS_MAX_S.0 as u64);
    target.run(async {
        let url = target.cluster.members[0].client_url();
        let calls: Vec<_> = (0..TXN_CLIENTS)
            .map(|number| {
                let also = if number % 2 == 0 { vec![] } else { vec![put_op("new", "1", 0)] };
                let (txn, client) = (reads(READS, also), Client::with_limit(&url, deadline));
                tokio::spawn(async move { client.kv().txn(txn).await })
            })
            .collect();
        for call in calls {
            let answer = call.await??.into_inner();
            let pairs = answer.responses.iter().map(|one| match &one.response {
                Some(Answer::ResponseRange(range)) => range.kvs.len(),
                _ => 0,
            });
            ensure!(pairs.sum::<usize>() == READS * LARGE_VALUES, "pairs are missing");
        }
        Ok(())
    })?;
    let grown = peak.bytes().saturating_sub(before);
    eprintln!(
        "limits: {TXN_CLIENTS} transactions of {READS} ranges in {:.1?}: {} MiB more at most",
        start.elapsed(),
        mib(grown)
    );
    ensure!(grown < ANSWERS_BYTES_MAX + SLACK_BYTES, "{} MiB more", mib(grown));
    target.judge(innocent, "transactions of many ranges")?;
    target.finish()
}

/// Groups of values that deletes take at once, each 16 MiB: a little more than 256 MiB together.
const DELETED_GROUPS: usize = 17;
const DELETED_VALUES: usize = 256;

/// Previous values count like other long answers, and a delete that would answer with too many
/// deletes nothing (etcd has no bound but its client's).
#[test]
fn deletes_with_previous_values_are_bounded_or_refused() -> Result<()> {
    let target = Target::one(&[])?;
    for group in 0..DELETED_GROUPS {
        for part in 0..DELETED_VALUES / GROUP {
            target.fill(&format!("old/{group:02}/{part:02}"), GROUP, &[b'v'; LARGE_BYTES], 0)?;
        }
    }
    let delete = |prefix: String| DeleteRangeRequest {
        range_end: format!("{prefix}~").into(),
        key: prefix.into(),
        prev_kv: true,
    };
    let (revision, before) = (target.revision()?, target.resident()?);
    let innocent = target.innocent();
    let peak = Peak::watch(target.cluster.members[0].pid()?);
    let url = target.cluster.members[0].client_url();
    let deadline = Duration::from_secs(ANSWERS_MAX_S.0 as u64);
    target.run(async {
        let client = Client::with_limit(&url, deadline);
        let answer = client.kv().delete_range(delete("old/".to_owned())).await;
        let status = answer.err().context("taken")?;
        ensure!(status.code() == Code::ResourceExhausted, "{status}");
        ensure!(status.message().contains("in parts"), "{status}");
        Ok(())
    })?;
    let left = target.count("old")?;
    ensure!(left == (DELETED_GROUPS * DELETED_VALUES) as i64, "{left} keys left");
    let start = Instant::now();
    target.run(async {
        let calls: Vec<_> = (0..DELETED_GROUPS)
            .map(|group| {
                let client = Client::with_limit(&url, deadline);
                let request = delete(format!("old/{group:02}/"));
                tokio::spawn(async move { client.kv().delete_range(request).await })
            })
            .collect();
        for call in calls {
            let answer = call.await??.into_inner();
            let whole = answer.prev_kvs.iter().filter(|kv| kv.value.len() == LARGE_BYTES).count();
            ensure!((answer.deleted, whole) == (DELETED_VALUES as i64, DELETED_VALUES), "{whole}");
        }
        Ok(())
    })?;
    let grown = peak.bytes().saturating_sub(before);
    eprintln!(
        "limits: {DELETED_GROUPS} deletes of 16 MiB with previous values in {:.1?}: {} MiB more",
        start.elapsed(),
        mib(grown)
    );
    ensure!(grown < ANSWERS_BYTES_MAX + SLACK_BYTES, "{} MiB more", mib(grown));
    ensure!(target.count("old")? == 0 && target.revision()? > revision, "keys are left");
    target.judge(innocent, "deletes with previous values")?;
    target.finish()
}
