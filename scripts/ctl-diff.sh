#!/usr/bin/env bash
# Compares `tripod ctl` with a real etcdctl, on a real etcd.
#
# The same commands run with each tool against a fresh server with the same ports, so that ids,
# terms and revisions are equal; then the transcripts (output, complaint, exit code) are compared.
# What is random is masked: lease ids, durations, raft indexes, database sizes.
#
# Usage: scripts/ctl-diff.sh ETCD_DIR TRIPOD      (ETCD_DIR holds etcd and etcdctl 3.5)
set -u
etcd_dir=${1:?directory of etcd and etcdctl}
tripod=${2:?tripod binary}
port=${PORT:-42479}
work=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

start_server() {
  rm -rf "$work/data"
  "$etcd_dir/etcd" --name diff --data-dir "$work/data" --log-level error \
    --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
    --listen-peer-urls "http://127.0.0.1:$((port + 1))" \
    --initial-advertise-peer-urls "http://127.0.0.1:$((port + 1))" \
    --initial-cluster "diff=http://127.0.0.1:$((port + 1))" >"$work/server.log" 2>&1 &
  server=$!
  for _ in $(seq 100); do
    "$etcd_dir/etcdctl" --endpoints "127.0.0.1:$port" endpoint health >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "etcd did not start" >&2
  exit 1
}

stop_server() {
  kill "$server"
  wait "$server" 2>/dev/null
  server=
}

mask() {
  sed -E \
    -e 's/\b[0-9a-f]*[1-9a-f][0-9a-f]{14,15}\b( (granted|revoked|keepalived|already|expired))/LEASE\1/g' \
    -e 's/^[0-9a-f]{16}$/LEASE/' \
    -e 's/"(ID|id|lease)":[0-9]{15,19}/"\1":LEASE/g' \
    -e 's/^"(ID|Lease)" : [0-9]{15,19}$/"\1" : LEASE/' \
    -e 's/took = [0-9.a-zµ]+/took = TIME/; s/"took":"[^"]+"/"took":"TIME"/; s/("Took" :) .*/\1 TIME/' \
    -e 's/"raft(Applied)?Index":[0-9]+/"raft\1Index":N/g; s/("Raft(Applied)?Index" :) [0-9]+/\1 N/' \
    -e 's/"dbSize(InUse)?":[0-9]+/"dbSize\1":N/g; s/("DBSize" :) [0-9]+/\1 N/' \
    -e 's/[0-9]+ kB, (true|false), (true|false), ([0-9]+), [0-9]+, [0-9]+/SIZE, \1, \2, \3, N, N/' \
    -e 's/"(hash)":[0-9]+/"\1":N/; s/("Hash" :) [0-9]+/\1 N/; s/^(127[0-9.:]+), [0-9]+$/\1, HASH/' \
    -e 's/"ttl":[0-9]+/"ttl":N/; s/remaining\([0-9]+s\)/remaining(N)/; s/^("TTL" :) [0-9]+$/\1 N/' \
    -e 's/^\| +ENDPOINT.*TOOK.*/| TIMES |/' \
    -e 's/^\| (http:\/\/)?127[^|]*\|.*$/| ROW |/; s/^\+[-+]+\+$/+RULE+/; s/^\| +ENDPOINT.*HASH.*/| HASHES |/'
}

# c [--stdin TEXT] ARGS...: one command of the transcript.
c() {
  local input=/dev/null
  if [ "$1" = --stdin ]; then
    printf "$2" >"$work/in"
    input=$work/in
    shift 2
  fi
  echo "--- $*"
  timeout "${LIMIT:-5}" $tool --endpoints "127.0.0.1:$port" "$@" <"$input" >"$work/out" 2>"$work/err"
  local code=$?
  mask <"$work/out"
  grep -v -e '^{"level"' -e '^warning: ' "$work/err" | sed 's/^/err: /'
  echo "exit $code"
}

each_form() { for form in simple json fields table protobuf; do c -w "$form" "$@"; done; }

transcript() {
  local lease
  each_form put k v --prev-kv
  each_form get k
  c put 'k"2' $'bin\x01\xff\n\t<&>'
  c put 'é中' 'ü'
  each_form get '' --prefix
  each_form get k zzz --limit 1
  each_form get k --prefix --hex --keys-only
  c get k --prefix --print-value-only
  c get k --rev 2
  c get k --rev 1
  c get k --rev 9999
  c get k --from-key --order DESCEND --sort-by VERSION
  c get k --prefix --order=ascend --sort-by=modify --consistency=s
  c -w fields get k --prefix --count-only
  each_form get nokey
  c put a 1 2 3
  c put a --ignore-value --prev-kv
  c put nokey --ignore-value
  c --stdin 'line\n' put stdin
  c get stdin
  each_form del stdin --prev-kv
  each_form del nokey
  for form in simple json fields protobuf; do
    c --stdin 'mod("k") > "0"\nval("nokey") = "v1"\n\nput k n\n\nget k\nget k --prefix --limit 1\ndel nokey\nput k x --prev-kv\n\n' -w $form txn
    c --stdin 'ver("k") > "0"\nc("k") != "0"\n\ndel a --prev-kv\nget a\n\n\n' -w $form txn
  done
  c --stdin '\nput i 1\n\n\n' txn -i
  c --stdin '\n\n\n' -w json txn
  c --stdin 'foo("k1") = "0"\n\n\n\n' txn
  c --stdin 'mod(k1) = "0"\n\n\n\n' txn
  c --stdin 'mod("k1") = "x"\n\n\n\n' txn
  c --stdin 'mod("k1") = 0\n\n\n\n' txn
  c --stdin '\nfoo k1 x\n\n\n' txn
  c --stdin '\nput\n\n\n' txn
  c --stdin '\nput k1\n\n\n' txn
  c --stdin '' txn
  for form in simple json fields protobuf; do
    LIMIT=2 c -w $form watch k --rev 2 --prefix --prev-kv
  done
  LIMIT=2 c watch k --rev 2 --hex
  LIMIT=2 c watch b a
  c watch k --rev 2 -- sh -c 'echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"; exit 3'
  c watch k x --prefix
  c watch
  c watch --
  ETCDCTL_WATCH_KEY=k c watch foo
  ETCDCTL_WATCH_KEY=k LIMIT=2 c watch --rev 2
  each_form lease grant 300
  lease=$($etcd_dir/etcdctl --endpoints "127.0.0.1:$port" lease grant 300 | cut -d' ' -f2)
  # One key only: etcd lists a lease's keys in no order.
  c put l1 x --lease "$lease" | sed "s/$lease/LEASE/"
  for form in simple json fields table protobuf; do
    c -w $form lease list
    c -w $form lease timetolive "$lease" --keys | sed "s/$lease/LEASE/"
    c -w $form lease timetolive "$lease" | sed "s/$lease/LEASE/"
    c -w $form lease keep-alive "$lease" --once | sed "s/$lease/LEASE/"
    LIMIT=2 c -w $form lease keep-alive "$lease" | sed "s/$lease/LEASE/"
    c -w $form lease timetolive 123
    [ $form = protobuf ] || c -w $form get l1
  done
  for form in json simple; do c -w $form lease revoke "$lease" | sed "s/$lease/LEASE/"; done
  c get l --prefix
  c lease keep-alive 99
  c lease keep-alive 99 --once
  c lease revoke 99
  c lease revoke zz
  c lease grant x
  c lease grant
  c lease grant 9000000001
  each_form member list
  c -w json member list --hex
  each_form endpoint status
  each_form endpoint status --cluster
  each_form endpoint health
  each_form endpoint hashkv
  c endpoint hashkv --rev 3
  c --command-timeout=1s --endpoints=127.0.0.1:1 endpoint status
  c --command-timeout=1s --endpoints=127.0.0.1:1 endpoint health
  c --command-timeout=1s --endpoints=127.0.0.1:1 endpoint hashkv
  c --command-timeout=1s --endpoints=127.0.0.1:1 defrag
  c --command-timeout=1s --endpoints=127.0.0.1:1 get k
  c --endpoints="127.0.0.1:1,127.0.0.1:$port" get k
  each_form alarm list
  for form in simple json; do
    curl -s "http://127.0.0.1:$port/v3/maintenance/alarm" \
      -d '{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}' >/dev/null
    each_form alarm list
    c -w $form endpoint health
    c -w $form endpoint status
    c -w $form alarm disarm
  done
  c alarm list x
  each_form move-leader "$($etcd_dir/etcdctl --endpoints "127.0.0.1:$port" member list | cut -d, -f1)"
  c move-leader 123
  c move-leader zz
  c move-leader
  c defrag
  c compaction 5
  c compaction 5
  c compaction 99999
  c compaction x
  c compaction
  LIMIT=2 c watch k --rev 2
  LIMIT=2 c -w json watch k --rev 2
  c member add
  c member add n
  c member add n --peer-urls foo
  c member remove zz
  c member remove 123
  c member update 1
  c member update 123 --peer-urls=http://127.0.0.1:1
  c member promote 123
  c member promote
  c put
  c put a
  c put a 1 --ignore-value
  c put a 1 --lease zz
  c put a 1 --lease 123
  c get
  c get a b --prefix
  c get a --prefix --from-key
  c get a --keys-only --count-only
  c get a --count-only
  c -w json get a --print-value-only
  c get a --consistency x
  c get a --order x
  c get a --sort-by x
  c -w xml get a
  c del
  c del a b --prefix
  c --user root:x get k
  c del '' --prefix
  auth_transcript
  # Last, since a second member takes the quorum away: ids of added members depend on the second.
  # Ids decide the order, so the lines are sorted.
  c member add n2 --learner --peer-urls=http://127.0.0.1:65001 | tr ',"' '\n\n' |
    sed -E 's/Member +[0-9a-f]+ added/Member ID added/' | sort
  c -w table member list | sed -E 's/^\| *[0-9a-f]{15,16} /| ID /' | sort
}

# Users, roles, permissions, the switch. Prompts are left out: etcdctl asks stty for silence.
auth_transcript() {
  local form
  each_form auth status
  c auth enable
  c auth enable x
  c auth disable x
  c auth status x
  for form in simple json fields table protobuf; do c -w $form user add "u$form:pw"; done
  c user add
  c user add a b
  c user add :pw
  c user add x --new-user-password=pp
  c user add uu:pw --new-user-password=zz
  c user add np --no-password
  c user add np2:x --no-password
  c user add usimple:pw
  c user add a:b:c
  c --stdin 'secret\n' user add inter --interactive=false
  c --stdin '' user add inter2 --interactive=false
  each_form user list
  c user list x
  c role add r1
  each_form role add r1
  c role add
  c role add a b
  c role add ''
  c role add r2
  for form in simple json fields table protobuf; do
    c -w $form role grant-permission r1 read "k$form"
  done
  c role grant-permission r1 write a b
  c role grant-permission r1 readwrite p/ --prefix
  c role grant-permission r1 read z --from-key
  c role grant-permission r1 readwrite '' --prefix
  c role grant-permission r1 readwrite '' --from-key
  c role grant-permission r1 READ q
  c role grant-permission r1 foo k
  c role grant-permission r1 read
  c role grant-permission r1
  c role grant-permission r1 read a b c
  c role grant-permission r1 read a b --prefix
  c role grant-permission r1 read a b --from-key
  c role grant-permission r1 read a --prefix --from-key
  c role grant-permission r1 read '' --prefix --from-key
  c role grant-permission zz read a
  each_form role get r1
  c role get
  c role get zz
  c role get a b
  each_form role list
  c role list x
  for form in simple json fields table protobuf; do
    c -w $form user grant-role "u$form" r1
  done
  c user grant-role usimple
  c user grant-role usimple zz
  c user grant-role zz r1
  c user grant-role usimple r2
  each_form user get usimple
  c role grant-permission r2 write w
  c role grant-permission r2 read p --prefix
  c role grant-permission r2 readwrite y --from-key
  c user get usimple --detail
  c -w json user get usimple --detail
  c user get np
  c user get np --detail
  c user get zz
  c user get
  for form in simple json fields table protobuf; do
    c -w $form role revoke-permission r1 "k$form"
  done
  c role revoke-permission r1 a b
  c role revoke-permission r1 p/ --prefix
  c role revoke-permission r1 z --from-key
  c role revoke-permission r1 zz
  c role revoke-permission r1
  c role revoke-permission r1 '' --prefix
  c role revoke-permission r1 a b c
  c role revoke-permission zz a
  for form in simple json fields table protobuf; do
    c -w $form user revoke-role "u$form" r1
  done
  c user revoke-role usimple r1
  c user revoke-role usimple
  c user revoke-role zz r1
  c --stdin 'np2\n' user passwd usimple --interactive=false
  c --stdin 'x\n' user passwd zz --interactive=false
  c user passwd
  c user passwd a b
  for form in simple json fields table protobuf; do c -w $form user delete "u$form"; done
  c user delete
  c user delete zz
  c user delete a b
  for form in simple json fields table protobuf; do
    c -w $form role delete r1
    c role add r1
  done
  c role delete
  c role delete zz
  each_form auth disable
  c user add root:r
  c user add u:p
  c user grant-role u r2
  # Adds the role root and grants it.
  c auth enable
  c auth enable
  each_form --user root:r auth enable
  each_form --user root:r auth status
  c --user root:r role get root
  c --user root:r user get root
  c --user root:r put pk 1
  c --user u:p auth status
  c --user u:bad get k
  c --user root --password r get pk
  c --user u --password bad get pk
  c --password r get pk
  c get pk
  c --user u:p get pk
  c --user u:p get x
  c --user u:p put x 1
  c --user u:p del x
  c --user nobody:x get k
  c --user np:x get k
  c --user=u:p user get u
  c --user=u:p role get r2
  c --user=u:p role get r1
  c --user u:p user list
  c --user u:p watch x
  c --user root:r user delete root
  c --user root:r role delete root
  c --user root:r user revoke-role root root
  each_form --user root:r auth disable
}

run() {
  start_server
  transcript >"$work/$1"
  stop_server
}

tool=$etcd_dir/etcdctl run etcdctl
tool="$tripod ctl" run tripod
diff --text -u "$work/etcdctl" "$work/tripod" && echo "no difference in $(grep -ac '^--- ' "$work/tripod") commands"
