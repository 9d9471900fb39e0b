//! Control and status registers by name.

/// Reads a control register.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a control register that HS-mode may read changes nothing.
        unsafe {
            core::arch::asm!(concat!("csrr {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a control register whose effect does not touch the memory that Rust code relies on.
macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: see the macro's contract.
        unsafe {
            core::arch::asm!(concat!("csrw ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

pub(crate) use {read, write};

/// Sleeps until an interrupt that `sie` lets through is pending, masked or not.
#[inline(always)]
pub fn wfi() {
    // SAFETY: waiting changes nothing.
    unsafe { core::arch::asm!("wfi", options(nostack, preserves_flags)) }
}
