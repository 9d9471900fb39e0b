//! The record of a machine frame: what it is used for, its owner, type and counts in one atomic word.
//!
//! The word moves by compare-and-swap only. All zero means "nobody's": kept by the machine or the hypervisor since
//! boot, or inside a larger block whose first record speaks for it. So zeroed memory is a valid table, and a free or
//! allocated block costs one record, not one per frame.
//!
//! What a frame is used as ([`FrameType`], for paravirtual domains) is in the `typed` part; what goes with it beside the
//! word, in `link`.
//!
//! A domain's frame has at least one reference while its word says [`Class::Domain`]. One of them is the allocation
//! itself, which [`FrameRecord::drop_allocation`] gives up once. Whoever drops the last reference owns the frame
//! alone and must free it.

mod link;
mod typed;

use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use xenolith_hal::{Gfn, Order};

use crate::DomId;

pub use link::Progress;
pub use typed::{Claim, Ended, Reclaim, Refused};

/// A run of bits in the state word.
struct Field {
    shift: u32,
    bits: u32,
}

impl Field {
    const fn after(self, bits: u32) -> Self {
        Self {
            shift: self.shift + self.bits,
            bits,
        }
    }

    const fn max(&self) -> u64 {
        (1 << self.bits) - 1
    }

    const fn get(&self, word: u64) -> u64 {
        word >> self.shift & self.max()
    }

    /// What a count goes up by.
    const fn one(&self) -> u64 {
        1 << self.shift
    }

    const fn set(&self, word: u64, value: u64) -> u64 {
        word & !(self.max() << self.shift) | (value & self.max()) << self.shift
    }
}

/// References to a domain's frame; the order of a free or hypervisor block.
const COUNT: Field = Field { shift: 0, bits: 21 };
const TYPE_COUNT: Field = Field {
    shift: 21,
    bits: 19,
};
const TYPE: Field = TYPE_COUNT.after(3);
const VALIDATED: Field = TYPE.after(1);
const LOCKED: Field = VALIDATED.after(1);
const ALLOCATED: Field = LOCKED.after(1);
const SHARED: Field = Field { shift: 46, bits: 1 };
const OWNER: Field = SHARED.after(15);
const CLASS: Field = Field { shift: 62, bits: 2 };

/// What a frame, or the block that its record heads, is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nobody's, or part of a block that an earlier record heads.
    Reserved,
    /// First frame of a free block.
    Free(Order),
    /// First frame of a block that the hypervisor uses, or that its one user is about to free.
    Hypervisor(Order),
    /// A domain's.
    Domain(DomId),
}

/// What a domain's frame is used as while its type count is above zero (PV guests; elsewhere always `None`). The type stays
/// when the last use ends: translations of that use may still be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "page-table levels speak for themselves")]
pub enum FrameType {
    None = 0,
    L1 = 1,
    L2 = 2,
    L3 = 3,
    L4 = 4,
    /// A GDT or LDT page.
    Descriptors = 5,
    /// Mapped writable somewhere.
    Writable = 6,
}

impl FrameType {
    fn from_bits(bits: u64) -> Self {
        match bits {
            1 => Self::L1,
            2 => Self::L2,
            3 => Self::L3,
            4 => Self::L4,
            5 => Self::Descriptors,
            6 => Self::Writable,
            _ => Self::None,
        }
    }

    /// Whether the contents are checked before the frame is used so.
    pub const fn needs_validation(self) -> bool {
        !matches!(self, Self::None | Self::Writable)
    }
}

/// How a domain came to own a frame, which says who is charged for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The domain's own memory: counted against what it may own.
    Memory,
    /// Hypervisor memory that the domain sees (shared info, grant frames): counted against its quota of that.
    Hypervisor,
}

/// What the word of a [`FrameRecord`] says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameState(pub u64);

impl FrameState {
    const RESERVED: Self = Self(0);

    const fn block(class: u64, order: Order) -> Self {
        Self(COUNT.set(CLASS.set(0, class), order as u64))
    }

    fn owned(owner: DomId, charge: Charge) -> Self {
        let word = OWNER.set(CLASS.set(0, 3), owner.0.into());
        let word = SHARED.set(word, u64::from(charge == Charge::Hypervisor));
        Self(COUNT.set(ALLOCATED.set(word, 1), 1))
    }

    /// What the frame is used for.
    pub fn class(self) -> Class {
        match CLASS.get(self.0) {
            0 => Class::Reserved,
            1 => Class::Free(self.count() as Order),
            2 => Class::Hypervisor(self.count() as Order),
            _ => Class::Domain(DomId(OWNER.get(self.0) as u16)),
        }
    }

    /// The domain that owns the frame.
    pub fn owner(self) -> Option<DomId> {
        match self.class() {
            Class::Domain(owner) => Some(owner),
            _ => None,
        }
    }

    /// Whether it is that domain's frame.
    #[inline(always)]
    pub const fn is_owned_by(self, owner: DomId) -> bool {
        // The owner stands below the class, and nothing above that.
        self.0 >> OWNER.shift == (CLASS.max() << OWNER.bits | owner.0 as u64)
            && owner.0 as u64 <= OWNER.max()
    }

    /// References to a domain's frame.
    pub const fn count(self) -> u64 {
        COUNT.get(self.0)
    }

    /// Uses of a domain's frame as [`FrameState::frame_type`].
    pub const fn type_count(self) -> u64 {
        TYPE_COUNT.get(self.0)
    }

    /// What a domain's frame is used as.
    pub fn frame_type(self) -> FrameType {
        FrameType::from_bits(TYPE.get(self.0))
    }

    /// Whether the frame's contents were checked to be right for its type.
    pub const fn validated(self) -> bool {
        VALIDATED.get(self.0) != 0
    }

    /// Whether one CPU is changing what the frame is used as; everybody else waits.
    pub const fn locked(self) -> bool {
        LOCKED.get(self.0) != 0
    }

    /// Whether the owner's allocation still counts as one of the references.
    pub const fn allocated(self) -> bool {
        ALLOCATED.get(self.0) != 0
    }

    /// Who is charged for a domain's frame.
    pub const fn charge(self) -> Charge {
        if SHARED.get(self.0) != 0 {
            Charge::Hypervisor
        } else {
            Charge::Memory
        }
    }
}

impl core::fmt::Debug for FrameState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}", self.class())?;
        if let Class::Domain(_) = self.class() {
            write!(
                f,
                " refs {} allocated {} {:?}*{} validated {} locked {} charged to {:?}",
                self.count(),
                self.allocated(),
                self.frame_type(),
                self.type_count(),
                self.validated(),
                self.locked(),
                self.charge(),
            )?;
        }
        Ok(())
    }
}

/// What dropping a reference came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the one who drops the last reference must free the frame"]
pub enum Dropped {
    /// Others still hold the frame.
    Kept,
    /// It was the last: the frame is the caller's alone now (its class is `Hypervisor(0)`) and must be freed.
    Last {
        /// Whose it was.
        owner: DomId,
        /// Who was charged for it.
        charge: Charge,
    },
    /// There was no such reference: the caller's bookkeeping, or a guest's claim, is wrong. Nothing changed.
    NotHeld,
}

/// The frame cannot be used as wanted now: it has another type, or too many uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeBusy;

/// One machine frame.
#[derive(Default)]
pub struct FrameRecord {
    /// Owner, type and counts.
    state: AtomicU64,
    /// Links of the free lists while the frame heads a free block, protected by the lock of its zone. For hypervisor
    /// memory shown to a domain: one more than the guest frame where it is, or 0. For a domain's own memory: see the module
    /// of that name.
    link: AtomicU64,
}

impl FrameRecord {
    /// A frame that is nobody's.
    pub const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            link: AtomicU64::new(0),
        }
    }

    /// What the record says now.
    pub fn state(&self) -> FrameState {
        FrameState(self.state.load(Acquire))
    }

    fn set(&self, state: FrameState) {
        self.state.store(state.0, Release);
    }

    /// Moves the word from what it is to what `f` says, and gives both; `None` when `f` refuses.
    #[inline(always)]
    fn update(
        &self,
        mut f: impl FnMut(FrameState) -> Option<FrameState>,
    ) -> Option<(FrameState, FrameState)> {
        let mut old = self.state.load(Relaxed);
        loop {
            let new = f(FrameState(old))?.0;
            match self.state.compare_exchange_weak(old, new, AcqRel, Relaxed) {
                Ok(_) => return Some((FrameState(old), FrameState(new))),
                Err(now) => old = now,
            }
        }
    }

    // The allocator's transitions. Its zone lock, or sole ownership of the frame, makes plain stores enough.

    pub(super) fn set_reserved(&self) {
        self.set(FrameState::RESERVED);
    }

    pub(super) fn set_free(&self, order: Order) {
        self.set(FrameState::block(1, order));
    }

    pub(super) fn set_hypervisor(&self, order: Order) {
        self.set(FrameState::block(2, order));
    }

    pub(super) fn set_owned(&self, owner: DomId, charge: Charge) {
        self.link.store(0, Relaxed);
        self.set(FrameState::owned(owner, charge));
    }

    pub(super) fn links(&self) -> (u32, u32) {
        let word = self.link.load(Relaxed);
        ((word >> 32) as u32, word as u32)
    }

    pub(super) fn set_links(&self, previous: u32, next: u32) {
        self.link
            .store(u64::from(previous) << 32 | u64::from(next), Relaxed);
    }

    /// Where a frame of hypervisor memory is shown to its domain.
    pub fn shown_at(&self) -> Option<Gfn> {
        self.link.load(Relaxed).checked_sub(1).map(Gfn)
    }

    /// Notes where a frame of hypervisor memory is shown; under the domain's physmap lock.
    pub(super) fn set_shown_at(&self, gfn: Option<Gfn>) {
        self.link
            .store(gfn.map_or(0, |gfn| gfn.0.saturating_add(1)), Relaxed);
    }

    /// Takes a reference if the frame belongs to `owner`. False also when the count is full.
    #[must_use]
    #[inline]
    pub fn get(&self, owner: DomId) -> bool {
        self.update(|state| {
            (state.is_owned_by(owner) && state.count() < COUNT.max())
                .then(|| FrameState(state.0 + COUNT.one()))
        })
        .is_some()
    }

    fn without_reference(state: FrameState) -> FrameState {
        match state.count() {
            0 | 1 => FrameState::block(2, 0),
            _ => FrameState(state.0 - COUNT.one()),
        }
    }

    #[inline(always)]
    fn dropped(change: Option<(FrameState, FrameState)>) -> Dropped {
        match change {
            None => Dropped::NotHeld,
            Some((old, new)) => match (old.class(), new.class()) {
                (Class::Domain(owner), Class::Hypervisor(_)) => Dropped::Last {
                    owner,
                    charge: old.charge(),
                },
                _ => Dropped::Kept,
            },
        }
    }

    /// Drops a reference that was taken with [`FrameRecord::get`].
    #[inline]
    pub fn put(&self) -> Dropped {
        self.put_mapping(false)
    }

    /// Takes memory from `owner` if nobody uses it: neither a reference nor a use as anything is there beside the
    /// allocation. Then it is the caller's alone, as after [`Dropped::Last`].
    #[must_use]
    pub fn take_idle(&self, owner: DomId) -> bool {
        self.update(|state| {
            let idle = state.count() == 1 && state.allocated() && state.type_count() == 0;
            let memory = state.charge() == Charge::Memory && state.is_owned_by(owner);
            (idle && memory).then(|| Self::without_reference(state))
        })
        .is_some()
    }

    /// Gives up the allocation of `owner`, once.
    pub fn drop_allocation(&self, owner: DomId) -> Dropped {
        Self::dropped(self.update(|state| {
            (state.owner() == Some(owner) && state.allocated())
                .then(|| Self::without_reference(FrameState(ALLOCATED.set(state.0, 0))))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned_by(owner: u16) -> FrameRecord {
        let record = FrameRecord::new();
        record.set_owned(DomId(owner), Charge::Memory);
        record
    }

    #[test]
    fn zeroed_memory_is_a_table_of_reserved_frames() {
        let record = FrameRecord::new();
        assert_eq!(record.state().class(), Class::Reserved);
        assert!(!record.get(DomId(0)), "domain 0 does not own all zeroes");
    }

    #[test]
    fn fields_do_not_touch_each_other() {
        let fields = [
            &COUNT,
            &TYPE_COUNT,
            &TYPE,
            &VALIDATED,
            &LOCKED,
            &ALLOCATED,
            &SHARED,
            &OWNER,
            &CLASS,
        ];
        let mut seen = 0_u64;
        for field in fields {
            let mask = field.set(0, u64::MAX);
            assert_eq!(seen & mask, 0);
            seen |= mask;
        }
        assert_eq!(seen & CLASS.set(0, 3), CLASS.set(0, 3));
        assert!(OWNER.max() >= u64::from(DomId::XEN.0));
        assert_eq!(CLASS.shift, OWNER.shift + OWNER.bits);
        assert_eq!(CLASS.shift + CLASS.bits, u64::BITS);
    }

    #[test]
    fn only_the_owner_name_gets_a_reference() {
        let record = owned_by(7);
        for other in [0, 8, 0x8007, u16::MAX] {
            assert!(!record.get(DomId(other)));
        }
        assert!(record.get(DomId(7)));
        assert_eq!(record.state().count(), 2);
        assert_eq!(record.put(), Dropped::Kept);
        assert_eq!(
            record.put(),
            Dropped::NotHeld,
            "the allocation is not a reference to put"
        );
    }

    #[test]
    fn the_allocation_is_given_up_once_and_the_last_reference_frees() {
        let record = owned_by(7);
        assert!(record.get(DomId(7)));
        assert_eq!(record.drop_allocation(DomId(8)), Dropped::NotHeld);
        assert_eq!(record.drop_allocation(DomId(7)), Dropped::Kept);
        assert_eq!(record.drop_allocation(DomId(7)), Dropped::NotHeld);
        let last = Dropped::Last {
            owner: DomId(7),
            charge: Charge::Memory,
        };
        assert_eq!(record.put(), last);
        assert_eq!(record.state().class(), Class::Hypervisor(0));
        assert!(!record.get(DomId(7)));
        assert_eq!(record.put(), Dropped::NotHeld);
    }

    #[test]
    fn a_full_count_refuses_and_does_not_wrap() {
        let record = owned_by(1);
        record.set(FrameState(COUNT.set(record.state().0, COUNT.max())));
        assert!(!record.get(DomId(1)));
        assert_eq!(record.state().count(), COUNT.max());
    }
}
