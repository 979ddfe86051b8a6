//! Base64 as both gateways take it: standard padded (3.5 and 3.6), and 3.6's url-safe or
//! unpadded spellings. Line breaks are skipped, unused trailing bits ignored, as Go does.

use ::base64::{
    Engine as _,
    alphabet::{self, Alphabet},
    engine::{
        DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig,
        general_purpose::STANDARD as OUTPUT,
    },
};

use super::wire;

const fn engine(alphabet: &Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(padding);
    GeneralPurpose::new(alphabet, config)
}

const PADDED: DecodePaddingMode = DecodePaddingMode::RequireCanonical;
const BARE: DecodePaddingMode = DecodePaddingMode::RequireNone;
static STANDARD_PADDED: GeneralPurpose = engine(&alphabet::STANDARD, PADDED);
static STANDARD_BARE: GeneralPurpose = engine(&alphabet::STANDARD, BARE);
static URL_PADDED: GeneralPurpose = engine(&alphabet::URL_SAFE, PADDED);
static URL_BARE: GeneralPurpose = engine(&alphabet::URL_SAFE, BARE);

/// Appends the decoded bytes of `text` with their length in front. False, with `out` as it
/// was, when `text` is no base64.
pub(super) fn decode_delimited(text: &[u8], out: &mut Vec<u8>) -> bool {
    if decode_with(&STANDARD_PADDED, text, out) {
        return true;
    }
    let text: Vec<u8> = text.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    let url_safe = text.iter().any(|b| matches!(b, b'-' | b'_'));
    let engine = match (url_safe, text.last() == Some(&b'=')) {
        (false, true) => &STANDARD_PADDED,
        (false, false) => &STANDARD_BARE,
        (true, true) => &URL_PADDED,
        (true, false) => &URL_BARE,
    };
    decode_with(engine, &text, out)
}

fn decode_with(engine: &GeneralPurpose, text: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let padding = text.iter().rev().take_while(|&&b| b == b'=').count();
    let length = (text.len() - padding) * 3 / 4;
    wire::put_varint(out, length as u64);
    let content = out.len();
    // The decoder may write whole blocks past the end of the value.
    out.resize(content + ::base64::decoded_len_estimate(text.len()), 0);
    let decoded = engine.decode_slice(text, &mut out[content..]);
    let whole = decoded == Ok(length);
    out.truncate(if whole { content + length } else { start });
    whole
}

/// Appends `bytes` as standard padded base64.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = OUTPUT.encode_slice(bytes, &mut out[start..]).unwrap_or_default();
    debug_assert_eq!(start + written, out.len(), "base64 has one length");
}
