//! The log of a member whose state was restored from a file.
//!
//! A restored cluster begins as if the first entry of its log, which every new cluster has, had
//! brought the restored state along with the membership. The log is cut behind that entry: a
//! member that joins later is sent the state, not the entry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tripod_storage::{apply::Mark, log::WalOptions};

use crate::{
    Config, Error, NodeId, Peer,
    fatal::Fatal,
    log_store::{Durable, LogStore},
    state_machine::AppliedState,
    types::{Membership, log_id},
};

/// Makes the log of one member of a new cluster of `members`, all of them voters, and returns the
/// mark that its restored state must bear. Every member is made with the same map.
///
/// # Errors
/// [`Error`]: there is a log already, or it cannot be written.
pub fn found_restored(config: &Config, members: BTreeMap<NodeId, Peer>) -> Result<Mark, Error> {
    let voters: BTreeSet<NodeId> = members.keys().copied().collect();
    let membership = Membership::new(vec![voters], members)
        .map_err(|error| Error::Bootstrap(error.to_string()))?;
    let wal = WalOptions { segment_bytes: config.wal_segment_bytes };
    // Failures come back to the caller; there is no member to be stopped.
    let fatal = Fatal::new(Arc::new(|_: &str| {}));
    let dir = config.wal_dir();
    let log = LogStore::open(&dir, wal, config.log_cache_bytes, Durable::default(), fatal)?;
    log.claim(config.cluster_id, config.node_id)?;
    // Where openraft puts the membership of a cluster that is initialized.
    let founding = log_id(0, 0);
    log.begin_behind(founding)?;
    log.close();
    Ok(AppliedState::founding(founding, membership))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_founded_once_and_says_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(1, 9, dir.path().to_owned());
        let members = BTreeMap::from([(1, Peer::at("http://a:1")), (2, Peer::at("http://b:1"))]);
        let mark = found_restored(&config, members.clone()).unwrap();
        let applied = AppliedState::from_mark(Some(&mark)).unwrap();
        assert_eq!(applied.log_id, Some(log_id(0, 0)));
        assert_eq!(applied.membership.voter_ids().collect::<Vec<_>>(), [1, 2]);
        assert!(found_restored(&config, members.clone()).is_err(), "a second time");
        let other = Config::new(2, 9, dir.path().to_owned());
        assert!(found_restored(&other, members).is_err(), "another member");
    }
}
