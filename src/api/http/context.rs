//! What headers say about a call.

use std::time::Duration;

use hyper::header::{self, HeaderMap, HeaderName};

use super::answer::invalid;
use crate::api::service::{CallContext, Status};

const TOKEN: HeaderName = HeaderName::from_static("grpc-metadata-token");
const METADATA_AUTHORIZATION: HeaderName = HeaderName::from_static("grpc-metadata-authorization");
const HAS_LEADER: HeaderName = HeaderName::from_static("grpc-metadata-hasleader");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The context of a call: what the transport knows of the connection, and the headers that
/// the gateway passes on. A `Token` header has no meaning here.
///
/// # Errors
/// `InvalidArgument` for a `Grpc-Timeout` that is none.
pub(super) fn of_call(headers: &HeaderMap, connection: CallContext) -> Result<CallContext, Status> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.as_bytes());
    let token = text(&TOKEN)
        .or_else(|| text(&header::AUTHORIZATION))
        .or_else(|| text(&METADATA_AUTHORIZATION));
    let timeout = match text(&TIMEOUT) {
        None | Some(b"") => None,
        Some(value) => Some(timeout(value).ok_or_else(|| {
            invalid(format!("invalid grpc-timeout: {}", String::from_utf8_lossy(value)))
        })?),
    };
    Ok(CallContext {
        token: token.map(|token| String::from_utf8_lossy(token).into_owned()),
        require_leader: text(&HAS_LEADER) == Some(b"true"),
        timeout,
        from_gateway: true,
        ..connection
    })
}

/// gRPC's notation of a time span: digits and a unit.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount.saturating_mul(3600)),
        b'M' => Duration::from_secs(amount.saturating_mul(60)),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderMap, HeaderName, HeaderValue};

    use super::{Duration, of_call, timeout};
    use crate::api::service::CallContext;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn token_comes_from_metadata_before_authorization_and_never_from_token() {
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(Headers, Option<&str>); 6] = [
            (&[], None),
            (&[("authorization", "a.1")], Some("a.1")),
            (&[("authorization", "")], Some("")),
            (&[("grpc-metadata-token", "t"), ("authorization", "a")], Some("t")),
            (&[("grpc-metadata-authorization", "g")], Some("g")),
            (&[("token", "x")], None),
        ];
        for (pairs, want) in cases {
            let connection = CallContext { token: Some("stale".into()), ..CallContext::default() };
            let context = of_call(&headers(pairs), connection).unwrap();
            assert_eq!(context.token.as_deref(), want, "{pairs:?}");
            assert!(context.from_gateway);
        }
    }

    #[test]
    fn timeouts_are_grpcs() {
        assert_eq!(timeout(b"1S"), Some(Duration::from_secs(1)));
        assert_eq!(timeout(b"20m"), Some(Duration::from_millis(20)));
        assert_eq!(timeout(b"99999999999999999999S"), None);
        assert_eq!(timeout(b"18446744073709551615H"), Some(Duration::from_secs(u64::MAX)));
        for bad in ["S", "1", "x", "1s", "-1S", "+1S"] {
            assert_eq!(timeout(bad.as_bytes()), None, "{bad}");
        }
        assert!(of_call(&headers(&[("grpc-timeout", "x")]), CallContext::default()).is_err());
    }
}
