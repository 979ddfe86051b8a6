// etcd3 (Node.js, gRPC) against a cluster: put, get, delete, transaction, lease, watch, lock.
//
// Usage: node etcd3_smoke.js URL[,URL...], with SMOKE_CA, SMOKE_CERT, SMOKE_KEY, SMOKE_USER and
// SMOKE_PASSWORD in the environment where TLS and users are on
const assert = require('assert');
const fs = require('fs');
const { Etcd3, EtcdLockFailedError } = require('etcd3');

async function main() {
  const { SMOKE_CA, SMOKE_CERT, SMOKE_KEY, SMOKE_USER, SMOKE_PASSWORD } = process.env;
  const client = new Etcd3({
    hosts: process.argv[2].split(','),
    credentials: SMOKE_CA && {
      rootCertificate: fs.readFileSync(SMOKE_CA),
      certChain: fs.readFileSync(SMOKE_CERT),
      privateKey: fs.readFileSync(SMOKE_KEY),
    },
    auth: SMOKE_USER && { username: SMOKE_USER, password: SMOKE_PASSWORD },
  });
  await client.put('js/a').value('1');
  await client.put('js/b').value('2');
  assert.strictEqual(await client.get('js/a').string(), '1');
  assert.deepStrictEqual(await client.getAll().prefix('js/').strings(), { 'js/a': '1', 'js/b': '2' });
  assert.deepStrictEqual(await client.getAll().prefix('js/').sort('Key', 'Descend').keys(), ['js/b', 'js/a']);

  const taken = await client.if('js/a', 'Value', '==', '1')
    .then(client.put('js/a').value('3'), client.get('js/b'))
    .else(client.get('js/a'))
    .commit();
  assert.strictEqual(taken.succeeded, true);
  const refused = await client.if('js/a', 'Version', '==', 1)
    .then(client.put('js/a').value('4')).else(client.get('js/a')).commit();
  assert.strictEqual(refused.succeeded, false);
  assert.strictEqual(refused.responses[0].response_range.kvs[0].value.toString(), '3');

  const lease = client.lease(30);
  await lease.put('js/leased').value('x');
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.strictEqual(await client.get('js/leased').string(), null);

  const watcher = await client.watch().prefix('js/w/').create();
  const seen = [];
  const both = new Promise((resolve) => {
    watcher.on('put', (kv) => seen.push(`put ${kv.key} ${kv.value}`));
    watcher.on('delete', (kv) => { seen.push(`delete ${kv.key}`); resolve(); });
  });
  await client.put('js/w/1').value('one');
  await client.delete().key('js/w/1');
  await both;
  await watcher.cancel();
  assert.deepStrictEqual(seen, ['put js/w/1 one', 'delete js/w/1']);

  const lock = client.lock('js-lock').ttl(30);
  await lock.acquire();
  await assert.rejects(client.lock('js-lock').acquire(), EtcdLockFailedError);
  await lock.release();

  const { deleted } = await client.delete().prefix('js/');
  assert.strictEqual(Number(deleted), 2);
  client.close();
  console.log('etcd3 for Node ok');
}

const late = setTimeout(() => { console.error('no end after 60 s'); process.exit(1); }, 60000);
main().then(() => clearTimeout(late), (error) => { console.error(error); process.exit(1); });
