//! Tests against single servers, and checks of the sources themselves.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod checker;
mod differential;
mod examples;
mod fuzz;
mod lessons;
mod observe;
mod plain_http;
mod tidy;
mod tls;
mod websocket;
