//! What applying puts costs: microseconds a put, and memory after a million of them.
//!
//! `cargo run --release -p tripod-storage --example apply_cost -- [puts] [keys] [dir]`
//!
//! Workload: puts of 256-byte values over keys of about 20 bytes in a scattered order, entries
//! of 100 puts, a flush whenever 4 MB wait. With a directory the engine is sled, else memory.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement prints times")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tripod_storage::{
    Command,
    apply::{Mark, Options, StateMachine},
    command::{Compact, Put, Range},
    engine::{Engine, MemoryEngine, SledEngine, SledOptions},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: u64 = 100;
const VALUE_BYTES: usize = 256;
const FLUSH_BYTES: u64 = 4 << 20;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let puts: u64 = args.next().map_or(Ok(1_000_000), |arg| arg.parse())?;
    let keys: u64 = args.next().map_or(Ok(100_000), |arg| arg.parse())?;
    let dir = args.next();
    let open = || -> anyhow::Result<Arc<dyn Engine>> {
        Ok(match &dir {
            Some(dir) => Arc::new(SledEngine::open(Path::new(dir), &SledOptions::default())?),
            None => Arc::new(MemoryEngine::new()),
        })
    };
    let engine = open()?;
    let options = Options::default();
    let mut machine = StateMachine::open(Arc::clone(&engine), options.clone())?;
    println!("{puts} puts of {VALUE_BYTES} B over {keys} keys, entries of {BATCH}");
    println!("memory at the start {} MB", resident_mb());

    let (mut applying, mut flushing) = (Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    for batch in 0..puts / BATCH {
        let commands: Vec<Command> = (0..BATCH).map(|at| put(batch * BATCH + at, keys)).collect();
        let mark = Mark { index: batch + 1, payload: Bytes::from_static(b"mark") };
        let start = cpu_time();
        let answers = machine.apply(mark, commands)?;
        applying += cpu_time() - start;
        drop(answers);
        if machine.pending_bytes() >= FLUSH_BYTES {
            let start = cpu_time();
            flush(&mut machine, &*engine)?;
            flushing += cpu_time() - start;
        }
    }
    flush(&mut machine, &*engine)?;
    engine.sync()?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / puts as f64;
    println!("CPU: apply {:.2} us a put, flush {:.2} us a put", each(applying), each(flushing));
    println!("all of it {:.1} s", began.elapsed().as_secs_f64());
    println!("memory {} MB, in use {} MB", resident_mb(), machine.size_in_use_bytes() >> 20);

    let all = Range { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..Range::default() };
    let _ =
        timed("count of all keys", || machine.range(&Range { count_only: true, ..all.clone() }))?;
    let _ = timed("range of all keys", || machine.range(&all))?;
    let middle = machine.revision() / 2;
    let _ = timed("range of all keys at an old revision", || {
        machine.range(&Range { revision: middle, ..all.clone() })
    })?;
    let _ = timed("hash of all history", || machine.hash_kv(0))?;

    let mark = Mark { index: puts, payload: Bytes::new() };
    machine.apply(mark, vec![Command::Compact(Compact { revision: machine.revision() })])?;
    let start = cpu_time();
    let mut longest = Duration::ZERO;
    loop {
        let start = cpu_time();
        let more = machine.compact_step(1000)?;
        longest = longest.max(cpu_time() - start);
        if !more {
            break;
        }
    }
    println!("compaction {:.0} ms, longest step {:.2} ms", ms(cpu_time() - start), ms(longest));
    timed("flush of the compaction", || flush(&mut machine, &*engine))?;
    for _ in 0..puts / 10_000 {
        flush(&mut machine, &*engine)?;
    }
    engine.sync()?;
    println!("memory {} MB, in use {} MB", resident_mb(), machine.size_in_use_bytes() >> 20);
    if dir.is_some() {
        drop((machine, engine));
        let engine = timed("open the engine", open)?;
        let machine = timed("open the state", || StateMachine::open(engine, options))?;
        println!("revision {}, memory {} MB", machine.revision(), resident_mb());
    }
    Ok(())
}

fn put(number: u64, keys: u64) -> Command {
    // An odd factor scatters the keys.
    let key = number.wrapping_mul(2_654_435_761) % keys;
    let key = Bytes::from(format!("/registry/pods/{key:08}"));
    Command::Put(Put {
        key,
        value: Bytes::from(vec![number.to_le_bytes()[0]; VALUE_BYTES]),
        ..Put::default()
    })
}

fn flush(machine: &mut StateMachine, engine: &dyn Engine) -> anyhow::Result<()> {
    if let Some(flush) = machine.begin_flush() {
        flush.write(engine)?;
        machine.end_flush(flush);
    }
    Ok(())
}

fn timed<T, E: Into<anyhow::Error>>(
    what: &str,
    run: impl FnOnce() -> Result<T, E>,
) -> anyhow::Result<T> {
    let start = cpu_time();
    let result = run().map_err(Into::into)?;
    println!("{what} {:.1} ms of CPU", ms(cpu_time() - start));
    Ok(result)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// CPU time of this thread: the machine may be busy with other things.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos)
}

fn resident_mb() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    (pages * 4096) >> 20
}
