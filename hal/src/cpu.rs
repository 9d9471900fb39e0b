//! Physical CPUs by number, and sets of them.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// How many physical CPUs a machine may have.
pub const MAX_CPUS: usize = 256;

const WORDS: usize = MAX_CPUS / 64;

/// A physical CPU, numbered from 0 in the order they came up; always below [`MAX_CPUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CpuId(pub u16);

impl CpuId {
    /// As an index into a table with one entry per CPU.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of physical CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMask([u64; WORDS]);

impl CpuMask {
    /// No CPU.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// Every CPU, present or not.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// Only `cpu`.
    #[must_use]
    pub fn only(cpu: CpuId) -> Self {
        let mut mask = Self::EMPTY;
        mask.insert(cpu);
        mask
    }

    /// Adds a CPU; numbers past [`MAX_CPUS`] are left out.
    pub fn insert(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(cpu.index() / 64) {
            *word |= 1 << (cpu.index() % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(cpu.index() / 64) {
            *word &= !(1 << (cpu.index() % 64));
        }
    }

    /// Whether the CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0
            .get(cpu.index() / 64)
            .is_some_and(|word| word >> (cpu.index() % 64) & 1 != 0)
    }

    /// The CPUs in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut out = *self;
        for (a, b) in out.0.iter_mut().zip(other.0) {
            *a &= b;
        }
        out
    }

    /// Whether no CPU is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many CPUs are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The CPUs in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.0.iter().zip(0u16..).flat_map(|(word, at)| {
            let mut left = *word;
            core::iter::from_fn(move || {
                let low = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(CpuId(at * 64 + low as u16))
            })
        })
    }

    /// The lowest CPU in the set.
    #[must_use]
    pub fn first(&self) -> Option<CpuId> {
        self.0
            .iter()
            .zip(0u16..)
            .find(|(word, _)| **word != 0)
            .map(|(word, at)| CpuId(at * 64 + word.trailing_zeros() as u16))
    }
}

/// A set of physical CPUs that any CPU changes without a lock. Single CPUs are added, taken out and looked up atomically;
/// a copy of the whole set may mix words from before and after a change made meanwhile.
#[derive(Debug)]
pub struct AtomicCpuMask([AtomicU64; WORDS]);

impl AtomicCpuMask {
    /// No CPU.
    #[must_use]
    pub const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Every CPU, present or not.
    #[must_use]
    pub const fn all() -> Self {
        Self([const { AtomicU64::new(u64::MAX) }; WORDS])
    }

    fn word(&self, cpu: CpuId) -> Option<(&AtomicU64, u64)> {
        let word = self.0.get(cpu.index() / 64)?;
        Some((word, 1 << (cpu.index() % 64)))
    }

    /// Adds a CPU; tells whether it was missing.
    pub fn insert(&self, cpu: CpuId) -> bool {
        self.word(cpu)
            .is_some_and(|(word, bit)| word.fetch_or(bit, SeqCst) & bit == 0)
    }

    /// Takes a CPU out; tells whether it was there.
    pub fn remove(&self, cpu: CpuId) -> bool {
        self.word(cpu)
            .is_some_and(|(word, bit)| word.fetch_and(!bit, SeqCst) & bit != 0)
    }

    /// Whether the CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.word(cpu)
            .is_some_and(|(word, bit)| word.load(SeqCst) & bit != 0)
    }

    /// Whether that CPU alone is in the set.
    #[must_use]
    #[inline]
    pub fn is_only(&self, cpu: CpuId) -> bool {
        let others = self.0.iter().zip(CpuMask::only(cpu).0);
        others.fold(0, |all, (word, own)| all | word.load(SeqCst) ^ own) == 0
    }

    /// A copy.
    #[must_use]
    pub fn load(&self) -> CpuMask {
        let mut out = CpuMask::EMPTY;
        for (to, from) in out.0.iter_mut().zip(&self.0) {
            *to = from.load(SeqCst);
        }
        out
    }

    /// Replaces the set, word by word.
    pub fn store(&self, mask: &CpuMask) {
        for (to, from) in self.0.iter().zip(mask.0) {
            to.store(from, SeqCst);
        }
    }

    /// Whether no CPU is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(SeqCst) == 0)
    }
}
