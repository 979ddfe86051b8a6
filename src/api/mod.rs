//! The client port: gRPC and HTTP+JSON translated to and from the in-process client.

pub mod connection;
pub mod error;
pub mod h2;
pub mod http;
pub mod json;
pub mod proto;
pub mod service;
