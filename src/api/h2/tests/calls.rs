//! Calls of an ordinary gRPC client.

use std::time::Duration;

use bytes::Bytes;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Code;

use super::{
    super::super::proto::etcdserverpb::{
        self as pb, kv_client::KvClient, lease_client::LeaseClient,
        maintenance_client::MaintenanceClient, watch_client::WatchClient,
    },
    *,
};

fn put(key: &'static str, value: impl Into<Bytes>) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

#[test]
fn unary_calls_answer_in_any_number_and_size() {
    with_server(Limits::default(), async |server| {
        let client = KvClient::new(server.channel().await);
        for size in [0, 1, 20_000, 300_000, 1_500_000] {
            let value = Bytes::from(vec![b'x'; size]);
            let answer = client.clone().put(put("echo", value.clone())).await.unwrap();
            assert_eq!(answer.into_inner().prev_kv.unwrap().value, value, "{size} bytes");
        }
        let calls = (0..300_u32).map(|n| {
            let mut client = client.clone();
            async move {
                let key = if n % 2 == 0 { "nap" } else { "echo" };
                let value = Bytes::copy_from_slice(&n.to_be_bytes());
                let answer = client.put(put(key, value.clone())).await.unwrap().into_inner();
                assert_eq!(answer.prev_kv.unwrap().value, value);
            }
        });
        futures::future::join_all(calls).await;
    });
}

#[test]
fn large_answers_go_out_under_flow_control() {
    with_server(Limits::default(), async |server| {
        let client = KvClient::new(server.channel().await).max_decoding_message_size(64 << 20);
        let calls = [10 << 20, 1, 3 << 20].map(|limit| {
            let mut client = client.clone();
            async move {
                let range = pb::RangeRequest { limit, ..Default::default() };
                let answer = client.range(range).await.unwrap().into_inner();
                assert_eq!(answer.kvs[0].value.len(), usize::try_from(limit).unwrap());
            }
        });
        futures::future::join_all(calls).await;
    });
}

#[test]
fn failures_carry_code_and_text() {
    with_server(Limits::default(), async |server| {
        let mut client = KvClient::new(server.channel().await);
        let status = client.put(put("fail", "")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "etcdserver: no leader: 100%");

        let status = client.put(put("big", vec![0; 2_200_000])).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let text = "grpc: received message larger than max (2200010 vs. 2097152)";
        assert_eq!(status.message(), text);

        let status = client.compact(pb::CompactionRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(status.message(), "unknown method Compact for service etcdserverpb.KV");

        // The connection is as good as before.
        client.put(put("echo", "")).await.unwrap();
    });
}

#[test]
fn a_cancelled_call_is_dropped() {
    with_server(Limits::default(), async |server| {
        let mut client = KvClient::new(server.channel().await);
        let services = &server.services;
        let call = tokio::task::spawn_local(async move { client.put(put("sleep", "")).await });
        eventually("call starts", || services.running.get() == 1).await;
        call.abort();
        eventually("call is dropped", || services.running.get() == 0).await;
    });
}

#[test]
fn streams_flow_both_ways_until_the_client_is_done() {
    with_server(Limits::default(), async |server| {
        let mut client = LeaseClient::new(server.channel().await);
        let (sender, requests) = tokio::sync::mpsc::channel(1);
        sender.send(pb::LeaseKeepAliveRequest { id: 1000 }).await.unwrap();
        let answers = client.lease_keep_alive(ReceiverStream::new(requests)).await.unwrap();
        let mut answers = answers.into_inner();
        for id in 1001..1050 {
            assert_eq!(answers.next().await.unwrap().unwrap().id, id - 1);
            sender.send(pb::LeaseKeepAliveRequest { id }).await.unwrap();
        }
        drop(sender);
        assert_eq!(answers.next().await.unwrap().unwrap().id, 1049);
        assert!(answers.next().await.is_none());
        eventually("service ends", || server.services.running.get() == 0).await;
    });
}

#[test]
fn a_stream_fails_with_or_without_answers_before() {
    with_server(Limits::default(), async |server| {
        for ids in [vec![13], vec![1, 2, 13]] {
            let mut client = LeaseClient::new(server.channel().await);
            let requests: Vec<_> = ids.iter().map(|&id| pb::LeaseKeepAliveRequest { id }).collect();
            let status = match client.lease_keep_alive(tokio_stream::iter(requests)).await {
                Err(status) => status,
                Ok(answers) => {
                    let mut answers = answers.into_inner();
                    loop {
                        match answers.next().await.unwrap() {
                            Ok(_) => {}
                            Err(status) => break status,
                        }
                    }
                }
            };
            assert_eq!(status.code(), Code::NotFound);
            assert_eq!(status.message(), "etcdserver: requested lease not found");
        }
    });
}

#[test]
fn an_unknown_stream_is_unimplemented() {
    with_server(Limits::default(), async |server| {
        let mut client = WatchClient::new(server.channel().await);
        let status = client.watch(tokio_stream::pending()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    });
}

#[test]
fn a_slow_reader_of_a_large_stream_stays_bounded() {
    with_server(Limits::default(), async |server| {
        let mut client = MaintenanceClient::new(server.channel().await);
        let answers = client.snapshot(pb::SnapshotRequest {}).await.unwrap();
        let mut answers = answers.into_inner();
        let sent = &server.services.sent;
        // The client grants its window and no more; the service must come to a stop.
        let mut before = usize::MAX;
        while before != sent.get() {
            before = sent.get();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(before < 100, "{before} chunks of {} are held", services::CHUNK_BYTES);
        let mut bytes = 0;
        while let Some(answer) = answers.next().await {
            bytes += answer.unwrap().blob.len();
        }
        assert_eq!(bytes, 160 * services::CHUNK_BYTES);
        assert_eq!(sent.get(), 160);
    });
}

#[test]
fn a_stream_whose_service_does_not_read_stops_the_client() {
    with_server(Limits::default(), async |server| {
        let mut client = LeaseClient::new(server.channel().await);
        let (sender, requests) = tokio::sync::mpsc::channel(1);
        let call = tokio::task::spawn_local(async move {
            client.lease_keep_alive(ReceiverStream::new(requests)).await.map(drop)
        });
        sender.send(pb::LeaseKeepAliveRequest { id: 99 }).await.unwrap();
        let flood = async {
            for n in 0_u64.. {
                sender.send(pb::LeaseKeepAliveRequest { id: i64::MAX }).await.unwrap();
                if n % 10_000 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err());
        assert_eq!(server.services.read.get(), 1);
        // Others are not stopped.
        let mut other = KvClient::new(server.channel().await);
        other.put(put("echo", "")).await.unwrap();
        call.abort();
        eventually("call is dropped", || server.services.running.get() == 0).await;
    });
}

#[test]
fn a_drain_finishes_running_calls_and_refuses_new_ones() {
    with_server(Limits::default(), async |server| {
        let mut client = KvClient::new(server.channel().await);
        client.put(put("echo", "")).await.unwrap();
        let mut running = client.clone();
        let nap = tokio::task::spawn_local(async move { running.put(put("nap", "")).await });
        eventually("call starts", || server.services.running.get() == 1).await;
        server.drain.begin();
        nap.await.unwrap().unwrap();
    });
}
