//! Memory that is mapped 1:1, and devices at their places.

use alloc::{format, string::String};

use crate::boot_memory::release;
use xenolith_core::{
    DomainRef, Hypervisor,
    boot::{
        PhysRange, RangeSet,
        cmdline::Dom0Memory,
        memory::BootMemory,
        modules::Dom0,
        placement::{DomainPlan, dom0_memory},
    },
};
use xenolith_hal::{Gfn, Hal, Mfn, P2m, P2mType, PAGE_SHIFT};

/// First frame and number of frames.
fn frames(range: PhysRange) -> (u64, u64) {
    (range.start() >> PAGE_SHIFT, range.size() >> PAGE_SHIFT)
}

/// Tells of a plan for dom0, and where it has less than was asked for.
pub fn report(plan: &DomainPlan, vcpus: u32, memory: &Dom0Memory, free: &RangeSet, others: u64) {
    log::info!(
        "dom0: {} MiB, {vcpus} vCPUs, kernel at {}, device tree at {}",
        plan.memory() >> 20,
        plan.kernel.at,
        plan.device_tree,
    );
    let wanted = dom0_memory(memory, free.size(), others);
    if plan.memory() >> 20 < wanted >> 20 {
        log::warn!(
            "dom0: {} MiB were wanted; RAM is in too many pieces",
            wanted >> 20
        );
    }
}

/// What of RAM may become dom0's: all that is free, and modules of which it can have every frame, which need not be copied then.
#[must_use]
pub fn modules_in_place(memory: &BootMemory, dom0: &Dom0<'_>) -> RangeSet {
    let mut usable = memory.free();
    for module in dom0.modules() {
        let frames = memory.freed_by(module.range);
        frames.iter().for_each(|range| usable.insert(range));
    }
    usable
}

/// Gives the frames of those modules to the allocator that are `chosen`.
pub fn release_modules<H: Hal>(
    hv: &Hypervisor<H>,
    memory: &mut BootMemory,
    dom0: &Dom0<'_>,
    chosen: impl Fn(&PhysRange) -> bool,
) {
    for module in dom0.modules().filter(|module| chosen(&module.range)) {
        release(hv, &memory.done_with(module.range));
    }
}

/// Gives a domain the memory of its plan, frame by frame where the plan says.
pub fn give_memory<H: Hal>(
    hv: &Hypervisor<H>,
    domain: &DomainRef<H>,
    name: &str,
    plan: &DomainPlan,
) -> Result<(), String> {
    // All of it before the first table is made, whose frame may come from anywhere.
    for bank in &plan.banks {
        let (first, count) = frames(bank.guest);
        hv.allocate_for_at(domain, Mfn(first), count)
            .map_err(|_| format!("{name}: memory at {} is not free", bank.guest))?;
    }
    for bank in &plan.banks {
        let (first, count) = frames(bank.guest);
        domain
            .p2m
            .map(
                Gfn(first),
                Mfn(first),
                count,
                P2mType::RamRw,
                &hv.tables(domain),
            )
            .map_err(|e| format!("{name}: memory at {} cannot be mapped: {e:?}", bank.guest))?;
    }
    Ok(())
}

/// Maps whole pages of the machine from address `host` on into dom0, or says that it does not get them.
pub fn map<H: Hal>(
    hv: &Hypervisor<H>,
    domain: &DomainRef<H>,
    guest: PhysRange,
    host: u64,
    kind: P2mType,
) {
    let (first, count) = frames(guest);
    let tables = hv.tables(domain);
    let host = Mfn(host >> PAGE_SHIFT);
    if domain
        .p2m
        .map(Gfn(first), host, count, kind, &tables)
        .is_err()
    {
        log::warn!("dom0 does not get {guest}: beyond its address space");
    }
}
