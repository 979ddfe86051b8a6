//! `/v2/keys`: reads a request, calls the client, answers.

use hyper::{Method, Response, StatusCode, header};
use tripod_storage::v2::{Error, ErrorCode};

use super::{
    Head, V2, answer,
    request::{self, Ask},
    wait,
};
use crate::api::{
    http::{
        answer::json,
        body::{self, BodyError},
        form::{Form, is_form},
    },
    service::HttpBody,
};

/// Text of a form, as a multiple of what it may say: each byte may be escaped.
const FORM_EXPANSION: usize = 3;
/// Room in a form for everything but the value, in bytes.
const FORM_OVERHEAD_BYTES: usize = 64 << 10;

impl V2 {
    /// Answers a request to `key`.
    pub(super) async fn keys(
        &self,
        head: &Head<'_>,
        key: &[u8],
        mut body: HttpBody,
    ) -> Response<HttpBody> {
        let cluster_id = self.client.identity().cluster_id;
        let known = [Method::HEAD, Method::GET, Method::PUT, Method::POST, Method::DELETE];
        if !known.contains(head.method) {
            return answer::wrong_method("HEAD,GET,PUT,POST,DELETE");
        }
        let asked = match self.form(head, &mut body).await {
            Ok(form) => request::parse(head.method, key, &form),
            Err(cause) => Err(Error::of_request(ErrorCode::InvalidForm, cause)),
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(error) => return answer::error(&error, Some(cluster_id)),
        };
        let (event, position, bare) = match asked {
            Ask::Wait { key, recursive, stream, index } => {
                return match self.client.v2_watch(&key, recursive, stream, index) {
                    Ok((watch, position)) => wait::answer(watch, stream, cluster_id, position),
                    Err(error) => answer::failure(error, cluster_id),
                };
            }
            Ask::Get { key, recursive, quorum } => {
                match self.client.v2_get(&key, recursive, quorum).await {
                    Ok((event, position)) => (event, position, false),
                    Err(error) => return answer::failure(error, cluster_id),
                }
            }
            Ask::Write { write, bare } => match self.client.v2_write(write).await {
                Ok((event, position)) => {
                    let bare = bare && answer::can_be_bare(event.action);
                    (event, position, bare)
                }
                Err(error) => return answer::failure(error, cluster_id),
            },
        };
        let status = if event.is_created() { StatusCode::CREATED } else { StatusCode::OK };
        let response = json(status, answer::event_line(&event, bare));
        answer::with_position(response, cluster_id, position)
    }

    /// The form of a request: fields of the body before those of the query.
    ///
    /// # Errors
    /// Go's text.
    async fn form(&self, head: &Head<'_>, body: &mut HttpBody) -> Result<Form, String> {
        let mut form = Form::default();
        let mut result = Ok(());
        if head.method == Method::PUT || head.method == Method::POST {
            let kind = head.headers.get(header::CONTENT_TYPE);
            match is_form(kind.map_or(b"", |kind| kind.as_bytes())) {
                Ok(true) => result = self.body_fields(&mut form, body).await,
                Ok(false) => {}
                Err(error) => result = Err(error.to_owned()),
            }
        }
        let of_query = form.add(head.uri.query().unwrap_or_default().as_bytes());
        result.and(of_query).map(|()| form)
    }

    async fn body_fields(&self, form: &mut Form, body: &mut HttpBody) -> Result<(), String> {
        let limit = self.max_request_bytes.saturating_mul(FORM_EXPANSION) + FORM_OVERHEAD_BYTES;
        match body::collect(body, limit).await {
            Ok(text) => form.add(&text),
            Err(BodyError::TooLarge(_)) => {
                body::discard(body).await;
                Err("http: POST too large".to_owned())
            }
            Err(BodyError::Broken(error)) => Err(error.to_string()),
        }
    }
}
