//! Every RPC with every kind of caller. The list of RPCs comes from the compiled wire
//! definitions: one without a row here fails.

use std::collections::BTreeSet;

use prost::Message as _;
use tripod_storage::auth::Permission;

use super::*;
use crate::{
    Tripod,
    api::proto::{authpb, v3electionpb, v3lockpb},
};

/// What an RPC needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Nothing.
    Nothing,
    /// Any user.
    User,
    /// READ on the key.
    Read,
    /// WRITE on the key.
    Write,
    /// The role root.
    Root,
    /// To be the user `reader`, or root.
    Reader,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    BadToken,
    NoRole,
    Reader,
    Writer,
    Root,
    CertificateOfNoRole,
    CertificateOfReader,
    CertificateOfRoot,
    CertificateOfNobody,
    CertificateThroughGateway,
}

const EVERYBODY: [Who; 11] = [
    Who::Nobody,
    Who::BadToken,
    Who::NoRole,
    Who::Reader,
    Who::Writer,
    Who::CertificateOfNoRole,
    Who::CertificateOfReader,
    Who::CertificateOfNobody,
    Who::CertificateThroughGateway,
    // Root last: what it may do, it does.
    Who::CertificateOfRoot,
    Who::Root,
];

const KEY: &str = "k";
/// A call that has said nothing by then waits for something else than the decision.
const WAIT_MAX: Duration = Duration::from_secs(3);

fn expected(needs: Needs, who: Who) -> Result<(), Code> {
    let refused = match who {
        Who::Nobody | Who::CertificateThroughGateway => Err(Code::InvalidArgument),
        Who::BadToken => Err(Code::Unauthenticated),
        _ => Err(Code::PermissionDenied),
    };
    let is_known = refused == Err(Code::PermissionDenied) && who != Who::CertificateOfNobody;
    let is_root = matches!(who, Who::Root | Who::CertificateOfRoot);
    let is_reader = matches!(who, Who::Reader | Who::CertificateOfReader);
    let allowed = match needs {
        Needs::Nothing => true,
        Needs::User => is_known,
        Needs::Read | Needs::Reader => is_root || is_reader,
        Needs::Write => is_root || who == Who::Writer,
        Needs::Root => is_root,
    };
    if allowed { Ok(()) } else { refused }
}

type Row = (&'static str, Needs, Vec<u8>);

fn row(path: &'static str, needs: Needs, request: &impl prost::Message) -> Row {
    (path, needs, request.encode_to_vec())
}

fn key() -> Bytes {
    Bytes::from_static(KEY.as_bytes())
}

fn txn(op: pb::request_op::Request, nested: usize) -> pb::TxnRequest {
    let op = pb::RequestOp { request: Some(op) };
    let mut txn = pb::TxnRequest { failure: vec![op], ..Default::default() };
    for _ in 0..nested {
        let child = pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(txn)) };
        txn = pb::TxnRequest { success: vec![child], ..Default::default() };
    }
    txn
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn rows() -> Vec<Row> {
    use pb::request_op::Request;
    let range = pb::RangeRequest { key: key(), ..Default::default() };
    let put = pb::PutRequest { key: key(), ..Default::default() };
    let put_secret = pb::PutRequest { key: "secret".into(), ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: key(), ..Default::default() };
    let delete_prev = pb::DeleteRangeRequest { prev_kv: true, ..delete.clone() };
    let watch = |range_end: &'static [u8]| pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest {
                key: key(),
                range_end: Bytes::from_static(range_end),
                ..Default::default()
            },
        )),
    };
    let compare = pb::TxnRequest {
        compare: vec![pb::Compare { key: key(), ..Default::default() }],
        ..Default::default()
    };
    let campaign = v3electionpb::CampaignRequest { name: key(), lease: 7, value: key() };
    let leader = || v3electionpb::LeaderRequest { name: key() };
    let leader_key =
        || Some(v3electionpb::LeaderKey { name: key(), key: "k/7".into(), rev: 1, lease: 7 });
    let proclaim = v3electionpb::ProclaimRequest { leader: leader_key(), value: key() };
    let resign = v3electionpb::ResignRequest { leader: leader_key() };
    let alarm = |action| pb::AlarmRequest { action, member_id: 1, alarm: 2 };
    let urls = vec!["http://127.0.0.1:1".to_owned()];
    let name = || "unknown".to_owned();
    let change_password =
        pb::AuthUserChangePasswordRequest { name: name(), password: name(), ..Default::default() };
    // Health and the shape of the interface are nobody's secret. `list_services` is field 7.
    let services = || vec![7 << 3 | 2, 1, b'*'];
    vec![
        ("/grpc.health.v1.Health/Check", Needs::Nothing, vec![]),
        ("/grpc.health.v1.Health/Watch", Needs::Nothing, vec![]),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::Nothing, services()),
        (
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            Needs::Nothing,
            services(),
        ),
        row("/etcdserverpb.KV/Range", Needs::Read, &range),
        row("/etcdserverpb.KV/Put", Needs::Write, &put),
        row("/etcdserverpb.KV/Put", Needs::Root, &pb::PutRequest { prev_kv: true, ..put.clone() }),
        // The lease has a key on it that only root may write.
        row("/etcdserverpb.KV/Put", Needs::Root, &pb::PutRequest { lease: 7, ..put.clone() }),
        row("/etcdserverpb.KV/DeleteRange", Needs::Write, &delete),
        row("/etcdserverpb.KV/DeleteRange", Needs::Root, &delete_prev),
        row("/etcdserverpb.KV/Txn", Needs::User, &pb::TxnRequest::default()),
        row("/etcdserverpb.KV/Txn", Needs::Read, &compare),
        row("/etcdserverpb.KV/Txn", Needs::Read, &txn(Request::RequestRange(range.clone()), 0)),
        row("/etcdserverpb.KV/Txn", Needs::Read, &txn(Request::RequestRange(range), 3)),
        row("/etcdserverpb.KV/Txn", Needs::Write, &txn(Request::RequestPut(put), 3)),
        row("/etcdserverpb.KV/Txn", Needs::Root, &txn(Request::RequestPut(put_secret), 3)),
        row("/etcdserverpb.KV/Txn", Needs::Root, &txn(Request::RequestDeleteRange(delete_prev), 2)),
        row("/etcdserverpb.KV/Compact", Needs::Root, &pb::CompactionRequest::default()),
        row("/etcdserverpb.Watch/Watch", Needs::Read, &watch(b"")),
        row("/etcdserverpb.Watch/Watch", Needs::Root, &watch(b"\0")),
        row("/etcdserverpb.Lease/LeaseGrant", Needs::User, &pb::LeaseGrantRequest::default()),
        row("/etcdserverpb.Lease/LeaseRevoke", Needs::User, &pb::LeaseRevokeRequest { id: 8 }),
        row(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            Needs::Root,
            &pb::LeaseKeepAliveRequest { id: 7 },
        ),
        row(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            Needs::User,
            &pb::LeaseKeepAliveRequest { id: 8 },
        ),
        row(
            "/etcdserverpb.Lease/LeaseTimeToLive",
            Needs::Root,
            &pb::LeaseTimeToLiveRequest { id: 7, keys: true },
        ),
        row(
            "/etcdserverpb.Lease/LeaseTimeToLive",
            Needs::User,
            &pb::LeaseTimeToLiveRequest { id: 7, keys: false },
        ),
        row("/etcdserverpb.Lease/LeaseLeases", Needs::Root, &pb::LeaseLeasesRequest {}),
        row("/v3lockpb.Lock/Lock", Needs::Root, &v3lockpb::LockRequest { name: key(), lease: 7 }),
        row("/v3lockpb.Lock/Unlock", Needs::Root, &v3lockpb::UnlockRequest { key: "k/7".into() }),
        row("/v3electionpb.Election/Campaign", Needs::Root, &campaign),
        row("/v3electionpb.Election/Leader", Needs::Root, &leader()),
        row("/v3electionpb.Election/Observe", Needs::Root, &leader()),
        row("/v3electionpb.Election/Proclaim", Needs::Root, &proclaim),
        row("/v3electionpb.Election/Resign", Needs::Root, &resign),
        row("/etcdserverpb.Lease/LeaseRevoke", Needs::Root, &pb::LeaseRevokeRequest { id: 7 }),
        row(
            "/etcdserverpb.Cluster/MemberAdd",
            Needs::Root,
            &pb::MemberAddRequest { peer_ur_ls: urls.clone(), is_learner: true },
        ),
        row("/etcdserverpb.Cluster/MemberRemove", Needs::Root, &pb::MemberRemoveRequest { id: 1 }),
        row(
            "/etcdserverpb.Cluster/MemberUpdate",
            Needs::Root,
            &pb::MemberUpdateRequest { id: 1, peer_ur_ls: urls },
        ),
        row("/etcdserverpb.Cluster/MemberList", Needs::User, &pb::MemberListRequest::default()),
        row(
            "/etcdserverpb.Cluster/MemberPromote",
            Needs::Root,
            &pb::MemberPromoteRequest { id: 1 },
        ),
        row("/etcdserverpb.Maintenance/Alarm", Needs::User, &alarm(0)),
        row("/etcdserverpb.Maintenance/Alarm", Needs::Root, &alarm(2)),
        row(
            "/etcdserverpb.Maintenance/Alarm",
            Needs::Root,
            &pb::AlarmRequest { action: 1, ..Default::default() },
        ),
        row("/etcdserverpb.Maintenance/Status", Needs::User, &pb::StatusRequest {}),
        row("/etcdserverpb.Maintenance/Defragment", Needs::Root, &pb::DefragmentRequest {}),
        row("/etcdserverpb.Maintenance/Hash", Needs::Root, &pb::HashRequest {}),
        row("/etcdserverpb.Maintenance/HashKV", Needs::Root, &pb::HashKvRequest::default()),
        row("/etcdserverpb.Maintenance/Snapshot", Needs::Root, &pb::SnapshotRequest {}),
        row("/etcdserverpb.Maintenance/MoveLeader", Needs::Root, &pb::MoveLeaderRequest::default()),
        row(
            "/etcdserverpb.Maintenance/Downgrade",
            Needs::Root,
            &pb::DowngradeRequest { version: "3.5.0".into(), ..Default::default() },
        ),
        row("/etcdserverpb.Auth/AuthEnable", Needs::Root, &pb::AuthEnableRequest {}),
        row("/etcdserverpb.Auth/AuthStatus", Needs::Root, &pb::AuthStatusRequest {}),
        row(
            "/etcdserverpb.Auth/Authenticate",
            Needs::Nothing,
            &pb::AuthenticateRequest { name: "reader".into(), password: "pw".into() },
        ),
        row(
            "/etcdserverpb.Auth/UserAdd",
            Needs::Root,
            &pb::AuthUserAddRequest { name: "norole".into(), ..Default::default() },
        ),
        row("/etcdserverpb.Auth/UserGet", Needs::Root, &pb::AuthUserGetRequest { name: name() }),
        row(
            "/etcdserverpb.Auth/UserGet",
            Needs::Reader,
            &pb::AuthUserGetRequest { name: "reader".into() },
        ),
        row("/etcdserverpb.Auth/UserList", Needs::Root, &pb::AuthUserListRequest {}),
        row(
            "/etcdserverpb.Auth/UserDelete",
            Needs::Root,
            &pb::AuthUserDeleteRequest { name: name() },
        ),
        row("/etcdserverpb.Auth/UserChangePassword", Needs::Root, &change_password),
        row(
            "/etcdserverpb.Auth/UserChangePassword",
            Needs::Root,
            &pb::AuthUserChangePasswordRequest { name: name(), ..Default::default() },
        ),
        row(
            "/etcdserverpb.Auth/UserGrantRole",
            Needs::Root,
            &pb::AuthUserGrantRoleRequest::default(),
        ),
        row(
            "/etcdserverpb.Auth/UserRevokeRole",
            Needs::Root,
            &pb::AuthUserRevokeRoleRequest::default(),
        ),
        row("/etcdserverpb.Auth/RoleAdd", Needs::Root, &pb::AuthRoleAddRequest { name: name() }),
        row("/etcdserverpb.Auth/RoleGet", Needs::Root, &pb::AuthRoleGetRequest { role: name() }),
        row(
            "/etcdserverpb.Auth/RoleGet",
            Needs::Reader,
            &pb::AuthRoleGetRequest { role: "reader".into() },
        ),
        row("/etcdserverpb.Auth/RoleList", Needs::Root, &pb::AuthRoleListRequest {}),
        row(
            "/etcdserverpb.Auth/RoleDelete",
            Needs::Root,
            &pb::AuthRoleDeleteRequest { role: name() },
        ),
        row(
            "/etcdserverpb.Auth/RoleGrantPermission",
            Needs::Root,
            &pb::AuthRoleGrantPermissionRequest {
                name: name(),
                perm: Some(authpb::Permission { key: key(), ..Default::default() }),
            },
        ),
        row(
            "/etcdserverpb.Auth/RoleRevokePermission",
            Needs::Root,
            &pb::AuthRoleRevokePermissionRequest::default(),
        ),
        row("/etcdserverpb.Auth/AuthDisable", Needs::Root, &pb::AuthDisableRequest {}),
    ]
}

/// Paths of all RPCs that the wire definitions have.
fn compiled() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(crate::api::proto::DESCRIPTORS).unwrap();
    let mut paths = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let (service, method) = (service.name(), method.name());
                paths.insert(format!("/{}.{service}/{method}", file.package()));
            }
        }
    }
    paths
}

async fn store() -> Tripod {
    let store = Tripod::builder()
        .in_memory()
        .configure(|config| {
            config.bcrypt_cost = 4;
            config.client_transport_security.client_cert_auth = true;
        })
        .start()
        .await
        .unwrap();
    let system = store.client();
    for name in ["root", "norole", "reader", "writer"] {
        system.user_add(name, Some("pw")).await.unwrap();
    }
    system.user_grant_role("root", "root").await.unwrap();
    for (name, kind) in [("reader", 0), ("writer", 1)] {
        system.role_add(name).await.unwrap();
        let permission = Permission { kind, key: key(), range_end: Bytes::new() };
        system.role_grant_permission(name, Some(permission)).await.unwrap();
        system.user_grant_role(name, name).await.unwrap();
    }
    system.auth_enable().await.unwrap();
    store
}

fn rpc_of(store: &Tripod) -> Rpc {
    let options = Options {
        slow_request: Duration::MAX,
        watch_progress_interval: Duration::from_secs(600),
        watch_fragment_bytes: 1 << 20,
    };
    Rpc::new(store.client().clone(), options)
}

/// Credentials of everybody, freshly proven.
async fn everybody(store: &Tripod) -> Vec<(Who, CallContext)> {
    let mut all = Vec::new();
    let context = CallContext::default;
    for who in EVERYBODY {
        let token = |name: &'static str| async move {
            let token = store.client().authenticate(name, "pw").await.unwrap().1;
            CallContext { token: Some(token), ..CallContext::default() }
        };
        let certificate =
            |name: &str| CallContext { certificate_cn: Some(name.into()), ..context() };
        let context = match who {
            Who::Nobody => context(),
            Who::BadToken => CallContext { token: Some("bad.1".to_owned()), ..certificate("root") },
            Who::NoRole => token("norole").await,
            Who::Reader => token("reader").await,
            Who::Writer => token("writer").await,
            Who::Root => token("root").await,
            Who::CertificateOfNoRole => certificate("norole"),
            Who::CertificateOfReader => certificate("reader"),
            Who::CertificateOfRoot => certificate("root"),
            Who::CertificateOfNobody => certificate("nobody"),
            Who::CertificateThroughGateway => {
                CallContext { from_gateway: true, ..certificate("root") }
            }
        };
        all.push((who, context));
    }
    all
}

/// How a call ends: `Ok` where it got beyond the decision who may, however it went on.
async fn decided(
    rpc: &Rpc,
    path: &str,
    request: Vec<u8>,
    context: CallContext,
) -> Result<(), Code> {
    let status = match rpc.method(path) {
        None => return Err(Code::Unimplemented),
        Some(MethodKind::Unary) => rpc.unary(path, request.into(), context).await.err(),
        Some(MethodKind::Streaming) => {
            let (requests, from_client) = mpsc::channel(1);
            let (to_client, mut responses) = mpsc::channel(1);
            requests.send(request.into()).await.unwrap();
            let call = rpc.streaming(path, from_client, to_client, context);
            tokio::select! {
                end = call => end.err(),
                first = responses.recv() => canceled(path, first.unwrap_or_default()),
            }
        }
    };
    let Some(status) = status else { return Ok(()) };
    let is_refusal = [
        "etcdserver: user name is empty",
        "etcdserver: permission denied",
        "etcdserver: invalid auth token",
    ];
    if is_refusal.contains(&status.message.as_str()) { Err(status.code) } else { Ok(()) }
}

/// A watch is refused inside its stream.
fn canceled(path: &str, first: Bytes) -> Option<Status> {
    if path != "/etcdserverpb.Watch/Watch" {
        return None;
    }
    let answer = pb::WatchResponse::decode(first).unwrap();
    assert!(answer.created);
    if !answer.canceled {
        return None;
    }
    assert_eq!(answer.watch_id, -1);
    let reason = answer.cancel_reason;
    let message = reason.split("desc = ").nth(1).unwrap().to_owned();
    let code = match reason.split(' ').nth(4).unwrap() {
        "PermissionDenied" => Code::PermissionDenied,
        "InvalidArgument" => Code::InvalidArgument,
        "Unauthenticated" => Code::Unauthenticated,
        other => panic!("{other}"),
    };
    Some(Status::new(code, message))
}

/// CVE-2026-33413: `MemberList`, `Alarm`, `Compact` and those of leases were open to anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_is_decided_for_every_kind_of_caller() {
    let store = store().await;
    let rpc = rpc_of(&store);
    let rows = rows();
    let known: BTreeSet<String> = rows.iter().map(|row| row.0.to_owned()).collect();
    let missing: Vec<_> = compiled().difference(&known).cloned().collect();
    assert_eq!(missing, [""; 0], "decide who may call these RPCs, and add rows");
    let system = store.client();
    let mut wrong = Vec::new();
    for (path, needs, request) in rows {
        system.auth_enable().await.unwrap();
        let _ = system.lease_grant(7, 600).await;
        let secret =
            tripod_storage::command::Put { key: "secret".into(), lease: 7, ..Default::default() };
        let _ = system.put(secret).await;
        for (who, context) in everybody(&store).await {
            // The switch ends all tokens; certificates stay.
            if path.ends_with("/AuthDisable") {
                system.auth_enable().await.unwrap();
            }
            let context = match (who, context.token.is_some()) {
                (Who::Root, _) if path.ends_with("/AuthDisable") => {
                    let token = system.authenticate("root", "pw").await.unwrap().1;
                    CallContext { token: Some(token), ..CallContext::default() }
                }
                _ => context,
            };
            let want = if rpc.method(path).is_none() {
                Err(Code::Unimplemented)
            } else {
                expected(needs, who)
            };
            let call = decided(&rpc, path, request.clone(), context);
            // What waits for others, such as a lock, got beyond the decision.
            let got = tokio::time::timeout(WAIT_MAX, call).await.unwrap_or(Ok(()));
            // Locks and elections answer with one code for everything.
            let got =
                got.map_err(
                    |code| if code == Code::Unknown { want.err().unwrap_or(code) } else { code },
                );
            if got != want {
                wrong.push(format!("{path} ({needs:?}) by {who:?}: {got:?} instead of {want:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_authentication_nobody_is_asked_and_tokens_mean_nothing() {
    let store = store().await;
    let rpc = rpc_of(&store);
    store.client().auth_disable().await.unwrap();
    let range = pb::RangeRequest { key: key(), ..Default::default() }.encode_to_vec();
    for token in [None, Some("bad.1".to_owned()), Some(String::new())] {
        let context = CallContext { token, ..CallContext::default() };
        let decided = decided(&rpc, "/etcdserverpb.KV/Range", range.clone(), context).await;
        assert_eq!(decided, Ok(()));
    }
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_judged_anew_with_each_watcher_and_keeps_those_it_has() {
    let store = store().await;
    let rpc = rpc_of(&store);
    let system = store.client();
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest { key: key(), ..Default::default() },
        )),
    };
    let create = Bytes::from(create.encode_to_vec());
    let token = system.authenticate("reader", "pw").await.unwrap().1;
    let context = CallContext { token: Some(token), ..CallContext::default() };
    let (requests, from_client) = mpsc::channel(4);
    let (to_client, mut responses) = mpsc::channel(16);
    let call = rpc.streaming("/etcdserverpb.Watch/Watch", from_client, to_client, context);
    let client = async {
        let next = async |responses: &mut mpsc::Receiver<Bytes>| {
            pb::WatchResponse::decode(responses.recv().await.unwrap()).unwrap()
        };
        requests.send(create.clone()).await.unwrap();
        assert!(!next(&mut responses).await.canceled);
        // Users change: the revision that the stream began with is old, and does not matter.
        system.user_add("another", None).await.unwrap();
        requests.send(create.clone()).await.unwrap();
        assert!(!next(&mut responses).await.canceled, "the same user, asked anew");
        system.user_revoke_role("reader", "reader").await.unwrap();
        requests.send(create.clone()).await.unwrap();
        assert!(next(&mut responses).await.canceled);
        system.set("k", "v").await.unwrap();
        assert_eq!(
            next(&mut responses).await.events.len(),
            1,
            "the old watchers go on, as in etcd"
        );
    };
    tokio::select! {
        end = call => panic!("the stream ended: {end:?}"),
        () = client => {}
    }
    store.shutdown().await.unwrap();
}
