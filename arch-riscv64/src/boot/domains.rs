//! Makes every domain that the boot loader asked for.

use alloc::string::String;

use xenolith_arch_common::boot_memory::release;
use xenolith_core::{DomId, Hypervisor, boot::memory::BootMemory};

use super::{Machine, build, dom0};
use crate::{Riscv64, guest::uart};

/// Makes dom0 and the others. One that cannot be made is left out with a line that says why; an error means that none could be made.
pub(super) fn build_all(
    hv: &'static Hypervisor<Riscv64>,
    machine: &Machine<'_>,
    ram: &mut BootMemory,
) -> Result<(), String> {
    hv.console.set_device_input(uart::typed);
    if let Some(dom0) = &machine.boot.dom0 {
        dom0::build(hv, machine, dom0, ram)?;
    } else {
        release(hv, &ram.free());
    }
    let mut last = Ok(());
    let mut made = u16::from(machine.boot.dom0.is_some());
    // The control domain has number 0, as on every machine.
    let first = machine.boot.domains.first();
    let has_control =
        machine.boot.dom0.is_none() && first.is_some_and(|spec| spec.capabilities.has_control());
    for (spec, id) in machine.boot.domains.iter().zip(u16::from(!has_control)..) {
        if id != 0 && spec.capabilities.has_control() {
            log::warn!("{}: only the first domain can have control", spec.name);
        }
        match build::build(hv, machine, spec, DomId(id)) {
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
