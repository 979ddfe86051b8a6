//! How often this member did what, since it started. Not replicated, no part of the state.

/// Operations applied here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Puts, those in transactions included.
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Deletes of a key or range, those in transactions and of keys of ended leases included.
    pub deletes: u64,
    /// Ranges in transactions that were applied.
    pub ranges: u64,
    /// Commands of more than one operation.
    pub txns: u64,
    /// Leases granted.
    pub leases_granted: u64,
    /// Leases that ended, for whatever reason.
    pub leases_revoked: u64,
    /// Leases that ended because their time was over.
    pub leases_expired: u64,
}

impl Counts {
    /// Adds the operations of one command.
    pub(crate) fn add_command(&mut self, command: Self) {
        self.puts += command.puts;
        self.put_bytes += command.put_bytes;
        self.deletes += command.deletes;
        self.ranges += command.ranges;
        self.txns += u64::from(command.puts + command.deletes + command.ranges > 1);
    }
}
