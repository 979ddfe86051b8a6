//! Huffman coding of header strings.
//!
//! The code is canonical: codes of one length are consecutive and ordered by symbol, so the
//! lengths alone define it and every table here is computed from them at compile time.
//!
//! Source: RFC 7541 section 5.2 and appendix B.

/// Code length in bits of each byte value; the last entry is the end-of-string symbol.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SYMBOLS: usize = LENGTHS.len();
const END_OF_STRING: u16 = 256;
/// Longest code in bits.
const LENGTH_MAX: usize = 30;
/// Codes up to this many bits are found in one look-up; all letters and digits are.
const SHORT_BITS: u32 = 9;

/// What the short table says about the next [`SHORT_BITS`] bits.
#[derive(Clone, Copy)]
struct Short {
    symbol: u8,
    /// Bits to take; 0 says that the code is longer.
    length: u8,
}

struct Tables {
    short: [Short; 1 << SHORT_BITS],
    /// Symbols ordered by code.
    ordered: [u16; SYMBOLS],
    /// First code of each length.
    first_code: [u32; LENGTH_MAX + 1],
    /// Number of codes of each length.
    count: [u32; LENGTH_MAX + 1],
    /// Index in `ordered` of the first code of each length.
    offset: [usize; LENGTH_MAX + 1],
}

static TABLES: Tables = build();

#[expect(clippy::cast_possible_truncation, reason = "symbols are below 257, lengths below 31")]
const fn build() -> Tables {
    let mut tables = Tables {
        short: [Short { symbol: 0, length: 0 }; 1 << SHORT_BITS],
        ordered: [0; SYMBOLS],
        first_code: [0; LENGTH_MAX + 1],
        count: [0; LENGTH_MAX + 1],
        offset: [0; LENGTH_MAX + 1],
    };
    let (mut code, mut next, mut length) = (0_u32, 0, 1);
    while length <= LENGTH_MAX {
        code <<= 1;
        tables.first_code[length] = code;
        tables.offset[length] = next;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                tables.ordered[next] = symbol as u16;
                next += 1;
                if length as u32 <= SHORT_BITS {
                    let spare = SHORT_BITS - length as u32;
                    let mut tail = 0;
                    while tail < 1 << spare {
                        let at = ((code << spare) + tail) as usize;
                        tables.short[at] = Short { symbol: symbol as u8, length: length as u8 };
                        tail += 1;
                    }
                }
                code += 1;
                tables.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    tables
}

/// The text is not valid Huffman coding: bad padding or an end-of-string symbol inside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// Appends the decoded form of `coded` to `text`. At most 8/5 of the coded length is appended.
pub(super) fn decode(coded: &[u8], text: &mut Vec<u8>) -> Result<(), Invalid> {
    let mut bits: u64 = 0; // the unread bits, right-aligned
    let mut held: u32 = 0;
    let mut rest = coded;
    loop {
        while held <= 56 {
            let Some((&byte, tail)) = rest.split_first() else { break };
            bits = (bits << 8) | u64::from(byte);
            held += 8;
            rest = tail;
        }
        if held < SHORT_BITS {
            return decode_tail(bits, held, text);
        }
        let short = TABLES.short[window(bits, held, SHORT_BITS)];
        if short.length > 0 {
            text.push(short.symbol);
            held -= u32::from(short.length);
        } else {
            let Some((symbol, length)) = decode_long(bits, held) else {
                return padding(bits, held);
            };
            text.push(symbol);
            held -= length;
        }
    }
}

/// The `want` bits after the first unread one, as an index.
#[expect(clippy::cast_possible_truncation, reason = "masked to at most 30 bits")]
fn window(bits: u64, held: u32, want: u32) -> usize {
    ((bits >> (held - want)) & ((1 << want) - 1)) as usize
}

/// Decodes what is left when fewer bits remain than the short table needs.
fn decode_tail(bits: u64, mut held: u32, text: &mut Vec<u8>) -> Result<(), Invalid> {
    while held >= 5 {
        // Missing bits read as ones, as padding would be.
        let spare = SHORT_BITS.saturating_sub(held);
        let padded = (bits << spare) | ((1 << spare) - 1);
        let short = TABLES.short[window(padded, held + spare, SHORT_BITS)];
        if short.length == 0 || u32::from(short.length) > held {
            break;
        }
        text.push(short.symbol);
        held -= u32::from(short.length);
    }
    padding(bits, held)
}

/// Finds a code longer than the short table's, or nothing when the bits end before it does.
fn decode_long(bits: u64, held: u32) -> Option<(u8, u32)> {
    for length in SHORT_BITS + 1..=held.min(30) {
        let at = length as usize;
        let code = u32::try_from(window(bits, held, length)).ok()?;
        if let Some(rank) = code.checked_sub(TABLES.first_code[at])
            && rank < TABLES.count[at]
        {
            let symbol = TABLES.ordered[TABLES.offset[at] + rank as usize];
            return if symbol == END_OF_STRING {
                None
            } else {
                Some((u8::try_from(symbol).ok()?, length))
            };
        }
    }
    None
}

/// Padding is fewer than eight bits, all ones.
fn padding(bits: u64, held: u32) -> Result<(), Invalid> {
    let ones = (1_u64 << held.min(63)) - 1;
    if held < 8 && bits & ones == ones { Ok(()) } else { Err(Invalid) }
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    let (mut bits, mut held) = (0_u64, 0);
    for &byte in text {
        let length = LENGTHS[usize::from(byte)];
        let at = usize::from(length);
        let start = TABLES.offset[at];
        let rank = (0..).find(|rank| TABLES.ordered[start + rank] == u16::from(byte)).unwrap();
        bits = (bits << length) | u64::from(TABLES.first_code[at] + u32::try_from(rank).unwrap());
        held += u32::from(length);
        while held >= 8 {
            held -= 8;
            coded.push(u8::try_from((bits >> held) & 0xff).unwrap());
        }
    }
    if held > 0 {
        coded.push(u8::try_from(((bits << (8 - held)) | (0xff >> held)) & 0xff).unwrap());
    }
    coded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut text = Vec::new();
        decode(coded, &mut text).map(|()| text)
    }

    #[test]
    fn strings_of_appendix_c_decode() {
        let cases: [(&[u8], &str); 4] = [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0x64, 0x02], "302"),
        ];
        for (coded, text) in cases {
            assert_eq!(decoded(coded).as_deref(), Ok(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn bad_padding_and_end_of_string_are_refused() {
        let cases: [(&str, &[u8]); 4] = [
            ("eight bits of padding", &[0x64, 0x02, 0xff]),
            ("padding with a zero", &[0x64, 0x00, 0x00]),
            ("end of string", &[0xff, 0xff, 0xff, 0xff]),
            ("half of a long code", &[0xff, 0xff, 0xfe]),
        ];
        for (name, coded) in cases {
            assert_eq!(decoded(coded), Err(Invalid), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_string_survives(text: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&text)), Ok(text));
        }

        #[test]
        fn garbage_never_panics(coded: Vec<u8>) {
            let _ = decoded(&coded);
        }
    }
}
