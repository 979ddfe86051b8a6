//! gRPC health checking and server reflection, by clients that know no definitions of ours.

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use prost_reflect::{DescriptorPool, prost_types::FileDescriptorProto};
use tokio_stream::StreamExt as _;
use tonic::{Code, transport::Channel};
use tripod::api::proto::{
    health::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    reflection::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
};

use super::PATIENCE;
use crate::support::cluster::{Cluster, Options};

async fn channel(url: String) -> Result<Channel> {
    Ok(Channel::from_shared(url)?.connect().await?)
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_leader() -> Result<()> {
    let mut cluster = Cluster::start(Options::candidate(3)?).await?;
    let mut client = HealthClient::new(channel(cluster.members[0].client_url()).await?);
    for service in ["", "etcdserverpb.KV", "grpc.health.v1.Health"] {
        let answer = client.check(of(service)).await?.into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let refused = client.check(of("no.such.Service")).await.expect_err("unknown");
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "unknown service"));
    let mut unknown = client.watch(of("no.such.Service")).await?.into_inner();
    let told = unknown.next().await.context("the watch ended")??;
    assert_eq!(told.status(), ServingStatus::ServiceUnknown);

    let mut watch = client.watch(of("etcdserverpb.KV")).await?.into_inner();
    let told = watch.next().await.context("the watch ended")??;
    assert_eq!(told.status(), ServingStatus::Serving);
    for member in &mut cluster.members[1..] {
        member.kill()?;
    }
    let told = tokio::time::timeout(PATIENCE, watch.next()).await?;
    assert_eq!(told.context("the watch ended")??.status(), ServingStatus::NotServing);
    let answer = client.check(of("")).await?.into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    cluster.restart_missing().await?;
    let told = tokio::time::timeout(PATIENCE, watch.next()).await?;
    assert_eq!(told.context("the watch ended")??.status(), ServingStatus::Serving);
    cluster.close()
}

/// Asks one question on a stream of its own.
async fn ask(
    client: &mut ServerReflectionClient<Channel>,
    question: MessageRequest,
) -> Result<MessageResponse> {
    let request = ServerReflectionRequest { host: "h".to_owned(), message_request: Some(question) };
    let requests = tokio_stream::iter([request.clone()]);
    let mut answers = client.server_reflection_info(requests).await?.into_inner();
    let answer = answers.next().await.context("no answer")??;
    ensure!(answer.original_request == Some(request), "another question was answered");
    ensure!(answers.next().await.is_none(), "two answers to one question");
    answer.message_response.context("an empty answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_describes_every_service_completely() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let mut client = ServerReflectionClient::new(channel(cluster.members[0].client_url()).await?);
    let list = ask(&mut client, MessageRequest::ListServices(String::new())).await?;
    let MessageResponse::ListServicesResponse(list) = list else { anyhow::bail!("{list:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in [
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "etcdserverpb.Lease",
        "etcdserverpb.Cluster",
        "etcdserverpb.Maintenance",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    for name in &names {
        let question = MessageRequest::FileContainingSymbol(name.clone());
        let answer = ask(&mut client, question).await?;
        let MessageResponse::FileDescriptorResponse(files) = answer else {
            anyhow::bail!("{name}: {answer:?}")
        };
        let decode = |file: &bytes::Bytes| FileDescriptorProto::decode(file.clone());
        let files: Result<Vec<_>, _> = files.file_descriptor_proto.iter().map(decode).collect();
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(files?)?;
        let service = pool.get_service_by_name(name).with_context(|| name.clone())?;
        assert!(service.methods().len() > 0, "{name}");
    }
    let file = ask(&mut client, MessageRequest::FileByFilename("rpc.proto".to_owned())).await?;
    assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{file:?}");
    for question in [
        MessageRequest::FileByFilename("nope.proto".to_owned()),
        MessageRequest::FileContainingSymbol("no.Such".to_owned()),
        MessageRequest::AllExtensionNumbersOfType("no.Such".to_owned()),
    ] {
        let answer = ask(&mut client, question).await?;
        let MessageResponse::ErrorResponse(error) = answer else { anyhow::bail!("{answer:?}") };
        assert_eq!(error.error_code, 5, "{}", error.error_message);
    }
    cluster.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_speaks_its_old_name_too() -> Result<()> {
    let cluster = Cluster::start(Options::candidate(1)?).await?;
    let mut client = tonic::client::Grpc::new(channel(cluster.members[0].client_url()).await?);
    client.ready().await?;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
    let codec = tonic_prost::ProstCodec::<
        ServerReflectionRequest,
        tripod::api::proto::reflection::ServerReflectionResponse,
    >::default();
    let requests = tonic::Request::new(tokio_stream::iter([request]));
    let answers = client.streaming(requests, path.parse()?, codec).await?;
    let answer = answers.into_inner().next().await.context("no answer")??;
    let list = answer.message_response.context("an empty answer")?;
    assert!(matches!(list, MessageResponse::ListServicesResponse(_)), "{list:?}");
    cluster.close()
}
