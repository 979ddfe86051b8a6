//! Metrics of a member in the Prometheus text format, under etcd's names where the value has
//! etcd's meaning and as `tripod_*` where only we have it.
//!
//! Nothing is registered anywhere: counters live where things happen, and a scrape reads them.
//! Many members in one process are told apart that way. A metric that could only be filled with
//! something untrue is left out; `docs/metrics.md` lists all, and those that are missing.

pub mod calls;
mod families;
mod process;
mod reports;
mod text;

pub use self::{
    families::{HealthCounts, Source},
    text::CONTENT_TYPE,
};
