//! Many leases at once, many keys of one lease, many renewals.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use tripod::api::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
};

use crate::{
    support::{client::Client, cluster::Options, wait},
    target::{Peak, Target, mib, size},
};

/// Leases that expire together: in CI, and in full.
const LEASES: (usize, usize) = (8_000, 100_000);
/// Their TTL in seconds: in CI, and in full, where granting takes longer.
const TTL_S: (usize, usize) = (8, 60);
/// Leases ended each second, as etcd does; see `src/client/lease.rs`.
const EXPIRED_PER_S: usize = 1_000;
/// Time beyond that for grants to spread and a busy machine.
const GRACE: Duration = Duration::from_secs(20);
/// Memory that one lease with a key may cost, in bytes, above a base for everything else.
const LEASE_BYTES_MAX: u64 = 4_096;
const BASE_BYTES_MAX: u64 = 256 << 20;
/// Connections, and calls under way, that grant.
const CONNECTIONS: usize = 4;
const CONCURRENCY: usize = 256;

/// All leases end within their TTL and the time that 1,000 a second take; every second one has a
/// key, which goes with it. Meanwhile nobody loses the leadership.
#[test]
fn many_leases_expire_together_without_harm() -> Result<()> {
    let target = Target::start(Options::candidate(3)?)?;
    let (count, ttl) = (size(LEASES.0, LEASES.1), size(TTL_S.0, TTL_S.1));
    let pids: Vec<u32> =
        target.cluster.members.iter().map(|member| member.pid()).collect::<Result<_>>()?;
    let peaks: Vec<_> = pids.iter().map(|pid| Peak::watch(*pid)).collect();
    let term =
        |target: &Target| target.run(async { Ok(target.client().status().await?.raft_term) });
    let term_before = term(&target)?;
    let innocent = target.innocent();
    let start = Instant::now();
    target.run(async {
        let clients: Vec<Client> = (0..CONNECTIONS).map(|_| target.client()).collect();
        let grants = (0..count).map(|number| {
            let client = clients[number % CONNECTIONS].clone();
            async move {
                let request = LeaseGrantRequest { ttl: i64::try_from(ttl)?, id: 0 };
                let id = client.lease().lease_grant(request).await?.into_inner().id;
                if number % 2 == 0 {
                    let request = tripod::api::proto::etcdserverpb::PutRequest {
                        key: format!("leased/{number:09}").into(),
                        value: "v".into(),
                        lease: id,
                        ..Default::default()
                    };
                    client.kv().put(request).await?;
                }
                anyhow::Ok(())
            }
        });
        futures::stream::iter(grants).buffer_unordered(CONCURRENCY).try_collect::<Vec<()>>().await
    })?;
    let granted = start.elapsed();
    let expiring = Duration::from_secs((ttl + count / EXPIRED_PER_S) as u64);
    target.run(wait::eventually("all leases are gone", expiring + GRACE, || async {
        let answer = target.client().lease().lease_leases(LeaseLeasesRequest {}).await?;
        let left = answer.into_inner().leases.len();
        ensure!(left == 0, "{left} left");
        Ok(())
    }))?;
    eprintln!(
        "limits: {count} leases granted in {granted:.1?}, gone {:.1?} after the first",
        start.elapsed()
    );
    ensure!(target.count("leased")? == 0, "keys outlived their leases");
    ensure!(term(&target)? == term_before, "the leader changed");
    target.judge(innocent, "leases that expire together")?;
    let bound = BASE_BYTES_MAX + LEASE_BYTES_MAX * count as u64;
    for peak in peaks {
        let peak = peak.bytes();
        eprintln!("limits: a member held at most {} MiB", mib(peak));
        ensure!(peak < bound, "{} MiB, bound {}", mib(peak), mib(bound));
    }
    target.finish()
}

/// Keys of one lease; the full figure of the plan, also in CI.
const ATTACHED: usize = 50_000;
/// Renewals sent at once: in CI, and in full.
const RENEWALS: (usize, usize) = (20_000, 500_000);
/// What may stay behind a flood that is over, in bytes.
const LEFT_BYTES_MAX: u64 = 192 << 20;

/// A lease with 50,000 keys is revoked in one revision, all its keys with it. Then a flood of
/// renewals on one stream: each is answered, in order.
#[test]
fn a_lease_with_many_keys_is_revoked_and_renewals_may_flood() -> Result<()> {
    let target = Target::one(&[])?;
    let innocent = target.innocent();
    let client = target.client();
    let grant = LeaseGrantRequest { ttl: 600, id: 77 };
    target.run(async {
        client.lease().lease_grant(grant).await?;
        Ok(())
    })?;
    target.fill("attached", ATTACHED, b"value", 77)?;
    ensure!(target.count("attached")? == ATTACHED as i64, "not all attached");
    let start = Instant::now();
    let revoke = LeaseRevokeRequest { id: 77 };
    target.run(async {
        client.lease().lease_revoke(revoke).await?;
        Ok(())
    })?;
    eprintln!("limits: lease with {ATTACHED} keys revoked in {:.1?}", start.elapsed());
    ensure!(target.count("attached")? == 0, "keys outlived the lease");

    let before = target.resident()?;
    let grant = LeaseGrantRequest { ttl: 600, id: 78 };
    target.run(async {
        client.lease().lease_grant(grant).await?;
        Ok(())
    })?;
    let renewals = size(RENEWALS.0, RENEWALS.1);
    let start = Instant::now();
    target.run(async {
        let requests =
            futures::stream::iter((0..renewals).map(|_| LeaseKeepAliveRequest { id: 78 }));
        let mut answers = client.lease().lease_keep_alive(requests).await?.into_inner();
        for number in 0..renewals {
            let answer = answers.message().await?.with_context(|| format!("answer {number}"))?;
            ensure!(answer.id == 78 && answer.ttl == 600, "{answer:?}");
        }
        Ok(())
    })?;
    let grown = target.resident()?.saturating_sub(before);
    eprintln!("limits: {renewals} renewals in {:.1?}, {} MiB more", start.elapsed(), mib(grown));
    ensure!(grown < LEFT_BYTES_MAX, "{} MiB stay behind", mib(grown));
    target.judge(innocent, "keys of a lease and renewals")?;
    target.finish()
}
