//! Who a member is: derived at the first start, read back ever after.

use std::{fs, io::Write as _, path::Path};

use serde::{Deserialize, Serialize};

use super::StartError;
use crate::{
    client::Identity,
    config::{Config, Urls},
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
