//! One hart: its control registers, trap vector, per-CPU data and main loop.

pub mod fault;
pub mod percpu;
pub mod regs;
pub mod run;
pub mod vectors;

/// Whether the hart has hypervisor mode: looks whether one of its registers can be read (Privileged Architecture,
/// "Hypervisor Extension"). Device trees tell it too, but spelled in many ways.
pub fn has_hypervisor_extension() -> bool {
    let missing: u64;
    // SAFETY: the trap vector points behind the read while it is tried, and is put back; a trap in between changes only
    // the trap registers, which nobody reads here. `hgatp` is 0x680.
    unsafe {
        core::arch::asm!(
            "lla   {next}, 2f",
            "csrrw {old}, stvec, {next}",
            "li    {missing}, 1",
            "csrr  {next}, 0x680",
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
}

/// Lets software and timer interrupts end a `wfi`; they stay masked otherwise.
pub fn interrupts_wake() {
    const SOFTWARE: u64 = 1 << 1;
    const TIMER: u64 = 1 << 5;
    regs::write!("sie", SOFTWARE | TIMER);
}
