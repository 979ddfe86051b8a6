//! member: add, remove, update, list, promote; move-leader.

use super::{
    Session,
    args::{Format, Global, MemberCommand, Positional},
    client::{Client, Effect},
    exit::{BAD_FEATURE, Exit, FAILED},
    go,
    print::Answer,
};
use crate::{
    api::proto::etcdserverpb::{
        MemberAddRequest, MemberListRequest, MemberListResponse, MemberPromoteRequest,
        MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest, StatusRequest,
        cluster_client::ClusterClient, maintenance_client::MaintenanceClient,
    },
    config::Urls,
};

/// Runs one of the commands.
pub(super) async fn run(session: &Session, command: MemberCommand) -> Result<(), Exit> {
    match command {
        MemberCommand::Add { name, peer_urls, learner } => {
            add(session, &name, &peer_urls, learner).await
        }
        MemberCommand::Remove(args) => remove(session, &args).await,
        MemberCommand::Update { id, peer_urls } => update(session, &id, &peer_urls).await,
        MemberCommand::List(_) => {
            let answer = list(&session.client).await?;
            session.show(&Answer::MemberList(&answer))
        }
        MemberCommand::Promote(args) => promote(session, &args).await,
    }
}

/// All members, as the cluster agrees on them.
pub(super) async fn list(client: &Client) -> Result<MemberListResponse, Exit> {
    client
        .call(Effect::Reads, async |connection| {
            ClusterClient::new(connection)
                .member_list(MemberListRequest { linearizable: true })
                .await
        })
        .await
}

/// The only argument as a member id.
fn member_id(args: &Positional) -> Result<u64, Exit> {
    let [text] = args.args.as_slice() else { return Err(Exit::args("member ID is not provided")) };
    go::parse_uint(text, 16)
        .map_err(|error| Exit::args(format!("bad member ID arg ({error}), expecting ID in Hex")))
}

/// Peer URLs, checked before they go anywhere.
fn peer_urls(text: &str) -> Result<Vec<String>, Exit> {
    if text.is_empty() {
        return Err(Exit::args("member peer urls not provided"));
    }
    text.parse::<Urls>().map_err(|error| Exit::new(FAILED, error.to_string()))?;
    Ok(text.split(',').map(|url| url.trim().to_owned()).collect())
}

async fn add(session: &Session, name: &Positional, urls: &str, learner: bool) -> Result<(), Exit> {
    let [name] = name.args.as_slice() else {
        return Err(Exit::args("member name not provided"));
    };
    let request = MemberAddRequest { peer_ur_ls: peer_urls(urls)?, is_learner: learner };
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            ClusterClient::new(connection).member_add(request.clone()).await
        })
        .await?;
    session.show(&Answer::MemberAdd(&answer))?;
    if session.style.format != Format::Simple {
        return Ok(());
    }
    // The flags of the new member, ready to use.
    let new = answer.member.as_ref().map(|member| member.id).unwrap_or_default();
    let mut cluster = Vec::new();
    for member in &answer.members {
        let member_name = if member.id == new { name } else { &member.name };
        cluster.extend(member.peer_ur_ls.iter().map(|url| format!("{member_name}={url}")));
    }
    let quoted = |text: &str| go::quote(text.as_bytes());
    let text = format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quoted(name),
        quoted(&cluster.join(",")),
        quoted(urls)
    );
    super::write(text.as_bytes())
}

async fn remove(session: &Session, args: &Positional) -> Result<(), Exit> {
    let id = member_id(args)?;
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            ClusterClient::new(connection).member_remove(MemberRemoveRequest { id }).await
        })
        .await?;
    session.show(&Answer::MemberRemove(id, &answer))
}

async fn update(session: &Session, args: &Positional, urls: &str) -> Result<(), Exit> {
    let id = member_id(args)?;
    let request = MemberUpdateRequest { id, peer_ur_ls: peer_urls(urls)? };
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            ClusterClient::new(connection).member_update(request.clone()).await
        })
        .await?;
    session.show(&Answer::MemberUpdate(id, &answer))
}

async fn promote(session: &Session, args: &Positional) -> Result<(), Exit> {
    let id = member_id(args)?;
    let answer = session
        .client
        .call(Effect::Writes, async |connection| {
            ClusterClient::new(connection).member_promote(MemberPromoteRequest { id }).await
        })
        .await?;
    session.show(&Answer::MemberPromote(id, &answer))
}

/// Runs `move-leader`: only the leader can do it, so it has to be among the endpoints.
pub(super) async fn move_leader(
    session: &Session,
    global: &Global,
    args: &Positional,
) -> Result<(), Exit> {
    let [text] = args.args.as_slice() else {
        return Err(Exit::args("move-leader command needs 1 argument"));
    };
    let to = go::parse_uint(text, 16).map_err(|error| Exit::args(error.to_string()))?;
    for endpoint in &global.endpoints {
        let client = session.client.single(global, endpoint)?;
        let status = client
            .call(Effect::Reads, async |connection| {
                MaintenanceClient::new(connection).status(StatusRequest {}).await
            })
            .await?;
        let from = status.header.map(|header| header.member_id).unwrap_or_default();
        if from != status.leader {
            continue;
        }
        let request = MoveLeaderRequest { target_id: to };
        let answer = client
            .call(Effect::Writes, async |connection| {
                MaintenanceClient::new(connection).move_leader(request).await
            })
            .await?;
        return match session.style.format {
            Format::Table => Err(Exit::new(BAD_FEATURE, "table not supported as output format")),
            _ => session.show(&Answer::MoveLeader { from, to, answer: &answer }),
        };
    }
    Err(Exit::args(format!("no leader endpoint given at [{}]", global.endpoints.join(" "))))
}
