//! A set of interrupt vectors: one of the three 256-bit registers IRR, ISR and TMR (Intel SDM, volume 3, 11.8.4).
//!
//! Members may be added from any CPU; `_own` forms are for sets that only the owning vCPU writes, and cost no locked
//! access. Vectors 0 to 15 are never members, so that 0 can stand for "none".

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// Bits of vectors 0 to 255.
#[derive(Default)]
pub struct VectorSet([AtomicU64; 4]);

const fn bit(vector: u8) -> u64 {
    1 << (vector & 63)
}

impl VectorSet {
    fn word(&self, vector: u8) -> &AtomicU64 {
        &self.0[usize::from(vector >> 6)]
    }

    /// Adds a vector, from any CPU; true when it was not a member. Ordered before what the caller reads next, so that
    /// the caller may look where the owner runs and the owner may look for members, and one of them sees the other.
    pub fn insert(&self, vector: u8) -> bool {
        self.word(vector).fetch_or(bit(vector), SeqCst) & bit(vector) == 0
    }

    /// Takes a vector out, from any CPU.
    pub fn remove(&self, vector: u8) {
        self.word(vector).fetch_and(!bit(vector), SeqCst);
    }

    /// Adds a vector to a set that only the caller's CPU writes.
    pub fn insert_own(&self, vector: u8) {
        let word = self.word(vector);
        word.store(word.load(Relaxed) | bit(vector), Relaxed);
    }

    /// Takes a vector out of a set that only the caller's CPU writes.
    pub fn remove_own(&self, vector: u8) {
        let word = self.word(vector);
        word.store(word.load(Relaxed) & !bit(vector), Relaxed);
    }

    /// Empties the set and tells what was in it, while other CPUs may add.
    #[inline]
    pub fn take(&self) -> [u64; 4] {
        self.0.each_ref().map(|word| match word.load(Relaxed) {
            0 => 0,
            _ => word.swap(0, SeqCst),
        })
    }

    /// Adds all of these, from any CPU.
    pub fn insert_all(&self, words: [u64; 4]) {
        for (word, more) in self.0.iter().zip(words) {
            if more != 0 {
                word.fetch_or(more, SeqCst);
            }
        }
    }

    /// All members.
    pub fn words(&self) -> [u64; 4] {
        self.0.each_ref().map(|word| word.load(Relaxed))
    }

    /// Makes these the members of a set that only the caller's CPU writes.
    pub fn set_own(&self, words: [u64; 4]) {
        for (word, value) in self.0.iter().zip(words) {
            word.store(value, Relaxed);
        }
    }

    /// Whether a vector is a member.
    pub fn contains(&self, vector: u8) -> bool {
        self.word(vector).load(Relaxed) & bit(vector) != 0
    }

    /// The highest member, or 0.
    #[inline]
    pub fn highest(&self) -> u8 {
        for (index, word) in self.0.iter().enumerate().rev() {
            let bits = word.load(Relaxed);
            if bits != 0 {
                return (index as u8) << 6 | bits.ilog2() as u8;
            }
        }
        0
    }

    /// The highest member of a set with these words, or 0.
    pub fn highest_of(words: [u64; 4]) -> u8 {
        let found = (0u8..).zip(words).filter(|(_, bits)| *bits != 0).last();
        found.map_or(0, |(index, bits)| index << 6 | bits.ilog2() as u8)
    }

    /// The 32-bit register `index` (0 to 7) of the set; 0 beyond.
    pub fn register(&self, index: u32) -> u32 {
        let word = self
            .0
            .get(index as usize / 2)
            .map_or(0, |w| w.load(Relaxed));
        (word >> (32 * (index & 1))) as u32
    }

    /// Empties the set.
    pub fn clear(&self) {
        for word in &self.0 {
            word.store(0, SeqCst);
        }
    }
}
