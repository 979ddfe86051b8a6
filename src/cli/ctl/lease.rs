//! lease: grant, revoke, timetolive, list, keep-alive.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Session,
    args::{LeaseCommand, Positional},
    client::Effect,
    exit::{BAD_CONNECTION, Exit, FAILED},
    go,
    print::Answer,
};
use crate::api::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, lease_client::LeaseClient,
};

/// A lease is renewed this many times within its TTL.
const RENEWALS_PER_TTL: u32 = 3;
/// Pause after a renewal that no server answered.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Runs one of the commands.
pub(super) async fn run(session: &Session, command: LeaseCommand) -> Result<(), Exit> {
    match command {
        LeaseCommand::Grant(args) => grant(session, &args).await,
        LeaseCommand::Revoke(args) => revoke(session, &args).await,
        LeaseCommand::Timetolive { id, keys } => time_to_live(session, &id, keys).await,
        LeaseCommand::List(_) => list(session).await,
        LeaseCommand::KeepAlive { id, once } => keep_alive(session, &id, once).await,
    }
}

/// The only argument as a lease id.
fn lease_id(args: &Positional, missing: &str) -> Result<i64, Exit> {
    let [text] = args.args.as_slice() else { return Err(Exit::args(missing)) };
    go::parse_int(text, 16)
        .map_err(|error| Exit::args(format!("bad lease ID arg ({error}), expecting ID in Hex")))
}

/// A new lease of `ttl` seconds: its id.
pub(super) async fn grant_new(session: &Session, ttl: i64) -> Result<i64, Exit> {
    let request = LeaseGrantRequest { ttl, id: 0 };
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            LeaseClient::new(connection).lease_grant(request).await
        })
        .await?;
    Ok(answer.id)
}

/// Ends a lease; one that has ended already, or cannot be reached, ends by itself.
pub(super) async fn end(session: &Session, id: i64) {
    let revoke = async |connection| {
        LeaseClient::new(connection).lease_revoke(LeaseRevokeRequest { id }).await
    };
    drop(session.client.call(Effect::Writes, revoke).await);
}

/// Renews a lease until it is lost: expired, revoked, or without a server for its whole TTL.
pub(super) async fn keep_until_lost(session: &Session, id: i64, ttl: i64) {
    let mut expires = Instant::now() + Duration::from_secs(ttl.unsigned_abs());
    loop {
        match renew(session, id).await {
            Ok(answer) if answer.ttl <= 0 => return,
            Ok(answer) => {
                let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
                expires = Instant::now() + ttl;
                sleep(ttl / RENEWALS_PER_TTL).await;
            }
            Err(_) if Instant::now() < expires => sleep(RETRY_PAUSE).await,
            Err(_) => return,
        }
    }
}

async fn grant(session: &Session, args: &Positional) -> Result<(), Exit> {
    let [text] = args.args.as_slice() else {
        return Err(Exit::args("lease grant command needs TTL argument"));
    };
    let ttl = go::parse_int(text, 10).map_err(|error| Exit::args(format!("bad TTL ({error})")))?;
    let request = LeaseGrantRequest { ttl, id: 0 };
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            LeaseClient::new(connection).lease_grant(request).await
        })
        .await
        .map_err(|exit| Exit::new(FAILED, format!("failed to grant lease ({})", exit.message)))?;
    session.show(&Answer::Grant(&answer))
}

async fn revoke(session: &Session, args: &Positional) -> Result<(), Exit> {
    let id = lease_id(args, "lease revoke command needs 1 argument")?;
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            LeaseClient::new(connection).lease_revoke(LeaseRevokeRequest { id }).await
        })
        .await
        .map_err(|exit| Exit::new(FAILED, format!("failed to revoke lease ({})", exit.message)))?;
    session.show(&Answer::Revoke(id, &answer))
}

async fn time_to_live(session: &Session, args: &Positional, keys: bool) -> Result<(), Exit> {
    let id = lease_id(args, "lease timetolive command needs lease ID as argument")?;
    let answer = session
        .client
        .call(Effect::Reads, async |connection| {
            let mut client = LeaseClient::new(connection).max_decoding_message_size(usize::MAX);
            client.lease_time_to_live(LeaseTimeToLiveRequest { id, keys }).await
        })
        .await
        .map_err(|exit| Exit { code: BAD_CONNECTION, ..exit })?;
    session.show(&Answer::TimeToLive { answer: &answer, keys })
}

async fn list(session: &Session) -> Result<(), Exit> {
    let answer = session
        .client
        .call(Effect::Reads, async |connection| {
            let mut client = LeaseClient::new(connection).max_decoding_message_size(usize::MAX);
            client.lease_leases(LeaseLeasesRequest {}).await
        })
        .await
        .map_err(|exit| Exit { code: BAD_CONNECTION, ..exit })?;
    session.show(&Answer::Leases(&answer))
}

async fn renew(session: &Session, id: i64) -> Result<LeaseKeepAliveResponse, Exit> {
    session
        .client
        .call(Effect::Reads, async |connection| {
            let requests = futures::stream::iter([LeaseKeepAliveRequest { id }]);
            let mut answers =
                LeaseClient::new(connection).lease_keep_alive(requests).await?.into_inner();
            let answer = answers.message().await?;
            answer.map(tonic::Response::new).ok_or_else(|| {
                tonic::Status::unavailable("the server ended the stream without an answer")
            })
        })
        .await
        .map_err(|exit| Exit { code: BAD_CONNECTION, ..exit })
}

async fn keep_alive(session: &Session, args: &Positional, once: bool) -> Result<(), Exit> {
    let id = lease_id(args, "lease keep-alive command needs lease ID as argument")?;
    if once {
        let answer = renew(session, id).await?;
        if answer.ttl <= 0 {
            return Err(Exit::new(BAD_CONNECTION, "etcdserver: requested lease not found"));
        }
        return session.show(&Answer::KeepAlive(&answer));
    }
    let mut expires: Option<Instant> = None;
    loop {
        match renew(session, id).await {
            Ok(answer) if answer.ttl <= 0 => break,
            Ok(answer) => {
                session.show(&Answer::KeepAlive(&answer))?;
                let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
                expires = Some(Instant::now() + ttl);
                sleep(ttl / RENEWALS_PER_TTL).await;
            }
            // Without a server a lease lives until its end, and so does the attempt.
            Err(_) if expires.is_some_and(|expires| Instant::now() < expires) => {
                sleep(RETRY_PAUSE).await;
            }
            Err(exit) if expires.is_none() => return Err(exit),
            Err(_) => break,
        }
    }
    super::write(format!("lease {id:016x} expired or revoked.\n").as_bytes())
}
