//! The interrupts that a vCPU could take, by number: one bit each and a summary bit per word, so that finding the next
//! and asking for "any" cost a count of zeroes.

/// Words of 32 interrupt numbers; word 0 is the private ones.
pub(super) const WORDS: usize = 32;

/// A set of interrupt numbers below 1024.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    words: [u32; WORDS],
    summary: u32,
}

impl Queue {
    #[inline]
    pub(super) fn insert(&mut self, intid: u32) {
        let word = intid as usize >> 5 & 31;
        self.words[word] |= 1 << (intid & 31);
        self.summary |= 1 << word;
    }

    /// Inserts private interrupts, one bit each.
    #[inline]
    pub(super) fn insert_private(&mut self, private: u32) {
        self.words[0] |= private;
        self.summary |= u32::from(self.words[0] != 0);
    }

    #[inline]
    pub(super) fn remove(&mut self, intid: u32) {
        let word = intid as usize >> 5 & 31;
        self.words[word] &= !(1 << (intid & 31));
        if self.words[word] == 0 {
            self.summary &= !(1 << word);
        }
    }

    pub(super) const fn contains(&self, intid: u32) -> bool {
        self.words[intid as usize >> 5 & 31] & 1 << (intid & 31) != 0
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.summary == 0
    }

    /// The queued private interrupts, when no shared one is queued.
    #[inline]
    pub(super) const fn only_private(&self) -> Option<u32> {
        if self.summary <= 1 {
            Some(self.words[0])
        } else {
            None
        }
    }

    /// The interrupt numbers, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        bits(self.summary)
            .flat_map(|word| bits(self.words[word as usize]).map(move |b| word * 32 + b))
    }
}

/// The numbers of the bits that are set, ascending.
#[inline]
pub(super) fn bits(mut word: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_gives_back_what_was_put_in_ascending() {
        let mut queue = Queue::default();
        for intid in [1019, 3, 31, 32, 64, 3] {
            queue.insert(intid);
        }
        assert!(queue.iter().eq([3, 31, 32, 64, 1019]));
        assert_eq!(queue.only_private(), None);
        for intid in [32, 64, 1019] {
            queue.remove(intid);
        }
        assert_eq!(queue.only_private(), Some(1 << 3 | 1 << 31));
        queue.remove(3);
        queue.remove(31);
        queue.insert_private(0);
        assert!(queue.is_empty());
        queue.insert_private(1 << 5 | 1 << 30);
        queue.insert_private(1 << 5);
        assert!(queue.iter().eq([5, 30]));
    }
}
