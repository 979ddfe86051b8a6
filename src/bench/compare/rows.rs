//! Which rows a comparison has, and how they are selected.

use std::{collections::BTreeMap, fmt, str::FromStr};

use clap::ValueEnum;
use serde::Serialize;

use crate::bench::plan::{Op, Protocol};

/// What a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RowOp {
    /// Writes per second.
    Put,
    /// Linearizable reads per second.
    Get,
    /// Serializable reads per second.
    Serializable,
    /// Transactions per second.
    Txn,
    /// Half reads, half writes per second.
    Mixed,
    /// Resident bytes after many writes.
    Memory,
    /// Server CPU per delivered event.
    Watch,
}

impl RowOp {
    /// The load of the row, if it is a row of requests per second.
    pub(super) fn load(self) -> Option<Op> {
        match self {
            Self::Put => Some(Op::Put),
            Self::Get => Some(Op::Get),
            Self::Serializable => Some(Op::Serializable),
            Self::Txn => Some(Op::Txn),
            Self::Mixed => Some(Op::Mixed),
            Self::Memory | Self::Watch => None,
        }
    }

    /// Unit of the row's value, and whether more is better.
    pub(super) fn unit(self) -> (&'static str, bool) {
        match self {
            Self::Memory => ("bytes", false),
            Self::Watch => ("us CPU per event", false),
            _ => ("per second", true),
        }
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Row {
    /// Members of the cluster.
    pub members: usize,
    /// Clients with one request in flight each; 0 where that is not what is measured.
    pub clients: usize,
    /// How requests travel.
    pub protocol: Protocol,
    /// What is measured.
    pub op: RowOp,
}

/// Rows measured on one start of a cluster, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) members: usize,
    pub(super) rows: Vec<Row>,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.rows.first() else { return Ok(()) };
        match first.op {
            RowOp::Memory => write!(f, "{} member(s), memory", self.members),
            RowOp::Watch => write!(f, "{} member(s), watch", self.members),
            _ => write!(f, "{} member(s), {} client(s)", self.members, first.clients),
        }
    }
}

/// Values each dimension takes. A dimension that is not named keeps its usual values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    members: Vec<usize>,
    clients: Vec<usize>,
    ops: Vec<RowOp>,
    protocols: Vec<Protocol>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            members: vec![1, 3],
            clients: vec![1, 64, 256, 1000],
            ops: vec![RowOp::Put, RowOp::Get, RowOp::Serializable, RowOp::Memory, RowOp::Watch],
            protocols: vec![Protocol::Grpc, Protocol::Http],
        }
    }
}

/// A selection that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot understand {0:?} in a selection; like members=1,clients=256,op=put,protocol=grpc")]
pub struct FilterError(String);

impl FromStr for Filter {
    type Err = FilterError;

    /// Reads `name=value` pairs separated by commas; a name given twice means either value.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| FilterError(pair.into()))?;
            named.entry(name.trim()).or_default().push(value.trim());
        }
        let mut filter = Self::default();
        for (name, values) in named {
            match name {
                "members" => filter.members = numbers(name, &values)?,
                "clients" => filter.clients = numbers(name, &values)?,
                "op" => filter.ops = words(name, &values)?,
                "protocol" => filter.protocols = words(name, &values)?,
                _ => return Err(FilterError(name.into())),
            }
        }
        Ok(filter)
    }
}

fn numbers(name: &str, values: &[&str]) -> Result<Vec<usize>, FilterError> {
    let number = |value: &&str| {
        let wrong = || FilterError(format!("{name}={value}"));
        value.parse().ok().filter(|&n: &usize| n > 0).ok_or_else(wrong)
    };
    values.iter().map(number).collect()
}

fn words<T: ValueEnum>(name: &str, values: &[&str]) -> Result<Vec<T>, FilterError> {
    let word =
        |value: &&str| T::from_str(value, true).map_err(|_| FilterError(format!("{name}={value}")));
    values.iter().map(word).collect()
}

/// The selected rows by start of a cluster: load rows with the same members and clients share one,
/// writes before reads; memory and watch rows, which exist for one member and gRPC, have their own.
pub(super) fn groups(filter: &Filter) -> Vec<Group> {
    let mut groups = vec![];
    for &members in &filter.members {
        for &clients in &filter.clients {
            let rows: Vec<Row> = filter
                .protocols
                .iter()
                .flat_map(|&protocol| {
                    let ops = filter.ops.iter().filter(|op| op.load().is_some());
                    ops.map(move |&op| Row { members, clients, protocol, op })
                })
                .collect();
            if !rows.is_empty() {
                groups.push(Group { members, rows });
            }
        }
    }
    let special = filter.ops.iter().filter(|op| op.load().is_none());
    if filter.members.contains(&1) && filter.protocols.contains(&Protocol::Grpc) {
        groups.extend(special.map(|&op| Group {
            members: 1,
            rows: vec![Row { members: 1, clients: 0, protocol: Protocol::Grpc, op }],
        }));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_forty_eight_load_rows_and_two_more() {
        let groups = groups(&Filter::default());
        assert_eq!(groups.len(), 2 * 4 + 2);
        assert_eq!(groups.iter().map(|g| g.rows.len()).sum::<usize>(), 48 + 2);
    }

    #[test]
    fn a_selection_names_single_rows() {
        let filter: Filter = "members=1, clients=256,op=put,protocol=grpc".parse().unwrap();
        let want = Row { members: 1, clients: 256, protocol: Protocol::Grpc, op: RowOp::Put };
        assert_eq!(groups(&filter), [Group { members: 1, rows: vec![want] }]);
        let filter: Filter = "op=put,op=get,clients=7,members=3".parse().unwrap();
        assert_eq!(groups(&filter)[0].rows.len(), 4);
        let filter: Filter = "op=memory".parse().unwrap();
        assert_eq!(groups(&filter).len(), 1);
        let filter: Filter = "op=memory,members=3".parse().unwrap();
        assert!(groups(&filter).is_empty());
    }

    #[test]
    fn a_selection_that_makes_no_sense_is_refused() {
        for text in ["members", "members=0", "members=x", "op=sing", "colour=red", "clients=-1"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }
}
