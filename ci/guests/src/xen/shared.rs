//! The shared-info page and its two-level event bitmaps; per-CPU `vcpu_info`.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{call_at, nr};
use crate::arch::{self, SHARED_PENDING, hypercall};
use crate::buffer::Page;

/// Byte offset of the pending flag in a `vcpu_info`.
pub const UPCALL_PENDING: u64 = 0;
/// Byte offset of the selector in a `vcpu_info`.
pub const SELECTOR: u64 = 8;
const MASK_OFFSET: u64 = 512;
/// Bytes of a `vcpu_info` in the shared-info page.
const LEGACY_BYTES: u64 = 64;

static PAGE: AtomicU64 = AtomicU64::new(0);
static VCPU_INFO: [AtomicU64; arch::MAX_CPUS] = [const { AtomicU64::new(0) }; arch::MAX_CPUS];

/// The shared-info page, mapped at the first call.
pub fn page() -> Page {
    let address = PAGE.load(Ordering::Relaxed);
    if address != 0 {
        return Page::at(address);
    }
    let page = arch::shared_info();
    PAGE.store(page.address(), Ordering::Relaxed);
    for (index, info) in VCPU_INFO.iter().enumerate() {
        // A translated vCPU has one only when it has registered it.
        if index == 0 || !arch::IS_TRANSLATED {
            let legacy = page.address() + index as u64 * LEGACY_BYTES;
            info.store(legacy, Ordering::Relaxed);
        }
    }
    page
}

/// Address of the `vcpu_info` of vCPU `index`; 0 before it is registered.
pub fn vcpu_info(index: usize) -> u64 {
    VCPU_INFO[index].load(Ordering::Relaxed)
}

/// Whether the `vcpu_info` of vCPU `index` is elsewhere than in the shared-info page.
pub fn has_moved(index: usize) -> bool {
    vcpu_info(index) & !0xfff != page().address()
}

/// Moves the `vcpu_info` of `vcpu` into `page` at `offset`.
pub fn register_vcpu_info(vcpu: usize, page: Page, offset: u32) -> i64 {
    #[repr(C)]
    struct Argument(u64, u32, u32);
    let mut argument = Argument(page.frame(), offset, 0);
    let address = (&raw mut argument) as u64;
    // All is marked pending in the new place: an upcall must find it, and not the old one.
    let on = arch::irqs_are_on();
    arch::irq_off();
    let errno = hypercall(
        nr::VCPU_OP,
        [
            super::shared::REGISTER_VCPU_INFO,
            vcpu as u64,
            address,
            0,
            0,
        ],
    );
    if errno == 0 {
        VCPU_INFO[vcpu].store(page.address() + u64::from(offset), Ordering::Relaxed);
    }
    if on {
        arch::irq_on();
    }
    errno
}

/// `VCPUOP_register_vcpu_info`.
pub const REGISTER_VCPU_INFO: u64 = 10;

fn word(port: u32, array: u64) -> &'static AtomicU64 {
    let address = page().address() + SHARED_PENDING + array + u64::from(port / 64) * 8;
    // SAFETY: an aligned word of the mapped shared page, used with atomics by both sides.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

/// Whether a port is pending.
pub fn is_pending(port: u32) -> bool {
    word(port, 0).load(Ordering::SeqCst) >> (port % 64) & 1 != 0
}

/// Clears a port's pending bit; says whether it was set.
pub fn clear_pending(port: u32) -> bool {
    let bit = 1 << (port % 64);
    word(port, 0).fetch_and(!bit, Ordering::SeqCst) & bit != 0
}

/// Whether a port is masked.
pub fn is_masked(port: u32) -> bool {
    word(port, MASK_OFFSET).load(Ordering::SeqCst) >> (port % 64) & 1 != 0
}

/// Masks a port.
pub fn mask(port: u32) {
    word(port, MASK_OFFSET).fetch_or(1 << (port % 64), Ordering::SeqCst);
}

/// Clears a port's mask bit without telling the hypervisor.
pub fn clear_mask(port: u32) {
    word(port, MASK_OFFSET).fetch_and(!(1 << (port % 64)), Ordering::SeqCst);
}

/// Ports of word `index` that are pending and not masked.
pub fn raised(index: u32) -> u64 {
    let pending = word(index * 64, 0).load(Ordering::SeqCst);
    pending & !word(index * 64, MASK_OFFSET).load(Ordering::SeqCst)
}

/// Takes the upcall flag and selector of this CPU; gives the selector.
pub fn take_upcall(vcpu: usize) -> u64 {
    let info = vcpu_info(vcpu);
    arch::write8(info + UPCALL_PENDING, 0);
    // SAFETY: the aligned selector word of this vCPU's info, used with atomics by both sides.
    unsafe { AtomicU64::from_ptr((info + SELECTOR) as *mut u64) }.swap(0, Ordering::SeqCst)
}

/// The upcall flag of `vcpu`.
pub fn upcall_pending(vcpu: usize) -> bool {
    arch::read8(vcpu_info(vcpu) + UPCALL_PENDING) != 0
}

/// Event-channel call by address; for bad pointers.
pub fn event_at(operation: u64, address: u64) -> i64 {
    call_at(nr::EVENT_CHANNEL_OP, operation, address)
}
