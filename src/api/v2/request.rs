//! What a request to a key asks for: a pure function of method, path and form.

use bytes::Bytes;
use hyper::Method;
use tripod_storage::v2::{Condition, Error, ErrorCode, Op, path};

use crate::{api::http::form::Form, client::v2::V2Write};

/// A request to a key.
#[derive(Debug)]
pub(super) enum Ask {
    /// Read.
    Get { key: Bytes, recursive: bool, quorum: bool },
    /// Wait for events.
    Wait { key: Bytes, recursive: bool, stream: bool, index: u64 },
    /// Change.
    Write {
        write: V2Write,
        /// Leave the nodes out of the answer.
        bare: bool,
    },
}

/// Reads a request. The checks come in etcd's order.
///
/// # Errors
/// Errors with index 0.
pub(super) fn parse(method: &Method, key: &[u8], form: &Form) -> Result<Ask, Error> {
    let key = path::clean(key);
    let prev_index = number(form, "prevIndex")?;
    let wait_index = number(form, "waitIndex")?;
    let recursive = flag(form, "recursive")?;
    let _sorted = flag(form, "sorted")?; // listings always are
    let wait = flag(form, "wait")?;
    let dir = flag(form, "dir")?;
    let quorum = flag(form, "quorum")?;
    let stream = flag(form, "stream")?;
    if wait && method != Method::GET {
        let cause = "\"wait\" can only be used with GET requests";
        return Err(Error::of_request(ErrorCode::InvalidField, cause));
    }
    let prev_value = form.value("prevValue");
    if form.first("prevValue").is_some() && prev_value.is_empty() {
        let cause = "\"prevValue\" cannot be empty";
        return Err(Error::of_request(ErrorCode::PrevValueRequired, cause));
    }
    let bare = flag(form, "noValueOnSuccess")?;
    let ttl_s = match form.first("ttl") {
        None | Some(b"") => None,
        Some(text) => Some(unsigned(text).ok_or_else(|| {
            Error::of_request(ErrorCode::TtlNotANumber, "invalid value for \"ttl\"")
        })?),
    };
    let prev_exist = option(form, "prevExist")?;
    let refresh = option(form, "refresh")?.unwrap_or(false);
    let value = form.value("value");
    if refresh {
        if !value.is_empty() {
            let cause = "A value was provided on a refresh";
            return Err(Error::of_request(ErrorCode::RefreshValue, cause));
        }
        if ttl_s.is_none() {
            let cause = "No TTL value set";
            return Err(Error::of_request(ErrorCode::RefreshTtlRequired, cause));
        }
    }
    let condition = Condition { value: prev_value, index: prev_index };
    let has_condition = condition != Condition::default();
    let op = match *method {
        Method::PUT => match prev_exist {
            Some(false) => Op::Create { dir, value, unique: false },
            _ if has_condition => Op::CompareAndSwap { value, condition },
            Some(true) => Op::Update { value },
            None => Op::Set { dir, value },
        },
        Method::POST => Op::Create { dir, value, unique: true },
        Method::DELETE if has_condition => Op::CompareAndDelete { condition },
        Method::DELETE => Op::Delete { dir, recursive },
        // A quorum read is one, whatever else it asks for.
        _ if wait && !quorum => return Ok(Ask::Wait { key, recursive, stream, index: wait_index }),
        _ => return Ok(Ask::Get { key, recursive, quorum: quorum && method == Method::GET }),
    };
    Ok(Ask::Write { write: V2Write { key, op, ttl_s, refresh }, bare })
}

fn unsigned(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// A number; 0 where there is none.
fn number(form: &Form, name: &str) -> Result<u64, Error> {
    let Some(text) = form.first(name) else { return Ok(0) };
    unsigned(text).ok_or_else(|| {
        Error::of_request(ErrorCode::IndexNotANumber, format!("invalid value for {name:?}"))
    })
}

/// What Go takes for a truth value.
fn truth(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Some(false),
        _ => None,
    }
}

/// A truth value; false where there is none.
fn flag(form: &Form, name: &str) -> Result<bool, Error> {
    let Some(text) = form.first(name) else { return Ok(false) };
    truth(text).ok_or_else(|| {
        Error::of_request(ErrorCode::InvalidField, format!("invalid value for {name:?}"))
    })
}

/// A truth value that may be left out.
fn option(form: &Form, name: &str) -> Result<Option<bool>, Error> {
    let Some(text) = form.first(name) else { return Ok(None) };
    match truth(text) {
        Some(value) => Ok(Some(value)),
        None => {
            let cause = format!("invalid value for {name}");
            Err(Error::of_request(ErrorCode::InvalidField, cause))
        }
    }
}
