//! Small replicated tables, and which of their rows the engine does not have yet.

use std::collections::{BTreeMap, BTreeSet};

use super::MemberAttributes;
use crate::{
    Error, LeaseId, Revision, codec,
    command::AlarmKind,
    keys::{self, corrupt},
    mvcc::NEVER_COMPACTED,
};

/// Rows of the engine to write (`None`: delete) with the next flush.
pub(super) type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Alarms and member attributes; the rows of the lease table and the compact revision pass
/// through here on their way to the engine.
#[derive(Debug, Default)]
pub(super) struct Tables {
    alarms: BTreeSet<(u64, AlarmKind)>,
    members: BTreeMap<u64, MemberAttributes>,
    dirty: Rows,
    dirty_bytes: u64,
}

impl Tables {
    /// Queues a row for the engine.
    pub(super) fn set(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) {
        self.dirty_bytes += (key.len() + row.as_ref().map_or(0, Vec::len)) as u64;
        self.dirty.insert(key, row);
    }

    /// Rows changed since the last call.
    pub(super) fn take_dirty(&mut self) -> Rows {
        self.dirty_bytes = 0;
        std::mem::take(&mut self.dirty)
    }

    /// About the bytes of changed rows.
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    pub(super) fn set_compact_revision(&mut self, revision: Revision) {
        self.set(keys::COMPACT_ROW.to_vec(), Some(revision.to_le_bytes().to_vec()));
    }

    pub(super) fn set_lease(&mut self, id: LeaseId, row: Option<Vec<u8>>) {
        self.set(keys::lease_key(id), row);
    }

    pub(super) fn set_member(&mut self, member_id: u64, attributes: MemberAttributes) {
        self.set(keys::member_key(member_id), Some(member_row(&attributes)));
        self.members.insert(member_id, attributes);
    }

    pub(super) fn member(&self, member_id: u64) -> Option<&MemberAttributes> {
        self.members.get(&member_id)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (u64, &MemberAttributes)> + '_ {
        self.members.iter().map(|(&id, attributes)| (id, attributes))
    }

    pub(super) fn raise(&mut self, member_id: u64, alarm: AlarmKind) {
        if self.alarms.insert((member_id, alarm)) {
            self.set(keys::alarm_key(member_id, alarm.number()), Some(Vec::new()));
        }
    }

    /// False where it was not raised.
    pub(super) fn clear(&mut self, member_id: u64, alarm: AlarmKind) -> bool {
        let was_raised = self.alarms.remove(&(member_id, alarm));
        if was_raised {
            self.set(keys::alarm_key(member_id, alarm.number()), None);
        }
        was_raised
    }

    pub(super) fn is_raised(&self, alarm: AlarmKind) -> bool {
        self.alarms.iter().any(|&(_, raised)| raised == alarm)
    }

    pub(super) fn alarms(&self) -> impl Iterator<Item = (u64, AlarmKind)> + '_ {
        self.alarms.iter().copied()
    }

    /// All rows, for a snapshot.
    pub(super) fn rows(&self, compact_revision: Revision) -> Vec<(Vec<u8>, Vec<u8>)> {
        let alarm = |&(member_id, alarm): &(u64, AlarmKind)| {
            (keys::alarm_key(member_id, alarm.number()), Vec::new())
        };
        let mut rows: Vec<_> = self.alarms.iter().map(alarm).collect();
        rows.extend(
            self.members.iter().map(|(&id, member)| (keys::member_key(id), member_row(member))),
        );
        if compact_revision > NEVER_COMPACTED {
            rows.push((keys::COMPACT_ROW.to_vec(), compact_revision.to_le_bytes().to_vec()));
        }
        rows
    }

    /// Takes a stored row of these tables in.
    pub(super) fn load(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let number = keys::u64_of_key(key)?;
        match key.first() {
            Some(&keys::ALARM) => {
                let alarm = key.get(9).copied().and_then(AlarmKind::of_number);
                let alarm = alarm.ok_or_else(|| corrupt("alarm row", "unknown alarm"))?;
                self.alarms.insert((number, alarm));
            }
            _ => {
                let (name, client_urls) = codec::decode(row).map_err(|error| {
                    corrupt(format!("attributes of member {number:x}"), error.to_string())
                })?;
                self.members.insert(number, MemberAttributes { name, client_urls });
            }
        }
        Ok(())
    }
}

fn member_row(attributes: &MemberAttributes) -> Vec<u8> {
    codec::encode(&(&attributes.name, &attributes.client_urls))
}
