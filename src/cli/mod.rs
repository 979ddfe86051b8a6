//! Command line: clap types and the entry of each command.

pub mod bench;
