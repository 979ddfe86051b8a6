//! Changes valid inputs at random.

use crate::support::random::Random;

/// Most changes of one input.
const CHANGES_MAX: usize = 6;
/// Inputs are not grown above this many bytes.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// One in so many inputs is random from end to end.
const WILD_ONE_IN: usize = 40;
/// Bytes of such an input, at most.
const WILD_BYTES_MAX: usize = 600;
/// Numbers at which lengths, counts and indexes go wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

/// Makes the inputs of a target.
pub(super) struct Mutator {
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static [u8]],
}

impl Mutator {
    /// From valid inputs, and words that the format knows.
    pub(super) fn new(seeds: Vec<Vec<u8>>, words: &'static [&'static [u8]]) -> Self {
        assert!(!seeds.is_empty(), "there is nothing to change");
        Self { seeds, words }
    }

    /// The input of run number `run`. The first ones are the valid inputs as they are.
    pub(super) fn input(&self, seed: u64, run: u64) -> Vec<u8> {
        if let Some(valid) = usize::try_from(run).ok().and_then(|run| self.seeds.get(run)) {
            return valid.clone();
        }
        let mut random = Random::new(seed ^ run.rotate_left(32));
        if random.below(WILD_ONE_IN) == 0 {
            return bytes(&mut random, WILD_BYTES_MAX);
        }
        let mut input = random.pick(&self.seeds).clone();
        for _ in 0..=random.below(CHANGES_MAX) {
            self.change(&mut random, &mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&self, random: &mut Random, input: &mut Vec<u8>) {
        let at = random.below(input.len());
        // Damage near the front meets headers and lengths.
        let at = if random.chance(30) { at % 64 } else { at };
        let end = at + random.below(input.len() - at.min(input.len()) + 1).min(200);
        match random.weighted(&[30, 15, 20, 8, 8, 8, 8, 10, 8]) {
            _ if input.is_empty() => *input = bytes(random, 16),
            0 => input[at] ^= 1 << random.below(8),
            1 => {
                let other = byte(random);
                input[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff, other]);
            }
            2 => set_number(random, input, at),
            3 => input.truncate(at),
            4 => drop(input.drain(at..end)),
            5 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            6 => {
                let new = bytes(random, 24);
                input.splice(at..at, new);
            }
            // The end of another valid input, or a piece of it.
            7 => {
                let other = random.pick(&self.seeds);
                let from = random.below(other.len());
                let to = if random.chance(50) {
                    other.len()
                } else {
                    from + random.below(other.len() - from)
                };
                let until = if random.chance(50) { input.len() } else { at };
                input.splice(at..until, other[from..to].iter().copied());
            }
            _ if self.words.is_empty() => input[at] = byte(random),
            _ => {
                let word = random.pick(self.words);
                input.splice(at..at, word.iter().copied());
            }
        }
    }
}

/// Writes a number where a length may be: fixed in either order, or a varint.
fn set_number(random: &mut Random, input: &mut Vec<u8>, at: usize) {
    let near = (input.len() as u64).wrapping_add(random.bits() % 5).wrapping_sub(2);
    let number = match random.below(3) {
        0 => near,
        1 => random.bits() % 300,
        _ => *random.pick(&NUMBERS),
    };
    let width = *random.pick(&[1, 2, 4, 8]);
    let field = match random.below(5) {
        0 | 1 => number.to_le_bytes()[..width].to_vec(),
        2 | 3 => number.to_be_bytes()[8 - width..].to_vec(),
        _ => varint(number),
    };
    let end = (at + field.len()).min(input.len());
    input.splice(at..end, field);
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 0x7f {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
    out
}

fn byte(random: &mut Random) -> u8 {
    random.bits().to_le_bytes()[0]
}

fn bytes(random: &mut Random, max: usize) -> Vec<u8> {
    (0..random.below(max + 1)).map(|_| byte(random)).collect()
}
