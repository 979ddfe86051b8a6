//! What a request's header fields say: its target, and for gRPC its call metadata.

use std::{rc::Rc, time::Duration};

use super::{
    grpc,
    hpack::{Field, Known},
};

/// A well-formed request head. Shared: equal header blocks give one head.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub method: Rc<Field>,
    pub path: Rc<Field>,
    pub authority: Option<Rc<Field>>,
    pub content_length: Option<u64>,
    /// Metadata of a gRPC call; `None` for any other request.
    pub call: Option<CallHead>,
    /// Regular fields; empty for gRPC calls, which have nothing else to tell.
    pub fields: Vec<Rc<Field>>,
}

/// Metadata of a gRPC call.
#[derive(Debug, Default)]
pub(super) struct CallHead {
    /// `grpc-timeout`; the error is a value that is none.
    pub timeout: Option<Result<Duration, grpc::BadTimeout>>,
    /// `grpc-encoding`, unless it is `identity`.
    pub encoding: Option<Rc<Field>>,
    /// `token`, or else `authorization`.
    pub token: Option<Rc<Field>>,
    pub require_leader: bool,
}

/// The fields do not make a request: RFC 9113 section 8.1.1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Sets a pseudo field that may come once and only before regular fields.
fn set(slot: &mut Option<Rc<Field>>, field: &Rc<Field>, regular: bool) -> Result<(), Malformed> {
    if regular || slot.replace(Rc::clone(field)).is_some() { Err(Malformed) } else { Ok(()) }
}

impl RequestHead {
    pub(super) fn from_fields(fields: &[Rc<Field>]) -> Result<Self, Malformed> {
        let (mut method, mut scheme, mut authority, mut path) = (None, None, None, None);
        let (mut token, mut authorization) = (None, None);
        let mut content_length = None;
        let mut is_grpc = false;
        let mut call = CallHead::default();
        let mut regular = 0;
        for field in fields {
            let late = regular > 0;
            match field.known {
                Known::Method => set(&mut method, field, late)?,
                Known::Scheme => set(&mut scheme, field, late)?,
                Known::Authority => set(&mut authority, field, late)?,
                Known::Path => set(&mut path, field, late)?,
                Known::Malformed => return Err(Malformed),
                _ => regular += 1,
            }
            match field.known {
                Known::ContentType => is_grpc = grpc::is_grpc(field.value()),
                Known::ContentLength => content_length = Some(length(field, content_length)?),
                Known::GrpcTimeout => call.timeout = Some(grpc::timeout(field.value())),
                Known::GrpcEncoding if field.value() != b"identity" => {
                    call.encoding = Some(Rc::clone(field));
                }
                Known::Token => token = Some(Rc::clone(field)),
                Known::Authorization => authorization = Some(Rc::clone(field)),
                Known::HasLeader => call.require_leader = field.value() == b"true",
                _ => {}
            }
        }
        let (Some(method), Some(_), Some(path)) = (method, scheme, path) else {
            return Err(Malformed);
        };
        call.token = token.or(authorization);
        let is_call = is_grpc && method.value() == b"POST";
        let kept = if is_call { &[] } else { fields.get(fields.len() - regular..).unwrap_or(&[]) };
        Ok(Self {
            method,
            path,
            authority,
            content_length,
            call: is_call.then_some(call),
            fields: kept.to_vec(),
        })
    }
}

fn length(field: &Field, before: Option<u64>) -> Result<u64, Malformed> {
    let digits = field.value().iter().all(u8::is_ascii_digit);
    let length = field.value_text().parse().ok().filter(|_| digits).ok_or(Malformed)?;
    if before.is_some_and(|before| before != length) { Err(Malformed) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> Result<RequestHead, Malformed> {
        let field =
            |(name, value): &(&str, &str)| Rc::new(Field::new(name.as_bytes(), value.as_bytes()));
        RequestHead::from_fields(&fields.iter().map(field).collect::<Vec<_>>())
    }

    const POST: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b")];

    fn post(more: &[(&str, &str)]) -> Result<RequestHead, Malformed> {
        head(&[&POST, more].concat())
    }

    #[test]
    fn calls_are_told_apart_by_content_type_and_method() {
        for (value, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let call = post(&[("content-type", value)]).unwrap().call;
            assert_eq!(call.is_some(), want, "{value}");
        }
        assert!(post(&[]).unwrap().call.is_none());
    }

    #[test]
    fn metadata_reaches_the_call() {
        let call = post(&[
            ("content-type", "application/grpc"),
            ("authorization", "second"),
            ("token", "first"),
            ("hasleader", "true"),
            ("grpc-timeout", "5S"),
            ("grpc-encoding", "identity"),
        ]);
        let call = call.unwrap().call.unwrap();
        assert_eq!(call.token.unwrap().value(), b"first");
        assert!(call.require_leader && call.encoding.is_none());
        assert_eq!(call.timeout, Some(Ok(Duration::from_secs(5))));
    }

    #[test]
    fn heads_that_break_the_rules_are_malformed() {
        let cases: [(&str, &[(&str, &str)]); 5] = [
            ("pseudo field twice", &[(":path", "/c")]),
            ("pseudo field after a regular one", &[("a", "b"), (":authority", "c")]),
            ("answer's pseudo field", &[(":status", "200")]),
            ("two lengths", &[("content-length", "1"), ("content-length", "2")]),
            ("length that is no number", &[("content-length", "+1")]),
        ];
        for (name, more) in cases {
            assert_eq!(post(more).map(|_| ()), Err(Malformed), "{name}");
        }
        assert_eq!(head(&POST[..2]).map(|_| ()), Err(Malformed), "no path");
    }
}
