//! The first start of a member: is there a cluster already, and what is this member in it?
//!
//! A member that joins (`initial-cluster-state: existing`) takes its ids from the members that
//! run, and only if they list it and it has never run. A member that founds makes sure that the
//! cluster does not know it already: whoever lost a log with its votes must not come back under
//! the same id.
//!
//! [`place`] and [`refuse_known`] decide; asking is around them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::{
    net::lookup_host,
    time::{Instant, sleep, timeout},
};
use tripod_raft::{ClusterInfo, PeerTransport};

use super::{StartError, identity};
use crate::config::{ClusterState, Config, InitialCluster, Url, Urls};

/// A member that was just added may not be known everywhere yet.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest time the address of a host may take.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// Host names that are looked up.
const HOSTS_MAX: usize = 64;

/// Ids of a member that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
}

/// Why a first start is refused. The beginnings of the texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nobody answers.
    #[error(
        "could not retrieve cluster information from the given URLs: no member answers at \
         {urls} ({why}); name running members in --initial-cluster, or found a cluster with \
         --initial-cluster-state=new"
    )]
    Unreachable {
        /// Peer URLs that were asked.
        urls: String,
        /// What became of the questions.
        why: String,
    },
    /// The cluster does not list this member.
    #[error(
        "unmatched member while checking PeerURLs: {name} at {urls} is not in the cluster, \
         which has {cluster}; add it with 'member add {name} --peer-urls={urls}' before it starts"
    )]
    NotMember {
        /// Name of this member.
        name: String,
        /// Its peer URLs.
        urls: String,
        /// Who is in the cluster.
        cluster: String,
    },
    /// `--initial-cluster` is not the cluster.
    #[error(
        "member count is unequal: --initial-cluster has {given}, the cluster has {cluster}; \
         start with the list that 'member add' printed"
    )]
    OtherMembers {
        /// What was given.
        given: String,
        /// Who is in the cluster.
        cluster: String,
    },
    /// The running members disagree about their cluster.
    #[error(
        "the members at {urls} belong to different clusters ({first:x} and {second:x}); name \
         members of one cluster in --initial-cluster"
    )]
    TwoClusters {
        /// Peer URLs that were asked.
        urls: String,
        /// One cluster.
        first: u64,
        /// Another one.
        second: u64,
    },
    /// This member has run before, with data that is not here.
    #[error(
        "member {id:x} has already been bootstrapped and its data is not here: bring the data \
         directory back, or remove the member with 'member remove {id:x}' and add it again"
    )]
    Started {
        /// Its id.
        id: u64,
    },
    /// This member was removed.
    #[error(
        "member {id:x} was removed from the cluster: add it again, and start it with \
         --initial-cluster-state=existing"
    )]
    Removed {
        /// Its id.
        id: u64,
    },
}

/// What a first start needs to know of a running cluster: ids for a member that joins.
///
/// # Errors
/// [`JoinError`], or a configuration that does not fit itself.
pub(super) async fn first_start(
    config: &Config,
    transport: &dyn PeerTransport,
) -> Result<Option<Joined>, StartError> {
    config.validate_bootstrap()?;
    match config.initial_cluster_state {
        ClusterState::Existing => Ok(Some(join(config, transport).await?)),
        ClusterState::New => {
            let (cluster_id, member_id) = identity::founded(config);
            for info in ask_others(config, transport).await.infos {
                refuse_known(cluster_id, member_id, &info)?;
            }
            Ok(None)
        }
    }
}

async fn join(config: &Config, transport: &dyn PeerTransport) -> Result<Joined, JoinError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answers = ask_others(config, transport).await;
        let mut answer = place_by_any(config, &answers, &Addresses::default());
        if let Err(JoinError::NotMember { .. } | JoinError::OtherMembers { .. }) = answer {
            // The texts differ, which may be two names of one place.
            let addresses = Addresses::look_up(config, &answers.infos).await;
            answer = place_by_any(config, &answers, &addresses);
        }
        match answer {
            Err(JoinError::Started { .. } | JoinError::TwoClusters { .. }) => return answer,
            Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
            _ => return answer,
        }
    }
}

/// What the other members said.
#[derive(Debug, Default)]
struct Answers {
    infos: Vec<ClusterInfo>,
    /// Why others said nothing.
    failures: Vec<String>,
}

/// Asks all other members of the initial cluster at once.
async fn ask_others(config: &Config, transport: &dyn PeerTransport) -> Answers {
    let others = config.initial_cluster.members().filter(|(name, _)| *name != config.name);
    let ask = |(name, urls): (&str, &Urls)| {
        let (name, urls) = (name.to_owned(), urls.texts().map(str::to_owned).collect::<Vec<_>>());
        async move { (name, ClusterInfo::ask(transport, &urls).await) }
    };
    let mut answers = Answers::default();
    for (name, asked) in futures::future::join_all(others.map(ask)).await {
        match asked {
            Ok(info) if info.members.is_empty() => {
                answers.failures.push(format!("{name}: it has yet to hear of its cluster"));
            }
            Ok(info) => answers.infos.push(info),
            Err(error) => {
                tracing::debug!(name, %error, "a member does not say what its cluster is");
                answers.failures.push(format!("{name}: {error}"));
            }
        }
    }
    answers
}

/// The place that any of the answers gives; else the last answer's reason.
fn place_by_any(
    config: &Config,
    answers: &Answers,
    addresses: &Addresses,
) -> Result<Joined, JoinError> {
    let urls = || other_urls(config);
    let nobody = || {
        let why = match answers.failures.join("; ") {
            none if none.is_empty() => "there is nobody else to ask".to_owned(),
            failures => failures,
        };
        Err(JoinError::Unreachable { urls: urls(), why })
    };
    let Some(first) = answers.infos.first() else { return nobody() };
    if let Some(other) = answers.infos.iter().find(|info| info.cluster_id != first.cluster_id) {
        let (first, second) = (first.cluster_id, other.cluster_id);
        return Err(JoinError::TwoClusters { urls: urls(), first, second });
    }
    let mut answer = nobody();
    for info in &answers.infos {
        answer = place(&config.name, &config.initial_cluster, info, addresses);
        if answer.is_ok() {
            break;
        }
    }
    answer
}

/// Addresses of host names, so that two names of one place are the same peer URL, as in etcd.
#[derive(Debug, Default)]
struct Addresses(BTreeMap<String, IpAddr>);

impl Addresses {
    /// Asks for the addresses of all hosts in the initial cluster and the answers.
    async fn look_up(config: &Config, infos: &[ClusterInfo]) -> Self {
        let given = config.initial_cluster.members().flat_map(|(_, urls)| urls.iter().cloned());
        let listed = infos.iter().flat_map(|info| info.members.values());
        let listed = listed.flat_map(|member| &member.peer_urls).filter_map(|url| url.parse().ok());
        let hosts: BTreeSet<String> =
            given.chain(listed).map(|url: Url| url.host().to_owned()).collect();
        let names = hosts.into_iter().filter(|host| host.parse::<IpAddr>().is_err());
        let found = names.take(HOSTS_MAX).map(|host| async move {
            let found = timeout(LOOK_UP_TIMEOUT, lookup_host((host.as_str(), 0))).await;
            let mut found: Vec<IpAddr> = found.ok()?.ok()?.map(|address| address.ip()).collect();
            found.sort_unstable();
            let first = found.first().copied()?;
            Some((host, first))
        });
        Self(futures::future::join_all(found).await.into_iter().flatten().collect())
    }

    /// Two texts of one peer URL.
    fn same(&self, a: &str, b: &str) -> bool {
        let place = |text: &str| {
            let url: Url = text.parse().ok()?;
            let ip = url.host().parse().ok().or_else(|| self.0.get(url.host()).copied())?;
            Some((url.scheme(), ip, url.port()))
        };
        a == b || place(a).is_some_and(|a| place(b) == Some(a))
    }
}

fn other_urls(config: &Config) -> String {
    let others = config.initial_cluster.members().filter(|(name, _)| *name != config.name);
    let urls: Vec<&str> = others.flat_map(|(_, urls)| urls.texts()).collect();
    urls.join(",")
}

/// Finds the member `name` of `initial` in the cluster of `info`, by peer URLs.
fn place(
    name: &str,
    initial: &InitialCluster,
    info: &ClusterInfo,
    addresses: &Addresses,
) -> Result<Joined, JoinError> {
    let id_of = |urls: &Urls| {
        let same = |found: &[String]| {
            found.len() == urls.texts().count()
                && urls.texts().all(|url| found.iter().any(|other| addresses.same(other, url)))
        };
        info.members.iter().find(|(_, member)| same(&member.peer_urls)).map(|(id, _)| *id)
    };
    let own = initial.peer_urls(name).cloned().unwrap_or_default();
    let Some(id) = id_of(&own) else {
        let (name, urls) = (name.to_owned(), own.to_string());
        return Err(JoinError::NotMember { name, urls, cluster: listed(info) });
    };
    if info.members.len() != initial.len() || initial.members().any(|(_, m)| id_of(m).is_none()) {
        let given = initial.to_string();
        return Err(JoinError::OtherMembers { given, cluster: listed(info) });
    }
    match info.members.get(&id) {
        Some(member) if !member.name.is_empty() => Err(JoinError::Started { id }),
        _ => Ok(Joined { cluster_id: info.cluster_id, member_id: id }),
    }
}

/// Refuses to found what runs already with this member in it.
fn refuse_known(cluster_id: u64, member_id: u64, info: &ClusterInfo) -> Result<(), JoinError> {
    if info.cluster_id != cluster_id {
        return Ok(());
    }
    if info.removed.contains(&member_id) {
        return Err(JoinError::Removed { id: member_id });
    }
    match info.members.get(&member_id) {
        Some(member) if !member.name.is_empty() => Err(JoinError::Started { id: member_id }),
        _ => Ok(()),
    }
}

/// `name=url,url2=...` as in `--initial-cluster`.
fn listed(info: &ClusterInfo) -> String {
    let members = info.members.values().flat_map(|member| {
        let name = if member.name.is_empty() { "(not started)" } else { &member.name };
        member.peer_urls.iter().map(move |url| format!("{name}={url}"))
    });
    members.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use tripod_raft::ClusterMember;

    use super::*;

    fn info(members: &[(u64, &str, &str)]) -> ClusterInfo {
        let member = |&(id, name, url): &(u64, &str, &str)| {
            let member = ClusterMember {
                name: name.to_owned(),
                peer_urls: url.split(',').map(str::to_owned).collect(),
                is_learner: false,
            };
            (id, member)
        };
        ClusterInfo {
            cluster_id: 7,
            members: members.iter().map(member).collect(),
            removed: [9].into(),
        }
    }

    #[test]
    fn a_member_joins_only_a_cluster_that_lists_it_and_has_not_seen_it_run() {
        let running = info(&[(1, "a", "http://a:1"), (2, "", "http://b:1,http://b:2")]);
        let cases = [
            ("b", "a=http://a:1,b=http://b:2,b=http://b:1", ""),
            ("b", "a=http://a:1,b=http://b:1", "unmatched member while checking PeerURLs: b"),
            ("c", "a=http://a:1,c=http://c:1", "unmatched member while checking PeerURLs: c"),
            ("b", "b=http://b:2,b=http://b:1", "member count is unequal"),
            ("b", "x=http://x:1,b=http://b:2,b=http://b:1", "member count is unequal"),
            ("a", "a=http://a:1,b=http://b:2,b=http://b:1", "member 1 has already been boot"),
        ];
        for (name, initial, want) in cases {
            let initial = initial.parse().unwrap();
            let placed = place(name, &initial, &running, &Addresses::default());
            match placed {
                Ok(joined) => {
                    assert_eq!(
                        (joined.cluster_id, joined.member_id, want),
                        (7, 2, ""),
                        "{initial}"
                    );
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(!want.is_empty() && text.starts_with(want), "{initial}: {text}");
                }
            }
        }
    }

    #[tokio::test]
    async fn two_names_of_one_place_are_one_peer_url() {
        let running = info(&[(1, "a", "http://127.0.0.1:1"), (2, "", "http://localhost:2")]);
        let initial: InitialCluster = "a=http://localhost:1,b=http://127.0.0.1:2".parse().unwrap();
        let place = |addresses: &Addresses| place("b", &initial, &running, addresses);
        assert!(matches!(place(&Addresses::default()), Err(JoinError::NotMember { .. })));
        let config = Config { initial_cluster: initial.clone(), ..Config::default() };
        let addresses = Addresses::look_up(&config, std::slice::from_ref(&running)).await;
        assert_eq!(place(&addresses), Ok(Joined { cluster_id: 7, member_id: 2 }));
        for other in ["http://127.0.0.1:3", "https://127.0.0.1:2", "http://127.0.0.2:2"] {
            assert!(!addresses.same("http://localhost:2", other), "{other}");
        }
    }

    #[test]
    fn a_member_that_ran_or_was_removed_founds_nothing_anew() {
        let running = info(&[(1, "a", "http://a:1"), (2, "", "http://b:1")]);
        assert_eq!(refuse_known(7, 1, &running), Err(JoinError::Started { id: 1 }));
        assert_eq!(refuse_known(7, 9, &running), Err(JoinError::Removed { id: 9 }));
        assert_eq!(refuse_known(7, 2, &running), Ok(()), "slow to start for the first time");
        assert_eq!(refuse_known(8, 1, &running), Ok(()), "another cluster at an old address");
    }
}
