//! Where the leader is, as the consensus thread's tasks need it.

use tokio::sync::watch;

use crate::types::{NodeId, Peer};

/// The leader as this member knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Route {
    /// No leader is known.
    #[default]
    None,
    /// This member leads.
    Here,
    /// Another member leads.
    There(NodeId, Peer),
}

pub(crate) type Routes = watch::Receiver<Route>;
