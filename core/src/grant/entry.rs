//! One grant as both sides see it: the word in the granter's shared table, and the pins that mappings and copies hold.
//!
//! A grant that is pinned shows `GTF_reading` (and `GTF_writing` while somebody may write) in its word, and the granter
//! may not take it back then. The word changes by compare-and-swap against a granter who changes it at the same time;
//! the pins change under the lock of the entry. Invariant: pins above zero imply the flags, set before the first pin and
//! cleared after the last. The functions are written over [`SharedWord`], so that loom runs them too
//! (`tests/grant_pins.rs`).

use xenolith_abi::{
    DomId,
    grant_table::{EntryFlags, GrantStatus, entry_type},
};

/// How often a word is tried again that its granter changes all the time.
const RETRIES: u32 = 5;

/// Flags (low half) and grantee (high half) of an entry in memory that its granter may write at any time.
pub trait SharedWord {
    /// Reads it.
    fn load(&self) -> u32;
    /// Puts `new` in place of `old`; returns what was there.
    fn replace(&self, old: u32, new: u32) -> u32;
    /// Clears bits of the flags.
    fn clear(&self, flags: EntryFlags);
}

/// An entry of version 2: the granter's half is only read, the marks stand in a word apart. [`SharedWord::load`] reads the
/// former, [`SharedWord::clear`] concerns the latter, and nothing is ever replaced.
pub trait SplitWord: SharedWord {
    /// Sets flags in the hypervisor's half.
    fn mark(&self, flags: EntryFlags);
}

/// What a pin allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// What a pin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A mapping; an entry that grants part of a page cannot be mapped.
    Map,
    /// A copy by the hypervisor.
    Copy,
    /// A copy through a grant that passes on another one.
    Through,
}

/// How often a grant is in use: readers in bits 0 to 15, writers in bits 16 to 31.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u32);

impl Pins {
    /// More of one kind are refused: a guest that maps one grant so often means harm.
    const MOST: u32 = 0x7fff;

    const fn one(access: Access) -> u32 {
        match access {
            Access::Read => 1,
            Access::Write => 1 << 16,
        }
    }

    /// Pins that only read.
    #[must_use]
    pub const fn readers(self) -> u32 {
        self.0 & 0xffff
    }

    /// Pins that write.
    #[must_use]
    pub const fn writers(self) -> u32 {
        self.0 >> 16
    }

    /// Whether nobody uses the grant.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    const fn full(self) -> bool {
        self.readers() >= Self::MOST || self.writers() >= Self::MOST
    }
}

/// Prepares a further pin: checks that the granter allows it and marks the grant as used. Changes no pin; the caller adds
/// it with [`add`] or takes the marks back with [`retract`].
#[inline(always)]
pub fn claim(
    word: &impl SharedWord,
    pins: Pins,
    grantee: DomId,
    access: Access,
    purpose: Purpose,
) -> Result<(), GrantStatus> {
    if !pins.is_none() {
        if pins.full() {
            return Err(GrantStatus::GeneralError);
        }
        let marked = access == Access::Read || pins.writers() != 0;
        if marked {
            return Ok(());
        }
    }
    let mut seen = word.load();
    for _ in 0..RETRIES {
        let flags = EntryFlags(seen as u16);
        if pins.is_none() && !permits(flags, DomId((seen >> 16) as u16), grantee, purpose) {
            return Err(GrantStatus::GeneralError);
        }
        let mut marks = EntryFlags::READING;
        if access == Access::Write {
            if flags.contains(EntryFlags::READONLY) {
                return Err(GrantStatus::GeneralError);
            }
            marks |= EntryFlags::WRITING;
        }
        let found = word.replace(seen, seen | u32::from(marks.0));
        if found == seen {
            return Ok(());
        }
        seen = found;
    }
    Err(GrantStatus::GeneralError)
}

/// The same for an entry in two halves. The granter ends a grant by clearing its half and then looking at the marks; so the
/// marks come first here, and the granter's half is looked at again.
pub fn claim_split(
    word: &impl SplitWord,
    pins: Pins,
    grantee: DomId,
    access: Access,
    purpose: Purpose,
) -> Result<(), GrantStatus> {
    let marked = !pins.is_none() && (access == Access::Read || pins.writers() != 0);
    let allowed = || {
        let seen = word.load();
        let flags = EntryFlags(seen as u16);
        let named = DomId((seen >> 16) as u16);
        (!pins.is_none() || permits(flags, named, grantee, purpose))
            && !(access == Access::Write && flags.contains(EntryFlags::READONLY))
    };
    if pins.full() || !marked && !allowed() {
        return Err(GrantStatus::GeneralError);
    }
    if marked {
        return Ok(());
    }
    word.mark(match access {
        Access::Read => EntryFlags::READING,
        Access::Write => EntryFlags::READING | EntryFlags::WRITING,
    });
    if allowed() {
        return Ok(());
    }
    retract(word, pins, access);
    Err(GrantStatus::GeneralError)
}

#[inline(always)]
fn permits(flags: EntryFlags, named: DomId, grantee: DomId, purpose: Purpose) -> bool {
    let part_only = flags.contains(EntryFlags::SUB_PAGE) && purpose == Purpose::Map;
    let wanted = match purpose {
        Purpose::Map | Purpose::Copy => entry_type::PERMIT_ACCESS,
        Purpose::Through => entry_type::TRANSITIVE,
    };
    flags.entry_type() == wanted && named == grantee && !part_only
}

/// Adds a pin that was claimed.
#[inline(always)]
pub fn add(pins: &mut Pins, access: Access) {
    pins.0 += Pins::one(access);
}

/// Takes back the marks of a claim that came to nothing, as far as no pin needs them.
#[inline(always)]
pub fn retract(word: &impl SharedWord, pins: Pins, access: Access) {
    let mut unneeded = EntryFlags::empty();
    if access == Access::Write && pins.writers() == 0 {
        unneeded |= EntryFlags::WRITING;
    }
    if pins.is_none() {
        unneeded |= EntryFlags::READING;
    }
    if !unneeded.is_empty() {
        word.clear(unneeded);
    }
}

/// Drops a pin; nothing is read or written through it any more.
#[inline(always)]
pub fn drop_pin(word: &impl SharedWord, pins: &mut Pins, access: Access) {
    pins.0 = pins.0.saturating_sub(Pins::one(access));
    retract(word, *pins, access);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// A word, and how often its granter changes it under our hands.
    struct Word(Cell<u32>, Cell<u32>);

    impl Word {
        fn granted(flags: EntryFlags, to: u16) -> Self {
            let flags = flags.0 | entry_type::PERMIT_ACCESS;
            Self(
                Cell::new(u32::from(to) << 16 | u32::from(flags)),
                Cell::new(0),
            )
        }

        fn flags(&self) -> EntryFlags {
            EntryFlags(self.0.get() as u16 & !entry_type::MASK)
        }
    }

    impl SharedWord for Word {
        fn load(&self) -> u32 {
            self.0.get()
        }
        fn replace(&self, old: u32, new: u32) -> u32 {
            if self.1.get() > 0 {
                self.1.set(self.1.get() - 1);
                self.0.set(self.0.get() ^ u32::from(EntryFlags::PWT.0));
            }
            let found = self.0.get();
            if found == old {
                self.0.set(new);
            }
            found
        }
        fn clear(&self, flags: EntryFlags) {
            self.0.set(self.0.get() & !u32::from(flags.0));
        }
    }

    const ME: DomId = DomId(5);

    fn pin(word: &Word, pins: &mut Pins, access: Access) -> Result<(), GrantStatus> {
        claim(word, *pins, ME, access, Purpose::Map).map(|()| add(pins, access))
    }

    #[test]
    fn flags_follow_the_pins() {
        let word = Word::granted(EntryFlags::empty(), 5);
        let mut pins = Pins::default();
        pin(&word, &mut pins, Access::Read).unwrap();
        assert_eq!(word.flags(), EntryFlags::READING);
        pin(&word, &mut pins, Access::Write).unwrap();
        assert_eq!(word.flags(), EntryFlags::READING | EntryFlags::WRITING);
        drop_pin(&word, &mut pins, Access::Write);
        assert_eq!(word.flags(), EntryFlags::READING);
        drop_pin(&word, &mut pins, Access::Read);
        assert_eq!(word.flags(), EntryFlags::empty());
        assert!(pins.is_none());
    }

    #[test]
    fn what_was_not_granted_is_refused() {
        let refused = |flags, to, access, purpose| {
            let word = Word::granted(flags, to);
            let before = word.load();
            let result = claim(&word, Pins::default(), ME, access, purpose);
            assert_eq!(word.load(), before);
            result == Err(GrantStatus::GeneralError)
        };
        use {Access::*, Purpose::*};
        assert!(refused(EntryFlags::empty(), 6, Read, Map));
        assert!(refused(EntryFlags::READONLY, 5, Write, Copy));
        assert!(refused(EntryFlags::SUB_PAGE, 5, Read, Map));
        let nothing = Word(Cell::new(5 << 16), Cell::new(0));
        assert!(claim(&nothing, Pins::default(), ME, Read, Map).is_err());
    }

    #[test]
    fn a_granter_who_never_rests_is_given_up() {
        for (changes, fine) in [(4, true), (5, false), (u32::MAX, false)] {
            let word = Word::granted(EntryFlags::empty(), 5);
            word.1.set(changes);
            let result = claim(&word, Pins::default(), ME, Access::Read, Purpose::Copy);
            assert_eq!(result.is_ok(), fine, "{changes} changes");
        }
    }

    #[test]
    fn a_full_count_refuses() {
        let word = Word::granted(EntryFlags::empty(), 5);
        for (pins, fine) in [
            (Pins(Pins::MOST - 1), true),
            (Pins(Pins::MOST), false),
            (Pins(Pins::MOST << 16), false),
        ] {
            let result = claim(&word, pins, ME, Access::Read, Purpose::Map);
            assert_eq!(result.is_ok(), fine);
        }
    }
}
