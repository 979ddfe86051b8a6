#!/bin/bash
# Runs every fuzz target for a while, with coverage feedback, on a stable compiler.
#
#   scripts/fuzz.sh SECONDS [TARGET...]     SECONDS for each target; default: all of them
#
# The same bodies (fuzz/bodies) run for a moment in every run of the tests, without feedback and
# without the minutes of compiling: tests/it/fuzz.
#
# Inputs that were interesting are kept in target/fuzz/corpus, crashes in target/fuzz/crashes.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET...]}; shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
out=target/fuzz
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
host=$(rustc -vV | sed -n 's/^host: //p')
# What `cargo fuzz` would pass; --target keeps these flags away from build scripts.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions --cfg fuzzing"
echo "fuzz: building (minutes the first time)"
cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir $out/build \
  "${bins[@]}"
for target in "${targets[@]}"; do
  corpus=$out/corpus/$target crashes=$out/crashes/$target
  mkdir -p "$corpus" "$crashes"
  echo "fuzz: $target for $seconds s"
  log=$out/$target.log
  if ! "$out/build/$host/release/$target" "$corpus" -max_total_time="$seconds" -max_len=65536 \
    -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$crashes/" -print_final_stats=1 >"$log" 2>&1; then
    tail -40 "$log"
    echo "fuzz: $target FAILED; the input is in $crashes"
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo "fuzz: $target: $runs runs, $(find "$corpus" -type f | wc -l) inputs kept, no crash"
done
