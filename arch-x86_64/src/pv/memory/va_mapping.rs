//! `update_va_mapping`: the L1 entry that maps an address, with the flush that goes with it (`xen.h`).

use xenolith_core::{
    DomId, Errno,
    guest::Caller,
    hypercall::Outcome,
    memory::{FrameRecord, FrameType},
};
use xenolith_hal::{GuestVirt, Hal, Mfn};

use super::{
    AddressSpace, EntryPlace, Flush, Machine, PageTables, Rights, Words, owner::Named,
    update::CpuBits,
};

const FLUSH_ALL_PAGES: u64 = 1;
const FLUSH_ONE_PAGE: u64 = 2;
const FLUSH_KIND: u64 = 3;
/// What is left of the flags when the flush is for this CPU.
const HERE: u64 = 0;
/// The same for all CPUs; anything else is the address of a bitmap of vCPUs.
const EVERYWHERE: u64 = 4;

impl<'a, H: Hal, M: Machine<H>> PageTables<'a, H, M> {
    /// Serves `update_va_mapping`: address, entry, flags.
    #[inline(never)]
    pub fn update_va_mapping(self, caller: Caller<'_, H>, args: [u64; 5]) -> Outcome {
        let [address, new, flags, ..] = args;
        let rights = self.own_rights(caller.domain());
        let space = self.machine.address_space(caller.vcpu);
        let address = GuestVirt(address);
        if let Err(errno) = self.change_mapping(address, new, &rights, rights.owner, space) {
            return self.finish_now(space, errno.into());
        }
        if flags & FLUSH_KIND != 0
            && let Err(errno) = self.flush_by(caller, address, flags)
        {
            return self.finish_now(space, errno.into());
        }
        match space.has_leaving() {
            false => Outcome::Done(0),
            true => self.finish_now(space, Outcome::Done(0)),
        }
    }

    /// Serves `update_va_mapping_otherdomain`: the entry leads to a frame of another domain.
    #[cold]
    #[inline(never)]
    pub fn update_va_mapping_otherdomain(self, caller: Caller<'_, H>, args: [u64; 5]) -> Outcome {
        let [address, new, flags, owner, _] = args;
        let named = match Named::find(caller, DomId(owner as u16)) {
            Ok(named) => named,
            Err(errno) => return errno.into(),
        };
        if !matches!(named, Named::Io)
            && let Err(errno) = named.check(caller)
        {
            return errno.into();
        }
        let own = caller.domain();
        let rights = self.foreign_rights(own, &named, caller);
        let space = self.machine.address_space(caller.vcpu);
        let address = GuestVirt(address);
        let result = self
            .change_mapping(address, new, &rights, own.id(), space)
            .and_then(|()| self.flush_by(caller, address, flags));
        self.finish_now(space, result.map(|()| 0).into())
    }

    /// Changes the entry that maps an address, in a table of `owner`.
    #[inline(always)]
    fn change_mapping(
        self,
        address: GuestVirt,
        new: u64,
        rights: &Rights<'_, H>,
        owner: DomId,
        space: &AddressSpace,
    ) -> Result<(), Errno> {
        let place = self.l1_entry(space, address)?;
        self.with_l1(place, owner, space, |words| {
            let word = words.get(place.slot).ok_or(Errno::EINVAL)?;
            self.update_leaf(word, new, CpuBits::Replaced, rights)
        })
    }

    /// Changes an entry of an L1 table of the caller's own.
    #[inline(always)]
    pub(super) fn change_leaf(
        self,
        place: EntryPlace,
        new: u64,
        bits: CpuBits,
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> Result<(), Errno> {
        let record = self.hv.memory.record(place.table).ok_or(Errno::EINVAL)?;
        let words = self.words(place.table)?;
        let word = words.get(place.slot).ok_or(Errno::EINVAL)?;
        if !record.get_leaf_table(rights.owner) {
            return Err(Errno::EINVAL);
        }
        let result = self.update_leaf(word, new, bits, rights);
        self.let_go(record, place.table, space);
        result
    }

    /// Calls `f` with the words of a frame, held as an L1 table of a domain.
    #[inline(always)]
    pub(super) fn with_l1<T>(
        self,
        place: EntryPlace,
        owner: DomId,
        space: &AddressSpace,
        f: impl FnOnce(&'a Words) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let record = self.hv.memory.record(place.table).ok_or(Errno::EINVAL)?;
        if !record.get_leaf_table(owner) && !self.get_leaf_table(record, place.table, owner, space)
        {
            return Err(Errno::EINVAL);
        }
        let result = self.words(place.table).and_then(f);
        self.let_go(record, place.table, space);
        result
    }

    /// The quick way did not do: another CPU was faster, or it is no such table.
    #[cold]
    #[inline(never)]
    fn get_leaf_table(
        self,
        record: &FrameRecord,
        mfn: Mfn,
        owner: DomId,
        space: &AddressSpace,
    ) -> bool {
        match record.get_table(owner) {
            None => false,
            Some(FrameType::L1) => true,
            Some(_) => {
                self.let_go(record, mfn, space);
                false
            }
        }
    }

    /// A table may be left to be undone: its last user left while it was held here. That takes another CPU that took it
    /// down, so it is rare, and what is not finished here is left to the next call on page tables.
    #[cold]
    #[inline(never)]
    fn finish_now(self, space: &AddressSpace, result: Outcome) -> Outcome {
        let _ = self.finish_leaving(space);
        result
    }

    #[inline(always)]
    fn flush_by(self, caller: Caller<'_, H>, address: GuestVirt, flags: u64) -> Result<(), Errno> {
        let what = match flags & FLUSH_KIND {
            FLUSH_ALL_PAGES => Flush::All,
            FLUSH_ONE_PAGE => Flush::Page(address),
            _ => return Ok(()),
        };
        match flags & !FLUSH_KIND {
            HERE => self.machine.flush_here(what),
            EVERYWHERE => self.flush_all(caller, what),
            bitmap => {
                let cpus = self.cpus_in(caller, GuestVirt(bitmap))?;
                self.flush_cpus(&cpus, what);
            }
        }
        Ok(())
    }
}
