//! `cargo bench --bench load -- FLAGS`: the same as `tripod bench FLAGS`.
//!
//! Workload and seed are printed; the defaults are 256 clients, 10 s of puts, seed 1, against
//! `http://127.0.0.1:2379`.

use std::process::ExitCode;

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

fn main() -> ExitCode {
    // Cargo adds `--bench` to the flags.
    let line = Line::parse_from(std::env::args().filter(|arg| arg != "--bench"));
    match run(&line.bench) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
