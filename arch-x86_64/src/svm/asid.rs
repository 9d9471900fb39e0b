//! Address space identifiers of one physical CPU (AMD APM, volume 2, 15.16).
//!
//! Instead of flushing a guest's translations, its vCPU gets an identifier that was not used since the last complete
//! flush of this CPU; when none is left, everything is flushed and the numbers begin anew. Identifier 0 is the host's.

use core::cell::Cell;

/// The identifiers of one CPU.
pub struct Asids {
    /// How many the CPU has, the host's among them.
    count: u32,
    next: Cell<u32>,
    generation: Cell<u64>,
}

/// An identifier with the generation that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asid {
    /// The number for the control block.
    pub number: u32,
    generation: u64,
}

impl Asid {
    /// No identifier: belongs to no generation.
    pub const NONE: Self = Self {
        number: 0,
        generation: 0,
    };
}

impl Asids {
    /// A CPU with `count` identifiers (CPUID 8000_000A, EBX).
    #[must_use]
    pub const fn new(count: u32) -> Self {
        Self {
            count,
            next: Cell::new(1),
            generation: Cell::new(1),
        }
    }

    /// Whether an identifier given before is still its owner's.
    #[inline]
    #[must_use]
    pub fn is_current(&self, asid: Asid) -> bool {
        asid.generation == self.generation.get()
    }

    /// An identifier that no translation on this CPU is known by; the CPU must flush everything first if the second
    /// value says so.
    #[must_use]
    pub fn take(&self) -> (Asid, bool) {
        let mut number = self.next.get();
        let flush = number >= self.count.max(2);
        if flush {
            self.generation.set(self.generation.get() + 1);
            number = 1;
        }
        self.next.set(number + 1);
        let asid = Asid {
            number,
            generation: self.generation.get(),
        };
        (asid, flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_used_twice_without_a_flush_between() {
        let asids = Asids::new(4);
        let mut used = std::vec::Vec::new();
        for _ in 0..100 {
            let (asid, flush) = asids.take();
            if flush {
                used.clear();
            }
            assert!((1..4).contains(&asid.number) && !used.contains(&asid.number));
            used.push(asid.number);
        }
    }

    #[test]
    fn a_flush_takes_all_earlier_numbers_away() {
        let asids = Asids::new(3);
        let (first, _) = asids.take();
        assert!(asids.is_current(first) && !asids.is_current(Asid::NONE));
        let (_, flush) = asids.take();
        assert!(!flush && asids.is_current(first));
        let (third, flush) = asids.take();
        assert!(flush && !asids.is_current(first) && asids.is_current(third));
    }
}
