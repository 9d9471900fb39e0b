//! What a PV domain maps of the machine beside RAM: device registers and what the firmware left.
//!
//! A domain that owns the devices reaches everything by itself but what would let it past the hypervisor. Nobody maps RAM so: what
//! the hypervisor's allocator has, or may get, is not there for it. (A page that is RAM in part is in no allocator; kernels map that at
//! the end of conventional memory.) The local APICs' page and the range of messages are not there
//! either. Controllers that the hypervisor keeps, configuration space in memory and tables of messages can be read; writes to
//! the latter two come here, and do what the emulation of PCI lets them do.

use xenolith_core::{Domain, DomainRef, Hypervisor, boot::PhysRange};
use xenolith_hal::{Mfn, PAGE_SIZE};

use super::memory::IoAccess;
use crate::{X86_64, apic, guest::pci::Access, machine};

/// What a domain may do with a frame that is nobody's memory.
#[must_use]
pub fn access(domain: &Domain<X86_64>, mfn: Mfn) -> IoAccess {
    let Some(pci) = &domain.arch.pci else {
        return IoAccess::Refused;
    };
    let Some(page) = PhysRange::new(mfn.base().0, PAGE_SIZE as u64) else {
        return IoAccess::Refused;
    };
    // An address that the CPU cannot have would be a fault of the tables'.
    if mfn.base().0 >> machine::paging_limits().physical_bits != 0 {
        return IoAccess::Refused;
    }
    if machine::is_memory(&page) || apic::is_at(mfn.base()) {
        return IoAccess::Refused;
    }
    match pci.access(&page) {
        Access::None => IoAccess::Refused,
        _ if machine::keeps(&page) => IoAccess::ReadOnly,
        Access::Read => IoAccess::ReadOnly,
        Access::Write => IoAccess::ReadWrite,
    }
}

/// A domain wrote `size` bytes to a physical address that it may only read. Writes that nobody emulates go nowhere, as on a bus
/// where nobody listens.
pub fn write(
    hv: &Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    (address, size): (u64, usize),
    value: u64,
) {
    if let Some(pci) = &domain.arch.pci {
        pci.write_memory(hv, domain, (address, size), value);
    }
}
