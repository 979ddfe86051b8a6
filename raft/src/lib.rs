//! Consensus glue: openraft over `tripod-storage`. The only crate that names openraft.
