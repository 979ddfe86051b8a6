//! Who a member is: derived or asked for at the first start, read back ever after.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{StartError, join::Joined};
use crate::{
    client::Identity,
    config::{Config, Urls},
    member_id,
};

const FILE: &str = "identity.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    cluster_id: u64,
    member_id: u64,
    /// It joined a running cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    joined: bool,
    /// Where its log lies, if not inside the member's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wal_dir: Option<PathBuf>,
}

/// A member's identity and how it came by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) identity: Identity,
    /// It joined: the leader tells it who the members are.
    pub(super) joined: bool,
}

/// Id of the initial member with these peer URLs.
pub(super) fn member_id_of(config: &Config, urls: &Urls) -> u64 {
    let urls: Vec<&str> = urls.texts().collect();
    member_id::initial_member_id(&urls, &config.initial_cluster_token)
}

/// The member has started here before.
pub(super) fn is_known(member_dir: &Path) -> bool {
    member_dir.join(FILE).exists()
}

/// The identity in `member_dir`; at the first start that of `joined` or of the configuration,
/// written down.
pub(super) fn load_or_make(
    config: &Config,
    member_dir: &Path,
    joined: Option<Joined>,
) -> Result<Loaded, StartError> {
    let path = member_dir.join(FILE);
    let io = |action: &str| {
        let action = format!("{action} {}", path.display());
        move |source| StartError::Io { action, source }
    };
    let wal_dir = config.separate_wal_dir().map(Path::to_owned);
    let stored = match fs::read(&path) {
        Ok(bytes) => {
            let stored: Stored = serde_json::from_slice(&bytes)
                .map_err(|error| io("read")(std::io::Error::other(error)))?;
            if stored.wal_dir != wal_dir {
                check_moved(member_dir, stored.wal_dir.as_deref(), wal_dir.as_deref())?;
                let moved = Stored { wal_dir, ..stored };
                write(&path, &moved).map_err(io("write"))?;
                moved
            } else {
                stored
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (cluster_id, member_id) = match joined {
                Some(Joined { cluster_id, member_id }) => (cluster_id, member_id),
                None => founded(config),
            };
            let stored = Stored { cluster_id, member_id, joined: joined.is_some(), wal_dir };
            write(&path, &stored).map_err(io("write"))?;
            stored
        }
        Err(error) => return Err(io("read")(error)),
    };
    let Stored { cluster_id, member_id, joined, .. } = stored;
    let identity = Identity { cluster_id, member_id, name: config.name.clone() };
    Ok(Loaded { identity, joined })
}

/// A member that finds an empty directory where its log should be would forget its votes.
fn check_moved(
    member_dir: &Path,
    old: Option<&Path>,
    new: Option<&Path>,
) -> Result<(), StartError> {
    let inside = member_dir.join("wal");
    let (old, new) = (old.unwrap_or(&inside), new.unwrap_or(&inside));
    let is_empty =
        |dir: &Path| fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    if is_empty(new) && !is_empty(old) {
        return Err(StartError::LogMoved { old: old.to_owned(), new: new.to_owned() });
    }
    Ok(())
}

/// Writes down the identity of a member of a restored cluster.
pub(super) fn write_restored(
    config: &Config,
    member_dir: &Path,
    cluster_id: u64,
) -> std::io::Result<Identity> {
    let (_, member_id) = founded(config);
    let wal_dir = config.separate_wal_dir().map(Path::to_owned);
    write(&member_dir.join(FILE), &Stored { cluster_id, member_id, joined: false, wal_dir })?;
    Ok(Identity { cluster_id, member_id, name: config.name.clone() })
}

/// Cluster and member id of an initial member.
pub(super) fn founded(config: &Config) -> (u64, u64) {
    let ids: Vec<u64> =
        config.initial_cluster.members().map(|(_, urls)| member_id_of(config, urls)).collect();
    let own = config.initial_cluster.peer_urls(&config.name);
    let own = member_id_of(config, own.unwrap_or(&config.initial_advertise_peer_urls));
    (member_id::cluster_id(&ids), own)
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

    fn config() -> Config {
        let mut config = Config::default();
        config.complete();
        config
    }

    #[test]
    fn a_member_that_joined_keeps_the_ids_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let joined = Joined { cluster_id: 5, member_id: 6 };
        let made = load_or_make(&config(), dir.path(), Some(joined)).unwrap();
        assert_eq!((made.identity.cluster_id, made.identity.member_id), (5, 6));
        assert!(made.joined && is_known(dir.path()));
        assert_eq!(load_or_make(&config(), dir.path(), None).unwrap(), made);
    }

    #[test]
    fn a_restart_keeps_its_identity_whatever_the_flags_say() {
        let dir = tempfile::tempdir().unwrap();
        let founded = load_or_make(&config(), dir.path(), None).unwrap();
        let mut other = config();
        other.initial_cluster_token = "another".to_owned();
        assert_eq!(load_or_make(&other, dir.path(), None).unwrap(), founded);
    }

    #[test]
    fn an_identity_of_an_earlier_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), r#"{"cluster_id":1,"member_id":2}"#).unwrap();
        let loaded = load_or_make(&config(), dir.path(), None).unwrap();
        assert_eq!((loaded.identity.member_id, loaded.joined), (2, false));
    }

    #[test]
    fn a_log_that_is_not_where_the_flag_says_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let member_dir = dir.path().join("member");
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir_all(&member_dir).unwrap();
        fs::create_dir_all(&old).unwrap();
        fs::write(old.join("segment"), "x").unwrap();
        let at = |wal: &Path| Config { wal_dir: wal.to_owned(), ..config() };
        let first = load_or_make(&at(&old), &member_dir, None).unwrap();
        for wrong in [at(&new), config()] {
            let refused = load_or_make(&wrong, &member_dir, None);
            assert!(matches!(refused, Err(StartError::LogMoved { .. })), "{refused:?}");
        }
        fs::rename(&old, &new).unwrap();
        assert_eq!(load_or_make(&at(&new), &member_dir, None).unwrap(), first, "moved with it");
        assert_eq!(load_or_make(&at(&new), &member_dir, None).unwrap(), first);
    }
}
