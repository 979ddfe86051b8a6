//! One header field, read once and understood once.
//!
//! A field in the dynamic table is shared by every request that names it, so what it means is
//! found out when it enters the table, not for each request.

/// What a request field means to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Method,
    Scheme,
    Authority,
    Path,
    ContentType,
    ContentLength,
    GrpcTimeout,
    GrpcEncoding,
    Token,
    Authorization,
    HasLeader,
    /// A regular field without a meaning here.
    Other,
    /// A field that may not be in a request: RFC 9113 section 8.2.
    Malformed,
}

/// A field's name and value in one allocation, with its meaning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field {
    text: Box<[u8]>,
    name_length: usize,
    pub(crate) known: Known,
}

impl Field {
    pub(crate) fn new(name: &[u8], value: &[u8]) -> Self {
        let mut text = Vec::with_capacity(name.len() + value.len());
        text.extend_from_slice(name);
        text.extend_from_slice(value);
        Self {
            text: text.into_boxed_slice(),
            name_length: name.len(),
            known: classify(name, value),
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        self.text.get(..self.name_length).unwrap_or_default()
    }

    pub(crate) fn value(&self) -> &[u8] {
        self.text.get(self.name_length..).unwrap_or_default()
    }

    /// The value as text; empty when it is not UTF-8.
    pub(crate) fn value_text(&self) -> &str {
        std::str::from_utf8(self.value()).unwrap_or_default()
    }

    /// Size in the dynamic table and in header list limits: RFC 7541 section 4.1.
    pub(crate) fn table_bytes(&self) -> usize {
        self.text.len() + 32
    }
}

fn classify(name: &[u8], value: &[u8]) -> Known {
    if let Some(pseudo) = name.strip_prefix(b":") {
        return match pseudo {
            b"method" if value.iter().all(|&byte| is_token(byte)) && !value.is_empty() => {
                Known::Method
            }
            b"scheme" => Known::Scheme,
            b"authority" if is_visible(value) => Known::Authority,
            b"path" if is_visible(value) && !value.is_empty() => Known::Path,
            _ => Known::Malformed,
        };
    }
    let lower_token = |&byte: &u8| is_token(byte) && !byte.is_ascii_uppercase();
    if name.is_empty() || !name.iter().all(lower_token) || !is_field_value(value) {
        return Known::Malformed;
    }
    match name {
        b"content-type" => Known::ContentType,
        b"content-length" => Known::ContentLength,
        b"grpc-timeout" => Known::GrpcTimeout,
        b"grpc-encoding" => Known::GrpcEncoding,
        b"token" => Known::Token,
        b"authorization" => Known::Authorization,
        b"hasleader" => Known::HasLeader,
        b"te" if value != b"trailers" => Known::Malformed,
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
            Known::Malformed
        }
        _ => Known::Other,
    }
}

/// A character of names and methods: RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_visible(value: &[u8]) -> bool {
    value.iter().all(u8::is_ascii_graphic)
}

/// No control character and no space at either end: RFC 9113 section 8.2.1.
fn is_field_value(value: &[u8]) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
        && !space(value.first())
        && !space(value.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_break_the_rules_are_malformed() {
        let cases: [(&str, &str, Known); 12] = [
            (":path", "/etcdserverpb.KV/Put", Known::Path),
            (":path", "", Known::Malformed),
            (":path", "/a b", Known::Malformed),
            (":status", "200", Known::Malformed),
            ("te", "trailers", Known::Other),
            ("te", "gzip", Known::Malformed),
            ("Content-Type", "text/plain", Known::Malformed),
            ("connection", "close", Known::Malformed),
            ("a", "b\nc", Known::Malformed),
            ("a", " b", Known::Malformed),
            ("", "b", Known::Malformed),
            ("hasleader", "true", Known::HasLeader),
        ];
        for (name, value, want) in cases {
            let known = Field::new(name.as_bytes(), value.as_bytes()).known;
            assert_eq!(known, want, "{name}: {value}");
        }
    }
}
