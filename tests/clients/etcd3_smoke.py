"""python-etcd3 (gRPC) against one member: put, get, delete, txn, lease, watch, lock, members.

Usage: etcd3_smoke.py HOST PORT, with SMOKE_CA, SMOKE_CERT, SMOKE_KEY, SMOKE_USER and SMOKE_PASSWORD in
the environment where TLS and users are on
"""
import os
import sys

import etcd3

client = etcd3.client(
    host=sys.argv[1], port=int(sys.argv[2]), timeout=20,
    ca_cert=os.environ.get("SMOKE_CA"), cert_cert=os.environ.get("SMOKE_CERT"), cert_key=os.environ.get("SMOKE_KEY"),
    user=os.environ.get("SMOKE_USER"), password=os.environ.get("SMOKE_PASSWORD"),
)

client.put("py/a", "1")
client.put("py/b", "2")
value, meta = client.get("py/a")
assert value == b"1" and meta.version == 1, (value, meta)
assert [value for value, _ in client.get_prefix("py/", sort_order="descend")] == [b"2", b"1"]
assert client.replace("py/a", "1", "3")
assert not client.replace("py/a", "1", "4")

ok, answers = client.transaction(
    compare=[client.transactions.value("py/a") == "3", client.transactions.version("py/b") > 0],
    success=[client.transactions.put("py/c", "4"), client.transactions.get("py/a")],
    failure=[client.transactions.delete("py/a")],
)
assert ok and answers[1][0][0] == b"3", answers
assert client.delete("py/c") and not client.delete("py/c")

lease = client.lease(60)
client.put("py/leased", "x", lease=lease)
assert lease.granted_ttl == 60 and 0 < lease.remaining_ttl <= 60 and lease.keys == [b"py/leased"]
assert next(iter(lease.refresh())).TTL == 60
lease.revoke()
assert client.get("py/leased") == (None, None)

events, cancel = client.watch_prefix("py/w/")
client.put("py/w/1", "one")
client.delete("py/w/1")
first, second = next(events), next(events)
cancel()
assert isinstance(first, etcd3.events.PutEvent) and first.value == b"one"
assert isinstance(second, etcd3.events.DeleteEvent) and second.key == b"py/w/1"

with client.lock("py-lock", ttl=30) as lock:
    assert lock.is_acquired()
assert len(list(client.members)) == 3
assert client.status().version
revision = client.put("py/last", "1").header.revision
client.compact(revision)
print("etcd3 ok")
