//! Makes every domain that the boot loader asked for.

use alloc::string::String;

use xenolith_core::{
    DomId, Hypervisor,
    boot::{PhysRange, RangeSet},
};
use xenolith_hal::{PAGE_SHIFT, PAGE_SIZE};

use super::{
    dom0::{self, Machine},
    domu,
    modules::Parts,
};
use crate::X86_64;

/// Makes dom0 and the others. One of the others that cannot be made is left out with a line that says why; an error means
/// that there is no dom0 where one was meant, or nobody at all.
pub(super) fn build_all(
    hv: &'static Hypervisor<X86_64>,
    machine: &Machine<'_>,
    mut free: RangeSet,
) -> Result<(), String> {
    let parts = Parts::new(machine.boot, &mut free);
    let own: RangeSet = machine.own.iter().chain(parts.kept.iter()).collect();
    let machine = Machine {
        own: &own,
        ..*machine
    };
    let others = parts.others.iter().map(domu::memory_needed).sum();
    if let Some(files) = &parts.dom0 {
        dom0::build(hv, &machine, files, others, free)?;
    } else if parts.others.is_empty() {
        return Err("no dom0: the boot loader gave no module with its kernel".into());
    } else {
        dom0::release_all(hv, &machine);
    }
    for (other, id) in parts.others.iter().zip(1..) {
        if let Err(error) = domu::build(hv, other, DomId(id)) {
            log::error!("{}: {error}", other.spec.name);
        }
    }
    parts.kept.iter().for_each(|range| release(hv, range));
    Ok(())
}

/// Gives whole frames of a range to the allocator.
pub(super) fn release(hv: &Hypervisor<X86_64>, range: PhysRange) {
    let inner = range.aligned_inner(PAGE_SIZE as u64);
    hv.memory
        .release_at_boot(inner.base().frame(), inner.size() >> PAGE_SHIFT);
}
