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

/// Sets bits of a control register, as [`write!`].
macro_rules! set {
    ($name:literal, $bits:expr) => {{
        let bits: u64 = $bits;
        // SAFETY: see the macro's contract.
        unsafe {
            core::arch::asm!(concat!("csrs ", $name, ", {}"), in(reg) bits, options(nostack, preserves_flags));
        }
    }};
}

/// Clears bits of a control register, as [`write!`].
macro_rules! clear {
    ($name:literal, $bits:expr) => {{
        let bits: u64 = $bits;
        // SAFETY: see the macro's contract.
        unsafe {
            core::arch::asm!(concat!("csrc ", $name, ", {}"), in(reg) bits, options(nostack, preserves_flags));
        }
    }};
}

/// Whether the CPU has a control register and lets HS-mode read it.
macro_rules! exists {
    ($name:literal) => {{
        let missing: u64;
        // SAFETY: the trap vector points behind the read while it is tried, and is put back; a trap in between changes only
        // the trap registers, which nobody reads here.
        unsafe {
            core::arch::asm!(
                "lla   {next}, 2f",
                "csrrw {old}, stvec, {next}",
                "li    {missing}, 1",
                concat!("csrr  {next}, ", $name),
                "li    {missing}, 0",
                ".balign 4",
                "2: csrw stvec, {old}",
                next = out(reg) _,
                old = out(reg) _,
                missing = out(reg) missing,
                options(nostack),
            );
        }
        missing == 0
    }};
}

pub(crate) use {clear, exists, read, set, write};

/// Sleeps until an interrupt that `sie` lets through is pending, masked or not.
#[inline(always)]
pub fn wfi() {
    // SAFETY: waiting changes nothing.
    unsafe { core::arch::asm!("wfi", options(nostack, preserves_flags)) }
}
