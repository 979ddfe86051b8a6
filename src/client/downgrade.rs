//! Downgrades: checked, remembered by all members, and no more than that.
//!
//! The target is the name that member 0, which is nobody, has published: so it is replicated, in
//! snapshots and on disk without a format of its own. Nothing acts on it. Data of this program
//! are not those of an older etcd: going back means restoring into it through the client API.
//!
//! Source: etcd `DowngradeRequest`, observed on 3.5.1 (whose ENABLE and CANCEL take effect but
//! run into the request's time limit; these answer).

use tripod_raft::Answer;
use tripod_storage::{auth::Ask, command::Command};

use super::{Answered, Client, DowngradeRefused, Error, Header};

/// Stands for the cluster in the table of members; ids of members are never 0.
const CLUSTER: u64 = 0;

impl Client {
    /// Whether the cluster of version `from` may be downgraded to `target`.
    ///
    /// # Errors
    /// [`DowngradeRefused`], the availability errors.
    pub async fn downgrade_validate(&self, from: &str, target: &str) -> Answered<()> {
        check_target(from, target)?;
        self.permit(&Ask::Admin)?;
        self.port().read_index().await?;
        if self.downgrade_target().is_some() {
            return Err(DowngradeRefused::InProgress.into());
        }
        Ok((self.header_now(), ()))
    }

    /// Prepares a downgrade to `target`.
    ///
    /// # Errors
    /// As [`Client::downgrade_validate`].
    pub async fn downgrade_enable(&self, from: &str, target: &str) -> Answered<()> {
        self.downgrade_validate(from, target).await?;
        self.set_downgrade_target(target).await
    }

    /// Forgets a downgrade that was prepared.
    ///
    /// # Errors
    /// [`DowngradeRefused::NoneInProgress`], the availability errors.
    pub async fn downgrade_cancel(&self) -> Answered<()> {
        self.permit(&Ask::Admin)?;
        self.port().read_index().await?;
        if self.downgrade_target().is_none() {
            return Err(DowngradeRefused::NoneInProgress.into());
        }
        self.set_downgrade_target("").await
    }

    fn downgrade_target(&self) -> Option<String> {
        let machine = self.node().state().read();
        let target = machine.member_attributes(CLUSTER)?.name.clone();
        (!target.is_empty()).then_some(target)
    }

    async fn set_downgrade_target(&self, target: &str) -> Answered<()> {
        let (name, client_urls) = (target.to_owned(), Vec::new());
        let command = Command::MemberAttributes { member_id: CLUSTER, name, client_urls };
        // Attributes are the members' own business, whoever asked: no envelope.
        self.refuse_learner()?;
        let Answer { applied, term, .. } = self.port().propose(command).await?;
        applied.outcome?;
        Ok((Header { raft_term: term, ..self.header(applied.revision) }, ()))
    }
}

/// The target must be one minor version below.
fn check_target(from: &str, target: &str) -> Result<(), Error> {
    let target = minor_of(target).ok_or(DowngradeRefused::Format)?;
    let allowed = minor_of(from).and_then(|(major, minor)| Some((major, minor.checked_sub(1)?)));
    if Some(target) == allowed { Ok(()) } else { Err(DowngradeRefused::Target.into()) }
}

/// Major and minor number of `3.5` or `3.5.2`.
fn minor_of(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(|part| {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<u64>().ok()).flatten()
    });
    let (major, minor) = (numbers.next()??, numbers.next()??);
    match (numbers.next(), numbers.next()) {
        (None | Some(Some(_)), None) => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Verdicts of etcd 3.5.1 on the same distances.
    #[test]
    fn only_the_minor_version_below_is_a_target() {
        let cases = [
            ("3.5", Ok(())),
            ("3.5.9", Ok(())),
            ("3.6.0", Err(DowngradeRefused::Target)),
            ("3.4.0", Err(DowngradeRefused::Target)),
            ("3.7.0", Err(DowngradeRefused::Target)),
            ("4.5.0", Err(DowngradeRefused::Target)),
            ("", Err(DowngradeRefused::Format)),
            ("abc", Err(DowngradeRefused::Format)),
            ("v3.5.0", Err(DowngradeRefused::Format)),
            ("3", Err(DowngradeRefused::Format)),
            ("3.5.0.0", Err(DowngradeRefused::Format)),
            ("3.-5", Err(DowngradeRefused::Format)),
        ];
        for (target, want) in cases {
            let want = want.map_err(Error::from);
            assert_eq!(check_target("3.6.0", target), want, "{target}");
        }
    }
}
