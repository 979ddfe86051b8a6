//! Pairs as JSON: text where bytes are UTF-8, base64 under another name where not.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::api::{json::put_string, proto::mvccpb::KeyValue};

/// Appends a pair; its value too if `with_value`.
pub(super) fn put_pair(out: &mut Vec<u8>, kv: &KeyValue, with_value: bool) {
    out.push(b'{');
    put_bytes(out, "key", &kv.key);
    if with_value {
        out.push(b',');
        put_bytes(out, "value", &kv.value);
    }
    let numbers = format!(
        ",\"create_revision\":{},\"mod_revision\":{},\"version\":{}",
        kv.create_revision, kv.mod_revision, kv.version
    );
    out.extend_from_slice(numbers.as_bytes());
    if kv.lease != 0 {
        // As text: JavaScript's numbers do not hold all ids.
        out.extend_from_slice(format!(",\"lease\":\"{}\"", kv.lease).as_bytes());
    }
    out.push(b'}');
}

/// Appends what a deletion left.
pub(super) fn put_deleted(out: &mut Vec<u8>, kv: &KeyValue) {
    out.push(b'{');
    put_bytes(out, "key", &kv.key);
    out.extend_from_slice(format!(",\"mod_revision\":{}}}", kv.mod_revision).as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    if std::str::from_utf8(bytes).is_ok() {
        out.extend_from_slice(format!("\"{name}\":").as_bytes());
        put_string(out, bytes);
    } else {
        let text = STANDARD.encode(bytes);
        out.extend_from_slice(format!("\"{name}_base64\":\"{text}\"").as_bytes());
    }
}

/// A key as a line: what may follow `/kv/` in an address.
pub(super) fn put_line(out: &mut Vec<u8>, key: &[u8]) {
    for chunk in key.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            if byte <= b' ' || byte == 0x7f || b"%?#".contains(&byte) {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            } else {
                out.push(byte);
            }
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out.push(b'\n');
}
