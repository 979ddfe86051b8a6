//! What a member does by itself now and then.

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{client::Client, compactor::Compactor, config::AutoCompaction};

/// Forgets history as configured while this member leads; returns when the member stops.
pub(super) async fn compact(client: Client, retention: AutoCompaction) {
    let started = Instant::now();
    let mut compactor = Compactor::new(retention, started.elapsed());
    let mut ticks = interval(compactor.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !client.node().is_stopped() {
        ticks.tick().await;
        let revision = client.header_now().revision;
        let Some(due) = compactor.tick(started.elapsed(), revision) else { continue };
        if !client.node().is_leader() {
            continue;
        }
        match client.compact(due.revision, false).await {
            Ok(_) => tracing::info!(revision = due.revision, "finished automatic compaction"),
            Err(error) => tracing::warn!(%error, "automatic compaction failed; trying again"),
        }
    }
}
