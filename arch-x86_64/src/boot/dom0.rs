//! Makes dom0: its memory 1:1, its kernel by PVH.

use alloc::{format, string::String, vec::Vec};

use xenolith_abi::start_info::{
    HvmStartInfo, MAGIC, MemmapEntry, ModlistEntry, StartFlags,
};
use xenolith_core::{
    DomId, DomainRef, Hypervisor,
    boot::{
        PhysRange, RangeSet,
        bzimage::{self, BzImage},
        cmdline::Options,
        elf::Elf,
        memory::BootMemory,
    },
};
use xenolith_hal::{Gfn, Mfn, P2m, P2mType, PAGE_SHIFT, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::{
    build::{self, Shape},
    info::{BootInfo, MapEntry},
};
use crate::{X86_64, irq, mm::hyp::Direct};

const MIB: u64 = 1 << 20;
/// What stays with the hypervisor when the command line does not say how much dom0 gets.
const KEPT: u64 = 64 * MIB;
/// Start info, memory map, command line.
const INFO_SIZE: u64 = 64 * 1024;
const LOW: PhysRange = PhysRange::between(0, MIB);

/// A module's bytes.
fn bytes(range: PhysRange) -> &'static [u8] {
    // SAFETY: modules are RAM in the direct map and lie untouched until dom0 is built.
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

/// Makes dom0. Afterwards the allocator has the rest of RAM.
pub(super) fn build(
    hv: &'static Hypervisor<X86_64>,
    boot: &BootInfo<'_>,
    options: &Options,
    ram: &BootMemory,
) -> Result<(), String> {
    let kernel = *boot.modules.first().ok_or("no dom0: the boot loader gave no module")?;
    let initrd = boot.modules.get(1).copied();
    let mut free = ram.free();

    // The kernel, unpacked if it is packed.
    let file = bytes(kernel.range);
    let mut scratch = Vec::new();
    let image = if bzimage::is_bzimage(file) {
        let packed = BzImage::parse(file).map_err(|e| format!("{e}"))?;
        let mut take = |size: u64| -> Result<PhysRange, String> {
            let size = size.max(1).next_multiple_of(PAGE_SIZE as u64);
            let range = free
                .highest_fit(size, PAGE_SIZE as u64)
                .ok_or("dom0: no room to unpack the kernel")?;
            free.remove(range);
            scratch.push(range);
            Ok(range)
        };
        let out = room(take(packed.length.into())?);
        let work = room(take(packed.work_size() as u64)?);
        packed.unpack(out, work).map_err(|e| format!("{e}"))?
    } else {
        file
    };
    let elf = Elf::parse(image).map_err(|e| format!("{e}"))?;
    let entry = elf.pvh_entry().map_err(|e| format!("{e}"))?;
    let extent = elf.extent();

    // What dom0 gets: low memory as on the host, then upwards.
    let mut available = ram.free();
    available.remove(LOW);
    for module in &boot.modules {
        available.insert(module.range.page_outer().unwrap_or(module.range));
    }
    let wanted = options
        .dom0_mem
        .size
        .map_or(available.size().saturating_sub(KEPT), |size| size.of(available.size()));
    let mut banks = RangeSet::default();
    let mut left = wanted;
    for range in available.iter() {
        let range = range.aligned_inner(PAGE_SIZE as u64);
        let take = range.size().min(left) & !(PAGE_SIZE as u64 - 1);
        if take != 0 {
            banks.insert(PhysRange::between(range.start(), range.start() + take));
            left -= take;
        }
    }
    let conventional: Vec<PhysRange> = boot
        .map
        .iter()
        .filter(|entry| entry.kind == 1)
        .map(|entry| entry.range.intersection(&LOW).aligned_inner(PAGE_SIZE as u64))
        .filter(|range| !range.is_empty())
        .collect();
    if !banks.contains(&extent) {
        return Err(format!(
            "dom0: its kernel wants to be at {extent}, which is not free; give dom0 more memory"
        ));
    }

    // Where the rest goes.
    let mut places = banks.clone();
    places.remove(extent.page_outer().unwrap_or(extent));
    for range in boot.modules.iter().map(|module| module.range).chain(scratch.iter().copied()) {
        places.remove(range.page_outer().unwrap_or(range));
    }
    places.remove(PhysRange::between(4 << 30, u64::MAX));
    let info_at = places
        .highest_fit(INFO_SIZE, PAGE_SIZE as u64)
        .ok_or("dom0: no room for its start info")?;
    places.remove(info_at);
    let initrd_at = match &initrd {
        None => None,
        Some(module) if banks.contains(&module.range) && !overlap(&module.range, &extent) => {
            Some(module.range)
        }
        Some(module) => {
            let at = places
                .highest_fit(module.range.size(), PAGE_SIZE as u64)
                .ok_or("dom0: no room for its ramdisk")?;
            Some(PhysRange::between(at.start(), at.start() + module.range.size()))
        }
    };

    let shape = Shape {
        id: DomId(0),
        vcpus: 1,
        privileged: true,
        max_frames: (banks.size() >> PAGE_SHIFT) + 256,
        direct_map: true,
    };
    let domain = build::create(hv, &shape)?;
    let all = {
        let mut all = ram.free();
        all.remove(LOW);
        for module in &boot.modules {
            all.insert(module.range.page_outer().unwrap_or(module.range));
        }
        all
    };
    for range in all.iter() {
        let inner = range.aligned_inner(PAGE_SIZE as u64);
        hv.memory
            .release_at_boot(inner.base().frame(), inner.size() >> PAGE_SHIFT);
    }
    let tables = hv.tables(&domain);
    for bank in banks.iter() {
        let (first, count) = (bank.start() >> PAGE_SHIFT, bank.size() >> PAGE_SHIFT);
        hv.allocate_for_at(&domain, Mfn(first), count)
            .map_err(|_| format!("dom0: memory at {bank} is not free"))?;
        domain
            .p2m
            .map(Gfn(first), Mfn(first), count, P2mType::RamRw, &tables)
            .map_err(|e| format!("dom0: memory at {bank} cannot be mapped: {e:?}"))?;
    }
    // The first MiB: RAM, firmware and screen as they are.
    domain
        .p2m
        .map(Gfn(0), Mfn(0), LOW.size() >> PAGE_SHIFT, P2mType::RamRw, &tables)
        .map_err(|e| format!("dom0: low memory cannot be mapped: {e:?}"))?;

    if let (Some(module), Some(at)) = (&initrd, &initrd_at)
        && module.range != *at
        && !build::write_guest(&domain, at.start(), bytes(module.range))
    {
        return Err(String::from("dom0: its ramdisk does not fit its place"));
    }
    for segment in &elf.segments {
        let size = segment.memory.size();
        let filled = segment.bytes.len() as u64;
        if !build::write_guest(&domain, segment.memory.start(), segment.bytes)
            || !build::zero_guest(&domain, segment.memory.start() + filled, size - filled)
        {
            return Err(format!("dom0: no memory for its kernel at {}", segment.memory));
        }
    }
    let map = memory_map(boot, &banks, &conventional, info_at);
    let text = kernel.command_line;
    let info = start_info(info_at.start(), &map, text, initrd_at, boot.rsdp);
    if !build::write_guest(&domain, info_at.start(), &info) {
        return Err(String::from("dom0: its start info does not fit its place"));
    }
    irq::give_to(&domain);
    log::info!(
        "dom0: {} MiB, kernel at {extent}, entry {entry:#x}, start info at {:#x}",
        banks.size() >> 20,
        info_at.start()
    );
    build::start(hv, &domain, entry, info_at.start())
}

fn overlap(a: &PhysRange, b: &PhysRange) -> bool {
    !a.intersection(b).is_empty()
}

/// dom0's memory map: its banks are RAM, what the host has that is no RAM is as there, the rest of the host's RAM is
/// reserved.
fn memory_map(
    boot: &BootInfo<'_>,
    banks: &RangeSet,
    conventional: &[PhysRange],
    info: PhysRange,
) -> Vec<MapEntry> {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    const ACPI: u32 = 3;
    let mut ram = banks.clone();
    for range in conventional {
        ram.insert(*range);
    }
    ram.remove(info);
    let mut hidden = RangeSet::default();
    for entry in boot.map.iter().filter(|entry| entry.kind == RAM) {
        hidden.insert(entry.range);
    }
    for range in ram.iter().chain([info]) {
        hidden.remove(range);
    }
    let mut map: Vec<MapEntry> = Vec::new();
    map.extend(ram.iter().map(|range| MapEntry { range, kind: RAM }));
    map.extend(hidden.iter().map(|range| MapEntry {
        range,
        kind: RESERVED,
    }));
    map.push(MapEntry {
        range: info,
        kind: ACPI,
    });
    map.extend(boot.map.iter().filter(|entry| entry.kind != RAM).copied());
    map.sort_by_key(|entry| entry.range.start());
    map
}

/// Start info with all that hangs off it, for a place in guest memory.
fn start_info(
    at: u64,
    map: &[MapEntry],
    command_line: &str,
    initrd: Option<PhysRange>,
    rsdp: Option<u64>,
) -> Vec<u8> {
    let modules_at = at + size_of::<HvmStartInfo>() as u64;
    let map_at = modules_at + size_of::<ModlistEntry>() as u64;
    let text_at = map_at + (map.len() * size_of::<MemmapEntry>()) as u64;
    let info = HvmStartInfo {
        magic: MAGIC,
        version: 1,
        flags: StartFlags::PRIVILEGED | StartFlags::INITDOMAIN,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: modules_at,
        cmdline_paddr: text_at,
        rsdp_paddr: rsdp.unwrap_or(0),
        memmap_paddr: map_at,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    let module = initrd.map_or(ModlistEntry::default(), |range| ModlistEntry {
        paddr: range.start(),
        size: range.size(),
        ..ModlistEntry::default()
    });
    let mut out = Vec::from(info.as_bytes());
    out.extend(module.as_bytes());
    for entry in map {
        let entry = MemmapEntry {
            addr: entry.range.start(),
            size: entry.range.size(),
            kind: entry.kind,
            reserved: 0,
        };
        out.extend(entry.as_bytes());
    }
    out.extend(command_line.as_bytes());
    out.push(0);
    out
}
