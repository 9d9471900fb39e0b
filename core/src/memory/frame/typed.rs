//! What a frame of a paravirtual domain is used as, and who may begin such a use.
//!
//! * A frame has one type at a time: while it has uses as one, it gets none as another. So nothing that is mapped writable is a
//!   page table, whatever the guest's CPUs do at once.
//! * Each use as a table goes with a reference, taken and dropped by the same step.
//! * The contents of tables are checked by the CPU that moved the record to `locked`; it ends in `validated`, in nothing, or
//!   in between (neither bit): then [`FrameRecord::progress`] says how far it came, and whoever next wants the table, or
//!   drops its last use, goes on from there.
//! * A type stays in the record after its last use: the next type first makes sure that no CPU has the old one cached.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::{
    CLASS, COUNT, DomId, Dropped, FrameRecord, FrameState, FrameType, LOCKED, OWNER, SHARED, TYPE,
    TYPE_COUNT, TypeBusy, VALIDATED,
};

/// Why a use cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The frame is not that domain's.
    NotOwned,
    /// It is used as something else, or too often.
    Busy,
    /// It was a table, and CPUs may have that cached.
    Stale,
    /// Another CPU changes its use at this moment: wait.
    Locked,
}

/// What the one who claimed a frame as a table must do. A reference and a use are taken in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: the contents are right.
    Ready,
    /// The record is locked: check the contents from the first entry on. The frame was last used as this.
    Fresh(FrameType),
    /// The record is locked: go on checking.
    Partial,
}

/// What a holder of a table that was partly checked finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// Somebody else finished the work.
    Ready,
    /// The record is locked: go on checking.
    Partial,
    /// Another CPU is at it: wait.
    Locked,
}

/// What ending a use as a table came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the last one undoes the table"]
pub enum Ended {
    /// Others use the table; reference and use are dropped.
    Kept,
    /// It was the last: the record is locked, and the caller undoes the entries of a table that was right.
    Whole,
    /// The same for a table that was partly checked.
    Partial,
}

const HIGH_COUNT: u64 = 1 << (COUNT.shift + COUNT.bits - 1);
const HIGH_TYPE_COUNT: u64 = 1 << (TYPE_COUNT.shift + TYPE_COUNT.bits - 1);
const DOMAIN: u64 = CLASS.max() << CLASS.shift;
const OWNED: u64 = DOMAIN | OWNER.max() << OWNER.shift;
/// Bits that say in one comparison that a domain's frame can be mapped.
const READABLE: u64 = OWNED | HIGH_COUNT;
/// The same for writing.
const WRITABLE: u64 = READABLE | HIGH_TYPE_COUNT | TYPE.max() << TYPE.shift | LOCKED.one();
/// The same for the table that a frame is.
const CHECKED: u64 = READABLE | HIGH_TYPE_COUNT | VALIDATED.one();
const IS_WRITABLE: u64 = (FrameType::Writable as u64) << TYPE.shift;

/// The class and owner bits of a domain's frames. A number that is no domain's name matches nothing.
#[inline(always)]
const fn owned_by(owner: DomId) -> u64 {
    DOMAIN.wrapping_add((owner.0 as u64) << OWNER.shift)
}

impl FrameRecord {
    /// Takes what a page-table entry holds: a reference on a frame of `owner`, and for a writable one a use as such.
    #[inline(always)]
    pub fn get_mapping(&self, owner: DomId, writable: bool) -> Result<(), Refused> {
        match self.get_at_once(owner, writable, 0) {
            true => Ok(()),
            false => self.get_mapping_slowly(owner, writable),
        }
    }

    /// The same for memory of `owner` alone, which nothing of the hypervisor's is. False also when another CPU was faster, and
    /// for frames that are not yet used so.
    #[must_use]
    #[inline(always)]
    pub fn get_memory(&self, owner: DomId, writable: bool) -> bool {
        self.get_at_once(owner, writable, SHARED.one())
    }

    /// As [`FrameRecord::get_mapping`]. False also when another CPU was faster, and for frames that are not yet used so.
    #[must_use]
    #[inline(always)]
    pub fn get_used_so(&self, owner: DomId, writable: bool) -> bool {
        self.get_at_once(owner, writable, 0)
    }

    /// One try, for a frame that is used so already and has none of the `other` bits.
    #[inline(always)]
    fn get_at_once(&self, owner: DomId, writable: bool, other: u64) -> bool {
        let old = self.state.load(Relaxed);
        let (mask, right, step) = match writable {
            false => (READABLE, owned_by(owner), COUNT.one()),
            true => (
                WRITABLE,
                owned_by(owner) | IS_WRITABLE,
                COUNT.one() + TYPE_COUNT.one(),
            ),
        };
        old & (mask | other) == right
            && self
                .state
                .compare_exchange(old, old + step, AcqRel, Relaxed)
                .is_ok()
    }

    #[inline(never)]
    fn get_mapping_slowly(&self, owner: DomId, writable: bool) -> Result<(), Refused> {
        self.try_change(|state| {
            if !state.is_owned_by(owner) {
                return Err(Refused::NotOwned);
            }
            let held = with_reference(state)?;
            match writable {
                true => with_writable(held),
                false => Ok(held),
            }
        })
    }

    /// Uses the frame as writable memory. The caller holds a reference for as long as the use lasts.
    pub fn get_writable(&self) -> Result<(), Refused> {
        self.try_change(with_writable)
    }

    /// Begins a use of a frame as writable that was a table: the record is locked. The caller makes sure that no CPU has
    /// the table cached and calls [`FrameRecord::unlock_writable`]. The caller holds a reference.
    pub fn claim_stale(&self) -> Result<(), Refused> {
        self.try_change(|state| match with_writable(state) {
            Err(Refused::Stale) => {
                let word = TYPE.set(state.0, FrameType::Writable as u64);
                Ok(FrameState(TYPE_COUNT.set(word, 1) | LOCKED.one()))
            }
            Ok(_) => Err(Refused::Locked),
            Err(other) => Err(other),
        })
    }

    /// Ends the lock of [`FrameRecord::claim_stale`].
    pub fn unlock_writable(&self) {
        self.state.fetch_and(!LOCKED.one(), AcqRel);
    }

    /// Uses the frame as `wanted`, which must be a type that needs no check. The caller holds a reference for as long as
    /// the use lasts.
    pub fn get_type(&self, wanted: FrameType) -> Result<(), TypeBusy> {
        match wanted {
            FrameType::Writable => self.get_writable(),
            FrameType::None => self.try_change(|state| {
                // What it was before, CPUs may have cached: that is not forgotten.
                let fits = state.frame_type() == FrameType::None;
                match fits && !state.locked() && state.type_count() < TYPE_COUNT.max() {
                    true => Ok(FrameState(
                        TYPE.set(state.0, 0).wrapping_add(TYPE_COUNT.one()),
                    )),
                    false => Err(Refused::Busy),
                }
            }),
            _ => Err(Refused::Busy),
        }
        .map_err(|_| TypeBusy)
    }

    /// Ends one use begun with [`FrameRecord::get_type`] or [`FrameRecord::get_writable`]. A mapping in a page table ends
    /// with [`FrameRecord::put_mapping`], which is told apart because CPUs cache it.
    pub fn put_type(&self) {
        let change = self.update(|state| {
            (state.type_count() > 0).then(|| FrameState(state.0 - TYPE_COUNT.one()))
        });
        debug_assert!(change.is_some(), "a use ends that never began");
    }

    /// Drops what [`FrameRecord::get_mapping`] took. For memory, [`FrameRecord::note_unmapped`] comes first.
    #[inline(always)]
    pub fn put_mapping(&self, writable: bool) -> Dropped {
        let old = self.state.load(Relaxed);
        let step = match writable {
            false => COUNT.one(),
            true => COUNT.one() + TYPE_COUNT.one(),
        };
        let uses = old & TYPE_COUNT.max() << TYPE_COUNT.shift;
        if old >= DOMAIN
            && COUNT.get(old) >= 2
            && (!writable || uses != 0)
            && self
                .state
                .compare_exchange(old, old - step, AcqRel, Relaxed)
                .is_ok()
        {
            return Dropped::Kept;
        }
        self.put_mapping_slowly(writable)
    }

    #[inline(never)]
    fn put_mapping_slowly(&self, writable: bool) -> Dropped {
        Self::dropped(self.update(|state| {
            let held = state.count() > u64::from(state.allocated());
            let uses = state.type_count().checked_sub(writable.into())?;
            (state.owner().is_some() && held)
                .then(|| Self::without_reference(FrameState(TYPE_COUNT.set(state.0, uses))))
        }))
    }

    /// Claims a frame of `owner` as a table or as descriptors.
    pub fn claim(&self, owner: DomId, wanted: FrameType) -> Result<Claim, Refused> {
        let mut claim = Claim::Ready;
        self.try_change(|state| {
            if !state.is_owned_by(owner) {
                return Err(Refused::NotOwned);
            }
            let held = with_reference(state)?;
            let uses = state.type_count();
            let is_wanted = state.frame_type() == wanted;
            if SHARED.get(state.0) != 0 || uses == TYPE_COUNT.max() || uses > 0 && !is_wanted {
                return Err(Refused::Busy);
            }
            if state.locked() {
                return Err(Refused::Locked);
            }
            let used = held.0 + TYPE_COUNT.one();
            if uses == 0 {
                claim = Claim::Fresh(state.frame_type());
                return Ok(FrameState(TYPE.set(used, wanted as u64) | LOCKED.one()));
            }
            if state.validated() {
                claim = Claim::Ready;
                return Ok(FrameState(used));
            }
            claim = Claim::Partial;
            Ok(FrameState(used | LOCKED.one()))
        })?;
        Ok(claim)
    }

    /// Takes a reference and a use of a frame of `owner` if it is an L1 table that was checked. False also when another CPU
    /// was faster: then [`FrameRecord::get_table`] tells.
    #[must_use]
    #[inline(always)]
    pub fn get_leaf_table(&self, owner: DomId) -> bool {
        self.get_checked(owner, FrameType::L1)
    }

    /// The same for a root.
    #[must_use]
    #[inline(always)]
    pub fn get_root_table(&self, owner: DomId) -> bool {
        self.get_checked(owner, FrameType::L4)
    }

    #[inline(always)]
    fn get_checked(&self, owner: DomId, kind: FrameType) -> bool {
        let old = self.state.load(Relaxed);
        let right = owned_by(owner) | VALIDATED.one() | (kind as u64) << TYPE.shift;
        let step = COUNT.one() + TYPE_COUNT.one();
        old & (CHECKED | TYPE.max() << TYPE.shift) == right
            && self
                .state
                .compare_exchange(old, old + step, AcqRel, Relaxed)
                .is_ok()
    }

    /// Takes a reference and a use of a frame of `owner` if it is a table that was checked, and says of which kind.
    #[inline(always)]
    pub fn get_table(&self, owner: DomId) -> Option<FrameType> {
        let old = self.state.load(Relaxed);
        let step = COUNT.one() + TYPE_COUNT.one();
        if old & CHECKED == owned_by(owner) | VALIDATED.one()
            && self
                .state
                .compare_exchange(old, old + step, AcqRel, Relaxed)
                .is_ok()
        {
            return Some(FrameState(old).frame_type());
        }
        self.get_table_slowly(owner)
    }

    #[inline(never)]
    fn get_table_slowly(&self, owner: DomId) -> Option<FrameType> {
        let (old, _) = self.update(|state| {
            let right = state.is_owned_by(owner) && state.validated();
            (right && state.count() < COUNT.max() && state.type_count() < TYPE_COUNT.max())
                .then(|| FrameState(state.0 + COUNT.one() + TYPE_COUNT.one()))
        })?;
        Some(old.frame_type())
    }

    /// Ends a use as a table, with its reference, if it is not the last. False when it is, or another CPU was faster: then
    /// [`FrameRecord::release`] does it.
    #[must_use]
    #[inline(always)]
    pub fn release_one_of_many(&self) -> bool {
        let old = self.state.load(Relaxed);
        let step = COUNT.one() + TYPE_COUNT.one();
        TYPE_COUNT.get(old) > 1
            && self
                .state
                .compare_exchange(old, old - step, AcqRel, Relaxed)
                .is_ok()
    }

    /// Goes on with a table that the caller holds and that was partly checked.
    pub fn reclaim(&self) -> Reclaim {
        let mut found = Reclaim::Locked;
        let _ = self.try_change(|state| {
            found = match (state.validated(), state.locked()) {
                (true, _) => Reclaim::Ready,
                (false, true) => Reclaim::Locked,
                (false, false) => {
                    found = Reclaim::Partial;
                    return Ok(FrameState(state.0 | LOCKED.one()));
                }
            };
            Err(Refused::Busy)
        });
        found
    }

    /// The contents are right; said by the one who locked the record.
    pub fn set_valid(&self) {
        let change = self.update(|state| {
            (state.locked() && !state.validated())
                .then_some(FrameState(state.0 & !LOCKED.one() | VALIDATED.one()))
        });
        debug_assert!(change.is_some(), "a table is right that nobody checked");
    }

    /// Leaves the table partly checked, as [`FrameRecord::set_progress`] noted; said by the one who locked the record.
    pub fn set_partial(&self) {
        let was = self.state.fetch_and(!LOCKED.one(), AcqRel);
        debug_assert!(LOCKED.get(was) != 0, "a lock is left that nobody holds");
    }

    /// The one who locked the record gives up a table whose contents are wrong. True: it was the only user, and undoes
    /// the entries. False: the table is left to the others, partly checked, and reference and use are dropped.
    #[must_use]
    pub fn give_up(&self) -> bool {
        let mut last = false;
        let change = self.update(|state| {
            last = state.type_count() <= 1;
            Some(match last {
                true => state,
                false => FrameState((state.0 & !LOCKED.one()) - COUNT.one() - TYPE_COUNT.one()),
            })
        });
        debug_assert!(change.is_some_and(|(old, _)| old.locked() && old.type_count() > 0));
        last
    }

    /// Ends a use as a table, with its reference.
    #[inline]
    pub fn release(&self) -> Ended {
        let mut end = Ended::Kept;
        let change = self.update(|state| match state.type_count() {
            0 => None,
            1 if state.locked() => None,
            1 => {
                end = match state.validated() {
                    true => Ended::Whole,
                    false => Ended::Partial,
                };
                Some(FrameState(state.0 & !VALIDATED.one() | LOCKED.one()))
            }
            _ => {
                end = Ended::Kept;
                Some(FrameState(state.0 - COUNT.one() - TYPE_COUNT.one()))
            }
        });
        debug_assert!(change.is_some(), "a use of a table ends that never began");
        match change {
            Some(_) => end,
            None => Ended::Kept,
        }
    }

    /// Ends the last use of a table whose entries hold nothing any more, and its reference; said by the one who locked the
    /// record. `now` is the clock of TLB flushes.
    pub fn end_type(&self, now: u64) -> Dropped {
        self.end_table(now);
        Self::dropped(self.update(|state| {
            debug_assert!(state.locked() && state.type_count() == 1, "{state:?}");
            let word = TYPE_COUNT.set(state.0, 0) & !(LOCKED.one() | VALIDATED.one());
            Some(Self::without_reference(FrameState(word)))
        }))
    }

    /// Moves the word to what `f` says, unless `f` refuses.
    #[inline(always)]
    fn try_change(
        &self,
        mut f: impl FnMut(FrameState) -> Result<FrameState, Refused>,
    ) -> Result<(), Refused> {
        let mut old = self.state.load(Relaxed);
        loop {
            let new = f(FrameState(old))?.0;
            match self.state.compare_exchange_weak(old, new, AcqRel, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => old = now,
            }
        }
    }
}

fn with_reference(state: FrameState) -> Result<FrameState, Refused> {
    match state.count() < COUNT.max() {
        true => Ok(FrameState(state.0 + COUNT.one())),
        false => Err(Refused::Busy),
    }
}

fn with_writable(state: FrameState) -> Result<FrameState, Refused> {
    let uses = state.type_count();
    let used = FrameState(state.0.wrapping_add(TYPE_COUNT.one()));
    match state.frame_type() {
        FrameType::Writable if state.locked() => Err(Refused::Locked),
        FrameType::Writable if uses < TYPE_COUNT.max() => Ok(used),
        FrameType::None if uses == 0 => {
            Ok(FrameState(TYPE.set(used.0, FrameType::Writable as u64)))
        }
        FrameType::Writable | FrameType::None => Err(Refused::Busy),
        _ if uses == 0 => Err(Refused::Stale),
        _ => Err(Refused::Busy),
    }
}

#[cfg(test)]
mod tests;
