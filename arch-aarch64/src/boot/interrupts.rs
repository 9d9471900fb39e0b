//! From the device tree to a running interrupt controller.

use alloc::{format, string::String};

use xenolith_core::boot::PhysRange;
use xenolith_hal::CpuId;

use super::Machine;
use crate::{
    console,
    domain_build::{FIRST_SPI, GicVersion},
    gic::{Gic, GicInfo, MAX_REGIONS, Ppis, RedistRegion, Trigger, Version},
    irq,
    mm::hyp,
};

fn map(range: PhysRange) -> Result<*mut u8, &'static str> {
    hyp::map_device(range.base(), range.size())
        .map_err(|_| "no page tables for the interrupt controller")
}

/// Maps and starts the distributor. Each CPU starts its own part when it joins.
pub(super) fn start(machine: &Machine<'_>) -> Result<(), String> {
    let gic = &machine.host.gic;
    let mut info = GicInfo {
        version: match gic.version {
            GicVersion::V2 => Version::V2,
            GicVersion::V3 => Version::V3,
        },
        dist: map(gic.distributor)?,
        redist: [RedistRegion::NONE; MAX_REGIONS],
        cpu: core::ptr::null_mut(),
        hypervisor: core::ptr::null_mut(),
        ppis: Ppis {
            hyp_timer: machine.host.timer.hypervisor,
            virtual_timer: machine.host.timer.virt,
            maintenance: gic.maintenance.unwrap_or(Ppis::default().maintenance),
        },
    };
    if gic.version == GicVersion::V2 {
        let missing =
            "the GICv2 node has no CPU or hypervisor interface in reg: mend the device tree";
        info.cpu = map(gic.cpu_interface.ok_or(missing)?)?;
        info.hypervisor = map(gic.hypervisor_interface.ok_or(missing)?)?;
    }
    for (region, range) in info.redist.iter_mut().zip(&gic.redistributors) {
        *region = RedistRegion {
            base: map(*range)?,
            len: range.size() as usize,
        };
    }
    // SAFETY: every frame was just mapped as device memory with the length that the device tree gives; no domain gets
    // these pages, and this is the only driver.
    let gic = unsafe { Gic::new(&info) }.map_err(|e| format!("interrupt controller: {e}"))?;
    irq::init(gic);
    Ok(())
}

/// Lets the console's UART interrupt this CPU.
pub(super) fn start_console(machine: &Machine<'_>) {
    let interrupt = machine
        .console
        .and_then(|id| machine.tree.by_id(id))
        .and_then(|node| node.interrupts().into_iter().next());
    let Some(interrupt) = interrupt else {
        log::warn!("the console's UART names no interrupt: there is no console input");
        return;
    };
    if let ([0, number, flags, ..], Some(gic)) = (interrupt.cells(), irq::gic()) {
        let trigger = if flags & 3 != 0 {
            Trigger::Edge
        } else {
            Trigger::Level
        };
        let intid = FIRST_SPI + number;
        gic.claim_spi(intid, trigger, CpuId(0));
        console::enable_input(intid);
    }
}
