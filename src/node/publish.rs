//! What a member tells the others at its start: its name and client URLs.

use std::time::Duration;

use tripod_storage::command::Command;

use super::{Member, StartError};
use crate::config::Config;

/// Pause between attempts to publish this member's name and client URLs.
const PUBLISH_RETRY: Duration = Duration::from_millis(200);

/// Replicates this member's name and client URLs; waits for a quorum for as long as it takes.
pub(super) async fn publish(member: &Member, config: &Config) -> Result<(), StartError> {
    let command = Command::MemberAttributes {
        member_id: member.client.identity().member_id,
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.texts().map(str::to_owned).collect(),
    };
    loop {
        match member.node.propose(command.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if member.node.is_stopped() => {
                tracing::error!(%error, "stopped before a quorum was there");
                let reason = member.failed.borrow().clone();
                return Err(reason.map_or(StartError::Stopped, StartError::Failed));
            }
            Err(error) => tracing::info!(%error, "waiting for a quorum of members"),
        }
        tokio::time::sleep(PUBLISH_RETRY).await;
    }
}
