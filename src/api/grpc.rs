//! etcd's gRPC services over the in-process client: decode, call, encode. One file a service.
//!
//! [`Rpc`] is what every transport calls; the JSON gateway reaches the same methods by the same
//! paths.

mod auth;
#[cfg(test)]
mod auth_tests;
mod cluster;
mod election;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod reflection;
mod watch;
#[cfg(test)]
mod watch_tests;

use std::{cell::RefCell, rc::Rc, time::Instant};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use prost::Message;
use tokio::{sync::mpsc, time::Duration};
use tripod_raft::SlowSteps;

use super::{
    proto::etcdserverpb as pb,
    service::{CallContext, Code, MethodKind, Services, Status, Traffic},
};
use crate::{
    auth::Credentials,
    client::{Budgeted, Client, Header},
    metrics::calls::{Calls, ThreadCalls},
};
use tripod_storage::auth::Caller;

/// What the services need beyond the client.
#[derive(Clone, Debug)]
pub struct Options {
    /// etcd's `--watch-progress-notify-interval`.
    pub watch_progress_interval: Duration,
    /// Size from which a watch answer is split for clients that take fragments.
    pub watch_fragment_bytes: usize,
    /// etcd's `--warning-unary-request-duration`.
    pub slow_request: Duration,
}

/// The services of one front-end thread.
#[derive(Clone, Debug)]
pub struct Rpc {
    shared: Rc<Shared>,
}

#[derive(Clone, Debug)]
struct Shared {
    client: Client,
    options: Options,
    calls: ThreadCalls,
    slow: Rc<RefCell<SlowSteps>>,
}

impl Rpc {
    /// Services over `client`. A caller who has not said who he is acts for nobody.
    /// Nobody counts the calls.
    #[must_use]
    pub fn new(client: Client, options: Options) -> Self {
        let client = client.acting_for(Caller::Anonymous);
        let calls = Calls::new(false).thread();
        let slow = Rc::new(RefCell::new(SlowSteps::longer_than(options.slow_request)));
        Self { shared: Rc::new(Shared { client, options, calls, slow }) }
    }

    /// The same, counting its calls.
    #[must_use]
    pub fn counted(self, calls: ThreadCalls) -> Self {
        let shared = Shared { calls, ..(*self.shared).clone() };
        Self { shared: Rc::new(shared) }
    }

    /// The client under the services, which acts for nobody.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }
}

/// The whole table of methods. A method that is not here does not exist for any transport.
fn kind(path: &str) -> Option<MethodKind> {
    match path {
        "/etcdserverpb.KV/Range"
        | "/etcdserverpb.KV/Put"
        | "/etcdserverpb.KV/DeleteRange"
        | "/etcdserverpb.KV/Txn"
        | "/etcdserverpb.KV/Compact"
        | "/etcdserverpb.Lease/LeaseGrant"
        | "/etcdserverpb.Lease/LeaseRevoke"
        | "/etcdserverpb.Lease/LeaseTimeToLive"
        | "/etcdserverpb.Lease/LeaseLeases"
        | "/etcdserverpb.Cluster/MemberAdd"
        | "/etcdserverpb.Cluster/MemberRemove"
        | "/etcdserverpb.Cluster/MemberUpdate"
        | "/etcdserverpb.Cluster/MemberList"
        | "/etcdserverpb.Cluster/MemberPromote"
        | "/etcdserverpb.Maintenance/Alarm"
        | "/etcdserverpb.Maintenance/Status"
        | "/etcdserverpb.Maintenance/Hash"
        | "/etcdserverpb.Maintenance/HashKV"
        | "/etcdserverpb.Maintenance/Defragment"
        | "/etcdserverpb.Maintenance/MoveLeader"
        | "/etcdserverpb.Maintenance/Downgrade"
        | "/etcdserverpb.Auth/AuthEnable"
        | "/etcdserverpb.Auth/AuthDisable"
        | "/etcdserverpb.Auth/AuthStatus"
        | "/etcdserverpb.Auth/Authenticate"
        | "/etcdserverpb.Auth/UserAdd"
        | "/etcdserverpb.Auth/UserGet"
        | "/etcdserverpb.Auth/UserList"
        | "/etcdserverpb.Auth/UserDelete"
        | "/etcdserverpb.Auth/UserChangePassword"
        | "/etcdserverpb.Auth/UserGrantRole"
        | "/etcdserverpb.Auth/UserRevokeRole"
        | "/etcdserverpb.Auth/RoleAdd"
        | "/etcdserverpb.Auth/RoleGet"
        | "/etcdserverpb.Auth/RoleList"
        | "/etcdserverpb.Auth/RoleDelete"
        | "/etcdserverpb.Auth/RoleGrantPermission"
        | "/etcdserverpb.Auth/RoleRevokePermission"
        | "/v3lockpb.Lock/Lock"
        | "/v3lockpb.Lock/Unlock"
        | "/v3electionpb.Election/Campaign"
        | "/v3electionpb.Election/Proclaim"
        | "/v3electionpb.Election/Leader"
        | "/v3electionpb.Election/Resign"
        | "/grpc.health.v1.Health/Check" => Some(MethodKind::Unary),
        "/etcdserverpb.Watch/Watch"
        | "/etcdserverpb.Lease/LeaseKeepAlive"
        | "/etcdserverpb.Maintenance/Snapshot"
        | "/v3electionpb.Election/Observe"
        | "/grpc.health.v1.Health/Watch"
        | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
            Some(MethodKind::Streaming)
        }
        _ => None,
    }
}

impl Services for Rpc {
    fn method(&self, path: &str) -> Option<MethodKind> {
        kind(path)
    }

    fn unary(
        &self,
        path: &str,
        request: Bytes,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<Bytes, Status>> {
        let rpc = self.shared.clone();
        let method = rpc.calls.find(path);
        macro_rules! call {
            ($handler:path) => {
                call!($handler, decode)
            };
            ($handler:path, $decode:path) => {
                Box::pin(async move {
                    let (began, size) = (Instant::now(), request.len());
                    let running = rpc.calls.begin(method, context.timeout, began);
                    running.received(size);
                    let result = async {
                        rpc.require_leader(&context)?;
                        let acting = rpc.acting_for(&context).await;
                        let client = acting.as_deref().unwrap_or(&rpc.client);
                        let answer = $handler(client, $decode(request)?, size).await?;
                        Ok(answer.into_wire())
                    };
                    let result = result.await;
                    let took = rpc.note_time(stringify!($handler), size, &result, &context, began);
                    running.answered(&result, took);
                    result
                })
            };
        }
        match path {
            "/etcdserverpb.KV/Range" => call!(kv::range),
            "/etcdserverpb.KV/Put" => call!(kv::put),
            "/etcdserverpb.KV/DeleteRange" => call!(kv::delete_range),
            "/etcdserverpb.KV/Txn" => call!(kv::txn, kv::decode_txn),
            "/etcdserverpb.KV/Compact" => call!(kv::compact),
            "/etcdserverpb.Lease/LeaseGrant" => call!(lease::grant),
            "/etcdserverpb.Lease/LeaseRevoke" => call!(lease::revoke),
            "/etcdserverpb.Lease/LeaseTimeToLive" => call!(lease::time_to_live),
            "/etcdserverpb.Lease/LeaseLeases" => call!(lease::leases),
            "/etcdserverpb.Cluster/MemberAdd" => call!(cluster::add),
            "/etcdserverpb.Cluster/MemberRemove" => call!(cluster::remove),
            "/etcdserverpb.Cluster/MemberUpdate" => call!(cluster::update),
            "/etcdserverpb.Cluster/MemberList" => call!(cluster::list),
            "/etcdserverpb.Cluster/MemberPromote" => call!(cluster::promote),
            "/etcdserverpb.Maintenance/Alarm" => call!(maintenance::alarm),
            "/etcdserverpb.Maintenance/Status" => call!(maintenance::status),
            "/etcdserverpb.Maintenance/Hash" => call!(maintenance::hash),
            "/etcdserverpb.Maintenance/HashKV" => call!(maintenance::hash_kv),
            "/etcdserverpb.Maintenance/Defragment" => call!(maintenance::defragment),
            "/etcdserverpb.Maintenance/MoveLeader" => call!(maintenance::move_leader),
            "/etcdserverpb.Maintenance/Downgrade" => call!(maintenance::downgrade),
            "/v3lockpb.Lock/Lock" => call!(lock::lock),
            "/v3lockpb.Lock/Unlock" => call!(lock::unlock),
            "/v3electionpb.Election/Campaign" => call!(election::campaign),
            "/v3electionpb.Election/Proclaim" => call!(election::proclaim),
            "/v3electionpb.Election/Leader" => call!(election::leader),
            "/v3electionpb.Election/Resign" => call!(election::resign),
            "/etcdserverpb.Auth/AuthEnable" => call!(auth::enable),
            "/etcdserverpb.Auth/AuthDisable" => call!(auth::disable),
            "/etcdserverpb.Auth/AuthStatus" => call!(auth::status),
            "/etcdserverpb.Auth/Authenticate" => call!(auth::authenticate),
            "/etcdserverpb.Auth/UserAdd" => call!(auth::user_add),
            "/etcdserverpb.Auth/UserGet" => call!(auth::user_get),
            "/etcdserverpb.Auth/UserList" => call!(auth::user_list),
            "/etcdserverpb.Auth/UserDelete" => call!(auth::user_delete),
            "/etcdserverpb.Auth/UserChangePassword" => call!(auth::user_change_password),
            "/etcdserverpb.Auth/UserGrantRole" => call!(auth::user_grant_role),
            "/etcdserverpb.Auth/UserRevokeRole" => call!(auth::user_revoke_role),
            "/etcdserverpb.Auth/RoleAdd" => call!(auth::role_add),
            "/etcdserverpb.Auth/RoleGet" => call!(auth::role_get),
            "/etcdserverpb.Auth/RoleList" => call!(auth::role_list),
            "/etcdserverpb.Auth/RoleDelete" => call!(auth::role_delete),
            "/etcdserverpb.Auth/RoleGrantPermission" => call!(auth::role_grant_permission),
            "/etcdserverpb.Auth/RoleRevokePermission" => call!(auth::role_revoke_permission),
            "/grpc.health.v1.Health/Check" => call!(health::check),
            _ => Box::pin(std::future::ready(Err(unknown_method()))),
        }
    }

    fn traffic(&self, path: &str) -> Option<Traffic> {
        self.shared.calls.traffic(path)
    }

    fn streaming(
        &self,
        path: &str,
        requests: mpsc::Receiver<Bytes>,
        responses: mpsc::Sender<Bytes>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<(), Status>> {
        let rpc = self.shared.clone();
        let (method, timeout) = (rpc.calls.find(path), context.timeout);
        let call = self.stream(path, requests, responses, context);
        Box::pin(async move {
            let running = rpc.calls.begin(method, timeout, Instant::now());
            let result = call.await;
            running.ended(&result);
            result
        })
    }
}

impl Rpc {
    fn stream(
        &self,
        path: &str,
        requests: mpsc::Receiver<Bytes>,
        responses: mpsc::Sender<Bytes>,
        context: CallContext,
    ) -> LocalBoxFuture<'static, Result<(), Status>> {
        let rpc = self.shared.clone();
        if let Err(status) = rpc.require_leader(&context) {
            return Box::pin(std::future::ready(Err(status)));
        }
        match path {
            "/etcdserverpb.Watch/Watch" => Box::pin(watch::run(rpc, requests, responses, context)),
            "/etcdserverpb.Lease/LeaseKeepAlive" => {
                Box::pin(lease::keep_alive(rpc, requests, responses, context))
            }
            "/v3electionpb.Election/Observe" => {
                Box::pin(election::observe(rpc, requests, responses, context))
            }
            "/etcdserverpb.Maintenance/Snapshot" => {
                Box::pin(maintenance::snapshot(rpc, requests, responses, context))
            }
            "/grpc.health.v1.Health/Watch" => Box::pin(health::watch(rpc, requests, responses)),
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
                Box::pin(reflection::run(requests, responses))
            }
            _ => Box::pin(std::future::ready(Err(unknown_method()))),
        }
    }
}

impl Shared {
    /// How long a request took; says so where that is worth it. Neither keys nor values are named.
    fn note_time(
        &self,
        method: &'static str,
        request_bytes: usize,
        answer: &Result<Bytes, Status>,
        context: &CallContext,
        began: Instant,
    ) -> Duration {
        let now = Instant::now();
        let took = now.duration_since(began);
        let mut slow = self.slow.borrow_mut();
        let Some(unsaid) = slow.note(took, now) else { return took };
        tracing::warn!(
            method,
            time_spent = ?took,
            expected_duration = ?slow.limit(),
            remote = ?context.remote,
            request_size = request_bytes,
            response_size = answer.as_ref().map_or(0, Bytes::len),
            failed = answer.is_err(),
            unsaid,
            "request stats"
        );
        took
    }

    /// Who calls, decided anew for each request of a stream: a user's rights and revision
    /// change while it is open.
    async fn caller(&self, context: &CallContext) -> Caller {
        if !self.client.auth_enabled() {
            return Caller::Anonymous;
        }
        let credentials = Credentials {
            token: context.token.as_deref(),
            certificate_cn: context.certificate_cn.as_deref(),
            from_gateway: context.from_gateway,
        };
        self.client.caller_of(credentials).await
    }

    /// A client on behalf of the caller; `None` while authentication is off: the plain one does.
    /// Boxed, so that calls are no larger for it then.
    async fn acting_for(&self, context: &CallContext) -> Option<Box<Client>> {
        if !self.client.auth_enabled() {
            return None;
        }
        let caller = Box::pin(self.caller(context)).await;
        Some(Box::new(self.client.acting_for(caller)))
    }

    /// `hasleader` metadata: a call that wants a leader fails at once without one.
    fn require_leader(&self, context: &CallContext) -> Result<(), Status> {
        if context.require_leader && self.client.node().leader().is_none() {
            return Err(crate::client::Error::NoLeader.into());
        }
        Ok(())
    }
}

fn unknown_method() -> Status {
    Status::new(Code::Unimplemented, "unknown method")
}

fn decode<M: Message + Default>(request: Bytes) -> Result<M, Status> {
    M::decode(request).map_err(|error| undecodable(&error))
}

fn undecodable(error: &impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, format!("grpc: error unmarshalling request: {error}"))
}

/// What a handler answers, as bytes.
trait IntoWire {
    fn into_wire(self) -> Bytes;
}

impl<M: Message> IntoWire for M {
    fn into_wire(self) -> Bytes {
        encode(&self)
    }
}

/// The bytes of a long answer hold its share of the memory for such ones until they are sent.
impl<M: Message> IntoWire for Budgeted<M> {
    fn into_wire(self) -> Bytes {
        let encoded = encode(&self.answer);
        match self.share {
            Some(share) => share.around(encoded),
            None => encoded,
        }
    }
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// A header on the wire.
fn header(header: Header) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    })
}
