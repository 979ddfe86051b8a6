//! Who a member is: derived at the first start, read back ever after.

use std::{fs, io::Write as _, path::Path};

use serde::{Deserialize, Serialize};

use super::StartError;
use crate::{
    client::Identity,
    config::{ClusterState, Config, Urls},
    member_id,
};

const FILE: &str = "identity.json";

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    cluster_id: u64,
    member_id: u64,
}

/// Id of the initial member with these peer URLs.
pub(super) fn member_id_of(config: &Config, urls: &Urls) -> u64 {
    let urls: Vec<&str> = urls.texts().collect();
    member_id::initial_member_id(&urls, &config.initial_cluster_token)
}

/// The identity in `member_dir`; at the first start that of the configuration, written down.
pub(super) fn load_or_found(config: &Config, member_dir: &Path) -> Result<Identity, StartError> {
    let path = member_dir.join(FILE);
    let io = |action: &str| {
        let action = format!("{action} {}", path.display());
        move |source| StartError::Io { action, source }
    };
    let stored = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| io("read")(std::io::Error::other(error)))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Founding a second cluster of the same name would be far worse than a refusal.
            if config.initial_cluster_state == ClusterState::Existing {
                return Err(StartError::Unsupported(
                    "joining a running cluster (initial-cluster-state existing) is not in this \
                     version yet: found the cluster with all of its members, or restart this \
                     member with its data directory",
                ));
            }
            let stored = found(config);
            write(&path, &stored).map_err(io("write"))?;
            stored
        }
        Err(error) => return Err(io("read")(error)),
    };
    Ok(Identity {
        cluster_id: stored.cluster_id,
        member_id: stored.member_id,
        name: config.name.clone(),
    })
}

fn found(config: &Config) -> Stored {
    let ids: Vec<u64> =
        config.initial_cluster.members().map(|(_, urls)| member_id_of(config, urls)).collect();
    let own = config.initial_cluster.peer_urls(&config.name);
    Stored {
        cluster_id: member_id::cluster_id(&ids),
        member_id: member_id_of(config, own.unwrap_or(&config.initial_advertise_peer_urls)),
    }
}

/// Whole or not at all, and on disk before anything else of the member is.
fn write(path: &Path, stored: &Stored) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(stored)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(state: ClusterState) -> Config {
        let mut config = Config { initial_cluster_state: state, ..Config::default() };
        config.complete();
        config
    }

    #[test]
    fn a_first_start_that_would_join_is_refused_and_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let refused = load_or_found(&config(ClusterState::Existing), dir.path());
        assert!(matches!(refused, Err(StartError::Unsupported(_))));
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_restart_keeps_its_identity_whatever_the_flags_say() {
        let dir = tempfile::tempdir().unwrap();
        let founded = load_or_found(&config(ClusterState::New), dir.path()).unwrap();
        let mut other = config(ClusterState::Existing);
        other.initial_cluster_token = "another".to_owned();
        assert_eq!(load_or_found(&other, dir.path()).unwrap(), founded);
    }
}
