//! Encoder of answers.
//!
//! Answers of a gRPC server repeat two fields, `content-type: application/grpc` and
//! `grpc-status: 0`. Each goes into the peer's dynamic table the first time it is sent and costs
//! one byte from then on. Everything else is a literal that leaves the table alone, so the
//! encoder's state is two numbers.

/// Table size a peer allows before settings.
const TABLE_BYTES_DEFAULT: u32 = 4096;
/// What the two fields need: name, value and 32 bytes each. A smaller table is not used at all.
const TABLE_BYTES_NEEDED: u32 = (12 + 16 + 32) + (11 + 1 + 32);
/// Index of the newest dynamic field.
const DYNAMIC_FIRST: u8 = 62;

const STATUS_200: u8 = 0x88;
const STATIC_STATUS: usize = 8;
const STATIC_CONTENT_TYPE: u8 = 31;

/// The sending half of one connection's header compression.
pub(crate) struct Encoder {
    table_bytes: u32,
    /// A smaller table size that the next block must begin with.
    resize: Option<u32>,
    /// Fields put into the table so far.
    inserted: u8,
    /// How many fields were in the table once `content-type` was.
    content_type: Option<u8>,
    /// The same of `grpc-status: 0`.
    status_ok: Option<u8>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            table_bytes: TABLE_BYTES_DEFAULT,
            resize: None,
            inserted: 0,
            content_type: None,
            status_ok: None,
        }
    }

    /// Obeys the peer's SETTINGS_HEADER_TABLE_SIZE. A larger table is never used.
    pub(crate) fn set_table_bytes(&mut self, bytes: u32) {
        if bytes >= self.table_bytes {
            return;
        }
        // Not worth a partial table: give it up as a whole.
        self.table_bytes = if bytes < TABLE_BYTES_NEEDED { 0 } else { bytes };
        self.resize = Some(self.table_bytes);
        if self.table_bytes == 0 {
            (self.inserted, self.content_type, self.status_ok) = (0, None, None);
        }
    }

    /// Begins a block; every block starts here.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(bytes) = self.resize.take() {
            put_integer(out, 0x20, 5, bytes as usize);
        }
    }

    /// `:status 200` and the content type of gRPC.
    pub(crate) fn grpc_head(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        out.push(STATUS_200);
        if let Some(at) = self.content_type {
            out.push(0x80 | (DYNAMIC_FIRST + self.inserted - at));
        } else if self.table_bytes > 0 {
            out.push(0x40 | STATIC_CONTENT_TYPE);
            put_string(out, b"application/grpc");
            self.inserted += 1;
            self.content_type = Some(self.inserted);
        } else {
            put_integer(out, 0, 4, usize::from(STATIC_CONTENT_TYPE));
            put_string(out, b"application/grpc");
        }
    }

    /// `grpc-status: 0` as trailers.
    pub(crate) fn trailers_ok(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        if let Some(at) = self.status_ok {
            out.push(0x80 | (DYNAMIC_FIRST + self.inserted - at));
        } else if self.table_bytes > 0 {
            out.push(0x40);
            put_string(out, b"grpc-status");
            put_string(out, b"0");
            self.inserted += 1;
            self.status_ok = Some(self.inserted);
        } else {
            put_literal(out, b"grpc-status", b"0");
        }
    }

    /// Trailers of an answer that is not OK. `message` is percent-encoded already.
    pub(crate) fn trailers(&mut self, out: &mut Vec<u8>, code: &str, message: &[u8]) {
        self.begin(out);
        put_literal(out, b"grpc-status", code.as_bytes());
        put_literal(out, b"grpc-message", message);
    }

    /// A field after others of the same block.
    pub(crate) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        put_literal(out, name, value);
    }

    /// Begins the head of a plain HTTP answer.
    pub(crate) fn plain_head(&mut self, out: &mut Vec<u8>, status: u16) {
        self.begin(out);
        if status == 200 {
            out.push(STATUS_200);
        } else {
            put_integer(out, 0, 4, STATIC_STATUS);
            put_string(out, status.to_string().as_bytes());
        }
    }
}

/// A literal field that is not indexed, with a literal name.
fn put_literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    put_string(out, name);
    put_string(out, value);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Appends an integer with `prefix` value bits in the first byte, whose other bits are `first`.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn put_integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::{super::decoder::Decoder, *};

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        assert_eq!(decoder.decode(block, usize::MAX, &mut fields), Ok(true));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pair = |field: &Rc<_>| {
            let field: &super::super::Field = field;
            (text(field.name()), text(field.value()))
        };
        fields.iter().map(pair).collect()
    }

    fn blocks(encoder: &mut Encoder, decoder: &mut Decoder) -> [usize; 2] {
        let (mut head, mut trailers) = (Vec::new(), Vec::new());
        encoder.grpc_head(&mut head);
        encoder.trailers_ok(&mut trailers);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let want = [pair(":status", "200"), pair("content-type", "application/grpc")];
        assert_eq!(decoded(decoder, &head), want);
        assert_eq!(decoded(decoder, &trailers), [pair("grpc-status", "0")]);
        [head.len(), trailers.len()]
    }

    #[test]
    fn repeated_answers_cost_three_bytes() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        blocks(&mut encoder, &mut decoder);
        assert_eq!(blocks(&mut encoder, &mut decoder), [2, 1]);
    }

    #[test]
    fn smaller_tables_are_announced_before_use() {
        for bytes in [4096, 1000, TABLE_BYTES_NEEDED, TABLE_BYTES_NEEDED - 1, 0] {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
            blocks(&mut encoder, &mut decoder);
            encoder.set_table_bytes(bytes);
            blocks(&mut encoder, &mut decoder);
            blocks(&mut encoder, &mut decoder);
            encoder.set_table_bytes(4096);
            blocks(&mut encoder, &mut decoder);
        }
    }

    #[test]
    fn error_trailers_leave_the_table_alone() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut out = Vec::new();
        encoder.trailers(&mut out, "14", b"etcdserver: no leader");
        assert_eq!(decoded(&mut decoder, &out).len(), 2);
        assert_eq!(decoder.generation(), 0);
        blocks(&mut encoder, &mut decoder);
    }
}
