//! Runs a fuzz target on a stable toolchain, for a fixed number of inputs: seeds that are valid, then bent.
//!
//! Each test prints its seed; `FUZZ_SEED=N` repeats that run, `FUZZ_ROUNDS=N` makes it longer. An input that breaks a
//! target is written beside the test's temporary files, named in the message. Included by the tests that use it.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
};

/// Marsaglia's xorshift, 64 bits.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `limit`; 0 when that is 0.
    fn below(&mut self, limit: usize) -> usize {
        self.next().checked_rem(limit as u64).unwrap_or(0) as usize
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Values at the edges of what parsers compute with.
const EDGES: [u64; 10] = [
    0,
    1,
    u64::MAX,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1000,
    1 << 63,
    0xffff_f000,
    3,
];

/// Bends `bytes` a few times.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(9) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
            // A 32-bit or 64-bit number at the edge, in either byte order.
            2..=4 => {
                let value = EDGES[random.below(EDGES.len())];
                let word = match random.below(4) {
                    0 => (value as u32).to_be_bytes().to_vec(),
                    1 => (value as u32).to_le_bytes().to_vec(),
                    2 => value.to_be_bytes().to_vec(),
                    _ => value.to_le_bytes().to_vec(),
                };
                let at = at & !3;
                for (to, from) in bytes.iter_mut().skip(at).zip(word) {
                    *to = from;
                }
            }
            5 => bytes.truncate(at),
            6 => {
                let end = (at + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            7 => {
                let end = (at + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                let piece = &other[from..(from + random.below(256)).min(other.len())];
                for (to, byte) in bytes.iter_mut().skip(at).zip(piece) {
                    *to = *byte;
                }
            }
        }
    }
}

/// Runs `target` over the seeds and `rounds` bent ones.
pub fn drive(name: &str, seeds: &[Vec<u8>], rounds: u64, target: fn(&[u8])) {
    let seed = number("FUZZ_SEED").unwrap_or(0x5eed_0fd0_0b1e_c7ed).max(1);
    let rounds = number("FUZZ_ROUNDS").unwrap_or(rounds);
    println!("{name}: FUZZ_SEED={seed} FUZZ_ROUNDS={rounds}");
    let mut random = Random(seed);
    let run = |input: &[u8]| {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| target(input))) {
            let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.crash"));
            let _ = fs::write(&kept, input);
            eprintln!(
                "{name}: FUZZ_SEED={seed}; the input is in {}",
                kept.display()
            );
            resume_unwind(cause);
        }
    };
    seeds.iter().for_each(|seed| run(seed));
    for _ in 0..rounds {
        let mut input = seeds[random.below(seeds.len())].clone();
        mutate(&mut random, &mut input, seeds);
        run(&input);
    }
}
