//! Makes every domain that the boot loader asked for.

use alloc::string::String;

use xenolith_arch_common::boot_memory::release;
use xenolith_core::{DomId, Hypervisor, boot::memory::BootMemory};

use super::{Machine, dom0, domu};
use crate::{Aarch64, guest::mmio};

/// Makes dom0 and the others. One that cannot be made is left out with a line that says why; an error means that none
/// could be made.
pub(super) fn build_all(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    ram: &mut BootMemory,
) -> Result<(), String> {
    hv.console.set_device_input(mmio::console_input);
    let others = machine.boot.domains.iter().map(domu::memory_needed);
    let others = others.fold(0, u64::saturating_add);
    if let Some(dom0) = &machine.boot.dom0 {
        dom0::build(hv, machine, dom0, ram, others)?;
    } else {
        release(hv, &ram.free());
    }
    let mut made = u16::from(machine.boot.dom0.is_some());
    let mut last = Ok(());
    for (spec, id) in machine.boot.domains.iter().zip(1..) {
        match domu::build(hv, machine, spec, DomId(id)) {
            Ok(()) => made += 1,
            Err(error) => {
                log::error!("{error}");
                last = Err(error);
            }
        }
        for module in spec.modules() {
            release(hv, &ram.done_with(module.range));
        }
    }
    release(hv, &ram.done_with_all());
    if made == 0 { last } else { Ok(()) }
}
