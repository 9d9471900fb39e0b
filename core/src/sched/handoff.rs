//! How a vCPU passes between who stops it and who wakes it: the few steps on its two words whose order matters.
//!
//! Written over [`Flags`] and [`Words`], so that a model checker runs the same functions over its own atomics (`tests/sched_handoff.rs`);
//! that is the only reason why this module is public. Every access is sequentially consistent.

use xenolith_hal::CpuId;

/// Why a vCPU may not run.
pub mod flag {
    /// Not started, or taken down.
    pub const DOWN: u32 = 1 << 0;
    /// Waits for an interrupt.
    pub const BLOCKED: u32 = 1 << 1;
    /// Waits for one of some ports; an interrupt ends the wait too.
    pub const POLLING: u32 = 1 << 2;
    /// Those that a wake-up clears.
    pub const WAITING: u32 = BLOCKED | POLLING;
}

/// Where a vCPU is. Only the party named may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On no CPU and in no queue; it last ran there. Whoever makes it runnable claims it by compare-and-swap.
    Off(CpuId),
    /// In that CPU's queue, or about to be put there by whoever claimed it. A CPU that takes it out moves it.
    Queued(CpuId),
    /// That CPU's current vCPU; moved by that CPU.
    Running(CpuId),
    /// No longer current, its registers are still that CPU's; moved by that CPU.
    Leaving(CpuId),
}

/// The word of a vCPU that says why it may not run.
pub trait Flags {
    /// Sets flags; gives those that were set before.
    fn set(&self, flags: u32) -> u32;
    /// Clears flags; gives those that were set before.
    fn clear(&self, flags: u32) -> u32;
    /// The flags.
    fn flags(&self) -> u32;
    /// A full fence.
    fn fence(&self);
}

/// A vCPU's two words.
pub trait Words: Flags {
    /// Whether no flag is set and nothing is paused.
    fn runnable(&self) -> bool;
    /// Where it is.
    fn place(&self) -> Place;
    /// Puts it elsewhere.
    fn move_to(&self, place: Place);
    /// Moves it if it still is where it was seen.
    fn claim(&self, seen: Place, to: Place) -> bool;
}

/// The current vCPU begins to wait; `deliverable` tells whether an interrupt is there. True when it really waits.
pub fn begin_block(word: &impl Flags, deliverable: impl FnOnce() -> bool) -> bool {
    word.set(flag::BLOCKED);
    // Who makes an interrupt pending does that first and then looks at the flag.
    word.fence();
    if deliverable() {
        word.clear(flag::BLOCKED);
        return false;
    }
    true
}

/// Whether a vCPU that got an interrupt is to be woken. The interrupt was made pending before.
pub fn wants_wake(word: &impl Flags) -> bool {
    word.fence();
    word.flags() & flag::WAITING != 0
}

/// If the vCPU is runnable and nowhere, it is the caller's to put into a queue; the result is the CPU where it last ran.
pub fn claim_runnable(words: &impl Words) -> Option<CpuId> {
    let seen = words.place();
    let Place::Off(last) = seen else { return None };
    // The flags were changed before the place was looked at; `park` does it the other way round.
    (words.runnable() && words.claim(seen, Place::Queued(last))).then_some(last)
}

/// The vCPU was found not to be runnable and is parked, by the party that may move it. A result as of [`claim_runnable`], when
/// it was made runnable meanwhile by somebody who could not see it parked.
pub fn park(words: &impl Words, cpu: CpuId) -> Option<CpuId> {
    words.move_to(Place::Off(cpu));
    claim_runnable(words)
}
