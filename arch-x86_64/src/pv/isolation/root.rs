//! What is in the root of an isolated guest.
//!
//! | slots | what |
//! |---|---|
//! | 0..=255, 272..=511 | as in the guest's root |
//! | 256 | the machine-to-physical table that guests read, if the guest's root has it |
//! | 261 | the code and the data of entry and exit, and the CPU's own window ([`crate::pv::gate`]) |
//! | the hypervisor's others | nothing |

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};

use alloc::vec::Vec;
use xenolith_arch_common::Entry;
use xenolith_hal::Mfn;

use crate::mm::{
    layout::{IMAGE_SLOTS, ROOT_SLOTS},
    pte,
};

/// A table.
pub type Words = [AtomicU64; 512];
/// The root's slot with the machine-to-physical table.
const FRAMES: usize = ROOT_SLOTS.start;
/// The root's slot with the image and the windows.
const IMAGE: usize = IMAGE_SLOTS[0] as usize;

/// Tables by their frame.
pub trait TableMemory {
    /// The words of a table.
    fn words(&self, table: Mfn) -> Option<&Words>;
}

const fn slot(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (pte::LEVELS - 1 - level))) as usize & 511
}

/// Makes an entry of a table; false: there is no such table.
fn set(memory: &impl TableMemory, table: Mfn, index: usize, entry: u64) -> bool {
    let word = memory.words(table).and_then(|words| words.get(index));
    word.map(|word| word.store(entry, Relaxed)).is_some()
}

const fn pointer(table: Mfn) -> u64 {
    table.base().0 | pte::POINTER
}

/// The tables of the hypervisor's part, which the builder fills. All are empty before.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Of the second level, for the slot of the image.
    pub second: Mfn,
    /// Of the third level, for the image.
    pub image: Mfn,
    /// Of the last level, for the image.
    pub pages: Mfn,
    /// Of the third level, for the window.
    pub windows: Mfn,
}

/// Makes the hypervisor's part: pages of the image, each an address and its entry, and a window, an address in it and the
/// hypervisor's table of the last level. False: a table is missing.
pub fn build(
    memory: &impl TableMemory,
    tables: Tables,
    pages: impl IntoIterator<Item = (u64, u64)>,
    (window, window_pages): (u64, Mfn),
) -> bool {
    let mut whole = true;
    for (address, entry) in pages {
        whole &= set(
            memory,
            tables.second,
            slot(address, 1),
            pointer(tables.image),
        );
        whole &= set(
            memory,
            tables.image,
            slot(address, 2),
            pointer(tables.pages),
        );
        whole &= set(memory, tables.pages, slot(address, 3), entry);
    }
    whole &= set(
        memory,
        tables.second,
        slot(window, 1),
        pointer(tables.windows),
    );
    whole
        && set(
            memory,
            tables.windows,
            slot(window, 2),
            pointer(window_pages),
        )
}

/// Makes `to` the isolated form of a guest's root `from`; `second` is the table of the second level that [`build`] filled.
pub fn copy(to: &Words, from: &Words, second: Mfn) {
    for (index, (to, from)) in to.iter().zip(from).enumerate() {
        let entry = match index {
            IMAGE => pointer(second),
            FRAMES => from.load(Acquire),
            index if ROOT_SLOTS.contains(&index) => 0,
            _ => from.load(Acquire),
        };
        if to.load(Relaxed) != entry {
            to.store(entry, Relaxed);
        }
    }
}

/// What of the hypervisor's addresses a root maps beside the machine-to-physical table: first address and bytes of each page
/// or block. `None`: a table is missing.
#[must_use]
pub fn shown(memory: &impl TableMemory, root: Mfn) -> Option<Vec<(u64, u64)>> {
    const UPPER_HALF: u64 = 0xffff_0000_0000_0000;
    let mut found = Vec::new();
    let words = memory.words(root)?;
    for (index, word) in words.iter().enumerate() {
        if ROOT_SLOTS.contains(&index) && index != FRAMES {
            let at = UPPER_HALF | (index as u64) << 39;
            below(memory, word.load(Relaxed), at, 0, &mut found)?;
        }
    }
    Some(found)
}

fn below(
    memory: &impl TableMemory,
    entry: u64,
    at: u64,
    level: u32,
    found: &mut Vec<(u64, u64)>,
) -> Option<()> {
    let shift = 12 + 9 * (pte::LEVELS - 1 - level);
    match pte::decode(entry, level) {
        Entry::Empty => {}
        Entry::Leaf => found.push((at, 1 << shift)),
        Entry::Table(table) => {
            let words = memory.words(Mfn(table >> 12))?;
            for (index, word) in words.iter().enumerate() {
                let at = at | (index as u64) << (shift - 9);
                below(memory, word.load(Relaxed), at, level + 1, found)?;
            }
        }
    }
    Some(())
}

/// Whether all that [`shown`] found is in these ranges.
#[must_use]
pub fn is_within(found: &[(u64, u64)], allowed: &[core::ops::Range<u64>]) -> bool {
    let fits = |at: u64, bytes: u64| {
        let mut ranges = allowed.iter();
        ranges.any(|range| {
            range.start <= at && range.end - range.start >= bytes && at <= range.end - bytes
        })
    };
    found.iter().all(|(at, bytes)| fits(*at, *bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::layout::{DIRECT_VA, IMAGE_VA};
    use std::boxed::Box;

    /// Tables by number.
    struct Memory(Vec<Box<Words>>);

    impl Memory {
        fn new(tables: usize) -> Self {
            let empty = || Box::new([const { AtomicU64::new(0) }; 512]);
            Self((0..tables).map(|_| empty()).collect())
        }
    }

    impl TableMemory for Memory {
        fn words(&self, table: Mfn) -> Option<&Words> {
            self.0.get(table.0 as usize).map(|words| &**words)
        }
    }

    const GUEST: Mfn = Mfn(0);
    const ISOLATED: Mfn = Mfn(1);
    const WINDOW_PAGES: Mfn = Mfn(6);
    const TABLES: Tables = Tables {
        second: Mfn(2),
        image: Mfn(3),
        pages: Mfn(4),
        windows: Mfn(5),
    };
    const WINDOW: u64 = IMAGE_VA + 0x4000_0000 + 3 * 0x20_0000;
    const TEXT: u64 = IMAGE_VA + 0x3000;

    /// A guest's root with all of the hypervisor in it, and its isolated form.
    fn isolated() -> Memory {
        let memory = Memory::new(8);
        for (index, word) in memory.0[0].iter().enumerate() {
            // What is behind a guest's entries is of no interest; the hypervisor's are blocks of 512 GiB.
            word.store(0x5000_0000_0000 | (index as u64) << 12 | 0x81, Relaxed);
        }
        memory.0[WINDOW_PAGES.0 as usize][7].store(0x77_7000 | pte::DATA, Relaxed);
        let pages = [
            (TEXT, 0x20_3000 | pte::TEXT),
            (TEXT + 0x1000, 0x20_4000 | pte::READ_ONLY),
        ];
        assert!(build(&memory, TABLES, pages, (WINDOW, WINDOW_PAGES)));
        copy(
            memory.words(ISOLATED).unwrap(),
            memory.words(GUEST).unwrap(),
            TABLES.second,
        );
        memory
    }

    #[test]
    fn an_isolated_root_shows_of_the_hypervisor_what_entry_and_exit_need() {
        let memory = isolated();
        let mut found = shown(&memory, ISOLATED).unwrap();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                (TEXT, 0x1000),
                (TEXT + 0x1000, 0x1000),
                (WINDOW + 0x7000, 0x1000)
            ]
        );
        assert!(is_within(
            &found,
            &[TEXT..TEXT + 0x2000, WINDOW..WINDOW + 0x20_0000]
        ));
    }

    #[test]
    fn the_direct_map_is_not_in_an_isolated_root_and_would_be_found() {
        let memory = isolated();
        let root = memory.words(ISOLATED).unwrap();
        let direct = (DIRECT_VA >> 39) as usize & 511;
        assert_eq!(root[direct].load(Relaxed), 0);
        root[direct].store(0x81, Relaxed);
        let found = shown(&memory, ISOLATED).unwrap();
        assert!(found.contains(&(DIRECT_VA, 1 << 39)));
        assert!(!is_within(
            &found,
            &[TEXT..TEXT + 0x2000, WINDOW..WINDOW + 0x20_0000]
        ));
    }

    #[test]
    fn the_full_root_is_not_taken_for_an_isolated_one() {
        let memory = isolated();
        let found = shown(&memory, GUEST).unwrap();
        assert_eq!(found.len(), ROOT_SLOTS.len() - 1);
        assert!(!is_within(
            &found,
            &[TEXT..TEXT + 0x2000, WINDOW..WINDOW + 0x20_0000]
        ));
    }

    #[test]
    fn the_guests_entries_are_all_copied_and_entries_that_went_go() {
        let memory = isolated();
        let (guest, root) = (
            memory.words(GUEST).unwrap(),
            memory.words(ISOLATED).unwrap(),
        );
        let same = |index: usize| guest[index].load(Relaxed) == root[index].load(Relaxed);
        assert!((0..=256).chain(272..512).all(same));
        assert!((257..272).all(|index| index == IMAGE || root[index].load(Relaxed) == 0));
        guest[3].store(0, Relaxed);
        guest[256].store(0, Relaxed);
        guest[400].store(0x1067, Relaxed);
        copy(root, guest, TABLES.second);
        assert!([3, 256, 400].into_iter().all(same));
    }

    #[test]
    fn a_missing_table_is_said() {
        let memory = Memory::new(3);
        assert!(!build(&memory, TABLES, [], (WINDOW, WINDOW_PAGES)));
        memory.0[1][IMAGE].store(pointer(Mfn(9)), Relaxed);
        assert_eq!(shown(&memory, ISOLATED), None);
    }
}
