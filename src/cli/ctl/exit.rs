//! How a command ends: etcdctl's exit codes and messages.

/// The request failed.
pub(super) const FAILED: u8 = 1;
/// No connection, or it broke.
pub(super) const BAD_CONNECTION: u8 = 2;
/// Input that cannot be read.
pub(super) const INVALID_INPUT: u8 = 3;
/// Something this output form or client does not have.
pub(super) const BAD_FEATURE: u8 = 4;
/// The server ended a stream.
pub(super) const INTERRUPTED: u8 = 5;
/// Wrong arguments.
pub(super) const BAD_ARGS: u8 = 128;

/// The end of a command that did not go well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    /// Exit code.
    pub(super) code: u8,
    /// What stands behind `Error: `; empty if everything has been said.
    pub(super) message: String,
}

impl Exit {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn args(message: impl Into<String>) -> Self {
        Self::new(BAD_ARGS, message)
    }

    /// Ends with a code and without another word.
    pub(super) fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// A request ran out of time.
    pub(super) fn deadline() -> Self {
        Self::new(FAILED, "context deadline exceeded")
    }
}

impl From<tonic::Status> for Exit {
    fn from(status: tonic::Status) -> Self {
        Self::new(FAILED, status_text(&status))
    }
}

/// A status as etcd's client prints it: etcd's own errors by their text, others with the code.
pub(super) fn status_text(status: &tonic::Status) -> String {
    let message = status.message();
    match status.code() {
        _ if message.starts_with("etcdserver: ") => message.to_owned(),
        tonic::Code::DeadlineExceeded => "context deadline exceeded".to_owned(),
        code => format!("rpc error: code = {code:?} desc = {message}"),
    }
}
