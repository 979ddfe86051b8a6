//! Answers and the headers that all of them carry.

use std::{convert::Infallible, io};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use crate::api::service::{Code, HttpBody, Status};

const METADATA_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Headers of one answer, at most; saves the map from growing.
const HEADERS_MAX: usize = 8;

fn never(error: Infallible) -> io::Error {
    match error {}
}

/// An answer with the CORS headers and this body.
pub(in crate::api) fn with_body(status: StatusCode, body: HttpBody) -> Response<HttpBody> {
    let mut headers = HeaderMap::with_capacity(HEADERS_MAX);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("accept, content-type, authorization"),
    );
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// An answer with this body and no content type.
pub(in crate::api) fn full(status: StatusCode, body: impl Into<Bytes>) -> Response<HttpBody> {
    with_body(status, Full::new(body.into()).map_err(never).boxed_unsync())
}

fn with_header(
    mut response: Response<HttpBody>,
    name: HeaderName,
    value: HeaderValue,
) -> Response<HttpBody> {
    response.headers_mut().insert(name, value);
    response
}

/// No body, no content type.
pub(in crate::api) fn empty(status: StatusCode) -> Response<HttpBody> {
    full(status, Bytes::new())
}

/// A JSON document that no call made.
pub(in crate::api) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<HttpBody> {
    with_header(full(status, body), header::CONTENT_TYPE, JSON)
}

/// The result of a unary call.
pub(in crate::api) fn result(body: impl Into<Bytes>) -> Response<HttpBody> {
    with_metadata(json(StatusCode::OK, body))
}

/// Adds the header that tells the metadata of a successful call.
pub(in crate::api) fn with_metadata(response: Response<HttpBody>) -> Response<HttpBody> {
    with_header(response, METADATA_CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
}

/// The failure of a call.
pub(in crate::api) fn failure(status: &Status) -> Response<HttpBody> {
    json(status.code.http_status(), status.json_body())
}

/// The body of a streaming call; its length is not known.
pub(in crate::api) fn stream(status: StatusCode, body: HttpBody) -> Response<HttpBody> {
    with_header(with_body(status, body), header::CONTENT_TYPE, JSON)
}

/// A line of text as Go's `http.Error` sends it.
pub(in crate::api) fn text(status: StatusCode, line: &str) -> Response<HttpBody> {
    no_sniff(plain(status, format!("{line}\n")))
}

/// Plain text.
pub(in crate::api) fn plain(status: StatusCode, body: String) -> Response<HttpBody> {
    with_header(full(status, body), header::CONTENT_TYPE, PLAIN)
}

/// Tells browsers to believe the content type.
pub(in crate::api) fn no_sniff(response: Response<HttpBody>) -> Response<HttpBody> {
    with_header(response, header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
}

/// The refusal of all methods but GET.
pub(in crate::api) fn only_get() -> Response<HttpBody> {
    let response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    with_header(response, header::ALLOW, HeaderValue::from_static("GET"))
}

/// A redirect to the tidy form of a path.
pub(in crate::api) fn moved(method: &Method, location: &str) -> Response<HttpBody> {
    let Ok(target) = HeaderValue::from_str(location) else {
        return text(StatusCode::NOT_FOUND, "404 page not found");
    };
    let status = StatusCode::MOVED_PERMANENTLY;
    let response = if method == Method::GET || method == Method::HEAD {
        const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
        let escaped = location.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
        let page = full(status, format!("<a href=\"{escaped}\">Moved Permanently</a>.\n\n"));
        with_header(page, header::CONTENT_TYPE, HTML)
    } else {
        empty(status)
    };
    with_header(response, header::LOCATION, target)
}

/// The failure of a request that is no call yet.
pub(in crate::api) fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, message)
}
