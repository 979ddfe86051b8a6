//! Authentication on real processes: what the disk and the log hold, restarts, snapshots, three
//! members, floods.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tonic::{Code, Request, Status};
use tripod::api::proto::{authpb, etcdserverpb as pb};

use crate::support::{
    client::Client,
    cluster::{Cluster, Options, START_LIMIT},
    wait,
};

const ROOT_PASSWORD: &str = "correct-horse-battery";
const USER_PASSWORD: &str = "tr0ub4dor-and-3";
/// Shorter than is wise.
const SHORT_PASSWORD: &str = "x7%Qz!w";
/// bcrypt's cheapest work factor: these tests are not about its strength.
const CHEAP: &str = "--bcrypt-cost=4";

/// A message with a token, or without one where it is empty.
fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let (false, Ok(token)) = (token.is_empty(), token.parse()) {
        request.metadata_mut().insert("token", token);
    }
    request
}

async fn add_user(client: &Client, token: &str, name: &str, password: &str) -> Result<(), Status> {
    let (name, password) = (name.to_owned(), password.to_owned());
    let request = pb::AuthUserAddRequest { name, password, ..Default::default() };
    client.auth().user_add(with(token, request)).await.map(drop)
}

async fn grant_role(client: &Client, token: &str, user: &str, role: &str) -> Result<(), Status> {
    let request = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
    client.auth().user_grant_role(with(token, request)).await.map(drop)
}

/// Root, and a user who may read and write `k`; then authentication is on.
async fn enable(client: &Client) -> Result<(), Status> {
    add_user(client, "", "root", ROOT_PASSWORD).await?;
    grant_role(client, "", "root", "root").await?;
    add_user(client, "", "user", USER_PASSWORD).await?;
    client.auth().role_add(pb::AuthRoleAddRequest { name: "role".into() }).await?;
    let perm = Some(authpb::Permission { perm_type: 2, key: "k".into(), ..Default::default() });
    let grant = pb::AuthRoleGrantPermissionRequest { name: "role".into(), perm };
    client.auth().role_grant_permission(grant).await?;
    grant_role(client, "", "user", "role").await?;
    client.auth().auth_enable(pb::AuthEnableRequest {}).await.map(drop)
}

async fn login(client: &Client, name: &str, password: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
    Ok(client.auth().authenticate(request).await?.into_inner().token)
}

async fn get(client: &Client, token: &str, key: &'static str) -> Result<(), Status> {
    let request = pb::RangeRequest { key: key.into(), ..Default::default() };
    client.kv().range(with(token, request)).await.map(drop)
}

async fn put(client: &Client, token: &str, key: &'static str) -> Result<(), Status> {
    let request = pb::PutRequest { key: key.into(), ..Default::default() };
    client.kv().put(with(token, request)).await.map(drop)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) -> Result<()> {
    let status = result.err().context("it should be refused")?;
    ensure!(status.code() == code && status.message() == text, "{status:?}");
    Ok(())
}

const DENIED: &str = "etcdserver: permission denied";
const OLD: &str = "etcdserver: revision of auth store is old";

/// Repeats what came to a member that had not heard of a change of users yet, as clients do.
async fn again(call: impl AsyncFn() -> Result<(), Status>) -> Result<(), Status> {
    for _ in 0..100 {
        match call().await {
            Err(status) if status.message() == OLD => {}
            other => return other,
        }
    }
    Err(Status::internal("the revision stays old"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_on_one_member_is_good_on_all_and_changes_bind_all() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(3)?.flag(CHEAP)).await?;
    let members: Vec<_> = cluster.members.iter().map(|member| member.client()).collect();
    enable(&members[0]).await?;
    // The switch is replicated: a member that has not applied it yet still answers in order.
    let root = login(&members[0], "root", ROOT_PASSWORD).await?;
    let user = login(&members[1], "user", USER_PASSWORD).await?;
    for member in &members {
        again(async || put(member, &user, "k").await).await?;
        again(async || get(member, &user, "k").await).await?;
        refused(
            again(async || get(member, &user, "other").await).await,
            Code::PermissionDenied,
            DENIED,
        )?;
        refused(
            again(async || put(member, &user, "other").await).await,
            Code::PermissionDenied,
            DENIED,
        )?;
        again(async || put(member, &root, "other").await).await?;
    }
    let revoke = pb::AuthUserRevokeRoleRequest { name: "user".into(), role: "role".into() };
    members[2].auth().user_revoke_role(with(&root, revoke)).await?;
    for member in &members {
        let call = again(async || get(member, &user, "k").await);
        refused(call.await, Code::PermissionDenied, DENIED)?;
        let call = again(async || put(member, &user, "k").await);
        refused(call.await, Code::PermissionDenied, DENIED)?;
    }
    grant_role(&members[1], &root, "user", "role").await?;
    for member in &members {
        again(async || get(member, &user, "k").await).await?;
    }
    // A new password ends the token everywhere.
    let change = pb::AuthUserChangePasswordRequest {
        name: "user".into(),
        password: "new".into(),
        ..Default::default()
    };
    members[0].auth().user_change_password(with(&root, change)).await?;
    for member in &members {
        wait::eventually("the token ends", START_LIMIT, || async {
            refused(
                again(async || get(member, &user, "k").await).await,
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
            )
        })
        .await?;
    }
    login(&members[1], "user", "new").await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_token_is_good_on_all_members_until_users_change() -> Result<()> {
    let key = tempfile::NamedTempFile::new()?;
    std::fs::write(key.path(), "a shared secret of the members")?;
    let flag =
        format!("--auth-token=jwt,priv-key={},sign-method=HS256,ttl=1m", key.path().display());
    let cluster = Cluster::start(Options::candidate(3)?.flag(CHEAP).flag(flag)).await?;
    let members: Vec<_> = cluster.members.iter().map(|member| member.client()).collect();
    enable(&members[0]).await?;
    let user = login(&members[0], "user", USER_PASSWORD).await?;
    ensure!(user.split('.').count() == 3, "no JWT: {user}");
    for member in &members {
        get(member, &user, "k").await?;
    }
    let root = login(&members[1], "root", ROOT_PASSWORD).await?;
    add_user(&members[2], &root, "another", "pw").await?;
    for member in &members {
        refused(get(member, &user, "k").await, Code::InvalidArgument, OLD)?;
        refused(put(member, &user, "k").await, Code::InvalidArgument, OLD)?;
    }
    let user = login(&members[1], "user", USER_PASSWORD).await?;
    put(&members[2], &user, "k").await?;
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_come_by_snapshot_and_survive_a_restart_of_all() -> Result<()> {
    let options = Options::candidate(3)?
        .flag(CHEAP)
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=50");
    let mut cluster = Cluster::start(options).await?;
    let away = (cluster.leader().await? + 1) % 3;
    cluster.members[away].kill()?;
    let client = cluster.members[(away + 1) % 3].client();
    enable(&client).await?;
    let root = login(&client, "root", ROOT_PASSWORD).await?;
    // One after the other, so that the log grows by an entry each and is cut.
    for number in 0..600 {
        let key = format!("fill/{number}");
        let request = pb::PutRequest { key: key.into(), ..Default::default() };
        client.kv().put(with(&root, request)).await?;
    }
    cluster.restart_missing().await?;
    let log = cluster.members[away].log().to_lowercase();
    ensure!(log.contains("snapshot"), "the member caught up without a snapshot");
    check_users(&cluster.members[away].client()).await?;
    for member in &mut cluster.members {
        member.kill()?;
    }
    cluster.restart_missing().await?;
    for member in &cluster.members {
        check_users(&member.client()).await?;
    }
    cluster.close()
}

async fn check_users(client: &Client) -> Result<()> {
    let user = wait::eventually("a login", START_LIMIT, || async {
        anyhow::Ok(login(client, "user", USER_PASSWORD).await?)
    })
    .await?;
    refused(get(client, "", "k").await, Code::InvalidArgument, "etcdserver: user name is empty")?;
    refused(get(client, &user, "fill/1").await, Code::PermissionDenied, DENIED)?;
    Ok(put(client, &user, "k").await?)
}

/// CVE-2021-28235, GHSA-528j: a debug endpoint, logs and the WAL had passwords. Here no file has any,
/// nor a token, and no log has a key's value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_and_tokens_are_neither_on_disk_nor_in_the_log() -> Result<()> {
    let options = Options::candidate(1)?.flag(CHEAP).flag("--log-level=debug");
    let mut cluster = Cluster::start(options).await?;
    let client = cluster.members[0].client();
    enable(&client).await?;
    let root = login(&client, "root", ROOT_PASSWORD).await?;
    let user = login(&client, "user", USER_PASSWORD).await?;
    put(&client, &user, "k").await?;
    let wrong = "wrong-but-close-to-it";
    ensure!(login(&client, "user", wrong).await.is_err());
    let changed = "a-changed-password-of-user";
    let change = pb::AuthUserChangePasswordRequest {
        name: "user".into(),
        password: changed.into(),
        ..Default::default()
    };
    client.auth().user_change_password(with(&root, change)).await?;
    add_user(&client, &root, "careless", SHORT_PASSWORD).await?;
    let value = "a-value-that-is-nobodys-business";
    let secret = pb::PutRequest { key: "k".into(), value: value.into(), ..Default::default() };
    let request = Some(pb::request_op::Request::RequestPut(secret.clone()));
    let txn = pb::TxnRequest { success: vec![pb::RequestOp { request }], ..Default::default() };
    client.kv().put(with(&root, secret)).await?;
    client.kv().txn(with(&root, txn.clone())).await?;
    // One that is refused: what is wrong may be said, not what it was about.
    ensure!(client.kv().txn(with("made-up-token.1", txn)).await.is_err());
    refused(
        get(&client, "made-up-token.1", "k").await,
        Code::Unauthenticated,
        "etcdserver: invalid auth token",
    )?;
    let letters = |token: &str| token.split('.').next().unwrap_or_default().to_owned();
    let secrets = [
        ROOT_PASSWORD.to_owned(),
        USER_PASSWORD.to_owned(),
        wrong.to_owned(),
        changed.to_owned(),
        letters(&root),
        letters(&user),
        "made-up-token".to_owned(),
        SHORT_PASSWORD.to_owned(),
    ];
    let member = &mut cluster.members[0];
    member.stop()?;
    let mut hashes = 0;
    let mut stack = vec![member.data_dir.clone()];
    let log = member.log();
    ensure!(!log.contains(value), "its log holds a value");
    // CVE-2020-15115: a password may be of any length, as in etcd, and whoever runs this is told.
    let warned = log.lines().filter(|line| line.contains("easy to guess"));
    let warned: Vec<_> = warned.collect();
    ensure!(warned.len() == 1 && warned[0].contains("careless"), "{warned:?}");
    let mut texts = vec![("its log".to_owned(), log.into_bytes())];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                stack.push(entry?.path());
            }
        } else {
            texts.push((path.display().to_string(), std::fs::read(&path)?));
        }
    }
    for (path, bytes) in &texts {
        for secret in &secrets {
            ensure!(!holds(bytes, secret.as_bytes()), "{path} holds {secret}");
        }
        hashes += usize::from(holds(bytes, b"$2b$04$"));
    }
    ensure!(hashes > 0, "no hash was found, so this proves nothing");
    cluster.hush();
    Ok(())
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// CVE-2020-15115: short passwords are guessed one login after the other; what logins may take is
/// bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_logins_is_refused_and_leaves_other_clients_alone() -> Result<()> {
    const LOGINS: usize = 400;
    /// Far above what a put takes, far below what hundreds of hashes take.
    const PUT_LIMIT: Duration = Duration::from_millis(1_000);
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let client = cluster.members[0].client();
    enable(&client).await?;
    let user = login(&client, "user", USER_PASSWORD).await?;
    let url = cluster.members[0].client_url();
    let flood: Vec<_> = (0..LOGINS)
        .map(|_| {
            let client = Client::with_limit(&url, Duration::from_secs(60));
            tokio::spawn(async move { login(&client, "user", "wrong").await })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let start = Instant::now();
        put(&client, &user, "k").await?;
        slowest = slowest.max(start.elapsed());
    }
    let mut refused = 0;
    for login in flood {
        let status = login.await?.err().context("the password is wrong")?;
        match status.code() {
            Code::ResourceExhausted => refused += 1,
            Code::InvalidArgument => {}
            _ => anyhow::bail!("{status:?}"),
        }
    }
    eprintln!("flood: {refused} of {LOGINS} logins refused, slowest put {slowest:?}");
    ensure!(refused > 0, "the queue has no end");
    ensure!(slowest < PUT_LIMIT, "a put took {slowest:?}");
    cluster.close()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_token_ends_after_its_time() -> Result<()> {
    let options = Options::candidate(1)?.flag(CHEAP).flag("--auth-token-ttl=1");
    let cluster = Cluster::start(options).await?;
    let client = cluster.members[0].client();
    enable(&client).await?;
    let user = login(&client, "user", USER_PASSWORD).await?;
    get(&client, &user, "k").await?;
    // Looking for it would renew it, so there is nothing to wait for but the time itself.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let text = "etcdserver: invalid auth token";
    refused(get(&client, &user, "k").await, Code::Unauthenticated, text)?;
    cluster.close()
}
