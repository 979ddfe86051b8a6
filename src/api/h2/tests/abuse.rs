//! Clients that mean harm, and what an innocent one notices of them.

use super::{
    super::frame::{self, FrameHead, kind},
    raw::{PUT, RawClient, call_head, put},
    *,
};

const CALM: u32 = frame::ErrorCode::EnhanceYourCalm as u32;

/// Sends `piece` again and again until the server ends the connection; returns why.
async fn flood(server: &Server, mut piece: impl FnMut(u32) -> Vec<u8>) -> Option<(u32, String)> {
    let mut client = RawClient::connect(server.address, &[]).await;
    for n in 0..200 {
        let pieces: Vec<u8> = (n * 200..(n + 1) * 200).flat_map(&mut piece).collect();
        if !client.try_send(&pieces).await {
            break;
        }
        tokio::task::yield_now().await;
    }
    client.goaway().await
}

#[test]
fn floods_end_with_a_goaway_and_disturb_nobody() {
    with_server(Limits::default(), async |server| {
        let mut innocent = RawClient::connect(server.address, &[]).await;
        let reset = |n: u32| {
            let stream = 2 * n + 1;
            let mut out = put(stream, "sleep");
            frame::put_reset(&mut out, stream, frame::ErrorCode::NoError);
            out
        };
        assert_eq!(flood(&server, reset).await, Some((CALM, "too_many_resets".to_owned())));
        assert_eq!(server.services.running.get(), 0);

        let settings = |_| {
            let mut out = Vec::new();
            frame::put_settings(&mut out, &[(frame::setting::INITIAL_WINDOW_SIZE, 1)]);
            out
        };
        assert_eq!(flood(&server, settings).await, Some((CALM, "too_many_frames".to_owned())));

        let ping = |_| {
            let mut out = Vec::new();
            frame::put_ping(&mut out, [1; 8], false);
            out
        };
        assert_eq!(flood(&server, ping).await, Some((CALM, "too_many_pings".to_owned())));

        let empty_data = |n| {
            let mut out = if n == 0 { call_head(1, PUT, &[], false) } else { Vec::new() };
            FrameHead { length: 0, kind: kind::DATA, flags: 0, stream: 1 }.put(&mut out);
            out
        };
        assert_eq!(flood(&server, empty_data).await, Some((CALM, "too_many_frames".to_owned())));

        let continuation = |n| {
            let kind = if n == 0 { kind::HEADERS } else { kind::CONTINUATION };
            let mut out = Vec::new();
            FrameHead { length: 1, kind, flags: 0, stream: 1 }.put(&mut out);
            out.push(0x82);
            out
        };
        let calm = flood(&server, continuation).await;
        assert_eq!(calm, Some((CALM, "header block too large".to_owned())));

        innocent.send(&put(1, "echo")).await;
        assert_eq!(innocent.grpc_status().await.unwrap().0, "0");
    });
}

#[test]
fn too_many_streams_are_refused() {
    let limits = Limits { streams_max: 10, ..Limits::default() };
    with_server(limits, async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        for n in 0..11 {
            client.send(&put(2 * n + 1, "sleep")).await;
        }
        let frame = client.frame_of(kind::RST_STREAM).await.unwrap();
        assert_eq!(frame.head.stream, 21);
        let refused = frame::ErrorCode::RefusedStream as u32;
        assert_eq!(frame::word(&frame.payload), Some(refused));
        assert_eq!(server.services.running.get(), 10);
    });
}

#[test]
fn unread_requests_are_bounded_over_all_streams() {
    let limits = Limits { request_bytes_max: 1 << 20, ..Limits::default() };
    with_server(limits, async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        for n in 0..30 {
            let stream = 2 * n + 1;
            let mut out = call_head(stream, PUT, &[], false);
            let length = 16_384;
            for part in 0..4 {
                FrameHead { length, kind: kind::DATA, flags: 0, stream }.put(&mut out);
                let start = out.len();
                out.resize(start + length, 0);
                if part == 0 {
                    // A message of a megabyte whose end never comes.
                    out[start..start + 5].copy_from_slice(&[0, 0, 0x10, 0, 0]);
                }
            }
            client.send(&out).await;
        }
        assert_eq!(client.grpc_status().await.unwrap().0, "8");
    });
}

#[test]
fn a_client_that_does_not_listen_stops_its_own_calls() {
    let limits = Limits { write_stall_timeout: Duration::from_millis(500), ..Limits::default() };
    with_server(limits, async |server| {
        let mut client = RawClient::connect(server.address, &[]).await;
        let mut window = Vec::new();
        frame::put_window_update(&mut window, 0, (1 << 31) - 1 - 65_535);
        frame::put_settings(&mut window, &[(frame::setting::INITIAL_WINDOW_SIZE, (1 << 31) - 1)]);
        client.send(&window).await;
        let range = super::super::super::proto::etcdserverpb::RangeRequest {
            limit: 1 << 20,
            ..Default::default()
        };
        let mut stream = 1;
        let many = async {
            loop {
                let mut out = call_head(stream, "/etcdserverpb.KV/Range", &[], false);
                out.extend_from_slice(&raw::message(stream, &range, true));
                stream += 2;
                if !client.try_send(&out).await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // The server gives up on us after a while without a byte taken.
        tokio::time::timeout(Duration::from_secs(20), many).await.unwrap();
        // 8 MiB may wait, and the socket's buffers hold some; the rest was never asked for.
        let asked = server.services.asked.get();
        assert!(asked < 32, "{asked} answers of 1 MiB for a client that reads nothing");
    });
}

#[test]
fn a_thread_full_of_unread_requests_refuses_the_holders_and_serves_the_small() {
    let limits = Limits { thread_request_bytes_max: 1 << 20, ..Limits::default() };
    with_server(limits, async |server| {
        let mut holders = Vec::new();
        let mut refused = false;
        for _ in 0..20 {
            let mut client = RawClient::connect(server.address, &[]).await;
            let mut out = call_head(1, PUT, &[], false);
            let length = 16_384;
            for part in 0..8 {
                FrameHead { length, kind: kind::DATA, flags: 0, stream: 1 }.put(&mut out);
                let start = out.len();
                out.resize(start + length, 0);
                if part == 0 {
                    out[start..start + 5].copy_from_slice(&[0, 0, 0x10, 0, 0]);
                }
            }
            client.send(&out).await;
            let answer = tokio::time::timeout(Duration::from_millis(50), client.grpc_status());
            refused |= answer.await.is_ok_and(|status| status.unwrap().0 == "8");
            holders.push(client);
        }
        assert!(refused);
        let mut innocent = RawClient::connect(server.address, &[]).await;
        innocent.send(&put(1, "echo")).await;
        assert_eq!(innocent.grpc_status().await.unwrap().0, "0");
    });
}
