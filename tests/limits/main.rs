//! The limits of a member, each pushed to its bound and beyond: sizes, counts, depths, floods,
//! slow and silent clients, full disks. What is asserted each time: the flood is refused or
//! bounded, an innocent client is served meanwhile in bounded time, memory and open files stay
//! below a named bound, and nothing is lost that was acknowledged.
//!
//! Every size is a constant with two figures: the one that runs in CI, small enough for a debug
//! build on two cores, and the full one, with `TRIPOD_LIMITS=full`. Measured figures are printed.

#[path = "../support/mod.rs"]
mod support;

#[path = "../it/bad_input/frames.rs"]
#[allow(dead_code, reason = "the bad input tests use the rest")]
mod frames;

mod connections;
mod leases;
mod peers;
mod quota;
mod ranges;
mod requests;
mod slow;
mod target;
mod watchers;
