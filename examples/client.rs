//! A network client of any etcd-compatible server, from the wire definitions.
//!
//! Run it: `cargo run --example client -- http://127.0.0.1:2379`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tripod::api::proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:2379".to_owned());
    let mut kv = KvClient::connect(endpoint).await?;
    let put = PutRequest { key: "hello".into(), value: "world".into(), ..Default::default() };
    let header = kv.put(put).await?.into_inner().header.unwrap_or_default();
    println!("put at revision {}", header.revision);
    let range = RangeRequest { key: "hello".into(), ..Default::default() };
    for pair in kv.range(range).await?.into_inner().kvs {
        println!("{} = {}", pair.key.escape_ascii(), pair.value.escape_ascii());
    }
    Ok(())
}
