//! What start-up found out about this machine, for all who ask later.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spin::Once;
use xenolith_core::boot::{PhysRange, RangeSet};
use xenolith_hal::E820Entry;

use crate::{cpu::cpuid::cpuid, guest::paging::PagingLimits, mm::second_level, svm, vmx};

/// How guests are run.
#[derive(Clone, Copy, Debug)]
pub enum Virtualization {
    /// AMD's way.
    Svm(svm::cpu::Features),
    /// Intel's.
    Vmx(vmx::cpu::Features),
}

static VIRTUALIZATION: Once<Virtualization> = Once::new();

static PAGING: Once<PagingLimits> = Once::new();

/// What guests are told of paging.
#[inline]
pub fn paging_limits() -> PagingLimits {
    *PAGING.call_once(|| {
        let [highest, features, sizes] =
            [0x8000_0000, 0x8000_0001, 0x8000_0008].map(|leaf| cpuid(leaf, 0));
        PagingLimits::of_cpu(highest.eax, features.edx, sizes.eax)
    })
}

/// What [`no_address`] gives; all ones before it is known.
static NO_ADDRESS: AtomicU64 = AtomicU64::new(u64::MAX);

/// Bits of a page-table entry's address that no physical address of the machine has.
#[inline(always)]
#[must_use]
pub fn no_address() -> u64 {
    match NO_ADDRESS.load(Relaxed) {
        u64::MAX => learn_no_address(),
        known => known,
    }
}

#[cold]
#[inline(never)]
fn learn_no_address() -> u64 {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    let bits = ADDRESS & (u64::MAX << paging_limits().physical_bits);
    NO_ADDRESS.store(bits, Relaxed);
    bits
}

static RAM: Once<RangeSet> = Once::new();

/// Tells which memory the machine has, the hypervisor's own included.
pub fn set_ram(ram: RangeSet) {
    RAM.call_once(|| ram);
}

/// The first address behind all memory.
pub fn ram_end() -> u64 {
    let last = RAM.get().and_then(|ram| ram.iter().next_back());
    last.map_or(0, |range| range.end())
}

/// Whether a range is, even in part, memory of the machine.
pub fn has_memory(range: &PhysRange) -> bool {
    RAM.get().is_none_or(|ram| ram.overlaps(range))
}

/// Whether a page is memory of the machine from end to end: the allocator has no others.
pub fn is_memory(page: &PhysRange) -> bool {
    RAM.get()
        .is_none_or(|ram| ram.iter().any(|range| range.contains(page)))
}

/// APIC number and ACPI's number of each CPU.
static PROCESSORS: Once<Vec<(u32, u32)>> = Once::new();

/// Tells how ACPI numbers the CPUs: the APIC number and ACPI's own of each.
pub fn set_processors(processors: impl Iterator<Item = (u32, u32)>) {
    PROCESSORS.call_once(|| processors.collect());
}

/// ACPI's number of the CPU with an APIC number.
pub fn acpi_id(apic_id: u32) -> Option<u32> {
    let mut all = PROCESSORS.get()?.iter();
    all.find_map(|(apic, acpi)| (*apic == apic_id).then_some(*acpi))
}

static MEMORY_MAP: Once<Vec<E820Entry>> = Once::new();

/// Tells the machine's memory map, as the loader gave it.
pub fn set_memory_map(map: Vec<E820Entry>) {
    MEMORY_MAP.call_once(|| map);
}

/// The machine's memory map.
pub fn memory_map() -> &'static [E820Entry] {
    MEMORY_MAP.get().map_or(&[], Vec::as_slice)
}

/// Most ranges of registers that the hypervisor keeps to itself.
const KEPT_RANGES: usize = 96;
static KEPT: Once<Vec<PhysRange>> = Once::new();

/// Looks for a way to run guests. `apicv` says whether their local APICs may be lent to CPUs.
pub fn find_virtualization(apicv: bool) -> Result<(), &'static str> {
    let found = if vmx::cpu::exists() {
        second_level::use_ept();
        Virtualization::Vmx(vmx::cpu::detect(apicv)?)
    } else if svm::cpu::exists() {
        Virtualization::Svm(svm::cpu::detect()?)
    } else {
        return Err("the CPU has neither SVM nor VMX");
    };
    VIRTUALIZATION.call_once(|| found);
    Ok(())
}

/// How guests are run, where they can be.
#[inline]
pub fn virtualization() -> Option<&'static Virtualization> {
    VIRTUALIZATION.get()
}

/// Whether second-level tables may have blocks of 1 GiB.
pub fn gigabyte_blocks() -> bool {
    match virtualization() {
        Some(Virtualization::Vmx(vmx)) => vmx.gigabyte_pages(),
        _ => paging_limits().gigabyte_pages,
    }
}

/// No domain gets these registers. Told once; ranges beyond a number that no machine has are left out with a line.
pub fn keep(ranges: impl Iterator<Item = PhysRange>) {
    KEPT.call_once(|| {
        let mut ranges = ranges.fuse();
        let kept = ranges.by_ref().take(KEPT_RANGES).collect();
        if let Some(range) = ranges.next() {
            log::warn!("too many ranges of registers to keep: {range:?} and what follows");
        }
        kept
    });
}

/// Whether the hypervisor keeps registers in this range to itself.
pub fn keeps(range: &PhysRange) -> bool {
    let mut kept = KEPT.get().into_iter().flatten();
    kept.any(|kept| kept.overlaps(range))
}
