//! One page of the hypervisor's address space through which it reaches device registers whose place changes: the tables of
//! PCI devices' messages, the extended part of their configuration.

use spin::Once;
use x86_64::{VirtAddr, instructions::tlb};
use xenolith_hal::{
    HostPhys, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use super::hyp::Hyp;

const OFFSET: u64 = PAGE_SIZE as u64 - 1;

/// The page's virtual address.
static PAGE: Once<Mutex<u64>> = Once::new();

/// Makes the page, first leading to registers that exist.
pub fn init(registers: HostPhys) -> Result<(), &'static str> {
    let page = HostPhys(registers.0 & !OFFSET);
    let va = Hyp::map_device(page, PAGE_SIZE as u64)
        .map_err(|_| "out of page tables for a window on devices")?;
    PAGE.call_once(|| Mutex::new(Rank::Console, va as u64));
    Ok(())
}

/// Calls `access` with the virtual address of a physical one. Accesses stay in that page.
fn with<R>(at: u64, access: impl FnOnce(u64) -> R) -> Option<R> {
    let page = PAGE.get()?.lock();
    if !Hyp::redirect(*page, HostPhys(at & !OFFSET)) {
        return None;
    }
    // Only the holder of the lock uses the page, and each drops first what its CPU cached of it.
    tlb::flush(VirtAddr::new(*page));
    Some(access(*page + (at & OFFSET)))
}

/// Reads 1, 2, 4 or 8 bytes of device registers, which lie in one page; all ones for another size.
///
/// # Safety
/// Device registers are there, and reading them has no effect on the hypervisor's memory.
pub unsafe fn read(at: u64, size: usize) -> u64 {
    // SAFETY: the page is mapped, and the caller says what is behind it.
    let value = with(at, |va| unsafe {
        match size {
            1 => u64::from((va as *const u8).read_volatile()),
            2 => u64::from((va as *const u16).read_unaligned()),
            4 => u64::from((va as *const u32).read_unaligned()),
            8 => (va as *const u64).read_unaligned(),
            _ => u64::MAX,
        }
    });
    value.unwrap_or(u64::MAX)
}

/// Writes them.
///
/// # Safety
/// Device registers are there, and writing them has no effect on the hypervisor's memory.
pub unsafe fn write(at: u64, size: usize, value: u64) {
    // SAFETY: as in `read`.
    with(at, |va| unsafe {
        match size {
            1 => (va as *mut u8).write_volatile(value as u8),
            2 => (va as *mut u16).write_unaligned(value as u16),
            4 => (va as *mut u32).write_unaligned(value as u32),
            8 => (va as *mut u64).write_unaligned(value),
            _ => {}
        }
    });
}
