//! The etcd-client crate against a cluster: put, get, delete, txn, lease, lock, election,
//! watch, members.
//!
//! Usage: etcd-client-smoke URL[,URL...], with `SMOKE_CA`, `SMOKE_CERT`, `SMOKE_KEY`, `SMOKE_USER` and
//! `SMOKE_PASSWORD` in the environment where TLS and users are on

use std::{env, error::Error, fs, time::Duration};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, Identity,
    LockOptions, PutOptions, ResignOptions, SortOrder, SortTarget, TlsOptions, Txn, TxnOp,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tokio::time::timeout(Duration::from_secs(60), smoke()).await??;
    println!("etcd-client ok");
    Ok(())
}

fn options() -> Result<ConnectOptions, Box<dyn Error>> {
    let mut options = ConnectOptions::new();
    if let Ok(authority) = env::var("SMOKE_CA") {
        let (certificate, key) = (env::var("SMOKE_CERT")?, env::var("SMOKE_KEY")?);
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(fs::read(authority)?))
            .identity(Identity::from_pem(fs::read(certificate)?, fs::read(key)?));
        options = options.with_tls(tls);
    }
    if let Ok(user) = env::var("SMOKE_USER") {
        options = options.with_user(user, env::var("SMOKE_PASSWORD")?);
    }
    Ok(options)
}

async fn smoke() -> Result<(), Box<dyn Error>> {
    let urls = env::args().nth(1).ok_or("usage: etcd-client-smoke URL[,URL...]")?;
    let urls: Vec<&str> = urls.split(',').collect();
    let mut client = Client::connect(&urls, Some(options()?)).await?;
    client.put("rs/a", "1", None).await?;
    let put = client.put("rs/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(put.prev_key().map(|kv| kv.value()), Some(&b"1"[..]));
    client.put("rs/b", "3", None).await?;
    let sorted = GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Descend);
    let got = client.get("rs/", Some(sorted)).await?;
    let values: Vec<&str> = got.kvs().iter().map(|kv| kv.value_str()).collect::<Result<_, _>>()?;
    assert_eq!(values, ["3", "2"]);

    let txn = Txn::new()
        .when([Compare::value("rs/a", CompareOp::Equal, "2")])
        .and_then([TxnOp::put("rs/a", "4", None), TxnOp::get("rs/a", None)])
        .or_else([TxnOp::delete("rs/a", None)]);
    assert!(client.txn(txn.clone()).await?.succeeded());
    assert!(!client.txn(txn).await?.succeeded());

    let lease = client.lease_grant(60, None).await?.id();
    client.put("rs/leased", "x", Some(PutOptions::new().with_lease(lease))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    assert_eq!(answers.message().await?.map(|answer| answer.ttl()), Some(60));
    client.lease_revoke(lease).await?;
    assert_eq!(client.get("rs/leased", None).await?.count(), 0);

    let lease = client.lease_grant(60, None).await?.id();
    let held = client.lock("rs/lock", Some(LockOptions::new().with_lease(lease))).await?;
    let key = held.key().to_vec();
    assert_eq!(client.get(key.clone(), None).await?.count(), 1);
    client.unlock(key.clone()).await?;
    assert_eq!(client.get(key, None).await?.count(), 0);
    let campaign = client.campaign("rs/elect", "me", lease).await?;
    let leader = client.leader("rs/elect").await?;
    assert_eq!(leader.kv().map(|kv| kv.value()), Some(&b"me"[..]));
    let key = campaign.leader().ok_or("a leader has a key")?.clone();
    client.resign(Some(ResignOptions::new().with_leader(key))).await?;
    assert!(client.leader("rs/elect").await.is_err());

    let mut watch = client.watch("rs/w", None).await?;
    client.put("rs/w", "one", None).await?;
    client.delete("rs/w", None).await?;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let message = watch.message().await?.ok_or("the watch ended")?;
        kinds.extend(message.events().iter().map(|event| event.event_type()));
    }
    assert_eq!(kinds, [EventType::Put, EventType::Delete]);

    assert_eq!(client.member_list().await?.members().len(), 3);
    assert!(!client.status().await?.version().is_empty());
    Ok(())
}
