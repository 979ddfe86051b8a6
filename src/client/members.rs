//! Membership changes by typed calls.

use std::time::{SystemTime, UNIX_EPOCH};

use tripod_raft::Peer;
use tripod_storage::auth::Ask;

use super::{Answered, Client, Error, MemberInfo, error::MemberRefused};
use crate::{config::Urls, member_id};

impl Client {
    /// Adds a member that is then to be started: a learner, or a voter, which stays a learner
    /// until it has caught up, so that the quorum never depends on a member that does not run.
    /// Answers the new member and all members.
    ///
    /// # Errors
    /// [`MemberRefused`], the availability errors.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Answered<(MemberInfo, Vec<MemberInfo>)> {
        let peer = peer(peer_urls)?;
        self.permit(&Ask::Admin)?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let id = member_id::added_member_id(&peer.peer_urls, now_s);
        if is_learner {
            self.node().add_learner(id, peer).await?;
        } else {
            self.node().add_voter(id, peer).await?;
        }
        let members = self.members();
        let added = members.iter().find(|member| member.id == id).cloned().unwrap_or_default();
        Ok((self.header_now(), (added, members)))
    }

    /// Removes a member for ever.
    ///
    /// # Errors
    /// As [`Client::member_add`].
    pub async fn member_remove(&self, id: u64) -> Answered<Vec<MemberInfo>> {
        self.permit(&Ask::Admin)?;
        self.node().remove(id).await?;
        Ok((self.header_now(), self.members()))
    }

    /// Changes where a member is reached; the member keeps its vote or the lack of it.
    ///
    /// # Errors
    /// As [`Client::member_add`].
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Answered<Vec<MemberInfo>> {
        let peer = peer(peer_urls)?;
        self.permit(&Ask::Admin)?;
        self.node().update_urls(id, peer.peer_urls).await?;
        Ok((self.header_now(), self.members()))
    }

    /// Gives a learner that has caught up a vote.
    ///
    /// # Errors
    /// As [`Client::member_add`].
    pub async fn member_promote(&self, id: u64) -> Answered<Vec<MemberInfo>> {
        self.permit(&Ask::Admin)?;
        self.node().promote(id).await?;
        Ok((self.header_now(), self.members()))
    }
}

/// Checks peer URLs as etcd does.
fn peer(peer_urls: Vec<String>) -> Result<Peer, Error> {
    let urls: Urls = peer_urls.join(",").parse().map_err(|_| MemberRefused::BadUrls)?;
    if urls.texts().next().is_none() {
        return Err(MemberRefused::BadUrls.into());
    }
    Ok(Peer { peer_urls: urls.texts().map(str::to_owned).collect(), ..Peer::default() })
}
