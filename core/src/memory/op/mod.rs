//! The `memory_op` hypercall, answered as Xen 4.17 answers it on ARM, and for paravirtual domains as on x86.
//!
//! Header: `memory.h`. The low bits of the command name the operation, the rest says how many extents are done: a long
//! call that is interrupted returns [`Outcome::Again`] with that number raised, and is re-issued. Arguments are copied
//! in once. Reservation calls answer with the number of extents done, also when an argument is bad; the others with 0
//! or an error number.

mod exchange;
mod machine;
mod physmap;
mod query;
mod reservation;

use alloc::sync::Arc;

use xenolith_abi::memory::{CMD_BITS, CMD_MASK, MemoryOp};
use xenolith_hal::{GuestVirt, Hal};

use crate::{DomId, DomainRef, Errno, guest::Caller, hypercall::Outcome};

/// Serves one `memory_op` call.
pub fn memory_op<H: Hal>(caller: Caller<'_, H>, cmd: u64, arg: GuestVirt) -> Outcome {
    let call = Call {
        caller,
        cmd,
        done: cmd >> CMD_BITS,
        arg,
    };
    let Ok(op) = MemoryOp::try_from((cmd & CMD_MASK) as u32) else {
        return Outcome::from(Err(Errno::ENOSYS));
    };
    match op {
        MemoryOp::IncreaseReservation
        | MemoryOp::DecreaseReservation
        | MemoryOp::PopulatePhysmap => call.change_reservation(op),
        MemoryOp::AddToPhysmapBatch => call.add_to_physmap_batch(),
        MemoryOp::AcquireResource => call.acquire_resource(),
        MemoryOp::AddToPhysmap => call.add_to_physmap().into(),
        // From here on a call is never continued.
        MemoryOp::MaximumRamPage
        | MemoryOp::CurrentReservation
        | MemoryOp::MaximumReservation
        | MemoryOp::MaximumGpfn
        | MemoryOp::RemoveFromPhysmap
        | MemoryOp::Exchange
        | MemoryOp::ClaimPages
        | MemoryOp::GetVnumainfo
        | MemoryOp::ReservedDeviceMemoryMap
            if call.done != 0 =>
        {
            Outcome::from(Err(Errno::EINVAL))
        }
        // These know no extents at all.
        MemoryOp::MemoryMap
        | MemoryOp::MachphysMfnList
        | MemoryOp::MachphysMapping
        | MemoryOp::MachphysCompatMfnList
        | MemoryOp::MachineMemoryMap
        | MemoryOp::SetMemoryMap
        | MemoryOp::GetSharingFreedPages
        | MemoryOp::GetSharingSharedPages
            if call.done != 0 =>
        {
            Outcome::from(Err(Errno::ENOSYS))
        }
        MemoryOp::MaximumRamPage => Ok(call.caller.hv.memory.table().end().0 as i64).into(),
        MemoryOp::CurrentReservation | MemoryOp::MaximumReservation | MemoryOp::MaximumGpfn => {
            call.ask(op).into()
        }
        MemoryOp::MemoryMap if H::HVM_CALLS => call.memory_map().into(),
        MemoryOp::RemoveFromPhysmap => call.remove_from_physmap().into(),
        MemoryOp::Exchange => call.exchange(),
        MemoryOp::ClaimPages => call.claim_pages().into(),
        MemoryOp::GetVnumainfo => call.vnuma_topology().into(),
        MemoryOp::ReservedDeviceMemoryMap => call.reserved_device_memory().into(),
        // No page is ever shared.
        MemoryOp::GetSharingFreedPages | MemoryOp::GetSharingSharedPages => Outcome::Done(0),
        MemoryOp::MachphysMapping if call.is_pv_call() => call.machphys_mapping().into(),
        MemoryOp::MachineMemoryMap if call.is_pv_call() => call.machine_memory_map().into(),
        MemoryOp::MachphysMfnList if H::HVM_CALLS || call.is_pv_call() => {
            call.machphys_list().into()
        }
        MemoryOp::MachphysCompatMfnList if H::HVM_CALLS => Errno::EOPNOTSUPP.into(),
        MemoryOp::SetMemoryMap if H::HVM_CALLS => call.set_memory_map().into(),
        MemoryOp::SetPodTarget | MemoryOp::GetPodTarget if H::HVM_CALLS => {
            call.populate_on_demand().into()
        }
        MemoryOp::AccessOp if H::HVM_CALLS => call.access_op().into(),
        // Matters of other guests, and paging, sharing and access control, which are not built in.
        MemoryOp::MemoryMap
        | MemoryOp::MachphysMfnList
        | MemoryOp::MachphysMapping
        | MemoryOp::MachphysCompatMfnList
        | MemoryOp::MachineMemoryMap
        | MemoryOp::SetMemoryMap
        | MemoryOp::SetPodTarget
        | MemoryOp::GetPodTarget
        | MemoryOp::PagingOp
        | MemoryOp::AccessOp
        | MemoryOp::SharingOp => Outcome::from(Err(Errno::ENOSYS)),
    }
}

/// One call: who makes it, what is asked, and how far it has come.
struct Call<'a, H: Hal> {
    caller: Caller<'a, H>,
    cmd: u64,
    done: u64,
    arg: GuestVirt,
}

impl<H: Hal> Call<'_, H> {
    /// The domain of that name; the caller's own name is any domain's.
    fn lookup(&self, name: xenolith_abi::DomId) -> Result<DomainRef<H>, Errno> {
        let own = self.caller.domain();
        let name = DomId(name.0);
        if name == DomId::SELF || name == own.id() {
            return Ok(own.clone());
        }
        self.caller.hv.domains.get(name).ok_or(Errno::ESRCH)
    }

    /// Whether the caller may change that domain: itself, or any if it is privileged.
    fn may_control(&self, domain: &DomainRef<H>) -> Result<(), Errno> {
        let own = self.caller.domain();
        let may = own.config.privileged || Arc::ptr_eq(own, domain);
        may.then_some(()).ok_or(Errno::EPERM)
    }

    /// The domain of that name, the caller's own or one that the caller controls.
    fn target(&self, name: xenolith_abi::DomId) -> Result<DomainRef<H>, Errno> {
        let domain = self.lookup(name)?;
        self.may_control(&domain)?;
        Ok(domain)
    }

    /// Whether a paravirtual domain calls.
    fn is_pv_call(&self) -> bool {
        self.caller.domain().is_pv()
    }

    /// The same call, to be made again when `done` extents are done.
    fn again(&self, done: u64) -> Outcome {
        let cmd = self.cmd & CMD_MASK | done << CMD_BITS;
        Outcome::Again([cmd, self.arg.0, 0, 0, 0])
    }

    /// Whether the call shall be interrupted now.
    fn preempted(&self) -> bool {
        self.caller.hv.hal.interrupt_waits()
    }
}

#[cfg(test)]
mod tests;
