"""etcd3gw (Python, HTTP and JSON) against one member: put, get, delete, txn, lease, watch, lock.

Usage: etcd3gw_smoke.py HOST PORT
"""
import sys
import threading

import etcd3gw

client = etcd3gw.client(host=sys.argv[1], port=int(sys.argv[2]), timeout=20)

assert client.put("gw/a", "1")
assert client.put("gw/b", "2")
assert client.get("gw/a") == [b"1"]
assert [value for value, _ in client.get_prefix("gw/")] == [b"1", b"2"]
assert client.replace("gw/a", "1", "3")
assert not client.replace("gw/a", "1", "4")
assert client.create("gw/new", "x")
assert not client.create("gw/new", "y")
assert client.delete("gw/new")
assert client.get("gw/new") == []

lease = client.lease(ttl=60)
assert client.put("gw/leased", "x", lease=lease)
assert lease.keys() == [b"gw/leased"], lease.keys()
assert 0 < lease.refresh() <= 60
assert lease.ttl() > 0
assert lease.revoke()
assert client.get("gw/leased") == []

events, cancel = client.watch("gw/watched")
seen = []


def read():
    for event in events:
        seen.append(event["kv"].get("value"))
        if len(seen) == 2:
            break


reader = threading.Thread(target=read, daemon=True)
reader.start()
client.put("gw/watched", "one")
client.put("gw/watched", "two")
reader.join(20)
cancel()
assert seen == [b"one", b"two"], seen

with client.lock("gw-lock", ttl=30) as lock:
    assert lock.is_acquired()
assert client.status()["header"]
assert client.members()
print("etcd3gw ok")
