//! What `memory_op` does for paravirtual domains, who know machine frames: memory comes and goes by its frames, and the
//! table of the machine is there to be read.

use xenolith_abi::{
    memory::{MachphysMfnList, MemoryMap, MemoryOp, Reservation},
    narrow::Long,
};
use xenolith_hal::{AtomicOp::Load, Gfn, GuestVirt, Hal, Mfn};

use super::Call;
use crate::{Domain, DomainRef, Errno, hypercall::Privilege, memory::Place};

impl<H: Hal> Call<'_, H> {
    /// One extent of a change of a paravirtual domain's memory.
    pub(super) fn change_machine_extent(
        &self,
        op: MemoryOp,
        domain: &DomainRef<H>,
        wanted: &Reservation,
        place: Place,
        n: u64,
    ) -> Result<(), Errno> {
        let (hv, order) = (self.caller.hv, wanted.extent_order);
        let list = GuestVirt(wanted.extent_start.address());
        let extent = || {
            let Long(frame) = self.caller.read_at(list, n)?;
            Ok(frame)
        };
        let given = match op {
            MemoryOp::PopulatePhysmap => {
                hv.populate_machine(domain, Gfn(extent()?), order, place)?
            }
            MemoryOp::DecreaseReservation => {
                return hv.depopulate_machine(domain, Mfn(extent()?), 1 << order);
            }
            _ => hv
                .allocate_for(domain, order, place)
                .map_err(|_| Errno::ENOMEM)?,
        };
        if list.0 == 0 && op == MemoryOp::IncreaseReservation {
            return Ok(());
        }
        self.caller.write_at(list, n, &Long(given.0))
    }

    /// `XENMEM_machphys_mapping`.
    pub(super) fn machphys_mapping(&self) -> Result<i64, Errno> {
        let mapping = self.caller.hv.hal.machphys_mapping().ok_or(Errno::ENOSYS)?;
        self.caller.write(self.arg, &mapping)?;
        Ok(0)
    }

    /// `XENMEM_machphys_mfn_list`: where each 2 MiB of the table begin. A translated caller is told of none.
    pub(super) fn machphys_list(&self) -> Result<i64, Errno> {
        let mut asked = self.caller.read::<MachphysMfnList>(self.arg)?;
        let list = GuestVirt(asked.extent_start.address());
        let room = match self.caller.domain().is_pv() {
            true => asked.max_extents,
            false => 0,
        };
        asked.nr_extents = 0;
        while asked.nr_extents < room
            && let Some(frame) = self.caller.hv.hal.machphys_frame(asked.nr_extents.into())
        {
            self.caller
                .write_at(list, asked.nr_extents.into(), &Long(frame.0))?;
            asked.nr_extents += 1;
        }
        self.caller.write(self.arg, &asked)?;
        Ok(0)
    }

    /// `XENMEM_machine_memory_map`: all of it, into more room than it needs.
    pub(super) fn machine_memory_map(&self) -> Result<i64, Errno> {
        Privilege::of(self.caller)?;
        let mut asked = self.caller.read::<MemoryMap>(self.arg)?;
        let map = self.caller.hv.hal.machine_memory_map();
        if u64::from(asked.nr_entries) <= map.len() as u64 {
            return Err(Errno::EINVAL);
        }
        let buffer = GuestVirt(asked.buffer.address());
        for (entry, at) in map.iter().zip(0..) {
            self.caller.write_at(buffer, at, entry)?;
        }
        asked.nr_entries = map.len() as u32;
        self.caller.write(self.arg, &asked)?;
        Ok(0)
    }
}

/// The last frame of a paravirtual domain's own numbering, as it says in its shared info.
pub(super) fn last_pfn<H: Hal>(hal: &H, domain: &Domain<H>) -> u64 {
    // The architecture's part begins with how many there are.
    let at = domain.info_layout().arch;
    let count = hal.atomic64(domain.shared_info, at, Load).unwrap_or(0);
    count.max(1) - 1
}
