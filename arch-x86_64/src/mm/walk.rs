//! The guest's own paging in software (Intel SDM, volume 3, 4.3 to 4.8): no paging, 32-bit with 4 MiB pages and PSE-36, PAE,
//! and long mode with four levels.
//!
//! Rights, reserved bits and error codes are the CPU's, for a guest that is offered no protection keys, no shadow stacks and
//! no five levels. An access that is allowed sets accessed bits and, when it writes, the dirty bit, by compare-exchange as
//! the CPU would; one that is refused sets none. PAE's four page-directory pointers are read from memory at each walk, as
//! AMD's CPUs do. Pure over [`TableWords`].

use x86_64::{registers::control::Cr4Flags, structures::paging::PageTableFlags};
use xenolith_hal::GuestPhys;

use crate::guest::paging::{Access, PageFault, PagingLimits, PagingMode, PagingState};

/// Tables on the longest way to a page.
pub const MOST_TABLES: usize = 4;

/// The guest-physical memory that tables lie in.
pub trait TableWords {
    /// The eight bytes at an address that is a multiple of eight, read in the table at this depth (0 is the root); `None`
    /// where there is no memory.
    fn load(&mut self, depth: usize, at: GuestPhys) -> Option<u64>;
    /// Writes `new` over `old`, as loaded before at this depth; false when the word is another by now, `None` where nothing
    /// may be written.
    fn replace(&mut self, depth: usize, at: GuestPhys, old: u64, new: u64) -> Option<bool>;
}

/// Where a linear address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address.
    pub address: GuestPhys,
    /// log2 bytes of the page.
    pub shift: u32,
    /// How many tables were read.
    pub tables: usize,
    /// What the tables allow.
    pub rights: Rights,
}

/// What all entries on the way allow together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Stores.
    pub writable: bool,
    /// Accesses of users.
    pub user: bool,
    /// Instruction fetches.
    pub executable: bool,
}

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest would take this page fault.
    Page(PageFault),
    /// The guest would take a general protection fault (a stack fault, for its stack): the address is not canonical.
    NotCanonical,
    /// What the access needs at this guest-physical address, a table or the target itself, is no memory that allows it.
    Memory(GuestPhys),
    /// The guest's other CPUs change the tables all the time.
    Unstable,
    /// A way of paging that no guest is offered.
    Unsupported,
}

mod entry {
    use super::PageTableFlags as Flags;

    pub const PRESENT: u64 = Flags::PRESENT.bits();
    pub const WRITABLE: u64 = Flags::WRITABLE.bits();
    pub const USER: u64 = Flags::USER_ACCESSIBLE.bits();
    pub const ACCESSED: u64 = Flags::ACCESSED.bits();
    pub const DIRTY: u64 = Flags::DIRTY.bits();
    pub const LARGE: u64 = Flags::HUGE_PAGE.bits();
    pub const NO_EXECUTE: u64 = Flags::NO_EXECUTE.bits();
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    pub const ADDRESS_32: u64 = 0xffff_f000;
}

/// Bits of a page fault's error code.
pub mod code {
    /// The page was present.
    pub const PRESENT: u32 = 1 << 0;
    /// A store.
    pub const WRITE: u32 = 1 << 1;
    /// From a user.
    pub const USER: u32 = 1 << 2;
    /// An entry had a reserved bit set.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch.
    pub const FETCH: u32 = 1 << 4;
}

/// Tries before a guest that keeps changing its tables is given up.
const TRIES: u32 = 16;

/// Translates a linear address for an access of the guest.
pub fn walk<W: TableWords>(
    state: &PagingState,
    limits: PagingLimits,
    linear: u64,
    access: Access,
    words: &mut W,
) -> Result<Translation, WalkError> {
    let mode = state.mode();
    let linear = match mode {
        PagingMode::FourLevel => linear,
        _ => linear & 0xffff_ffff,
    };
    let (root, shifts): (u64, &[u32]) = match mode {
        PagingMode::Off => return Ok(untranslated(linear)),
        PagingMode::FiveLevel => return Err(WalkError::Unsupported),
        PagingMode::TwoLevel => (state.cr3 & entry::ADDRESS_32, &[22, 12]),
        PagingMode::Pae => (state.cr3 & 0xffff_ffe0, &[30, 21, 12]),
        PagingMode::FourLevel if !is_canonical(linear) => return Err(WalkError::NotCanonical),
        PagingMode::FourLevel => (state.cr3 & entry::ADDRESS, &[39, 30, 21, 12]),
    };
    let mut walk = Walk {
        state,
        limits,
        mode,
        linear,
        access,
        words,
    };
    for _ in 0..TRIES {
        if let Some(found) = walk.attempt(root, shifts)? {
            return Ok(found);
        }
    }
    Err(WalkError::Unstable)
}

const fn untranslated(linear: u64) -> Translation {
    Translation {
        address: GuestPhys(linear),
        shift: 12,
        tables: 0,
        rights: Rights {
            writable: true,
            user: true,
            executable: true,
        },
    }
}

const fn is_canonical(linear: u64) -> bool {
    ((linear << 16) as i64 >> 16) as u64 == linear
}

/// An entry and the word that holds it.
#[derive(Clone, Copy, Default)]
struct Found {
    at: u64,
    word: u64,
    /// Where in the word the entry begins.
    shift: u32,
    entry: u64,
}

struct Walk<'a, W> {
    state: &'a PagingState,
    limits: PagingLimits,
    mode: PagingMode,
    linear: u64,
    access: Access,
    words: &'a mut W,
}

impl<W: TableWords> Walk<'_, W> {
    /// One walk; `None` when the tables changed under it.
    fn attempt(&mut self, root: u64, shifts: &[u32]) -> Result<Option<Translation>, WalkError> {
        let mut way = [Found::default(); MOST_TABLES];
        let mut table = root;
        let mut rights = Rights {
            writable: true,
            user: true,
            executable: true,
        };
        for (depth, (&shift, step)) in shifts.iter().zip(&mut way).enumerate() {
            let found = self.load(depth, table, shift)?;
            *step = found;
            if found.entry & entry::PRESENT == 0 {
                return Err(self.fault(0));
            }
            let leaf = self.is_leaf(found.entry, shift);
            if found.entry & self.reserved(found.entry, shift, leaf) != 0 {
                return Err(self.fault(code::PRESENT | code::RESERVED));
            }
            if !self.is_pointer_register(shift) {
                rights.writable &= found.entry & entry::WRITABLE != 0;
                rights.user &= found.entry & entry::USER != 0;
                rights.executable &= found.entry & entry::NO_EXECUTE == 0;
            }
            if leaf {
                if !self.allows(rights) {
                    return Err(self.fault(code::PRESENT));
                }
                let tables = depth + 1;
                if !self.mark(way.get(..tables).unwrap_or(&[]), shifts)? {
                    return Ok(None);
                }
                return Ok(Some(Translation {
                    address: self.target(found.entry, shift),
                    shift,
                    tables,
                    rights,
                }));
            }
            table = found.entry & self.address_bits();
        }
        // Not reached: an entry of the last table is a leaf.
        Err(WalkError::Unsupported)
    }

    fn address_bits(&self) -> u64 {
        match self.mode {
            PagingMode::TwoLevel => entry::ADDRESS_32,
            _ => entry::ADDRESS,
        }
    }

    fn load(&mut self, depth: usize, table: u64, shift: u32) -> Result<Found, WalkError> {
        let at = match self.mode {
            PagingMode::TwoLevel => table + (self.linear >> shift & 0x3ff) * 4,
            _ => table + (self.linear >> shift & 0x1ff) * 8,
        };
        let word_at = at & !7;
        let word = self
            .words
            .load(depth, GuestPhys(word_at))
            .ok_or(WalkError::Memory(GuestPhys(at)))?;
        let shift = (at - word_at) as u32 * 8;
        let entry = match self.mode {
            PagingMode::TwoLevel => word >> shift & 0xffff_ffff,
            _ => word,
        };
        Ok(Found {
            at: word_at,
            word,
            shift,
            entry,
        })
    }

    /// PAE's first level holds no rights and no accessed bits.
    fn is_pointer_register(&self, shift: u32) -> bool {
        self.mode == PagingMode::Pae && shift == 30
    }

    fn is_leaf(&self, entry: u64, shift: u32) -> bool {
        let large = match (self.mode, shift) {
            (_, 12) => return true,
            (PagingMode::TwoLevel, _) => self.state.has(Cr4Flags::PAGE_SIZE_EXTENSION),
            (PagingMode::FourLevel, 30) => self.limits.gigabyte_pages,
            (_, 21) => true,
            _ => false,
        };
        large && entry & entry::LARGE != 0
    }

    /// The bits that must be clear.
    fn reserved(&self, entry: u64, shift: u32, leaf: bool) -> u64 {
        let width = u32::from(self.limits.physical_bits).clamp(32, 52);
        if self.mode == PagingMode::TwoLevel {
            // PSE-36: the address goes on in bits 13 to 20, as far as the CPU's own addresses reach.
            return if leaf && shift == 22 {
                bits(width.min(40) - 19, 22)
            } else {
                0
            };
        }
        if self.is_pointer_register(shift) {
            // Bit 5 is reserved, too, but QEMU marks these entries as accessed in memory, as no CPU does.
            return bits(1, 3) | bits(6, 9) | bits(width, 64);
        }
        let mut reserved = match self.mode {
            PagingMode::Pae => bits(width, 63),
            _ => bits(width, 52),
        };
        if !self.state.no_execute() {
            reserved |= entry::NO_EXECUTE;
        }
        if leaf {
            // Bit 12 of a large page is part of its memory type.
            reserved |= bits(13, shift);
        } else if entry & entry::LARGE != 0 && shift > 21 {
            reserved |= entry::LARGE;
        }
        reserved
    }

    fn allows(&self, rights: Rights) -> bool {
        let state = self.state;
        if state.is_user() && !rights.user {
            return false;
        }
        let kernel_on_user = !state.is_user() && rights.user;
        let prevented =
            kernel_on_user && state.has(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION) && !state.ac;
        match self.access {
            Access::Read => !prevented,
            Access::Write => {
                let ignores_rights = !state.is_user() && !state.write_protect();
                !prevented && (rights.writable || ignores_rights)
            }
            Access::Fetch => {
                let smep = state.has(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION);
                rights.executable && !(kernel_on_user && smep)
            }
        }
    }

    fn fault(&self, why: u32) -> WalkError {
        let mut code = why;
        if self.state.is_user() {
            code |= code::USER;
        }
        let tells_fetches = self
            .state
            .has(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION)
            || self.mode != PagingMode::TwoLevel && self.state.no_execute();
        match self.access {
            Access::Write => code |= code::WRITE,
            Access::Fetch if tells_fetches => code |= code::FETCH,
            _ => {}
        }
        WalkError::Page(PageFault {
            address: self.linear,
            code,
        })
    }

    /// Sets accessed and dirty bits along the way, the root's first; false when a word is no longer as it was read.
    fn mark(&mut self, way: &[Found], shifts: &[u32]) -> Result<bool, WalkError> {
        for (depth, (found, &shift)) in way.iter().zip(shifts).enumerate() {
            let mut wanted = entry::ACCESSED;
            if depth + 1 == way.len() && self.access == Access::Write {
                wanted |= entry::DIRTY;
            }
            if self.is_pointer_register(shift) || found.entry & wanted == wanted {
                continue;
            }
            let new = found.word | wanted << found.shift;
            let at = GuestPhys(found.at);
            match self.words.replace(depth, at, found.word, new) {
                Some(true) => {}
                Some(false) => return Ok(false),
                None => return Err(WalkError::Memory(at)),
            }
        }
        Ok(true)
    }

    fn target(&self, entry: u64, shift: u32) -> GuestPhys {
        let inside = (1 << shift) - 1;
        let high = match (self.mode, shift) {
            (PagingMode::TwoLevel, 22) => (entry >> 13 & 0xff) << 32,
            _ => 0,
        };
        GuestPhys(high | entry & self.address_bits() & !inside | self.linear & inside)
    }
}

/// Bits `from` up to but not including `to`.
const fn bits(from: u32, to: u32) -> u64 {
    ones(to) & !ones(from)
}

/// The lowest `count` bits.
const fn ones(count: u32) -> u64 {
    match 1u64.checked_shl(count) {
        Some(above) => above - 1,
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests;
