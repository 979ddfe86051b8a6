//! lock and elect: hold a lock or lead an election for as long as this program runs.
//!
//! A lease of the given TTL is renewed in the background. It ends with the command, so that the
//! next in line need not wait for it to expire.

use std::{ffi::OsString, process::Stdio};

use bytes::Bytes;
use prost::bytes::Buf as _;
use tokio::process::Command;

use super::{
    Session,
    args::{ElectArgs, LockArgs},
    client::Effect,
    exit::{Exit, FAILED},
    kv::bytes,
    lease,
    print::Answer,
};
use crate::{
    api::proto::{
        etcdserverpb::{RangeRequest, RangeResponse, kv_client::KvClient},
        v3electionpb::{
            CampaignRequest, LeaderKey, LeaderRequest, ResignRequest,
            election_client::ElectionClient,
        },
        v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient},
    },
    cli::signals::StopSignals,
};

/// How a command under a lock is told its key and revision.
const KEY_VARIABLE: &str = "ETCD_LOCK_KEY";
const REVISION_VARIABLE: &str = "ETCD_LOCK_REV";

/// What a wait ended with.
enum Ended<T> {
    Done(T),
    /// A signal asked to stop.
    Signalled,
}

/// Runs `work` for as long as the lease lives and no signal comes.
async fn while_held<T>(
    session: &Session,
    lease: i64,
    ttl: i64,
    lost: &str,
    work: impl Future<Output = Result<T, Exit>>,
) -> Result<Ended<T>, Exit> {
    let mut signals = StopSignals::new().map_err(|error| Exit::new(FAILED, error.to_string()))?;
    tokio::select! {
        biased;
        done = work => done.map(Ended::Done),
        _ = signals.wait() => Ok(Ended::Signalled),
        () = lease::keep_until_lost(session, lease, ttl) => Err(Exit::new(FAILED, lost)),
    }
}

/// The pair of a key that was just made.
async fn show_own(session: &Session, key: &Bytes, lost: &str) -> Result<(), Exit> {
    let request = RangeRequest { key: key.clone(), ..RangeRequest::default() };
    let answer = session
        .client
        .call(Effect::Reads, async |connection| {
            KvClient::new(connection).range(request.clone()).await
        })
        .await?;
    if answer.kvs.is_empty() {
        return Err(Exit::new(FAILED, lost));
    }
    session.show(&Answer::Range(&answer))
}

/// `lock NAME [COMMAND ...]`.
pub(super) async fn lock(session: &Session, args: LockArgs) -> Result<(), Exit> {
    let name = args.name.map(bytes).ok_or_else(|| {
        Exit::args("lock takes a lock name argument and an optional command to execute")
    })?;
    let command = args.command;
    let lease = lease::grant_new(session, args.ttl).await?;
    let work = async {
        let connection = session.client.dial().await?;
        let request = LockRequest { name, lease };
        let held = LockClient::new(connection).lock(request).await?.into_inner();
        if command.is_empty() {
            show_own(session, &held.key, "lock lost on init").await?;
            std::future::pending::<()>().await;
        }
        let revision = held.header.map_or(0, |header| header.revision);
        let code = run(&command, &held.key, revision).await?;
        let request = UnlockRequest { key: held.key };
        let unlock = async |connection| LockClient::new(connection).unlock(request.clone()).await;
        let unlocked = session.client.call(Effect::Writes, unlock).await;
        if code == 0 { unlocked.map(drop) } else { Err(Exit::silent(code)) }
    };
    let ended = while_held(session, lease, args.ttl, "session expired", work).await;
    lease::end(session, lease).await;
    ended.map(drop)
}

/// Runs a command to its end: its exit code.
async fn run(command: &[OsString], key: &Bytes, revision: i64) -> Result<u8, Exit> {
    let [program, arguments @ ..] = command else { return Ok(0) };
    let key = String::from_utf8_lossy(key.chunk()).into_owned();
    let status = Command::new(program)
        .args(arguments)
        .env(KEY_VARIABLE, key)
        .env(REVISION_VARIABLE, revision.to_string())
        .stdin(Stdio::inherit())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| Exit::new(FAILED, format!("cannot run {}: {error}", program.display())))?;
    Ok(status.code().map_or(FAILED, |code| u8::try_from(code).unwrap_or(FAILED)))
}

/// `elect NAME VALUE` and `elect --listen NAME`.
pub(super) async fn elect(session: &Session, args: ElectArgs) -> Result<(), Exit> {
    let words: Vec<Bytes> = args.args.into_iter().map(bytes).collect();
    match (words.as_slice(), args.listen) {
        ([name], true) => observe(session, name.clone()).await,
        ([_], false) => Err(Exit::args("no proposal argument but -l not set")),
        ([_, _], true) => Err(Exit::args("proposal given but -l is set")),
        ([name, value], false) => campaign(session, name.clone(), value.clone(), args.ttl).await,
        _ => Err(Exit::args(
            "elect takes one election name argument and an optional proposal argument",
        )),
    }
}

async fn campaign(session: &Session, name: Bytes, value: Bytes, ttl: i64) -> Result<(), Exit> {
    let lease = lease::grant_new(session, ttl).await?;
    let mut leader: Option<LeaderKey> = None;
    let work = async {
        let connection = session.client.dial().await?;
        let request = CampaignRequest { name, lease, value };
        let won = ElectionClient::new(connection).campaign(request).await?.into_inner();
        let key = won.leader.as_ref().map(|leader| leader.key.clone()).unwrap_or_default();
        leader = won.leader;
        show_own(session, &key, "leadership lost on init").await?;
        std::future::pending::<Result<(), Exit>>().await
    };
    let ended = while_held(session, lease, ttl, "elect: session expired", work).await;
    if leader.is_some() && matches!(ended, Ok(Ended::Signalled)) {
        let request = ResignRequest { leader };
        let resign =
            async |connection| ElectionClient::new(connection).resign(request.clone()).await;
        session.client.call(Effect::Writes, resign).await?;
    }
    lease::end(session, lease).await;
    ended.map(drop)
}

async fn observe(session: &Session, name: Bytes) -> Result<(), Exit> {
    let mut signals = StopSignals::new().map_err(|error| Exit::new(FAILED, error.to_string()))?;
    let connection = session.client.dial().await?;
    let tell = async {
        let request = LeaderRequest { name };
        let mut leaders = ElectionClient::new(connection).observe(request).await?.into_inner();
        while let Some(leader) = leaders.message().await? {
            let kvs = leader.kv.into_iter().collect();
            let answer = RangeResponse { header: leader.header, kvs, ..RangeResponse::default() };
            session.show(&Answer::Range(&answer))?;
        }
        Err(Exit::new(FAILED, "elect: observer lost"))
    };
    tokio::select! {
        ended = tell => ended,
        _ = signals.wait() => Ok(()),
    }
}
