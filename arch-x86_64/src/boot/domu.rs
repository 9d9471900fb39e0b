//! Makes a domain that an `xen,domain` node describes: a guest without devices, by PVH or PV, beside dom0 or without one.

use alloc::{format, string::String, vec, vec::Vec};

use xenolith_abi::start_info::{MemmapType, StartFlags};
use xenolith_core::{
    DomId, DomainRef, Hypervisor,
    boot::{
        PhysRange,
        elf::{Elf, pv::PvKernel},
        initrd,
    },
    domain::{Destroyed, GuestKind},
};
use xenolith_hal::{E820Entry, Gfn, PAGE_SHIFT};

use super::{
    build::{self, Shape},
    modules::{Other, bytes},
    pv,
};
use crate::{
    X86_64,
    domain_build::{
        domu::{self, Plan},
        domu_tables,
        kind::{self, Kind},
        start_info,
    },
};

/// As many as Xen gives a guest in hardware virtualization (`HVM_MAX_VCPUS`).
const MOST_CPUS: u32 = 128;

/// Bytes of RAM that a domain will take: its memory, and room for tables and the like.
pub(super) fn memory_needed(other: &Other) -> u64 {
    let memory = other.spec.memory;
    memory.saturating_add(memory >> 8).saturating_add(1 << 20)
}

/// Makes one domain and lets it go.
pub(super) fn build(
    hv: &'static Hypervisor<X86_64>,
    other: &Other,
    id: DomId,
) -> Result<(), String> {
    let spec = &other.spec;
    if spec.cpus > MOST_CPUS {
        return Err(format!(
            "cpus = {} is not possible, 1 to {MOST_CPUS} are",
            spec.cpus
        ));
    }
    if spec.vpl011 || spec.direct_map || spec.device_tree.is_some() {
        log::warn!(
            "{}: vpl011, direct-map and a device tree mean nothing on x86-64",
            spec.name
        );
    }
    let file = other.ramdisk.map(|range| (range, bytes(range)));
    if file.is_some()
        && let Some(warning) = initrd::warning(spec.name, file, spec.bootargs)
    {
        log::warn!("{warning}");
    }
    let kernel = Elf::parse(bytes(other.kernel)).map_err(|e| format!("{e}"))?;
    let kind = kind::choose(spec.mode.map(Kind::from), &kernel, pv::able());
    if kind.map_err(|e| format!("{e}"))? == Kind::Pv {
        return build_pv(hv, other, id, &kernel);
    }
    let entry = kernel.pvh_entry().map_err(|e| format!("{e}"))?;
    let segments: Vec<PhysRange> = kernel.segments.iter().map(|s| s.memory).collect();
    let apic_ids: Vec<u32> = (0..spec.cpus).map(|index| index * 2).collect();
    let line = spec.bootargs.as_bytes();
    let plan = domu::plan(&domu::Request {
        memory: spec.memory,
        segments: &segments,
        ramdisk_size: other.ramdisk.map(|range| range.size()),
        acpi_size: domu_tables::size(&apic_ids) as u64,
        start_info_size: start_info::size(line, &[], 0),
    })
    .map_err(|e| format!("{e}"))?;
    let shape = Shape {
        id,
        vcpus: spec.cpus as u16,
        privileged: false,
        max_frames: plan.ram.size() >> PAGE_SHIFT,
        direct_map: false,
        kind: GuestKind::Translated,
        memory_map: plan.map.iter().map(build::e820).collect(),
        config_spaces: &[],
        special_lines: &[],
    };
    let domain = build::create(hv, &shape)?;
    if let Err(error) = fill_in(hv, other, &domain, &kernel, &plan, &apic_ids) {
        // Nothing of it ran: it goes in one piece unless interrupts come in between.
        while hv.destroy(&domain) == Destroyed::NotYet {}
        return Err(error);
    }
    log::info!(
        "{}: domain {}, {} MiB, {} vCPUs",
        spec.name,
        id.0,
        plan.ram.size() >> 20,
        spec.cpus
    );
    build::start(hv, &domain, entry, plan.start_info.start())
}

/// The same by PV. Its map is one piece of RAM.
fn build_pv(
    hv: &'static Hypervisor<X86_64>,
    other: &Other,
    id: DomId,
    kernel: &Elf<'_>,
) -> Result<(), String> {
    let spec = &other.spec;
    let frames = spec.memory >> PAGE_SHIFT;
    let ram = E820Entry {
        addr: 0,
        size: frames << PAGE_SHIFT,
        kind: MemmapType::Ram.number(),
    };
    let recipe = pv::Recipe {
        name: spec.name,
        shape: Shape {
            id,
            vcpus: spec.cpus as u16,
            privileged: false,
            max_frames: frames,
            direct_map: false,
            kind: GuestKind::Paravirtual,
            memory_map: vec![ram],
            config_spaces: &[],
            special_lines: &[],
        },
        frames,
        kernel: PvKernel::new(kernel).map_err(|e| format!("{e}"))?,
        ramdisk: other.ramdisk.map(bytes),
        command_line: spec.bootargs.as_bytes(),
    };
    pv::build(hv, recipe, || ())
}

/// Gives a new domain its memory and what goes in.
fn fill_in(
    hv: &'static Hypervisor<X86_64>,
    other: &Other,
    domain: &DomainRef<X86_64>,
    kernel: &Elf<'_>,
    plan: &Plan,
    apic_ids: &[u32],
) -> Result<(), String> {
    for bank in plan.ram.iter() {
        let (first, count) = (Gfn(bank.start() >> PAGE_SHIFT), bank.size() >> PAGE_SHIFT);
        hv.give_ram(domain, first, count)
            .map_err(|e| format!("{e}"))?;
    }
    build::load(domain, other.spec.name, kernel)?;
    let contents = start_info::Contents {
        flags: StartFlags::empty(),
        command_line: other.spec.bootargs.as_bytes(),
        ramdisk: plan.ramdisk.map(|range| (range, &[][..])),
        rsdp: plan.acpi.start(),
        map: &plan.map,
    };
    let tables = domu_tables::build(apic_ids, plan.acpi.start());
    let info = start_info::build(&contents, plan.start_info.start());
    let ramdisk = plan.ramdisk.zip(other.ramdisk);
    let whole = build::write_guest(domain, plan.acpi.start(), &tables)
        && build::write_guest(domain, plan.start_info.start(), &info)
        && ramdisk.is_none_or(|(to, from)| build::write_guest(domain, to.start(), bytes(from)));
    if whole {
        Ok(())
    } else {
        Err("its start info or ramdisk does not fit its place".into())
    }
}
