//! Three members in one program, over loopback: a write through one, read through another.
//!
//! Run it: `cargo run --example three_members`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tripod::Tripod;

const PEERS: [&str; 3] =
    ["http://127.0.0.1:23801", "http://127.0.0.1:23802", "http://127.0.0.1:23803"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let names = ["a", "b", "c"];
    let list: Vec<_> = names.iter().zip(PEERS).map(|(n, url)| format!("{n}={url}")).collect();
    let starting = names.iter().zip(PEERS).map(|(name, url)| {
        let members = list.join(",");
        async move {
            let builder = Tripod::builder().name(*name).in_memory();
            anyhow::Ok(builder.cluster(url.parse()?, members.parse()?).start().await?)
        }
    });
    // All at once: a member answers only when a quorum runs.
    let members = futures::future::try_join_all(starting).await?;
    let revision = members[0].client().set("hello", "world").await?;
    println!("written through a at revision {revision}");
    for (name, member) in names.iter().zip(&members) {
        let kv = member.client().get("hello").await?.expect("acknowledged writes are everywhere");
        println!("{name} reads {}", String::from_utf8_lossy(&kv.value));
    }
    for member in members {
        member.shutdown().await?;
    }
    Ok(())
}
