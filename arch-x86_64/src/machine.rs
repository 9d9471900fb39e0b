//! What start-up found out about this machine, for all who ask later.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spin::Once;
use xenolith_core::boot::{PhysRange, RangeSet};
use xenolith_hal::{HostPhys, Mfn, PAGE_SIZE};

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
        let (width, features) = (cpuid(0x8000_0008, 0), cpuid(0x8000_0001, 0));
        PagingLimits {
            physical_bits: width.eax as u8,
            gigabyte_pages: features.edx & 1 << 26 != 0,
        }
    })
}

static RAM: Once<RangeSet> = Once::new();

/// Tells which memory the machine has, the hypervisor's own included.
pub fn set_ram(ram: RangeSet) {
    RAM.call_once(|| ram);
}

/// Whether a range is, even in part, memory of the machine.
pub fn has_memory(range: &PhysRange) -> bool {
    RAM.get().is_none_or(|ram| ram.overlaps(range))
}

/// Most places of registers that the hypervisor keeps to itself.
const KEPT_PAGES: usize = 16;
static KEPT: [AtomicU64; KEPT_PAGES] = [const { AtomicU64::new(u64::MAX) }; KEPT_PAGES];

/// Looks for a way to run guests.
pub fn find_virtualization() -> Result<(), &'static str> {
    let found = if vmx::cpu::exists() {
        second_level::use_ept();
        Virtualization::Vmx(vmx::cpu::detect()?)
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

/// No domain gets this page of registers.
pub fn keep(page: HostPhys) {
    let free = KEPT.iter().find(|kept| kept.load(Relaxed) == u64::MAX);
    match free {
        Some(kept) => kept.store(page.frame().0, Relaxed),
        None => log::warn!("too many pages of registers to keep: {page:?}"),
    }
}

/// Whether the hypervisor keeps registers in this range to itself.
pub fn keeps(range: &PhysRange) -> bool {
    let page = |frame: u64| {
        let start = Mfn(frame).base().0;
        PhysRange::new(start, PAGE_SIZE as u64)
    };
    let mut kept = KEPT.iter().map(|kept| kept.load(Relaxed));
    kept.any(|frame| frame != u64::MAX && page(frame).is_some_and(|page| page.overlaps(range)))
}
