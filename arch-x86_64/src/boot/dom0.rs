//! Makes dom0: by PVH with its memory 1:1, or by PV ([`pv`]).

use alloc::{format, string::String, vec::Vec};

use xenolith_abi::start_info::StartFlags;
use xenolith_core::{
    DomId, DomainRef, Hypervisor,
    boot::{PhysRange, RangeSet, cmdline::Options, elf::Elf, initrd},
    domain::GuestKind,
};
use xenolith_hal::{Gfn, Mfn, P2m, P2mType, PAGE_SHIFT, PAGE_SIZE};

use super::{
    build::{self, Shape},
    info::{BootInfo, Module},
    modules::{bytes, room, unpack},
    pv,
};
use crate::{
    X86_64,
    acpi::Acpi,
    domain_build::{
        acpi_tables,
        kind::{self, Kind},
        memory_map::{self, Plan, Request},
        start_info,
    },
    irq,
};

const PAGE: u64 = PAGE_SIZE as u64;
/// Frames of page tables and the like that dom0 may have beside its memory.
const OVERHEAD: u64 = 4096;

/// What is known of the machine when domains are made.
#[derive(Clone, Copy)]
pub(super) struct Machine<'m> {
    pub(super) boot: &'m BootInfo<'m>,
    pub(super) options: &'m Options,
    pub(super) acpi: &'m Acpi<'m>,
    /// Memory that dom0 does not get: the hypervisor's own, and what waits in it for other domains.
    pub(super) own: &'m RangeSet,
    /// Registers that dom0 does not reach.
    pub(super) hidden: &'m RangeSet,
    /// Physical CPUs.
    pub(super) cpus: usize,
}

/// dom0's files, as the loader left them.
#[derive(Clone, Copy)]
pub(super) struct Files<'m> {
    pub(super) kernel: Module<'m>,
    pub(super) ramdisk: Option<Module<'m>>,
}

/// Makes dom0. `free` is RAM that nobody uses; afterwards the allocator has what dom0 does not. `others` bytes are for
/// other domains.
pub(super) fn build(
    hv: &'static Hypervisor<X86_64>,
    machine: &Machine<'_>,
    files: &Files<'_>,
    others: u64,
    mut free: RangeSet,
) -> Result<(), String> {
    let Machine {
        boot,
        options,
        acpi,
        ..
    } = *machine;
    let Files {
        kernel: module,
        ramdisk,
    } = *files;
    // Copies: the originals lie where dom0's memory will be.
    let command_line = String::from(module.command_line);
    let ramdisk_line = String::from(ramdisk.map_or("", |module| module.command_line));

    // Where a loader's word cannot be believed there is nothing to look at.
    let seen = |range: PhysRange| {
        let whole = machine
            .boot
            .map
            .iter()
            .any(|entry| entry.kind == 1 && entry.range.contains(&range));
        if whole { bytes(range) } else { &[] }
    };
    let file = ramdisk.map(|module| (module.range, seen(module.range)));
    if let Some(warning) = initrd::warning("dom0", file, &command_line) {
        log::warn!("{warning}");
    }

    let kernel = unpack("dom0", module.range, &mut free)?;
    let elf = Elf::parse(bytes(kernel)).map_err(|e| format!("{e}"))?;
    let vcpus = (machine.cpus as u32).clamp(options.dom0_max_vcpus.min, options.dom0_max_vcpus.max);
    let kind = kind::choose(options.dom0_mode.map(Kind::from), &elf, pv::able())
        .map_err(|e| format!("dom0: {e}"))?;
    if kind == Kind::Pv {
        let files = pv::Files {
            elf,
            range: kernel,
            ramdisk: file,
            command_line: command_line.as_bytes(),
        };
        return pv::build_dom0(hv, machine, &files, vcpus as u16, others);
    }
    let entry = elf.pvh_entry().map_err(|e| format!("{e}"))?;
    let segments: Vec<PhysRange> = elf.segments.iter().map(|s| s.memory).collect();
    let apic_ids: Vec<u32> = (0..vcpus).map(|index| index * 2).collect();
    let plan = memory_map::plan(&Request {
        map: &boot.map,
        own: machine.own,
        hidden: machine.hidden,
        memory: options.dom0_mem,
        others,
        segments: &segments,
        kernel,
        ramdisk: ramdisk.map(|module| module.range),
        acpi_size: acpi_tables::size(acpi, &apic_ids) as u64,
        start_info_size: start_info::size(command_line.as_bytes(), ramdisk_line.as_bytes(), 0),
    })
    .map_err(|e| format!("dom0: {e}"))?;
    let tables = acpi_tables::build(acpi, &apic_ids, plan.acpi.start());
    let info = start_info::build(
        &start_info::Contents {
            flags: StartFlags::PRIVILEGED | StartFlags::INITDOMAIN,
            command_line: command_line.as_bytes(),
            ramdisk: plan.ramdisk.map(|range| (range, ramdisk_line.as_bytes())),
            rsdp: plan.acpi.start(),
            map: &plan.map,
        },
        plan.start_info.start(),
    );

    let shape = Shape {
        id: DomId(0),
        vcpus: vcpus as u16,
        privileged: true,
        max_frames: (plan.ram.size() >> PAGE_SHIFT) + OVERHEAD,
        direct_map: true,
        kind: GuestKind::Translated,
        memory_map: plan.map.iter().map(build::e820).collect(),
        config_spaces: &acpi.config_spaces,
        special_lines: &acpi.madt.overrides,
    };
    let domain = build::create(hv, &shape)?;
    for step in &plan.moves {
        room(PhysRange::between(step.to, step.to + step.from.size()))
            .copy_from_slice(bytes(step.from));
    }
    // The file may have moved; its segments are read from where it is now.
    let elf = Elf::parse(bytes(plan.kernel)).map_err(|e| format!("{e}"))?;
    take_memory(hv, &domain, machine, &plan)?;
    if let Some(pci) = &domain.arch.pci {
        pci.guard_tables(hv, &domain);
    }
    build::load(&domain, "dom0", &elf)?;
    if !build::write_guest(&domain, plan.acpi.start(), &tables)
        || !build::write_guest(&domain, plan.start_info.start(), &info)
    {
        return Err(String::from("dom0: its start info does not fit its place"));
    }
    irq::give_to(&domain);
    log::info!(
        "dom0: {vcpus} vCPUs, {} MiB, {}entry {entry:#x}, start info at {:#x}",
        plan.ram.size() >> 20,
        plan.ramdisk
            .map_or(String::new(), |at| format!("ramdisk at {at}, ")),
        plan.start_info.start()
    );
    build::start(hv, &domain, entry, plan.start_info.start())
}

/// Gives the allocator all RAM but what is kept.
pub(super) fn release_all(hv: &Hypervisor<X86_64>, machine: &Machine<'_>) {
    const RAM: u32 = 1;
    let mut all = RangeSet::new();
    let map = &machine.boot.map;
    for entry in map.iter().filter(|entry| entry.kind == RAM) {
        all.insert(entry.range.aligned_inner(PAGE));
    }
    let taken = map.iter().filter(|e| e.kind != RAM).map(|e| e.range);
    for range in taken.chain(machine.own.iter()) {
        all.remove(range.page_outer().unwrap_or(range));
    }
    for range in all.iter() {
        hv.memory
            .release_at_boot(range.base().frame(), range.size() >> PAGE_SHIFT);
    }
}

/// Gives the allocator all RAM but what is kept, and dom0 what is planned for it.
fn take_memory(
    hv: &'static Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    machine: &Machine<'_>,
    plan: &Plan,
) -> Result<(), String> {
    release_all(hv, machine);
    let tables = hv.tables(domain);
    let map = |range: PhysRange, kind: P2mType| {
        let (first, count) = (range.start() >> PAGE_SHIFT, range.size() >> PAGE_SHIFT);
        domain
            .p2m
            .map(Gfn(first), Mfn(first), count, kind, &tables)
            .map_err(|e| format!("dom0: {range} cannot be mapped: {e:?}"))
    };
    // All of it before the first table is made, whose frame may come from anywhere.
    for bank in plan.ram.iter() {
        let (first, count) = (bank.start() >> PAGE_SHIFT, bank.size() >> PAGE_SHIFT);
        hv.allocate_for_at(domain, Mfn(first), count)
            .map_err(|_| format!("dom0: memory at {bank} is not free"))?;
    }
    for bank in plan.ram.iter() {
        map(bank, P2mType::RamRw)?;
    }
    for range in plan.firmware.iter() {
        map(range, P2mType::MmioDirect)?;
    }
    Ok(())
}
