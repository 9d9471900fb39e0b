//! Room for large objects, lent to the heap for a time: one after the other from its start, and all free again once the
//! last is given back.

use core::{alloc::Layout, ops::Range};

/// From this size on an object may have its place here.
const LARGE: usize = 1 << 20;

/// The room, and how much of it is in use.
pub(crate) struct Lent {
    room: Range<usize>,
    /// Where the next object goes.
    next: usize,
    objects: usize,
}

impl Lent {
    /// No room.
    pub(crate) const fn new() -> Self {
        Self {
            room: 0..0,
            next: 0,
            objects: 0,
        }
    }

    /// Whether an object like this can have its place in such room.
    #[inline]
    pub(crate) const fn serves(layout: Layout) -> bool {
        layout.size() >= LARGE
    }

    /// The room is there from now on. What is left of an earlier one is used by nobody any more.
    pub(crate) fn begin(&mut self, room: Range<usize>) {
        self.next = room.start;
        self.room = room;
    }

    /// The room is there no longer. Whether nothing is in it.
    pub(crate) fn end(&mut self) -> bool {
        let free = self.objects == 0;
        if free {
            *self = Self::new();
        }
        free
    }

    /// The address of a new object; `None` where it does not fit.
    pub(crate) fn take(&mut self, layout: Layout) -> Option<usize> {
        let start = self.next.checked_next_multiple_of(layout.align())?;
        let end = start.checked_add(layout.size())?;
        if end > self.room.end {
            return None;
        }
        self.next = end;
        self.objects += 1;
        Some(start)
    }

    /// Takes an object back; false if its place is elsewhere.
    pub(crate) fn give_back(&mut self, address: usize) -> bool {
        if !self.room.contains(&address) {
            return false;
        }
        self.objects = self.objects.saturating_sub(1);
        if self.objects == 0 {
            self.next = self.room.start;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 16).unwrap()
    }

    #[test]
    fn objects_follow_each_other_and_the_last_one_frees_the_room() {
        let mut lent = Lent::new();
        assert_eq!(lent.take(layout(LARGE)), None, "nothing is lent");
        lent.begin(0x1001..0x1001 + 3 * LARGE);
        let first = lent.take(layout(LARGE)).unwrap();
        let second = lent.take(layout(LARGE)).unwrap();
        assert_eq!((first, second), (0x1010, 0x1010 + LARGE));
        assert_eq!(lent.take(layout(LARGE)), None, "not whole");
        assert!(!lent.give_back(0x1000), "not from here");
        assert!(lent.give_back(first));
        assert!(!lent.end(), "one is left");
        assert!(lent.give_back(second));
        assert_eq!(lent.take(layout(2 * LARGE)), Some(0x1010));
        assert!(lent.give_back(0x1010) && lent.end());
        assert_eq!(lent.take(layout(LARGE)), None, "it is over");
    }

    #[test]
    fn a_size_beyond_the_address_space_does_not_fit() {
        let mut lent = Lent::new();
        lent.begin(usize::MAX - LARGE..usize::MAX);
        assert_eq!(lent.take(layout(isize::MAX as usize - 15)), None);
    }
}
