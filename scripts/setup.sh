#!/bin/bash
# Installs everything that building, testing and checking Tripod needs, on a Debian machine with Rust.
#
#   scripts/setup.sh                 all of it
#   scripts/setup.sh --without-deny  leaves out cargo-deny, which takes minutes to compile
#
# Debian packages come through apt (root or sudo), everything else lands under target/: etcd 3.5.1 in
# target/etcd (Debian's older one in target/etcd-older), client libraries and cargo-deny in target/tools.
# Safe to run again: what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=target/tools
started=$SECONDS

say() { echo "setup [$((SECONDS - started)) s]: $*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# Command that shows whether it is there, and the Debian package that brings it.
say "Debian packages"
missing=()
while read -r program package; do
  have "$program" || missing+=("$package")
done <<'PROGRAMS'
cc gcc
curl curl
git git
mount mount
node nodejs
npm npm
protoc protobuf-compiler
python3 python3
wrk wrk
PROGRAMS
# protoc finds its own definitions there.
[ -f /usr/include/google/protobuf/descriptor.proto ] || missing+=(libprotobuf-dev)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
root=()
[ "$(id -u)" = 0 ] || root=(sudo)
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  "${root[@]}" apt-get -qq update
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

for component in rustfmt clippy; do
  cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done

say "etcd 3.5.1, the reference"
scripts/install-etcd.sh

say "an older etcd, whose snapshots must be readable"
if [ ! -x target/etcd-older/usr/bin/etcd ]; then
  older=$PWD/target/etcd-older
  mkdir -p "$older"
  # Unpacked, not installed: Debian's package would start a server.
  (cd "$older" && { apt-get -qq -o APT::Sandbox::User=root download etcd-server 2>/dev/null \
    || { "${root[@]}" apt-get -qq update && apt-get -qq -o APT::Sandbox::User=root download etcd-server; }; })
  dpkg-deb -x "$older"/etcd-server_*.deb "$older"
fi

say "Python clients"
if ! $tools/python/bin/python -c 'import etcd3, etcd3gw' 2>/dev/null; then
  rm -rf $tools/python
  python3 -m venv $tools/python
  # etcd3 ships generated code of protobuf 3; newer ones refuse it.
  $tools/python/bin/pip --quiet --disable-pip-version-check install \
    'etcd3==0.12.0' 'etcd3gw==2.7.0' 'protobuf==3.20.3' 'setuptools<81'
fi

say "Node client"
if [ ! -d $tools/node/node_modules/etcd3 ]; then
  mkdir -p $tools/node
  npm --prefix $tools/node install --silent --no-fund --no-audit etcd3@1.1.2
fi

say "Rust client (the etcd-client crate)"
cargo build --quiet --locked --manifest-path tests/clients/rust/Cargo.toml --target-dir $tools/rust-client

if [ "${1-}" = --without-deny ]; then
  say "cargo-deny left out"
elif ! have cargo-deny && [ ! -x $tools/bin/cargo-deny ]; then
  say "cargo-deny (compiles for 2 to 6 minutes)"
  cargo install --quiet --locked --root $tools --target-dir $tools/deny-build cargo-deny
  rm -rf $tools/deny-build
fi
say "done"
