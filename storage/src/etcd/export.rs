//! A live state as an etcd backend.

use std::{
    io::{Seek, Write},
    sync::Arc,
};

use super::{
    AuthTables, bucket,
    wire::{self, put_change, put_rev_key},
};
use crate::{
    Error, Revision,
    apply::{LeaseInfo, Mark, StateMachine},
    bbolt::{self, Writer},
    command::AlarmKind,
    history::{Block, next_rev},
    types::Rev,
};

/// A page of changes is closed once it has this many bytes.
const PAGE_BYTES_FULL: usize = 1 << 20;
/// Changes looked at for one page at most: bounds the time a reader holds the lock.
const PAGE_CHANGES_MAX: usize = 20_000;

/// What the file says about the cluster besides its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Raft term.
    pub term: u64,
    /// For example `3.5.0`.
    pub cluster_version: String,
    /// The members.
    pub members: Vec<BackupMember>,
}

/// One member in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupMember {
    /// Member id.
    pub id: u64,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// It has no vote.
    pub is_learner: bool,
}

/// Changes of one page, ready to be written: the key of each, then its value.
#[derive(Debug, Default)]
pub struct Page {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A consistent view of a state machine as of the call that made it. While it is alive,
/// compacted history is not pruned: finish or drop it soon.
#[derive(Debug)]
pub struct Backup {
    revision: Revision,
    compact_revision: Revision,
    index: u64,
    leases: Vec<LeaseInfo>,
    alarms: Vec<(u64, AlarmKind)>,
    names: Vec<(u64, String, Vec<String>)>,
    auth: AuthTables,
    from: Rev,
    pin: Arc<()>,
}

impl Backup {
    pub(crate) fn new(machine: &StateMachine, auth: AuthTables, pin: Arc<()>) -> Self {
        Self {
            revision: machine.revision(),
            compact_revision: machine.compact_revision(),
            index: machine.mark().map_or(0, |mark: &Mark| mark.index),
            leases: machine.leases(),
            alarms: machine.alarms(),
            names: machine.all_member_attributes(),
            auth,
            from: Rev::default(),
            pin,
        }
    }

    /// True where `machine` is the one the backup is from: an installed snapshot replaces it.
    #[must_use]
    pub fn is_of(&self, machine: &StateMachine) -> bool {
        machine.is_pinned_by(&self.pin)
    }

    /// Revision that the file will be of.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The next changes, about 1 MiB; `None` after the last. `machine` is the one the backup is
    /// from; it may change between calls.
    ///
    /// # Errors
    /// [`Error`]: the node must stop.
    pub fn next_page(&mut self, machine: &StateMachine) -> Result<Option<Page>, Error> {
        let mut page = Page::default();
        let (mut bytes, mut seen) = (0, 0);
        while bytes < PAGE_BYTES_FULL && seen < PAGE_CHANGES_MAX {
            let block = machine.history_block(self.from)?;
            let block = block.filter(|block| block.last() >= self.from);
            let Some(block) = block.filter(|block| block.first().main <= self.revision) else {
                let is_end = page.pairs.is_empty();
                return Ok(if is_end { None } else { Some(page) });
            };
            bytes += self.take(machine, &block, &mut page)?;
            seen += block.len();
            self.from = next_rev(block.last());
        }
        Ok(Some(page))
    }

    /// Adds what this view has of a block; the bytes added.
    fn take(&self, machine: &StateMachine, block: &Block, page: &mut Page) -> Result<usize, Error> {
        let mut bytes = 0;
        for at in block.position(self.from)..block.len() {
            let change = block.at(at)?;
            if change.rev.main > self.revision
                || machine.is_dropped(change.rev)
                || !machine.is_kept(&change, self.compact_revision)
            {
                continue;
            }
            let (mut key, mut value) = (Vec::with_capacity(18), Vec::new());
            put_rev_key(&mut key, change.rev, change.tombstone);
            value.reserve_exact(change.key.len() + change.value.len() + 48);
            put_change(&mut value, &change);
            bytes += key.len() + value.len();
            page.pairs.push((key, value));
        }
        Ok(bytes)
    }
}

/// Writes a [`Backup`] to a file: [`BackupWriter::begin`], every page, [`BackupWriter::finish`].
#[derive(Debug)]
pub struct BackupWriter<W> {
    writer: Writer<W>,
}

impl<W: Write + Seek> BackupWriter<W> {
    /// Writes what comes before the changes.
    ///
    /// # Errors
    /// [`bbolt::Error`], here and below: the file cannot be written.
    pub fn begin(out: W, backup: &Backup, about: &About) -> Result<Self, bbolt::Error> {
        let mut writer = Writer::new(out)?;
        writer.bucket(bucket::ALARM)?;
        let mut alarms: Vec<_> = backup
            .alarms
            .iter()
            .map(|&(member_id, alarm)| wire::alarm(member_id, alarm.number()))
            .collect();
        alarms.sort_unstable();
        for alarm in alarms {
            writer.put(&alarm, &[])?;
        }
        let auth = &backup.auth;
        writer.bucket(bucket::AUTH)?;
        if !auth.is_empty() || auth.revision > 0 {
            writer.put(b"authEnabled", &[u8::from(auth.enabled)])?;
            writer.put(b"authRevision", &auth.revision.to_be_bytes())?;
        }
        writer.bucket(bucket::AUTH_ROLES)?;
        for role in &auth.roles {
            writer.put(&role.name, &role.encode())?;
        }
        writer.bucket(bucket::AUTH_USERS)?;
        for user in &auth.users {
            writer.put(&user.name, &user.encode())?;
        }
        writer.bucket(bucket::CLUSTER)?;
        writer.put(b"clusterVersion", about.cluster_version.as_bytes())?;
        writer.bucket(bucket::KEY)?;
        Ok(Self { writer })
    }

    /// Writes a page of changes.
    ///
    /// # Errors
    /// As [`BackupWriter::begin`].
    pub fn page(&mut self, page: &Page) -> Result<(), bbolt::Error> {
        page.pairs.iter().try_for_each(|(key, value)| self.writer.put(key, value))
    }

    /// Writes the rest; the file and its bytes.
    ///
    /// # Errors
    /// As [`BackupWriter::begin`].
    pub fn finish(mut self, backup: &Backup, about: &About) -> Result<(W, u64), bbolt::Error> {
        let writer = &mut self.writer;
        writer.bucket(bucket::LEASE)?;
        // In order of their bytes: negative ids come last.
        let mut leases: Vec<&LeaseInfo> = backup.leases.iter().collect();
        leases.sort_unstable_by_key(|lease| lease.id.cast_unsigned());
        for lease in leases {
            let part = if lease.remaining_s < lease.ttl_s { lease.remaining_s } else { 0 };
            writer.put(&lease.id.to_be_bytes(), &wire::lease(lease.id, lease.ttl_s, part))?;
        }
        writer.bucket(bucket::MEMBERS)?;
        let mut members: Vec<&BackupMember> = about.members.iter().collect();
        members.sort_unstable_by_key(|member| member.id);
        for member in &members {
            let named = backup.names.iter().find(|(id, ..)| *id == member.id);
            writer.put(format!("{:016x}", member.id).as_bytes(), &member_json(member, named))?;
        }
        writer.bucket(bucket::MEMBERS_REMOVED)?;
        writer.bucket(bucket::META)?;
        writer.put(b"confState", &conf_state(&members))?;
        writer.put(b"consistent_index", &backup.index.to_be_bytes())?;
        if backup.compact_revision > 0 {
            let mut revision = Vec::new();
            put_rev_key(&mut revision, Rev { main: backup.compact_revision, sub: 0 }, false);
            writer.put(b"finishedCompactRev", &revision)?;
            writer.put(b"scheduledCompactRev", &revision)?;
        }
        writer.put(b"term", &about.term.to_be_bytes())?;
        self.writer.finish()
    }
}

fn member_json(member: &BackupMember, named: Option<&(u64, String, Vec<String>)>) -> Vec<u8> {
    let mut parts = vec![
        format!("\"id\":{}", member.id),
        format!("\"peerURLs\":{}", json_list(&member.peer_urls)),
    ];
    if member.is_learner {
        parts.push("\"isLearner\":true".to_owned());
    }
    if let Some((_, name, client_urls)) = named {
        if !name.is_empty() {
            parts.push(format!("\"name\":{}", json_text(name)));
        }
        if !client_urls.is_empty() {
            parts.push(format!("\"clientURLs\":{}", json_list(client_urls)));
        }
    }
    format!("{{{}}}", parts.join(",")).into_bytes()
}

fn conf_state(members: &[&BackupMember]) -> Vec<u8> {
    let ids = |learner: bool| {
        let ids = members.iter().filter(|member| member.is_learner == learner);
        ids.map(|member| member.id.to_string()).collect::<Vec<_>>().join(",")
    };
    let learners = ids(true);
    let learners =
        if learners.is_empty() { learners } else { format!("\"learners\":[{learners}],") };
    format!("{{\"voters\":[{}],{learners}\"auto_leave\":false}}", ids(false)).into_bytes()
}

fn json_list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| json_text(text)).collect::<Vec<_>>().join(","))
}

fn json_text(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
