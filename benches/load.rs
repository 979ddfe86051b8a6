//! `cargo bench --bench load -- FLAGS`: the same as `tripod bench FLAGS`.
//!
//! Workload and seed are printed; the defaults are 256 clients, 10 s of puts, seed 1, against
//! `http://127.0.0.1:2379`.

use clap::Parser;
use tripod::cli::bench::{BenchArgs, run};

/// The allocator of the `tripod` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

fn main() -> anyhow::Result<()> {
    // Cargo adds `--bench` to the flags.
    run(&Line::parse_from(std::env::args().filter(|arg| arg != "--bench")).bench)
}
