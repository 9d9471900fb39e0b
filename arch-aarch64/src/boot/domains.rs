//! Makes every domain that the boot loader asked for.

use alloc::string::String;

use xenolith_core::{
    DomId, Hypervisor,
    boot::{PhysRange, memory::BootMemory},
};

use super::{Machine, build, dom0, domu};
use crate::{Aarch64, guest::mmio};

/// Makes dom0 and the others. One that cannot be made is left out with a line that says why; an error means that none
/// could be made.
pub(super) fn build_all(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    ram: &BootMemory,
    blob: PhysRange,
) -> Result<(), String> {
    hv.console.set_device_input(mmio::console_input);
    let free = ram.free();
    let others = machine.boot.domains.iter().map(domu::memory_needed).sum();
    if let Some(dom0) = &machine.boot.dom0 {
        dom0::build(hv, machine, dom0, &free, others)?;
    } else {
        for range in free.iter() {
            build::release(hv, range);
        }
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
    }
    build::release(hv, blob);
    for module in &machine.boot.unused {
        build::release(hv, module.range);
    }
    if made == 0 { last } else { Ok(()) }
}
