//! endpoint: status, health, hashkv; alarms; defrag. Each asks single servers, not the cluster.

use std::time::Instant;

use futures::future::join_all;

use super::{
    Session,
    args::{AlarmCommand, DefragArgs, EndpointArgs, EndpointCommand, Format, Global},
    client::{Client, Effect},
    exit::{BAD_FEATURE, Exit, FAILED},
    member,
    print::{Answer, EndpointHash, EndpointHealth, EndpointStatus},
};
use crate::api::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, HashKvRequest, RangeRequest,
    StatusRequest, alarm_request::AlarmAction, kv_client::KvClient,
    maintenance_client::MaintenanceClient,
};

/// Runs one of the commands.
pub(super) async fn run(
    session: &Session,
    global: &Global,
    args: EndpointArgs,
) -> Result<(), Exit> {
    let endpoints = endpoints(session, global, args.cluster).await?;
    match args.command {
        EndpointCommand::Status(_) => status(session, global, &endpoints).await,
        EndpointCommand::Health(_) => health(session, global, &endpoints).await,
        EndpointCommand::Hashkv { rev, .. } => hashes(session, global, &endpoints, rev).await,
    }
}

/// The endpoints given, or those of all members.
async fn endpoints(session: &Session, global: &Global, cluster: bool) -> Result<Vec<String>, Exit> {
    if !cluster {
        return Ok(global.endpoints.clone());
    }
    let members = member::list(&session.client).await.map_err(|exit| {
        let why = exit.message;
        let text = format!("failed to fetch endpoints from etcd cluster member list: {why}");
        Exit::new(FAILED, text)
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

async fn status(session: &Session, global: &Global, endpoints: &[String]) -> Result<(), Exit> {
    let mut list = Vec::new();
    let mut failed = false;
    for endpoint in endpoints {
        let client = session.client.single(global, endpoint)?;
        let answer = client
            .call(Effect::Reads, async |connection| {
                MaintenanceClient::new(connection).status(StatusRequest {}).await
            })
            .await;
        match answer {
            Ok(status) => list.push(EndpointStatus { endpoint: endpoint.clone(), status }),
            Err(exit) => {
                failed = true;
                eprintln!("Failed to get the status of endpoint {endpoint} ({})", exit.message);
            }
        }
    }
    session.show(&Answer::Status(&list))?;
    if failed { Err(Exit::silent(FAILED)) } else { Ok(()) }
}

async fn hashes(
    session: &Session,
    global: &Global,
    endpoints: &[String],
    revision: i64,
) -> Result<(), Exit> {
    let mut list = Vec::new();
    let mut failed = None;
    for endpoint in endpoints {
        let client = session.client.single(global, endpoint)?;
        let answer = client
            .call(Effect::Reads, async |connection| {
                MaintenanceClient::new(connection).hash_kv(HashKvRequest { revision }).await
            })
            .await;
        match answer {
            Ok(hash) => list.push(EndpointHash { endpoint: endpoint.clone(), hash }),
            Err(exit) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({})", exit.message);
                failed = Some(exit);
            }
        }
    }
    session.show(&Answer::Hashes(&list))?;
    failed.map_or(Ok(()), Err)
}

async fn health(session: &Session, global: &Global, endpoints: &[String]) -> Result<(), Exit> {
    let checks = endpoints.iter().map(async |endpoint| {
        let client = session.client.single(global, endpoint)?;
        let started = Instant::now();
        let error = check_health(&client).await.err().unwrap_or_default();
        Ok(EndpointHealth { endpoint: endpoint.clone(), took: started.elapsed(), error })
    });
    let list = join_all(checks).await.into_iter().collect::<Result<Vec<_>, Exit>>()?;
    session.show(&Answer::Health(&list))?;
    let unhealthy: Vec<_> = list.iter().filter(|health| !health.error.is_empty()).collect();
    if session.style.format == Format::Simple {
        for EndpointHealth { endpoint, error, .. } in &unhealthy {
            eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
        }
    }
    if unhealthy.is_empty() { Ok(()) } else { Err(Exit::new(FAILED, "unhealthy cluster")) }
}

/// Healthy is who answers a linearizable read and has no alarm.
async fn check_health(client: &Client) -> Result<(), String> {
    let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
    let read = client
        .call(Effect::Reads, async |connection| {
            KvClient::new(connection).range(request.clone()).await
        })
        .await;
    match read {
        Ok(_) => {}
        // Being refused by name takes a working cluster, too.
        Err(exit) if exit.message == "etcdserver: permission denied" => {}
        Err(exit) => return Err(exit.message),
    }
    let alarms = alarm(client, AlarmRequest::default())
        .await
        .map_err(|_| "Unable to fetch the alarm list".to_owned())?;
    if alarms.alarms.is_empty() {
        return Ok(());
    }
    let name = |alarm: i32| match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => "NOSPACE ",
        Ok(AlarmType::Corrupt) => "CORRUPT ",
        _ => "UNKNOWN ",
    };
    let names: String = alarms.alarms.iter().map(|alarm| name(alarm.alarm)).collect();
    Err(format!("Active Alarm(s): {names}"))
}

async fn alarm(client: &Client, request: AlarmRequest) -> Result<AlarmResponse, Exit> {
    let effect = if request.action() == AlarmAction::Get { Effect::Reads } else { Effect::Writes };
    client
        .call(effect, async |connection| MaintenanceClient::new(connection).alarm(request).await)
        .await
}

/// Runs `alarm`.
pub(super) async fn alarms(session: &Session, command: AlarmCommand) -> Result<(), Exit> {
    let (AlarmCommand::List(args) | AlarmCommand::Disarm(args)) = &command;
    if !args.args.is_empty() {
        let name = if matches!(command, AlarmCommand::List(_)) { "list" } else { "disarm" };
        return Err(Exit::args(format!("alarm {name} command accepts no arguments")));
    }
    let active = alarm(&session.client, AlarmRequest::default()).await?;
    if matches!(command, AlarmCommand::List(_)) {
        return session.show(&Answer::Alarms(&active));
    }
    let mut disarmed = AlarmResponse::default();
    for member in active.alarms {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: member.member_id,
            alarm: member.alarm,
        };
        disarmed.alarms.extend(alarm(&session.client, request).await?.alarms);
    }
    session.show(&Answer::Alarms(&disarmed))
}

/// Runs `defrag`.
pub(super) async fn defrag(
    session: &Session,
    global: &Global,
    args: DefragArgs,
) -> Result<(), Exit> {
    if !args.data_dir.is_empty() {
        let text = "a data directory not in use needs no defragmentation; start a member on it";
        return Err(Exit::new(BAD_FEATURE, text));
    }
    let mut failed = false;
    for endpoint in endpoints(session, global, args.cluster).await? {
        let client = session.client.single(global, &endpoint)?;
        let answer = client
            .call(Effect::Writes, async |connection| {
                MaintenanceClient::new(connection).defragment(DefragmentRequest {}).await
            })
            .await;
        match answer {
            Ok(_) => {
                let text = format!("Finished defragmenting etcd member[{endpoint}]\n");
                super::write(text.as_bytes())?;
            }
            Err(exit) => {
                failed = true;
                eprintln!("Failed to defragment etcd member[{endpoint}] ({})", exit.message);
            }
        }
    }
    if failed { Err(Exit::silent(FAILED)) } else { Ok(()) }
}
