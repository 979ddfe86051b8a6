//! What a member asks before it has an identity: which cluster runs at these peer URLs?
//!
//! The question is a greeting on a lane of its own, from member 0 of cluster 0; the answer is one
//! frame. It gives away no more than the member list does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tripod_storage::codec;

use crate::{
    transport::PeerTransport,
    types::NodeId,
    wire::{self, FrameReader, Hello, Lane, Status, WELCOME_BYTES, WIRE_VERSION, kind},
};

/// Longest time for question and answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A cluster as one of its members sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Its id.
    pub cluster_id: u64,
    /// Everybody in it.
    pub members: BTreeMap<NodeId, ClusterMember>,
    /// Ids that were in it once.
    pub removed: BTreeSet<NodeId>,
}

/// One member of a [`ClusterInfo`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMember {
    /// Name it has published; empty until it has run for the first time.
    pub name: String,
    /// Where it is reached.
    pub peer_urls: Vec<String>,
    /// It does not vote (yet).
    pub is_learner: bool,
}

/// A member that does not believe whoever asks says nothing at all.
fn hung_up(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::UnexpectedEof {
        return error;
    }
    let text = "it hung up without an answer: this member's certificate is not for a host of the \
                cluster's peer URLs, or what listens there is no member";
    io::Error::new(error.kind(), text)
}

impl ClusterInfo {
    /// Asks the member at `urls`.
    ///
    /// # Errors
    /// Nobody answers there, or no member does.
    pub async fn ask(transport: &dyn PeerTransport, urls: &[String]) -> io::Result<Self> {
        let asked = async {
            let mut stream = transport.connect(urls, Lane::Info).await?;
            let hello =
                Hello { version: WIRE_VERSION, lane: Lane::Info, cluster_id: 0, from: 0, to: 0 };
            stream.write_all(&hello.encode()).await?;
            stream.flush().await?;
            let mut welcome = [0; WELCOME_BYTES];
            stream.read_exact(&mut welcome).await.map_err(hung_up)?;
            let (status, id) = wire::decode_welcome(&welcome)?;
            if status != Status::Accepted {
                return Err(io::Error::other(format!("member {id:x} refused: {status:?}")));
            }
            let answer = FrameReader::new(stream).next().await?;
            let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
            if answer.kind != kind::REPLY {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer"));
            }
            codec::decode(&answer.body)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        };
        tokio::time::timeout(TIMEOUT, asked)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}
