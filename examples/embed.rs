//! A store inside your program: put, get, a transaction, a watch, a lease. No network.
//!
//! Run it: `cargo run --example embed`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tripod::{
    Tripod,
    client::watch::{WatchRequest, Watched},
    storage::command::{Compare, CompareTarget, Put, Txn, TxnOp},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let tripod = Tripod::builder().in_memory().start().await?;
    let client = tripod.client();

    let mut watcher = client.watch(WatchRequest {
        key: "greeting".into(),
        prev_kv: true,
        ..WatchRequest::default()
    });

    let revision = client.set("greeting", "hello").await?;
    println!("put at revision {revision}");
    let kv = client.get("greeting").await?.expect("it was just written");
    println!("get: {}", String::from_utf8_lossy(&kv.value));

    // Only if nobody wrote in between: compare, then put, in one revision.
    let txn = Txn {
        compare: vec![Compare {
            result: 0,
            target: CompareTarget::Mod(kv.mod_revision),
            key: "greeting".into(),
            range_end: "".into(),
        }],
        success: vec![TxnOp::Put(Put {
            key: "greeting".into(),
            value: "hello again".into(),
            ..Put::default()
        })],
        failure: vec![],
    };
    let (header, answer) = client.txn(txn, false, 64).await?;
    println!("transaction succeeded: {} at revision {}", answer.succeeded, header.revision);

    let (_, (lease, ttl_s)) = client.lease_grant(0, 60).await?;
    let put = Put { key: "session".into(), value: "me".into(), lease, ..Put::default() };
    client.put(put).await?;
    client.lease_revoke(lease).await?;
    println!("lease of {ttl_s} s revoked, session: {:?}", client.get("session").await?);

    let mut seen = 0;
    while seen < 2 {
        if let Watched::Events(events) = watcher.next().await? {
            for event in events {
                seen += 1;
                println!("watched: {:?} {}", event.kind, String::from_utf8_lossy(&event.kv.value));
            }
        }
    }
    tripod.shutdown().await?;
    Ok(())
}
