//! `mmu_update`: entries of page tables, words of other frames, and entries of the machine-to-physical table, by the machine
//! address of each (`xen.h`).
//!
//! The table that a request was about is kept for the next: a list is mostly about one.

use core::sync::atomic::AtomicU64;

use xenolith_abi::x86_64::MmuUpdate;
use xenolith_core::{DomId, Errno, guest::Caller, hypercall::Outcome, memory::FrameRecord};
use xenolith_hal::{Gfn, GuestVirt, Hal, Mfn};

use super::{
    AddressSpace, ENTRIES, EntryPlace, Level, Machine, PageTables, Rights, Stop, Words,
    batch::{Batch, is_single},
    owner::Named,
    update::CpuBits,
};

/// How many requests are done between two looks for interrupts.
const STRETCH: u32 = 8;

/// Kinds of requests, in the lowest bits of the address.
mod command {
    pub(super) const NORMAL: u64 = 0;
    pub(super) const MACHINE_TO_PHYS: u64 = 1;
    pub(super) const KEEP_CPU_BITS: u64 = 2;
    pub(super) const NO_TRANSLATION: u64 = 3;
    pub(super) const MASK: u64 = 7;
}

/// A table that requests are about, held.
struct Held<'a> {
    mfn: Mfn,
    level: Level,
    record: &'a FrameRecord,
    words: &'a Words,
}

/// What all requests of a call share.
struct Updates<'a, H: Hal> {
    /// Whose tables.
    tables: DomId,
    /// What leaf entries may lead to.
    rights: Rights<'a, H>,
    /// What the tables may hold by themselves.
    own: Rights<'a, H>,
    space: &'a AddressSpace,
}

impl<'a, H: Hal, M: Machine<H>> PageTables<'a, H, M> {
    /// Serves the hypercall: requests, their number, where to count those that are done, and the domains they are about.
    #[inline(never)]
    pub fn mmu_update(self, caller: Caller<'_, H>, args: [u64; 5]) -> Outcome {
        let space = self.machine.address_space(caller.vcpu);
        if is_single(args, space) && self.update_one(caller, space, args) {
            return self.after_one(caller, space, args);
        }
        self.mmu_updates(caller, space, args)
    }

    /// Does the one request of a call about an L1 table of the caller's own, as most calls have it. False: it is another
    /// request, or cannot be done, and nothing happened.
    #[inline(always)]
    fn update_one(self, caller: Caller<'_, H>, space: &AddressSpace, args: [u64; 5]) -> bool {
        let Ok([ptr, new]) = self.machine.read_words(caller, GuestVirt(args[0])) else {
            return false;
        };
        let bits = match ptr & command::MASK {
            command::NORMAL => CpuBits::Replaced,
            command::KEEP_CPU_BITS => CpuBits::Kept,
            _ => return false,
        };
        let place = EntryPlace {
            table: Mfn(ptr >> 12),
            slot: (ptr >> 3) as usize % ENTRIES,
        };
        let rights = self.own_rights(caller.domain());
        self.change_leaf(place, new, bits, &rights, space).is_ok()
    }

    #[inline(never)]
    fn mmu_updates(self, caller: Caller<'_, H>, space: &AddressSpace, args: [u64; 5]) -> Outcome {
        let batch = match Batch::open(caller, args) {
            Ok(batch) => batch,
            Err(result) => return self.finish_with(space, result),
        };
        let foreign = args[3] as u32;
        let outcome = if foreign == u32::from(DomId::SELF.0) {
            let own = self.own_rights(caller.domain());
            let updates = Updates {
                tables: own.owner,
                rights: own,
                own,
                space,
            };
            self.requests(caller, &batch, &updates)
        } else {
            match self.foreign_updates(caller, foreign, &batch) {
                Ok(outcome) => outcome,
                Err(errno) => errno.into(),
            }
        };
        self.after(space, outcome)
    }

    /// The same about tables or frames of others.
    #[cold]
    #[inline(never)]
    fn foreign_updates(
        self,
        caller: Caller<'_, H>,
        foreign: u32,
        batch: &Batch,
    ) -> Result<Outcome, Errno> {
        let tables = match (foreign >> 16).checked_sub(1) {
            None => Named::Own,
            Some(id) if id == u32::from(caller.domain().id().0) => Named::Own,
            Some(id) => match caller.hv.domains.get(DomId(id as u16)) {
                Some(domain) => Named::Other(domain),
                None => return Err(Errno::ESRCH),
            },
        };
        let frames = Named::find(caller, DomId(foreign as u16))?;
        if !matches!(frames, Named::Io) {
            frames.check(caller)?;
        }
        tables.check(caller)?;
        let table_domain = tables.domain(caller);
        // While its tables change it does not end.
        let in_use = table_domain.memory.enter();
        if !table_domain.is_pv() || in_use.is_none() {
            return Err(Errno::EINVAL);
        }
        if matches!(tables, Named::Other(_)) && frames.owner(caller) != table_domain.id() {
            self.machine.mixes_domains();
        }
        let updates = Updates {
            tables: table_domain.id(),
            rights: self.foreign_rights(table_domain, &frames, caller),
            own: self.own_rights(table_domain),
            space: self.machine.address_space(caller.vcpu),
        };
        Ok(self.requests(caller, batch, &updates))
    }

    #[inline(always)]
    fn requests(self, caller: Caller<'_, H>, batch: &Batch, updates: &Updates<'_, H>) -> Outcome {
        let mut held = None;
        let (mut done, mut at) = (0, batch.at);
        let result = loop {
            if let Err(stop) = self.finish_leaving(updates.space) {
                break Err(stop);
            }
            if done == batch.count {
                break Ok(());
            }
            if done % STRETCH == 0 && done != 0 && self.hv.hal.interrupt_waits() {
                break Err(Stop::Preempted);
            }
            let [ptr, val] = match self.machine.read_words(caller, at) {
                Ok(words) => words,
                Err(errno) => break Err(errno.into()),
            };
            if let Err(stop) = self.request(&MmuUpdate { ptr, val }, updates, &mut held) {
                break Err(stop);
            }
            at = at.plus(size_of::<MmuUpdate>() as u64);
            done += 1;
        };
        self.release(&mut held, updates.space);
        self.close(caller, batch, size_of::<MmuUpdate>(), done, result)
    }

    #[inline(always)]
    fn request<'t>(
        self,
        request: &MmuUpdate,
        updates: &Updates<'_, H>,
        held: &mut Option<Held<'t>>,
    ) -> Result<(), Stop>
    where
        'a: 't,
    {
        let bits = match request.ptr & command::MASK {
            command::NORMAL | command::NO_TRANSLATION => CpuBits::Replaced,
            command::KEEP_CPU_BITS => CpuBits::Kept,
            command::MACHINE_TO_PHYS => return self.set_phys(request, updates),
            _ => return Err(Errno::ENOSYS.into()),
        };
        let mfn = Mfn(request.ptr >> 12);
        let slot = (request.ptr >> 3 & 511) as usize;
        if held.as_ref().is_none_or(|table| table.mfn != mfn) {
            self.release(held, updates.space);
            *held = self.table(mfn, updates)?;
        }
        let Some(table) = held else {
            return Ok(self.write_memory(mfn, slot, request.val, updates.tables)?);
        };
        let word = table.words.get(slot).ok_or(Errno::EINVAL)?;
        if table.level == Level::L1 {
            return Ok(self.update_leaf_of_many(word, request.val, bits, &updates.rights)?);
        }
        self.request_above(request, updates, table, (word, slot), bits)
    }

    /// The same in a table above L1.
    #[inline(never)]
    fn request_above(
        self,
        request: &MmuUpdate,
        updates: &Updates<'_, H>,
        table: &Held<'_>,
        (word, slot): (&AtomicU64, usize),
        bits: CpuBits,
    ) -> Result<(), Stop> {
        if updates.rights.owner != updates.tables {
            return Err(Errno::EINVAL.into());
        }
        let (place, own) = ((table.record, table.mfn), &updates.own);
        let space = updates.space;
        self.update_pointer(
            table.level,
            place,
            word,
            slot,
            request.val,
            bits,
            own,
            space,
        )
    }

    /// Holds a frame if it is a table in use; `None` when it is another frame of the domain's.
    #[inline(always)]
    fn table(self, mfn: Mfn, updates: &Updates<'_, H>) -> Result<Option<Held<'a>>, Stop> {
        let record = self.hv.memory.record(mfn).ok_or(Errno::EINVAL)?;
        if record.get_leaf_table(updates.tables)
            && let Ok(words) = self.words(mfn)
        {
            return Ok(Some(Held {
                mfn,
                level: Level::L1,
                record,
                words,
            }));
        }
        self.table_above(record, mfn, updates)
    }

    #[inline(never)]
    fn table_above(
        self,
        record: &'static FrameRecord,
        mfn: Mfn,
        updates: &Updates<'_, H>,
    ) -> Result<Option<Held<'a>>, Stop> {
        let Some(kind) = record.get_table(updates.tables) else {
            return Ok(None);
        };
        match (Level::of(kind), self.words(mfn)) {
            (Some(level), Ok(words)) => Ok(Some(Held {
                mfn,
                level,
                record,
                words,
            })),
            _ => {
                self.let_go(record, mfn, updates.space);
                Err(Errno::EINVAL.into())
            }
        }
    }

    #[inline(always)]
    fn release(self, held: &mut Option<Held<'_>>, space: &AddressSpace) {
        if let Some(table) = held.take() {
            self.let_go(table.record, table.mfn, space);
        }
    }

    #[cold]
    #[inline(never)]
    fn set_phys(self, request: &MmuUpdate, updates: &Updates<'_, H>) -> Result<(), Stop> {
        let mfn = Mfn(request.ptr >> 12);
        let frame = self.hv.get_frame(mfn, updates.rights.owner);
        let frame = frame.ok_or(Errno::EINVAL)?;
        self.hv
            .hal
            .set_machine_to_phys(frame.mfn(), Some(Gfn(request.val)));
        Ok(())
    }
}
