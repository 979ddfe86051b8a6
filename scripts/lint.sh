#!/bin/bash
# Format, lints and documents: what to run before every commit. tests/verify.sh starts with it.
set -euo pipefail
cd "$(dirname "$0")/.."
warnings=(-D warnings)

step() { echo; echo "lint: $*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --locked --workspace --all-targets -- "${warnings[@]}"
RUSTDOCFLAGS="${warnings[*]}" step cargo doc --locked --workspace --no-deps --quiet
