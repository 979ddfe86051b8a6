//! Vectors of RFC 7541 appendix C, the limits, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, HpackError> {
    let mut fields = Vec::new();
    decoder.decode(block, usize::MAX, &mut fields)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(fields.iter().map(|f| format!("{}: {}", text(f.name()), text(f.value()))).collect())
}

fn table(decoder: &Decoder) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder.table.iter().map(|f| format!("{}: {}", text(f.name()), text(f.value()))).collect()
}

/// One header block of a sequence: bytes, fields, and the table's size after it.
type Case = (&'static str, &'static [&'static str], usize);

fn check(name: &str, prelude: &str, cases: &[Case]) {
    let mut decoder = Decoder::new();
    decoded(&mut decoder, &bytes(prelude)).unwrap();
    for (hex, fields, table_bytes) in cases {
        assert_eq!(decoded(&mut decoder, &bytes(hex)).unwrap(), *fields, "{name}: {hex}");
        assert_eq!(decoder.table_bytes, *table_bytes, "{name}: {hex}");
    }
}

#[test]
fn single_fields_of_appendix_c2() {
    let literal = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    check("C.2.1", "", &[(literal, &["custom-key: custom-header"], 55)]);
    check("C.2.2", "", &[("040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"], 0)]);
    let never = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    check("C.2.3", "", &[(never, &["password: secret"], 0)]);
    check("C.2.4", "", &[("82", &[":method: GET"], 0)]);
}

const REQUESTS: [&[&str]; 3] = [
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
    &[
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
        "cache-control: no-cache",
    ],
    &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ],
];

#[test]
fn requests_of_appendix_c3_and_c4() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for (name, blocks) in [("C.3", plain), ("C.4", huffman)] {
        let sizes = [57, 110, 164];
        let cases: Vec<Case> = (0..3).map(|i| (blocks[i], REQUESTS[i], sizes[i])).collect();
        check(name, "", &cases);
    }
}

const DATES: [&str; 2] =
    ["date: Mon, 21 Oct 2013 20:13:21 GMT", "date: Mon, 21 Oct 2013 20:13:22 GMT"];
const LOCATION: &str = "location: https://www.example.com";
const COOKIE: &str = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

const ANSWERS: [&[&str]; 3] = [
    &[":status: 302", "cache-control: private", DATES[0], LOCATION],
    &[":status: 307", "cache-control: private", DATES[0], LOCATION],
    &[
        ":status: 200",
        "cache-control: private",
        DATES[1],
        LOCATION,
        "content-encoding: gzip",
        COOKIE,
    ],
];

#[test]
fn answers_with_a_table_of_256_bytes_of_appendix_c5_and_c6() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032
         303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0
         5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851
         5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let huffman = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b
         ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad
         94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160
         65c0 03ed 4ee5 b106 3d50 07",
    ];
    for (name, blocks) in [("C.5", plain), ("C.6", huffman)] {
        let sizes = [222, 222, 215];
        let cases: Vec<Case> = (0..3).map(|i| (blocks[i], ANSWERS[i], sizes[i])).collect();
        check(name, "3fe1 01", &cases);
    }
}

#[test]
fn broken_blocks_are_refused() {
    let cases = [
        ("index zero", "80"),
        ("index beyond both tables", "be"),
        ("literal whose name index is beyond both tables", "7f00 0161"),
        ("value longer than the block", "0001 6105 61"),
        ("integer without an end", "ffff ffff"),
        ("integer too large", "ffff ffff ff7f"),
        ("table size above the announced", "3fe2 1f"),
        ("table size after a field", "8220"),
        ("Huffman padding", "0001 6181 00"),
    ];
    for (name, hex) in cases {
        assert_eq!(decoded(&mut Decoder::new(), &bytes(hex)), Err(HpackError), "{name}");
    }
}

#[test]
fn a_field_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new();
    decoded(&mut decoder, &bytes("4001 6101 62")).unwrap();
    assert_eq!(table(&decoder), ["a: b"]);
    let mut block = bytes("4001 617f e120"); // a value of 127 + 4193 bytes
    block.extend(std::iter::repeat_n(b'x', 127 + 0x61 + (0x20 << 7)));
    decoded(&mut decoder, &block).unwrap();
    assert!(table(&decoder).is_empty());
    assert_eq!(decoder.table_bytes, 0);
}

#[test]
fn a_list_above_the_limit_is_cut_but_the_table_stays_right() {
    let mut decoder = Decoder::new();
    let mut fields = Vec::new();
    let block = bytes("4001 6101 62 4001 6301 64");
    assert_eq!(decoder.decode(&block, 40, &mut fields), Ok(false));
    assert_eq!(fields.len(), 1);
    assert_eq!(table(&decoder), ["c: d", "a: b"]);
}

proptest! {
    #[test]
    fn arbitrary_blocks_never_panic(blocks: Vec<Vec<u8>>) {
        let mut decoder = Decoder::new();
        for block in blocks {
            if decoder.decode(&block, 1000, &mut Vec::new()).is_err() {
                break;
            }
            prop_assert!(decoder.table_bytes <= TABLE_BYTES_MAX);
        }
    }

    #[test]
    fn an_unchanged_generation_means_an_unchanged_table(blocks: Vec<Vec<u8>>) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let (before, generation) = (table(&decoder), decoder.generation());
            let _ = decoder.decode(&block, 1000, &mut Vec::new());
            prop_assert!(generation != decoder.generation() || before == table(&decoder));
        }
    }
}
