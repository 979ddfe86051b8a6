//! The bodies of the fuzz targets, run for a moment in every run of the tests.
//!
//! `scripts/fuzz.sh` runs the same files (`fuzz/bodies`) with coverage feedback for as long as one
//! likes, and takes minutes to compile. Here valid inputs are changed at random: less clever, at
//! no cost but the time it runs. Inputs depend on the seed and the number of the run alone, so
//! `TRIPOD_TEST_SEED` repeats them; `TRIPOD_FUZZ_SECONDS` lengthens each target's time.

#[path = "../../../fuzz/bodies/etcd_file.rs"]
mod etcd_file;
#[path = "../../../fuzz/bodies/http2.rs"]
mod http2;
#[path = "../../../fuzz/bodies/json.rs"]
mod json;
mod mutate;
#[path = "../../../fuzz/bodies/peer_frames.rs"]
mod peer_frames;
mod seeds;
#[path = "../../../fuzz/bodies/snapshot.rs"]
mod snapshot;
#[path = "../../../fuzz/bodies/wal.rs"]
mod wal;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use mutate::Mutator;

use crate::support::random::{number, seed};

/// Time of each target, in seconds.
const SECONDS: u64 = 2;
/// Time one input may take, as in `scripts/fuzz.sh`.
const INPUT_MAX: Duration = Duration::from_secs(10);
/// Fewer inputs than this in the time would not be worth the name.
const RUNS_MIN: u64 = 100;
/// Bytes of a bad input that are printed.
const SHOWN_BYTES_MAX: usize = 4_096;

/// What came of the runs of one target.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// All came back.
    Fine { runs: u64 },
    /// This one did not, within its time.
    Hangs { run: u64 },
    /// This one panicked.
    Panics { run: u64, input: Vec<u8> },
}

/// Runs `target` with changed inputs until `time` is over.
fn outcome(
    seed: u64,
    time: Duration,
    mutator: Mutator,
    target: impl Fn(&[u8]) + Send + 'static,
) -> Outcome {
    let counter = Arc::new(AtomicU64::new(0));
    let (report, reported) = mpsc::channel();
    let count = Arc::clone(&counter);
    // Not joined: a run that hangs would keep it.
    std::thread::spawn(move || {
        let started = Instant::now();
        let mut run = 0;
        while started.elapsed() < time {
            count.store(run, Ordering::Relaxed);
            let input = mutator.input(seed, run);
            let began = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
                let _ = report.send(Outcome::Panics { run, input });
                return;
            }
            if began.elapsed() > INPUT_MAX {
                let _ = report.send(Outcome::Hangs { run });
                return;
            }
            run += 1;
        }
        let _ = report.send(Outcome::Fine { runs: run });
    });
    let hangs = |_| Outcome::Hangs { run: counter.load(Ordering::Relaxed) };
    reported.recv_timeout(time + 2 * INPUT_MAX).unwrap_or_else(hangs)
}

/// Runs a target for its time and fails with what repeats a failure.
fn fuzz(name: &str, mutator: Mutator, target: impl Fn(&[u8]) + Send + 'static) {
    let seed = seed();
    let seconds = number("TRIPOD_FUZZ_SECONDS").unwrap_or(SECONDS);
    eprintln!("fuzz: {name}: TRIPOD_TEST_SEED={seed}, {seconds} s");
    match outcome(seed, Duration::from_secs(seconds), mutator, target) {
        Outcome::Fine { runs } => {
            eprintln!("fuzz: {name}: {runs} runs, all came back");
            assert!(runs >= RUNS_MIN || seconds < SECONDS, "{name}: only {runs} runs");
        }
        Outcome::Hangs { run } => {
            panic!("{name}: run {run} of TRIPOD_TEST_SEED={seed} takes over {INPUT_MAX:?}")
        }
        Outcome::Panics { run, input } => {
            let shown = &input[..input.len().min(SHOWN_BYTES_MAX)];
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            let bytes = input.len();
            panic!("{name}: run {run} of TRIPOD_TEST_SEED={seed} panics; {bytes} bytes: {hex}")
        }
    }
}

#[test]
fn changed_log_segments_are_recovered_or_refused() -> anyhow::Result<()> {
    fuzz("wal", Mutator::new(seeds::segments()?, &[]), wal::run);
    Ok(())
}

#[test]
fn changed_peer_frames_are_decoded_or_refused() {
    fuzz("peer_frames", Mutator::new(tripod_raft::sample_frames(), &[]), peer_frames::run);
}

#[test]
fn changed_json_bodies_are_read_alike_twice_or_refused() {
    fuzz("json", Mutator::new(seeds::json(), seeds::JSON_WORDS), |input| {
        if let Some((&choice, text)) = input.split_first() {
            json::run(choice, text);
        }
    });
}

#[test]
fn changed_http2_bytes_are_served_or_refused() {
    fuzz("http2", Mutator::new(seeds::http2(), &[]), http2::run);
}

#[test]
fn changed_snapshots_are_taken_or_refused() -> anyhow::Result<()> {
    fuzz("snapshot", Mutator::new(seeds::snapshots()?, &[]), |input| {
        snapshot::run(&seeds::pieces(input));
    });
    Ok(())
}

#[test]
fn changed_etcd_files_are_taken_in_or_refused() {
    fuzz("etcd_file", Mutator::new(seeds::file_changes(), &[]), |input| {
        let changes = input.chunks_exact(3);
        let changes = changes.map(|part| (u16::from_le_bytes([part[0], part[1]]), part[2]));
        etcd_file::run(&changes.collect::<Vec<_>>());
    });
}

/// A fuzzer that finds nothing shows nothing: a fault behind a checked prefix, and one that only
/// a changed length reaches, are found within the usual time, and found again by the seed.
#[test]
fn a_planted_fault_is_found_and_repeats_by_its_seed() {
    let valid = || vec![[&b"head"[..], &8_u32.to_le_bytes(), b"contents"].concat()];
    let faulty = |input: &[u8]| {
        let Some(rest) = input.strip_prefix(b"head") else { return };
        let Some((len, rest)) = rest.split_first_chunk::<4>() else { return };
        let len = u32::from_le_bytes(*len) as usize;
        // As code that believes a length.
        let _ = &rest[..len];
    };
    let time = Duration::from_secs(20);
    let found = || outcome(7, time, Mutator::new(valid(), &[]), faulty);
    let first = found();
    assert!(matches!(first, Outcome::Panics { .. }), "{first:?}");
    assert_eq!(found(), first);
}
