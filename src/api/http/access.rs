//! Who may ask from where: the Host header and cross-origin requests.
//!
//! `--host-whitelist` names the hosts a cleartext request may be for, against DNS rebinding
//! (CVE-2018-1099): a page of another host that resolves to this server sends its own name.
//! `--cors` names the origins whose pages may read answers. Both are `*` by default, as in etcd.
//! There are no ambient credentials: no cookie and no HTTP login, so that a foreign page can do
//! no more than a program without credentials.

use hyper::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};

use super::answer;
use crate::api::service::HttpBody;

/// The name in a Host header, without its port.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(host, |(name, _)| name);
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

fn is_any(list: &[String]) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == "*")
}

/// The refusal of a request for a host that is not in the list.
pub(super) fn refuse_host(headers: &HeaderMap, whitelist: &[String]) -> Option<Response<HttpBody>> {
    if is_any(whitelist) {
        return None;
    }
    let host = headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
    let host = host.unwrap_or_default();
    let name = host_name(&host);
    if whitelist.iter().any(|entry| entry == name) {
        return None;
    }
    let text = format!(
        "the Host header {name:?} is none of this server's names; ask by one of them, use https, \
         or start the server with --host-whitelist {name:?}"
    );
    Some(answer::text(StatusCode::MISDIRECTED_REQUEST, &text))
}

/// The refusal of a handshake from a page whose origin may not read answers. Programs send no origin.
pub(super) fn refuse_origin(headers: &HeaderMap, allowed: &[String]) -> Option<Response<HttpBody>> {
    let origin = headers.get(header::ORIGIN)?;
    if is_any(allowed) || allowed.iter().any(|entry| entry.as_bytes() == origin.as_bytes()) {
        return None;
    }
    let text = "pages of this origin may not open websockets here; see --cors";
    Some(answer::text(StatusCode::FORBIDDEN, text))
}

/// Leaves the cross-origin headers on an answer only where the origin may read it.
pub(super) fn limit_origin(
    response: &mut Response<HttpBody>,
    origin: Option<&HeaderValue>,
    allowed: &[String],
) {
    if is_any(allowed) {
        return;
    }
    let headers = response.headers_mut();
    let origin =
        origin.filter(|origin| allowed.iter().any(|entry| entry.as_bytes() == origin.as_bytes()));
    match origin {
        Some(origin) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        None => {
            headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            headers.remove(header::ACCESS_CONTROL_ALLOW_METHODS);
            headers.remove(header::ACCESS_CONTROL_ALLOW_HEADERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2018-1099: DNS rebinding.
    #[test]
    fn hosts_are_compared_without_their_port() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (host, whitelist, allowed) in [
            ("evil.example:2379", vec![], true),
            ("evil.example:2379", list(&["*"]), true),
            ("evil.example:2379", list(&["localhost"]), false),
            ("localhost:2379", list(&["localhost"]), true),
            ("localhost", list(&["a", "localhost"]), true),
            ("[::1]:2379", list(&["::1"]), true),
            ("::1", list(&["::1"]), true),
            ("", list(&["localhost"]), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            let refused = refuse_host(&headers, &whitelist);
            assert_eq!(refused.is_none(), allowed, "{host} {whitelist:?}");
            if let Some(refused) = refused {
                assert_eq!(refused.status(), StatusCode::MISDIRECTED_REQUEST);
            }
        }
    }

    #[test]
    fn only_listed_origins_get_cross_origin_headers() {
        let allowed = ["http://a.example".to_owned()];
        for (origin, want) in [
            (Some("http://a.example"), Some("http://a.example")),
            (Some("http://b"), None),
            (None, None),
        ] {
            let mut response = answer::empty(StatusCode::OK);
            let origin = origin.map(HeaderValue::from_static);
            limit_origin(&mut response, origin.as_ref(), &allowed);
            let got = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(got.map(HeaderValue::as_bytes), want.map(str::as_bytes));
        }
    }
}
