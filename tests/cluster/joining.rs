//! How members come to a cluster, leave it, and go on without it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tonic::{Code, Status};
use tripod::api::proto::etcdserverpb::{
    Member as Listed, MemberAddRequest, MemberListRequest, MemberPromoteRequest,
    MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest,
};

use crate::support::{
    cluster::{Cluster, Member, Options, START_LIMIT},
    wait,
};

/// How long a member may take to find out that it must not start.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

async fn add(at: &Member, url: String, is_learner: bool) -> Result<Listed, Status> {
    let request = MemberAddRequest { peer_ur_ls: vec![url], is_learner };
    let answer = at.client().cluster().member_add(request).await?.into_inner();
    answer.member.ok_or_else(|| Status::internal("no member in the answer"))
}

/// Adds once nothing is in the way: a leader may have yet to hear of everybody.
async fn add_soon(at: &Member, url: String, is_learner: bool) -> Result<Listed> {
    wait::eventually("a member is added", START_LIMIT, || async {
        Ok(add(at, url.clone(), is_learner).await?)
    })
    .await
}

async fn remove(at: &Member, id: u64) -> Result<(), Status> {
    at.client().cluster().member_remove(MemberRemoveRequest { id }).await.map(drop)
}

async fn list(at: &Member) -> Result<Vec<Listed>> {
    let request = MemberListRequest { linearizable: true };
    Ok(at.client().cluster().member_list(request).await?.into_inner().members)
}

async fn id_of(at: &Member, name: &str) -> Result<u64> {
    let members = list(at).await?;
    Ok(members.iter().find(|member| member.name == name).context("a member of that name")?.id)
}

/// Starts a member that must not run: what it said.
fn refused(member: &mut Member) -> Result<String> {
    member.start()?;
    let status = member.exit_within(REFUSAL_LIMIT)?;
    ensure!(status.code() == Some(1), "{} ended with {status}", member.name);
    Ok(member.log())
}

fn expect(refusal: &Status, code: Code, text: &str) {
    assert_eq!((refusal.code(), refusal.message()), (code, text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_one_after_the_other_and_survive_the_first() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(1)?).await?;
    cluster.members[0].client().put("before", "x").await?;
    for _ in 0..2 {
        let index = cluster.newcomer()?;
        let url = cluster.members[index].peer_url();
        let added = add_soon(&cluster.members[0], url, false).await?;
        assert!(!added.is_learner && added.name.is_empty());
        cluster.members[index].start()?;
        cluster.healthy().await?;
        let status = cluster.members[index].client().status().await?;
        assert_eq!(status.header.map(|header| header.member_id), Some(added.id));
        wait::eventually("the newcomer votes", START_LIMIT, || async {
            ensure!(!cluster.members[index].client().status().await?.is_learner);
            Ok(())
        })
        .await?;
    }
    cluster.members[0].kill()?;
    let kept = wait::eventually("the others go on", START_LIMIT, || async {
        Ok(cluster.members[2].client().get("before").await?)
    })
    .await?;
    assert_eq!(kept.count, 1);
    cluster.members[1].client().put("after", "y").await?;
    // A member that joined comes back by its own data, whatever the flags say by then.
    cluster.members[2].kill()?;
    cluster.restart_missing().await?;
    let revision = cluster.members[0].client().revision().await?;
    cluster.agree_at(revision).await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_in_the_cluster_says_so_and_ends() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(1)?).await?;
    let index = cluster.newcomer()?;
    let said = refused(&mut cluster.members[index])?;
    ensure!(said.contains("unmatched member while checking PeerURLs: m1"), "{said}");
    // In the cluster, but told of another one.
    let url = cluster.members[index].peer_url();
    let added = add_soon(&cluster.members[0], url, false).await?;
    let (m0, m1) = (cluster.members[0].peer_url(), cluster.members[index].peer_url());
    let longer = format!("--initial-cluster=m0={m0},m1={m1},m2=http://127.0.0.1:1");
    cluster.members[index].add_flag(longer);
    let said = refused(&mut cluster.members[index])?;
    ensure!(said.contains("member count is unequal"), "{said}");
    // Nobody there to ask.
    cluster.members[0].kill()?;
    cluster.name_members(index, &[0, index]);
    let said = refused(&mut cluster.members[index])?;
    ensure!(said.contains("could not retrieve cluster information from the given URLs"), "{said}");
    // Now it may.
    cluster.members[0].start()?;
    cluster.healthy().await?;
    cluster.members[index].start()?;
    cluster.healthy().await?;
    let status = cluster.members[index].client().status().await?;
    assert_eq!(status.header.map(|header| header.member_id), Some(added.id));
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_data_or_was_removed_does_not_come_back() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    let lost = id_of(&cluster.members[0], "m2").await?;
    cluster.members[2].kill()?;
    cluster.members[2].wipe()?;
    for state in ["new", "existing"] {
        cluster.members[2].add_flag(format!("--initial-cluster-state={state}"));
        let said = refused(&mut cluster.members[2])?;
        ensure!(said.contains("has already been bootstrapped"), "{state}: {said}");
    }
    remove(&cluster.members[0], lost).await?;
    // A new member at the same place.
    let url = cluster.members[2].peer_url();
    let added = add_soon(&cluster.members[0], url, true).await?;
    assert_ne!(added.id, lost);
    cluster.members[2].start()?;
    wait::eventually("the learner serves its own data", START_LIMIT, || async {
        ensure!(cluster.members[2].client().status().await?.is_learner);
        Ok(())
    })
    .await?;
    let learner = cluster.members[2].client().put("a", "b").await.expect_err("a learner");
    expect(&learner, Code::Unavailable, "etcdserver: rpc not supported for learner");
    // Removed while it was down: its own data does not help it.
    cluster.members[2].stop()?;
    remove(&cluster.members[0], added.id).await?;
    let said = refused(&mut cluster.members[2])?;
    ensure!(said.contains("permanently removed from the cluster"), "{said}");
    // Removed while it runs.
    let running = id_of(&cluster.members[0], "m1").await?;
    remove(&cluster.members[0], running).await?;
    let status = cluster.members[1].exit_within(REFUSAL_LIMIT)?;
    assert_eq!(status.code(), Some(1));
    ensure!(cluster.members[1].log().contains("permanently removed from the cluster"));
    cluster.members[0].client().put("alone", "x").await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_is_forced_to_be_a_cluster_of_its_own() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    for at in 0..50 {
        cluster.members[at % 3].client().put(format!("k{at}"), "v").await?;
    }
    let revision = cluster.members[0].client().revision().await?;
    for member in &mut cluster.members {
        member.kill()?;
    }
    cluster.members[1].add_flag("--force-new-cluster=true");
    cluster.members[1].start()?;
    cluster.healthy().await?;
    let members = list(&cluster.members[1]).await?;
    assert_eq!(members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["m1"]);
    let all = cluster.members[1].client().everything(0).await?;
    assert_eq!((all.count, all.header.map(|h| h.revision)), (50, Some(revision)));
    // It grows again, also after a start without the flag.
    cluster.members[1].stop()?;
    cluster.members[1].remove_flag("--force-new-cluster=true");
    cluster.members[1].start()?;
    cluster.healthy().await?;
    let index = cluster.newcomer()?;
    cluster.name_members(index, &[1, index]);
    let url = cluster.members[index].peer_url();
    add_soon(&cluster.members[1], url, false).await?;
    cluster.members[index].start()?;
    cluster.healthy().await?;
    // The old ones are not let in.
    let said = refused(&mut cluster.members[0])?;
    ensure!(said.contains("permanently removed from the cluster"), "{said}");
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_lies_where_wal_dir_says() -> Result<()> {
    let wal = tempfile::tempdir()?;
    let flag = format!("--wal-dir={}", wal.path().join("wal").display());
    let mut cluster = Cluster::prepare(Options::candidate(1)?)?;
    cluster.members[0].add_flag(flag.clone());
    cluster.members[0].start()?;
    cluster.healthy().await?;
    cluster.members[0].client().put("a", "b").await?;
    assert!(std::fs::read_dir(wal.path().join("wal"))?.count() > 0);
    assert!(!cluster.members[0].data_dir.join("member/wal").exists());
    cluster.members[0].kill()?;
    cluster.members[0].remove_flag(&flag);
    let said = refused(&mut cluster.members[0])?;
    ensure!(said.contains("move the directory there, or start with the --wal-dir"), "{said}");
    cluster.members[0].add_flag(flag);
    cluster.members[0].start()?;
    cluster.healthy().await?;
    assert_eq!(cluster.members[0].client().get("a").await?.count, 1);
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_put_the_quorum_at_risk_are_refused_as_in_etcd() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    let leader = cluster.leader().await?;
    let [up, down] = [(leader + 1) % 3, (leader + 2) % 3];
    let spare = |port: u16| format!("http://127.0.0.1:{port}");
    let at = &cluster.members[leader];
    let mut service = at.client().cluster();
    let learner = add_soon(at, spare(1), true).await?;
    assert!(learner.is_learner);
    let refusals = [
        (add(at, spare(2), true).await, "etcdserver: too many learner members in cluster"),
        (add(at, at.peer_url(), false).await, "etcdserver: Peer URLs already exists"),
    ];
    for (refusal, text) in refusals {
        expect(&refusal.expect_err(text), Code::FailedPrecondition, text);
    }
    let bad = add(at, "127.0.0.1:7".to_owned(), false).await.expect_err("no scheme");
    expect(&bad, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    let promote = MemberPromoteRequest { id: learner.id };
    let behind = service.member_promote(promote).await.expect_err("it never started");
    let text = "etcdserver: can only promote a learner member which is in sync with leader";
    expect(&behind, Code::FailedPrecondition, text);
    let own = id_of(at, &at.name).await?;
    let voter = service.member_promote(MemberPromoteRequest { id: own }).await;
    let text = "etcdserver: can only promote a learner member";
    expect(&voter.expect_err("a voter"), Code::FailedPrecondition, text);
    expect(
        &remove(at, 77).await.expect_err("unknown"),
        Code::NotFound,
        "etcdserver: member not found",
    );
    // An update keeps the learner a learner (etcd issue 21694).
    let update = MemberUpdateRequest { id: learner.id, peer_ur_ls: vec![spare(3)] };
    let updated = service.member_update(update).await?.into_inner().members;
    let updated = updated.iter().find(|member| member.id == learner.id).context("still there")?;
    assert!(updated.is_learner && updated.peer_ur_ls == [spare(3)], "{updated:?}");
    let mut maintenance = at.client().maintenance();
    for target_id in [learner.id, 77] {
        let refusal = maintenance.move_leader(MoveLeaderRequest { target_id }).await;
        let text = "etcdserver: bad leader transferee";
        expect(&refusal.expect_err(text), Code::FailedPrecondition, text);
    }
    let mut elsewhere = cluster.members[up].client().maintenance();
    let refusal = elsewhere.move_leader(MoveLeaderRequest { target_id: own }).await;
    let refusal = refusal.expect_err("only the leader can");
    expect(&refusal, Code::FailedPrecondition, "etcdserver: not leader");
    remove(at, learner.id).await?;

    let (up_name, down_name) =
        (cluster.members[up].name.clone(), cluster.members[down].name.clone());
    let (up_id, down_id) = (
        id_of(&cluster.members[leader], &up_name).await?,
        id_of(&cluster.members[leader], &down_name).await?,
    );
    cluster.members[down].kill()?;
    let at = &cluster.members[leader];
    // At once: what the dead member has answered before does not count.
    let refusal = remove(at, up_id).await.expect_err("the quorum hangs on it");
    expect(&refusal, Code::Unavailable, "etcdserver: unhealthy cluster");
    for is_learner in [true, false] {
        let refusal = add(at, spare(5), is_learner).await.expect_err("one is down");
        expect(&refusal, Code::Unavailable, "etcdserver: unhealthy cluster");
    }
    remove(at, down_id).await?;
    assert_eq!(list(at).await?.len(), 2);
    cluster.close()
}
