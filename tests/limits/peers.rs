//! The peer port: silent peers, giant frames, and no forwarding in circles.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tripod::api::proto::etcdserverpb as pb;

use crate::{
    support::{cluster::Options, wait},
    target::{Target, mib, resident_bytes},
};

/// Silent connections; a member serves 256 peer connections.
const SILENT: usize = 600;
/// Time for a greeting, and for that to be noticed.
const GREETING_MAX: Duration = Duration::from_secs(15);
/// Peers that announce a giant frame and send none of it.
const GIANTS: usize = 100;
/// The largest frame a member takes is a little above 8 MiB more than its largest batch; this is
/// below it.
const ANNOUNCED_BYTES: u32 = 8 << 20;
/// What all of them together may cost, in bytes; believing them would take 800 MiB.
const GIANT_BYTES_MAX: u64 = 128 << 20;
/// Time without a new entry of members that nobody asks anything: several times anything periodic.
const QUIET: Duration = Duration::from_secs(4);
/// Time until they are that quiet.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Lanes of peer connections.
const CONTROL: u8 = 1;
const FORWARD_LANE: u8 = 2;
/// A forwarded batch, and an answer.
const FORWARD: u8 = 5;
const REPLY: u8 = 128;
/// `ForwardReply::NotLeader`.
const NOT_LEADER: u8 = 1;

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 }
        })
    })
}

/// A connection that has greeted and was accepted.
fn greet(port: u16, lane: u8, cluster: u64, member: u64) -> Result<TcpStream> {
    let mut hello = b"TRIPODp\n".to_vec();
    hello.extend([1, 0, lane, 0]);
    for number in [cluster, 4_711, member] {
        hello.extend(number.to_le_bytes());
    }
    hello.extend(crc32c(&hello).to_le_bytes());
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(GREETING_MAX))?;
    stream.write_all(&hello)?;
    let mut welcome = [0; 24];
    stream.read_exact(&mut welcome).context("no welcome")?;
    ensure!(welcome.starts_with(b"TRIPODp\n"), "{welcome:?}");
    Ok(stream)
}

fn frame_header(length: u32, kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let mut checked = vec![kind];
    checked.extend(id.to_le_bytes());
    checked.extend(body);
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend(crc32c(&checked).to_le_bytes());
    frame.extend(checked);
    frame
}

fn identity(target: &Target, index: usize) -> Result<(u64, u64)> {
    let client = target.client_of(index, GREETING_MAX);
    let header = target.run(async { client.status().await?.header.context("header") })?;
    Ok((header.cluster_id, header.member_id))
}

/// Peers that say nothing are let go after their deadline, the ones above the limit at once, and
/// the cluster of the real ones does not notice.
#[test]
fn silent_peers_are_let_go() -> Result<()> {
    let target = Target::start(Options::candidate(3)?)?;
    let innocent = target.innocent();
    let files = target.files()?;
    let term = target.run(async { Ok(target.client().status().await?.raft_term) })?;
    let port = target.cluster.members[0].peer_port();
    let silent: Vec<_> =
        (0..SILENT).map(|_| TcpStream::connect(("127.0.0.1", port))).collect::<Result<_, _>>()?;
    let start = Instant::now();
    wait::eventually_blocking("silent peers are gone", GREETING_MAX, || {
        let open = target.files()?;
        ensure!(open < files + 20, "{open} files open, {files} before");
        Ok(())
    })?;
    eprintln!("limits: {SILENT} silent peers gone after {:.1?}", start.elapsed());
    drop(silent);
    let after = target.run(async { Ok(target.client().status().await?.raft_term) })?;
    ensure!(after == term, "the leader changed");
    target.judge(innocent, "silent peers")?;
    target.finish()
}

/// An announced length buys no memory (etcd 3.6.14: reads without bound on the peer port), and one
/// above the limit ends the connection at once.
#[test]
fn giant_frames_are_refused_or_cost_only_what_arrives() -> Result<()> {
    let target = Target::one(&[])?;
    let innocent = target.innocent();
    let port = target.cluster.members[0].peer_port();
    let (cluster, member) = identity(&target, 0)?;
    for length in [u32::MAX, u32::MAX / 2] {
        let mut stream = greet(port, CONTROL, cluster, member)?;
        stream.write_all(&frame_header(length, FORWARD, 1, b""))?;
        let closed = matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_));
        ensure!(closed, "a frame of {length} bytes was waited for");
    }
    let before = target.resident()?;
    let mut open = Vec::new();
    for _ in 0..GIANTS {
        let mut stream = greet(port, CONTROL, cluster, member)?;
        stream.write_all(&frame_header(ANNOUNCED_BYTES, FORWARD, 1, &[0; 1_000]))?;
        open.push(stream);
    }
    let client = target.client();
    target.run(async {
        client.put("after", "the announcements").await?;
        Ok(())
    })?;
    let grown = resident_bytes(target.cluster.members[0].pid()?)?.saturating_sub(before);
    eprintln!("limits: {GIANTS} announced frames of 8 MiB took {} MiB", mib(grown));
    ensure!(grown < GIANT_BYTES_MAX, "{} MiB", mib(grown));
    drop(open);
    target.judge(innocent, "giant frames")?;
    target.finish()
}

/// A follower that is sent a forwarded batch says that it does not lead; it never sends it on, so
/// two members that take each other for the leader cannot pass it in circles (CVE-2020-15114).
#[test]
fn a_forwarded_batch_goes_one_hop_and_no_further() -> Result<()> {
    let target = Target::start(Options::candidate(3)?)?;
    let leader = target.run(target.cluster.leader())?;
    let before = target.revision()?;
    for index in (0..3).filter(|index| *index != leader) {
        let (cluster, member) = identity(&target, index)?;
        let port = target.cluster.members[index].peer_port();
        let mut stream = greet(port, FORWARD_LANE, cluster, member)?;
        stream.write_all(&frame_header(3, FORWARD, 9, b"any"))?;
        let mut head = [0; 17];
        stream.read_exact(&mut head).context("no answer")?;
        ensure!(head[8] == REPLY && head[9] == 9, "{head:?}");
        let mut body = vec![0; u32::from_le_bytes(head[..4].try_into()?) as usize];
        stream.read_exact(&mut body)?;
        ensure!(body.first() == Some(&NOT_LEADER), "member {index} answers {body:?}");
    }
    ensure!(target.revision()? == before, "something was written");
    target.finish()
}

/// Members that nobody asks anything go on for ever without a new entry, a lease and a
/// key included (Consul CVE-2020-25201: replication that kept writing).
#[test]
fn members_left_alone_append_nothing() -> Result<()> {
    let target = Target::start(Options::candidate(3)?)?;
    let client = target.client();
    let (before, after) = target.run(async {
        let grant = pb::LeaseGrantRequest { ttl: 3_600, id: 7 };
        client.lease().lease_grant(grant).await?;
        client.put("k", "v").await?;
        // The last members publish their names soon after their start.
        let mut last = client.status().await?.raft_index;
        let deadline = Instant::now() + SETTLE_MAX;
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET {
            tokio::time::sleep(QUIET / 10).await;
            let index = client.status().await?.raft_index;
            if index != last {
                (last, quiet_since) = (index, Instant::now());
            }
            ensure!(Instant::now() < deadline, "entries are appended still, up to {index}");
        }
        client.put("k", "w").await?;
        Ok((last, client.status().await?.raft_index))
    })?;
    ensure!(after > before, "an index that stands still: {before}, {after}");
    ensure!(after < before + 10, "one put made {} entries", after - before);
    target.finish()
}
