//! The static Huffman code of HPACK, decoding only.
//!
//! The code is canonical: codes of one length are consecutive and ordered by symbol, and lengths
//! grow. So the table of lengths is enough, and decoding walks bit by bit with one comparison per
//! bit. It is off the hot path: servers index what repeats.
//!
//! Source: RFC 7541, appendix B.

use std::sync::OnceLock;

/// Code length in bits of each octet. The end-of-string symbol (30 bits) is left out: a string
/// that contains it is malformed.
#[rustfmt::skip]
const CODE_BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Longest code in bits.
const CODE_BITS_MAX: usize = 30;

/// Canonical decoding table.
struct Table {
    /// Octets ordered by (length, octet).
    symbols: Vec<u8>,
    /// Per length: first code, number of codes, index of the first one in `symbols`.
    rows: [(u32, u32, usize); CODE_BITS_MAX + 1],
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut symbols: Vec<u8> = (0..=255).collect();
        symbols.sort_by_key(|&symbol| (CODE_BITS[usize::from(symbol)], symbol));
        let mut rows = [(0, 0, 0); CODE_BITS_MAX + 1];
        let (mut code, mut index) = (0_u32, 0_usize);
        for (bits, row) in rows.iter_mut().enumerate() {
            code <<= 1;
            let count = CODE_BITS.iter().filter(|&&b| usize::from(b) == bits).count();
            *row = (code, u32::try_from(count).unwrap_or(0), index);
            code += row.1;
            index += count;
        }
        Table { symbols, rows }
    })
}

/// Decodes a Huffman string; `None` if it is malformed.
pub(super) fn decode(input: &[u8]) -> Option<Vec<u8>> {
    let table = table();
    let mut text = Vec::with_capacity(input.len() * 2);
    let (mut code, mut bits) = (0_u32, 0_usize);
    for byte in input {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            let (first, count, index) = *table.rows.get(bits)?;
            if let Some(nth) = code.checked_sub(first).filter(|&nth| nth < count) {
                text.push(table.symbols[index + usize::try_from(nth).ok()?]);
                (code, bits) = (0, 0);
            }
        }
    }
    // Padding is the start of the end-of-string code: ones, fewer than eight.
    (bits < 8 && code == (1 << bits) - 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::decode;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d.try_into().unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn strings_of_the_rfc_decode() {
        // RFC 7541, appendix C.4 and C.6.
        let cases = [
            ("f1e3 c2e5 f23a 6ba0 ab90 f4ff", "www.example.com"),
            ("a8eb 1064 9cbf", "no-cache"),
            ("25a8 49e9 5ba9 7d7f", "custom-key"),
            ("25a8 49e9 5bb8 e8b4 bf", "custom-value"),
            ("6402", "302"),
            ("aec3 771a 4b", "private"),
            (
                "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            ("9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3", "https://www.example.com"),
            ("", ""),
        ];
        for (hex, want) in cases {
            assert_eq!(decode(&bytes(hex)).as_deref(), Some(want.as_bytes()), "{hex}");
        }
    }

    #[test]
    fn wrong_padding_is_refused() {
        for hex in ["a8eb 1064 9cbe", "ff", "ffff ffff", "ffff ffff ffff"] {
            assert_eq!(decode(&bytes(hex)), None, "{hex}");
        }
    }
}
