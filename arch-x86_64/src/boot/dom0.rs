//! Makes dom0: its memory 1:1, its kernel by PVH.

use alloc::{format, string::String, vec::Vec};

use xenolith_abi::start_info::StartFlags;
use xenolith_core::{
    DomId, DomainRef, Hypervisor,
    boot::{
        PhysRange, RangeSet,
        bzimage::{self, BzImage},
        cmdline::Options,
        elf::Elf,
        initrd,
    },
};
use xenolith_hal::{E820Entry, Gfn, Mfn, P2m, P2mType, PAGE_SHIFT, PAGE_SIZE};

use super::{
    build::{self, Shape},
    info::BootInfo,
};
use crate::{
    X86_64,
    acpi::Acpi,
    domain_build::{
        acpi_tables,
        memory_map::{self, GuestEntry, Plan, Request},
        start_info,
    },
    irq,
    mm::hyp::Direct,
};

const PAGE: u64 = PAGE_SIZE as u64;
/// Frames of page tables and the like that dom0 may have beside its memory.
const OVERHEAD: u64 = 4096;

/// What is known of the machine when dom0 is made.
pub(super) struct Machine<'m> {
    pub(super) boot: &'m BootInfo<'m>,
    pub(super) options: &'m Options,
    pub(super) acpi: &'m Acpi<'m>,
    /// The hypervisor's own memory.
    pub(super) own: &'m RangeSet,
    /// Registers that dom0 does not reach.
    pub(super) hidden: &'m RangeSet,
    /// Physical CPUs.
    pub(super) cpus: usize,
}

/// A module's bytes, or those of what was unpacked.
fn bytes(range: PhysRange) -> &'static [u8] {
    // SAFETY: the range is RAM in the direct map that nobody writes until dom0 has been built.
    unsafe {
        core::slice::from_raw_parts(
            Direct::address(range.base()) as *const u8,
            range.size() as usize,
        )
    }
}

/// Free RAM as room to unpack in.
fn room(range: PhysRange) -> &'static mut [u8] {
    // SAFETY: the range was taken out of free RAM for this one use, and the direct map covers it.
    unsafe {
        core::slice::from_raw_parts_mut(
            Direct::address(range.base()) as *mut u8,
            range.size() as usize,
        )
    }
}

/// The kernel's ELF file: as it was loaded, or unpacked into free RAM.
fn unpack(file: PhysRange, free: &mut RangeSet) -> Result<PhysRange, String> {
    if !bzimage::is_bzimage(bytes(file)) {
        return Ok(file);
    }
    let packed = BzImage::parse(bytes(file)).map_err(|e| format!("{e}"))?;
    let mut take = |size: u64| {
        let size = size.max(1).next_multiple_of(PAGE);
        let range = free.highest_fit(size, PAGE)?;
        free.remove(range);
        Some(range)
    };
    let places = take(packed.length.into()).zip(take(packed.work_size() as u64));
    let (out, work) =
        places.ok_or("no free memory to unpack dom0's kernel in: give the machine more RAM")?;
    let elf = packed
        .unpack(room(out), room(work))
        .map_err(|e| format!("{e}"))?;
    Ok(PhysRange::between(
        out.start(),
        out.start() + elf.len() as u64,
    ))
}

/// Makes dom0. `free` is RAM that nobody uses; afterwards the allocator has what dom0 does not.
pub(super) fn build(
    hv: &'static Hypervisor<X86_64>,
    machine: &Machine<'_>,
    mut free: RangeSet,
) -> Result<(), String> {
    let Machine {
        boot,
        options,
        acpi,
        ..
    } = *machine;
    let module = boot
        .modules
        .first()
        .ok_or("no dom0: the boot loader gave no module with its kernel")?;
    let ramdisk = boot.modules.get(1);
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

    let kernel = unpack(module.range, &mut free)?;
    let elf = Elf::parse(bytes(kernel)).map_err(|e| format!("{e}"))?;
    let entry = elf.pvh_entry().map_err(|e| format!("{e}"))?;
    let segments: Vec<PhysRange> = elf.segments.iter().map(|s| s.memory).collect();
    let vcpus = (machine.cpus as u32).clamp(options.dom0_max_vcpus.min, options.dom0_max_vcpus.max);
    let apic_ids: Vec<u32> = (0..vcpus).map(|index| index * 2).collect();
    let plan = memory_map::plan(&Request {
        map: &boot.map,
        own: machine.own,
        hidden: machine.hidden,
        memory: options.dom0_mem,
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
        memory_map: plan.map.iter().map(e820).collect(),
        config_spaces: &acpi.config_spaces,
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
    for segment in &elf.segments {
        let filled = segment.bytes.len() as u64;
        let at = segment.memory.start();
        if !build::write_guest(&domain, at, segment.bytes)
            || !build::zero_guest(&domain, at + filled, segment.memory.size() - filled)
        {
            return Err(format!(
                "dom0: no memory for its kernel at {}",
                segment.memory
            ));
        }
    }
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

fn e820(entry: &GuestEntry) -> E820Entry {
    E820Entry {
        addr: entry.range.start(),
        size: entry.range.size(),
        kind: entry.kind.number(),
    }
}

/// Gives the allocator all RAM but the hypervisor's own, and dom0 what is planned for it.
fn take_memory(
    hv: &'static Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    machine: &Machine<'_>,
    plan: &Plan,
) -> Result<(), String> {
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
