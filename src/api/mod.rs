//! The client port: gRPC and HTTP+JSON translated to and from the in-process client.

pub mod connection;
mod convert;
pub mod descriptors;
pub mod error;
pub mod grpc;
pub mod h2;
pub mod http;
pub mod json;
pub mod outlet;
mod pace;
pub mod proto;
pub mod service;
pub mod v2;
mod websocket;
