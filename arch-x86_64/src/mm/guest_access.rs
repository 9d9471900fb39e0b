//! Copies to and from the linear address space of the current vCPU, and instructions fetched from it.
//!
//! A page is walked once and the way is kept: the machine frame and every table word that led there. A kept way is used
//! again only if the paging registers are the same, none of the guest frames on it went away since (the second level's
//! generation and what it remembers), and every word still holds what it held. So no stale entry is ever used, and neither the guest's INVLPG nor
//! its CR3 loads need an exit. The second level is held for reading through each copy: whoever takes a frame away first
//! changes it under the write lock, so a frame found here stays the guest's until the copy is over.
//!
//! Registers and table words are looked at once for each way and exit: a CPU, too, may go on with what it has cached until it
//! is told otherwise, and the guest tells nothing while it is stopped.

use xenolith_arch_common::second_level::{Footprint, Format, Reader, SecondLevel, TableMemory};
use xenolith_hal::{Gfn, GuestPhys, GuestVirt, Mfn, P2mType, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};

use super::walk::{MOST_TABLES, TableWords, Translation, WalkError, walk};
use crate::guest::paging::{Access, PagingLimits, PagingState};

/// The machine's frames of RAM. What is reached through a frame that was once found stays memory for ever.
pub trait Frames: Copy {
    /// A frame of RAM.
    type Frame: Copy;
    /// Eight bytes of one.
    type Word: Copy;

    /// The frame, if it is RAM.
    fn frame(&self, mfn: Mfn) -> Option<Self::Frame>;
    /// The aligned eight bytes around an offset.
    fn word(&self, frame: Self::Frame, offset: usize) -> Self::Word;
    /// Reads them.
    fn load(&self, word: Self::Word) -> u64;
    /// Writes them if they hold `old`; tells whether they did.
    fn compare_exchange(&self, word: Self::Word, old: u64, new: u64) -> bool;
    /// Copies out of a frame, as far as it goes.
    fn read(&self, frame: Self::Frame, offset: usize, buf: &mut [u8]);
    /// Copies into a frame, as far as it goes.
    fn write(&self, frame: Self::Frame, offset: usize, buf: &[u8]);
}

/// A table word that a kept way depends on.
#[derive(Clone, Copy)]
struct Word<T> {
    place: T,
    value: u64,
}

/// What a way depends on in the paging registers: CR3, and the rest in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    cr3: u64,
    key: u64,
}

impl Registers {
    /// Those of a vCPU.
    #[inline(always)]
    #[must_use]
    pub const fn of(state: &PagingState) -> Self {
        Self {
            cr3: state.cr3,
            key: state.key(),
        }
    }
}

/// The registers in the exit in which an opcode was last fetched.
struct Seen {
    exit: u64,
    registers: Registers,
}

/// A way from a linear page to a frame.
struct Kept<R: Frames> {
    page: u64,
    registers: Registers,
    generation: u64,
    /// The exit in which it was last found good.
    exit: u64,
    /// The guest frames of the tables and of the page.
    footprint: Footprint,
    access: Access,
    frame: R::Frame,
    words: [Option<Word<R::Word>>; MOST_TABLES],
}

/// Entries, a power of two: those of hypercall pages, stacks and buffers that a vCPU uses at one time.
const ENTRIES: usize = 32;

/// The ways that one vCPU's last copies took. Only the CPU that runs the vCPU touches it.
pub struct TranslationCache<R: Frames> {
    exit: u64,
    seen: Seen,
    entries: [Option<Kept<R>>; ENTRIES],
}

impl<R: Frames> TranslationCache<R> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            exit: 0,
            seen: Seen {
                exit: u64::MAX,
                registers: Registers { cr3: 0, key: 0 },
            },
            entries: [const { None }; ENTRIES],
        }
    }

    /// The guest ran, so its registers and tables may have changed.
    #[inline(always)]
    pub const fn next_exit(&mut self) {
        self.exit = self.exit.wrapping_add(1);
    }

    /// Copies in, for a hypercall, by a kept way; false when none serves, or the range is not in one page. The registers are
    /// those with which the instruction that made the call was fetched.
    #[inline(always)]
    pub fn read<F: Format, M: TableMemory>(
        &mut self,
        (p2m, frames): (&SecondLevel<F, M>, R),
        registers: impl FnOnce() -> Registers,
        from: GuestVirt,
        buf: &mut [u8],
    ) -> bool {
        if !in_one_page(from, buf.len()) {
            return false;
        }
        let held = p2m.read();
        let exit = self.exit;
        let registers = |seen: &mut Seen| seen.registers(exit, registers);
        let kept = self.kept(from, Access::Read, registers, &held, frames);
        if let Some(frame) = kept {
            frames.read(frame, offset(from), buf);
        }
        kept.is_some()
    }

    /// Copies out, for a hypercall, by a kept way; false when none serves, or the range is not in one page. The registers are
    /// those with which the instruction that made the call was fetched.
    #[inline(always)]
    pub fn write<F: Format, M: TableMemory>(
        &mut self,
        (p2m, frames): (&SecondLevel<F, M>, R),
        registers: impl FnOnce() -> Registers,
        to: GuestVirt,
        buf: &[u8],
    ) -> bool {
        if !in_one_page(to, buf.len()) {
            return false;
        }
        let held = p2m.read();
        let exit = self.exit;
        let registers = |seen: &mut Seen| seen.registers(exit, registers);
        let kept = self.kept(to, Access::Write, registers, &held, frames);
        if let Some(frame) = kept {
            frames.write(frame, offset(to), buf);
        }
        kept.is_some()
    }

    /// The first four bytes of an instruction by a kept way, if they lie in one page.
    #[inline(always)]
    pub fn fetch_opcode<F: Format, M: TableMemory>(
        &mut self,
        (p2m, frames): (&SecondLevel<F, M>, R),
        registers: impl FnOnce() -> Registers,
        at: GuestVirt,
    ) -> Option<[u8; 4]> {
        let mut bytes = [0; 4];
        if !in_one_page(at, bytes.len()) {
            return None;
        }
        let held = p2m.read();
        let exit = self.exit;
        let registers = |seen: &mut Seen| {
            let registers = registers();
            *seen = Seen { exit, registers };
            registers
        };
        let frame = self.kept(at, Access::Fetch, registers, &held, frames)?;
        frames.read(frame, offset(at), &mut bytes);
        Some(bytes)
    }

    /// The frame to which a kept way leads.
    #[inline(always)]
    fn kept<F: Format, M: TableMemory>(
        &mut self,
        at: GuestVirt,
        access: Access,
        registers: impl FnOnce(&mut Seen) -> Registers,
        held: &Reader<'_, F, M>,
        frames: R,
    ) -> Option<R::Frame> {
        let page = at.0 >> PAGE_SHIFT;
        let kept = self.entries.get_mut(Self::index(page, access))?.as_mut()?;
        if kept.page != page || !kept.serves(access) {
            return None;
        }
        if kept.generation != held.generation() && !kept.renew(held) {
            return None;
        }
        if kept.exit != self.exit {
            if kept.registers != registers(&mut self.seen) || !kept.holds(frames) {
                return None;
            }
            kept.exit = self.exit;
        }
        Some(kept.frame)
    }

    /// Forgets everything. Never needed for correctness.
    pub fn clear(&mut self) {
        self.entries = [const { None }; ENTRIES];
    }

    /// Stores and loads share an entry; code lies elsewhere in the index than data of the same page.
    #[inline(always)]
    const fn index(page: u64, access: Access) -> usize {
        let turn = match access {
            Access::Fetch => ENTRIES as u64 / 2,
            _ => 0,
        };
        ((page ^ turn) % ENTRIES as u64) as usize
    }
}

impl Seen {
    /// Those of this exit.
    #[inline(always)]
    fn registers(&self, exit: u64, read: impl FnOnce() -> Registers) -> Registers {
        if self.exit == exit {
            self.registers
        } else {
            read()
        }
    }
}

impl<R: Frames> Default for TranslationCache<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// No x86 instruction is longer.
pub const MOST_INSTRUCTION_BYTES: usize = 15;

/// What lies at an instruction pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionBytes {
    bytes: [u8; MOST_INSTRUCTION_BYTES],
    len: usize,
}

impl InstructionBytes {
    /// The bytes: fewer than fifteen where the next page cannot be fetched.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// The linear address space of a vCPU that is not in guest mode.
pub struct GuestAccess<'a, F, M, R: Frames> {
    /// Its domain's second level.
    pub p2m: &'a SecondLevel<F, M>,
    /// The machine's RAM.
    pub frames: R,
    /// Its paging registers.
    pub state: PagingState,
    /// What it was told about paging.
    pub limits: PagingLimits,
    /// Its cache.
    pub cache: &'a mut TranslationCache<R>,
}

#[inline(always)]
const fn offset(va: GuestVirt) -> usize {
    (va.0 & PAGE_MASK) as usize
}

/// Whether a range that is not empty lies in one page, as nearly every argument does.
#[inline(always)]
const fn in_one_page(va: GuestVirt, len: usize) -> bool {
    len.wrapping_sub(1) < PAGE_SIZE - offset(va)
}

impl<F: Format, M: TableMemory, R: Frames> GuestAccess<'_, F, M, R> {
    /// Copies in, as a load of the guest.
    pub fn read(&mut self, from: GuestVirt, buf: &mut [u8]) -> Result<(), WalkError> {
        if !in_one_page(from, buf.len()) {
            return self.read_pages(from, buf);
        }
        self.read_page(from, buf)
    }

    fn read_page(&mut self, from: GuestVirt, buf: &mut [u8]) -> Result<(), WalkError> {
        let held = self.p2m.read();
        let frame = self.frame(from, Access::Read, &held)?;
        self.frames.read(frame, offset(from), buf);
        Ok(())
    }

    /// Copies out, as a store of the guest.
    pub fn write(&mut self, to: GuestVirt, buf: &[u8]) -> Result<(), WalkError> {
        if !in_one_page(to, buf.len()) {
            return self.write_pages(to, buf);
        }
        self.write_page(to, buf)
    }

    fn write_page(&mut self, to: GuestVirt, buf: &[u8]) -> Result<(), WalkError> {
        let held = self.p2m.read();
        let frame = self.frame(to, Access::Write, &held)?;
        self.frames.write(frame, offset(to), buf);
        Ok(())
    }

    /// The bytes of the instruction at a linear address. An error is that of the first byte: the guest cannot have executed
    /// this, unless it changed its tables meanwhile.
    #[inline]
    pub fn fetch(&mut self, at: GuestVirt) -> Result<InstructionBytes, WalkError> {
        let mut fetched = InstructionBytes {
            bytes: [0; MOST_INSTRUCTION_BYTES],
            len: MOST_INSTRUCTION_BYTES,
        };
        let held = self.p2m.read();
        let frame = self.frame(at, Access::Fetch, &held)?;
        if in_one_page(at, MOST_INSTRUCTION_BYTES) {
            self.frames.read(frame, offset(at), &mut fetched.bytes);
            return Ok(fetched);
        }
        let here = PAGE_SIZE - offset(at);
        if let Some((first, rest)) = fetched.bytes.split_at_mut_checked(here) {
            self.frames.read(frame, offset(at), first);
            match self.frame(at.plus(here as u64), Access::Fetch, &held) {
                Ok(next) => self.frames.read(next, 0, rest),
                Err(_) => fetched.len = here,
            }
        }
        Ok(fetched)
    }

    /// The guest-physical address behind a linear one: the guest's own translation alone, which may lead to where nothing
    /// is. Not cached.
    pub fn translate(&self, at: GuestVirt, access: Access) -> Result<Translation, WalkError> {
        let held = self.p2m.read();
        self.walk(at, access, &held).map(|(found, _)| found)
    }

    fn read_pages(&mut self, mut from: GuestVirt, mut buf: &mut [u8]) -> Result<(), WalkError> {
        while !buf.is_empty() {
            let here = buf.len().min(PAGE_SIZE - offset(from));
            let (piece, rest) = buf.split_at_mut(here);
            self.read_page(from, piece)?;
            (from, buf) = (from.plus(here as u64), rest);
        }
        Ok(())
    }

    fn write_pages(&mut self, mut to: GuestVirt, mut buf: &[u8]) -> Result<(), WalkError> {
        while !buf.is_empty() {
            let here = buf.len().min(PAGE_SIZE - offset(to));
            let (piece, rest) = buf.split_at(here);
            self.write_page(to, piece)?;
            (to, buf) = (to.plus(here as u64), rest);
        }
        Ok(())
    }

    /// The machine frame behind a linear address, for one kind of access.
    fn frame(
        &mut self,
        at: GuestVirt,
        access: Access,
        held: &Reader<'_, F, M>,
    ) -> Result<R::Frame, WalkError> {
        let registers = |_: &mut Seen| Registers::of(&self.state);
        match self.cache.kept(at, access, registers, held, self.frames) {
            Some(frame) => Ok(frame),
            None => self.find(at, access, held),
        }
    }

    /// Walks, and keeps the way if it leads through the domain's own memory alone.
    fn find(
        &mut self,
        at: GuestVirt,
        access: Access,
        held: &Reader<'_, F, M>,
    ) -> Result<R::Frame, WalkError> {
        let (found, way) = self.walk(at, access, held)?;
        let fault = WalkError::Memory(found.address);
        let (frame, kind) = memory(held, self.frames, found.address.frame()).ok_or(fault)?;
        if access == Access::Write && !kind.writable() {
            return Err(fault);
        }
        let page = at.0 >> PAGE_SHIFT;
        let kept = Kept {
            page,
            registers: Registers::of(&self.state),
            exit: self.cache.exit,
            generation: held.generation(),
            footprint: way.footprint.with(found.address.frame()),
            access,
            frame,
            words: way.words,
        };
        let slot = self
            .cache
            .entries
            .get_mut(TranslationCache::<R>::index(page, access));
        if let Some(slot) = slot
            && way.own
            && is_own(kind)
        {
            *slot = Some(kept);
        }
        Ok(frame)
    }

    fn walk<'h>(
        &self,
        at: GuestVirt,
        access: Access,
        held: &'h Reader<'h, F, M>,
    ) -> Result<(Translation, Way<'h, F, M, R>), WalkError> {
        let mut way = Way {
            held,
            frames: self.frames,
            words: [const { None }; MOST_TABLES],
            writable: [false; MOST_TABLES],
            footprint: Footprint::default(),
            own: true,
        };
        let found = walk(&self.state, self.limits, at.0, access, &mut way)?;
        Ok((found, way))
    }
}

impl<R: Frames> Kept<R> {
    /// Comes to the present generation, if none of the guest frames went away since its own.
    #[cold]
    #[inline(never)]
    fn renew<F: Format, M: TableMemory>(&mut self, held: &Reader<'_, F, M>) -> bool {
        let holds = held.still_holds(self.generation, self.footprint);
        if holds {
            self.generation = held.generation();
        }
        holds
    }

    /// What may be stored to may be loaded from.
    #[inline(always)]
    fn serves(&self, access: Access) -> bool {
        self.access == access || (self.access, access) == (Access::Write, Access::Read)
    }

    /// Whether the guest's tables still say so.
    #[inline(always)]
    fn holds(&self, frames: R) -> bool {
        for word in &self.words {
            match word {
                Some(word) if frames.load(word.place) != word.value => return false,
                Some(_) => {}
                None => break,
            }
        }
        true
    }
}

/// The kinds of memory whose loss changes the second level's generation.
const fn is_own(kind: P2mType) -> bool {
    matches!(kind, P2mType::RamRw | P2mType::RamRo)
}

/// The RAM behind a guest frame. A device's registers are none.
fn memory<F: Format, M: TableMemory, R: Frames>(
    held: &Reader<'_, F, M>,
    frames: R,
    gfn: Gfn,
) -> Option<(R::Frame, P2mType)> {
    let entry = held.entry(gfn)?;
    if entry.kind == P2mType::MmioDirect {
        return None;
    }
    Some((frames.frame(entry.mfn)?, entry.kind))
}

/// The guest's tables as a walk reads them, and the way that it takes.
struct Way<'a, F, M, R: Frames> {
    held: &'a Reader<'a, F, M>,
    frames: R,
    words: [Option<Word<R::Word>>; MOST_TABLES],
    writable: [bool; MOST_TABLES],
    footprint: Footprint,
    own: bool,
}

impl<F: Format, M: TableMemory, R: Frames> TableWords for Way<'_, F, M, R> {
    fn load(&mut self, depth: usize, at: GuestPhys) -> Option<u64> {
        let (table, kind) = memory(self.held, self.frames, at.frame())?;
        self.own &= is_own(kind);
        self.footprint = self.footprint.with(at.frame());
        let place = self.frames.word(table, at.offset());
        let value = self.frames.load(place);
        *self.words.get_mut(depth)? = Some(Word { place, value });
        *self.writable.get_mut(depth)? = kind.writable();
        Some(value)
    }

    fn replace(&mut self, depth: usize, _: GuestPhys, old: u64, new: u64) -> Option<bool> {
        let word = self.words.get_mut(depth)?.as_mut()?;
        if !*self.writable.get(depth)? {
            return None;
        }
        let done = self.frames.compare_exchange(word.place, old, new);
        if done {
            word.value = new;
        }
        Some(done)
    }
}

#[cfg(test)]
mod tests;
