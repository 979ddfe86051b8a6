//! Long answers to many clients at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tripod::api::proto::etcdserverpb::{RangeRequest, TxnRequest};

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
