//! System registers by name, and the barrier and cache instructions, as small functions.
//!
//! Registers that `aarch64-cpu` knows with typed fields are used from there; these macros serve the rest and the hot paths.

/// Reads a system register.
macro_rules! read {
    ($($name:tt)+) => {{
        let value: u64;
        // SAFETY: reading a system register that EL2 may read changes nothing.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $($name)+), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register of the guest's (EL1) context or of EL2 control whose effect does not touch the memory that
/// Rust code relies on. Callers state why where that is not plain.
macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: see the macro's contract; the register does not change how the hypervisor's own memory is mapped.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

pub(crate) use {read, write};

/// Waits until earlier system-register writes are in force.
#[inline(always)]
pub fn isb() {
    // SAFETY: a barrier has no effect on memory contents.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) }
}

/// Waits until earlier memory and TLB operations are complete for the inner-shareable domain.
#[inline(always)]
pub fn dsb_ish() {
    // SAFETY: a barrier has no effect on memory contents.
    unsafe { core::arch::asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// Waits until earlier stores are visible to the inner-shareable domain, table walkers included.
#[inline(always)]
pub fn dsb_ishst() {
    // SAFETY: a barrier has no effect on memory contents.
    unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// Waits for everything, whole system.
#[inline(always)]
pub fn dsb_sy() {
    // SAFETY: a barrier has no effect on memory contents.
    unsafe { core::arch::asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Sleeps until an interrupt is pending, masked or not.
#[inline(always)]
pub fn wfi() {
    // SAFETY: waiting changes nothing.
    unsafe { core::arch::asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}
