//! Model-specific registers that may not be there, or not take a value: what faults is told, and changes nothing.

/// The CPU refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Writes a register.
///
/// # Safety
///
/// The value must be one that the register may have while the hypervisor runs, if the CPU takes it.
pub unsafe fn write(number: u32, value: u64) -> Result<(), Refused> {
    let written: u32;
    // SAFETY: the caller's; a fault goes on behind the instruction (`super::recovery`).
    unsafe {
        core::arch::asm!(
            "xor {written:e}, {written:e}",
            "2: wrmsr",
            "mov {written:e}, 1",
            "3:",
            ".pushsection ex_table, \"a\"",
            ".quad 2b, 3b, 3b",
            ".popsection",
            written = out(reg) written,
            in("ecx") number,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
    if written != 0 { Ok(()) } else { Err(Refused) }
}

/// Reads a register.
pub fn read(number: u32) -> Result<u64, Refused> {
    let (low, high, done): (u32, u32, u32);
    // SAFETY: registers are read without effects; a fault goes on behind the instruction.
    unsafe {
        core::arch::asm!(
            "xor {done:e}, {done:e}",
            "2: rdmsr",
            "mov {done:e}, 1",
            "3:",
            ".pushsection ex_table, \"a\"",
            ".quad 2b, 3b, 3b",
            ".popsection",
            done = out(reg) done,
            in("ecx") number,
            out("eax") low,
            out("edx") high,
            options(nostack),
        );
    }
    match done {
        0 => Err(Refused),
        _ => Ok(u64::from(high) << 32 | u64::from(low)),
    }
}
