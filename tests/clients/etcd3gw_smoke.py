"""etcd3gw (Python, HTTP and JSON) against one member: put, get, delete, txn, lease, watch, lock.

Usage: etcd3gw_smoke.py HOST PORT, with SMOKE_CA, SMOKE_CERT, SMOKE_KEY, SMOKE_USER and SMOKE_PASSWORD in
the environment where TLS and users are on
"""
import os
import sys
import threading

import etcd3gw

client = etcd3gw.client(
    host=sys.argv[1], port=int(sys.argv[2]), timeout=20, protocol="https" if "SMOKE_CA" in os.environ else "http",
    ca_cert=os.environ.get("SMOKE_CA"), cert_cert=os.environ.get("SMOKE_CERT"), cert_key=os.environ.get("SMOKE_KEY"),
)
if "SMOKE_USER" in os.environ:
    login = {"name": os.environ["SMOKE_USER"], "password": os.environ["SMOKE_PASSWORD"]}
    token = client.post(client.get_url("/auth/authenticate"), json=login)["token"]
    client.session.headers["Authorization"] = token

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
