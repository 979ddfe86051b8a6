//! Parameters of `/kv`: a fixed set, each with its methods; anything else is refused.

use hyper::Method;

use super::form::Form;

/// What a query may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Params {
    /// All keys that begin with the key.
    pub(super) prefix: bool,
    /// Revision to read at, or to watch from.
    pub(super) revision: Option<i64>,
    /// Answer from this member's present state.
    pub(super) serializable: bool,
    /// Most keys to list.
    pub(super) limit: Option<i64>,
    /// List no values.
    pub(super) keys_only: bool,
    /// Send changes as they happen.
    pub(super) watch: bool,
    /// Lease to attach.
    pub(super) lease: i64,
}

impl Params {
    /// Reads a query.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn parse(method: &Method, query: &str) -> Result<Self, String> {
        let mut form = Form::default();
        form.add(query.as_bytes())?;
        let known: &[&str] = match *method {
            Method::PUT => &["lease"],
            Method::DELETE => &["prefix"],
            _ => &["prefix", "rev", "serializable", "limit", "keys_only", "watch"],
        };
        for name in form.names() {
            if !known.iter().any(|known| known.as_bytes() == name) {
                let name = String::from_utf8_lossy(name);
                let known = known.join(", ");
                return Err(format!("unknown parameter {name:?} of {method}; known: {known}"));
            }
        }
        let params = Self {
            prefix: flag(&form, "prefix")?,
            revision: number(&form, "rev")?,
            serializable: flag(&form, "serializable")?,
            limit: number(&form, "limit")?,
            keys_only: flag(&form, "keys_only")?,
            watch: flag(&form, "watch")?,
            lease: lease(&form)?,
        };
        if params.watch && *method == Method::HEAD {
            return Err("a watch needs GET".to_owned());
        }
        Ok(params)
    }
}

/// Present without a value, or with a truth value.
fn flag(form: &Form, name: &str) -> Result<bool, String> {
    match form.first(name) {
        None | Some(b"false" | b"0") => Ok(false),
        Some(b"" | b"true" | b"1") => Ok(true),
        Some(_) => Err(format!("{name} is true or false")),
    }
}

/// A number above 0.
fn number(form: &Form, name: &str) -> Result<Option<i64>, String> {
    let Some(text) = form.first(name) else { return Ok(None) };
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let number = number.filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| format!("{name} is a number above 0"))
}

/// A lease id: decimal, or hexadecimal after `0x`.
fn lease(form: &Form) -> Result<i64, String> {
    let Some(text) = form.first("lease") else { return Ok(0) };
    let text = std::str::from_utf8(text).unwrap_or_default();
    let id = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok().map(u64::cast_signed),
        None => text.parse().ok(),
    };
    id.ok_or_else(|| "lease is a lease id: decimal, or hexadecimal after 0x".to_owned())
}
