//! Ranges of physical addresses, and sets of them.
//!
//! A [`PhysRange`] is half open and never wraps: `start <= end`. A [`RangeSet`] keeps its ranges sorted, apart from each
//! other and not empty, whatever is inserted or removed.

use alloc::vec::Vec;
use core::fmt;

use xenolith_hal::{HostPhys, PAGE_MASK};

/// Bytes from `start` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysRange {
    start: u64,
    end: u64,
}

impl PhysRange {
    /// `size` bytes from `start`; `None` when the end does not fit 64 bits.
    #[must_use]
    pub const fn new(start: u64, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// From `start` to `end`; empty at `start` when `end` lies before it.
    #[must_use]
    pub const fn between(start: u64, end: u64) -> Self {
        let end = if end < start { start } else { end };
        Self { start, end }
    }

    /// The first byte.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The byte after the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The first byte, as an address of the machine.
    #[must_use]
    pub const fn base(&self) -> HostPhys {
        HostPhys(self.start)
    }

    /// Number of bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether the two share a byte.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }

    /// Whether every byte of `other` is in this range.
    #[must_use]
    pub const fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether the byte at an address is in this range.
    #[must_use]
    pub const fn contains_address(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// The bytes in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self::between(self.start.max(other.start), self.end.min(other.end))
    }

    /// The whole frames that the range touches; `None` when the end would pass the end of the address space.
    #[must_use]
    pub fn page_outer(&self) -> Option<Self> {
        if self.is_empty() {
            return Some(Self::between(
                self.start & !PAGE_MASK,
                self.start & !PAGE_MASK,
            ));
        }
        let end = self.end.checked_add(PAGE_MASK)? & !PAGE_MASK;
        Some(Self::between(self.start & !PAGE_MASK, end))
    }

    /// The part of the range whose start and end are multiples of `align`, a power of two.
    #[must_use]
    pub fn aligned_inner(&self, align: u64) -> Self {
        match align_up(self.start, align) {
            Some(start) => Self::between(start, align_down(self.end, align)),
            None => Self::between(self.end, self.end),
        }
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As `0x40000000-0x7fffffff`, with the last byte, as memory maps are commonly printed.
impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            write!(f, "{:#x} (empty)", self.start)
        } else {
            write!(f, "{:#x}-{:#x}", self.start, self.end - 1)
        }
    }
}

/// `value` rounded up to a multiple of `align`, a power of two.
#[must_use]
pub const fn align_up(value: u64, align: u64) -> Option<u64> {
    let mask = align.wrapping_sub(1);
    match value.checked_add(mask) {
        Some(sum) => Some(sum & !mask),
        None => None,
    }
}

/// `value` rounded down to a multiple of `align`, a power of two.
#[must_use]
pub const fn align_down(value: u64, align: u64) -> u64 {
    value & !align.wrapping_sub(1)
}

/// A set of bytes, kept as sorted ranges that neither touch nor overlap.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RangeSet {
    ranges: Vec<PhysRange>,
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Adds the bytes of a range.
    pub fn insert(&mut self, range: PhysRange) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let after = self.ranges.partition_point(|r| r.start <= range.end);
        let mut merged = range;
        for old in self.ranges.get(first..after).unwrap_or_default() {
            merged = PhysRange::between(merged.start.min(old.start), merged.end.max(old.end));
        }
        self.ranges.splice(first..after.max(first), [merged]);
    }

    /// Takes the bytes of a range out.
    pub fn remove(&mut self, range: PhysRange) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let after = self.ranges.partition_point(|r| r.start < range.end);
        let mut rest = Vec::new();
        for old in self.ranges.get(first..after).unwrap_or_default() {
            for part in [
                PhysRange::between(old.start, range.start.min(old.end)),
                PhysRange::between(range.end.max(old.start), old.end),
            ] {
                if !part.is_empty() {
                    rest.push(part);
                }
            }
        }
        self.ranges.splice(first..after.max(first), rest);
    }

    /// Whether every byte of `range` is in the set.
    #[must_use]
    pub fn contains(&self, range: &PhysRange) -> bool {
        range.is_empty() || self.ranges.iter().any(|r| r.contains(range))
    }

    /// The range of the set that holds every byte of `range`.
    #[must_use]
    pub fn enclosing(&self, range: &PhysRange) -> Option<PhysRange> {
        self.ranges.iter().find(|r| r.contains(range)).copied()
    }

    /// Whether a byte of `range` is in the set.
    #[must_use]
    pub fn overlaps(&self, range: &PhysRange) -> bool {
        self.ranges.iter().any(|r| r.overlaps(range))
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = PhysRange> + '_ {
        self.ranges.iter().copied()
    }

    /// Number of bytes in the set.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.ranges
            .iter()
            .fold(0, |sum, r| sum.saturating_add(r.size()))
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The lowest aligned place for `size` bytes.
    #[must_use]
    pub fn lowest_fit(&self, size: u64, align: u64) -> Option<PhysRange> {
        self.iter().find_map(|r| {
            let place = PhysRange::new(align_up(r.start, align)?, size)?;
            r.contains(&place).then_some(place)
        })
    }

    /// The highest aligned place for `size` bytes.
    #[must_use]
    pub fn highest_fit(&self, size: u64, align: u64) -> Option<PhysRange> {
        self.iter().rev().find_map(|r| {
            let start = align_down(r.end.checked_sub(size)?, align);
            let place = PhysRange::new(start, size)?;
            r.contains(&place).then_some(place)
        })
    }
}

impl FromIterator<PhysRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = PhysRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.ranges).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small() -> impl Strategy<Value = PhysRange> {
        (0u64..64, 0u64..16).prop_map(|(start, size)| PhysRange::between(start, start + size))
    }

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in_and_not_taken_out(
            steps in proptest::collection::vec((any::<bool>(), small()), 0..40)
        ) {
            let mut set = RangeSet::new();
            let mut model = [false; 96];
            for (add, range) in steps {
                if add { set.insert(range) } else { set.remove(range) }
                for at in range.start()..range.end() {
                    model[at as usize] = add;
                }
                let held: Vec<_> = set.iter().collect();
                for pair in held.windows(2) {
                    prop_assert!(pair[0].end() < pair[1].start());
                }
                for (at, is_in) in model.iter().enumerate() {
                    let byte = PhysRange::between(at as u64, at as u64 + 1);
                    prop_assert_eq!(set.contains(&byte), *is_in);
                }
            }
            prop_assert_eq!(set.size(), model.iter().filter(|b| **b).count() as u64);
        }

        #[test]
        fn fits_lie_in_the_set_and_are_aligned(
            ranges in proptest::collection::vec(small(), 0..10), size in 1u64..20, shift in 0u32..5
        ) {
            let set: RangeSet = ranges.into_iter().collect();
            let align = 1 << shift;
            for place in [set.lowest_fit(size, align), set.highest_fit(size, align)].into_iter().flatten() {
                prop_assert!(set.contains(&place));
                prop_assert_eq!(place.start() % align, 0);
                prop_assert_eq!(place.size(), size);
            }
            prop_assert_eq!(set.lowest_fit(size, align).is_some(), set.highest_fit(size, align).is_some());
        }
    }

    #[test]
    fn ranges_at_the_end_of_the_address_space_do_not_wrap() {
        assert_eq!(PhysRange::new(u64::MAX, 2), None);
        let last = PhysRange::new(u64::MAX - 10, 10).unwrap();
        assert_eq!(last.page_outer(), None);
        assert!(last.aligned_inner(4096).is_empty());
        let set: RangeSet = [last].into_iter().collect();
        assert_eq!(set.lowest_fit(1, 4096), None);
    }
}
